//! Logs and exported spans: the subscriber that `main` installs, and how a message's span joins its request's trace.
//!
//! It imports no other room but `core`, so that every room may log through it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use opentelemetry::trace::{
    SpanContext, SpanId as OtelSpanId, TraceContextExt as _, TraceFlags, TraceId as OtelTraceId,
    TraceState,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::core::trace::TraceContext;

/// Whether spans leave the process; adopting a trace costs something only then.
static EXPORTING: AtomicBool = AtomicBool::new(false);

/// Makes `span` a part of the request's trace when spans are exported.
#[must_use]
pub fn adopt(span: Span, cx: TraceContext) -> Span {
    if EXPORTING.load(Relaxed) && cx.span.0 != 0 {
        let parent = SpanContext::new(
            OtelTraceId::from(cx.trace.0),
            OtelSpanId::from(cx.span.0),
            if cx.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() },
            true,
            TraceState::default(),
        );
        let context = opentelemetry::Context::new().with_remote_span_context(parent);
        // A span that no layer wants has no place for a parent.
        let _ = span.set_parent(context);
    }
    span
}
