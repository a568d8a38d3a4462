//! Bytes of a segment: a header, then records, each in a frame that proves itself. [pure]
//!
//! ```text
//! header  magic 8 | version 4 | previous_len 4 | number 8 | salt 8 | previous 8 | void_below 8 | rewrite 8 | carried 4 | CRC 4
//! frame   len 4 | settled 4 | CRC of the record 4 | CRC of salt, offset and the 12 bytes before 4 | record
//! ```
//! All numbers are little-endian, the checksums CRC-32C. The frame's own checksum is over its place in its segment and
//! the segment's random salt: what a device sends never passes for a frame, nor does a frame of another place.
//!
//! `settled` says how many bytes of the segment counted as durable when the frame was written. That is how damage is told
//! from the torn end of a power cut: what a later frame vouches for was on disk once.

use std::ops::Range;

use crc::{CRC_32_ISCSI, Crc, Table};

/// Bytes of a segment's header.
pub const HEADER_LEN: usize = 64;
/// Bytes in front of each record.
pub const FRAME_LEN: usize = 16;
/// Largest record: a message of 16 MiB, the largest body that the way in takes by default, and what is said about it.
pub const RECORD_BYTES_MAX: usize = 32 << 20;

const MAGIC: [u8; 8] = *b"TGJOURNL";
const VERSION: u32 = 1;
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// What a segment says of itself and of those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Its number; also its name.
    pub number: u64,
    /// Random.
    pub salt: u64,
    /// The segment whose records come before these; 0: none.
    pub previous: u64,
    /// How many bytes of it count.
    pub previous_len: u32,
    /// Segments with lower numbers are superseded.
    pub void_below: u64,
    /// Not 0: it belongs to a rewriting after a failure that began at this number, and counts only once a later
    /// segment's `void_below` has reached that.
    pub rewrite: u64,
    /// Bytes of frames after the header that were at the end of the previous segment, beyond `previous_len`. Only with all
    /// of them does the segment count; until then they are in the previous one.
    pub carried: u32,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// Too short or all zero: it was being made when the machine stopped.
    Blank,
    /// The checksum or the magic is wrong.
    Damaged,
    /// Valid, of another version.
    Version(u32),
}

impl Header {
    /// As on disk.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.previous_len.to_le_bytes());
        let words = [self.number, self.salt, self.previous, self.void_below, self.rewrite];
        for (place, word) in out[16..56].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        out[56..60].copy_from_slice(&self.carried.to_le_bytes());
        let crc = CRC32C.checksum(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// From the first bytes of a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, NoHeader> {
        let Some(bytes) = bytes.get(..HEADER_LEN) else { return Err(NoHeader::Blank) };
        if bytes.iter().all(|b| *b == 0) {
            return Err(NoHeader::Blank);
        }
        if bytes[..8] != MAGIC || u32_at(bytes, 60) != CRC32C.checksum(&bytes[..60]) {
            return Err(NoHeader::Damaged);
        }
        match u32_at(bytes, 8) {
            VERSION => Ok(Self {
                previous_len: u32_at(bytes, 12),
                number: u64_at(bytes, 16),
                salt: u64_at(bytes, 24),
                previous: u64_at(bytes, 32),
                void_below: u64_at(bytes, 40),
                rewrite: u64_at(bytes, 48),
                carried: u32_at(bytes, 56),
            }),
            other => Err(NoHeader::Version(other)),
        }
    }
}

/// Adds a record to frames that are not sealed yet. It must not be longer than [`RECORD_BYTES_MAX`].
pub fn push(frames: &mut Vec<u8>, record: &[u8]) {
    let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
    frames.extend_from_slice(&len.to_le_bytes());
    frames.extend_from_slice(&[0; 4]);
    frames.extend_from_slice(&CRC32C.checksum(record).to_le_bytes());
    frames.extend_from_slice(&[0; 4]);
    frames.extend_from_slice(record);
}

/// A frame without a record, not sealed yet: only vouches for what is before it.
pub fn note() -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_LEN);
    push(&mut frame, &[]);
    frame
}

/// Makes whole frames valid at `offset` of the segment with this salt.
pub fn seal(frames: &mut [u8], salt: u64, offset: u32, settled: u32) {
    let (mut rest, mut offset) = (frames, offset);
    while rest.len() >= FRAME_LEN {
        let len = FRAME_LEN + u32_at(rest, 0) as usize;
        rest[4..8].copy_from_slice(&settled.to_le_bytes());
        let crc = frame_crc(&rest[..12], salt, offset);
        rest[12..16].copy_from_slice(&crc.to_le_bytes());
        offset += len as u32;
        rest = rest.get_mut(len..).unwrap_or_default();
    }
}

/// How many bytes of whole frames fit in `room`, and how many frames these are.
pub fn fitting(frames: &[u8], room: usize) -> (usize, u64) {
    let (mut at, mut count) = (0, 0);
    while let Some(len) = frames.get(at..at + FRAME_LEN).map(|f| FRAME_LEN + u32_at(f, 0) as usize)
        && at + len <= room.min(frames.len())
    {
        at += len;
        count += 1;
    }
    (at, count)
}

/// Bytes of the first frame.
pub fn first_len(frames: &[u8]) -> usize {
    frames.get(..FRAME_LEN).map_or(0, |f| FRAME_LEN + u32_at(f, 0) as usize).min(frames.len())
}

/// Where a segment's records end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At this many bytes, all of which were durable.
    At(usize),
    /// Wherever the file ends; all of it was durable.
    File,
    /// It is the last segment: its end may be torn.
    Torn,
}

/// What a segment holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The records' places, in order.
    pub records: Vec<Range<usize>>,
    /// Bytes that were durable once and are not what was written.
    pub damage: Vec<Range<usize>>,
    /// Up to here later frames vouch for it (for a segment that is not the last, up to its end).
    pub vouched: usize,
}

/// Reads a segment, header included.
pub fn scan(bytes: &[u8], header: &Header, end: End) -> Found {
    let limit = match end {
        End::At(len) => len.min(bytes.len()),
        End::File | End::Torn => bytes.len(),
    };
    let walk = walk(&bytes[..limit], header.salt);
    let mut found = Found { vouched: limit, ..Found::default() };
    let mut cut = limit;
    if end == End::Torn {
        found.vouched = walk.vouched.max(HEADER_LEN);
        // The first bad bytes that nobody vouches for end the log: what follows them was not durable either.
        if let Some(torn) = walk.bad.iter().find(|b| b.end > found.vouched) {
            cut = torn.start.max(found.vouched);
        }
    }
    found.records = walk.records.into_iter().filter(|r| r.end <= cut).collect();
    found.damage = walk.bad.into_iter().map(|b| b.start..b.end.min(cut)).filter(|b| b.start < b.end).collect();
    if let End::At(len) = end
        && len > bytes.len()
    {
        found.damage.push(bytes.len()..len);
    }
    found
}

/// Whether the segment's making was completed, as far as can be told from its bytes: if not, nothing of it was durable.
pub fn is_complete(bytes: &[u8], header: &Header) -> bool {
    let end = HEADER_LEN + header.carried as usize;
    let carried = bytes.get(..end).map(|b| walk(b, header.salt));
    carried.is_some_and(|w| w.bad.is_empty()) || walk(bytes, header.salt).vouched >= end
}

#[derive(Default)]
struct Walk {
    records: Vec<Range<usize>>,
    bad: Vec<Range<usize>>,
    vouched: usize,
}

fn walk(bytes: &[u8], salt: u64) -> Walk {
    let mut walk = Walk::default();
    let mut at = HEADER_LEN;
    while at < bytes.len() {
        match frame(bytes, at, salt) {
            Some(f) if f.sound => {
                walk.vouched = walk.vouched.max(f.settled);
                if f.record.start < f.record.end {
                    walk.records.push(f.record.clone());
                }
                at = f.record.end;
            }
            _ => {
                let next = (at + 1..bytes.len()).find(|i| frame(bytes, *i, salt).is_some_and(|f| f.sound));
                let next = next.unwrap_or(bytes.len());
                walk.bad.push(at..next);
                at = next;
            }
        }
    }
    walk
}

struct Frame {
    record: Range<usize>,
    settled: usize,
    sound: bool,
}

fn frame(bytes: &[u8], at: usize, salt: u64) -> Option<Frame> {
    let head = bytes.get(at..at.checked_add(FRAME_LEN)?)?;
    let (len, settled) = (u32_at(head, 0) as usize, u32_at(head, 4) as usize);
    let record = at + FRAME_LEN..(at + FRAME_LEN).checked_add(len)?;
    let possible = len <= RECORD_BYTES_MAX && record.end <= bytes.len() && settled <= at;
    if !possible || u32_at(head, 12) != frame_crc(&head[..12], salt, u32::try_from(at).ok()?) {
        return None;
    }
    let sound = CRC32C.checksum(&bytes[record.clone()]) == u32_at(head, 8);
    Some(Frame { record, settled, sound })
}

fn frame_crc(head: &[u8], salt: u64, offset: u32) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&salt.to_le_bytes());
    digest.update(&offset.to_le_bytes());
    digest.update(head);
    digest.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: Header = Header {
        number: 3,
        salt: 0x1234_5678_9abc_def0,
        previous: 2,
        previous_len: 99,
        void_below: 1,
        rewrite: 0,
        carried: 0,
    };

    /// A segment of these records; `settled[i]` records count as durable when record i is written.
    fn segment(records: &[Vec<u8>], settled: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = HEADER.encode().to_vec();
        let mut ends = vec![bytes.len()];
        for (i, record) in records.iter().enumerate() {
            let mut frame = Vec::new();
            push(&mut frame, record);
            let vouched = ends[settled.get(i).copied().unwrap_or(0).min(i)];
            seal(&mut frame, HEADER.salt, bytes.len() as u32, vouched as u32);
            bytes.extend(frame);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn contents(bytes: &[u8], found: &Found) -> Vec<Vec<u8>> {
        found.records.iter().map(|r| bytes[r.clone()].to_vec()).collect()
    }

    #[test]
    fn the_header_reads_back_and_any_flipped_bit_is_seen() {
        let bytes = HEADER.encode();
        assert_eq!(Header::decode(&bytes), Ok(HEADER));
        for bit in 0..HEADER_LEN * 8 {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&wrong), Err(NoHeader::Damaged), "bit {bit}");
        }
        assert_eq!(Header::decode(&bytes[..63]), Err(NoHeader::Blank));
        assert_eq!(Header::decode(&[0; 80]), Err(NoHeader::Blank));
    }

    #[test]
    fn a_segment_written_by_version_1_stays_readable() {
        let mut golden = b"TGJOURNL\x01\0\0\0\x63\0\0\0\x03\0\0\0\0\0\0\0\xf0\xde\xbc\x9a\x78\x56\x34\x12".to_vec();
        golden.extend(b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        golden.extend(GOLDEN_TAIL);
        assert_eq!(segment(&[b"hello".to_vec()], &[]).0, golden);
        let found = scan(&golden, &Header::decode(&golden).unwrap(), End::File);
        assert_eq!(contents(&golden, &found), [b"hello"]);
    }

    /// Header checksum, then one frame.
    const GOLDEN_TAIL: &[u8] = b"\0\0\0\0\x6e\x8e\x2b\x8a\x05\0\0\0\x40\0\0\0\x4c\xbb\x71\x9a\x1e\xe2\x7b\xd6hello";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn damage_costs_the_records_that_it_hits_and_invents_nothing(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..20),
            place in any::<prop::sample::Index>(), flip in 1..=255u8,
        ) {
            let (mut bytes, ends) = segment(&records, &[]);
            let at = HEADER_LEN + place.index(bytes.len() - HEADER_LEN);
            bytes[at] ^= flip;
            let hit = ends.iter().rposition(|e| *e <= at).unwrap();
            let found = scan(&bytes, &HEADER, End::At(bytes.len()));
            let mut expected = records;
            expected.remove(hit);
            prop_assert_eq!(contents(&bytes, &found), expected);
            prop_assert_eq!(found.damage, vec![ends[hit]..ends[hit + 1]]);
        }

        #[test]
        fn a_torn_end_is_cut_where_nobody_vouches_for_it_any_more(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..20),
            lag in 0..4usize, place in any::<prop::sample::Index>(), flip in 1..=255u8, cut in any::<bool>(),
        ) {
            let settled: Vec<usize> = (0..records.len()).map(|i| i.saturating_sub(lag)).collect();
            let (mut bytes, ends) = segment(&records, &settled);
            let at = HEADER_LEN + place.index(bytes.len() - HEADER_LEN);
            let hit = ends.iter().rposition(|e| *e <= at).unwrap();
            if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
            let found = scan(&bytes, &HEADER, End::Torn);
            // Who still vouches: any whole frame that is not the one hit.
            let vouched = (0..records.len()).filter(|i| if cut { *i < hit } else { *i != hit })
                .map(|i| settled[i]).max().unwrap_or(0);
            prop_assert_eq!(found.vouched, ends[vouched]);
            let mut expected = records;
            if hit < vouched { expected.remove(hit); } else { expected.truncate(hit); }
            prop_assert_eq!(contents(&bytes, &found), expected);
            prop_assert_eq!(found.damage.len(), usize::from(hit < vouched));
        }

        #[test]
        fn arbitrary_bytes_are_no_records(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = HEADER.encode().to_vec();
            bytes.extend(noise);
            for end in [End::File, End::Torn, End::At(200)] {
                prop_assert!(scan(&bytes, &HEADER, end).records.is_empty());
            }
        }
    }
}
