//! Scoring in numbers for /metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Unit;

use super::failure::Failure;
use crate::observe::metrics::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Run {
    model: String,
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    model: String,
    role: &'static str,
    reason: &'static str,
}

type Histograms = Family<Run, Histogram, fn() -> Histogram>;

/// All models' metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meters {
    scored: Family<Run, Counter>,
    unscored: Family<Failed, Counter>,
    seconds: Histograms,
    version: Family<Run, Gauge>,
    load_failures: Family<Run, Counter>,
    alarms: Family<Of, Counter>,
    alarms_lost: Family<Of, Counter>,
    compared: Family<Of, Counter>,
    disagreements: Family<Of, Counter>,
}

/// From 50 µs to 1.6 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 16))
}

impl Meters {
    /// Registers them. They have no lines before something is configured.
    pub fn new(metrics: &Metrics) -> Self {
        let meters = Self {
            scored: Family::default(),
            unscored: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            version: Family::default(),
            load_failures: Family::default(),
            alarms: Family::default(),
            alarms_lost: Family::default(),
            compared: Family::default(),
            disagreements: Family::default(),
        };
        metrics.register(|r| {
            r.register("inference_scored_events", "Events that a model has scored", meters.scored.clone());
            r.register(
                "inference_unscored_events",
                "Events stored without a score, by reason",
                meters.unscored.clone(),
            );
            let text = "Time for which events were held for their scores";
            r.register_with_unit("inference_held", text, Unit::Seconds, meters.seconds.clone());
            r.register("inference_model_version", "Version that scores; 0: none", meters.version.clone());
            r.register("inference_load_failures", "Models that could not be loaded", meters.load_failures.clone());
            r.register("inference_alarms", "Alarms made of scores", meters.alarms.clone());
            r.register("inference_alarms_lost", "Alarms that the outbox did not take", meters.alarms_lost.clone());
            r.register("inference_compared_events", "Events that both versions have scored", meters.compared.clone());
            let text = "Events of which one version alone has a score above alarm_above";
            r.register("inference_disagreements", text, meters.disagreements.clone());
        });
        meters
    }

    /// For one model.
    pub fn of(&self, model: &str) -> Meter {
        let of = Of { model: model.to_owned() };
        Meter {
            model: model.to_owned(),
            unscored: self.unscored.clone(),
            active: self.role(model, "active"),
            shadow: self.role(model, "shadow"),
            alarms: self.alarms.get_or_create(&of).clone(),
            alarms_lost: self.alarms_lost.get_or_create(&of).clone(),
            compared: self.compared.get_or_create(&of).clone(),
            disagreements: self.disagreements.get_or_create(&of).clone(),
        }
    }

    fn role(&self, model: &str, role: &'static str) -> RoleMeter {
        let run = Run { model: model.to_owned(), role };
        RoleMeter {
            role,
            scored: self.scored.get_or_create(&run).clone(),
            seconds: self.seconds.get_or_create(&run).clone(),
            version: self.version.get_or_create(&run).clone(),
            load_failures: self.load_failures.get_or_create(&run).clone(),
        }
    }
}

/// One model's metrics.
#[derive(Debug)]
pub struct Meter {
    model: String,
    unscored: Family<Failed, Counter>,
    /// Of the version in use.
    pub active: RoleMeter,
    /// Of the candidate.
    pub shadow: RoleMeter,
    /// Made.
    pub alarms: Counter,
    /// Not stored.
    pub alarms_lost: Counter,
    /// Scored by both.
    pub compared: Counter,
    /// On different sides of the threshold.
    pub disagreements: Counter,
}

/// The metrics of the version in use, or of the candidate.
#[derive(Debug)]
pub struct RoleMeter {
    role: &'static str,
    /// Scored.
    pub scored: Counter,
    /// See [`Meters`].
    pub seconds: Histogram,
    /// In use.
    pub version: Gauge,
    /// Not loaded.
    pub load_failures: Counter,
}

impl Meter {
    /// It scores no more.
    pub fn gone(&self) {
        self.active.version.set(0);
        self.shadow.version.set(0);
    }

    /// Events without a score.
    pub fn unscored(&self, role: &RoleMeter, why: Failure, events: u64) {
        let failed = Failed { model: self.model.clone(), role: role.role, reason: why.name() };
        self.unscored.get_or_create(&failed).inc_by(events);
    }
}
