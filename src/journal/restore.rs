//! The start: which segments count, what they hold, what of it is damaged. Changes nothing on disk but to remove what
//! counts for nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::OpenError;
use super::frame::{self, End, Header, NoHeader};
use super::log::{Kept, Tail};
use super::segment;

/// What was found.
#[derive(Debug, Default)]
pub struct Restored {
    /// Segments that count or are damaged, oldest first.
    pub kept: Vec<Kept>,
    /// Damaged ones that were set aside before.
    pub aside: Vec<u64>,
    /// Number of the next segment.
    pub next: u64,
    /// As in the newest header.
    pub void_below: u64,
    /// Where the next segment continues.
    pub tail: Tail,
    /// Records after that, which nobody vouches for: to be written again before anything new counts.
    pub again: Vec<u8>,
    /// How many these are.
    pub again_count: u64,
    /// Damaged places.
    pub damaged: u64,
}

/// Reads all segments and hands every record over, in order.
pub fn restore(dir: &Path, mut each: impl FnMut(&[u8])) -> Result<Restored, OpenError> {
    let failed = |e: io::Error| OpenError::Io { dir: dir.to_owned(), reason: e.to_string() };
    let (numbers, aside) = segment::list(dir).map_err(failed)?;
    let newest = numbers.last().max(aside.last()).copied().unwrap_or(0);
    let mut restored = Restored { next: newest + 1, aside, ..Restored::default() };
    let mut headers = BTreeMap::new();
    for number in numbers {
        headers.insert(number, read_header(&dir.join(segment::name(number)), number)?);
    }
    restored.select(dir, &mut headers);
    let last = headers.keys().next_back().copied();
    for (number, header) in &headers {
        let next = headers.range(number + 1..).next().and_then(|(_, h)| h.as_ref().ok());
        let end = match next {
            _ if Some(*number) == last => End::Torn,
            Some(next) if next.previous == *number => End::At(next.previous_len as usize),
            _ => End::File,
        };
        restored.read(dir, *number, header.as_ref().ok(), end, &mut each);
    }
    Ok(restored)
}

type Headers = BTreeMap<u64, Result<Header, String>>;

/// `Err` in it: why there is none; such a segment cannot be read.
fn read_header(path: &Path, number: u64) -> Result<Result<Header, String>, OpenError> {
    let read = fs::File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, frame::HEADER_LEN as u64), &mut bytes)?;
        Ok(bytes)
    });
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(e) => return Ok(Err(e.to_string())),
    };
    match Header::decode(&bytes) {
        Ok(header) if header.number == number => Ok(Ok(header)),
        Ok(header) => Ok(Err(format!("its header is that of segment {}", header.number))),
        Err(NoHeader::Blank) => Ok(Err("it is empty".to_owned())),
        Err(NoHeader::Damaged) => Ok(Err("its header is damaged".to_owned())),
        Err(NoHeader::Version(version)) => Err(OpenError::Version { path: path.to_owned(), version }),
    }
}

impl Restored {
    /// Leaves the segments that count.
    fn select(&mut self, dir: &Path, headers: &mut Headers) {
        self.void_below = headers.values().flatten().map(|h| h.void_below).max().unwrap_or(0);
        let void = self.void_below;
        drop_where(dir, headers, "it is superseded", |number, _| number < void);

        // A rewriting that was not finished: nothing of it was answered, and what was before it is still there.
        let unfinished = headers.values().flatten().map(|h| h.rewrite).filter(|r| *r > void).min();
        if let Some(from) = unfinished
            && headers.range(..from).next().is_some()
        {
            drop_where(dir, headers, "it belongs to an unfinished rewriting", |number, header| {
                number >= from && header.as_ref().is_ok_and(|h| h.rewrite > void)
            });
        }
        // What the chain of segments passes over never counted: its making failed.
        let mut passed = Vec::new();
        let mut missing = Vec::new();
        let present: Vec<u64> = headers.keys().copied().collect();
        for header in headers.values().flatten() {
            let (previous, number) = (header.previous, header.number);
            passed.extend(present.iter().filter(|n| previous < **n && **n < number));
            if previous >= self.void_below.max(1) && !headers.contains_key(&previous) {
                missing.push(previous);
            }
        }
        drop_where(dir, headers, "it never counted", |number, _| passed.contains(&number));
        for number in missing {
            self.report(&dir.join(segment::name(number)), 0, 0, "the segment is missing");
        }
        // The last one without a header was being made when the machine stopped.
        if let Some((number, Err(reason))) = headers.last_key_value()
            && reason == "it is empty"
        {
            let number = *number;
            drop_where(dir, headers, "it is empty and the last", |n, _| n == number);
        }
    }

    fn read(&mut self, dir: &Path, number: u64, header: Option<&Header>, end: End, each: &mut impl FnMut(&[u8])) {
        let path = dir.join(segment::name(number));
        let mut kept = Kept { number, bytes: 0, damaged: true };
        match (header, fs::read(&path)) {
            (Some(header), Ok(bytes)) => {
                kept.bytes = bytes.len() as u64;
                let found = frame::scan(&bytes, header, end);
                kept.damaged = !found.damage.is_empty();
                for place in &found.damage {
                    self.report(&path, place.start, place.len(), "not what was written; the records in it are lost");
                }
                for record in &found.records {
                    each(&bytes[record.clone()]);
                }
                self.tail = Tail { number, len: u32::try_from(found.vouched).unwrap_or(u32::MAX) };
                let unvouched = found.records.iter().filter(|r| end == End::Torn && r.end > found.vouched);
                for record in unvouched {
                    frame::push(&mut self.again, &bytes[record.clone()]);
                    self.again_count += 1;
                }
            }
            (None, read) => {
                kept.bytes = read.map_or(0, |b| b.len() as u64);
                self.report(&path, 0, kept.bytes as usize, "no valid header; all of the segment is lost");
                self.tail = Tail { number, len: 0 };
            }
            (_, Err(e)) => {
                self.report(&path, 0, 0, &format!("cannot be read ({e}); all of the segment is lost"));
                self.tail = Tail { number, len: 0 };
            }
        }
        self.kept.push(kept);
    }

    fn report(&mut self, path: &Path, offset: usize, bytes: usize, reason: &str) {
        self.damaged += 1;
        tracing::warn!(path = %path.display(), offset, bytes, reason, "damage in the journal; the start goes on without it");
    }
}

fn drop_where(dir: &Path, headers: &mut Headers, why: &str, counts_not: impl Fn(u64, &Result<Header, String>) -> bool) {
    headers.retain(|number, header| {
        let goes = counts_not(*number, header);
        if goes {
            let path: PathBuf = dir.join(segment::name(*number));
            let removed = segment::remove(&path);
            tracing::debug!(path = %path.display(), why, error = ?removed.err(), "removed a segment that counts for nothing");
        }
        !goes
    });
}
