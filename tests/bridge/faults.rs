//! Kill -9 of the gateway, cut connections and restarts of mosquitto while messages are published: none is missing.
//!
//! `TIDEGATE_TEST_BRIDGE_ROUNDS=100 deploy/test.sh nothing_is_missing` is the long version. A failing run prints its seed.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tidegate::sys::tasks::thread;

use crate::harness::{Gateway, PATIENCE};
use crate::support;
use crate::support::mosquitto::{self, Mosquitto};
use crate::support::process::free_port;
use crate::support::proxy::Proxy;
use crate::support::random::Random;

const ROUNDS_IN_CI: u64 = 12;
const DEVICES: u64 = 4;
const BURST: u64 = 200;

#[tokio::test]
async fn nothing_is_missing_in_3_1_1() {
    campaign("version = \"3.1.1\"", 1, true).await;
}

#[tokio::test]
async fn nothing_is_missing_in_5_0() {
    campaign("version = \"5.0\"", 1, true).await;
}

#[tokio::test]
async fn nothing_is_missing_with_qos_2_in_3_1_1() {
    campaign("qos = 2", 2, true).await;
}

#[tokio::test]
async fn nothing_is_missing_with_qos_2_in_5_0() {
    campaign("qos = 2\nversion = \"5.0\"", 2, true).await;
}

#[tokio::test]
async fn with_qos_2_nothing_comes_twice_while_the_gateway_lives_in_3_1_1() {
    campaign("qos = 2", 2, false).await;
}

#[tokio::test]
async fn with_qos_2_nothing_comes_twice_while_the_gateway_lives_in_5_0() {
    campaign("qos = 2\nversion = \"5.0\"", 2, false).await;
}

/// Publishes bursts until told to stop; the number of messages of each device that mosquitto has taken.
struct Publishers {
    stop: Arc<AtomicBool>,
    /// Shared during a burst; whoever restarts mosquitto has it alone.
    gate: Arc<RwLock<()>>,
    sent: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<u64>>,
}

impl Publishers {
    fn start(port: u16, qos: u8) -> Self {
        let (stop, gate, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(RwLock::new(())), Arc::default());
        let mut all = Self { stop, gate, sent, threads: Vec::new() };
        for device in 0..DEVICES {
            let (stop, gate, sent) = (all.stop.clone(), all.gate.clone(), all.sent.clone());
            let publish = move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut lines = String::new();
                    (n + 1..=n + BURST).for_each(|i| writeln!(lines, "{i}").unwrap());
                    let gate = gate.read().unwrap();
                    let topic = format!("devices/d{device}/telemetry");
                    mosquitto::publish(port, &["-l", "-q", &qos.to_string(), "-t", &topic], &lines);
                    drop(gate);
                    n += BURST;
                    sent.fetch_add(BURST, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(10));
                }
                n
            };
            all.threads.push(thread("publisher", publish).unwrap());
        }
        all
    }

    fn finish(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|t| t.join().unwrap()).collect()
    }
}

#[allow(clippy::too_many_lines)] // one story, told in order
async fn campaign(keys: &str, qos: u8, kill: bool) {
    let rounds = support::setting("TIDEGATE_TEST_BRIDGE_ROUNDS", ROUNDS_IN_CI);
    let mut random = Random::from_environment();
    let mut broker = Mosquitto::start();
    let proxy = Proxy::start(free_port(), broker.port());
    let mut gateway = Gateway::start(&format!("mqtt://127.0.0.1:{}", proxy.port()), keys, "");
    gateway.wait_connected();
    let publishers = Publishers::start(broker.port(), qos);
    let (mut kills, mut cuts) = (0, 0);
    for round in 1..=rounds {
        std::thread::sleep(Duration::from_millis(100 + random.below(400)));
        match random.below(8) {
            0..=3 if kill => {
                gateway.process.kill9();
                kills += 1;
                gateway.process.restart();
                gateway.process.wait_ready(PATIENCE);
            }
            7 if kill => {
                let quiet = publishers.gate.write().unwrap();
                broker.stop();
                cuts += 1;
                std::thread::sleep(Duration::from_millis(random.below(300)));
                broker.restart();
                drop(quiet);
            }
            _ => {
                proxy.cut();
                cuts += 1;
            }
        }
        println!(
            "round {round} of {rounds}: {} published, {} stored",
            publishers.sent.load(Ordering::Relaxed),
            gateway.stored()
        );
    }
    let sent = publishers.finish();
    let total: u64 = sent.iter().sum();
    gateway.wait_stored(total);
    // Those that came twice count as well.
    gateway.wait_quiet();
    let recognised = gateway.counter("repeated");
    let events = gateway.events().await;
    let mut seen: HashMap<(String, u64), u64> = HashMap::new();
    let mut last: HashMap<String, u64> = HashMap::new();
    let (mut duplicates, mut out_of_order) = (0, 0);
    for event in &events {
        let (device, n) = (event.subject.clone().unwrap(), std::str::from_utf8(&event.data).unwrap().parse().unwrap());
        let times = seen.entry((device.clone(), n)).or_default();
        *times += 1;
        if *times > 1 {
            duplicates += 1;
        } else if last.insert(device, n).is_some_and(|before| before > n) {
            out_of_order += 1;
        }
    }
    let missing: Vec<_> = (0..DEVICES)
        .flat_map(|d| (1..=sent[d as usize]).map(move |n| (format!("d{d}"), n)))
        .filter(|key| !seen.contains_key(key))
        .collect();
    println!(
        "{keys:?}: {total} published, {} stored, {kills} kills, {cuts} cuts: {} missing, {duplicates} doubled, \
         {out_of_order} out of order; the last process recognised {recognised} repetitions",
        events.len(),
        missing.len(),
    );
    assert!(
        missing.is_empty(),
        "missing: {} of {total}, such as {:?}; seed {}",
        missing.len(),
        &missing[..missing.len().min(5)],
        random.seed()
    );
    assert_eq!(out_of_order, 0, "seed {}", random.seed());
    // How many come twice after a kill is up to mosquitto: 2.0.11 sends 20 more for each acknowledgement, whatever is
    // unacknowledged, and after a restart of its own sends QoS 2 messages again that it had PUBREC for (only the first
    // 20 come back as what they were).
    if qos == 2 && !kill {
        assert_eq!(duplicates, 0, "seed {}", random.seed());
    }
}
