//! The journal as a whole.

use std::path::Path;

use super::*;
use crate::observe::metrics::Metrics;

mod basics;
mod damage;
mod disk;
mod model;

fn meter() -> Meter {
    Meters::new(&Metrics::default()).of("test")
}

fn small() -> Settings {
    Settings { durable: true, segment_bytes_max: 64 << 10, total_bytes_max: (6 * 64) << 10 }
}

/// Opens it; the records that it held.
fn open(dir: &Path, settings: Settings) -> (Journal, Vec<Vec<u8>>) {
    let mut records = Vec::new();
    let journal = Journal::open(dir, settings, meter(), |r| records.push(r.to_vec())).unwrap();
    (journal, records)
}
