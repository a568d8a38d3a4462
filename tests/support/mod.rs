//! What tests against a real Pulsar share: a broker of their own, a TCP proxy that cuts, an independent count.
//! A test file says `mod support;`; not every file uses all of it.
#![allow(dead_code, clippy::unwrap_used)]

pub mod broker;
pub mod count;
pub mod edge;
pub mod proxy;

use std::time::{Duration, Instant};

/// Waits until `done`, or fails saying what was waited for and what `state` was last.
pub async fn eventually<S: std::fmt::Debug>(
    what: &str,
    within: Duration,
    mut state: impl FnMut() -> S,
    done: impl Fn(&S) -> bool,
) -> S {
    let begun = Instant::now();
    loop {
        let now = state();
        if done(&now) {
            return now;
        }
        assert!(begun.elapsed() < within, "not within {within:?}: {what}; last seen: {now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
