//! Who comes in, as whom, and what each may do, with the real binary: by HTTP, MQTT and TLS, while files change.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not take for tests

mod first_try;
mod harness;
mod http;
mod mqtt;
mod quotas;
mod reload;
mod revocation;
#[path = "../support/mod.rs"]
mod support;
mod tls;
