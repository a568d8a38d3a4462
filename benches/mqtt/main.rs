//! MQTT under load, against other brokers on the same machine in the same run.
//!
//! `cargo bench --bench mqtt -- publish [seconds] [rounds]`: 50 connections, each with 20 QoS 1 publishes of 256 bytes
//! in flight. Tidegate answers each after fdatasync has returned for it; mosquitto (with persistence) never
//! syncs; NATS is told to sync always. A broker that is not installed is left out, and that is said.
//! `cargo bench --bench mqtt -- connections [number]`: idle connections and what they cost in memory; then each of
//! them publishes once a second, and the time to the PUBACK is shown.

#![allow(clippy::unwrap_used)] // a bench ends where it fails

mod client;
mod servers;

use std::time::{Duration, Instant};

use client::Client;
use servers::Server;

/// As in the figures of other brokers that we compare with.
const CONNECTIONS: usize = 50;
const IN_FLIGHT: u16 = 20;
const PAYLOAD_BYTES: usize = 256;
/// New connections at once: more would only wait in the kernel's queue.
const CONNECTING_MAX: usize = 64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |i: usize, default: u64| args.get(i).map_or(default, |a| a.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match args.first().map(String::as_str) {
        None | Some("publish") => runtime.block_on(publish(number(1, 5), number(2, 3))),
        Some("connections") => runtime.block_on(connections(number(1, 10_000) as usize)),
        Some(other) => panic!("{other:?}: publish or connections"),
    }
}

async fn publish(seconds: u64, rounds: u64) {
    let mut rates: Vec<(&str, Vec<f64>)> = servers::ALL.iter().map(|name| (*name, Vec::new())).collect();
    for round in 1..=rounds {
        for (name, rates) in &mut rates {
            let Some(server) = Server::start(name).await else { continue };
            if *name == "nats-sub" {
                Client::leave_subscription(server.address, "devices/#").await;
            }
            flood(&server, Duration::from_secs(1)).await;
            let before = server.cpu_us();
            let (acknowledged, took) = flood(&server, Duration::from_secs(seconds)).await;
            let cpu_us = (server.cpu_us() - before) as f64 / acknowledged as f64;
            let rate = acknowledged as f64 / took.as_secs_f64();
            println!("round {round}: {name:10} {rate:9.0}/s  {cpu_us:6.1} us CPU each");
            rates.push(rate);
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let ours = median(&mut rates[0].1).unwrap();
    println!("tidegate, every PUBACK after fdatasync: median {ours:.0}/s");
    for (name, rates) in &mut rates[1..] {
        match median(rates) {
            Some(theirs) => println!("{name}: median {theirs:.0}/s; ratio {:.2}", ours / theirs),
            None => println!("{name}: not installed, left out"),
        }
    }
}

/// Publishes for `time`; what was acknowledged, and how long it took.
async fn flood(server: &Server, time: Duration) -> (u64, Duration) {
    let mut clients = Vec::new();
    for i in 0..CONNECTIONS {
        clients.push(Client::connect(server.address, &format!("flood-{i}")).await);
    }
    let begun = Instant::now();
    let until = begun + time;
    let work = clients.into_iter().enumerate().map(|(i, mut client)| async move {
        client.flood(&format!("devices/dev-{i}/reading"), PAYLOAD_BYTES, IN_FLIGHT, until).await
    });
    let counts = futures_util::future::join_all(work).await;
    (counts.iter().sum(), begun.elapsed())
}

async fn connections(number: usize) {
    tidegate::sys::limits::raise_open_files(number as u64 + 1000).unwrap();
    let server = Server::start("tidegate").await.unwrap();
    let alone_kb = server.resident_kb();
    let address = server.address;
    let begun = Instant::now();
    let mut clients: Vec<Client> = Vec::with_capacity(number);
    while clients.len() < number {
        let next = clients.len()..number.min(clients.len() + CONNECTING_MAX);
        let some = next.map(|i| async move { Client::connect(address, &format!("idle-{i}")).await });
        clients.extend(futures_util::future::join_all(some).await);
    }
    println!("{number} connections in {:.1} s", begun.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle_kb = server.resident_kb();
    println!(
        "resident: {:.1} MB alone, {:.1} MB with {number} idle connections ({:.1} KB each)",
        alone_kb as f64 / 1e3,
        idle_kb as f64 / 1e3,
        (idle_kb - alone_kb) as f64 / number as f64
    );
    let begun = Instant::now() + Duration::from_millis(200);
    let seconds = 20;
    let work = clients.into_iter().enumerate().map(|(i, mut client)| async move {
        let phase = Duration::from_micros((i as u64 * 1_000_000) / number as u64);
        client.paced(&format!("devices/dev-{i}/reading"), PAYLOAD_BYTES, begun + phase, seconds).await
    });
    let latencies: Vec<(Duration, Duration)> =
        futures_util::future::join_all(work).await.into_iter().flatten().collect();
    assert_eq!(latencies.len(), number * seconds as usize, "a publish was not acknowledged");
    show("PUBACK after PUBLISH", latencies.iter().map(|l| l.0).collect());
    show("PUBACK after it was due", latencies.iter().map(|l| l.1).collect());
    println!("resident {:.1} MB", server.resident_kb() as f64 / 1e3);
}

fn show(what: &str, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let at = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize];
    println!(
        "{what}: p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?} of {}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        latencies.len()
    );
}
