//! What is counted about models.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::downlink::report::ModelPresent;
use crate::models::desired::Told;
use crate::observe::metrics::Metrics;

/// Label of a decision.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Label of a model.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Model {
    model: String,
}

/// The counters; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    outcomes: Family<Outcome, Counter>,
    versions: Family<Model, Gauge<i64, AtomicI64>>,
    lacking: Gauge,
}

impl Meters {
    /// Registers everything in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        let m = new.clone();
        metrics.register(|r| {
            r.register("model_outcomes", "What became of assigned models", m.outcomes);
            r.register("model_version", "Version of a model in use; 0: none", m.versions);
            r.register("model_lacking_bytes", "Bytes of the model being fetched that are not here yet", m.lacking);
        });
        new
    }

    /// Counts a decision.
    pub fn told(&self, told: &Told) {
        self.outcomes.get_or_create(&Outcome { outcome: told.outcome.text() }).inc();
    }

    /// What there is; names are those of directories, which are bounded.
    pub fn present(&self, present: &[ModelPresent]) {
        for model in present {
            let version = i64::try_from(model.version.unwrap_or(0)).unwrap_or(i64::MAX);
            self.versions.get_or_create(&Model { model: model.name.to_string() }).set(version);
        }
        let lacking = present.iter().filter_map(|model| model.fetching.as_ref());
        let lacking: u64 = lacking.map(|fetching| fetching.of_bytes.saturating_sub(fetching.bytes)).sum();
        self.lacking.set(i64::try_from(lacking).unwrap_or(i64::MAX));
    }
}
