//! What a lane's directory holds: read before anything is written, by a start and by `tidegate outbox status` alike.

use std::fs;
use std::io;
use std::path::Path;

use super::Seq;
use super::cursor::Gap;
use super::mark;
use super::notes::{Seal, read_ledger, read_reserve};
use super::scan::{FILE, Index};
use super::segment;

/// A store that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its first sequence.
    pub first: Seq,
    /// What it holds; `None`: nothing that can be read.
    pub seal: Option<Seal>,
    /// The seal was there; it need not be written.
    pub sealed: bool,
    /// What it takes on disk.
    pub disk: u64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The stores, oldest first.
    pub stores: Vec<Found>,
    /// The last sequence that may have been used: the next one is free.
    pub last: Seq,
    /// Everything up to here is confirmed.
    pub confirmed: Seq,
    /// Sequences that should be there and are not, with the reason; beyond what the ledger knows.
    pub lost: Vec<(Gap, &'static str)>,
    /// Sequences that the ledger says are lost.
    pub known_lost: Vec<Gap>,
    /// Sequences are reserved up to here.
    pub reserved: Seq,
}

/// Looks at the lane in `dir`, whose blocks have `tag`, and changes nothing.
pub fn survey(dir: &Path, tag: u64) -> io::Result<Survey> {
    let read = mark::MarkFile::peek(dir)?;
    let firsts = store_names(dir)?;
    let mark = read.map(|r| r.mark).unwrap_or_default();
    let exact = read.is_some_and(|r| r.exact);
    let mut out = Survey { reserved: read_reserve(dir).unwrap_or(0), ..Survey::default() };
    // The mark is on disk before the first sequence is reserved: without it, anything up to the reserve may be used.
    let mut damaged = read.is_none() && (!firsts.is_empty() || out.reserved > 0);
    for (i, &first) in firsts.iter().enumerate() {
        let place = dir.join(segment::dir_name(first));
        let end = firsts.get(i + 1).map(|next| next - 1);
        let (found, whole) = look(&place, first, end, tag, mark.last)?;
        // Stores before the newest are judged by the sequences they lack, below.
        damaged |= !whole && end.is_none();
        out.stores.push(found);
    }
    let kept = out.stores.iter().filter_map(|s| s.seal.as_ref()).map(|s| s.last).max().unwrap_or(0);
    out.last = kept.max(mark.last).max(mark.confirmed);
    damaged |= kept < mark.last && !exact && mark.last > mark.confirmed;
    if damaged && !exact {
        out.last = out.last.max(out.reserved);
    }
    out.confirmed = match read {
        Some(read) => read.mark.confirmed,
        // Without a mark the oldest store tells: what came before it was drained.
        None => firsts.first().map_or(0, |first| first.saturating_sub(1)),
    };
    out.known_lost = read_ledger(dir).iter().map(|l| l.gap()).filter(|g| g.1 > out.confirmed).collect();
    out.lost = find_lost(&out, mark.last, dir, tag);
    Ok(out)
}

/// The first sequences of all stores in `dir`, in order.
pub fn store_names(dir: &Path) -> io::Result<Vec<Seq>> {
    let mut firsts = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                firsts.extend(segment::parse_dir_name(&entry?.file_name().to_string_lossy()));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// What the store at `place` holds, and whether its file is as a store's file should be.
fn look(place: &Path, first: Seq, end: Option<Seq>, tag: u64, acknowledged: Seq) -> io::Result<(Found, bool)> {
    let disk = segment::disk_bytes(place);
    if let Some(seal) = Seal::read(place).filter(|s| s.last >= first && end.is_none_or(|end| s.last <= end)) {
        return Ok((Found { first, seal: Some(seal), sealed: true, disk }, true));
    }
    let nothing = Found { first, seal: None, sealed: false, disk };
    // A store is given its name after its file was made: an empty file was cut.
    let has_file = fs::metadata(place.join(FILE)).is_ok_and(|m| m.len() > 0);
    let mut index = match Index::build(place, tag) {
        Ok(index) => index,
        Err(e) if is_damage(&e) => return Ok((nothing, false)),
        Err(e) => return Err(io::Error::new(e.kind(), format!("the store {}: {e}", place.display()))),
    };
    index.restrict(first..=end.unwrap_or(Seq::MAX));
    let last = end.unwrap_or_else(|| newest_end(&index, first, acknowledged));
    index.restrict(first..=last);
    let (Some(oldest), Some(newest)) = (index.heads().next(), index.heads().next_back()) else {
        return Ok((nothing, has_file));
    };
    let whole = index.missing(first..=newest.last).is_empty();
    let payload = index.payload_bytes();
    let times = (oldest.accepted_ms, newest.accepted_ms);
    let seal = Seal { last: newest.last, payload, oldest_ms: times.0, newest_ms: times.1, named: true };
    Ok((Found { first, seal: Some(seal), sealed: false, disk }, has_file && whole))
}

/// The file itself is gone or broken. Anything else (no permission, too many open files) passes or is mended,
/// and must not make a store that is whole count as lost.
fn is_damage(error: &io::Error) -> bool {
    const BROKEN: [i32; 3] = [libc::EIO, libc::EUCLEAN, libc::EBADMSG];
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
        || error.raw_os_error().is_some_and(|e| BROKEN.contains(&e))
}

/// Where the newest store ends: commits follow each other, so every commit but the last was acknowledged;
/// the last counts if it is all there, and else only up to what is known to be acknowledged. A commit that began
/// in the store before has only its end here; its beginning was on disk before this store got its name.
fn newest_end(index: &Index, first: Seq, acknowledged: Seq) -> Seq {
    let newest_group = index.heads().map(|h| h.group).max();
    let Some((group_first, group_last)) = newest_group else { return acknowledged };
    let floor = acknowledged.max(group_first.max(first) - 1);
    let is_complete = group_last > floor && index.missing(floor + 1..=group_last).is_empty();
    if is_complete { group_last } else { floor }
}

/// Sequences that are in no store, not confirmed, and not in the ledger.
fn find_lost(survey: &Survey, acknowledged: Seq, dir: &Path, tag: u64) -> Vec<(Gap, &'static str)> {
    let mut lost = Vec::new();
    let mut next = survey.confirmed + 1;
    for store in &survey.stores {
        let Some(seal) = &store.seal else { continue };
        if store.first > next {
            lost.push(((next, store.first - 1), "the store that held them is damaged or missing"));
        }
        if !store.sealed
            && seal.last >= next
            && let Ok(mut index) = Index::build(&dir.join(segment::dir_name(store.first)), tag)
        {
            index.restrict(store.first..=seal.last);
            let holes = index.missing(next.max(store.first)..=seal.last);
            lost.extend(holes.into_iter().map(|gap| (gap, "the blocks that held them are damaged")));
        }
        next = next.max(seal.last + 1);
    }
    if acknowledged >= next {
        lost.push(((next, acknowledged), "they were acknowledged and the disk does not have them any more"));
        next = acknowledged + 1;
    }
    if survey.last >= next {
        lost.push(((next, survey.last), "the newest store is damaged and may have held them; they are not used again"));
    }
    lost.retain(|(gap, _)| !survey.known_lost.iter().any(|known| known.0 <= gap.0 && gap.1 <= known.1));
    lost
}
