//! How figures and foreign texts are written for people.

use std::{
    io::{Write as _, stderr},
    time::{Duration, UNIX_EPOCH},
};

use bytesize::ByteSize;
use serde_json::Value;

/// Microseconds in a unit that keeps the number short.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} µs"),
        10_000..10_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// Bytes in a unit that keeps the number short.
pub(super) fn bytes(count: u64) -> String {
    ByteSize(count).display().iec().to_string()
}

/// Seconds as days, hours, minutes and seconds.
pub(super) fn span(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// A point in time as a node's document writes it: a text, or milliseconds since 1970.
pub(super) fn time(at: &Value) -> String {
    match at {
        Value::String(text) => one_line(text),
        Value::Number(ms) => {
            let ms = Duration::from_millis(ms.as_u64().unwrap_or_default());
            let at = UNIX_EPOCH.checked_add(ms).unwrap_or(UNIX_EPOCH);
            humantime::format_rfc3339_millis(at).to_string()
        }
        _ => String::new(),
    }
}

/// Tells how far it is, on standard error.
pub(super) fn say(text: &str) {
    // Where nobody reads it, there is nobody to tell.
    let _ = writeln!(stderr(), "nomad: {text}");
}

/// A text of somebody else's as part of one line: control characters would move the cursor, or worse.
pub(super) fn one_line(text: &str) -> String {
    text.replace(|letter: char| letter.is_control(), " ")
}

/// Rows as lines, in columns that are as wide as their widest cell, two spaces apart. The first `texts` columns begin on the
/// left, those behind them are numbers and end on the right.
pub(super) fn columns<R: AsRef<[String]>>(rows: &[R], texts: usize) -> Vec<String> {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.as_ref().len()), 0);
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &R| {
        let cells = row.as_ref().iter().zip(&widths).enumerate();
        let cells = cells.map(|(index, (cell, &width))| match index < texts {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [0, 9_999, 10_000, 12_345_678].map(micros),
            ["0 µs", "9999 µs", "10.0 ms", "12.3 s"]
        );
        assert_eq!(
            [0, 1023, 1024, 1_572_864, 1 << 50].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "1.0 PiB"]
        );
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(span(0), "0s");
    }

    #[test]
    fn a_time_is_a_text_or_milliseconds() {
        assert_eq!(time(&1_700_000_000_123u64.into()), "2023-11-14T22:13:20.123Z");
        assert_eq!(time(&"2023-11-14T22:13:20Z".into()), "2023-11-14T22:13:20Z");
        assert_eq!(time(&Value::Null), "");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = columns(&[row(["a", "wide", "c"]), row(["", "µ", ""])], 3).concat();
        assert_eq!(text, "a  wide  c\n   µ\n");
    }

    #[test]
    fn a_foreign_text_cannot_leave_its_line() {
        assert_eq!(one_line("a\nb\u{1b}[2Jc"), "a b [2Jc");
    }
}
