//! What operators and their tools ask for: status, liveness, readiness, metrics; and the answer to every other path.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use warp::filters::BoxedFilter;
use warp::{Filter, Reply};

use super::{Shared, problem};
use crate::downlink::commands;
use crate::downlink::keeper::status::Snapshot;
use crate::ingest::bridge::BridgeStatus;
use crate::ingest::identity::IdentityStatus;
use crate::ingest::mqtt::broker::Counts;
use crate::ingest::mqtt::local::Local;
use crate::ingest::refusal::{Kind, Refusal};
use crate::observe::metrics;
use crate::observe::status::LinkStatus;
use crate::outbox::LaneStatus;
use crate::security::server::{ServerTls, TlsStatus};

/// The pages, for hyper to call. Cheap to clone.
#[derive(Clone)]
pub struct Pages(BoxedFilter<(warp::reply::Response,)>);

impl Pages {
    /// Answers `request`. (warp's service type has no name to keep it under; making it costs a reference count.)
    pub fn call(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<warp::reply::Response, Infallible>> + Send + use<> {
        TowerToHyperService::new(warp::service(self.0.clone())).call(request)
    }
}

type Page = Response<Full<Bytes>>;

/// All routes but the POST of events. The last one takes everything, so that no rejection of warp's, which
/// would be answered as plain text, is left.
pub fn pages(shared: &Arc<Shared>) -> Pages {
    let page = |build: fn(&Shared) -> Page| {
        let shared = shared.clone();
        move |method: Method| match method {
            Method::GET | Method::HEAD => build(&shared),
            _ => problem::method_not_allowed("GET, HEAD"),
        }
    };
    let post_only = |_: Method| problem::method_not_allowed("POST");
    let method = warp::method;
    let routes = warp::path!("healthz").and(method()).map(page(healthz));
    let routes = routes.or(warp::path!("readyz").and(method()).map(page(readyz))).unify();
    let routes = routes.or(warp::path!("metrics").and(method()).map(page(metrics_text))).unify();
    let routes = routes.or(warp::path!("v1" / "status").and(method()).map(page(status))).unify();
    let routes = routes.or(warp::path!("v1" / "events").and(method()).map(post_only)).unify();
    let device = warp::path!("v1" / "devices" / String / "events").and(method());
    let routes = routes.or(device.map(move |_, method| post_only(method))).unify();
    let routes = routes.or(warp::path::full().map(|path: warp::path::FullPath| not_found(path.as_str()))).unify();
    Pages(routes.map(warp_reply).boxed())
}

fn warp_reply(page: Page) -> warp::reply::Response {
    // Full is always ready: this takes its bytes out.
    let (head, body) = page.into_parts();
    let bytes = futures_util::FutureExt::now_or_never(http_body_util::BodyExt::collect(body));
    let bytes = bytes.and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Response::from_parts(head, bytes).into_response()
}

fn not_found(path: &str) -> Page {
    problem::answer(&Refusal::new(
        Kind::NotFound,
        format!(
            "{path:?} is not here; there are POST /v1/events, POST /v1/devices/{{device}}/events, \
             /v1/devices/{{device}}/commands and /config, GET /v1/status, \
             /healthz, /readyz and /metrics"
        ),
    ))
}

/// Alive as long as it answers: neither the cloud nor a full disk makes a restart useful.
fn healthz(_: &Shared) -> Page {
    json(StatusCode::OK, &BTreeMap::from([("alive", true)]))
}

/// Ready while at least one lane takes events.
fn readyz(shared: &Shared) -> Page {
    let refuse = |reason: String| problem::answer(&Refusal::new(Kind::NotReady, reason));
    if shared.stopping.is_cancelled() {
        return refuse("shutting down".into());
    }
    if !shared.gateway.ready.load(Ordering::Acquire) {
        return refuse("starting".into());
    }
    let refusing: Option<Vec<String>> = shared
        .gateway
        .outbox
        .status()
        .into_iter()
        .map(|lane| lane.refusing.map(|reason| format!("lane {}: {reason}", lane.lane)))
        .collect();
    match refusing {
        Some(reasons) if !reasons.is_empty() => refuse(format!("no lane takes events: {}", reasons.join("; "))),
        _ => json(StatusCode::OK, &Ready { ready: true, warnings: warnings(shared) }),
    }
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    /// What does not work although events are taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Events are taken without the journals; kept MQTT sessions, retained messages and commands are not.
fn warnings(shared: &Shared) -> Vec<String> {
    let gateway = &shared.gateway;
    let mqtt = gateway.local.as_ref().and_then(Local::journal_trouble);
    let journals = [("MQTT sessions", mqtt), ("commands", gateway.commands.journal_trouble())];
    let fails = |(what, reason): (&str, Option<Arc<str>>)| Some(format!("the journal of {what} fails: {}", reason?));
    journals.into_iter().filter_map(fails).collect()
}

fn metrics_text(shared: &Shared) -> Page {
    match shared.gateway.metrics.text() {
        Ok(text) => problem::whole(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(_) => problem::answer(&Refusal::new(Kind::Internal, "the metrics could not be written as text")),
    }
}

#[derive(Serialize)]
struct Status<'a> {
    node: &'a str,
    incarnation: &'a str,
    version: &'static str,
    uptime_seconds: u64,
    ready: bool,
    lanes: Vec<Lane>,
    commands: Waiting,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    bridges: BTreeMap<String, BridgeStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mqtt: Option<Mqtt>,
    identity: IdentityStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsStatus>,
    downlink: Snapshot,
    limits: Limits,
    /// As /readyz has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Commands and configurations.
#[derive(Serialize)]
struct Waiting {
    waiting: usize,
    unreported: usize,
    configs: usize,
    devices: usize,
    held_bytes: u64,
}

fn waiting(counts: &commands::Counts) -> Waiting {
    let commands::Counts { waiting, unreported, configs, devices, bytes: held_bytes, .. } = *counts;
    Waiting { waiting, unreported, configs, devices, held_bytes }
}

#[derive(Serialize)]
struct Mqtt {
    connections: usize,
    sessions: usize,
    subscriptions: usize,
    retained: usize,
    retained_bytes: usize,
    queued: usize,
    queued_bytes: usize,
}

#[derive(Serialize)]
struct Lane {
    name: String,
    last_seq: u64,
    confirmed_seq: u64,
    backlog_events: u64,
    backlog_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_accepted_unix_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_age_seconds: Option<u64>,
    disk_bytes: u64,
    /// Why this lane takes no events now, or null.
    refusing: Option<String>,
    link: LinkStatus,
}

#[derive(Serialize)]
struct Limits {
    connections_max: usize,
    body_bytes_max: u64,
    inflated_bytes_max: u64,
    body_memory_bytes_max: u64,
    batch_events_max: usize,
    event_bytes_max: u64,
    header_timeout_ms: u128,
    body_timeout_ms: u128,
}

fn status(shared: &Shared) -> Page {
    let gateway = &shared.gateway;
    let mut links = gateway.links.snapshot();
    let now_ms = gateway.clock.unix_ms();
    let lanes = gateway.outbox.status().into_iter().map(|lane| {
        let link = links.remove(&lane.lane).unwrap_or_default();
        lane_of(lane, link, now_ms)
    });
    let http = gateway.http.now();
    json(
        StatusCode::OK,
        &Status {
            node: &gateway.node,
            incarnation: gateway.outbox.incarnation(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: shared.started.elapsed().as_secs(),
            ready: gateway.ready.load(Ordering::Acquire),
            lanes: lanes.collect(),
            commands: waiting(&gateway.commands.counts()),
            bridges: gateway.bridges.snapshot(),
            mqtt: gateway.local.as_ref().map(|local| mqtt_of(&local.counts())),
            identity: gateway.gate.status(),
            tls: gateway.tls.as_ref().map(ServerTls::status),
            downlink: gateway.downlink.snapshot(),
            warnings: warnings(shared),
            limits: Limits {
                connections_max: http.max_connections,
                body_bytes_max: http.max_body,
                inflated_bytes_max: http.max_inflated,
                body_memory_bytes_max: http.max_memory,
                batch_events_max: http.max_batch,
                event_bytes_max: gateway.max_event,
                header_timeout_ms: http.header_timeout.as_millis(),
                body_timeout_ms: http.body_timeout.as_millis(),
            },
        },
    )
}

fn mqtt_of(counts: &Counts) -> Mqtt {
    Mqtt {
        connections: counts.connections,
        sessions: counts.sessions,
        subscriptions: counts.subscriptions,
        retained: counts.retained,
        retained_bytes: counts.retained_bytes,
        queued: counts.queued,
        queued_bytes: counts.queued_bytes,
    }
}

fn lane_of(lane: LaneStatus, link: LinkStatus, now_ms: i64) -> Lane {
    Lane {
        name: lane.lane,
        last_seq: lane.last,
        confirmed_seq: lane.confirmed,
        backlog_events: lane.backlog_events,
        backlog_bytes: lane.backlog_bytes,
        oldest_accepted_unix_ms: lane.oldest_ms,
        // A clock that was set back must not show an age of centuries.
        oldest_age_seconds: lane.oldest_ms.map(|ms| u64::try_from(now_ms.saturating_sub(ms)).unwrap_or(0) / 1000),
        disk_bytes: lane.disk_bytes,
        refusing: lane.refusing,
        link,
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Page {
    let mut body = problem::to_json(value);
    body.push(b'\n');
    problem::whole(status, "application/json", body)
}
