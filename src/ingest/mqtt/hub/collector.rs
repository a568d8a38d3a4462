//! The broker in numbers for /metrics, read when somebody asks.

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, counter::Counter};

use super::Hub;
use crate::ingest::mqtt::broker::Counts;

/// Shows [`Counts`].
pub struct Collector(Hub);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

type Source = (&'static str, &'static str, fn(&Counts) -> usize);

const GAUGES: [Source; 10] = [
    ("mqtt_sessions", "Sessions, with and without a connection", |c| c.sessions),
    ("mqtt_subscriptions", "Subscriptions, shared ones included", |c| c.subscriptions),
    ("mqtt_shared_subscriptions", "Shared subscriptions", |c| c.shared_subscriptions),
    ("mqtt_retained_messages", "Retained messages", |c| c.retained),
    ("mqtt_retained_bytes", "Bytes of retained messages", |c| c.retained_bytes),
    ("mqtt_queued_messages", "Messages that wait in sessions", |c| c.queued),
    ("mqtt_queued_bytes", "Bytes of messages that wait in sessions", |c| c.queued_bytes),
    ("mqtt_pot_bytes", "Bytes that wait beyond what each connection is guaranteed", |c| c.pot_bytes),
    ("mqtt_held_bytes", "Bytes of sessions besides messages, beyond what each has for itself", |c| c.held_bytes),
    ("mqtt_held_levels", "Levels of filters, beyond what each session has for itself", |c| c.held_levels),
];

impl Collector {
    /// For this hub's broker.
    pub fn new(hub: Hub) -> Self {
        Self(hub)
    }
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Collector")
    }
}

impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.0.counts();
        for (name, help, source) in GAUGES {
            let gauge = ConstGauge::new(i64::try_from(source(&counts)).unwrap_or(i64::MAX));
            gauge.encode(to.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, n) in [
            ("mqtt_wills", "Wills published", counts.wills),
            ("mqtt_sessions_expired", "Sessions that expired", counts.sessions_expired),
            (
                "mqtt_sessions_evicted",
                "Sessions of absent clients that were ended for new ones",
                counts.sessions_evicted,
            ),
        ] {
            ConstCounter::new(n).encode(to.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let dropped = Family::<Reason, Counter>::default();
        for (reason, n) in [
            ("slow", counts.dropped.slow),
            ("full", counts.dropped.full),
            ("total", counts.dropped.total),
            ("expired", counts.dropped.expired),
            ("too-large", counts.dropped.too_large),
            ("not-allowed", counts.dropped.not_allowed),
            ("not-retained", counts.dropped.not_retained),
        ] {
            dropped.get_or_create(&Reason { reason }).inc_by(n);
        }
        let help = "Messages that did not reach a subscriber, or were not taken, by reason";
        dropped.encode(to.encode_descriptor("mqtt_dropped", help, None, MetricType::Counter)?)
    }
}
