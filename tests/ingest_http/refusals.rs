//! What bad input gets: the exact status, a problem document that names the place, and nothing stored.

use std::io::Write;
use std::time::Duration;

use serde_json::json;
use tidegate::config::edge::Lane;

use crate::harness::{Gate, request};

const JSON: &str = "content-type: application/json\r\n";
const LINES: &str = "content-type: application/x-ndjson\r\n";
const BATCH: &str = "content-type: application/cloudevents-batch+json\r\n";

fn event(id: &str, ty: &str) -> serde_json::Value {
    json!({"specversion": "1.0", "id": id, "source": "s", "type": ty})
}

#[tokio::test]
async fn malformed_json_is_400_with_the_position() {
    let gate = Gate::start(|_| {});
    let detail = gate.post("/v1/events", JSON, "{\"a\":\n tru}").await.problem(400, "malformed-body");
    assert!(detail.contains("line 2, column"), "{detail}");
    let deep = "[".repeat(100_000);
    let detail = gate.post("/v1/events", JSON, deep).await.problem(400, "malformed-body");
    assert!(detail.contains("deeper than 128"), "{detail}");
    assert_eq!(gate.metric("tidegate_http_refused_total{reason=\"malformed-body\"}").await, 2.0);
    assert_eq!(gate.metric("tidegate_http_requests_total{code=\"400\"}").await, 2.0);
    assert!(gate.stored("telemetry").await.is_empty());
}

#[tokio::test]
async fn one_bad_event_refuses_the_batch_and_is_named() {
    let gate = Gate::start(|_| {});
    let reply = gate.post("/v1/events", BATCH, json!([event("1", "t"), event("2", "")]).to_string()).await;
    let detail = reply.problem(400, "invalid-event");
    assert!(detail.starts_with("event 1: ") && detail.contains("\"type\""), "{detail}");
    assert_eq!(reply.json()["index"], 1);
    let reply = gate.post("/v1/events", LINES, "1\n\n{\"a\"}\n").await;
    assert!(reply.problem(400, "malformed-body").starts_with("line 3: "));
    assert_eq!(reply.json()["line"], 3);
    assert!(gate.stored("telemetry").await.is_empty(), "all or nothing");
}

#[tokio::test]
async fn a_subject_that_is_not_the_paths_device_is_400() {
    let gate = Gate::start(|_| {});
    let mut other = event("1", "t");
    other["subject"] = "b".into();
    let reply = gate.post("/v1/devices/a/events", BATCH, json!([event("0", "t"), other]).to_string()).await;
    assert!(reply.problem(400, "subject-mismatch").starts_with("event 1: subject \"b\""));
    gate.post("/v1/devices/a/events?subject=b", JSON, "1").await.problem(400, "subject-mismatch");
}

#[tokio::test]
async fn events_of_two_lanes_in_one_request_are_400() {
    let gate = Gate::start(|c| {
        c.lanes.insert(0, Lane { name: "alarms".into(), types: vec!["*.alarm".into()], mqtt: Vec::new() })
    });
    let body = json!([event("1", "t"), event("2", "t"), event("3", "x.alarm")]).to_string();
    let reply = gate.post("/v1/events", BATCH, body).await;
    let detail = reply.problem(400, "mixed-lanes");
    assert_eq!(reply.json()["index"], 2);
    assert!(detail.contains("\"alarms\"") && detail.contains("\"telemetry\""), "{detail}");
    assert!(gate.stored("telemetry").await.is_empty() && gate.stored("alarms").await.is_empty());
}

#[tokio::test]
async fn queries_are_read_strictly() {
    let gate = Gate::start(|_| {});
    for (query, word) in
        [("tpye=x", "\"tpye\""), ("type=", "\"type\""), ("type=a&type=b", "twice"), ("type=%FF", "UTF-8")]
    {
        let detail = gate.post(&format!("/v1/events?{query}"), JSON, "1").await.problem(400, "bad-request");
        assert!(detail.contains(word), "{detail}");
    }
    gate.post("/v1/devices/%FF/events", JSON, "1").await.problem(400, "bad-request");
}

#[tokio::test]
async fn unknown_types_and_encodings_are_415_with_the_way_out() {
    let gate = Gate::start(|_| {});
    let form = gate.post("/v1/events", "content-type: application/x-www-form-urlencoded\r\n", "{}").await;
    assert!(form.problem(415, "unsupported-media-type").contains("-H 'Content-Type: application/json'"));
    assert!(form.headers["accept-post"].contains("application/x-ndjson"));
    let event = gate.post("/v1/events", JSON, event("1", "t").to_string()).await;
    assert!(event.problem(415, "unsupported-media-type").contains("application/cloudevents+json"));
    let brotli = gate.post("/v1/events", &format!("{JSON}content-encoding: br\r\n"), "{}").await;
    assert!(brotli.problem(415, "unsupported-encoding").contains("gzip, zstd"));
    assert_eq!(brotli.headers["accept-encoding"], "gzip, zstd");
}

#[tokio::test]
async fn other_paths_and_methods_are_404_and_405() {
    let gate = Gate::start(|_| {});
    for path in ["/", "/v1/events//", "/v1/devices/a/b/events", "/v2/events", "/v1/devices//events"] {
        assert!(gate.post(path, JSON, "1").await.problem(404, "not-found").contains("POST /v1/events"), "{path}");
    }
    for (path, allow) in [("/v1/events", "POST"), ("/v1/devices/d/events", "POST")] {
        let reply = gate.get(path).await;
        reply.problem(405, "method-not-allowed");
        assert_eq!(reply.headers["allow"], allow);
    }
    for path in ["/v1/status", "/healthz", "/readyz", "/metrics"] {
        let reply = gate.post(path, JSON, "1").await;
        reply.problem(405, "method-not-allowed");
        assert_eq!(reply.headers["allow"], "GET, HEAD");
    }
}

#[tokio::test]
async fn too_large_is_413_announced_chunked_or_inflated() {
    let gate = Gate::start(|c| {
        c.http.max_body = 1000;
        c.http.max_inflated = 2000;
        c.http.max_batch = 3;
        c.outbox.max_event = 900;
    });
    // Announced: refused before the body is sent, and before "100 Continue".
    let mut client = gate.connect().await;
    client
        .write(format!(
            "POST /v1/events HTTP/1.1\r\nhost: x\r\n{JSON}expect: 100-continue\r\ncontent-length: 1001\r\n\r\n"
        ))
        .await;
    assert!(client.reply().await.problem(413, "body-too-large").contains("1000"));
    // Chunked: refused as soon as it is too much, while the sender goes on.
    let mut client = gate.connect().await;
    client.write(format!("POST /v1/events HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n")).await;
    for _ in 0..4 {
        client.write(format!("100\r\n{}\r\n", "1".repeat(0x100))).await;
    }
    let reply = client.reply().await;
    reply.problem(413, "body-too-large");
    assert_eq!(reply.headers["connection"], "close");
    // Inflated.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&[b'1'; 2001]).unwrap();
    let reply = gate.post("/v1/events", &format!("{JSON}content-encoding: gzip\r\n"), gzip.finish().unwrap()).await;
    reply.problem(413, "inflated-too-large");
    // Too many, and one too large.
    gate.post("/v1/events", LINES, "1\n2\n3\n4\n").await.problem(413, "too-many-events");
    let reply = gate.post("/v1/events", LINES, format!("1\n\n\"{}\"", "x".repeat(900))).await;
    assert!(reply.problem(413, "event-too-large").starts_with("line 3: "));
    assert!(gate.stored("telemetry").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_413_and_leaves_the_gateway_well() {
    let gate = Gate::start(|_| {});
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![b' '; 1 << 20];
    for _ in 0..200 {
        gzip.write_all(&zeros).unwrap();
    }
    let gzip = gzip.finish().unwrap();
    assert!(gzip.len() < 1 << 20);
    // Either limit may be met first: what comes out, or the memory that this takes.
    let status = gate.post("/v1/events", &format!("{JSON}content-encoding: gzip\r\n"), gzip).await.status;
    assert_eq!(status, 413);
    assert_eq!(gate.metric("tidegate_http_body_memory_bytes").await, 0.0);
    assert_eq!(gate.post("/v1/events", JSON, "1").await.status, 202);
}

#[tokio::test]
async fn a_sender_of_100_mb_reads_its_413_although_it_only_looks_at_the_end() {
    let gate = Gate::start(|_| {});
    let mut client = gate.connect().await;
    client.write(format!("POST /v1/events HTTP/1.1\r\nhost: x\r\n{JSON}content-length: 100000000\r\n\r\n")).await;
    let part = vec![b'1'; 1_000_000];
    for _ in 0..100 {
        client.write(&part).await;
    }
    client.reply().await.problem(413, "body-too-large");
    assert!(client.ends().await);
}

#[tokio::test]
async fn bodies_over_the_memory_limit_are_503_and_others_go_on() {
    let gate = Gate::start(|c| c.http.max_memory = 100_000);
    let mut hog = gate.connect().await;
    hog.write(&request("/v1/events", JSON, vec![b'1'; 60_000])[..50_000]).await;
    while gate.metric("tidegate_http_body_memory_bytes").await < 40_000.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let reply = gate.post("/v1/events", JSON, vec![b'1'; 80_000]).await;
    reply.problem(503, "memory-full");
    assert_eq!(reply.headers["retry-after"], "1");
    assert_eq!(gate.post("/v1/events", JSON, "1").await.status, 202, "a small one fits");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408_and_one_cut_short_400() {
    let gate = Gate::start(|c| c.http.body_timeout = Duration::from_millis(300));
    let mut client = gate.connect().await;
    client.write(format!("POST /v1/events HTTP/1.1\r\nhost: x\r\n{JSON}content-length: 10\r\n\r\n[1,")).await;
    let reply = client.reply().await;
    reply.problem(408, "body-timeout");
    assert_eq!(reply.headers["connection"], "close");
    // The length lies: the sender ends before it.
    let mut client = gate.connect().await;
    client.write(format!("POST /v1/events HTTP/1.1\r\nhost: x\r\n{JSON}content-length: 10\r\n\r\n[1]")).await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    client.reply().await.problem(400, "malformed-body");
    // The length lies the other way: what is left over is not a request, and is never an event.
    let mut client = gate.connect().await;
    client.write(format!("POST /v1/events HTTP/1.1\r\nhost: x\r\n{JSON}content-length: 1\r\n\r\n12\r\n\r\n")).await;
    assert_eq!(client.reply().await.status, 202);
    assert_eq!(client.reply().await.status, 400);
    assert!(client.ends().await);
    assert_eq!(gate.stored("telemetry").await.len(), 1);
}
