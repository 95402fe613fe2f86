//! Logs and exported spans: the subscriber that the command line installs, and how a message's span joins its request's
//! trace.
//!
//! It imports no other room but `config` and `core`, so that every room may log through it. Two filters decide apart:
//! what is logged follows `log.level`; what is exported is every span of ours, when `otlp.endpoint` is set. The span of
//! a message is wanted by neither in a plain node, and then costs next to nothing.

mod json;
mod otlp;

use std::{
    io::{IsTerminal as _, Write as _, stderr, stdout},
    panic::PanicHookInfo,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use opentelemetry::trace::{
    SpanContext, SpanId as OtelSpanId, TraceContextExt as _, TraceFlags, TraceId as OtelTraceId,
    TraceState,
};
use tracing::{Level, Metadata, Span, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt as _, FilterFn, ParseError, filter_fn},
    fmt::{MakeWriter, format::JsonFields},
    layer::{Filter, SubscriberExt as _},
    registry::LookupSpan,
    util::TryInitError,
};

pub use self::otlp::Guard;
use nomad_config::{LogConfig, LogFormat, OtlpConfig};
use nomad_core::model::trace::{SpanId, TraceContext};

/// The target of the spans that messages are handled in.
const MESSAGE_TARGET: &str = "nomad::message";
/// The target of the line that a panic becomes.
const PANIC_TARGET: &str = "nomad::panic";
/// Libraries that tell more at INFO than the users of a node want to know.
const CHATTY: [&str; 4] = ["ractor", "fjall", "lsm_tree", "libp2p"];
/// One that warns of an empty network, which is usual.
const TIMID: &str = "libp2p_kad";
/// One that calls a member that does not answer an error, twice a second. What matters of it this program says itself.
const MUTE: &str = "openraft";

/// Whether spans leave the process; adopting a trace costs something only then.
static EXPORTING: AtomicBool = AtomicBool::new(false);

/// Why logs and traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The directive is no filter.
    #[error(
        "log.level {level:?} is no log filter: {source}; write a level such as info, or info,nomad=debug"
    )]
    Filter {
        /// The directive.
        level: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The exporter refuses its settings.
    #[error("traces cannot be exported to otlp.endpoint {endpoint}: {source}")]
    Export {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// Something else in the process takes the log.
    #[error("the log is taken by another subscriber of this process: {0}")]
    Taken(#[from] TryInitError),
}

/// Sets up the log of this process on standard output, and the export of its spans when an endpoint is set. From then
/// on a panic is one line of the log. With an endpoint it must be called within a tokio runtime.
///
/// # Errors
/// When a setting is refused, or it was called before.
pub fn install(log: &LogConfig, otlp: &OtlpConfig) -> Result<Guard, TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt as _;

    let guard = Guard::open(otlp)?;
    let is_terminal = stdout().is_terminal();
    let is_text = match log.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let logged = match is_text {
        true => text_layer(log, is_terminal && std::env::var_os("NO_COLOR").is_none())?.boxed(),
        false => json_layer(log, stdout)?.boxed(),
    };
    tracing_subscriber::registry().with(guard.beside(logged)).try_init()?;
    EXPORTING.store(guard.exports(), Relaxed);
    std::panic::set_hook(Box::new(log_panic));
    Ok(guard)
}

fn text_layer<S>(log: &LogConfig, is_coloured: bool) -> Result<impl Layer<S>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(is_coloured).log_internal_errors(false);
    Ok(layer.with_filter(logged(&log.level)?))
}

fn json_layer<S, W>(log: &LogConfig, writer: W) -> Result<impl Layer<S>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(json::Lines)
        .with_writer(writer)
        // A log that nobody reads any more stops no node.
        .log_internal_errors(false);
    Ok(layer.with_filter(logged(&log.level)?))
}

/// What `log.level` wants, less the spans of messages and the chatter of libraries, unless it names them.
fn logged<S>(level: &str) -> Result<impl Filter<S> + use<S>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let wanted = EnvFilter::try_new(level)
        .map_err(|source| TelemetryError::Filter { level: level.to_owned(), source })?;
    let names_messages = level.contains(MESSAGE_TARGET);
    let (names_timid, names_mute) = (level.contains(TIMID), level.contains(MUTE));
    let hushed: Vec<_> = CHATTY.into_iter().filter(|name| !level.contains(name)).collect();
    let quiet = move |metadata: &Metadata<'_>| {
        let target = metadata.target();
        match target == MESSAGE_TARGET {
            true => names_messages,
            false if target.starts_with(MUTE) => names_mute,
            false if target.starts_with(TIMID) && *metadata.level() == Level::WARN => names_timid,
            false => {
                *metadata.level() <= LevelFilter::WARN
                    || !hushed.iter().any(|name| target.starts_with(name))
            }
        }
    };
    // The hint says that this half wants all levels, so that the other half's decides.
    let quiet = filter_fn(quiet).with_max_level_hint(LevelFilter::TRACE);
    Ok(wanted.and(quiet))
}

/// What is exported: the spans and events of this program.
fn exported() -> FilterFn {
    let ours = |metadata: &Metadata<'_>| {
        let target = metadata.target();
        (target == "nomad" || target.starts_with("nomad::"))
            && *metadata.level() <= LevelFilter::INFO
    };
    filter_fn(ours as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::INFO)
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("a value that is no text");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    if tracing::enabled!(target: PANIC_TARGET, tracing::Level::ERROR) {
        tracing::error!(target: PANIC_TARGET, place, thread, "panicked: {text}");
    } else {
        // A log that is turned off does not swallow a defect.
        let _ = writeln!(stderr(), "thread {thread} panicked at {place}: {text}");
    }
}

/// Makes `span`, which no one has entered yet, a part of the request in `cx` when spans are exported: its trace id is the
/// request's id, its parent is the step that `cx` names, and its own id is that of the step `own`, which the steps that
/// it causes name as their parent.
#[must_use]
pub fn adopt_step(span: Span, cx: TraceContext, own: SpanId) -> Span {
    if EXPORTING.load(Relaxed) && !span.is_disabled() {
        join(&span, cx, own);
    }
    span
}

fn join(span: &Span, cx: TraceContext, own: SpanId) {
    let flags = if cx.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let parent = SpanContext::new(
        OtelTraceId::from(cx.trace.0),
        OtelSpanId::from(cx.span.0),
        flags,
        true,
        TraceState::default(),
    );
    let mut context = opentelemetry::Context::new();
    if parent.is_valid() {
        context = context.with_remote_span_context(parent);
    }
    otlp::naming(cx.trace, own, || {
        // A span that the exporting layer does not know has no place for a parent, and needs none.
        if span.set_parent(context).is_ok() {
            // Starts it, which is when its ids are given.
            let _ = span.context();
        }
    });
}

#[cfg(test)]
mod tests;
