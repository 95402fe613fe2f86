//! How values with a unit are written: durations (`20s`), sizes (`4MiB`), durability, and text where empty means
//! unset. Reading and writing are inverse to each other.

use std::{ffi::OsStr, time::Duration};

use serde::{Deserialize, Deserializer, Serializer, de};

pub use bytesize::{GIB, KIB, MIB};
pub use nomad_core::model::durability::Durability;

/// Why a text is no value of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// A number alone where a duration is wanted.
    #[error("a bare number has no unit: write it as in `20s` or `150ms`")]
    BareNumber,
    /// Not a duration.
    #[error("a duration has a number and a unit: `150ms`, `20s`, `5m`, `1h`")]
    Duration,
    /// Not a size.
    #[error("a size is a number of bytes, or a number with KiB, MiB or GiB: `4MiB`")]
    Size,
    /// Not a durability.
    #[error("write `always`, or `interval:` and a duration: `interval:100ms`")]
    Durability,
}

/// Reads a duration such as `20s`, `150ms` or `1h 30m`.
///
/// # Errors
/// When the text is no duration; a bare number is told apart.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let text = text.trim();
    if text.parse::<f64>().is_ok() {
        return Err(UnitError::BareNumber);
    }
    humantime::parse_duration(text).map_err(|_| UnitError::Duration)
}

/// Writes a duration so that `parse_duration` reads the same: whole seconds as `6000s`, else whole milliseconds.
pub fn format_duration(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else if duration.subsec_nanos().is_multiple_of(1_000_000) {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{}ns", duration.as_nanos())
    }
}

/// Reads a size: `4MiB`, `512KiB`, `1GiB`, `100B` or plain bytes. Nothing else: `4M` means 4000000 bytes to some programs
/// and 4194304 to others.
///
/// # Errors
/// When the text is no size, or one beyond 2^64 - 1 bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = text.strip_prefix(digits).unwrap_or_default().trim_start();
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        _ => return Err(UnitError::Size),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UnitError::Size); // `+1`, which `parse` would take
    }
    let count: u64 = digits.parse().map_err(|_| UnitError::Size)?;
    count.checked_mul(factor).ok_or(UnitError::Size)
}

/// Writes a size so that `parse_size` reads the same, in the largest unit that leaves no rest.
pub fn format_size(bytes: u64) -> String {
    for (factor, unit) in [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// Reads when a write is made durable: `always`, or `interval:100ms`.
///
/// # Errors
/// When the text is neither.
pub fn parse_durability(text: &str) -> Result<Durability, UnitError> {
    match text.trim().split_once(':') {
        None if text.trim() == "always" => Ok(Durability::Always),
        Some(("interval", duration)) => parse_duration(duration).map(Durability::Interval),
        _ => Err(UnitError::Durability),
    }
}

/// Writes it so that `parse_durability` reads the same.
pub fn format_durability(durability: Durability) -> String {
    match durability {
        Durability::Always => "always".to_owned(),
        Durability::Interval(duration) => format!("interval:{}", format_duration(duration)),
    }
}

/// Makes the serde modules of values that are written as a text.
macro_rules! as_texts {
    ($($module:ident: $value:ty, $format:ident, $parse:ident;)+) => {$(
        pub(super) mod $module {
            use super::*;

            pub fn serialize<S: Serializer>(value: &$value, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&$format(*value))
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$value, D::Error> {
                $parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    )+};
}

as_texts! {
    durability: Durability, format_durability, parse_durability;
    duration: Duration, format_duration, parse_duration;
    size: u64, format_size, parse_size;
}

/// `#[serde(with)]` for text where empty means unset.
pub(super) mod text {
    use super::*;

    pub fn serialize<S, T>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
        T: AsRef<OsStr>,
    {
        let text = value.as_ref().map(|value| value.as_ref().to_string_lossy());
        serializer.serialize_str(&text.unwrap_or_default())
    }

    pub fn deserialize<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: From<String>,
    {
        let text = String::deserialize(deserializer)?;
        Ok(if text.is_empty() { None } else { Some(T::from(text)) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bare_number_is_told_to_carry_a_unit() {
        assert_eq!(parse_duration("20"), Err(UnitError::BareNumber));
        assert_eq!(parse_duration(" 1.5 "), Err(UnitError::BareNumber));
        assert_eq!(parse_duration("soon"), Err(UnitError::Duration));
        assert_eq!(parse_duration(""), Err(UnitError::Duration));
        assert_eq!(parse_duration("1h 40m"), Ok(Duration::from_secs(6000)));
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        assert_eq!(parse_size("4MiB"), Ok(4 * MIB));
        assert_eq!(parse_size("512 KiB"), Ok(512 * KIB));
        assert_eq!(parse_size("1000"), Ok(1000));
        assert_eq!(parse_size("1000B"), Ok(1000));
        for text in ["", "MiB", "4MB", "4mib", "-1", "+1", "1.5MiB", "4MiB4", "99999999999GiB"] {
            assert_eq!(parse_size(text), Err(UnitError::Size), "{text:?}");
        }
    }

    #[test]
    fn durability_is_always_or_an_interval() {
        let interval = Durability::Interval(Duration::from_millis(100));
        assert_eq!(parse_durability("always"), Ok(Durability::Always));
        assert_eq!(parse_durability("interval:100ms"), Ok(interval));
        assert_eq!(format_durability(interval), "interval:100ms");
        assert_eq!(parse_durability("interval:100"), Err(UnitError::BareNumber));
        for text in ["", "never", "interval", "always:1s"] {
            assert_eq!(parse_durability(text), Err(UnitError::Durability), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in 0..u64::MAX, bytes in any::<u64>(), shift in 0..40u32) {
            for duration in [Duration::from_nanos(nanos), Duration::from_millis(nanos >> 20)] {
                prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            }
            let bytes = bytes >> shift << shift;
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
