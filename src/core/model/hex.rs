//! Hexadecimal digits, as ids and versions are written in. Every answer has some: the formatter of `std` takes several
//! times as long.

/// Returns the last `N` digits of a number, in lower case.
pub fn digits<const N: usize>(mut number: u128) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        let nibble = (number & 0xf) as u8;
        *digit = nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
        number >>= 4;
    }
    digits
}

/// Returns digits as text.
pub fn text(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_formatter() {
        for number in [0, 9, 0x10, 0xabc_def0, u128::from(u64::MAX), u128::MAX - 5] {
            assert_eq!(text(&digits::<32>(number)), format!("{number:032x}"));
        }
        assert_eq!(text(&digits::<16>(u128::MAX - 15)), "fffffffffffffff0");
    }
}
