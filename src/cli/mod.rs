//! The command line beyond `start`.

pub mod bench;
