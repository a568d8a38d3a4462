//! What bad input gets: a clear error or a bounded wait, while a well-behaved device next to it loses nothing.
//! The built binary, without a broker: everything waits in the outbox and is counted there.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use support::fleet::{Fleet, Plan, simulated};
use support::process::{Tidegate, run};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

impl Answer {
    /// The `detail` of a problem document (RFC 9457); panics when the answer is not one.
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.content_type, "application/problem+json", "{}", self.body);
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], status);
        problem["detail"].as_str().unwrap_or_else(|| panic!("no detail: {}", self.body)).to_owned()
    }
}

fn edge(dir: &Path, extra: &str) -> Tidegate {
    let config = format!("[node]\nid = \"bad-input\"\ndata_dir = {:?}\n\n{extra}", dir.join("data"));
    let mut edge = Tidegate::start(Path::new(BINARY), "edge", dir, &config);
    edge.wait_ready(Duration::from_secs(30));
    edge
}

fn post(edge: &Tidegate, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into();
    let mut request = agent.post(format!("{}/v1/events", edge.url())).header("content-type", content_type);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = request.send(body).expect("an answer");
    Answer {
        status: response.status().as_u16(),
        content_type: response.headers().get("content-type").map_or("", |v| v.to_str().unwrap()).to_owned(),
        body: response.body_mut().read_to_string().unwrap(),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn refusals_name_the_reason_and_cost_nobody_else_anything() {
    let dir = tempfile::tempdir().unwrap();
    let edge = edge(dir.path(), "");
    let fleet = Fleet::start(Plan {
        url: edge.url(),
        devices: 2,
        events_per_device: u64::MAX,
        rate: 200,
        data: std::sync::Arc::new(simulated),
        prefix: "good".into(),
    });

    let ce = "application/cloudevents+json";
    post(&edge, ce, &[], b"{\"specversion\":\"1.0\",").problem(400);
    post(&edge, "application/json", &[], b"{\"a\":").problem(400);
    let line_two = post(&edge, "application/x-ndjson", &[], b"{\"a\":1}\n{\"a\":\n").problem(400);
    assert!(line_two.contains("line 2"), "{line_two}");
    let second =
        br#"[{"specversion":"1.0","id":"1","source":"s","type":"t"},{"specversion":"1.0","id":"2","source":"s"}]"#;
    let index_one = post(&edge, "application/cloudevents-batch+json", &[], second).problem(400);
    assert!(index_one.contains('1') && index_one.contains("type"), "{index_one}");
    post(&edge, "application/x-made-up", &[], b"hello").problem(415);
    post(&edge, "application/json", &[("content-encoding", "br")], b"hello").problem(415);

    let large = vec![b' '; 100 << 20];
    post(&edge, "application/json", &[], &large).problem(413);
    let bomb = gzip(&vec![b'0'; 512 << 20]);
    post(&edge, "application/json", &[("content-encoding", "gzip")], &bomb).problem(413);
    let over = format!("\"{}\"", "x".repeat(2 << 20));
    let limit = post(&edge, "application/json", &[], over.as_bytes()).problem(413);
    assert!(limit.contains("1048576") || limit.contains("MiB"), "the limit is named: {limit}");
    let deep = "[".repeat(100_000);
    post(&edge, "application/json", &[], deep.as_bytes()).problem(400);

    let ledger = fleet.stop();
    let acknowledged: u64 = ledger.values().map(|d| d.acknowledged.len() as u64).sum();
    assert!(acknowledged > 0);
    assert_eq!(edge.backlog(), Some(acknowledged), "what was refused is not stored, what was accepted is");
    assert!(resident_kib(&edge) < 200 * 1024, "memory stays bounded: {} KiB", resident_kib(&edge));
}

#[test]
fn slow_heads_and_slow_bodies_are_closed_in_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut edge = Tidegate::start(
        Path::new(BINARY),
        "edge",
        dir.path(),
        &format!(
            "header_timeout = \"1s\"\nbody_timeout = \"1s\"\n\n[node]\ndata_dir = {:?}\n",
            dir.path().join("data")
        ),
    );
    edge.wait_ready(Duration::from_secs(30));
    let address = edge.url().trim_start_matches("http://").to_owned();

    let mut head = TcpStream::connect(&address).unwrap();
    head.write_all(b"POST /v1/events HTTP/1.1\r\nhost: x\r\n").unwrap();
    let mut body = TcpStream::connect(&address).unwrap();
    body.write_all(
        b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    )
    .unwrap();
    for (mut stream, expected) in [(head, ""), (body, "408")] {
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("closed by the server, not by our time-out");
        assert!(answer.contains(expected), "{answer}");
    }
    assert_eq!(edge.backlog(), Some(0));
}

#[test]
fn ten_thousand_connections_do_not_lock_out_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let edge = edge(dir.path(), "");
    let address = edge.url().trim_start_matches("http://").to_owned();
    if tidegate::sys::limits::raise_open_files(10_500).unwrap() < 10_500 {
        println!("skipped: this user may not open 10,500 files; `ulimit -Hn` says how many");
        return;
    }
    let idle: Vec<TcpStream> =
        (0..10_000).map(|i| TcpStream::connect(&address).unwrap_or_else(|e| panic!("{i}: {e}"))).collect();
    let answer = post(&edge, "application/json", &[], b"{\"still\":\"here\"}");
    assert_eq!(answer.status, 202, "{}", answer.body);
    drop(idle);
    assert_eq!(post(&edge, "application/json", &[], b"1").status, 202);
    assert_eq!(edge.backlog(), Some(2));
}

#[test]
fn a_mistake_in_the_configuration_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edge.toml");
    std::fs::write(&file, "[node]\nid = \"a.b\"\n\n[http]\nlisten = \"nonsense\"\nlissten = 1\n").unwrap();
    let path = file.to_string_lossy().into_owned();
    for args in [vec!["edge", "--config", &path], vec!["check", &path]] {
        let (code, out, err) = run(Path::new(BINARY), &args);
        assert_eq!(code, 64, "{out}{err}");
        let said = format!("{out}{err}");
        for expected in
            [format!("{path}:2"), format!("{path}:5"), format!("{path}:6"), "lissten".into(), "listen".into()]
        {
            assert!(said.contains(&expected), "{expected} is not in:\n{said}");
        }
    }
}

#[test]
fn a_wrong_broker_address_is_said_in_status_and_events_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut edge = edge(dir.path(), "[uplink]\npulsar = [\"pulsar://127.0.0.1:1\"]\n");
    assert_eq!(post(&edge, "application/json", &[], b"{\"kept\":true}").status, 202);
    edge.wait_for("to say that the broker is not there", Duration::from_secs(20), |edge| {
        let status = edge.get("/v1/status").unwrap_or_default();
        let error = status["lanes"][0]["link"]["last_error"].as_str().unwrap_or_default().to_owned();
        error.contains("127.0.0.1:1")
    });
    assert_eq!(edge.backlog(), Some(1));
    assert_eq!(edge.terminate(Duration::from_secs(20)), Some(0));
}

fn resident_kib(edge: &Tidegate) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", edge.pid().unwrap())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A full disk without that directory, as after an upgrade in a long outage: the gateway must start, or it could never
/// deliver what fills the disk. A file in its place fails in the same way.
#[test]
fn a_gateway_starts_although_the_files_of_pushed_configuration_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("data/downlink"), "in the way").unwrap();
    let edge = edge(dir.path(), "");
    assert_eq!(post(&edge, "application/json", &[], b"{}").status, 202);
    assert!(edge.log_tail().contains("own file runs alone"), "{}", edge.log_tail());
}
