//! The trial under random histories, crashes at every step, and on a real disk.

mod disk;
mod examples;
mod histories;
mod oracle;
mod world;

/// `PROPTEST_CASES=100000 cargo test --lib trial` for a night.
fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}
