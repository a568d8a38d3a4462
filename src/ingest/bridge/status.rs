//! What bridges say of themselves: for the status page and the metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;

use super::error::BridgeError;
use crate::observe::metrics::Metrics;
use crate::sys::clock::Clock;

/// One bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BridgeStatus {
    /// Connected and subscribed.
    pub connected: bool,
    /// Since when, ms since 1970 by this machine's clock.
    pub since_ms: i64,
    /// The last error in words, and what to do; kept after recovery.
    pub last_error: Option<String>,
    /// When that was, ms since 1970.
    pub last_error_ms: Option<i64>,
    /// Messages taken since the start, repetitions not counted.
    pub messages: u64,
    /// Messages taken and not yet acknowledged to the other broker.
    pub unacknowledged: u64,
    /// Messages that could not be stored, and never will be.
    pub refused: u64,
    /// Why what was taken is not on disk yet, if it takes longer.
    pub waiting: Option<String>,
    /// Something an operator should mend although messages flow.
    pub warning: Option<String>,
}

/// All bridges, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Bridges(Arc<Mutex<BTreeMap<String, BridgeStatus>>>);

impl Bridges {
    /// Changes the entry of `bridge`.
    pub fn update<T>(&self, bridge: &str, change: impl FnOnce(&mut BridgeStatus) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(bridge.to_owned()).or_default())
    }

    /// There is no such bridge any more.
    pub fn remove(&self, bridge: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(bridge);
    }

    /// A copy of all entries.
    pub fn snapshot(&self) -> BTreeMap<String, BridgeStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    bridge: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameAndClass {
    bridge: String,
    class: &'static str,
}

/// The metrics of all bridges.
#[derive(Clone, Default)]
pub struct BridgeMetrics {
    messages: Family<Name, Counter>,
    repeated: Family<Name, Counter>,
    looped: Family<Name, Counter>,
    refused: Family<Name, Counter>,
    given_up: Family<Name, Counter>,
    connects: Family<Name, Counter>,
    sessions_lost: Family<Name, Counter>,
    errors: Family<NameAndClass, Counter>,
    connected: Family<Name, Gauge>,
    unacknowledged: Family<Name, Gauge>,
}

impl BridgeMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self::default();
        let a = all.clone();
        metrics.register(|r| {
            r.register("bridge_messages", "Messages taken from the other broker", a.messages);
            r.register("bridge_repeated", "Messages that came again and were recognised", a.repeated);
            r.register("bridge_looped", "Messages that we had published ourselves, dropped", a.looped);
            r.register("bridge_refused", "Messages that cannot be stored, now or ever", a.refused);
            r.register("bridge_given_up", "Messages of QoS 0 given up while nothing could be stored", a.given_up);
            r.register("bridge_connects", "Times that the other broker was reached", a.connects);
            r.register(
                "bridge_sessions_lost",
                "Times that the other broker had forgotten our session",
                a.sessions_lost,
            );
            r.register("bridge_errors", "Connections that failed or ended, by what happened", a.errors);
            r.register("bridge_connected", "Whether the bridge is connected", a.connected);
            r.register("bridge_unacknowledged", "Messages taken and not acknowledged", a.unacknowledged);
        });
        all
    }
}

/// Where one bridge reports.
#[derive(Clone)]
pub struct Report {
    name: String,
    bridges: Bridges,
    clock: Clock,
    errors: Family<NameAndClass, Counter>,
    connected: Gauge,
    unacknowledged: Gauge,
    refused: Counter,
    messages: Counter,
    /// Messages that came again and were recognised.
    pub repeated: Counter,
    /// Messages that we had published ourselves.
    pub looped: Counter,
    /// Of QoS 0, while nothing could be stored.
    pub given_up: Counter,
    /// Times connected.
    pub connects: Counter,
    /// Of these, times without the session.
    pub sessions_lost: Counter,
}

impl Report {
    /// For the bridge `name`.
    pub fn new(name: &str, bridges: Bridges, clock: Clock, metrics: &BridgeMetrics) -> Self {
        let label = Name { bridge: name.to_owned() };
        let now = clock.unix_ms();
        bridges.update(name, |b| b.since_ms = now);
        Self {
            name: name.to_owned(),
            bridges,
            clock,
            errors: metrics.errors.clone(),
            connected: metrics.connected.get_or_create(&label).clone(),
            unacknowledged: metrics.unacknowledged.get_or_create(&label).clone(),
            refused: metrics.refused.get_or_create(&label).clone(),
            messages: metrics.messages.get_or_create(&label).clone(),
            repeated: metrics.repeated.get_or_create(&label).clone(),
            looped: metrics.looped.get_or_create(&label).clone(),
            given_up: metrics.given_up.get_or_create(&label).clone(),
            connects: metrics.connects.get_or_create(&label).clone(),
            sessions_lost: metrics.sessions_lost.get_or_create(&label).clone(),
        }
    }

    /// It is connected, or no longer.
    pub fn connected(&self, connected: bool) {
        self.connected.set(i64::from(connected));
        let now = self.clock.unix_ms();
        self.bridges.update(&self.name, |b| {
            if b.connected != connected {
                (b.connected, b.since_ms) = (connected, now);
            }
        });
    }

    /// It failed. The same error again and again is one line in the log.
    pub fn failed(&self, error: &BridgeError) {
        self.errors.get_or_create(&NameAndClass { bridge: self.name.clone(), class: error.class() }).inc();
        let text = error.to_string();
        if self.error(&text) {
            tracing::warn!(bridge = self.name, class = error.class(), "{text}; trying again");
        } else {
            tracing::debug!(bridge = self.name, class = error.class(), "{text}");
        }
    }

    /// Takes `text` as the last error; `false`: it was that before.
    fn error(&self, text: &str) -> bool {
        let now = self.clock.unix_ms();
        self.bridges.update(&self.name, |b| {
            b.last_error_ms = Some(now);
            let new = b.last_error.as_deref() != Some(text);
            if new {
                b.last_error = Some(text.to_owned());
            }
            new
        })
    }

    /// A message was taken.
    pub fn taken(&self) {
        self.messages.inc();
        self.bridges.update(&self.name, |b| b.messages += 1);
    }

    /// The same message on `topic` comes again and again.
    pub fn goes_round(&self, topic: &str) {
        tracing::warn!(
            bridge = self.name,
            topic,
            "the same message comes more often than ten times a second: if it goes round between brokers, see bridge.local and \
             bridge.version"
        );
    }

    /// So many are not acknowledged.
    pub fn unacknowledged(&self, n: usize) {
        self.unacknowledged.set(i64::try_from(n).unwrap_or(i64::MAX));
        self.bridges.update(&self.name, |b| b.unacknowledged = n as u64);
    }

    /// A message on `topic` can never be stored: it is acknowledged and gone.
    pub fn refused(&self, topic: &str, why: &str) {
        self.refused.inc();
        self.bridges.update(&self.name, |b| b.refused += 1);
        if self.error(&format!("a message was refused: {why}")) {
            tracing::warn!(bridge = self.name, topic, "a message was refused: {why}");
        }
    }

    /// Nothing can be stored at present, and why; `None`: it can.
    pub fn waiting(&self, why: Option<&str>) {
        let changed = self.bridges.update(&self.name, |b| {
            let changed = b.waiting.is_some() != why.is_some();
            b.waiting = why.map(str::to_owned);
            changed
        });
        match why {
            Some(why) if changed => {
                tracing::warn!(bridge = self.name, "{why}; the other broker keeps what it sends until there is room");
            }
            None if changed => tracing::info!(bridge = self.name, "messages are stored again"),
            _ => {}
        }
    }

    /// What an operator should mend, or nothing.
    pub fn warning(&self, warning: Option<String>) {
        if let Some(warning) = &warning {
            tracing::warn!(bridge = self.name, "{warning}");
        }
        self.bridges.update(&self.name, |b| b.warning = warning);
    }
}
