//! nomad.
fn main() {}
