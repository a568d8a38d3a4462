//! Configuration push end to end: real clouds, a real broker, and gateways that judge what they get as real ones do.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod fleet;
mod forged;
mod inboxes;
mod numbers;
mod orders;
mod real;
mod rollouts;
mod site;
mod startup;
mod waits;
mod wire;
