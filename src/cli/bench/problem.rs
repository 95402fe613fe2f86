//! What can be wrong with a load plan. Each text names the value and a way out.

use std::time::Duration;

/// One reason why a plan is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanProblem {
    /// An entry of a mix is not `name=weight`.
    #[error("mix entry {0:?} is not NAME=WEIGHT, such as get=90")]
    MixEntry(String),
    /// A mix names an operation that does not exist.
    #[error("mix names {0:?}; the operations are get, put, update, delete")]
    MixOperation(String),
    /// A mix names an operation twice.
    #[error("mix names {0:?} twice")]
    MixRepeated(String),
    /// A weight is no whole number in range.
    #[error("mix weight {0:?} is not a whole number from 0 to 1000000")]
    MixWeight(String),
    /// All weights are zero.
    #[error("mix has no operation with a weight above 0")]
    MixEmpty,
    /// A mix deletes more than it creates.
    #[error(
        "mix has delete={delete} and put={put}: a delete removes what this run has put, so give put at least that weight"
    )]
    MixDeletesTooMuch {
        /// Weight of delete.
        delete: u32,
        /// Weight of put.
        put: u32,
    },
    /// Values above the limit.
    #[error("value size {size_bytes} is above {size_bytes_max} bytes")]
    ValueTooLarge {
        /// Size asked for.
        size_bytes: usize,
        /// Largest size allowed.
        size_bytes_max: usize,
    },
    /// The REST base is no usable URL.
    #[error("{url:?} is not a REST base such as http://127.0.0.1:8080: {reason}")]
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The gRPC address is not `host:port`.
    #[error("{0:?} is not a storage address such as 127.0.0.1:6735")]
    Address(String),
    /// A number is out of range.
    #[error("{name} is {value}; it must be from {min} to {max}")]
    OutOfRange {
        /// The plan's field, as the command line names it.
        name: &'static str,
        /// The value given.
        value: u64,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
    /// A time span is out of range.
    #[error("{name} is {value:?}; it must be from {min:?} to {max:?}")]
    SpanOutOfRange {
        /// The plan's field, as the command line names it.
        name: &'static str,
        /// The value given.
        value: Duration,
        /// Shortest span allowed.
        min: Duration,
        /// Longest span allowed.
        max: Duration,
    },
    /// The rate is not a usable number.
    #[error("rate is {0}; it must be above 0 and at most 10000000 requests per second")]
    Rate(f64),
    /// REST with fewer or more connections than workers.
    #[error(
        "connections is {connections} and concurrency {concurrency}: HTTP/1.1 carries one request at a time, so for rest leave connections out or give both the same value"
    )]
    RestConnections {
        /// Connections asked for.
        connections: usize,
        /// Workers asked for.
        concurrency: usize,
    },
    /// The prefix cannot be part of an object id.
    #[error("key prefix {0:?} must be 1 to 512 bytes with no control characters")]
    KeyPrefix(String),
}
