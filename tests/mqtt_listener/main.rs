//! The MQTT way in over real sockets: what is acknowledged when, who is told what, and what survives.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not take for tests

mod acknowledgements;
mod connections;
mod harness;
mod journal;
mod kill;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod transports;
