//! The `nomad` program: starts the command line, and nothing else.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Gives memory back to the system and does not fragment under a mixed load as the system's allocator does.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    nomad::cli::run()
}
