//! A topic read and written by Pulsar's own Python client and none of our code.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::python::python;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/topic.py");

/// A message.
#[derive(Debug, Deserialize)]
pub struct Message {
    /// Its key.
    pub key: String,
    /// Name of its producer.
    pub producer: String,
    /// Its payload.
    pub data: String,
}

/// The first `n` messages of `topic`; waits for them.
pub fn read(service_url: &str, topic: &str, n: usize) -> Vec<Message> {
    let out = Command::new(python()).args([SCRIPT, "read", service_url, topic, &n.to_string()]).output().unwrap();
    assert!(out.status.success(), "topic.py read {topic}: {out:?}");
    String::from_utf8_lossy(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Sends `messages`, which have no line breaks, as `options` say (see topic.py).
pub fn send(service_url: &str, topic: &str, options: &str, messages: &[&str]) {
    let mut child = Command::new(python())
        .args([SCRIPT, "send", service_url, topic, options])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    messages.iter().for_each(|m| writeln!(input, "{m}").unwrap());
    drop(input);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "topic.py send {topic} {options}: {out:?}");
}
