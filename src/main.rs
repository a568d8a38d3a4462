//! Parse, load, build, run, exit code.

fn main() {}
