//! Where randomness comes from, so that a seed repeats a run.

use rand::Rng;

/// A source of random numbers.
pub trait Entropy: Send + Sync + 'static {
    /// Draws a number.
    fn next_u64(&self) -> u64;
}

/// The thread's generator, seeded by the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    #[expect(clippy::disallowed_methods, reason = "this is the adapter for real randomness")]
    fn next_u64(&self) -> u64 {
        rand::rng().random()
    }
}
