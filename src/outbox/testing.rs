//! An outbox for other modules' tests: in a temporary directory, without waiting for the disk.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use super::budget::Budget;
use super::lane::{self, Settings};
use super::meter::Meters;
use super::window::Fingerprints;
use super::{Durable, Outbox, Writer, recovery};
use crate::config::EdgeConfig;
use crate::config::edge::{Durability, Lane};
use crate::observe::metrics::Metrics;
use crate::sys::clock::Clock;

/// A configuration with these lanes whose data lies in a new temporary directory.
pub(crate) fn config(lanes: &[&str]) -> (TempDir, EdgeConfig) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = EdgeConfig::default();
    config.node.data_dir = dir.path().to_owned();
    config.outbox.durability = Durability::Os;
    config.lanes =
        lanes.iter().map(|name| Lane { name: (*name).to_owned(), types: Vec::new(), mqtt: Vec::new() }).collect();
    (dir, config)
}

/// Opens the outbox of `config`.
pub(crate) fn open(config: &EdgeConfig) -> Outbox {
    Outbox::open(config, &Clock::system(), &Metrics::default()).unwrap()
}

/// A lane whose disk hangs: appends are answered when the test says so.
pub(crate) struct Hung {
    lane: Arc<lane::Lane>,
    fingerprints: Fingerprints,
    _dir: TempDir,
}

impl Hung {
    pub(crate) fn new(name: &str) -> Self {
        let (dir, config) = config(&[name]);
        let settings = Settings {
            dir: dir.path().join(name),
            tag: 1,
            durable: false,
            proven: Arc::new(AtomicBool::new(true)),
            record_bytes_max: config.outbox.max_event,
            store_bytes_max: 1 << 20,
            window: config.outbox.dedup_window,
            keeper: Arc::default(),
        };
        let budget = Arc::new(Budget::new(dir.path().into(), config.outbox.max_bytes));
        let meter = Meters::new(&Metrics::default()).lane(name);
        let fingerprints = Fingerprints::default();
        let opened = recovery::open_lane(name, settings, &Clock::system(), &budget, meter, &fingerprints);
        let lane = opened.map_err(|e| e.to_string()).unwrap().lane;
        Self { lane, fingerprints, _dir: dir }
    }

    pub(crate) fn writer(&self) -> Writer {
        Writer::new(self.lane.clone(), self.fingerprints.clone())
    }

    /// Answers what waits; how many events each append had. Waits a second if there is none.
    pub(crate) fn answer(&self) -> Vec<usize> {
        let group = self.lane.queue.take(None).unwrap_or_default();
        let answer = |append: super::commit::Append| {
            let events = append.ends.len();
            let durable = Durable { accepted: events as u64, repeated: 0, first: 1, last: 1 };
            let _ = append.answer.send(Ok(durable)); // the receiver may be gone
            events
        };
        group.into_iter().map(answer).collect()
    }

    pub(crate) fn close(&self) {
        self.lane.queue.close();
    }
}
