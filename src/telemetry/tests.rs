//! The log's lines, what is wanted at all, and whose trace an exported span belongs to.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use serde_json::Value;
use tracing::subscriber::with_default;

use super::*;
use nomad_core::model::trace::TraceId;

#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The subscriber that `install` installs with JSON lines, around another writer and exporter.
fn subscriber<W>(
    log: &LogConfig,
    guard: &Guard,
    writer: W,
) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let logged = json_layer::<tracing_subscriber::Registry, W>(log, writer).unwrap().boxed();
    tracing_subscriber::registry().with(guard.beside(logged))
}

/// Runs `work` under `subscriber`, one test at a time: a span that one thread enters for the first time while another
/// installs a subscriber can be remembered as that other one wants it.
fn alone_under(subscriber: impl Subscriber + Send + Sync + 'static, work: impl FnOnce()) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    with_default(subscriber, work);
}

/// What is logged at this level while `events` runs, with nothing exported.
fn logged_while(level: &str, events: impl FnOnce()) -> Vec<Value> {
    let written = Written::default();
    let writer = written.clone();
    let log = LogConfig { level: level.to_owned(), ..LogConfig::default() };
    let guard = Guard::open(&OtlpConfig::default()).unwrap();
    alone_under(subscriber(&log, &guard, move || writer.clone()), events);
    let bytes = written.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn message_span() -> Span {
    tracing::info_span!(target: "nomad::message", "message", actor = "local_store")
}

#[test]
fn a_line_has_its_fields_at_the_top() {
    let lines = logged_while("info", || {
        tracing::info!(REST = %"127.0.0.1:8080", ready = true, count = -3, share = f64::NAN, "Node\nrunning");
        tracing::warn!(msg = "mine", level = 1, "it's \"odd\"");
        tracing::event!(target: "log", tracing::Level::WARN, { log.target = "fjall::db", log.line = 853 }, "from a library");
        tracing::debug!("not wanted");
    });
    let [first, second, third] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(first["msg"], "Node\nrunning");
    assert_eq!((&first["level"], &first["target"]), (&"INFO".into(), &module_path!().into()));
    assert_eq!((&first["REST"], &first["ready"]), (&"127.0.0.1:8080".into(), &true.into()));
    assert_eq!((&first["count"], &first["share"]), (&(-3).into(), &Value::Null));
    assert!(humantime::parse_rfc3339(first["timestamp"].as_str().unwrap()).is_ok(), "{first}");
    assert_eq!(second["msg"], "it's \"odd\"");
    assert_eq!((&second["msg_"], &second["level_"]), (&"mine".into(), &1.into()));
    assert_eq!((&third["target"], third.get("log.line")), (&"fjall::db".into(), None));
}

#[test]
fn the_span_of_a_message_is_wanted_only_when_named() {
    for (level, wanted) in [
        ("info", false),
        ("trace", false),
        ("warn,nomad=debug", false),
        ("info,nomad::message=info", true),
    ] {
        let lines = logged_while(level, || {
            let span = message_span();
            assert_eq!(span.is_disabled(), !wanted, "{level}");
            span.in_scope(|| tracing::error!("inside"));
        });
        let span = if wanted { serde_json::json!({"actor": "local_store"}) } else { Value::Null };
        assert_eq!(lines[0]["span"], span, "{level}");
    }
}

#[test]
fn libraries_are_heard_from_warnings_up() {
    let speak = || {
        tracing::info!(target: "ractor", "chatter");
        tracing::warn!(target: "ractor::actor", "trouble");
    };
    let said = |level| -> Vec<Value> {
        logged_while(level, speak).iter().map(|line| line["msg"].clone()).collect()
    };
    assert_eq!(said("trace"), ["trouble"]);
    assert_eq!(said("error"), [""; 0]);
    assert_eq!(said("info,ractor=info"), ["chatter", "trouble"]);
}

#[test]
fn a_bad_filter_is_named() {
    let log = LogConfig { level: "nomad=loud".to_owned(), ..LogConfig::default() };
    let error = json_layer::<tracing_subscriber::Registry, _>(&log, io::sink).err().unwrap();
    assert!(error.to_string().contains("nomad=loud"), "{error}");
}

#[derive(Debug, Clone, Default)]
struct Exported(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Exported {
    async fn export(&self, batch: Vec<SpanData>) -> opentelemetry_sdk::error::OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

/// The spans that are exported while `work` runs, sorted by their ids.
async fn exported_while(ratio: f64, work: impl FnOnce()) -> Vec<SpanData> {
    let exported = Exported::default();
    let guard = Guard::around(exported.clone(), ratio);
    alone_under(subscriber(&LogConfig::default(), &guard, io::sink), work);
    guard.flush().await;
    let mut spans = exported.0.lock().unwrap().clone();
    spans.sort_by_key(|span| u64::from_be_bytes(span.span_context.span_id().to_bytes()));
    spans
}

fn context(trace: u128, span: u64, sampled: bool) -> TraceContext {
    TraceContext { trace: TraceId(trace), span: SpanId(span), sampled, named: false }
}

#[tokio::test]
async fn a_step_is_exported_under_the_ids_of_its_request() {
    let spans = exported_while(1.0, || {
        let first = message_span();
        join(&first, context(7, 0, false), SpanId(11));
        first.in_scope(|| tracing::info!("inside"));
        let second = message_span();
        join(&second, context(7, 11, false), SpanId(12));
        drop(tracing::info_span!(target: "hyper", "not ours"));
    })
    .await;
    let [first, second] = &spans[..] else { panic!("{spans:?}") };
    for (span, own, parent) in [(first, 11, 0), (second, 12, 11)] {
        assert_eq!(span.span_context.trace_id(), OtelTraceId::from(7));
        assert_eq!(span.span_context.span_id(), OtelSpanId::from(own));
        assert_eq!(span.parent_span_id, OtelSpanId::from(parent));
    }
}

#[tokio::test]
async fn a_ratio_of_nothing_leaves_what_callers_ask_for() {
    let spans = exported_while(0.0, || {
        for (trace, parent, sampled) in [(1, 5, false), (2, 5, true), (3, 0, false)] {
            let span = message_span();
            join(&span, context(trace, parent, sampled), SpanId(0));
        }
    })
    .await;
    let traces: Vec<_> = spans.iter().map(|span| span.span_context.trace_id()).collect();
    assert_eq!(traces, [OtelTraceId::from(2)]);
}
