//! A recorded step as the node writes it.

use serde::Deserialize;
use serde_json::Value;

use crate::shown::time;

/// Steps as `GET /nomad/debug/trace` and `GET /nomad/debug/trace/capture` give them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TracePage {
    /// The steps, by `seq`.
    #[serde(alias = "steps")]
    pub records: Vec<Value>,
    /// What to name as `after` to get those that follow.
    pub next: Option<u64>,
    /// How many steps a capture keeps.
    pub limit: u64,
    /// How many it has.
    pub kept: u64,
}

impl TracePage {
    /// The steps, as far as they can be read.
    pub(super) fn steps(&self) -> Vec<TraceStep> {
        self.records.iter().filter_map(|record| TraceStep::deserialize(record).ok()).collect()
    }
}

/// One message that was handled, or one request that was answered.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TraceStep {
    /// Its place in the order of recording.
    pub seq: u64,
    /// When it began.
    pub at: Value,
    pub request: String,
    pub span: String,
    /// The step that caused it.
    pub parent: Option<String>,
    pub from: String,
    pub to: String,
    pub kind: String,
    pub object: Option<String>,
    pub wait_micros: u64,
    pub run_micros: u64,
    /// How many jobs shared its batch.
    pub batch: Option<u64>,
    pub outcome: String,
    pub detail: Option<String>,
    /// The end of the id of the member that recorded it; empty for the node that was asked.
    #[serde(skip)]
    pub node: String,
}

impl TraceStep {
    /// Sorts steps by when they began, as far as the node's times tell, else by when they ended.
    pub(super) fn begin(&self) -> (String, &str, u64) {
        (time(&self.at), &self.node, self.seq)
    }

    /// Whether it is an edge's answer to a client, which is recorded after all that it waited for.
    pub(super) fn is_answer(&self) -> bool {
        self.from == "client"
    }
}
