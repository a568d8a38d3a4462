//! What is counted about pushed configuration.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::downlink::report::Outcome;
use crate::observe::metrics::Metrics;

/// Labels of a decision.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Decision {
    outcome: &'static str,
    reason: &'static str,
}

/// Label of a refusal.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Code {
    reason: &'static str,
}

/// The counters; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    /// The committed assignment's number.
    pub committed: Gauge,
    /// 1 while a configuration is on trial or waits for its next one.
    pub on_trial: Gauge,
    decisions: Family<Decision, Counter>,
    refused: Family<Code, Counter>,
}

impl Meters {
    /// Registers everything in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        let m = new.clone();
        metrics.register(|r| {
            r.register("downlink_committed_number", "Number of the committed assignment; 0: none", m.committed);
            r.register("downlink_on_trial", "1 while a pushed configuration is not decided yet", m.on_trial);
            r.register("downlink_decisions", "Assignments decided, by outcome and reason", m.decisions);
            r.register("downlink_refused", "Pushed messages and commands refused, by reason", m.refused);
        });
        new
    }

    /// Counts a decision; `reason` is empty when there is none.
    pub fn decided(&self, outcome: Outcome, reason: &'static str) {
        self.decisions.get_or_create(&Decision { outcome: outcome.text(), reason }).inc();
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Code { reason }).inc();
    }
}
