//! Many gateways, each a process of its own, fetch one model from one broker: what it takes in time, bytes and memory.
//!
//! `TIDEGATE_TEST_MODEL_FLEET=200 TIDEGATE_TEST_BINARY=target/release/tidegate cargo test --test models_fleet -- --nocapture`

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::broker::Broker;
use support::central::Central;
use support::models::{Version, messages_out, noise};
use support::pulsar_client::client;
use support::tried::Node;
use tidegate::downlink::artefact::Mode;
use tidegate::downlink::report::ModelOutcome;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const TENANT: &str = "models-fleet";
const MODEL_BYTES: usize = 20 << 20;

/// What a gateway may need above what it needs when idle, at any moment of fetching, proving and activating.
const OVER_IDLE_MAX_KIB: u64 = 16 << 10;

/// Gateways that start at once.
const STARTING_MAX: usize = 4;

/// A line of /proc/PID/status in KiB.
fn memory_kib(node: &Node, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.process.pid().unwrap())).unwrap();
    let value = status.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("no {line} in {status}"));
    value.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The highest resident size is measured anew from here on (proc(5), clear_refs).
fn begin_peak(node: &Node) -> u64 {
    fs::write(format!("/proc/{}/clear_refs", node.process.pid().unwrap()), "5").unwrap();
    memory_kib(node, "VmRSS:")
}

fn start(names: &[String], rest: &str) -> Vec<Node> {
    let per_thread = names.len().div_ceil(STARTING_MAX);
    std::thread::scope(|scope| {
        let start = |names: &'_ [String]| -> Vec<Node> {
            names.iter().map(|name| Node::start(Path::new(BINARY), name, rest)).collect()
        };
        let threads: Vec<_> = names.chunks(per_thread).map(|names| scope.spawn(move || start(names))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn many_gateways_fetch_a_model_from_one_broker_with_little_memory() {
    let count = support::setting("TIDEGATE_TEST_MODEL_FLEET", 4) as usize;
    let broker = tokio::task::spawn_blocking(Broker::shared).await.unwrap();
    let names: Vec<String> = (0..count).map(|n| format!("gateway-{n}")).collect();
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut central = Central::start(&broker, TENANT, &refs).await;
    let (trusted, url) = (central.keys.trusted("60s"), broker.service_url());
    let rest = format!("{trusted}[uplink]\npulsar = [\"{url}\"]\ntenant = \"{TENANT}\"\n");
    let begun = Instant::now();
    let mut nodes = tokio::task::spawn_blocking(move || start(&names, &rest)).await.unwrap();
    println!("{count} gateways started in {:.1} s", begun.elapsed().as_secs_f64());

    let model = Version::new(&central.keys.artefact, "anomaly", 1, noise(1, MODEL_BYTES), &[]);
    let client = client(&url).await;
    model.publish(&broker, &client, TENANT).await;
    for node in &nodes {
        let linked = || node.status()["link"]["state"].as_str().map(str::to_owned);
        support::eventually("the link", Duration::from_secs(60), linked, |state| state.as_deref() == Some("up")).await;
    }
    let idle: Vec<u64> = nodes.iter().map(begin_peak).collect();

    let begun = Instant::now();
    let mut numbers = Vec::new();
    for node in &nodes {
        numbers.push(central.push_models(&node.name, vec![model.assigned(Mode::Active)]).await);
    }
    let mut first = None;
    let central = Arc::new(central);
    for (node, number) in nodes.iter_mut().zip(numbers) {
        let name = node.name.clone();
        let (outcome, reason) = central.wait_model(&name, (number, 1), || node.process.log_tail()).await;
        assert_eq!((outcome, reason.as_str()), (ModelOutcome::Active, ""), "{name}");
        first.get_or_insert(begun.elapsed());
    }
    let took = begun.elapsed().as_secs_f64();
    for node in &nodes {
        assert!(fs::read(node.models().join("anomaly/current/model")).unwrap() == model.file, "{}", node.name);
    }

    let bytes = model.messages.iter().map(Vec::len).sum::<usize>() as u64;
    let each = model.messages.len() as u64;
    let messages = messages_out(&broker, &model.topic(TENANT));
    println!(
        "{count} gateways × {} MiB: the first after {:.1} s, the last after {took:.1} s, {:.0} MB/s in all",
        MODEL_BYTES >> 20,
        first.unwrap_or_default().as_secs_f64(),
        (bytes * count as u64) as f64 / took / 1e6,
    );
    println!(
        "{bytes} bytes in {each} messages each: {} messages are due, and {messages} were sent",
        each * count as u64
    );
    let peaks: Vec<u64> = nodes.iter().map(|node| memory_kib(node, "VmHWM:")).collect();
    let over: Vec<u64> = idle.iter().zip(&peaks).map(|(idle, peak)| peak.saturating_sub(*idle)).collect();
    let mean = |values: &[u64]| values.iter().sum::<u64>() as f64 / values.len() as f64 / 1024.0;
    let most = over.iter().max().copied().unwrap_or_default();
    println!(
        "resident: idle {:.1} MiB, at most {:.1} MiB; over idle {:.1} MiB in the mean, {:.1} MiB at most",
        mean(&idle),
        mean(&peaks),
        mean(&over),
        most as f64 / 1024.0
    );
    assert!(messages <= each * count as u64, "no gateway reads a message twice");
    assert!(most <= OVER_IDLE_MAX_KIB, "{most} KiB over idle, at most {OVER_IDLE_MAX_KIB}");
}
