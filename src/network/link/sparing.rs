//! Log lines that other nodes can cause: each at most once a minute, and not many different ones.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use nomad_core::model::time::MonotonicUs;

/// How long a line is not repeated, in microseconds.
const PAUSE_US: u64 = 60_000_000;

/// The most different lines in that time.
const LINES_MAX: usize = 64;

/// The lines of the last minute.
#[derive(Default)]
pub(super) struct Sparing(Mutex<BTreeMap<String, MonotonicUs>>);

impl Sparing {
    /// Tells whether a line may be written now.
    pub(super) fn allows(&self, line: &str, now: MonotonicUs) -> bool {
        let mut lines = self.0.lock();
        lines.retain(|_, at| now.since(*at) < PAUSE_US);
        if lines.len() >= LINES_MAX || lines.contains_key(line) {
            return false;
        }
        lines.insert(line.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_once_a_minute_and_only_so_many_do() {
        let (lines, at) = (Sparing::default(), |s: u64| MonotonicUs(s * 1_000_000));
        assert!(
            lines.allows("a", at(0)) && !lines.allows("a", at(59)) && lines.allows("b", at(59))
        );
        assert!(lines.allows("a", at(61)) && !lines.allows("b", at(61)));
        let written = (0..1_000).filter(|n| lines.allows(&n.to_string(), at(62))).count();
        assert_eq!(written, LINES_MAX - 2);
    }
}
