//! The HTTP interface for operators.
//!
//! ```text
//! GET /v1/audit?node=&lane=                what arrived, per stream and in all
//! GET /v1/stream?node=&device=&type=&lane= Server-Sent Events
//! GET /v1/status  /healthz  /readyz  /metrics
//! ```
//! and what is about configuration: `control::http`; about models: `models::http`.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use futures_util::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use warp::Filter as _;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reply::Reply;

use self::answer::{Problem, Query, json, typed};
use self::body::{Bodies, Body};
use super::board::{LaneBoard, LaneStatus};
use super::control::views::StatusView;
use super::control::{Control, http};
use super::models::{self, Models};
use super::stream::{Filter, Live};
use crate::config::cloud::Http;
use crate::observe::metrics::{self, Metrics};
use crate::sys::tasks::Tasks;

pub(super) mod answer;
mod audit;
pub(super) mod body;

/// Most connections at once; further ones wait in the kernel's queue. Operators and their dashboards, no devices.
const CONNECTIONS_MAX: usize = 512;

/// Most listeners of the live stream, so that they cannot take all connections.
const LISTENERS_MAX: usize = 256;

/// Time for a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A peer that takes none of our bytes for so long is given up by the kernel: a listener that stopped reading.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for answers that are under way when the process ends.
const GOOD_BYE: Duration = Duration::from_secs(2);

/// A bound address, nothing answered yet.
#[derive(Debug)]
pub struct Listener(std::net::TcpListener);

/// Why the address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ([http] listen): {source}; choose another address, or stop what uses it")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

impl Listener {
    /// Takes the address at once, so that a taken port is known before anything slow starts.
    pub fn bind(config: &Http) -> Result<Self, BindError> {
        let failed = |source| BindError { address: config.listen, source };
        let listener = std::net::TcpListener::bind(config.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self(listener))
    }

    /// The address, with the port the system chose if 0 was asked for.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// What requests see.
#[derive(Clone)]
pub(super) struct Shared {
    pub boards: Arc<[LaneBoard]>,
    pub live: Live,
    pub metrics: Metrics,
    pub stopping: CancellationToken,
    pub control: Control,
    pub models: Models,
    pub bodies: Bodies,
}

/// Answers on `listener` until the group stops.
pub(super) fn serve(tasks: &Tasks, listener: Listener, shared: Shared) {
    let group = tasks.clone();
    tasks.spawn("cloud api", async move {
        let listener = TcpListener::from_std(listener.0)?;
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let stopping = group.stopping().clone();
        loop {
            let accepted = tokio::select! {
                () = stopping.cancelled() => return Ok::<(), std::io::Error>(()),
                accepted = async { (slots.clone().acquire_owned().await, listener.accept().await) } => accepted,
            };
            let (Ok(slot), connection) = accepted else { return Ok(()) };
            let (stream, peer) = match connection {
                Ok(connection) => connection,
                Err(e) => {
                    // Out of descriptors, most likely: what is open goes on, and the next attempt waits a little.
                    tracing::warn!(%e, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let shared = shared.clone();
            group.spawn_contained("cloud connection", async move {
                connection_of(stream, peer.ip(), shared).await;
                drop(slot);
            });
        }
    });
}

/// One connection, to its end.
async fn connection_of(stream: TcpStream, from: IpAddr, shared: Shared) {
    limits(&stream);
    let stopping = shared.stopping.clone();
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let service = TowerToHyperService::new(warp::service(routes(shared, from)));
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GOOD_BYE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Lets the kernel end a connection whose peer takes nothing any more.
fn limits(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let set = socket.set_tcp_user_timeout(Some(PEER_TIMEOUT)).and_then(|()| stream.set_nodelay(true));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set a connection's limits");
    }
}

/// Everything goes through one route, so that no rejection of warp's, which would be answered as plain text, is left.
fn routes(
    shared: Shared,
    from: IpAddr,
) -> impl warp::Filter<Extract = (warp::reply::Response,), Error = Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let head = warp::method().and(warp::path::full()).and(query).and(warp::header::headers_cloned());
    let answered = head.and(warp::body::stream()).then(
        move |method: Method, path: warp::path::FullPath, query: String, headers: HeaderMap, body| {
            let shared = shared.clone();
            async move {
                let request = Request { method, path, query, headers, from };
                respond(&shared, &request, body).await.unwrap_or_else(|problem| problem.response())
            }
        },
    );
    // None of these filters rejects anything; their types say that they could.
    let refuse = |_| async { Ok(Problem::new(StatusCode::BAD_REQUEST, "the request cannot be read").response()) };
    answered.recover(refuse).unify()
}

struct Request {
    method: Method,
    path: warp::path::FullPath,
    query: String,
    headers: HeaderMap,
    from: IpAddr,
}

async fn respond<B: Buf>(
    shared: &Shared,
    request: &Request,
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<warp::reply::Response, Problem> {
    let Request { method, headers, from, .. } = request;
    let (path, query) = (request.path.as_str(), Query::parse(&request.query)?);
    if models::http::is_here(path) {
        let asked = http::Asked { method, path, query: &query, headers, from: *from };
        return shared.models.answer(&asked, body, &shared.bodies).await;
    }
    if http::is_here(path) {
        let asked = http::Asked { method, path, query: &query, headers, from: *from };
        // Who asks, and for what, is looked at before anything is read for him.
        let admitted = shared.control.admit(&asked)?;
        let body = match admitted.bytes_max {
            0 => Body::default(),
            bytes_max => shared.bodies.gather(body, bytes_max).await?,
        };
        return shared.control.answer(&asked, &admitted, &body.bytes).await;
    }
    match (path, method) {
        (path, &(Method::GET | Method::HEAD)) => get(shared, path, &query),
        (path, _) if PATHS.contains(&path) => {
            let refusal = Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} only answers GET"));
            Err(refusal.allowing("GET, HEAD"))
        }
        (path, _) => Err(no_such(path)),
    }
}

const PATHS: [&str; 6] = ["/v1/audit", "/v1/stream", "/v1/status", "/healthz", "/readyz", "/metrics"];

fn get(shared: &Shared, path: &str, query: &Query) -> Result<warp::reply::Response, Problem> {
    match path {
        "/v1/audit" => {
            query.only(&["node", "lane"])?;
            Ok(json(StatusCode::OK, &audit::answer(shared, query.get("node"), query.get("lane"))?))
        }
        "/v1/stream" => stream(shared, query),
        "/v1/status" => Ok(json(StatusCode::OK, &Status::of(shared))),
        // Alive means that it answers: a cloud whose broker is away must not be restarted for it.
        "/healthz" => Ok(json(StatusCode::OK, &serde_json::json!({"status": "alive"}))),
        "/readyz" => ready(shared),
        "/metrics" => metrics_text(shared),
        _ => Err(no_such(path)),
    }
}

fn no_such(path: &str) -> Problem {
    let all = [&PATHS[..], &http::PATHS, &[models::http::PATH]].concat().join(", ");
    Problem::new(StatusCode::NOT_FOUND, format!("there is no {path}; there are {all}"))
}

/// `/v1/status`.
#[derive(Serialize)]
struct Status {
    ready: bool,
    version: &'static str,
    listeners: usize,
    lanes: Vec<LaneStatus>,
    control: StatusView,
}

impl Status {
    fn of(shared: &Shared) -> Self {
        let lanes: Vec<_> = shared.boards.iter().map(LaneBoard::status).collect();
        let ready = lanes.iter().all(|lane| lane.ready);
        Self {
            ready,
            version: env!("CARGO_PKG_VERSION"),
            listeners: shared.live.listeners(),
            lanes,
            control: shared.control.status(),
        }
    }
}

fn ready(shared: &Shared) -> Result<warp::reply::Response, Problem> {
    let status = Status::of(shared);
    if status.ready {
        return Ok(json(StatusCode::OK, &serde_json::json!({"status": "ready"})));
    }
    let reasons = status.lanes.iter().filter(|lane| !lane.ready).map(|lane| {
        let problems: Vec<_> = lane.problems.iter().map(|(part, p)| format!("{part}: {}", p.text)).collect();
        let reason = if problems.is_empty() { "connecting".to_owned() } else { problems.join("; ") };
        format!("lane {}: {reason}", lane.lane)
    });
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, reasons.collect::<Vec<_>>().join(" | ")))
}

fn metrics_text(shared: &Shared) -> Result<warp::reply::Response, Problem> {
    let text = shared.metrics.text();
    let text = text.map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"))?;
    Ok(typed(StatusCode::OK, metrics::CONTENT_TYPE, text))
}

fn stream(shared: &Shared, query: &Query) -> Result<warp::reply::Response, Problem> {
    query.only(&["node", "device", "type", "lane"])?;
    lane_exists(shared, query.get("lane"))?;
    if shared.live.listeners() >= LISTENERS_MAX {
        let full = format!("{LISTENERS_MAX} listeners are connected, which is the limit");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, full));
    }
    let own = |name| query.get(name).map(str::to_owned);
    let filter = Filter { node: own("node"), device: own("device"), ty: own("type"), lane: own("lane") };
    let events = warp::reply::stream(shared.live.events(filter, shared.stopping.clone()));
    let mut response = events.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn lane_exists(shared: &Shared, lane: Option<&str>) -> Result<(), Problem> {
    let known = |name: &str| shared.boards.iter().any(|board| &**board.lane() == name);
    match lane {
        Some(name) if !known(name) => {
            let lanes: Vec<_> = shared.boards.iter().map(|board| board.lane().to_string()).collect();
            Err(Problem::new(
                StatusCode::NOT_FOUND,
                format!("there is no lane {name:?}; there are {}", lanes.join(", ")),
            ))
        }
        _ => Ok(()),
    }
}
