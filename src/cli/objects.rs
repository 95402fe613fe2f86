//! `nomad put`, `get`, `update` and `delete`.

use std::{
    fs::File,
    io::{Read, stdin},
    os::unix::ffi::OsStringExt as _,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use rustix::fs::{FileType, fstat};
use serde_json::{Value, json};

use super::{
    args::{ContentArgs, DeleteArgs, GetArgs, GetOutput, Output, PutArgs, UpdateArgs},
    error::CliError,
    rest::{CliAnswer, CliRequest, Rest, encode},
};

/// The largest value that a node can be configured to take.
const VALUE_BYTES_MAX: u64 = 64 * 1024 * 1024;

const EXPIRES: HeaderName = HeaderName::from_static("nomad-expires");
const TTL: HeaderName = HeaderName::from_static("nomad-ttl");
const MODE: HeaderName = HeaderName::from_static("nomad-mode");

/// Ids that another path of the older API shadows.
const SHADOWED: [&str; 3] = ["health", "peer-ledger", "object-ledger"];

/// Creates an object and says so.
pub(super) async fn put(rest: &Rest, args: &PutArgs) -> Result<Vec<u8>, CliError> {
    let ask =
        write(&args.content, "put")?.header(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
    let hint = "; nomad update replaces it";
    let answer = rest.send(ask).await.map_err(|error| hinted(error, hint))?;
    Ok(done(&answer, &args.content.id, "created", args.output))
}

/// Replaces an object and says so.
pub(super) async fn update(rest: &Rest, args: &UpdateArgs) -> Result<Vec<u8>, CliError> {
    let (condition, hint) = match &args.if_version {
        Some(version) => (quoted(version)?, ""),
        None => (HeaderValue::from_static("*"), "; nomad put creates it"),
    };
    let ask = write(&args.content, "update")?.header(header::IF_MATCH, condition);
    let answer = rest.send(ask).await.map_err(|error| hinted(error, hint))?;
    Ok(done(&answer, &args.content.id, "updated", args.output))
}

/// Deletes an object and says so.
pub(super) async fn delete(rest: &Rest, args: &DeleteArgs) -> Result<Vec<u8>, CliError> {
    let mut ask = CliRequest::new(Method::DELETE, path(&args.id), format!("delete {:?}", args.id));
    if let Some(version) = &args.if_version {
        ask = ask.header(header::IF_MATCH, quoted(version)?);
    }
    let answer = rest.send(ask).await?;
    Ok(done(&answer, &args.id, "deleted", args.output))
}

/// Reads an object: its value as it is, or all of it as JSON.
pub(super) async fn get(rest: &Rest, args: &GetArgs) -> Result<Vec<u8>, CliError> {
    let what = format!("get {:?}", args.id);
    let mode = args.mode.map(|mode| mode.as_str().to_owned());
    match args.output {
        GetOutput::Raw => {
            let mut ask = CliRequest::get(path(&args.id), what);
            if let Some(mode) = mode {
                ask = ask.header(MODE, word(&mode)?);
            }
            Ok(rest.send(ask).await?.body.to_vec())
        }
        GetOutput::Json => {
            let id = encode(&args.id);
            let mode = match mode {
                None if SHADOWED.contains(&&*args.id) => Some(default_mode(rest).await?),
                named => named,
            };
            let path = match mode {
                None => format!("/nomad/storage/get/{id}"),
                Some(mode) => format!("/nomad/group-storage/{mode}-get/{id}"),
            };
            let answer = rest.send(CliRequest::get(path, what)).await?;
            Ok(pretty(&object(&answer)?))
        }
    }
}

/// The node's own mode of reading.
async fn default_mode(rest: &Rest) -> Result<String, CliError> {
    let status = rest.send(CliRequest::get("/nomad/v1/status", "ask for the node's mode")).await?;
    let status: Value = status.json()?;
    let mode = status.pointer("/settings/retrievalMode").and_then(Value::as_str);
    Ok(mode.unwrap_or("fast").to_owned())
}

/// The object that the answer holds, with the fields that may be absent when they are empty.
fn object(answer: &CliAnswer) -> Result<Value, CliError> {
    let mut object: serde_json::Map<String, Value> = answer.json()?;
    for name in ["creationTime", "lastModified", "ttl"] {
        object.entry(name).or_insert(json!(0));
    }
    object.entry("value").or_insert(json!(STANDARD.encode([])));
    if let Some(version) = answer.version() {
        object.entry("version").or_insert(json!(version));
    }
    Ok(Value::Object(object))
}

fn path(id: &str) -> String {
    format!("/nomad/v1/objects/{}", encode(id))
}

fn write(content: &ContentArgs, verb: &str) -> Result<CliRequest, CliError> {
    let what = format!("{verb} {:?}", content.id);
    let mut ask = CliRequest::new(Method::PUT, path(&content.id), what).body(value(content)?);
    if let Some(ttl) = content.ttl {
        ask = ask.header(TTL, ttl.as_secs().into());
    }
    if let Some(at) = content.expires {
        ask = ask.header(EXPIRES, at.into());
    }
    if let Some(kind) = &content.content_type {
        ask = ask.header(header::CONTENT_TYPE, kind.clone());
    }
    if let Some(mode) = content.mode {
        ask = ask.header(MODE, HeaderValue::from_static(mode.as_str()));
    }
    Ok(ask)
}

/// Whether a value is given at all, which is known before any node is looked for.
pub(super) fn check(content: &ContentArgs) -> Result<(), CliError> {
    match (&content.value, &content.file) {
        (None, None) if !has_input() => Err(CliError::NoValue),
        _ => Ok(()),
    }
}

/// The value's bytes: the argument, a file, or standard input when that is a pipe or a file.
fn value(content: &ContentArgs) -> Result<Vec<u8>, CliError> {
    let is_stdin = |name: &std::ffi::OsStr| name == "-";
    match (&content.value, &content.file) {
        (Some(value), _) if !is_stdin(value) => Ok(value.clone().into_vec()),
        (None, Some(file)) if !is_stdin(file.as_os_str()) => {
            let from = file.display().to_string();
            let opened = File::open(file);
            read(opened.map_err(|source| CliError::Input { from: from.clone(), source })?, from)
        }
        _ => read(stdin().lock(), "standard input".to_owned()),
    }
}

fn read(input: impl Read, from: String) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    match input.take(VALUE_BYTES_MAX + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 > VALUE_BYTES_MAX => {
            Err(CliError::TooLarge { from, bytes_max: VALUE_BYTES_MAX })
        }
        Ok(_) => Ok(bytes),
        Err(source) => Err(CliError::Input { from, source }),
    }
}

/// Whether something was put into standard input: a terminal would leave the user waiting, `/dev/null` has nothing.
fn has_input() -> bool {
    fstat(stdin()).is_ok_and(|stat| {
        let kind = FileType::from_raw_mode(stat.st_mode);
        matches!(kind, FileType::Fifo | FileType::RegularFile | FileType::Socket)
    })
}

fn quoted(version: &str) -> Result<HeaderValue, CliError> {
    word(&format!("\"{version}\""))
}

fn word(text: &str) -> Result<HeaderValue, CliError> {
    HeaderValue::from_str(text).map_err(|error| CliError::Unsendable {
        what: "a header",
        reason: format!("{text:?}: {error}"),
    })
}

/// Adds a hint where a condition did not hold.
fn hinted(error: CliError, hint: &'static str) -> CliError {
    match error {
        CliError::Refused { what, refused, .. }
            if refused.status == StatusCode::PRECONDITION_FAILED =>
        {
            CliError::Refused { what, refused, hint }
        }
        other => other,
    }
}

fn done(answer: &CliAnswer, id: &str, what: &str, output: Output) -> Vec<u8> {
    let version = answer.version();
    let durability = answer.header("nomad-durability");
    match output {
        Output::Json => pretty(&json!({
            "id": id,
            "result": what,
            "version": version,
            "durability": durability,
            "requestId": answer.header("nomad-request-id"),
        })),
        Output::Text => {
            let mut text = format!("{what} {id}");
            if let Some(version) = version {
                text.push_str(&format!(", version {version}"));
            }
            if let Some(durability) = durability {
                text.push_str(&format!(", durable: {durability}"));
            }
            (text + "\n").into_bytes()
        }
    }
}

/// JSON for people too.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

#[cfg(test)]
mod tests;
