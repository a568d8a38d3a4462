//! What end-to-end tests share: real brokers and the built binary, each on free ports in directories of its own and
//! gone when dropped; devices, an oracle, an independent witness; a proxy that cuts; randomness that can be repeated.
//! A test file says `mod support;`; not every file uses all of it.
#![allow(dead_code, clippy::unwrap_used)]

pub mod broker;
pub mod central;
pub mod certificates;
pub mod cloud;
pub mod control;
pub mod count;
pub mod edge;
pub mod files;
pub mod fleet;
pub mod gateway;
pub mod load;
pub mod models;
pub mod mosquitto;
pub mod mqtt;
pub mod mqtt_fleet;
pub mod mqtt_mutator;
pub mod mqtt_subscriber;
pub mod node;
pub mod oracle;
pub mod ports;
pub mod process;
pub mod provision;
pub mod proxy;
pub mod pulsar_client;
pub mod python;
pub mod random;
pub mod simulated;
pub mod system;
pub mod topic;
pub mod tried;
pub mod witness;

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

/// A number from the environment, for the long versions of tests.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}
