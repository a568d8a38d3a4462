//! Everybody else's MQTT clients at the real binary: each publishes, subscribes, is absent, dies and is refused as a device
//! is, and what it was told was stored is in the outbox.

#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not take for tests

mod harness;
mod interoperability;
mod mosquitto;
mod mqttjs;
mod paho;
mod rumqtt;
#[path = "../support/mod.rs"]
mod support;
