//! Where Pulsar's official Python client is, for the tests' independent witnesses, and Eclipse Paho's of MQTT.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// A Python that has pulsar-client and paho-mqtt: TIDEGATE_TEST_PYTHON, or a virtual environment made below target/.
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
    let has_client = || {
        Command::new(&python).args(["-c", "import pulsar, paho.mqtt.client"]).output().is_ok_and(|o| o.status.success())
    };
    // Test binaries run one after the other; within one, `python` lets only one thread get here.
    if !has_client() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output();
        let got =
            Command::new(&python).args(["-m", "pip", "install", "--quiet", "pulsar-client", "paho-mqtt"]).output();
        assert!(
            has_client(),
            "these tests count with Pulsar's own Python client, and talk with Eclipse Paho's, which cannot be installed: {made:?} {got:?}\n\
             install python3 with venv (Debian: apt-get install python3-venv), make `pip install pulsar-client \
             paho-mqtt` work, or name a Python that has them in TIDEGATE_TEST_PYTHON"
        );
    }
    python
}
