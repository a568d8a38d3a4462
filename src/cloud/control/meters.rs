//! Metrics of configuration push.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::reports::Dropped;
use crate::observe::metrics::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meters {
    dropped: Family<Reason, Counter>,
    /// Gateways that are heard.
    pub present: Gauge,
    /// Gateways that are known, and are not heard.
    pub away: Gauge,
    /// Inboxes written.
    pub sent: Counter,
    /// Attempts to write one that failed.
    pub failed: Counter,
    /// Inboxes that could not be written and are tried again.
    pub waiting: Gauge,
    /// Roll-outs that are not over.
    pub rollouts: Gauge,
    /// 1: this process has the lead.
    pub lead: Gauge,
}

impl Meters {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let gateways = Family::<State, Gauge>::default();
        let (assignments, dropped) = (Family::<Outcome, Counter>::default(), Family::<Reason, Counter>::default());
        // All of them are there from the beginning: a rate over one that appears misses its first count.
        Dropped::CODES.iter().for_each(|reason| drop(dropped.get_or_create(&Reason { reason })));
        let state = |state| gateways.get_or_create_owned(&State { state });
        let result = |result| assignments.get_or_create_owned(&Outcome { result });
        let this = Self {
            dropped: dropped.clone(),
            present: state("present"),
            away: state("away"),
            sent: result("sent"),
            failed: result("failed"),
            waiting: Gauge::default(),
            rollouts: Gauge::default(),
            lead: Gauge::default(),
        };
        metrics.register(|r| {
            r.register("cloud_gateways", "Gateways that are known, by whether they are heard", gateways.clone());
            r.register("cloud_assignments", "Assignments put into inboxes, by what became of it", assignments.clone());
            r.register("cloud_inboxes_waiting", "Inboxes that failed and are tried again", this.waiting.clone());
            r.register("cloud_reports_dropped", "Reports of gateways that do not count, by reason", dropped.clone());
            r.register("cloud_rollouts_active", "Roll-outs that are not over", this.rollouts.clone());
            r.register("cloud_lead", "1 while this process carries roll-outs out", this.lead.clone());
        });
        this
    }

    /// A report does not count.
    pub fn dropped(&self, reason: &'static str) {
        self.dropped.get_or_create(&Reason { reason }).inc();
    }
}
