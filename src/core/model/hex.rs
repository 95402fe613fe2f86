//! Reads hexadecimal digits as ids and versions are written in. The usual readers also take upper case, signs and `0x`.

/// Reads a number of exactly `count` digits in lower case; at most 32.
pub(super) fn read(text: &str, count: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_whole = text.len() == count && text.bytes().all(is_digit);
    is_whole.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}
