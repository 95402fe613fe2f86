//! What one value may be: its type and range. Reads a value from a file, an environment variable or a flag strictly
//! (no rounding, no guessing), into the one shape that `Config` is made of.
//!
//! A text is read as the type of its key, so `"5"` is a number wherever a number is wanted: a variable holds only text.

use std::{ops::RangeInclusive, time::Duration};

use config::ValueKind;

use super::{
    form::Form,
    unit::{self, UnitError, format_duration, format_size},
};

/// The type and range of one key's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Count {
        /// Least value allowed.
        min: u64,
        /// Greatest value allowed.
        max: u64,
    },
    /// A finite number.
    Real {
        /// Least value allowed.
        min: f64,
        /// Whether `min` itself is excluded.
        above: bool,
        /// Greatest value allowed.
        max: f64,
    },
    /// A duration.
    Duration {
        /// Least value allowed.
        min: Duration,
        /// Greatest value allowed.
        max: Duration,
    },
    /// A number of bytes.
    Size {
        /// Least value allowed.
        min: u64,
        /// Greatest value allowed.
        max: u64,
    },
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A text of one form.
    Text(Form),
    /// Up to `MOST_ITEMS` texts of one form.
    List(Form),
}

/// Most items of a list.
pub const MOST_ITEMS: usize = 64;

/// Why a value is refused, beyond what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misread {
    /// The value is outside the range, or of another type.
    #[error("not allowed")]
    NotAllowed,
    /// The text is no duration, size or durability.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// A number or `true`/`false` where a text is wanted.
    #[error("put a text that looks like a number or like true/false in quotes")]
    Unquoted,
    /// One item of a list is refused.
    #[error("item {position}, {item:?}, is not one")]
    Item {
        /// Counted from 1.
        position: usize,
        /// As written.
        item: String,
    },
    /// The list is too long.
    #[error("{count} items are too many")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

impl Kind {
    /// Reads a value and checks its range.
    ///
    /// # Errors
    /// When the value is not allowed for this kind.
    pub(super) fn read(self, value: &ValueKind) -> Result<ValueKind, Misread> {
        match self {
            Self::Switch => read_switch(value).map(ValueKind::Boolean),
            Self::Count { min, max } => {
                within(read_count(value).ok_or(Misread::NotAllowed)?, min..=max).map(ValueKind::U64)
            }
            Self::Real { min, above, max } => {
                let number = within(read_real(value)?, min..=max)?;
                let excluded = above && number <= min;
                if excluded { Err(Misread::NotAllowed) } else { Ok(ValueKind::Float(number)) }
            }
            Self::Duration { min, max } => {
                let duration = within(read_duration(value)?, min..=max)?;
                Ok(ValueKind::String(format_duration(duration)))
            }
            Self::Size { min, max } => within(read_size(value)?, min..=max).map(ValueKind::U64),
            Self::Choice(words) => read_choice(value, words),
            Self::Text(form) => read_text(value, form),
            Self::List(form) => read_list(value, form),
        }
    }

    /// What is allowed, in words that follow "write".
    pub fn allowed(self) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Count { min, max } => format!("a whole number from {min} to {max}"),
            Self::Real { min, above: false, max } => format!("a number from {min} to {max}"),
            Self::Real { min, above: true, max } => format!("a number above {min} and up to {max}"),
            Self::Duration { min, max } => {
                format!("a duration from {} to {}", spoken(min), spoken(max))
            }
            Self::Size { min, max } => {
                format!("a size from {} to {}", format_size(min), format_size(max))
            }
            Self::Choice(words) => words.join(" or "),
            Self::Text(form) => form.allowed().to_owned(),
            Self::List(form) => format!("a list of at most {MOST_ITEMS}, each {}", form.allowed()),
        }
    }
}

/// A bound in the largest unit that fits: 2592000 seconds are hard to read.
fn spoken(duration: Duration) -> String {
    const HOUR: u64 = 3600;
    match duration.as_secs() {
        0 => format_duration(duration),
        secs if secs.is_multiple_of(24 * HOUR) => format!("{}d", secs / (24 * HOUR)),
        secs if secs.is_multiple_of(HOUR) => format!("{}h", secs / HOUR),
        _ => format_duration(duration),
    }
}

fn within<T: PartialOrd>(value: T, range: RangeInclusive<T>) -> Result<T, Misread> {
    if range.contains(&value) { Ok(value) } else { Err(Misread::NotAllowed) }
}

fn read_switch(value: &ValueKind) -> Result<bool, Misread> {
    match value {
        ValueKind::Boolean(on) => Ok(*on),
        ValueKind::String(text) if text.trim().eq_ignore_ascii_case("true") => Ok(true),
        ValueKind::String(text) if text.trim().eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(Misread::NotAllowed),
    }
}

/// Takes a float without a fraction too: templating tools turn 1000000 into 1e+06.
fn read_count(value: &ValueKind) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    match value {
        ValueKind::I64(number) => u64::try_from(*number).ok(),
        ValueKind::U64(number) => Some(*number),
        ValueKind::Float(number) if number.fract() == 0.0 && (0.0..=EXACT).contains(number) =>
        {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
            Some(*number as u64)
        }
        ValueKind::String(text) => {
            let text = text.trim();
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
        }
        _ => None,
    }
}

fn read_real(value: &ValueKind) -> Result<f64, Misread> {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "no key needs more than 53 bits")]
        ValueKind::I64(number) => Ok(*number as f64),
        #[expect(clippy::cast_precision_loss, reason = "no key needs more than 53 bits")]
        ValueKind::U64(number) => Ok(*number as f64),
        ValueKind::Float(number) => Ok(*number),
        ValueKind::String(text) => text.trim().parse().map_err(|_| Misread::NotAllowed),
        _ => Err(Misread::NotAllowed),
    }
}

fn read_duration(value: &ValueKind) -> Result<Duration, Misread> {
    match value {
        ValueKind::String(text) => Ok(unit::parse_duration(text)?),
        ValueKind::I64(_) | ValueKind::U64(_) | ValueKind::Float(_) => {
            Err(UnitError::BareNumber.into())
        }
        _ => Err(Misread::NotAllowed),
    }
}

fn read_size(value: &ValueKind) -> Result<u64, Misread> {
    match value {
        ValueKind::String(text) => Ok(unit::parse_size(text)?),
        _ => read_count(value).ok_or(Misread::NotAllowed),
    }
}

fn read_choice(value: &ValueKind, words: &[&str]) -> Result<ValueKind, Misread> {
    let ValueKind::String(text) = value else { return Err(Misread::NotAllowed) };
    let word = words.iter().find(|word| word.eq_ignore_ascii_case(text.trim()));
    word.map(|word| ValueKind::from(*word)).ok_or(Misread::NotAllowed)
}

fn read_text(value: &ValueKind, form: Form) -> Result<ValueKind, Misread> {
    match value {
        ValueKind::String(text) if form.matches(text) => Ok(ValueKind::String(text.clone())),
        ValueKind::String(text) if form == Form::Durability => {
            Err(unit::parse_durability(text).err().map_or(Misread::NotAllowed, Misread::from))
        }
        ValueKind::I64(_) | ValueKind::Float(_) | ValueKind::Boolean(_) => Err(Misread::Unquoted),
        _ => Err(Misread::NotAllowed),
    }
}

/// A list, or a text with commas between the items; an empty text is an empty list.
fn read_list(value: &ValueKind, form: Form) -> Result<ValueKind, Misread> {
    let items: Vec<String> = match value {
        ValueKind::Array(items) => items.iter().map(|item| item.kind.to_string()).collect(),
        ValueKind::String(text) if text.trim().is_empty() => Vec::new(),
        ValueKind::String(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
        _ => return Err(Misread::NotAllowed),
    };
    if items.len() > MOST_ITEMS {
        return Err(Misread::TooMany { count: items.len() });
    }
    match items.iter().position(|item| !form.matches(item)) {
        Some(index) => Err(Misread::Item {
            position: index + 1,
            item: items.into_iter().nth(index).unwrap_or_default(),
        }),
        None => Ok(ValueKind::from(items)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: Kind = Kind::Count { min: 1, max: 1_000_000 };

    fn text(text: &str) -> ValueKind {
        ValueKind::from(text)
    }

    #[test]
    fn numbers_are_read_without_rounding() {
        for value in [ValueKind::I64(5), ValueKind::U64(5), ValueKind::Float(5.0), text(" 5 ")] {
            assert_eq!(COUNT.read(&value), Ok(ValueKind::U64(5)), "{value:?}");
        }
        assert_eq!(COUNT.read(&ValueKind::Float(1e6)), Ok(ValueKind::U64(1_000_000)));
        let refused = [
            ValueKind::Float(5.5),
            ValueKind::Float(f64::NAN),
            ValueKind::I64(-5),
            ValueKind::I64(0),
            ValueKind::U64(u64::MAX),
            ValueKind::Boolean(true),
            text("5.0"),
            text("+5"),
            text("0x5"),
            text(""),
            text("five"),
            ValueKind::Nil,
        ];
        for value in refused {
            assert_eq!(COUNT.read(&value), Err(Misread::NotAllowed), "{value:?}");
        }
    }

    #[test]
    fn reals_are_finite_and_in_range() {
        let side = Kind::Real { min: 0.0, above: true, max: 1e9 };
        let ratio = Kind::Real { min: 0.0, above: false, max: 1.0 };
        assert_eq!(side.read(&text("100.0")), Ok(ValueKind::Float(100.0)));
        assert_eq!(side.read(&ValueKind::I64(7)), Ok(ValueKind::Float(7.0)));
        assert_eq!(ratio.read(&ValueKind::I64(0)), Ok(ValueKind::Float(0.0)));
        for refused in ["0", "-1", "NaN", "inf", "1e300", "", "ten"] {
            assert_eq!(side.read(&text(refused)), Err(Misread::NotAllowed), "{refused}");
        }
    }

    #[test]
    fn switches_are_true_or_false_only() {
        assert_eq!(Kind::Switch.read(&text("TRUE")), Ok(ValueKind::Boolean(true)));
        assert_eq!(Kind::Switch.read(&ValueKind::Boolean(false)), Ok(ValueKind::Boolean(false)));
        for value in [text("yes"), text("1"), text(""), ValueKind::I64(1)] {
            assert_eq!(Kind::Switch.read(&value), Err(Misread::NotAllowed), "{value:?}");
        }
    }

    #[test]
    fn a_duration_without_a_unit_says_so() {
        let kind = Kind::Duration { min: Duration::from_millis(10), max: Duration::from_secs(60) };
        assert_eq!(kind.read(&text("1m")), Ok(text("60s")));
        for value in [ValueKind::I64(20), text("20"), ValueKind::Float(0.5)] {
            assert_eq!(kind.read(&value), Err(UnitError::BareNumber.into()), "{value:?}");
        }
        for value in [text("0s"), text("61s"), text("1ms"), ValueKind::Boolean(true)] {
            assert_eq!(kind.read(&value), Err(Misread::NotAllowed), "{value:?}");
        }
        assert_eq!(kind.allowed(), "a duration from 10ms to 60s");
    }

    #[test]
    fn lists_are_lists_or_texts_with_commas() {
        let kind = Kind::List(Form::Host);
        let both = ValueKind::from(vec!["a", "b:1"]);
        assert_eq!(kind.read(&both), Ok(both.clone()));
        assert_eq!(kind.read(&text("a, b:1")), Ok(both));
        assert_eq!(kind.read(&text("")), Ok(ValueKind::from(Vec::<String>::new())));
        let trailing = Err(Misread::Item { position: 2, item: String::new() });
        assert_eq!(kind.read(&text("a,")), trailing);
        let many = vec!["a"; MOST_ITEMS + 1];
        assert_eq!(kind.read(&ValueKind::from(many)), Err(Misread::TooMany { count: 65 }));
        assert_eq!(kind.read(&ValueKind::I64(5)), Err(Misread::NotAllowed));
    }

    #[test]
    fn texts_are_not_made_from_numbers() {
        let kind = Kind::Text(Form::NetworkName);
        assert_eq!(kind.read(&text("5")), Ok(text("5")));
        assert_eq!(kind.read(&ValueKind::I64(5)), Err(Misread::Unquoted));
        let durability = Kind::Text(Form::Durability);
        assert_eq!(durability.read(&text("interval:5")), Err(UnitError::BareNumber.into()));
        assert_eq!(durability.read(&text("interval:5m")), Err(Misread::NotAllowed));
    }
}
