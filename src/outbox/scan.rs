//! Reads a store's blocks straight from its file, without opening the database.
//!
//! sled keeps a value's bytes unchanged and in one piece in its file `db`, and every value of ours is a block
//! that proves itself. So a store can be read while sled writes it, on a full or read-only disk, and whatever
//! happened to the file: damage costs the blocks it hits. Opening the database instead would need space, change
//! the directory, panic on many a flipped byte, and *zero* everything behind one: sled takes the first message it
//! cannot read for the end of its log (tests `sled_itself_would_destroy…` in this module shows it).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use super::block::{self, Found, Head};
use super::cursor::Gap;
use super::{Seq, Stored};

/// Bytes read at once: what a reader holds in memory, and a small part of a slow card's second.
const CHUNK_BYTES: usize = 256 * 1024;

/// Name of the file in which sled keeps everything.
pub const FILE: &str = "db";

/// Where the blocks of a store lie in its file.
#[derive(Debug)]
pub struct Index {
    file: File,
    tag: u64,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    head: Head,
}

impl Index {
    /// Finds every good block in the store at `dir`.
    pub fn build(dir: &Path, tag: u64) -> io::Result<Self> {
        let file = File::open(dir.join(FILE))?;
        let mut places = BTreeMap::new();
        each_block(&file, tag, |offset, head| {
            places.insert((head.first, head.part.0), Place { offset, head });
        })?;
        Ok(Self { file, tag, places: complete(places.into_values()) })
    }

    /// Keeps only what lies within `range`.
    pub fn restrict(&mut self, range: RangeInclusive<Seq>) {
        self.places.retain(|p| range.contains(&p.head.first) && range.contains(&p.head.last));
    }

    /// The heads of all blocks, in order.
    pub fn heads(&self) -> impl DoubleEndedIterator<Item = &Head> {
        self.places.iter().map(|p| &p.head)
    }

    /// Payload of all blocks, in bytes.
    pub fn payload_bytes(&self) -> u64 {
        self.heads().map(|h| h.payload as u64).sum()
    }

    /// The sequences of `range` that no block has.
    pub fn missing(&self, range: RangeInclusive<Seq>) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut next = *range.start();
        for head in self.heads().filter(|h| h.last >= *range.start() && h.first <= *range.end()) {
            if head.first > next {
                gaps.push((next, head.first - 1));
            }
            next = next.max(head.last + 1);
        }
        if next <= *range.end() {
            gaps.push((next, *range.end()));
        }
        gaps
    }

    /// Events at or after `from`, in order, until they have `max_bytes` or there are no more in this store.
    pub fn read(&self, from: Seq, max_bytes: usize) -> io::Result<Vec<Stored>> {
        let mut out = Vec::new();
        let mut bytes = 0;
        let mut at = self.places.partition_point(|p| p.head.last < from);
        while at < self.places.len() && bytes < max_bytes {
            let run = self.run(at, max_bytes - bytes);
            let before = out.len();
            self.read_run(&self.places[at..run], from, &mut out)?;
            bytes += out[before..].iter().map(|s: &Stored| s.record.len()).sum::<usize>();
            at = run;
        }
        Ok(out)
    }

    /// One past the last of the places from `at` on that one read covers: they follow each other in the file.
    fn run(&self, at: usize, max_bytes: usize) -> usize {
        let start = self.places[at].offset;
        let limit = (max_bytes + block::VALUE_BYTES_MAX).min(CHUNK_BYTES) as u64;
        let mut end = at + 1;
        while let Some(next) = self.places.get(end) {
            let previous = &self.places[end - 1];
            let follows = next.offset >= previous.offset + previous.head.total() as u64;
            let fits = next.offset + next.head.total() as u64 <= start + limit;
            // All parts of a large event belong in one run, whatever its size.
            let continues = next.head.is_part() && next.head.part.0 > 0;
            if !(continues || (follows && fits)) {
                break;
            }
            end += 1;
        }
        end
    }

    fn read_run(&self, places: &[Place], from: Seq, out: &mut Vec<Stored>) -> io::Result<()> {
        let Some((first, last)) = places.first().zip(places.last()) else { return Ok(()) };
        let span = (last.offset + last.head.total() as u64).checked_sub(first.offset);
        let chunk = match span {
            Some(span) if span <= CHUNK_BYTES as u64 => Some((first.offset, read_at(&self.file, first.offset, span)?)),
            _ => None, // a large event, or one whose parts sled has moved
        };
        let mut whole = Vec::new();
        for place in places {
            let bytes = match &chunk {
                Some((start, bytes)) if place.offset >= *start => {
                    // Within the span: the places of a run follow each other.
                    let at = usize::try_from(place.offset - start).unwrap_or(usize::MAX).min(bytes.len());
                    bytes.slice(at..(at + place.head.total()).min(bytes.len()))
                }
                _ => read_at(&self.file, place.offset, place.head.total() as u64)?,
            };
            // Checked again: between the two readings the disk may have failed.
            let head = block::parse(&bytes, self.tag).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let payload = bytes.slice(block::HEAD..);
            if !head.is_part() {
                push_records(&head, &payload, from, out)?;
                continue;
            }
            whole.extend_from_slice(&payload);
            if head.part.0 + 1 == head.part.1 {
                push_records(&head, &Bytes::from(std::mem::take(&mut whole)), from, out)?;
            }
        }
        Ok(())
    }
}

/// Cuts a payload into events and keeps those at or after `from`.
pub fn push_records(head: &Head, payload: &Bytes, from: Seq, out: &mut Vec<Stored>) -> io::Result<()> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, block::BlockError::Malformed);
    let records = block::records(payload).ok_or_else(malformed)?;
    if records.len() as u64 != head.last - head.first + 1 {
        return Err(malformed());
    }
    let skip = usize::try_from(from.saturating_sub(head.first)).unwrap_or(usize::MAX);
    let accepted_ms = head.accepted_ms;
    out.extend((head.first..).zip(records).skip(skip).map(|(seq, record)| Stored { seq, accepted_ms, record }));
    Ok(())
}

fn read_at(file: &File, offset: u64, len: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

/// Calls `seen` with the offset and the head of every good block in `file`.
fn each_block(file: &File, tag: u64, mut seen: impl FnMut(u64, Head)) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut start, mut filled) = (0_u64, 0_usize); // buffer[..filled] is the file from `start` on
    loop {
        let got = match file.read_at(&mut buffer[filled..], start + filled as u64) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        filled += got;
        let mut at = 0;
        while at < filled {
            match block::find(&buffer[..filled], at, tag) {
                Found::Block(place, head) => {
                    seen(start + place as u64, head);
                    at = place + head.total();
                }
                // More bytes may make it one; at the end of the file there are none.
                Found::More(place) if got == 0 => at = place + 1,
                Found::More(place) => {
                    at = place;
                    break;
                }
            }
        }
        if got == 0 {
            return Ok(());
        }
        buffer.copy_within(at..filled, 0);
        start += at as u64;
        filled -= at;
    }
}

/// Leaves out the parts of large events that are not all there.
fn complete(places: impl Iterator<Item = Place>) -> Vec<Place> {
    let mut out: Vec<Place> = Vec::new();
    let mut parts = 0_usize; // at the end of `out`, of an event that is not complete yet
    for place in places {
        let (part, of) = place.head.part;
        let continues = parts == usize::from(part)
            && (parts == 0 || out.last().is_some_and(|p| p.head.first == place.head.first && p.head.part.1 == of));
        if !continues {
            out.truncate(out.len() - parts);
            parts = 0;
            if part != 0 {
                continue;
            }
        }
        out.push(place);
        parts = if part + 1 == of { 0 } else { parts + 1 };
    }
    out.truncate(out.len() - parts);
    out
}
