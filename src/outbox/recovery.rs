//! Opens a lane: takes stock, writes losses down, makes room for new events, and remembers what was seen lately.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::cursor::Cursor;
use super::keeper::KEEP_BYTES_MAX;
use super::lane::{Book, Lane, Settings, Store};
use super::mark::MarkFile;
use super::meter::Meter;
use super::notes::Seal;
use super::scan::Index;
use super::segment;
use super::store::SPARE;
use super::survey::{Survey, survey};
use super::window::{self, ENTRIES_MAX, Fingerprint, Fingerprints, Window, age_ms};
use super::{OpenError, Seq};
use crate::event::record;
use crate::sys::clock::Clock;
use crate::sys::files;

/// Prefix of a store that nothing could be read from. One per lane is kept for whoever wants to look at it.
const DAMAGED: &str = "damaged-";

/// Names of events that are handed out after a start reach back so far from the last event, if the window is shorter.
const RECALL_MIN: Duration = Duration::from_secs(600);

/// A lane as it was found.
pub struct Opened {
    /// The lane.
    pub lane: Arc<Lane>,
    /// Its recent events.
    pub window: Window,
    /// The named ones of what was stored last, however long ago that is now.
    pub last: Vec<Fingerprint>,
}

/// Opens the lane `name`, and the window of its recent events.
pub fn open_lane(
    name: &str,
    settings: Settings,
    clock: &Clock,
    budget: &Arc<Budget>,
    meter: Meter,
    fingerprints: &Fingerprints,
) -> Result<Opened, OpenError> {
    let dir = settings.dir.clone();
    let failed = |what: &str, e: io::Error| OpenError(format!("lane {name}: cannot {what} {}: {e}", dir.display()));
    files::create_dir_durable(&dir).map_err(|e| failed("make", e))?;
    sweep(&dir).map_err(|e| failed("tidy", e))?;
    let found = survey(&dir, settings.tag).map_err(|e| failed("read", e))?;
    let (mark, _) = MarkFile::open(&dir).map_err(|e| failed("write the mark of", e))?;
    set_aside(&dir, &found).map_err(|e| failed("set a damaged store aside in", e))?;
    let now_ms = clock.unix_ms();
    let book = take_stock(&found, now_ms);
    budget.add(book.stores.iter().map(|s| s.disk).sum());
    let (window, last) = remember(&book, &settings, now_ms, fingerprints);
    let clock = clock.clone();
    let reserved = found.reserved;
    let lane = Lane::new(name.to_owned(), settings, clock, budget.clone(), meter, mark, book, reserved);
    for (gap, reason) in &found.lost {
        lane.lose(*gap, reason);
    }
    // From here on a crash must not find the mark of a clean close.
    lane.sync_mark(false).map_err(|e| failed("write the mark of", e))?;
    if lane.settings.durable {
        files::sync_dir(&dir).map_err(|e| failed("sync", e))?;
    }
    Ok(Opened { lane: Arc::new(lane), window, last })
}

/// Removes what a crash left of removals and preparations.
fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(segment::GONE) || name == SPARE {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Takes stores that nothing could be read from out of the way, and keeps the newest of them.
fn set_aside(dir: &Path, found: &Survey) -> io::Result<()> {
    let unreadable = || found.stores.iter().filter(|s| s.seal.is_none());
    // Named and never filled: the process ended before its first commit.
    for unused in unreadable().filter(|s| s.first > found.last) {
        segment::remove(&dir.join(segment::dir_name(unused.first)));
    }
    let damaged = || unreadable().filter(|s| s.first <= found.last);
    let Some(newest) = damaged().next_back() else { return Ok(()) };
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(DAMAGED) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    for store in damaged() {
        let name = segment::dir_name(store.first);
        if store.first == newest.first {
            fs::rename(dir.join(&name), dir.join(format!("{DAMAGED}{name}")))?;
        } else {
            segment::remove(&dir.join(name));
        }
    }
    Ok(())
}

fn take_stock(found: &Survey, now_ms: i64) -> Book {
    let stores = found.stores.iter().filter_map(|s| s.seal.clone().map(|seal| (s, seal)));
    let stores = stores.map(|(s, seal)| Store {
        first: s.first,
        disk: s.disk,
        sealed: s.sealed,
        newest: long_ago(age_ms(seal.newest_ms, now_ms)),
        seal,
    });
    let mut cursor = Cursor::at(found.confirmed);
    found.known_lost.iter().for_each(|gap| cursor.lose(*gap));
    Book::new(stores.collect(), found.last, cursor)
}

/// An instant so many milliseconds ago, or the oldest this machine can name.
fn long_ago(ms: i64) -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_millis(u64::try_from(ms).unwrap_or(0))).unwrap_or(now)
}

/// Reads the events of the window again, newest stores first, as far as its limits go. What was stored last is read also if
/// the gateway stood still for longer than the window.
fn remember(book: &Book, settings: &Settings, now_ms: i64, fingerprints: &Fingerprints) -> (Window, Vec<Fingerprint>) {
    let mut window = Window::new(settings.window, ENTRIES_MAX);
    let span_ms = i64::try_from(settings.window.as_millis()).unwrap_or(i64::MAX);
    let recall_ms = span_ms.max(i64::try_from(RECALL_MIN.as_millis()).unwrap_or(i64::MAX));
    let last_ms = book.stores.back().map_or(now_ms, |store| store.seal.newest_ms);
    let mut seen: Vec<Vec<(i64, Fingerprint, Seq)>> = Vec::new();
    let (mut bytes, mut events) = (0, 0);
    for store in book.stores.iter().rev() {
        let old = |now_ms| age_ms(store.seal.newest_ms, now_ms);
        let wanted = old(now_ms) < span_ms || old(last_ms) < recall_ms;
        if bytes >= KEEP_BYTES_MAX || events >= ENTRIES_MAX || !wanted {
            break;
        }
        if store.seal.named {
            match names_in(&settings.dir, store, &store.seal, settings.tag, now_ms, fingerprints) {
                Ok(names) => {
                    events += names.len();
                    seen.push(names);
                }
                Err(e) => tracing::warn!(store = store.first, error = %e, "cannot read the names of stored events"),
            }
            bytes += store.disk;
        }
    }
    let mut last = Vec::new();
    for (ago_ms, event, seq) in seen.into_iter().rev().flatten() {
        if ago_ms < span_ms {
            window.insert(event, seq, -ago_ms);
        }
        last.push(event);
    }
    (window, last)
}

/// The events in `store` whose senders named them: how long ago, which, where.
fn names_in(
    dir: &Path,
    store: &Store,
    seal: &Seal,
    tag: u64,
    now_ms: i64,
    fingerprints: &Fingerprints,
) -> io::Result<Vec<(i64, Fingerprint, Seq)>> {
    let mut index = Index::build(&dir.join(segment::dir_name(store.first)), tag)?;
    index.restrict(store.first..=seal.last);
    let mut names = Vec::new();
    let mut from = store.first;
    loop {
        let events = index.read(from, window::READ_BYTES)?;
        let Some(last) = events.last() else { return Ok(names) };
        from = last.seq + 1;
        for stored in &events {
            if let Ok((event, _)) = record::decode(&stored.record)
                && !event.id_is_ours
            {
                let ago_ms = age_ms(stored.accepted_ms, now_ms);
                names.push((ago_ms, fingerprints.of(event.source, event.id), stored.seq));
            }
        }
    }
}
