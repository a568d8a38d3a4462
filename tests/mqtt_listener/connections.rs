//! Connections that are many, slow, oversized, or open when the gateway stops.

use std::time::{Duration, Instant};

use tidegate::ingest::mqtt::transport::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::Gate;
use crate::support::eventually;
use crate::support::mqtt::{Client, Options, PATIENCE, Reply};

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_does_not_come_in_time_ends_the_connection() {
    let gate = Gate::start(|c| c.mqtt.connect_timeout = Duration::from_millis(300));
    let silent = TcpStream::connect(gate.address(Kind::Tcp)).await.unwrap();
    let slow = TcpStream::connect(gate.address(Kind::Tcp)).await.unwrap();
    let upgrade = TcpStream::connect(gate.address(Kind::Ws)).await.unwrap();
    let begun = Instant::now();
    let drip = |mut stream: TcpStream, bytes: Vec<u8>| async move {
        for byte in bytes.chunks(1) {
            if stream.write_all(byte).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let _ = stream.read(&mut [0; 8]).await;
    };
    let connect = Options::new("a").bytes();
    tokio::join!(drip(silent, Vec::new()), drip(slow, connect), drip(upgrade, b"GET / HTTP/1.1\r\nHost: x".to_vec()));
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    gate.connect(Options::new("a")).await.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_that_is_too_large_is_refused_from_its_first_bytes() {
    let gate = Gate::start(|c| c.mqtt.max_packet = 2048);
    let mut client = gate.connect(Options::new("a")).await;
    // Four megabytes are announced, and none comes.
    client.write(&[0x32, 0xFF, 0xFF, 0xFF, 0x01]).await;
    assert_eq!(client.next().await, Reply::Disconnect { reason: 0x95 });
    assert!(client.ends().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_has_256_kib() {
    let gate = Gate::start(|_| {});
    let mut client = Client::raw(TcpStream::connect(gate.address(Kind::Tcp)).await.unwrap(), true);
    let mut connect = Options::new("a").bytes();
    // A remaining length of 256 KiB.
    connect.splice(1..2, [0x80, 0x80, 0x10]);
    client.write(&connect).await;
    assert_eq!(client.next().await, Reply::Connack { present: false, reason: 0x95 });
    assert!(client.ends().await);
}

/// It holds a share of what all large packets may take.
#[tokio::test]
async fn a_large_packet_that_does_not_come_on_is_not_waited_for() {
    let gate = Gate::start(|_| {});
    let mut client = gate.connect(Options::new("a")).await;
    let publish = client.publish_bytes("t", &[b'x'; 100_000], 1, false, false, 1);
    client.write(&publish[..50_000]).await;
    let held = || gate.metric("tidegate_mqtt_memory_bytes");
    eventually("half of it is here", PATIENCE, held, |held| *held >= 50_000.0).await;
    tokio::time::pause();
    // A minute, and 48 s for 48 KiB.
    tokio::time::advance(Duration::from_secs(100)).await;
    client.write(&publish[50_000..50_001]).await;
    assert!(held() >= 50_000.0);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(client.next().await, Reply::Disconnect { reason: 0x97 });
    eventually("it is given back", PATIENCE, held, |held| *held == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_ends_only_its_own_connection() {
    let gate = Gate::start(|_| {});
    let mut well = gate.connect(Options::new("well")).await;
    let mut client = Client::raw(TcpStream::connect(gate.address(Kind::Tcp)).await.unwrap(), true);
    client.write(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(client.ends().await);
    let mut client = gate.connect(Options::new("a")).await;
    client.write(&[0x00, 0x00]).await;
    assert_eq!(client.next().await, Reply::Disconnect { reason: 0x81 });
    assert!(client.ends().await);
    well.publish_and_wait("t", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_disturbs_nobody() {
    const MESSAGES: usize = 400;
    let gate = Gate::start(|c| c.mqtt.unmapped = tidegate::config::edge::Unmapped::Local);
    // It subscribes and never reads again.
    let mut slow = gate.connect(Options::new("slow")).await;
    slow.subscribe("t", 0).await;
    let mut quick = gate.connect(Options::new("quick")).await;
    quick.subscribe("t", 1).await;
    let mut publisher = gate.connect(Options::new("publisher")).await;
    // 40 MB: more than all buffers between us and it.
    let payload = vec![b'x'; 100_000];
    let begun = Instant::now();
    for _ in 0..MESSAGES {
        publisher.publish_and_wait("t", &payload).await;
        let Reply::Publish { id, .. } = quick.next().await else { panic!("not a message") };
        quick.answer(0x40, id).await;
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let counts = gate.hub.counts();
    assert!(counts.dropped.slow > 0, "{counts:?}");
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_is_heard_while_much_waits_for_it() {
    const MESSAGES: usize = 200;
    let gate = Gate::start(|c| {
        c.mqtt.unmapped = tidegate::config::edge::Unmapped::Local;
        c.mqtt.max_queued_bytes = 32 << 20;
    });
    let mut reader = gate.connect(Options::new("reader")).await;
    reader.subscribe("t", 0).await;
    let mut publisher = gate.connect(Options::new("publisher")).await;
    // 20 MB: the kernel keeps some 4 MB of it for a client that does not read, the others wait in the broker.
    let payload = vec![b'x'; 100_000];
    for _ in 0..MESSAGES {
        publisher.publish_and_wait("t", &payload).await;
    }
    reader.write(&[0xC0, 0]).await;
    // From here on there is always something to deliver, until there is nothing.
    let mut before = 0;
    while let Reply::Publish { .. } = reader.next().await {
        before += 1;
    }
    assert!(before < MESSAGES / 2, "the PINGREQ was read after {before} of {MESSAGES} messages");
    for _ in before..MESSAGES {
        assert_eq!(reader.next().await.payload().len(), payload.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_cap_connections_wait_and_are_served_later() {
    let gate = Gate::start(|c| c.mqtt.max_connections = 1);
    let first = gate.connect(Options::new("a")).await;
    let mut second = Client::raw(TcpStream::connect(gate.address(Kind::Tcp)).await.unwrap(), true);
    second.write(&Options::new("b").bytes()).await;
    assert_eq!(second.within(Duration::from_millis(200)).await, None);
    first.disconnect().await;
    assert_eq!(second.next().await, Reply::Connack { present: false, reason: 0 });
}

/// Bytes of resident memory of a process.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// What 10,000 may cost in all is 120 MB, of which 8 MB is the process itself.
const BYTES_PER_CONNECTION_MAX: u64 = 11 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_takes_little_memory() {
    let count = crate::support::setting("TIDEGATE_TEST_CONNECTIONS", 2000);
    let edge = crate::kill::Edge::start();
    let pid = edge.process.pid().unwrap();
    // What is made once: threads, their buffers, the first commit.
    let mut first = Client::connect(edge.mqtt, Options::new("first")).await;
    first.publish_and_wait("devices/d/r", "1").await;
    let before = resident(pid);
    let mut clients = Vec::new();
    for n in 0..count {
        let mut client =
            Client::connect(edge.mqtt, Options { keep_alive: 600, ..Options::new(&format!("c{n}")) }).await;
        client.subscribe(&format!("devices/c{n}/commands/#"), 1).await;
        client.publish_and_wait("site/x", "hello").await;
        clients.push(client);
    }
    let each = (resident(pid) - before) / count;
    println!("{each} bytes each");
    assert!(each <= BYTES_PER_CONNECTION_MAX, "{each} bytes each");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_with_connect_is_taken() {
    let gate = Gate::start(|_| {});
    let mut client = Client::raw(TcpStream::connect(gate.address(Kind::Tcp)).await.unwrap(), true);
    let mut bytes = Options::new("a").bytes();
    bytes.extend(client.publish_bytes("devices/d/r", b"1", 1, false, false, 7));
    client.write(&bytes).await;
    assert_eq!(client.next().await, Reply::Connack { present: false, reason: 0 });
    client.puback(7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_what_is_in_flight_is_answered_and_clients_are_told() {
    let gate = Gate::start(|_| {});
    let mut client = gate.connect(Options::new("a")).await;
    let mut old = gate.connect(Options::v311("b")).await;
    let idle = gate.connect(Options::new("c").will("devices/c/state", "gone")).await;
    let mut bytes = Vec::new();
    for id in 1..=50 {
        bytes.extend(client.publish_bytes("devices/d/r", b"1", 1, false, false, id));
    }
    client.write(&bytes).await;
    eventually("some are stored", PATIENCE, || gate.last("telemetry"), |n| *n > 0).await;
    assert!(gate.tasks.stop(PATIENCE).await, "everything ended in time");
    let mut acknowledged = 0;
    loop {
        match client.next().await {
            Reply::Puback { reason: 0 | 0x10, .. } => acknowledged += 1,
            Reply::Disconnect { reason: 0x8B } => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(client.ends().await && old.ends().await);
    drop(idle);
    let stored = gate.stored("telemetry").await;
    let wills = stored.iter().filter(|e| &e.data[..] == b"gone").count();
    assert_eq!(wills, 1, "a client that is cut off leaves its will, also when it is the gateway that ends");
    assert_eq!(stored.len() - wills, acknowledged);
    assert!(gate.hub.is_empty());
}
