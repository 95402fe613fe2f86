//! `nomad trace capture`: begins, shows and ends a recording of steps with what their messages say.

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{PATH, step::TracePage, tree};
use crate::{
    args::{CaptureArgs, Output, TraceFilter},
    error::CliError,
    objects::pretty,
    rest::{CliRequest, Rest},
};

/// Does what the flags say: begin, end, or show.
pub(crate) async fn run(rest: &Rest, args: &CaptureArgs) -> Result<Vec<u8>, CliError> {
    if args.stop {
        rest.send(CliRequest::new(Method::DELETE, PATH, "end the capture")).await?;
        return Ok(said(args.output, &json!({ "stopped": true }), "the capture has ended".into()));
    }
    match args.limit {
        Some(limit) => begin(rest, args, limit).await,
        None if args.only != TraceFilter::default() => Err(CliError::CaptureWithoutLimit),
        None => show(rest, args.output).await,
    }
}

async fn begin(rest: &Rest, args: &CaptureArgs, limit: u32) -> Result<Vec<u8>, CliError> {
    let TraceFilter { object, request, actor } = &args.only;
    let mut wanted = json!({ "limit": limit });
    for (name, value) in [("object", object), ("request", request), ("actor", actor)] {
        if let (Some(value), Some(wanted)) = (value, wanted.as_object_mut()) {
            wanted.insert(name.to_owned(), json!(value));
        }
    }
    let ask = CliRequest::new(Method::POST, PATH, "begin a capture")
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(wanted.to_string());
    rest.send(ask).await?;
    let text = format!("capturing the next {limit} steps; nomad trace capture shows them");
    Ok(said(args.output, &wanted, text))
}

async fn show(rest: &Rest, output: Output) -> Result<Vec<u8>, CliError> {
    let ask = CliRequest::get(format!("{PATH}/capture"), "show the capture");
    let answer = rest.send(ask).await.map_err(|error| match error {
        CliError::Refused { what, refused, .. } if refused.status == StatusCode::NOT_FOUND => {
            CliError::Refused { what, refused, hint: "; nomad trace capture --limit N begins one" }
        }
        other => other,
    })?;
    match output {
        Output::Json => Ok(pretty(&answer.json::<Value>()?)),
        Output::Text => {
            let page: TracePage = answer.json()?;
            let trees = tree::render(&page.steps());
            let gap = if trees.is_empty() { "" } else { "\n" };
            let text = format!("{} of {} steps captured\n{gap}{trees}", page.kept, page.limit);
            Ok(text.into_bytes())
        }
    }
}

fn said(output: Output, document: &Value, text: String) -> Vec<u8> {
    match output {
        Output::Json => pretty(document),
        Output::Text => (text + "\n").into_bytes(),
    }
}
