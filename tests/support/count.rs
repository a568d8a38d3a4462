//! What is really in a topic, counted by Pulsar's own Python client and none of our code.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;

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
    /// Messages whose payload is not what the sequence's event had (see `--payload` of count.py).
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

/// A Python that has pulsar-client: TIDEGATE_TEST_PYTHON, or a virtual environment made below target/.
pub fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(find_python).clone()
}

fn find_python() -> PathBuf {
    if let Some(given) = std::env::var_os("TIDEGATE_TEST_PYTHON") {
        return given.into();
    }
    let venv = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pulsar-client-venv");
    let python = venv.join("bin/python");
    let has_client = || Command::new(&python).args(["-c", "import pulsar"]).output().is_ok_and(|o| o.status.success());
    // Test binaries run one after the other; within one, `python` lets only one thread get here.
    if !has_client() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output();
        let got = Command::new(&python).args(["-m", "pip", "install", "--quiet", "pulsar-client"]).output();
        assert!(
            has_client(),
            "these tests count with Pulsar's own Python client, which cannot be installed: {made:?} {got:?}\n\
             install python3 with venv (Debian: apt-get install python3-venv), make `pip install pulsar-client` \
             work, or name a Python that has it in TIDEGATE_TEST_PYTHON"
        );
    }
    python
}
