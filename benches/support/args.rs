//! Flags that every bench takes, and the hidden ones by which it starts itself as a server.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::yardstick::Yardstick;

/// How a bench prints its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// A table for people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Flags that every bench takes.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// Directory for the servers' data; it must be on a real disk, or fsync costs nothing.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub scratch: PathBuf,
    /// Puts a yardstick in the node's place. Shows how much of a result is noise of the machine: every ratio should be
    /// near 1.
    #[arg(long)]
    pub calibrate: bool,
    /// Set by `cargo bench`. Without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    pub bench: bool,
    /// Become this server instead of measuring.
    #[arg(long, hide = true, value_enum)]
    pub serve: Option<Yardstick>,
    /// The served data's directory.
    #[arg(long, hide = true)]
    pub dir: Option<PathBuf>,
}

impl CommonArgs {
    /// Whether to measure; says so when not.
    pub fn is_wanted(&self) -> bool {
        if !self.bench {
            println!("nothing measured: run it with cargo bench");
        }
        self.bench
    }
}
