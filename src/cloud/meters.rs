//! The cloud's metrics, per lane.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::observe::metrics::Metrics;

/// Bounds of the commit histogram in seconds: an SSD's sync to a stalled disk.
const COMMIT_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lane {
    lane: String,
}

/// The metrics of one lane. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Messages taken from Pulsar, repetitions included.
    pub received: Counter,
    /// Events on disk.
    pub stored: Counter,
    /// Messages of the topic that repeated an earlier one.
    pub duplicates: Counter,
    /// Messages that Pulsar delivered again, after a reconnect or a restart.
    pub redelivered: Counter,
    /// Events stored without a look for duplicates: not from a Tidegate, or beyond a limit of the audit.
    pub unchecked: Counter,
    /// Messages that could not be decoded.
    pub undecodable: Counter,
    /// Entries (batches) acknowledged to Pulsar.
    pub acknowledged: Counter,
    /// Time of one commit.
    pub commit_seconds: Histogram,
    /// Files completed.
    pub files: Counter,
    /// Bytes of lines.
    pub raw_bytes: Counter,
    /// Bytes on disk.
    pub compressed_bytes: Counter,
    /// Consumers made again after a failure.
    pub restarts: Counter,
    /// Failures of the sink.
    pub sink_failures: Counter,
    /// Sequences that have not come.
    pub missing: Gauge,
}

/// The metrics of all lanes.
#[derive(Debug)]
pub struct AllMeters {
    counters: Vec<Family<Lane, Counter>>,
    commit_seconds: Family<Lane, Histogram, fn() -> Histogram>,
    missing: Family<Lane, Gauge>,
}

const COUNTERS: [(&str, &str); 12] = [
    ("cloud_received", "Messages taken from Pulsar, repetitions included"),
    ("cloud_stored", "Events on disk"),
    ("cloud_duplicates", "Messages that repeated an earlier one and were removed"),
    ("cloud_redelivered", "Messages that Pulsar delivered again and were removed"),
    ("cloud_unchecked", "Events stored without a look for duplicates"),
    ("cloud_undecodable", "Messages that could not be decoded and were passed over"),
    ("cloud_acknowledged_entries", "Entries acknowledged to Pulsar"),
    ("cloud_files", "Files completed"),
    ("cloud_raw_bytes", "Bytes of lines stored"),
    ("cloud_compressed_bytes", "Bytes written to disk"),
    ("cloud_consumer_restarts", "Consumers made again after a failure"),
    ("cloud_sink_failures", "Failures to store"),
];

impl AllMeters {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let commit_seconds: Family<Lane, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(COMMIT_SECONDS));
        let missing = Family::default();
        let counters = metrics.register(|registry: &mut Registry| {
            registry.register("cloud_commit_seconds", "Time of one commit", commit_seconds.clone());
            registry.register("cloud_missing", "Sequences that have not come", missing.clone());
            COUNTERS
                .map(|(name, help)| {
                    let family = Family::<Lane, Counter>::default();
                    registry.register(name, help, family.clone());
                    family
                })
                .into()
        });
        Self { counters, commit_seconds, missing }
    }

    /// Those of `lane`.
    pub fn of(&self, lane: &str) -> Meters {
        let lane = Lane { lane: lane.to_owned() };
        let counter = |at: usize| self.counters[at].get_or_create_owned(&lane);
        Meters {
            received: counter(0),
            stored: counter(1),
            duplicates: counter(2),
            redelivered: counter(3),
            unchecked: counter(4),
            undecodable: counter(5),
            acknowledged: counter(6),
            files: counter(7),
            raw_bytes: counter(8),
            compressed_bytes: counter(9),
            restarts: counter(10),
            sink_failures: counter(11),
            commit_seconds: self.commit_seconds.get_or_create_owned(&lane),
            missing: self.missing.get_or_create_owned(&lane),
        }
    }
}
