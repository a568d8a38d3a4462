//! An outbox for other modules' tests: in a temporary directory, without waiting for the disk.

use tempfile::TempDir;

use super::Outbox;
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
