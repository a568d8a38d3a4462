//! Commands and configurations for devices over HTTP, with the real binary: what was answered with 201 survives kill -9,
//! and a result is at Pulsar before the command is over.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::broker::Broker;
use support::process::{Tidegate, run};
use support::{pulsar_client, system};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const SOON: Duration = Duration::from_secs(30);

/// An edge without a broker.
fn edge(dir: &Path, more: &str) -> Tidegate {
    let data = dir.join("data");
    let config = format!("[node]\nid = \"press-7\"\ndata_dir = {data:?}\n\n[[lane]]\nname = \"telemetry\"\n\n{more}");
    let mut edge = Tidegate::start(Path::new(BINARY), "edge", dir, &config);
    edge.wait_ready(SOON);
    edge
}

struct Reply {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {} {:?}", self.status, self.body))
    }

    fn problem(&self, status: u16, slug: &str) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        let document = self.json();
        assert_eq!(document["type"], format!("urn:tidegate:problem:{slug}"));
        document["detail"].as_str().unwrap().to_owned()
    }
}

fn call(edge: &Tidegate, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(SOON)).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", edge.url()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = if matches!(method, "POST" | "PUT") {
        agent.run(request.body(body.to_owned()).unwrap())
    } else {
        agent.run(request.body(()).unwrap())
    }
    .unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Reply { status, headers, body: answer.body_mut().read_to_string().unwrap() }
}

fn get(edge: &Tidegate, path: &str) -> Reply {
    call(edge, "GET", path, &[], "")
}

fn send(edge: &Tidegate, device: &str, command: &Value) -> Reply {
    let json = [("content-type", "application/json")];
    call(edge, "POST", &format!("/v1/devices/{device}/commands"), &json, &command.to_string())
}

/// The ids that a poll finds.
fn poll(edge: &Tidegate, device: &str, query: &str) -> Vec<String> {
    let reply = get(edge, &format!("/v1/devices/{device}/commands?{query}"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let found = reply.json();
    found["commands"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_survives_kill_nine_and_its_result_is_at_pulsar_before_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start();
    system::provision(Path::new(BINARY), dir.path(), &broker, 1);
    let mut edge = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &system::edge_toml(dir.path(), &broker));
    edge.wait_ready(SOON);
    for n in 0..20 {
        let sent = send(&edge, "press-7", &json!({ "id": format!("c{n}"), "name": "set", "data": { "n": n } }));
        assert_eq!(sent.status, 201, "{}", sent.body);
        assert_eq!(sent.headers["location"], format!("/v1/devices/press%2D7/commands/c{n}"));
        if n % 5 == 4 {
            edge.kill9();
            edge.restart();
            edge.wait_ready(SOON);
        }
    }
    // The device comes, and answers in its own time.
    let waiting = poll(&edge, "press-7", "wait=30s");
    assert_eq!(waiting, (0..20).map(|n| format!("c{n}")).collect::<Vec<_>>(), "all of them, in order");
    for id in &waiting {
        let answer = call(
            &edge,
            "POST",
            &format!("/v1/devices/press-7/commands/{id}/result"),
            &[],
            r#"{"status":"done","detail":{"ms":12.50}}"#,
        );
        assert_eq!((answer.status, answer.json()["state"].as_str()), (200, Some("done")));
    }
    edge.kill9();
    edge.restart();
    edge.wait_ready(SOON);
    assert_eq!(poll(&edge, "press-7", "wait=0s"), [""; 0], "what was answered with 200 is over");
    assert_eq!(get(&edge, "/v1/devices/press-7/commands/c3").json()["state"], "done");
    let again = call(&edge, "POST", "/v1/devices/press-7/commands/c3/result", &[], "");
    assert_eq!(again.status, 200, "the answer may be repeated");
    edge.wait_drained(SOON);
    let client = pulsar_client::client(&broker.service_url()).await;
    let topic = "persistent://tidegate/telemetry/telemetry";
    let events = pulsar_client::receive(&client, topic, "tidegate-cloud", 20, Duration::from_secs(2)).await;
    assert_eq!(events.len(), 20, "one result each: {events:?}");
    for (key, data) in events {
        assert_eq!((key.as_str(), data.as_str()), ("press-7", r#"{"status":"done","detail":{"ms":12.50}}"#));
    }
}

#[test]
fn a_repetition_is_answered_and_a_conflict_and_every_bound_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let edge = edge(dir.path(), "[commands]\nmax_waiting = 3\nmax_bytes = \"64KiB\"\nmax_command = \"20KiB\"\n");
    let command = json!({ "id": "a", "name": "open", "data": 1 });
    assert_eq!(send(&edge, "d", &command).status, 201);
    assert_eq!(send(&edge, "d", &command).status, 200);
    let detail = send(&edge, "d", &json!({ "id": "a", "name": "open", "data": 2 })).problem(409, "id-conflict");
    assert!(detail.contains("\"a\""), "{detail}");
    send(&edge, "d", &json!({ "name": "n", "data": "x".repeat(21 << 10) })).problem(413, "command-too-large");
    send(&edge, "d", &json!({ "name": "n", "data": "x".repeat(99 << 10) })).problem(413, "body-too-large");
    send(&edge, "d", &json!({ "nam": "n" })).problem(400, "malformed-body");
    send(&edge, "a%2Fb", &json!({ "name": "n" })).problem(400, "bad-request");
    let form = call(&edge, "POST", "/v1/devices/d/commands", &[("content-type", "text/plain")], "{}");
    form.problem(415, "unsupported-media-type");
    for _ in 0..2 {
        assert_eq!(send(&edge, "d", &json!({ "name": "n" })).status, 201);
    }
    let full = send(&edge, "d", &json!({ "name": "n" }));
    assert!(full.problem(429, "too-many-commands").contains("commands.max_waiting"));
    assert!(full.headers.contains_key("retry-after"));
    let large = json!({ "name": "n", "data": "x".repeat(19 << 10) });
    for device in ["e", "f", "g"] {
        assert_eq!(send(&edge, device, &large).status, 201);
    }
    assert!(send(&edge, "h", &large).problem(507, "commands-full").contains("commands.max_bytes"));
    get(&edge, "/v1/devices/d/commands/none").problem(404, "not-found");
    call(&edge, "PUT", "/v1/devices/d/commands", &[], "").problem(405, "method-not-allowed");
    get(&edge, "/v1/devices/d/commands?wait=soon").problem(400, "bad-request");
    call(&edge, "POST", "/v1/devices/d/commands/a/result", &[], "{\"status\":\"maybe\"}")
        .problem(400, "malformed-body");
    let failed = call(&edge, "POST", "/v1/devices/d/commands/a/result", &[], "{\"status\":\"failed\"}");
    assert_eq!(failed.status, 200);
    call(&edge, "POST", "/v1/devices/d/commands/a/result", &[], "").problem(409, "command-over");
    call(&edge, "DELETE", "/v1/devices/d/commands/a", &[], "").problem(409, "command-over");
    assert_eq!(send(&edge, "d", &command).json()["state"], "failed", "what became of it is told to who repeats it");
    let status = edge.get("/v1/status").unwrap();
    assert_eq!(status["commands"]["waiting"], 5);
}

#[test]
fn an_answer_means_that_the_disk_was_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let edge = edge(dir.path(), "");
    let syncs = || -> u64 {
        let metrics = get(&edge, "/metrics").body;
        let line = "tidegate_journal_sync_seconds_count{journal=\"commands\"} ";
        metrics.lines().find_map(|l| l.strip_prefix(line)).unwrap().parse().unwrap()
    };
    let mut before = syncs();
    let mut each = |what: &str, reply: Reply, status: u16| {
        assert_eq!(reply.status, status, "{what}: {}", reply.body);
        let now = syncs();
        assert!(now > before, "{what} was answered without a sync");
        before = now;
    };
    each("add", send(&edge, "d", &json!({ "id": "a", "name": "n" })), 201);
    each("add", send(&edge, "d", &json!({ "id": "b", "name": "n" })), 201);
    each("result", call(&edge, "POST", "/v1/devices/d/commands/a/result", &[], ""), 200);
    each("cancel", call(&edge, "DELETE", "/v1/devices/d/commands/b", &[], ""), 200);
    each("configure", call(&edge, "PUT", "/v1/devices/d/config", &[], "x"), 201);
    each("unconfigure", call(&edge, "DELETE", "/v1/devices/d/config", &[], ""), 204);
}

#[test]
fn an_unanswered_command_expires_and_a_cancelled_one_ends_and_both_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut edge = edge(dir.path(), "");
    assert_eq!(send(&edge, "d", &json!({ "id": "short", "name": "n", "expires_in": "300ms" })).status, 201);
    assert_eq!(send(&edge, "d", &json!({ "id": "long", "name": "n" })).status, 201);
    let cancelled = call(&edge, "DELETE", "/v1/devices/d/commands/long", &[], "");
    assert_eq!((cancelled.status, cancelled.json()["state"].as_str()), (200, Some("cancelled")));
    let over = get(&edge, "/v1/devices/d/commands/short?wait=20s");
    assert_eq!(over.json()["state"], "expired");
    assert_eq!(poll(&edge, "d", "wait=0s"), [""; 0]);
    edge.wait_for("to report both", SOON, |e| e.backlog() == Some(2));
    // The device did it nevertheless: that counts, and goes upstream.
    assert_eq!(call(&edge, "POST", "/v1/devices/d/commands/short/result", &[], "").status, 200);
    edge.wait_for("to report the late answer", SOON, |e| e.backlog() == Some(3));
    let metrics = get(&edge, "/metrics").body;
    for line in [
        "tidegate_commands_ended_total{status=\"expired\"} 1",
        "tidegate_commands_ended_total{status=\"cancelled\"} 1",
        "tidegate_commands_ended_total{status=\"done\"} 1",
        "tidegate_commands_waiting 0",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
}

/// A device that listens to the stream of its commands.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(edge: &Tidegate, device: &str, last: Option<&str>) -> Self {
        let address = edge.url().replace("http://", "");
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        write!(stream, "GET /v1/devices/{device}/commands HTTP/1.1\r\nhost: x\r\n{last}\r\n").unwrap();
        let mut stream = Self(BufReader::with_capacity(1024, stream));
        assert_eq!(stream.line(), "HTTP/1.1 200 OK");
        while stream.line() != ": listening" {}
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
        line.trim_end().to_owned()
    }

    /// The next command: its id as the event says it, and its JSON.
    fn next(&mut self) -> (String, Value) {
        let mut id = None;
        loop {
            let line = self.line();
            if let Some(event) = line.strip_prefix("id: ") {
                id = Some(event.to_owned());
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return (id.unwrap(), serde_json::from_str(data).unwrap());
            }
        }
    }

    fn ends(mut self) -> bool {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).is_ok()
    }
}

#[test]
fn a_stream_goes_on_after_what_was_seen_and_outlives_the_time_for_a_head() {
    let dir = tempfile::tempdir().unwrap();
    let mut edge = edge(dir.path(), "");
    assert_eq!(send(&edge, "d", &json!({ "id": "a", "name": "n", "data": { "x": 1 } })).status, 201);
    let mut stream = Stream::open(&edge, "d", None);
    let (id, command) = stream.next();
    assert_eq!((id.as_str(), &command["data"]["x"], &command["name"]), ("a", &json!(1), &json!("n")));
    // http.header_timeout is 10 s, the heartbeat comes after 15 s.
    let begun = Instant::now();
    while stream.line() != ": still here" {}
    assert!(begun.elapsed() > Duration::from_secs(10));
    assert_eq!(send(&edge, "d", &json!({ "id": "b", "name": "n" })).status, 201);
    assert_eq!(stream.next().0, "b");
    drop(stream);
    // The gateway restarts while the device is away; what it saw and did not answer still waits, what is new comes.
    edge.kill9();
    edge.restart();
    edge.wait_ready(SOON);
    assert_eq!(send(&edge, "d", &json!({ "id": "c", "name": "n" })).status, 201);
    let mut stream = Stream::open(&edge, "d", Some("a"));
    assert_eq!((stream.next().0, stream.next().0), ("b".to_owned(), "c".to_owned()));
    let mut stream = Stream::open(&edge, "d", Some("b"));
    assert_eq!(stream.next().0, "c");
    let mut stream = Stream::open(&edge, "d", Some("never-heard-of"));
    assert_eq!(stream.next().0, "a", "what is not known is not trusted");
    assert_eq!(poll(&edge, "d", "wait=0s&after=b"), ["c"]);
    // Listening does not hold up the end.
    let begun = Instant::now();
    assert_eq!(edge.terminate(SOON), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    assert!(stream.ends());
}

#[test]
fn a_long_poll_ends_with_the_command_its_time_or_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let mut edge = edge(dir.path(), "[commands]\nmax_wait = \"1s\"\n");
    let begun = Instant::now();
    assert_eq!(poll(&edge, "d", "wait=60s"), [""; 0]);
    let waited = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&waited), "commands.max_wait is 1 s: {waited:?}");
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| (poll(&edge, "d", "wait=1s"), Instant::now()));
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(send(&edge, "d", &json!({ "id": "a", "name": "n" })).status, 201);
        let sent = Instant::now();
        let (found, at) = polling.join().unwrap();
        assert_eq!(found, ["a"]);
        assert!(at.saturating_duration_since(sent) < Duration::from_millis(500));
    });
    let accept = call(&edge, "GET", "/v1/devices/d/commands", &[("accept", "application/json")], "");
    assert_eq!(accept.json()["commands"][0]["id"], "a");
    let mut waiting = TcpStream::connect(edge.url().replace("http://", "")).unwrap();
    write!(waiting, "GET /v1/devices/e/commands?wait=1s HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(edge.terminate(SOON), Some(0));
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("{\"commands\":[]}"), "{answer}");
}

#[test]
fn a_configuration_is_taken_when_it_is_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut edge = edge(dir.path(), "");
    let path = "/v1/devices/d/config";
    get(&edge, path).problem(404, "not-found");
    let put = |text: &str| call(&edge, "PUT", path, &[("content-type", "application/toml")], text);
    let first = put("rate = 1");
    assert_eq!((first.status, first.json()["version"].as_u64()), (201, Some(1)));
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    let got = get(&edge, path);
    assert_eq!((got.status, got.body.as_str()), (200, "rate = 1"));
    assert_eq!(
        (&got.headers["content-type"], &got.headers["etag"]),
        (&"application/toml".parse().unwrap(), &tag.parse().unwrap())
    );
    assert_eq!(put("rate = 1").headers["etag"], tag, "the same again changes nothing");
    let known = [("if-none-match", tag.as_str())];
    let begun = Instant::now();
    assert_eq!(call(&edge, "GET", &format!("{path}?wait=300ms"), &known, "").status, 304);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| call(&edge, "GET", &format!("{path}?wait=20s"), &known, ""));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(put("rate = 2").status, 200);
        let newer = polling.join().unwrap();
        assert_eq!((newer.status, newer.body.as_str()), (200, "rate = 2"));
    });
    put("").problem(400, "bad-request");
    edge.kill9();
    edge.restart();
    edge.wait_ready(SOON);
    assert_eq!(get(&edge, path).body, "rate = 2");
    assert_eq!(call(&edge, "DELETE", path, &[], "").status, 204);
    get(&edge, path).problem(404, "not-found");
}

/// Resident memory of a process, in bytes.
fn resident(edge: &Tidegate) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", edge.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

/// Most bytes that a listening device may cost; measured: see the printed figure.
const BYTES_PER_STREAM_MAX: u64 = 40 << 10;

#[test]
fn a_thousand_devices_listen_and_each_gets_its_own_command() {
    const DEVICES: usize = 1000;
    let dir = tempfile::tempdir().unwrap();
    let edge = edge(dir.path(), "");
    drop(Stream::open(&edge, "warm-up", None));
    let before = resident(&edge);
    let mut streams: Vec<_> = (0..DEVICES).map(|n| Stream::open(&edge, &format!("d{n}"), None)).collect();
    let with = resident(&edge);
    let each = with.saturating_sub(before) / DEVICES as u64;
    println!("{DEVICES} streams: {} KiB resident, {before} before, {each} bytes each", with / 1024);
    let cpu = cpu_ticks(&edge);
    std::thread::sleep(Duration::from_secs(3));
    let idle = cpu_ticks(&edge) - cpu;
    println!("idle for 3 s: {idle} ticks of CPU");
    let begun = Instant::now();
    for n in 0..DEVICES {
        assert_eq!(send(&edge, &format!("d{n}"), &json!({ "id": format!("c{n}"), "name": "n" })).status, 201);
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        assert_eq!(stream.next().0, format!("c{n}"));
    }
    println!("{DEVICES} commands sent one after the other and received: {:?}", begun.elapsed());
    let metrics = get(&edge, "/metrics").body;
    let open = metrics.lines().find_map(|l| l.strip_prefix("tidegate_http_listeners_open ")).unwrap();
    // That the first one has gone is noticed with its next heartbeat.
    assert!(["1000", "1001"].contains(&open), "{open}");
    assert!(each < BYTES_PER_STREAM_MAX, "{each} bytes for each stream");
    assert!(idle < 30, "{idle} ticks of CPU in 3 s without anything to do");
}

/// CPU time of a process, in ticks of 10 ms.
fn cpu_ticks(edge: &Tidegate) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", edge.pid().unwrap())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn listeners_leave_room_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let config = format!("[node]\ndata_dir = {data:?}\n\n[[lane]]\nname = \"telemetry\"\n");
    let mut edge = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &config);
    edge.kill9();
    let file = dir.path().join("edge.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("[http]\n", "[http]\nmax_connections = 8\n");
    std::fs::write(&file, text).unwrap();
    edge.restart();
    edge.wait_ready(SOON);
    let streams: Vec<_> = (0..6).map(|n| Stream::open(&edge, &format!("d{n}"), None)).collect();
    let refused = get(&edge, "/v1/devices/d9/commands?wait=5s");
    refused.problem(503, "too-many-listeners");
    assert_eq!(poll(&edge, "d9", "wait=0s"), [""; 0], "who does not wait needs no place");
    drop(streams);
}

#[test]
fn the_command_line_sends_lists_and_cancels() {
    let dir = tempfile::tempdir().unwrap();
    let edge = edge(dir.path(), "");
    let url = edge.url();
    let tidegate = |args: &[&str]| run(Path::new(BINARY), &[args, &["--url", &url]].concat());
    let (code, id, err) = tidegate(&["command", "send", "d", "open", "--data", "{\"valve\":3}", "--expires", "1h"]);
    assert_eq!(code, 0, "{err}");
    let id = id.trim();
    let (code, out, _) = tidegate(&["command", "list", "d"]);
    assert!(code == 0 && out.contains(id) && out.contains("open"), "{out}");
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let mut stream = Stream::open(&edge, "d", Some(id));
            let (id, command) = stream.next();
            assert_eq!(command["data"], json!({ "valve": 4 }));
            let path = format!("/v1/devices/d/commands/{id}/result");
            assert_eq!(call(&edge, "POST", &path, &[], r#"{"status":"failed","detail":"stuck"}"#).status, 200);
        });
        let (code, out, err) = tidegate(&["command", "send", "d", "open", "--data", "{\"valve\":4}", "--wait", "20s"]);
        assert_eq!(code, 1, "{out}{err}");
        assert!(out.contains("\"detail\":\"stuck\"") && out.contains("failed"), "{out}");
        answering.join().unwrap();
    });
    let (code, _, err) = tidegate(&["command", "send", "d", "open", "--wait", "100ms"]);
    assert!(code == 75 && err.contains("still waits"), "{code} {err}");
    assert_eq!(tidegate(&["command", "cancel", "d", id]).0, 0);
    let (code, _, err) = tidegate(&["command", "cancel", "d", id]);
    assert!(code == 64 && err.contains("over"), "{code} {err}");
    let (code, _, err) = tidegate(&["command", "send", "d", "open", "--data", "{"]);
    assert!(code == 64 && err.contains("--data"), "{code} {err}");
    let (code, _, err) = run(Path::new(BINARY), &["command", "list", "d", "--url", "http://127.0.0.1:1"]);
    assert!(code == 75 && err.contains("--url"), "{code} {err}");
}
