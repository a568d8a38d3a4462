//! What the uplink counts, per lane.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::observe::metrics::Metrics;

/// Label of a lane's metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lane {
    lane: String,
}

/// Labels of a lane's errors.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneAndClass {
    lane: String,
    class: &'static str,
}

/// All lanes.
#[derive(Clone)]
pub struct UplinkMetrics {
    sent: Family<Lane, Counter>,
    sent_bytes: Family<Lane, Counter>,
    confirmed: Family<Lane, Counter>,
    resumed: Family<Lane, Counter>,
    duplicates: Family<Lane, Counter>,
    connects: Family<Lane, Counter>,
    errors: Family<LaneAndClass, Counter>,
    in_flight: Family<Lane, Gauge>,
    latency: Family<Lane, Histogram, fn() -> Histogram>,
}

/// One lane's.
#[derive(Clone)]
pub struct LaneMetrics {
    lane: String,
    errors: Family<LaneAndClass, Counter>,
    /// Events given to a connection, repetitions included.
    pub sent: Counter,
    /// Bytes given to a connection, frames included.
    pub sent_bytes: Counter,
    /// Events that Pulsar has stored.
    pub confirmed: Counter,
    /// Events sent alone because the broker might have them.
    pub resumed: Counter,
    /// Of these, those it had.
    pub duplicates: Counter,
    /// Times that all producers were opened.
    pub connects: Counter,
    /// Bytes taken and not confirmed.
    pub in_flight: Gauge,
    /// From sending to the receipt.
    pub latency: Histogram,
}

impl UplinkMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self {
            sent: Family::default(),
            sent_bytes: Family::default(),
            confirmed: Family::default(),
            resumed: Family::default(),
            duplicates: Family::default(),
            connects: Family::default(),
            errors: Family::default(),
            in_flight: Family::default(),
            // 0.5 ms to 16 s: from a broker next door to a full window on a slow link.
            latency: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0005, 2.0, 16))),
        };
        let a = all.clone();
        metrics.register(|r| {
            r.register("uplink_sent_events", "Events sent to Pulsar, repetitions included", a.sent);
            r.register("uplink_sent_bytes", "Bytes sent to Pulsar", a.sent_bytes);
            r.register("uplink_confirmed_events", "Events that Pulsar confirmed as stored", a.confirmed);
            r.register("uplink_resumed_events", "Events sent alone because Pulsar might have had them", a.resumed);
            r.register("uplink_duplicate_events", "Repeated events that Pulsar recognised and dropped", a.duplicates);
            r.register("uplink_connects", "Times the link came up", a.connects);
            r.register("uplink_errors", "Times the link went down or did not come up, by class", a.errors);
            r.register("uplink_in_flight_bytes", "Bytes sent and not yet confirmed", a.in_flight);
            r.register("uplink_receipt_seconds", "Time from sending to Pulsar's confirmation", a.latency);
        });
        all
    }

    /// Those of `lane`.
    pub fn lane(&self, lane: &str) -> LaneMetrics {
        let label = Lane { lane: lane.to_owned() };
        LaneMetrics {
            lane: lane.to_owned(),
            errors: self.errors.clone(),
            sent: self.sent.get_or_create(&label).clone(),
            sent_bytes: self.sent_bytes.get_or_create(&label).clone(),
            confirmed: self.confirmed.get_or_create(&label).clone(),
            resumed: self.resumed.get_or_create(&label).clone(),
            duplicates: self.duplicates.get_or_create(&label).clone(),
            connects: self.connects.get_or_create(&label).clone(),
            in_flight: self.in_flight.get_or_create(&label).clone(),
            latency: self.latency.get_or_create(&label).clone(),
        }
    }
}

/// How many events of a lane Pulsar has acknowledged with a receipt since the process started. What it says at a
/// connection that it already has is not among them, nor what it dropped as a duplicate.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    confirmed: Counter,
    duplicates: Counter,
}

impl Acknowledged {
    /// So many.
    pub fn events(&self) -> u64 {
        // A duplicate is always an event that was sent alone.
        self.confirmed.get().saturating_sub(self.duplicates.get())
    }
}

impl LaneMetrics {
    /// See [`Acknowledged`].
    pub fn acknowledged(&self) -> Acknowledged {
        Acknowledged { confirmed: self.confirmed.clone(), duplicates: self.duplicates.clone() }
    }

    /// Counts an error.
    pub fn error(&self, class: &'static str) {
        self.errors.get_or_create(&LaneAndClass { lane: self.lane.clone(), class }).inc();
    }
}
