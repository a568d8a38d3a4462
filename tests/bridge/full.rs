//! A full outbox: nothing is acknowledged, the other broker keeps what is published, and all of it comes when there is room.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{BINARY, Gateway, PATIENCE};
use crate::support::broker::Broker;
use crate::support::mosquitto::Mosquitto;
use crate::support::system;

/// More than the outbox takes.
const FILLING: u64 = 250;
/// More than may be unacknowledged.
const WAITING: u64 = 150;
const MESSAGE_BYTES: usize = 100 << 10;

#[test]
fn while_the_outbox_is_full_the_other_broker_keeps_the_messages() {
    let pulsar = Broker::start();
    let mosquitto = Mosquitto::start();
    system::provision(Path::new(BINARY), mosquitto.dir(), &pulsar, 1);
    pulsar.stop();
    let sections = format!("[outbox]\nmax_bytes = \"16MiB\"\n[uplink]\npulsar = [\"{}\"]\n", pulsar.service_url());
    // The shortest keep-alive: the connection outlives several of them.
    let mut gateway = Gateway::start(&mosquitto.url(), "keep_alive = \"5s\"", &sections);
    gateway.wait_connected();
    let payload = mosquitto.dir().join("payload");
    std::fs::write(&payload, vec![b'x'; MESSAGE_BYTES]).unwrap();
    let file = payload.to_str().unwrap();
    let publish = |qos: &str, n: u64| {
        mosquitto.publish(&["-q", qos, "-t", "devices/a/t", "-f", file, "--repeat", &n.to_string()]);
    };
    // Best effort: what there is no room for is given up and counted, and does not keep anything else out.
    publish("0", FILLING);
    let begun = Instant::now();
    while gateway.stored() + gateway.counter("given_up") < FILLING {
        assert!(begun.elapsed() < PATIENCE, "{} and {}", gateway.stored(), gateway.counter("given_up"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let full = gateway.stored();
    assert!(full < FILLING);
    publish("1", WAITING);
    gateway.wait_status("to say that it waits", |b| b["waiting"].as_str().is_some_and(|why| why.contains("is full")));
    std::thread::sleep(Duration::from_secs(12));
    let status = gateway.status();
    assert_eq!((&status["connected"], status["waiting"].is_string()), (&true.into(), true), "{status}");
    assert!(status["unacknowledged"].as_u64().unwrap() > 0);
    assert_eq!(gateway.counter("connects"), 1, "{}", gateway.process.log_tail());
    assert!(gateway.stored() < full + WAITING);
    pulsar.restart();
    gateway.wait_stored(full + WAITING);
    gateway.process.wait_drained(PATIENCE);
    assert_eq!(gateway.stored(), full + WAITING, "each once");
    assert!(gateway.status()["waiting"].is_null());
}
