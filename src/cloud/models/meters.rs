//! Metrics of models.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::observe::metrics::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    /// Versions published by this process.
    pub published: Counter,
    /// Bytes of packs written by this process.
    pub bytes: Counter,
    refused: Family<Reason, Counter>,
}

impl Meters {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|r| {
            r.register(
                "cloud_models_published",
                "Versions of models published by this process",
                this.published.clone(),
            );
            r.register("cloud_models_pack_bytes", "Bytes of packs written by this process", this.bytes.clone());
            let help = "Models that this process did not publish, by reason";
            r.register("cloud_models_refused", help, this.refused.clone());
        });
        this
    }

    /// One was not published.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }
}
