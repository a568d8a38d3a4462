//! How much of an HTTP server's rate is left when every answer waits for the disk.
//!
//! Runs three servers in turn, each in a process of its own, under the same load: 64 connections that each
//! post a JSON body of about 330 bytes and wait for the answer. Prints rates, CPU per request and ratios.
//!
//! - `ceiling`: hyper, reads the body, answers.
//! - `warp`: the same through warp's filters: what routing the hot path with warp would cost.
//! - `tidegate`: ours, with the outbox in a temporary directory (`TIDEGATE_BENCH_DIR` puts it on another disk).
//!
//! `cargo bench --bench http_ingest -- [seconds per run] [rounds] [connections]`

#![allow(clippy::unwrap_used)] // a bench ends where it fails
#![allow(clippy::disallowed_methods)] // the ceiling spawns as the simplest server does

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tempfile::TempDir;
use tidegate::config::EdgeConfig;
use tidegate::downlink::commands::Commands;
use tidegate::ingest::Router;
use tidegate::ingest::http::{Gateway, Listener};
use tidegate::journal::Meters;
use tidegate::observe::metrics::Metrics;
use tidegate::observe::status::Links;
use tidegate::outbox::Outbox;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use warp::{Filter, Reply};

const SERVERS: [&str; 3] = ["ceiling", "warp", "tidegate"];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [serve, name, dir] = &args[..]
        && serve == "serve"
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(serve_for_ever(name, dir.into()));
    }
    let number = |i: usize, default: u64| args.get(i).map_or(default, |a| a.parse().expect("a number"));
    let (seconds, rounds, connections) = (number(0, 5), number(1, 3), number(2, 64));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut rates = [const { Vec::new() }; SERVERS.len()];
    let mut cpu = [const { Vec::new() }; SERVERS.len()];
    for round in 1..=rounds {
        for ((name, rates), cpu) in SERVERS.iter().zip(&mut rates).zip(&mut cpu) {
            let server = Server::start(name);
            runtime.block_on(load(server.address, connections, Duration::from_secs(1)));
            let cpu_before = server.cpu_us();
            let (requests, slowest) = runtime.block_on(load(server.address, connections, Duration::from_secs(seconds)));
            let cpu_us = (server.cpu_us() - cpu_before) as f64 / requests as f64;
            let rate = requests as f64 / seconds as f64;
            println!("round {round}: {name:8} {rate:9.0}/s  {cpu_us:6.1} us CPU each, slowest {slowest:?}");
            rates.push(rate);
            cpu.push(cpu_us);
        }
    }
    report(rates, cpu);
}

/// The fastest and slowest run of one server may differ by this much before its rates say nothing.
const SPREAD_MAX: f64 = 1.2;

fn report(mut rates: [Vec<f64>; SERVERS.len()], mut cpu: [Vec<f64>; SERVERS.len()]) {
    let paired: Vec<f64> = rates[0].iter().zip(&rates[2]).map(|(ceiling, ours)| 100.0 * ours / ceiling).collect();
    let spread = |v: &[f64]| v.iter().copied().fold(0.0, f64::max) / v.iter().copied().fold(f64::INFINITY, f64::min);
    let unsteady = rates.iter().any(|v| spread(v) > SPREAD_MAX);
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [ceiling, warp, ours] = rates.each_mut().map(median);
    let [ceiling_cpu, warp_cpu, ours_cpu] = cpu.each_mut().map(median);
    println!("\nmedians: ceiling {ceiling:.0}/s, warp {warp:.0}/s, tidegate {ours:.0}/s");
    println!("CPU each: ceiling {ceiling_cpu:.1} us, warp {warp_cpu:.1} us, tidegate {ours_cpu:.1} us");
    println!("tidegate / ceiling by rate, round by round: {paired:.0?} %  (target: 50 %)");
    println!("tidegate / ceiling by server CPU: {:.0} %", 100.0 * ceiling_cpu / ours_cpu);
    // A load generator or a busy machine can hold back the ceiling more than ours: that ratio flatters.
    if unsteady || ours > ceiling {
        println!(
            "NOT A MEASUREMENT: rates differ too much between rounds, or the ceiling is below ours; use an idle machine"
        );
        std::process::exit(1);
    }
}

/// A server in a process of its own, so that its CPU time is its own.
struct Server {
    child: Child,
    address: SocketAddr,
    /// Ours to remove: the child is killed and removes nothing.
    _dir: TempDir,
}

impl Server {
    fn start(name: &str) -> Self {
        let myself = std::env::current_exe().unwrap();
        let root = std::env::var_os("TIDEGATE_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
        let dir = tempfile::tempdir_in(root).unwrap();
        let mut command = Command::new(myself);
        let mut child = command.args(["serve", name]).arg(dir.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap(), _dir: dir }
    }

    /// User and system time so far.
    fn cpu_us(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Fields 14 and 15, counted after the name in brackets, in ticks of 10 ms.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A closed loop: every connection sends its next request when it has its answer.
async fn load(address: SocketAddr, connections: u64, time: Duration) -> (u64, Duration) {
    let until = Instant::now() + time;
    let loops = (0..connections).map(|i| one_connection(address, i, until));
    let done = futures_util::future::join_all(loops).await;
    (done.iter().map(|(n, _)| n).sum(), done.iter().map(|(_, slowest)| *slowest).max().unwrap_or_default())
}

async fn one_connection(address: SocketAddr, i: u64, until: Instant) -> (u64, Duration) {
    let body = format!(
        "{{\"device\":\"press-{i}\",\"seq\":123456,\"ts\":\"2026-01-31T12:00:00.000Z\",\"readings\":[{}],\"unit\":\"bar\",\"ok\":true}}",
        ["{\"channel\":\"pressure\",\"value\":17.25}"; 6].join(",")
    );
    let request = format!(
        "POST /v1/devices/press-{i}/events HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut done, mut slowest) = (0, Duration::ZERO);
    let mut answer = [0; 4096];
    while Instant::now() < until {
        let sent = Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut n = 0;
        // Every one of these servers ends its answer with a line.
        while n < 4 || answer[n - 1] != b'\n' || answer[..n].ends_with(b"\r\n\r\n") {
            let more = stream.read(&mut answer[n..]).await.unwrap();
            assert!(more > 0, "the server closed: {}", String::from_utf8_lossy(&answer[..n]));
            n += more;
        }
        assert!(answer.starts_with(b"HTTP/1.1 202"), "{}", String::from_utf8_lossy(&answer[..n]));
        slowest = slowest.max(sent.elapsed());
        done += 1;
    }
    (done, slowest)
}

/// The same length as one of ours.
const ANSWER: &str = "{\"accepted\":1,\"lane\":\"telemetry\",\"first\":100000,\"last\":100000}\n";

async fn serve_for_ever(name: &str, dir: PathBuf) {
    if name == "tidegate" {
        return tidegate(dir).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let with_warp = name == "warp";
    let routes = warp::path!("v1" / "devices" / String / "events")
        .and(warp::post())
        .and(warp::header::headers_cloned())
        .and(warp::body::bytes())
        .map(|_, _, body: Bytes| {
            std::hint::black_box(body);
            warp::reply::with_status(ANSWER, warp::http::StatusCode::ACCEPTED).into_response()
        })
        .boxed();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new());
        let io = TokioIo::new(stream);
        if with_warp {
            let service = hyper_util::service::TowerToHyperService::new(warp::service(routes.clone()));
            tokio::spawn(async move { http.serve_connection(io, service).await });
        } else {
            tokio::spawn(async move { http.serve_connection(io, service_fn(only_read)).await });
        }
    }
}

async fn only_read(request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    std::hint::black_box(request.into_body().collect().await.unwrap().to_bytes());
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes())));
    *response.status_mut() = hyper::StatusCode::ACCEPTED;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    Ok(response)
}

async fn tidegate(dir: PathBuf) {
    let mut config = EdgeConfig::default();
    config.node.data_dir = dir;
    config.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let (clock, metrics) = (Clock::system(), Metrics::default());
    let outbox = Outbox::open(&config, &clock, &metrics).unwrap();
    let router = Router::new(&config.lanes, &outbox).unwrap();
    let journal = Meters::new(&metrics).of("commands");
    let commands = Commands::open(&config, &clock, &metrics, journal, Arc::new(router.clone())).unwrap();
    let listener = Listener::bind(&config.http).unwrap();
    println!("{}", listener.local_addr());
    let inference = tidegate::inference::Inference::new(&config, &metrics);
    let tasks = Tasks::new();
    listener.start(
        &tasks,
        Gateway {
            node: config.node.id.clone(),
            scoring: tidegate::ingest::scoring::Scoring::new(inference, router.clone()),
            router,
            commands,
            outbox,
            links: Links::default(),
            clock,
            metrics,
            http: tidegate::ingest::http::Settings::new(&config.http),
            max_event: config.outbox.max_event,
            bridges: Default::default(),
            local: None,
            gate: tidegate::ingest::identity::Gate::open(),
            tls: None,
            ready: Arc::new(AtomicBool::new(true)),
            downlink: Default::default(),
        },
    );
    tasks.stopping().cancelled().await;
}
