//! The start: which segments count, what they hold, what of it is damaged. Changes nothing on disk.
//!
//! What a killed process left may be in the kernel's memory only, and its last sync may have failed. So nothing is taken for
//! durable here unless a later frame or header vouches for it, and nothing is removed: the first new segment repeats
//! in its header what was decided here, and then what counts for nothing goes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

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
    /// Frames after that, which nobody vouches for.
    pub carry: Vec<u8>,
    /// Segments that count for nothing.
    pub garbage: Vec<Kept>,
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
    for (number, header) in &headers {
        let end = match headers.range(number + 1..).find_map(|(_, h)| h.as_ref().ok()) {
            None => End::Torn,
            Some(next) if next.previous == *number => End::At(next.previous_len as usize),
            Some(_) => End::File,
        };
        restored.read(dir, *number, header.as_ref().ok(), end, &mut each);
    }
    Ok(restored)
}

const EMPTY: &str = "it is empty";

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
        // No frame was ever in it.
        Err(NoHeader::Damaged) if fs::metadata(path).is_ok_and(|m| m.len() <= frame::HEADER_LEN as u64) => {
            Ok(Err(EMPTY.to_owned()))
        }
        Ok(header) if header.number == number => Ok(Ok(header)),
        Ok(header) => Ok(Err(format!("its header is that of segment {}", header.number))),
        Err(NoHeader::Blank) => Ok(Err(EMPTY.to_owned())),
        Err(NoHeader::Damaged) => Ok(Err("its header is damaged".to_owned())),
        Err(NoHeader::Version(version)) => Err(OpenError::Version { path: path.to_owned(), version }),
    }
}

/// Whether what was before the rewriting that began at `from` is there. If not, the rewriting was finished, and the segment
/// that says so is damaged.
fn before_is_there(headers: &Headers, from: u64) -> bool {
    let nothing = headers.get(&from).is_some_and(|h| h.as_ref().is_ok_and(|h| h.previous == 0));
    nothing || headers.range(..from).next().is_some()
}

impl Restored {
    /// Leaves the segments that count.
    fn select(&mut self, dir: &Path, headers: &mut Headers) {
        self.void_below = headers.values().flatten().map(|h| h.void_below).max().unwrap_or(0);
        let void = self.void_below;
        self.drop_where(dir, headers, "it is superseded", |number, _| number < void);

        // A rewriting that was not finished: nothing of it was answered, and what was before it is still there.
        let unfinished = headers.values().flatten().map(|h| h.rewrite).filter(|r| *r > void).min();
        if let Some(from) = unfinished
            && before_is_there(headers, from)
        {
            self.drop_where(dir, headers, "it belongs to an unfinished rewriting", |number, header| {
                number >= from && header.as_ref().is_ok_and(|h| h.rewrite > void)
            });
        }
        // The last ones may have been in the making when the machine stopped.
        while let Some((number, header)) = headers.last_key_value()
            && match header {
                Ok(header) => fs::read(dir.join(segment::name(*number))).is_ok_and(|b| !frame::is_complete(&b, header)),
                Err(reason) => reason == EMPTY,
            }
        {
            let number = *number;
            self.drop_where(dir, headers, "its making was not completed", |n, _| n == number);
        }
        // The chain passes over what was carried on, and over what failed to be made.
        let chain: Vec<(u64, u64)> = headers.values().flatten().map(|h| (h.previous, h.number)).collect();
        self.drop_where(dir, headers, "it never counted", |number, _| {
            chain.iter().any(|(previous, next)| *previous < number && number < *next)
        });
        let missing: Vec<u64> = headers.values().flatten().map(|h| h.previous).filter(|p| *p >= void.max(1)).collect();
        for number in missing.into_iter().filter(|p| !headers.contains_key(p)) {
            self.report(&dir.join(segment::name(number)), 0, 0, "the segment is missing");
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
                // One that nobody vouches for may itself be gone after a power cut: the chain must not need it.
                self.tail = match found.vouched {
                    frame::HEADER_LEN => Tail { number: header.previous, len: header.previous_len },
                    vouched => Tail { number, len: u32::try_from(vouched).unwrap_or(u32::MAX) },
                };
                let unvouched = found.records.iter().filter(|r| end == End::Torn && r.end > found.vouched);
                for record in unvouched {
                    frame::push(&mut self.carry, &bytes[record.clone()]);
                }
            }
            (None, read) => {
                kept.bytes = read.map_or(0, |b| b.len() as u64);
                self.report(&path, 0, kept.bytes as usize, "no valid header; all of the segment is lost");
            }
            (_, Err(e)) => {
                self.report(&path, 0, 0, &format!("cannot be read ({e}); all of the segment is lost"));
            }
        }
        self.kept.push(kept);
    }

    fn report(&mut self, path: &Path, offset: usize, bytes: usize, reason: &str) {
        self.damaged += 1;
        tracing::warn!(path = %path.display(), offset, bytes, reason, "damage in the journal; the start goes on without it");
    }

    fn drop_where(
        &mut self,
        dir: &Path,
        headers: &mut Headers,
        why: &str,
        counts_not: impl Fn(u64, &Result<Header, String>) -> bool,
    ) {
        headers.retain(|number, header| {
            let goes = counts_not(*number, header);
            if goes {
                let path = dir.join(segment::name(*number));
                let bytes = fs::metadata(&path).map_or(0, |m| m.len());
                tracing::debug!(path = %path.display(), bytes, why, "a segment that counts for nothing");
                let damaged = header.as_ref().is_err_and(|reason| reason != EMPTY);
                self.garbage.push(Kept { number: *number, bytes, damaged });
            }
            !goes
        });
    }
}
