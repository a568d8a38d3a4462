//! MQTT.js; the story is in mqttjs_story.mjs.

use std::process::Command;

use crate::harness::{Gate, STORY, succeeds};
use crate::support::node::modules;

#[test]
fn mqtt_js_in_both_versions_over_tcp_tls_ws_and_wss() {
    let mut gate = Gate::start();
    let mut stored = 0;
    for protocol in ["4", "5"] {
        let ways =
            [("mqtt", gate.tcp, false), ("mqtts", gate.tls, true), ("ws", gate.ws, false), ("wss", gate.wss, true)];
        for (scheme, port, tls) in ways {
            let name = format!("js-{protocol}-{scheme}");
            let ca = if tls { gate.ca.as_os_str() } else { "-".as_ref() };
            let mut command = Command::new("node");
            command.arg("tests/mqtt_clients/mqttjs_story.mjs").arg(modules());
            command.args([&*format!("{scheme}://localhost:{port}"), &*name, protocol]).arg(ca);
            succeeds(&mut command, &gate, &name);
            stored += STORY;
            gate.stores(stored);
        }
    }
}
