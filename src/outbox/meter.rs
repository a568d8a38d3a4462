//! The outbox in numbers for /metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::LaneStatus;
use crate::observe::metrics::Metrics;
use crate::sys::sync_barrier;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    lane: String,
}

type Counters = Family<Label, Counter>;
type Gauges = Family<Label, Gauge>;
type Seconds = Gauge<f64, AtomicU64>;
type Histograms = Family<Label, Histogram, fn() -> Histogram>;

/// One lane's metrics.
#[derive(Clone, Debug)]
pub struct Meter {
    /// Events on disk.
    pub committed_events: Counter,
    /// Their bytes.
    pub committed_bytes: Counter,
    /// From taking a group to its being on disk; its count is the number of commits.
    pub commit_seconds: Histogram,
    /// Appends per commit.
    pub group_size: Histogram,
    /// Events refused.
    pub refused: Counter,
    /// Events that were there already.
    pub repeated: Counter,
    /// Events lost to damage.
    pub lost: Counter,
    backlog_events: Gauge,
    backlog_bytes: Gauge,
    oldest_seconds: Seconds,
    disk_bytes: Gauge,
}

/// All lanes' metrics.
#[derive(Debug)]
pub struct Meters {
    committed_events: Counters,
    committed_bytes: Counters,
    commit_seconds: Histograms,
    group_size: Histograms,
    refused: Counters,
    repeated: Counters,
    lost: Counters,
    backlog_events: Gauges,
    backlog_bytes: Gauges,
    oldest_seconds: Family<Label, Seconds>,
    disk_bytes: Gauges,
    fsyncs: Counter,
    fsyncs_seen: Arc<AtomicU64>,
}

impl Meters {
    /// Makes and registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let meters = Self {
            committed_events: Family::default(),
            committed_bytes: Family::default(),
            // 50 µs (memory) to 13 s (a card that is ill)
            commit_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(50e-6, 2.0, 19))),
            group_size: Family::new_with_constructor(|| Histogram::new(exponential_buckets(1.0, 2.0, 12))),
            refused: Family::default(),
            repeated: Family::default(),
            lost: Family::default(),
            backlog_events: Family::default(),
            backlog_bytes: Family::default(),
            oldest_seconds: Family::default(),
            disk_bytes: Family::default(),
            fsyncs: Counter::default(),
            fsyncs_seen: Arc::new(AtomicU64::new(sync_barrier::counts().calls)),
        };
        metrics.register(|r| meters.register(r));
        meters
    }

    fn register(&self, r: &mut Registry) {
        r.register("outbox_committed_events", "Events put on disk", self.committed_events.clone());
        r.register("outbox_committed_bytes", "Bytes of events put on disk", self.committed_bytes.clone());
        r.register_with_unit("outbox_commit", "Time a commit took", Unit::Seconds, self.commit_seconds.clone());
        r.register("outbox_group_size", "Appends per commit", self.group_size.clone());
        r.register("outbox_refused_events", "Events refused", self.refused.clone());
        r.register("outbox_repeated_events", "Events that were stored already", self.repeated.clone());
        r.register("outbox_lost_events", "Events lost to damage on disk", self.lost.clone());
        r.register("outbox_backlog_events", "Events not yet confirmed by Pulsar", self.backlog_events.clone());
        r.register("outbox_backlog_bytes", "Bytes not yet confirmed by Pulsar", self.backlog_bytes.clone());
        let age = "Age of the oldest store that has events not yet confirmed";
        r.register_with_unit("outbox_oldest_age", age, Unit::Seconds, self.oldest_seconds.clone());
        r.register("outbox_disk_bytes", "Disk space in use", self.disk_bytes.clone());
        r.register("outbox_fsyncs", "Syncs that sled asked for, in all lanes", self.fsyncs.clone());
    }

    /// The metrics of one lane.
    pub fn lane(&self, name: &str) -> Meter {
        let label = Label { lane: name.to_owned() };
        Meter {
            committed_events: self.committed_events.get_or_create_owned(&label),
            committed_bytes: self.committed_bytes.get_or_create_owned(&label),
            commit_seconds: self.commit_seconds.get_or_create_owned(&label),
            group_size: self.group_size.get_or_create_owned(&label),
            refused: self.refused.get_or_create_owned(&label),
            repeated: self.repeated.get_or_create_owned(&label),
            lost: self.lost.get_or_create_owned(&label),
            backlog_events: self.backlog_events.get_or_create_owned(&label),
            backlog_bytes: self.backlog_bytes.get_or_create_owned(&label),
            oldest_seconds: self.oldest_seconds.get_or_create_owned(&label),
            disk_bytes: self.disk_bytes.get_or_create_owned(&label),
        }
    }

    /// Takes over what the barrier has counted since the last time.
    pub fn count_fsyncs(&self) {
        let calls = sync_barrier::counts().calls;
        let seen = self.fsyncs_seen.swap(calls, Ordering::Relaxed);
        self.fsyncs.inc_by(calls.saturating_sub(seen));
    }
}

impl Meter {
    /// Takes over the numbers of the lane at `now_ms`.
    pub fn show(&self, status: &LaneStatus, now_ms: i64) {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.backlog_events.set(gauge(status.backlog_events));
        self.backlog_bytes.set(gauge(status.backlog_bytes));
        self.disk_bytes.set(gauge(status.disk_bytes));
        let age_ms = status.oldest_ms.map_or(0, |then| now_ms.saturating_sub(then).max(0));
        self.oldest_seconds.set(age_ms as f64 / 1000.0);
    }
}
