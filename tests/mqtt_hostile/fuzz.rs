//! The whole way in under damaged bytes: sockets, connections, broker, journal and outbox, in this process.
//!
//! `TIDEGATE_FUZZ_CASES` sets how many; a failure names the seed and the numbers of the batch that repeat it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate::config::EdgeConfig;
use tidegate::config::edge::Durability;
use tidegate::ingest::mqtt::transport::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bystander::Bystander;
use crate::harness::Gate;
use crate::support::mqtt_mutator::{case, websocket};
use crate::support::random::Random;
use crate::support::{eventually, setting};

const CASES_IN_CI: u64 = 40_000;

/// After so many the gateway is looked at.
const BATCH: u64 = 20_000;

/// Clients at once.
const CLIENTS: u64 = 48;

/// A client that has closed, or was told to go, and is still served after this hangs.
const END_MAX: Duration = Duration::from_secs(20);

/// The resident memory may grow by this after the first batch: queues, retained messages and the outbox's cache within their limits,
/// which [`small`] sets.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// Limits that the cases reach.
fn small(config: &mut EdgeConfig) {
    config.outbox.durability = Durability::Os;
    config.outbox.max_bytes = 256 << 20;
    let mqtt = &mut config.mqtt;
    (mqtt.max_packet, mqtt.receive_max) = (4096, 20);
    (mqtt.max_sessions, mqtt.session_expiry_max) = (300, Duration::from_secs(1));
    (mqtt.max_subscriptions, mqtt.max_queued, mqtt.max_queued_bytes) = (10, 50, 32 << 10);
    (mqtt.max_retained, mqtt.max_retained_bytes, mqtt.max_total_bytes) = (200, 256 << 10, 16 << 20);
    mqtt.connect_timeout = Duration::from_secs(5);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_end_their_own_connection_and_nothing_else() {
    let seed = Random::from_environment().seed();
    let (first, cases) = (setting("TIDEGATE_FUZZ_FIRST", 0), setting("TIDEGATE_FUZZ_CASES", CASES_IN_CI));
    let panics = count_panics();
    let gate = Gate::start(small);
    let lane = gate.outbox.status()[0].lane.clone();
    let (tcp, ws) = (gate.address(Kind::Tcp), gate.address(Kind::Ws));
    let mut honest = Bystander::connect(tcp).await;
    let (begun, mut memory) = (Instant::now(), None);
    for batch in (first..first + cases).step_by(BATCH as usize) {
        let end = (batch + BATCH).min(first + cases);
        let clients: JoinSet<()> = (0..CLIENTS)
            .map(|lane| async move {
                for number in (batch + lane..end).step_by(CLIENTS as usize) {
                    hostile(tcp, ws, seed, number).await;
                }
            })
            .collect();
        let clients = tokio::spawn(clients.join_all());
        while !clients.is_finished() {
            honest.exchange().await;
        }
        clients.await.unwrap();
        honest.exchange().await;
        // As an uplink would.
        let uplink = gate.outbox.reader(&lane).unwrap();
        uplink.confirm(uplink.last_durable());
        look(&gate, &panics, seed, batch, end).await;
        let now = resident();
        let before = *memory.get_or_insert(now);
        assert!(
            now < before + GROWTH_BYTES_MAX,
            "{now} bytes resident after case {end}, {before} after the first batch"
        );
        if end % 100_000 == 0 || end == first + cases {
            let rate = (end - first) as f64 / begun.elapsed().as_secs_f64();
            println!(
                "{} cases, {rate:.0}/s, {} MiB, honest client at most {:?}",
                end - first,
                now >> 20,
                honest.longest
            );
        }
    }
    assert!(gate.tasks.failure().is_none());
    // Most cases are stopped early; enough are not.
    for (packet, share) in [("connect", 3), ("publish", 20), ("subscribe", 100), ("pubrel", 500)] {
        let n = gate.metric(&format!("tidegate_mqtt_packets_received_total{{type=\"{packet}\"}}"));
        println!("{n} {packet} packets were understood");
        assert!(n >= (cases / share) as f64 || cases < BATCH, "only {n} {packet} packets reached the broker");
    }
}

/// One client: sends its bytes, in one piece or several, and waits for the end or not.
async fn hostile(tcp: SocketAddr, ws: SocketAddr, seed: u64, number: u64) {
    let mut random = Random::seeded(seed ^ number.rotate_left(32));
    let over_ws = random.below(8) == 0;
    let sent = case(seed, number).bytes();
    let bytes = if over_ws { websocket(seed, number, &sent) } else { sent };
    let mut stream = TcpStream::connect(if over_ws { ws } else { tcp }).await.unwrap();
    let cut = match random.below(4) {
        0 => random.below(bytes.len() as u64 + 1) as usize,
        _ => bytes.len(),
    };
    // It may be closed meanwhile.
    let _ = stream.write_all(&bytes[..cut]).await;
    if cut < bytes.len() {
        tokio::task::yield_now().await;
        let _ = stream.write_all(&bytes[cut..]).await;
    }
    if random.below(8) == 0 {
        return;
    }
    let _ = stream.shutdown().await;
    let mut scratch = [0; 1024];
    let ended = timeout(END_MAX, async { while stream.read(&mut scratch).await.is_ok_and(|n| n > 0) {} }).await;
    assert!(ended.is_ok(), "case {number} of seed {seed} is still served after {END_MAX:?}");
}

/// Everything is as it was before.
async fn look(gate: &Gate, panics: &AtomicU64, seed: u64, first: u64, end: u64) {
    let replay = format!("TIDEGATE_TEST_SEED={seed} TIDEGATE_FUZZ_FIRST={first} TIDEGATE_FUZZ_CASES={}", end - first);
    assert_eq!(panics.load(Ordering::Relaxed), 0, "something panicked: {replay}");
    let connections = || gate.hub.counts().connections;
    eventually(&format!("only the honest client is left: {replay}"), END_MAX, connections, |n| *n == 1).await;
    // Sessions end within their second.
    let sessions = || gate.hub.counts().sessions;
    eventually(&format!("all sessions have ended: {replay}"), END_MAX, sessions, |n| *n == 1).await;
    let counts = gate.hub.counts();
    assert_eq!((counts.subscriptions, counts.shared_subscriptions), (1, 0), "{replay}");
    // The honest client's last acknowledgement may still be on its way.
    let queued = || (gate.hub.counts().queued, gate.hub.counts().queued_bytes);
    eventually(&format!("nothing waits: {replay}"), END_MAX, queued, |q| *q == (0, 0)).await;
    assert!(counts.retained <= 200 && counts.retained_bytes <= 256 << 10, "{counts:?}: {replay}");
    let open: f64 = ["tcp", "ws"]
        .map(|kind| gate.metric(&format!("tidegate_mqtt_connections_open{{kind=\"{kind}\"}}")))
        .iter()
        .sum();
    assert!(open <= 1.0, "{open} connections are counted: {replay}");
}

fn count_panics() -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let (counter, hook) = (count.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counter.fetch_add(1, Ordering::Relaxed);
        hook(info);
    }));
    count
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
