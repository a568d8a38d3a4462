//! An outbox that no process uses, looked at without changing it.

use std::fs;
use std::path::Path;

use super::cursor::Cursor;
use super::notes::Identity;
use super::survey::survey;
use super::{DIR, LaneStatus, OpenError, lock};

/// What lies in an outbox.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Its incarnation; `None`: there is no outbox yet.
    pub incarnation: Option<String>,
    /// Its lanes, by name.
    pub lanes: Vec<InspectedLane>,
}

/// What lies in a lane.
#[derive(Clone, Debug)]
pub struct InspectedLane {
    /// Its numbers.
    pub status: LaneStatus,
    /// Number of stores (databases) on disk.
    pub stores: usize,
    /// Events lost to damage and not yet passed by the confirmed position.
    pub lost: u64,
}

/// Reads the outbox below `data_dir` and changes nothing. An error says if a running process owns it.
pub fn inspect(data_dir: &Path) -> Result<Inspection, OpenError> {
    let dir = data_dir.join(DIR);
    if !dir.is_dir() {
        return Ok(Inspection { incarnation: None, lanes: Vec::new() });
    }
    // Looking needs no lock, but what a running process changes meanwhile would be told wrongly. A directory
    // that cannot be written, such as a read-only copy, has no owner.
    let _lock = if data_dir.join("lock").exists() { lock(data_dir).map(Some).or_else(read_only)? } else { None };
    let Some(identity) = Identity::read(&dir)? else {
        return Ok(Inspection { incarnation: None, lanes: Vec::new() });
    };
    let mut lanes = Vec::new();
    for name in lane_names(&dir) {
        lanes.push(lane(&dir, &name, &identity)?);
    }
    Ok(Inspection { incarnation: Some(identity.incarnation), lanes })
}

fn read_only<T>(error: OpenError) -> Result<Option<T>, OpenError> {
    if error.0.starts_with("cannot lock") { Ok(None) } else { Err(error) }
}

fn lane(dir: &Path, name: &str, identity: &Identity) -> Result<InspectedLane, OpenError> {
    let place = dir.join(name);
    let found = survey(&place, identity.tag(name))
        .map_err(|e| OpenError(format!("cannot read lane {name} in {}: {e}", place.display())))?;
    let mut cursor = Cursor::at(found.confirmed);
    let gaps = found.known_lost.iter().copied().chain(found.lost.iter().map(|(gap, _)| *gap));
    gaps.for_each(|gap| cursor.lose(gap));
    let waiting = found.stores.iter().filter_map(|s| s.seal.as_ref().map(|seal| (s.first, seal)));
    let waiting: Vec<_> = waiting.filter(|(_, seal)| seal.last > cursor.confirmed()).collect();
    let status = LaneStatus {
        lane: name.to_owned(),
        last: found.last,
        confirmed: cursor.confirmed(),
        backlog_events: cursor.waiting(found.last),
        backlog_bytes: waiting.iter().map(|(first, seal)| seal.payload_after(*first, cursor.confirmed())).sum(),
        oldest_ms: waiting.first().map(|(_, seal)| seal.oldest_ms),
        disk_bytes: found.stores.iter().map(|s| s.disk).sum(),
        refusing: None,
    };
    let lost = found.last.saturating_sub(cursor.confirmed()) - status.backlog_events;
    Ok(InspectedLane { status, stores: found.stores.len(), lost })
}

fn lane_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let mut names: Vec<_> = dirs.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| dir.join(name).join("mark").exists());
    names.sort();
    names
}

/// Lanes that are not among `known` and have events to deliver: without a reader these would wait for ever.
pub fn abandoned(dir: &Path, identity: &Identity, known: &[String]) -> Result<Vec<String>, OpenError> {
    let mut abandoned = Vec::new();
    for name in lane_names(dir).into_iter().filter(|name| !known.contains(name)) {
        let status = lane(dir, &name, identity)?.status;
        if status.backlog_events > 0 {
            tracing::warn!(
                lane = name,
                events = status.backlog_events,
                "this lane is in the configuration no more; its events are delivered nevertheless"
            );
            abandoned.push(name);
        }
    }
    Ok(abandoned)
}
