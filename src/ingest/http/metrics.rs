//! What the HTTP way in counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::ingest::refusal::Kind;
use crate::observe::metrics::Metrics;

/// Label of a status.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Code {
    code: u16,
}

/// Label of a reason.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reason {
    reason: &'static str,
}

/// The counters; clones share them.
#[derive(Clone)]
pub struct Counters {
    pub requests: Family<Code, Counter>,
    pub refused: Family<Reason, Counter>,
    pub accepted_events: Counter,
    pub accepted_bytes: Counter,
    pub repeated_events: Counter,
    pub connections: Counter,
    pub connections_open: Gauge,
    pub accept_errors: Counter,
    pub tls_failed: Counter,
    pub body_memory: Gauge,
    pub listeners_open: Gauge,
    pub duration: Histogram,
}

/// From a commit on a fast disk to the time-out for a slow one, in seconds.
const DURATION_BUCKETS_S: [f64; 13] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

impl Counters {
    /// Registers everything in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self {
            requests: Family::default(),
            refused: Family::default(),
            accepted_events: Counter::default(),
            accepted_bytes: Counter::default(),
            repeated_events: Counter::default(),
            connections: Counter::default(),
            connections_open: Gauge::default(),
            accept_errors: Counter::default(),
            tls_failed: Counter::default(),
            body_memory: Gauge::default(),
            listeners_open: Gauge::default(),
            duration: Histogram::new(DURATION_BUCKETS_S),
        };
        let c = new.clone();
        metrics.register(|r| {
            r.register("http_requests", "Answers by HTTP status", c.requests);
            r.register("http_refused", "Refused requests by reason, the last part of the problem's type", c.refused);
            r.register(
                "http_accepted_events",
                "Events answered with 202, on disk, repeated ones included",
                c.accepted_events,
            );
            r.register("http_accepted_data_bytes", "Data bytes of those events", c.accepted_bytes);
            r.register("http_repeated_events", "Accepted events that were on disk before", c.repeated_events);
            r.register("http_connections", "Connections accepted", c.connections);
            r.register("http_connections_open", "Connections open now", c.connections_open);
            r.register("http_accept_errors", "Failures to accept a connection", c.accept_errors);
            r.register("http_tls_failed", "Connections that ended before or in the TLS handshake", c.tls_failed);
            r.register("http_body_memory_bytes", "Bytes held for bodies and their events now", c.body_memory);
            r.register(
                "http_listeners_open",
                "Requests that wait for commands or configurations now",
                c.listeners_open,
            );
            r.register("http_post_duration_seconds", "From the head of a POST of events to its answer", c.duration);
        });
        // A reason that never occurred shows as 0: alerts need that.
        for kind in Kind::ALL {
            drop(new.refused.get_or_create(&Reason { reason: kind.facts().slug }));
        }
        new
    }

    /// Counts an answer.
    pub fn answered(&self, status: hyper::StatusCode) {
        self.requests.get_or_create(&Code { code: status.as_u16() }).inc();
    }

    /// Counts a refusal.
    pub fn refused(&self, kind: Kind) {
        self.refused.get_or_create(&Reason { reason: kind.facts().slug }).inc();
    }
}
