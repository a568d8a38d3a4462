//! What the control link counts. All links of a process share these.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::observe::metrics::Metrics;

/// Label of a message's kind.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Label of an error.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

/// The counters; clones share them.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Links that are connected now.
    pub(super) connected: Gauge,
    /// Messages of the inbox.
    pub(super) inbox: Counter,
    /// Messages with commands, repetitions included.
    pub(super) commands: Counter,
    /// Messages refused before anybody saw them.
    pub(super) unfit: Counter,
    /// Reports that Pulsar has stored.
    pub(super) reports_sent: Counter,
    /// Reports whose sender was told to repeat.
    pub(super) reports_failed: Counter,
    errors: Family<Class, Counter>,
}

impl Meters {
    /// Registers everything in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let (messages, reports) = (Family::<Kind, Counter>::default(), Family::<Kind, Counter>::default());
        let of = |family: &Family<Kind, Counter>, kind| family.get_or_create_owned(&Kind { kind });
        let new = Self {
            connected: Gauge::default(),
            inbox: of(&messages, "inbox"),
            commands: of(&messages, "command"),
            unfit: of(&messages, "unfit"),
            reports_sent: of(&reports, "sent"),
            reports_failed: of(&reports, "failed"),
            errors: Family::default(),
        };
        let m = new.clone();
        metrics.register(|r| {
            r.register("control_connected", "Control links that are connected", m.connected);
            r.register("control_messages", "Messages from the cloud, by kind, repetitions included", messages);
            r.register("control_reports", "Reports to the cloud, by what became of them", reports);
            r.register("control_errors", "Times the control link failed, by class", m.errors);
        });
        new
    }

    /// Counts an error.
    pub(super) fn error(&self, class: &'static str) {
        self.errors.get_or_create(&Class { class }).inc();
    }
}
