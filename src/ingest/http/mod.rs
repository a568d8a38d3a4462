//! HTTP ingest: an accept loop of our own, the POST of events, and the pages for operators.
//!
//! ```text
//! kernel ─► accept (permits) ─► [TLS] ─► stream (stall, linger) ─► hyper ─► caller (who) ─┬─ POST events ─► events ─► outbox ─► 202
//!                                                                                       └─ everything else ─► pages (warp)
//! ```
//! HTTP/1.1 only, also over TLS (ALPN): one event per request gains nothing from HTTP/2, and hyper-util's protocol detection
//! has no time-out for a connection that says nothing (read in its 0.1.21).

mod accept;
mod body;
pub(in crate::ingest) mod budget;
mod caller;
mod commands;
mod connection;
mod events;
mod inflate;
mod metrics;
mod pages;
mod problem;
mod stream;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::config::edge;
use crate::downlink::commands::Commands;
use crate::downlink::keeper;
use crate::ingest::Router;
use crate::ingest::bridge::Bridges;
use crate::ingest::identity::Gate;
use crate::ingest::mqtt::local::Local;
use crate::ingest::scoring::Scoring;
use crate::observe::metrics::Metrics;
use crate::observe::status::Links;
use crate::outbox::Outbox;
use crate::security::server::ServerTls;
use crate::sys::clock::Clock;

pub use accept::Listener;

/// Everything the HTTP way in needs to know of its gateway.
#[derive(Clone)]
pub struct Gateway {
    /// `node.id`
    pub node: String,
    /// Lanes by event type, each with its way into the outbox.
    pub router: Router,
    /// Models that score events before they are stored.
    pub scoring: Scoring,
    /// For the status page; events go through `router`.
    pub outbox: Outbox,
    /// The uplink's state, for the status page.
    pub links: Links,
    /// Labels events without a time.
    pub clock: Clock,
    /// Where this module registers its metrics, and what /metrics shows.
    pub metrics: Metrics,
    /// `[http]`
    pub http: Settings,
    /// `outbox.max_event`
    pub max_event: u64,
    /// Commands and configurations of devices.
    pub commands: Commands,
    /// Bridges to other brokers, for the status page.
    pub bridges: Bridges,
    /// Local subscribers, who may want what comes by HTTP.
    pub local: Option<Local>,
    /// Who may come in.
    pub gate: Gate,
    /// The certificate, for `http.tls_listen`.
    pub tls: Option<ServerTls>,
    /// Set once everything is started; until then /readyz says 503. Posts are taken regardless.
    pub ready: Arc<AtomicBool>,
    /// Pushed configuration, for the status page.
    pub downlink: keeper::Status,
}

/// `[http]` as it is now; every request looks at it once. All clones see a change. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Settings(Arc<RwLock<Arc<edge::Http>>>);

impl Settings {
    /// These.
    pub fn new(http: &edge::Http) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(http.clone()))))
    }

    /// Now.
    pub fn now(&self) -> Arc<edge::Http> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From here on `http`; addresses, connections and memory were taken at the start.
    pub fn set(&self, http: &edge::Http) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(http.clone());
    }
}

/// Bodies decoded on threads that may block, at once: these are large, so more would only fill the memory
/// and take the cores from everything else.
const HEAVY_MAX: usize = 2;

/// What all connections share.
struct Shared {
    gateway: Gateway,
    counters: metrics::Counters,
    budget: budget::Budget,
    heavy: Arc<Semaphore>,
    /// Places for those who wait for commands.
    listeners: Arc<Semaphore>,
    started: Instant,
    stopping: tokio_util::sync::CancellationToken,
}

impl Shared {
    fn new(gateway: Gateway, stopping: tokio_util::sync::CancellationToken) -> Arc<Self> {
        let counters = metrics::Counters::new(&gateway.metrics);
        let http = gateway.http.now();
        let budget = budget::Budget::new(http.max_memory, counters.body_memory.clone());
        let heavy = Arc::new(Semaphore::new(HEAVY_MAX));
        let listeners = Arc::new(Semaphore::new(commands::listeners_max(http.max_connections)));
        Arc::new(Self { gateway, counters, budget, heavy, listeners, started: Instant::now(), stopping })
    }
}
