//! Journals in numbers for /metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::observe::metrics::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    journal: &'static str,
}

/// One journal's metrics.
#[derive(Clone, Debug)]
pub struct Meter {
    /// Records and their frames, handed to the kernel.
    pub written_bytes: Counter,
    /// One `fdatasync`; its count is the number of them.
    pub sync_seconds: Histogram,
    /// Size on disk.
    pub disk_bytes: Gauge,
    /// Finished tidyings, those after a failure included.
    pub tidyings: Counter,
    /// Failed writes and syncs, refused appends.
    pub errors: Counter,
    /// 1 while nothing is taken and answered.
    pub failing: Gauge,
    /// Places that were damaged, as found at the start.
    pub damaged: Counter,
}

/// All journals' metrics.
#[derive(Debug)]
pub struct Meters {
    written_bytes: Family<Label, Counter>,
    sync_seconds: Family<Label, Histogram, fn() -> Histogram>,
    disk_bytes: Family<Label, Gauge>,
    tidyings: Family<Label, Counter>,
    errors: Family<Label, Counter>,
    failing: Family<Label, Gauge>,
    damaged: Family<Label, Counter>,
}

impl Meters {
    /// Makes and registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let meters = Self {
            written_bytes: Family::default(),
            // 50 µs (memory) to 13 s (a card that is ill)
            sync_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(50e-6, 2.0, 19))),
            disk_bytes: Family::default(),
            tidyings: Family::default(),
            errors: Family::default(),
            failing: Family::default(),
            damaged: Family::default(),
        };
        metrics.register(|r| meters.register(r));
        meters
    }

    fn register(&self, r: &mut Registry) {
        let bytes = Unit::Bytes;
        r.register_with_unit("journal_written", "Written to the journal", bytes, self.written_bytes.clone());
        let help = "Time of each sync of the journal";
        r.register_with_unit("journal_sync", help, Unit::Seconds, self.sync_seconds.clone());
        r.register_with_unit("journal_disk", "Size of the journal", Unit::Bytes, self.disk_bytes.clone());
        r.register("journal_tidyings", "Times that the journal was written anew", self.tidyings.clone());
        r.register("journal_errors", "Failed writes and syncs, refused records", self.errors.clone());
        let help = "1 while the journal fails: nothing that needs it is acknowledged";
        r.register("journal_failing", help, self.failing.clone());
        r.register("journal_damaged", "Damaged places found at the start", self.damaged.clone());
    }

    /// Those of one journal.
    pub fn of(&self, journal: &'static str) -> Meter {
        let label = Label { journal };
        Meter {
            written_bytes: self.written_bytes.get_or_create(&label).clone(),
            sync_seconds: self.sync_seconds.get_or_create(&label).clone(),
            disk_bytes: self.disk_bytes.get_or_create(&label).clone(),
            tidyings: self.tidyings.get_or_create(&label).clone(),
            errors: self.errors.get_or_create(&label).clone(),
            failing: self.failing.get_or_create(&label).clone(),
            damaged: self.damaged.get_or_create(&label).clone(),
        }
    }
}
