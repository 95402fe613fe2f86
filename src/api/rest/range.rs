//! Reads an HTTP `Range` header for one range of bytes (RFC 9110, section 14).

use std::ops::Range;

/// What a `Range` header asks of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeAnswer {
    /// The header is to be ignored: malformed, another unit, or several ranges. The whole body is the answer.
    Whole,
    /// These bytes; never empty.
    Part(Range<usize>),
    /// No byte of the body is in the range.
    Unsatisfiable,
}

/// Decides which bytes of a body of `len_bytes` the header asks for.
pub fn resolve(header: &str, len_bytes: usize) -> RangeAnswer {
    let Some((first, last)) = header
        .trim()
        .strip_prefix("bytes=")
        .filter(|spec| !spec.contains(','))
        .and_then(|spec| spec.trim().split_once('-'))
    else {
        return RangeAnswer::Whole;
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(first) || !digits(last) || (first.is_empty() && last.is_empty()) {
        return RangeAnswer::Whole;
    }
    // A number too large for the type lies beyond every body.
    let number = |text: &str| text.parse::<usize>().unwrap_or(usize::MAX);
    let range = if first.is_empty() {
        len_bytes.saturating_sub(number(last))..len_bytes
    } else if last.is_empty() {
        number(first)..len_bytes
    } else if number(first) > number(last) {
        return RangeAnswer::Whole;
    } else {
        number(first)..number(last).saturating_add(1).min(len_bytes)
    };
    if range.start < range.end { RangeAnswer::Part(range) } else { RangeAnswer::Unsatisfiable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_resolve_as_the_rfc_says() {
        let table = [
            ("bytes=0-0", RangeAnswer::Part(0..1)),
            ("bytes=2-4", RangeAnswer::Part(2..5)),
            ("bytes=7-", RangeAnswer::Part(7..10)),
            ("bytes=-3", RangeAnswer::Part(7..10)),
            ("bytes=-99", RangeAnswer::Part(0..10)),
            ("bytes=5-99999999999999999999999", RangeAnswer::Part(5..10)),
            ("bytes=10-", RangeAnswer::Unsatisfiable),
            ("bytes=-0", RangeAnswer::Unsatisfiable),
            ("bytes=4-2", RangeAnswer::Whole),
            ("bytes=0-1,3-4", RangeAnswer::Whole),
            ("bytes=-", RangeAnswer::Whole),
            ("bytes=a-b", RangeAnswer::Whole),
            ("lines=1-2", RangeAnswer::Whole),
        ];
        for (header, expected) in table {
            assert_eq!(resolve(header, 10), expected, "{header}");
        }
        assert_eq!(resolve("bytes=0-", 0), RangeAnswer::Unsatisfiable);
    }
}
