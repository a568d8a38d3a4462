//! Bridges against a real mosquitto: what it was given arrives, whatever is killed or cut; what is wrong is said, and
//! mended without a restart.

#![allow(clippy::unwrap_used)] // tests

#[path = "../support/mod.rs"]
mod support;

mod events;
mod faults;
mod full;
mod harness;
mod loops;
mod words;
