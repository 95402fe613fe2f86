//! How long to wait before something that failed is tried again.

/// Returns `first`, doubled `times` times, and at most `most`. Without jitter: what that is for differs with the caller.
pub fn doubled(first: u64, times: u32, most: u64) -> u64 {
    let factor = 1u64.checked_shl(times).unwrap_or(u64::MAX);
    first.saturating_mul(factor).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_the_longest() {
        assert_eq!([0, 1, 5, 6].map(|times| doubled(10, times, 500)), [10, 20, 320, 500]);
        for times in [63, 64, u32::MAX] {
            assert_eq!(doubled(10, times, 500), 500, "{times}");
            assert_eq!(doubled(0, times, 500), 0, "{times}");
        }
    }
}
