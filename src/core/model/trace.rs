//! The trace context of a request, as W3C Trace Context level 1 writes it in `traceparent`.

use std::{fmt, str::FromStr};

use const_hex::Buffer;

use crate::model::hex;

/// Names one request across actors and nodes. Shown as 32 hex digits; clients know it as `Nomad-Request-Id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TraceId(pub u128);

/// Names one step of a request. 0 = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpanId(pub u64);

/// Which request a message belongs to, and which step sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TraceContext {
    /// The request.
    pub trace: TraceId,
    /// The step that a new step is a child of.
    pub span: SpanId,
    /// Whether the caller has asked for the trace to be exported.
    pub sampled: bool,
    /// Whether the client has named the request, so that a second one of this name is the same again.
    pub named: bool,
}

impl TraceContext {
    /// Returns the context that the children of step `span` get.
    #[must_use]
    pub fn child(self, span: SpanId) -> Self {
        Self { span, ..self }
    }

    /// Reads the name that a client gives a request: 32 lower-case hex digits, not all 0. `None` when it is none.
    pub fn parse_name(text: &str) -> Option<Self> {
        let id = hex::read(text, 32).filter(|&id| id != 0)?;
        Some(Self { trace: TraceId(id), named: true, ..Self::default() })
    }

    /// Returns the name that the client gave the request.
    pub fn name(&self) -> Option<u128> {
        self.named.then_some(self.trace.0)
    }

    /// Reads a `traceparent` header. `None` when it is not one of version 00, or names no trace.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "00" || parts.next().is_some() {
            return None;
        }
        let trace = hex::read(trace, 32).filter(|&id| id != 0)?;
        let span = hex::read(span, 16).filter(|&id| id != 0)?;
        let flags = hex::read(flags, 2)?;
        Some(Self {
            trace: TraceId(trace),
            span: SpanId(span as u64),
            sampled: flags & 1 == 1,
            named: false,
        })
    }
}

impl TraceId {
    /// Returns the 32 digits that it is shown as.
    pub fn digits(self) -> [u8; 32] {
        *Buffer::<16>::new().const_format(&self.0.to_be_bytes()).as_byte_array()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Buffer::<16>::new().format(&self.0.to_be_bytes()))
    }
}

impl FromStr for TraceId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Buffer::<8>::new().format(&self.0.to_be_bytes()))
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_reads_back_and_a_broken_one_is_none() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(header).unwrap();
        assert_eq!(context.to_string(), header);
        assert!(context.sampled);
        for broken in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(broken), None, "{broken}");
        }
    }
}
