//! Reads counters of a server: the node's from its `/metrics`, the minimal server's from its own control line.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// Counts since a server's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Flushes to the disk.
    pub fsyncs: u64,
    /// Writes that they made durable.
    pub writes: u64,
}

impl Counters {
    /// What was added since `earlier`.
    pub fn since(self, earlier: Counters) -> Counters {
        Counters {
            fsyncs: self.fsyncs.saturating_sub(earlier.fsyncs),
            writes: self.writes.saturating_sub(earlier.writes),
        }
    }

    /// Fsyncs for each write; `None` when nothing was written.
    pub fn fsyncs_per_write(self) -> Option<f64> {
        (self.writes > 0).then(|| self.fsyncs as f64 / self.writes as f64)
    }
}

/// Reads the node's counters from its REST listener.
pub async fn scrape(rest: &str) -> Result<Counters> {
    let text = get(rest, "/metrics").await?;
    let read = |name: &str| {
        sample(&text, name).with_context(|| format!("http://{rest}/metrics has no counter {name}"))
    };
    Ok(Counters {
        fsyncs: read("nomad_store_fsyncs_total")?,
        writes: read("nomad_store_writes_total")?,
    })
}

/// The sum of all samples of a metric, whatever their labels.
fn sample(text: &str, name: &str) -> Option<u64> {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        let value = rest.rsplit_once('}').map_or(rest, |(_, value)| value);
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value)).map(|sum| sum as u64)
}

/// Reads a document of a node as text.
pub async fn get(rest: &str, path: &str) -> Result<String> {
    let stream = TcpStream::connect(rest).await.with_context(|| format!("cannot reach {rest}"))?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(driver);
    let request = Request::get(path).header(HOST, rest).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driving.abort();
    if !status.is_success() {
        bail!("http://{rest}{path} answered {status}");
    }
    String::from_utf8(body.to_vec()).with_context(|| format!("http://{rest}{path} is not text"))
}
