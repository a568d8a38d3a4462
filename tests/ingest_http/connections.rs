//! Connections that are many, slow, half closed, or open when the gateway stops.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::harness::{Gate, PATIENCE, request};

const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn a_slow_head_and_an_idle_connection_are_closed() {
    let gate = Gate::start(|c| c.http.header_timeout = Duration::from_millis(300));
    let mut silent = gate.connect().await;
    let mut slow = gate.connect().await;
    slow.write("POST /v1/events HTTP/1.1\r\nhos").await;
    let mut idle = gate.connect().await;
    idle.write(request("/v1/events", JSON, "1")).await;
    assert_eq!(idle.reply().await.status, 202);
    let begun = Instant::now();
    assert!(silent.ends().await && slow.ends().await && idle.ends().await);
    assert!(begun.elapsed() < PATIENCE / 2);
    assert_eq!(gate.post("/v1/events", JSON, "1").await.status, 202);
}

#[tokio::test]
async fn one_byte_at_a_time_does_not_stretch_the_time_for_a_head() {
    let gate = Gate::start(|c| c.http.header_timeout = Duration::from_millis(300));
    let mut slow = gate.connect().await;
    slow.write("GET / HTTP/1.1\r\n").await;
    let drip = async {
        while slow.stream.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, drip).await.expect("the gateway closed");
}

#[tokio::test]
async fn a_head_without_end_is_431() {
    let gate = Gate::start(|_| {});
    let mut client = gate.connect().await;
    // A little more than the gateway buffers. (The answer is hyper's own: it has no problem document.)
    client.write(format!("GET /healthz HTTP/1.1\r\nx: {}", "a".repeat(33 << 10))).await;
    assert_eq!(client.reply().await.status, 431);
    assert!(client.ends().await);
    assert_eq!(gate.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_half_closed_connection_still_gets_its_answer() {
    let gate = Gate::start(|_| {});
    let mut client = gate.connect().await;
    client.write(request("/v1/events", JSON, "1")).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.reply().await.status, 202);
    assert!(client.ends().await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let gate = Gate::start(|_| {});
    let mut client = gate.connect().await;
    client.write([request("/v1/events", JSON, "1"), request("/v1/events", JSON, "2")].concat()).await;
    assert_eq!(client.reply().await.json()["last"], 1);
    assert_eq!(client.reply().await.json()["last"], 2);
}

#[tokio::test]
async fn beyond_the_cap_connections_wait_and_are_served_later() {
    let gate = Gate::start(|c| c.http.max_connections = 2);
    let (first, mut second) = (gate.connect().await, gate.connect().await);
    second.write(request("/v1/events", JSON, "1")).await;
    assert_eq!(second.reply().await.status, 202);
    // The kernel takes it, nobody answers: both permits are taken.
    let mut third = gate.connect().await;
    third.write(request("/v1/events", JSON, "2")).await;
    let early = tokio::time::timeout(Duration::from_millis(300), third.stream.readable()).await;
    assert!(early.is_err(), "answered beyond the cap");
    drop(first);
    assert_eq!(third.reply().await.json()["last"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_idle_connections_are_fine() {
    // Both ends are in this process, two descriptors a connection: 10,000 of them need a limit of 22,000 open files.
    let files = tidegate::sys::limits::raise_open_files(22_000).unwrap();
    let count = usize::try_from(files).unwrap().saturating_sub(2000).min(20_000) / 2;
    if count < 10_000 {
        eprintln!("only {count} connections: the limit of open files is {files}");
    }
    let gate = Gate::start(|c| c.http.header_timeout = Duration::from_secs(120));
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        idle.push(gate.connect().await);
    }
    while gate.metric("tidegate_http_connections_open").await < count as f64 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let begun = Instant::now();
    assert_eq!(gate.post("/v1/events", JSON, "1").await.status, 202);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let last = idle.last_mut().unwrap();
    last.write(request("/v1/events", JSON, "2")).await;
    assert_eq!(last.reply().await.status, 202);
    drop(idle);
    while gate.metric("tidegate_http_connections_open").await > 2.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_is_in_flight_at_shutdown_is_stored_and_answered() {
    let gate = Gate::start(|_| {});
    let mut idle = gate.connect().await;
    idle.write(request("/v1/events", JSON, "1")).await;
    assert_eq!(idle.reply().await.status, 202);
    let mut busy = gate.connect().await;
    let whole = request("/v1/events", JSON, "[1,2]");
    let (early, late) = whole.split_at(whole.len() - 2);
    busy.write(early).await;
    // Its head has arrived once its body is waited for.
    while gate.metric("tidegate_http_body_memory_bytes").await < 3.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let tasks = gate.tasks.clone();
    let finish = async {
        assert!(idle.ends().await, "an idle connection is closed");
        busy.write(late).await;
        let reply = busy.reply().await;
        assert_eq!((reply.status, reply.headers["connection"].as_str()), (202, "close"));
        assert!(busy.ends().await);
    };
    let (stopped, ()) = tokio::join!(tasks.stop(PATIENCE), finish);
    assert!(stopped && tasks.failure().is_none());
    assert_eq!(gate.stored("telemetry").await.len(), 2);
    assert!(tokio::net::TcpStream::connect(gate.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_request_that_does_not_end_cannot_hold_up_the_shutdown() {
    let gate = Gate::start(|_| {});
    let mut stuck = gate.connect().await;
    stuck
        .write("POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n1")
        .await;
    let mut half_head = gate.connect().await;
    half_head.write("POST /v1/ev").await;
    while gate.metric("tidegate_http_body_memory_bytes").await < 1.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(gate.tasks.stop(PATIENCE).await);
    assert!(gate.stored("telemetry").await.is_empty());
}
