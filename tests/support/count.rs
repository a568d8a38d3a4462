//! What is really in a topic, counted by Pulsar's own Python client and none of our code.

use std::process::Command;

use serde::Deserialize;

use super::python::python;

/// What count.py found.
#[derive(Debug, Deserialize)]
pub struct Counted {
    /// Messages in the topic.
    pub messages: u64,
    /// Different (stream, sequence) among them.
    pub distinct: u64,
    /// Sequences missing between 1 and the highest, over all streams.
    pub missing: u64,
    /// Messages whose key had a higher sequence before.
    pub out_of_order: u64,
    /// Messages whose payload is not what the sequence's event had (see count.py).
    pub altered: u64,
    /// Highest sequence.
    pub highest: u64,
    /// Messages marked as late.
    pub late: u64,
    /// Partitions in which messages were.
    pub partitions: u64,
    /// Properties and key of the first message.
    pub first: serde_json::Value,
}

/// Reads all of `topic` from the beginning.
pub fn count(service_url: &str, topic: &str) -> Counted {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/count.py");
    let out = Command::new(python()).args([script, service_url, topic]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "count.py: {}\n{text}{errors}", out.status);
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {text}{errors}"))
}
