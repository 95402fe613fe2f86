//! One event as one line of JSON: `timestamp`, `level`, `msg`, `target`, then the event's own fields beside them.
//!
//! An event's field with one of these names gets a `_` behind it, so that no line has a key twice.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormattedFields,
        format::{JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// The keys that every line has, and `span`, the fields of the span that the event happened in.
const RESERVED: [&str; 5] = ["timestamp", "level", "msg", "target", "span"];

/// Writes events as JSON lines. The layer's spans must be formatted by `JsonFields`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines;

impl<S> FormatEvent<S, JsonFields> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let target = fields.target.as_deref().unwrap_or(metadata.target());
        write!(
            writer,
            r#"{{"timestamp":"{}","level":"{}","msg":{},"target":{}"#,
            humantime::format_rfc3339_micros(now()),
            metadata.level(),
            json(&fields.message),
            json(target),
        )?;
        writer.write_str(&fields.rest)?;
        if let Some(span) = context.lookup_current() {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<JsonFields>>()
                && !fields.is_empty()
            {
                write!(writer, r#","span":{fields}"#)?;
            }
        }
        writer.write_str("}\n")
    }
}

#[expect(clippy::disallowed_methods, reason = "a log line has the machine's own time")]
fn now() -> SystemTime {
    // A clock before 1970 has no RFC 3339 form here.
    SystemTime::now().max(UNIX_EPOCH)
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    // Numbers, booleans and texts always serialise; JSON has no infinite numbers and writes null.
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// What comes from a library that logs through the crate `log` names its place in fields with this prefix.
const FROM_LOG: &str = "log.";

/// The fields of an event: its message, and `,"name":value` for each other.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    /// The true target of an event from the crate `log`.
    target: Option<String>,
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &(impl Serialize + ?Sized)) {
        let name = field.name();
        if name.starts_with(FROM_LOG) {
            return;
        }
        let mark = if RESERVED.contains(&name) { "_" } else { "" };
        self.rest.push_str(&format!(",{}:{}", json(&format!("{name}{mark}")), json(value)));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.add(field, &format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            "log.target" => self.target = Some(value.to_owned()),
            _ => self.add(field, value),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, &value);
    }
}
