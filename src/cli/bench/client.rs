//! What a load worker needs from a protocol: send one operation, say how it ended.

use std::{borrow::Cow, future::Future};

use super::{mix::OpKind, workload::BenchOperation};

/// No connection, or it broke before the answer was complete.
pub(super) const CONNECTION: &str = "CONNECTION";
/// No answer within the plan's timeout.
pub(super) const TIMEOUT: &str = "TIMEOUT";
/// An answer that is not of the contract.
pub(super) const BAD_RESPONSE: &str = "BAD_RESPONSE";

/// One connection's end as a worker sees it. A client whose call was dropped unfinished (a timeout) stays usable.
pub(super) trait Client: Send + 'static {
    /// Sends one operation and awaits its answer.
    fn call(
        &mut self,
        op: &BenchOperation,
    ) -> impl Future<Output = Result<OpReply, OpFailure>> + Send;
}

/// A successful answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpReply {
    /// Bytes of the object's value in the answer; 0 for a write.
    pub value_bytes: u64,
}

/// An answer or an end of the connection that counts as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpFailure {
    /// The node's error code, or one of the constants above.
    pub code: Cow<'static, str>,
    /// The error's text.
    pub detail: String,
    /// Whether the connection is gone, so that an immediate next try makes no sense.
    pub is_connection_lost: bool,
}

impl OpFailure {
    /// An error that the node answered.
    pub(super) fn answered(code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        OpFailure { code: code.into(), detail: detail.into(), is_connection_lost: false }
    }

    /// The node answered `result=false`: it has not done what was asked.
    pub(super) fn refused(op: &BenchOperation) -> Self {
        let code = if op.kind == OpKind::Put { "ALREADY_EXISTS" } else { "NOT_FOUND" };
        Self::answered(code, format!("{} {:?} answered result=false", op.kind.name(), op.key))
    }

    /// The connection is gone.
    pub(super) fn connection(detail: impl ToString) -> Self {
        let (code, detail) = (Cow::Borrowed(CONNECTION), detail.to_string());
        OpFailure { code, detail, is_connection_lost: true }
    }
}

/// An error with its causes, which hyper and tonic leave out of their own texts.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
