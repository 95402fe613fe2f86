//! Foreign texts in messages.

use std::borrow::Cow;

/// Cuts a text to what is worth showing: `chars_max` characters, and three dots where some are missing.
pub fn shorten(text: &str, chars_max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars_max) {
        None => Cow::Borrowed(text),
        Some((at, _)) => Cow::Owned(format!("{}...", text.get(..at).unwrap_or_default())),
    }
}
