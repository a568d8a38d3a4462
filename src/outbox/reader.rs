//! The way out: events in order, from memory while the reader keeps up, else from the stores' files.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::lane::{Lane, Place};
use super::scan::{self, Index};
use super::{ReadError, Seq, Stored};

/// Bytes read from a store at once at least, handed out over several calls.
const AHEAD_BYTES: usize = 256 * 1024;

/// The way out for one lane.
pub struct Reader {
    lane: Arc<Lane>,
    /// Where the blocks of the store that is read lie, up to a sequence. Only a cache: made again when lost.
    pub(super) index: Option<Known>,
    /// Events read and not asked for yet.
    ahead: VecDeque<Stored>,
}

#[derive(Debug)]
pub(super) struct Known {
    store: Seq,
    pub(super) through: Seq,
    pub(super) index: Index,
}

impl Reader {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self { lane, index: None, ahead: VecDeque::new() }
    }

    /// The lane's name.
    pub fn lane(&self) -> &str {
        &self.lane.name
    }

    /// The next events at or after `from`, in order, about `max_bytes` of records (at least one event).
    /// Waits until there is one. Sequences may jump over what was lost to damage or given up.
    /// Cancel-safe: a dropped call takes nothing away.
    pub async fn read(&mut self, from: Seq, max_bytes: usize) -> Result<Vec<Stored>, ReadError> {
        let mut from = from.max(1);
        loop {
            if self.ahead.front().is_some_and(|s| s.seq == from) {
                return Ok(take(&mut self.ahead, max_bytes));
            }
            self.ahead.clear();
            let lane = self.lane.clone();
            let grew = lane.grew.notified();
            tokio::pin!(grew);
            grew.as_mut().enable();
            let place = self.lane.book().locate(from, max_bytes);
            match place {
                Place::Memory(blocks) => {
                    let mut events = Vec::new();
                    for block in &blocks {
                        scan::push_records(&block.head, &block.payload, from, &mut events)
                            .map_err(|e| self.error(&e))?;
                    }
                    self.ahead = events.into();
                    return Ok(take(&mut self.ahead, max_bytes));
                }
                Place::Store(store, last) => {
                    let (events, through) = self.read_store(store, last, from, max_bytes.max(AHEAD_BYTES)).await?;
                    match events.last() {
                        Some(_) => {
                            self.ahead = events.into();
                            return Ok(take(&mut self.ahead, max_bytes));
                        }
                        // All that was left of this store is damaged, or it was removed meanwhile.
                        // Not `last`: the store may have grown since its blocks were looked up.
                        None => from = through + 1,
                    }
                }
                Place::Future => grew.await,
            }
        }
    }

    /// Everything up to and including `through` has arrived at Pulsar; its space may be reused. Never goes back.
    pub fn confirm(&self, through: Seq) {
        let mut book = self.lane.book();
        let last = book.last;
        book.cursor.raise(through, last);
    }

    /// First sequence that is not confirmed (F of the resume rule); one past the last if all are.
    pub fn first_unconfirmed(&self) -> Seq {
        self.lane.book().cursor.confirmed() + 1
    }

    /// Last sequence on disk; 0: none yet.
    pub fn last_durable(&self) -> Seq {
        self.lane.book().last
    }

    /// Events of a store, and up to which sequence those that are not among them are gone.
    async fn read_store(
        &mut self,
        store: Seq,
        last: Seq,
        from: Seq,
        bytes: usize,
    ) -> Result<(Vec<Stored>, Seq), ReadError> {
        let known = self.index.take().filter(|k| k.store == store && k.through >= from);
        let lane = self.lane.clone();
        let work = move || -> io::Result<(Option<Known>, Vec<Stored>)> {
            let known = match known {
                Some(known) => known,
                None => match learn(&lane, store, last, from) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        // Removed because it was drained, or gone against our will.
                        let listed = lane.book().stores.iter().any(|s| s.first == store);
                        if listed {
                            lane.lose_once((from.max(store), last), "the store that held them is missing");
                        }
                        return Ok((None, Vec::new()));
                    }
                    other => other?,
                },
            };
            let events = known.index.read(from, bytes)?;
            Ok((Some(known), events))
        };
        // Blocking, and not on a thread that has connections to serve: a slow card takes its time.
        let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|r| r);
        let (known, events) = done.map_err(|e| self.error(&e))?;
        let through = known.as_ref().map_or(last, |k| k.through);
        self.index = known;
        Ok((events, through))
    }

    fn error(&self, error: &io::Error) -> ReadError {
        ReadError { lane: self.lane.name.clone(), reason: error.to_string() }
    }
}

/// Finds the blocks of a store, and reports what is missing from `from` on.
fn learn(lane: &Lane, store: Seq, last: Seq, from: Seq) -> io::Result<Known> {
    let mut index = Index::build(&lane.store_dir(store), lane.settings.tag)?;
    index.restrict(store..=last);
    for gap in index.missing(from.max(store)..=last) {
        lane.lose_once(gap, "the blocks that held them are damaged");
    }
    Ok(Known { store, through: last, index })
}

/// Events for one call: at least one, and about `max_bytes`.
fn take(ahead: &mut VecDeque<Stored>, max_bytes: usize) -> Vec<Stored> {
    let mut bytes = 0;
    let mut count = 0;
    for stored in ahead.iter() {
        bytes += stored.record.len();
        if count > 0 && bytes > max_bytes {
            break;
        }
        count += 1;
    }
    if count == ahead.len() {
        return std::mem::take(ahead).into();
    }
    ahead.drain(..count).collect()
}
