//! A mosquitto that is bridged to us and that we bridge from, with `local = true`: messages do not go round.

use std::time::Duration;

use crate::harness::{Gateway, PATIENCE};
use crate::support::mosquitto::Mosquitto;
use crate::support::ports::free_port;

fn gauge(url: &str, name: &str) -> u64 {
    let text = ureq::get(&format!("{url}/metrics")).call().unwrap().body_mut().read_to_string().unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

/// Both ways with everything. What comes twice comes by both bridges, and that is all of it.
fn both_ways(theirs: &str, ours: &str) -> Gateway {
    // Another address than that of HTTP, which may be given the same port.
    let port = free_port();
    let broker = Mosquitto::with(&format!(
        "allow_anonymous true\nconnection tidegate\naddress 127.0.0.2:{port}\ntopic # both 1\nnotifications false\n\
         restart_timeout 1\nbridge_protocol_version {theirs}\n"
    ));
    let listen = format!("[mqtt]\nlisten = \"127.0.0.2:{port}\"\n");
    let mut gateway = Gateway::start(&broker.url(), &format!("local = true\nversion = \"{ours}\""), &listen);
    gateway.wait_connected();
    gateway.process.wait_for("mosquitto to subscribe", PATIENCE, |process| {
        gauge(&process.url(), "tidegate_mqtt_subscriptions ") >= 1
    });
    for n in 0..5 {
        broker.publish(&["-t", "plant/7", "-m", &n.to_string(), "-q", "1"]);
    }
    gateway.wait_stored(10);
    gateway.wait_quiet();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(gateway.stored(), 10);
    gateway
}

/// It says that it is a bridge, by a bit that 3.1.1 does not know.
#[test]
fn nothing_goes_round_in_3_1_1() {
    let gateway = both_ways("mqttv311", "3.1.1");
    assert_eq!(gateway.counter("looped"), 0);
}

/// It does not say so, and passes on user properties.
#[test]
fn nothing_goes_round_in_5_0() {
    let gateway = both_ways("mqttv50", "5.0");
    assert_eq!(gateway.counter("looped"), 5);
}
