//! The cloud's HTTP interface while its broker cannot be reached: it answers, and says what is wrong.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::eventually;
use support::ports::free_port;
use tidegate::cloud::{self, StartError};
use tidegate::config::CloudConfig;
use tidegate::config::cloud::{FilesSink, Http, Sink};
use tidegate::observe::metrics::Metrics;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;

struct Running {
    tasks: Tasks,
    address: SocketAddr,
    config: CloudConfig,
    _dir: tempfile::TempDir,
}

fn running() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let mut config = CloudConfig::default();
    config.pulsar.service = format!("pulsar://127.0.0.1:{}", free_port()); // nobody listens there
    config.http = Http { listen: ([127, 0, 0, 1], 0).into() };
    config.sinks = vec![Sink::Files(FilesSink { dir: dir.path().to_owned(), ..FilesSink::default() })];
    let listener = cloud::api::Listener::bind(&config.http).unwrap();
    let (tasks, address) = (Tasks::new(), listener.address().unwrap());
    cloud::start(&tasks, &config, listener, Clock::system(), &Metrics::default()).unwrap();
    Running { tasks, address, config, _dir: dir }
}

/// Status, content type and body of the answer to `request`.
fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), kind.to_owned(), body.to_owned())
}

fn problem(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let (status, kind, body) = ask(address, method, path);
    assert_eq!(kind, "application/problem+json", "{path}: {body}");
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(document["status"], status);
    (status, document["detail"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_it_is_alive_not_ready_and_says_why() {
    let running = running();
    let address = running.address;
    assert_eq!(ask(address, "GET", "/healthz").0, 200);
    let ready = || problem(address, "GET", "/readyz");
    eventually("the reason", Duration::from_secs(20), ready, |(status, detail)| {
        assert_eq!(*status, 503);
        detail.contains("cannot connect to pulsar://127.0.0.1:")
    })
    .await;
    let (status, _, body) = ask(address, "GET", "/v1/status");
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &document["ready"]), (200, &Value::Bool(false)));
    assert!(document["lanes"][0]["problems"]["topic"]["since_ms"].as_i64().unwrap() > 0, "{body}");

    let (_, _, body) = ask(address, "GET", "/v1/audit?node=press-7&lane=telemetry");
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(document["totals"]["delivered"], 0);
    assert_eq!(document["totals"]["acknowledged"], Value::Null);

    let (_, kind, body) = ask(address, "GET", "/metrics");
    assert!(kind.starts_with("application/openmetrics-text"));
    for name in ["received", "stored", "duplicates", "acknowledged_entries", "raw_bytes", "consumer_restarts"] {
        assert!(body.contains(&format!("tidegate_cloud_{name}_total{{lane=\"telemetry\"}} 0")), "{name}: {body}");
    }
    assert!(body.contains("tidegate_cloud_missing{lane=\"telemetry\"} 0"), "{body}");

    let begun = Instant::now();
    assert!(running.tasks.stop(Duration::from_secs(10)).await);
    assert!(begun.elapsed() < Duration::from_secs(5), "nothing was under way");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_a_problem_document_that_says_what_would_be_right() {
    let running = running();
    let expect = |method: &str, path: &str, status: u16, part: &str| {
        let (is, detail) = problem(running.address, method, path);
        assert_eq!(is, status, "{path}: {detail}");
        assert!(detail.contains(part), "{path}: {detail}");
    };
    expect("GET", "/v1/nothing", 404, "/v1/audit");
    expect("GET", "/v1/audit?lane=alarms", 404, "telemetry");
    expect("GET", "/v1/audit?nod=x", 400, "node");
    expect("GET", "/v1/stream?lane=alarms", 404, "telemetry");
    expect("GET", "/v1/stream?node=%ff", 400, "UTF-8");
    expect("GET", "/v1/stream?node=a&node=b", 400, "twice");
    expect("POST", "/v1/audit", 405, "GET");
    expect("DELETE", "/", 404, "/healthz");
    assert!(running.tasks.stop(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_greeted_at_once_and_let_go_at_the_end() {
    let running = running();
    let mut stream = TcpStream::connect(running.address).unwrap();
    write!(stream, "GET /v1/stream HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "HTTP/1.1 200 OK");
    assert!(lines.any(|line| line == ": listening"));
    assert!(running.tasks.stop(Duration::from_secs(10)).await);
    assert!(lines.all(|line| !line.starts_with("data")), "the connection ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_owns_the_directory() {
    let running = running();
    let listener = cloud::api::Listener::bind(&running.config.http).unwrap();
    let second = cloud::start(&running.tasks, &running.config, listener, Clock::system(), &Metrics::default());
    assert!(matches!(second, Err(StartError::InUse(_))), "{second:?}");
    assert!(running.tasks.stop(Duration::from_secs(10)).await);
    let listener = cloud::api::Listener::bind(&running.config.http).unwrap();
    let tasks = Tasks::new();
    cloud::start(&tasks, &running.config, listener, Clock::system(), &Metrics::default()).unwrap();
    assert!(tasks.stop(Duration::from_secs(10)).await);
}

#[test]
fn a_taken_port_is_named_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = Http { listen: taken.local_addr().unwrap() };
    let error = cloud::api::Listener::bind(&http).unwrap_err().to_string();
    assert!(error.contains(&http.listen.to_string()) && error.contains("choose another"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_not_waited_for_before_it_is_known_who_sends_it_and_what_for() {
    let running = running();
    // None of them sends its body.
    let ask = |method: &str, path: &str, more: &str| {
        let mut stream = TcpStream::connect(running.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(25))).unwrap();
        let head = "host: localhost\r\ncontent-length: 8000000\r\nconnection: close";
        write!(stream, "{method} {path} HTTP/1.1\r\n{head}\r\n{more}\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let json = "content-type: application/json\r\n";
    assert_eq!(ask("POST", "/v1/rollouts", "via: 1.1 proxy\r\ncontent-type: application/json\r\n"), 403);
    assert_eq!(ask("POST", "/v1/rollouts", ""), 415);
    assert_eq!(ask("POST", "/v1/documents", json), 413);
    assert_eq!(ask("POST", "/v1/rollouts/x/dance", json), 404);
    assert_eq!(ask("POST", "/v1/history", json), 405);
    assert_eq!(ask("GET", "/v1/rollouts", ""), 503, "the log cannot be read");
    assert_eq!(ask("DELETE", "/v1/nodes/press-7", ""), 503);
    assert_eq!(ask("GET", "/healthz", ""), 200);
}
