//! Roll-outs under random histories, with two controllers that die at every step, and at full size.

mod examples;
mod histories;
mod model;
mod size;
mod world;

/// `PROPTEST_CASES=100000 cargo test --lib rollout` for a night.
fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}
