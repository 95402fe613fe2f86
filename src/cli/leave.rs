//! `nomad leave`: tells a node to leave its group, and waits until it has.

use std::time::Duration;

use super::{
    args::LeaveArgs,
    error::CliError,
    rest::{CliRequest, Rest},
    shown::{one_line, say},
    status::{self, StatusPage},
};
use http::Method;
use serde::Deserialize;

/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_millis(200);

/// What the node leaves.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Leaving {
    group: Option<String>,
}

/// Leaves; what happens is told on standard error, the result is returned.
pub(super) async fn run(rest: &Rest, args: &LeaveArgs) -> Result<Vec<u8>, CliError> {
    let ask = CliRequest::new(Method::POST, "/nomad/v1/leave", "leave the group");
    let Leaving { group } = rest.send(ask).await?.json()?;
    let group = group.unwrap_or_default();
    match tokio::time::timeout(args.within, until_left(rest, &group)).await {
        Ok(left) => left?,
        Err(_) => {
            return Err(CliError::StillLeaving { group: one_line(&group), within: args.within });
        }
    }
    Ok(format!("the node has left {}\n", one_line(&group)).into_bytes())
}

async fn until_left(rest: &Rest, group: &str) -> Result<(), CliError> {
    let mut said = String::new();
    loop {
        let now: StatusPage = rest.send(status::ask()).await?.json()?;
        if now.group.as_deref() != Some(group) {
            return Ok(());
        }
        let how = now.reason.as_deref().map_or("under way".to_owned(), one_line);
        let progress = format!("{}: {how}", one_line(group));
        if progress != said {
            say(&progress);
            said = progress;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
