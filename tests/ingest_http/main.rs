//! HTTP ingest over real sockets: what a device may send, what it is answered, and what ends up in the outbox.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not take for tests

mod connections;
mod formats;
mod harness;
mod pages;
mod refusals;
