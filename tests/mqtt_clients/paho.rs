//! Eclipse Paho's Python client; the story is in paho_story.py.

use std::process::Command;

use crate::harness::{Gate, STORY, succeeds};
use crate::support::python::python;

#[test]
fn paho_in_both_versions_with_both_kinds_of_callbacks_and_over_tls() {
    let mut gate = Gate::start();
    let mut stored = 0;
    for protocol in ["4", "5"] {
        for (api, tls) in [("1", false), ("2", false), ("2", true)] {
            let name = format!("paho-{protocol}-{api}-{tls}");
            let port = if tls { gate.tls } else { gate.tcp }.to_string();
            let ca = if tls { gate.ca.as_os_str() } else { "-".as_ref() };
            let mut command = Command::new(python());
            command.arg("tests/mqtt_clients/paho_story.py").args([&*port, &*name, protocol, api]).arg(ca);
            succeeds(&mut command, &gate, &name);
            stored += STORY;
            gate.stores(stored);
        }
    }
    assert_eq!(gate.metric("tidegate_mqtt_wills_total"), 6.0);
}
