//! Where the broker's records are kept: its journal, and its time line.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::broker::record::{Millis, Record};
use super::store;
use crate::journal::time_line::{Reading, Restored, TimeLine};
use crate::journal::{AppendError, Journal, Meter, OpenError, Position, RECORD_BYTES_MAX, Settings, Tidy};
use crate::sys::clock::Clock;

/// With a record to be written, the clocks are written too if this long was not. It is what may be repeated of the time line
/// after a crash without a clock that runs on.
const CLOCK_AFTER_MS: u64 = 10_000;

/// The same while nothing else is written: small against the life of an SD card.
pub const CLOCK_IDLE_MS: u64 = 600_000;

/// The broker's journal. Call its methods under the broker's lock: what is written must be in the order of the changes.
#[derive(Debug)]
pub struct Shelf {
    journal: Journal,
    line: TimeLine,
    born: Instant,
    clock: Clock,
    /// When the clocks were written last, on the line.
    clock_written: AtomicU64,
}

impl Shelf {
    /// Opens or makes the journal in `dir`, and hands every record in it to `restore`, in order; those that cannot be read
    /// are reported and left out. Blocks on the disk.
    pub fn open(
        dir: &Path,
        settings: Settings,
        meter: Meter,
        clock: &Clock,
        mut restore: impl FnMut(Record),
    ) -> Result<Self, OpenError> {
        let mut known = Restored::default();
        let journal = Journal::open(dir, settings, meter, |bytes| {
            if let Some(reading) = store::decode_clock(bytes) {
                known.reading(reading);
                return;
            }
            match store::decode(bytes) {
                Ok(record) => {
                    if let Record::Time(line_ms) = record {
                        known.at_least(line_ms);
                    }
                    restore(record);
                }
                Err(reason) => {
                    let dir = dir.display().to_string();
                    tracing::error!(dir, %reason, "a record of MQTT sessions cannot be read; going on without it");
                }
            }
        })?;
        let line = TimeLine::start(&known, clock.unix_ms());
        Ok(Self { journal, line, born: Instant::now(), clock: clock.clone(), clock_written: AtomicU64::new(0) })
    }

    /// The journal, to wait for positions, for a tidying to be due, and to close it.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The broker's time: never goes back, also across restarts.
    pub fn now(&self) -> Millis {
        self.line.at(u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// How long the gateway stood still before this start, as its clock says.
    pub fn away_ms(&self) -> Millis {
        self.line.away_ms()
    }

    /// Appends the records of a reaction. The position is that of the last; without records, what was appended before. Where
    /// one is too large for the journal it is an error, but the others are appended: they happened as well.
    pub fn append(&self, records: &[Record]) -> Result<Position, AppendError> {
        let mut bytes: Vec<_> = records.iter().map(store::encode).collect();
        if !bytes.is_empty() {
            bytes.extend(self.clock_after(CLOCK_AFTER_MS));
        }
        let appended = self.journal.append(&bytes);
        if matches!(appended, Err(AppendError::Length { .. })) {
            bytes.retain(|record| record.len() <= RECORD_BYTES_MAX);
            self.journal.append(&bytes)?;
        }
        appended
    }

    /// Appends a piece of what is alive. A record that is too large for the journal is reported and left out: the
    /// rest of the state is worth more than none of it.
    pub fn rewrite(&self, tidy: &Tidy, records: &[Record]) -> Result<(), AppendError> {
        let mut bytes: Vec<_> = records.iter().map(store::encode).collect();
        bytes.extend(self.clock_after(0)); // what it supersedes has the older ones
        for record in &bytes {
            match tidy.append(&[record]) {
                Err(reason @ AppendError::Length { .. }) => {
                    tracing::error!(%reason, "part of a session's or retained message's state is not kept");
                }
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Writes the clocks if they were not for [`CLOCK_IDLE_MS`]; to be called about as often.
    pub fn keep_time(&self) -> Result<(), AppendError> {
        match self.clock_after(CLOCK_IDLE_MS) {
            Some(clock) => self.journal.append(&[clock]).map(drop),
            None => Ok(()),
        }
    }

    fn clock_after(&self, ms: u64) -> Option<Vec<u8>> {
        let line_ms = self.now();
        let written = self.clock_written.load(Ordering::Relaxed);
        (line_ms.saturating_sub(written) >= ms).then(|| {
            self.clock_written.store(line_ms, Ordering::Relaxed);
            store::encode_clock(&Reading { line_ms, wall_ms: self.clock.unix_ms() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Meters;
    use crate::observe::metrics::Metrics;

    fn open(dir: &Path, clock: &Clock) -> (Shelf, Vec<Record>) {
        let mut records = Vec::new();
        let meter = Meters::new(&Metrics::default()).of("mqtt");
        let shelf = Shelf::open(dir, Settings::default(), meter, clock, |r| records.push(r)).unwrap();
        (shelf, records)
    }

    #[tokio::test]
    async fn records_and_time_are_there_after_a_restart_with_a_clock_at_1970() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, hand) = Clock::set_to(1_800_000_000_000);
        let record = Record::SessionEnded { session: 7 };
        let (shelf, records) = open(dir.path(), &clock);
        assert!(records.is_empty());
        shelf.append(std::slice::from_ref(&record)).unwrap();
        let before = shelf.now();
        assert!((1_800_000_000_000..1_800_000_060_000).contains(&before));
        shelf.journal().close().await;

        hand.store(1_000, Ordering::Relaxed);
        let (shelf, records) = open(dir.path(), &clock);
        assert_eq!(records, [record]);
        assert!((1_800_000_000_000..1_800_000_060_000).contains(&shelf.now()), "{}", shelf.now());
    }

    #[tokio::test]
    async fn a_record_that_is_too_large_is_an_error_and_the_others_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::set_to(1_800_000_000_000).0;
        let (shelf, _) = open(dir.path(), &clock);
        let large = Record::Unsubscribed { session: 1, filter: "x".repeat(RECORD_BYTES_MAX) };
        let records = [Record::SessionEnded { session: 1 }, large, Record::SessionEnded { session: 2 }];
        assert!(matches!(shelf.append(&records), Err(AppendError::Length { .. })));
        shelf.journal().close().await;
        let (_, kept) = open(dir.path(), &clock);
        assert_eq!(kept, [records[0].clone(), records[2].clone()]);
    }

    #[tokio::test]
    async fn a_tidying_keeps_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, hand) = Clock::set_to(1_800_000_000_000);
        let (shelf, _) = open(dir.path(), &clock);
        let large = Record::Unsubscribed { session: 1, filter: "x".repeat(100_000) };
        while !shelf.journal().progress().borrow().tidy_due {
            let position = shelf.append(std::slice::from_ref(&large)).unwrap();
            shelf.journal().written(position).await.unwrap();
        }
        let tidy = shelf.journal().tidy(0).unwrap();
        shelf.rewrite(&tidy, &[Record::SessionEnded { session: 9 }]).unwrap();
        let position = tidy.finish().unwrap();
        shelf.journal().durable(position).await.unwrap();
        shelf.journal().close().await;
        hand.store(5, Ordering::Relaxed);
        let (shelf, records) = open(dir.path(), &clock);
        assert_eq!(records, [Record::SessionEnded { session: 9 }]);
        assert!(shelf.now() >= 1_800_000_000_000);
    }
}
