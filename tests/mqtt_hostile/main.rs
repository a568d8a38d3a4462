//! Hostile clients at the MQTT ports: damaged bytes by the million, half packets, drips, floods, sudden ends. Whatever they do,
//! nothing panics, memory stays within its limits, and an honest client beside them is served.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // helpers of tests, which clippy does not take for tests

mod bystander;
mod floods;
mod fuzz;
mod gateway;
#[path = "../mqtt_listener/harness.rs"]
#[allow(dead_code)] // not all of it is needed here
mod harness;
mod slow;
#[path = "../support/mod.rs"]
mod support;
