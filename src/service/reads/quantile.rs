//! A running estimate of one quantile in one number: frugal streaming (Ma, Muthukrishnan and Sandler, "Frugal Streaming
//! for Estimating Quantiles", 2013), with steps in proportion to the estimate.

/// An estimate of a quantile of a stream of microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantile {
    /// Which one: 0.95 for the 95th percentile.
    at: f64,
    estimate_us: f64,
}

impl Quantile {
    /// Starts with a guess.
    pub fn new(at: f64, guess_us: u64) -> Self {
        Self { at, estimate_us: guess_us as f64 }
    }

    /// Takes in one more value.
    pub fn observe(&mut self, value_us: u64) {
        let step = self.estimate_us / 16.0 + 1.0;
        if value_us as f64 > self.estimate_us {
            self.estimate_us += step * self.at;
        } else {
            self.estimate_us = (self.estimate_us - step * (1.0 - self.at)).max(0.0);
        }
    }

    /// Returns the estimate.
    pub fn estimate_us(&self) -> u64 {
        self.estimate_us as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_the_95th_percentile_from_a_bad_guess_either_way() {
        for guess_us in [1, 1_000_000] {
            let mut quantile = Quantile::new(0.95, guess_us);
            let mut state = 1_u64;
            for _ in 0..20_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Even from 0 to 10,000.
                quantile.observe((state >> 33) % 10_000);
            }
            let estimate = quantile.estimate_us();
            assert!((8_000..=10_500).contains(&estimate), "{estimate} from {guess_us}");
        }
    }
}
