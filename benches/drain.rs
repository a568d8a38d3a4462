//! How fast a backlog leaves: Tidegate's drain of N events against the official Go client's plain producer with
//! batching, the same events on the same broker in the same run, in turn. Prints the ratio pair by pair.
//!
//! `cargo bench --bench drain -- [--events 1000000] [--bytes 256] [--pairs 3]`, after `deploy/bench.sh` has built the client.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::broker::Broker;
use support::process::Tidegate;
use support::system;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const BATCH: u64 = 1000;
const DEVICES: u64 = 50;
const SENDERS: u64 = 4;

fn main() {
    let events = argument("--events", 1_000_000);
    let bytes = argument("--bytes", 256);
    let pairs = argument("--pairs", 3);
    let client =
        std::env::var("TIDEGATE_BENCH_CLIENT").expect("TIDEGATE_BENCH_CLIENT: deploy/bench.sh builds it and sets this");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let broker = Broker::start();
    system::provision_lanes(Path::new(BINARY), dir.path(), &broker, &["telemetry", "official"], 1);
    let mut ratios = Vec::new();
    for pair in 1..=pairs {
        let ours = drain(&dir.path().join(pair.to_string()), &broker, events, bytes);
        let theirs = official(&client, &broker, events, bytes);
        println!(
            "pair {pair}: tidegate {ours:.0} events/s, official client {theirs:.0} events/s, ratio {:.2}",
            ours / theirs
        );
        ratios.push(ours / theirs);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "drain of {events} events of {bytes} B: ratio min {:.2} median {:.2} max {:.2}",
        ratios[0],
        ratios[ratios.len() / 2],
        ratios[ratios.len() - 1]
    );
}

fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|a| a != name);
    arguments.next();
    arguments.next().map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} {v}: not a number")))
}

/// Fills an outbox without an uplink, starts the edge again with one, and times until all is confirmed.
fn drain(dir: &Path, broker: &Broker, events: u64, bytes: u64) -> f64 {
    let node = format!("[node]\nid = \"bench\"\ndata_dir = {:?}\n", dir.join("data"));
    let mut edge = Tidegate::start(Path::new(BINARY), "edge", dir, &node);
    edge.wait_ready(Duration::from_secs(30));
    fill(&edge.url(), events, bytes);
    assert_eq!(edge.backlog(), Some(events));
    edge.terminate(Duration::from_secs(30));
    let mut edge =
        Tidegate::start(Path::new(BINARY), "edge", dir, &system::edge_toml_in(&dir.join("data"), "bench", broker));
    edge.wait_ready(Duration::from_secs(30));
    let start = Instant::now();
    edge.wait_drained(Duration::from_secs(300));
    let rate = events as f64 / start.elapsed().as_secs_f64();
    edge.terminate(Duration::from_secs(30));
    rate
}

fn fill(url: &str, events: u64, bytes: u64) {
    let data = "x".repeat(usize::try_from(bytes - 2).expect("size"));
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let data = &data;
            scope.spawn(move || {
                let agent = ureq::Agent::new_with_defaults();
                for batch in (sender..events / BATCH).step_by(SENDERS as usize) {
                    let body: Vec<String> = (0..BATCH)
                        .map(|i| {
                            let n = batch * BATCH + i;
                            let device = format!("device-{:03}", n % DEVICES);
                            format!(
                                r#"{{"specversion":"1.0","id":"{device}-{n}","source":"/devices/{device}","type":"reading","subject":"{device}","time":"2026-11-23T06:00:00.000Z","datacontenttype":"application/json","data":"{data}"}}"#
                            )
                        })
                        .collect();
                    agent
                        .post(format!("{url}/v1/events"))
                        .header("content-type", "application/cloudevents-batch+json")
                        .send(format!("[{}]", body.join(",")))
                        .expect("the edge takes the batch");
                }
            });
        }
    });
}

fn official(client: &str, broker: &Broker, events: u64, bytes: u64) -> f64 {
    let out = Command::new(client)
        .args(["-service", &broker.service_url(), "-topic", "persistent://tidegate/telemetry/official"])
        .args(["-events", &events.to_string(), "-bytes", &bytes.to_string(), "-devices", &DEVICES.to_string()])
        .output()
        .expect("run the official client");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let rate = text.trim().rsplit(": ").next().and_then(|r| r.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("the official client said: {text}{}", String::from_utf8_lossy(&out.stderr)))
}
