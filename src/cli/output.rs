//! Standard output, whose reader may go away at any time: that is an error to return, never a panic.

use std::io::{Write as _, stdout};

use super::error::CliError;

/// Writes all of it at once.
pub(super) fn write(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}
