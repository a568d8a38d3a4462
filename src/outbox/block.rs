//! Blocks: how events lie in a store's values. [pure]
//!
//! ```text
//! magic "TGB" + version u8 · crc32 u32 of all that follows · payload length u32 · kind u8 · 0 u8 · parts u16 · part u16 · 0 u16 ·
//! count u32 · tag u64 · first u64 · group u64 · group length u32 · accepted i64 (ms)  · payload
//! ```
//! All numbers are little-endian. `tag` names the stream: a random number that never leaves the disk, so that no
//! device can make bytes that pass for a block. A commit (`group`) becomes one or more blocks; each says which
//! sequences the whole commit has, so that a reader can tell a commit that was cut off (never acknowledged) from
//! damage to one that was completed: commits follow each other, so a block of a later one proves all earlier ones.
//!
//! An event that is larger than a value is cut into parts, one block each, that share its sequence.

use bytes::Bytes;

use super::Seq;
use crate::event::record;

/// Largest value in a store. sled keeps nine of these in one page below the 128 KB from which on it would
/// use blob files, which it never syncs.
pub const VALUE_BYTES_MAX: usize = 14 * 1024;

/// Bytes before the payload.
pub const HEAD: usize = 60;

/// Most payload of one block.
pub const PAYLOAD_BYTES_MAX: usize = VALUE_BYTES_MAX - HEAD;

/// Largest record that can be cut into parts (their count is 16 bits wide).
pub const RECORD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX * u16::MAX as usize;

/// The first bytes of every block; the last of them is the format's version.
pub const MAGIC: [u8; 4] = *b"TGB\x01";

const KIND_EVENTS: u8 = 0;
const KIND_PART: u8 = 1;

/// What a block says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Sequence of its first event, or of the event it is a part of.
    pub first: Seq,
    /// Sequence of its last event.
    pub last: Seq,
    /// Which part of one large event; `(0, 1)` for a block of whole events.
    pub part: (u16, u16),
    /// First and last sequence of the commit it belongs to.
    pub group: (Seq, Seq),
    /// When the commit was made, ms since 1970.
    pub accepted_ms: i64,
    /// Length of the payload.
    pub payload: usize,
}

impl Head {
    /// It is a part of one large event.
    pub fn is_part(&self) -> bool {
        self.part.1 > 1
    }

    /// Length of the whole block.
    pub fn total(&self) -> usize {
        HEAD + self.payload
    }
}

/// Why bytes are not a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The bytes end before the block does.
    #[error("the block is cut short")]
    Short,
    /// It does not start as a block does.
    #[error("these bytes are no block")]
    Magic,
    /// The checksum does not match.
    #[error("the block's checksum is wrong: the bytes were changed after they were written")]
    Checksum,
    /// The block is one of another outbox or lane.
    #[error("the block belongs to another stream")]
    Foreign,
    /// The checksum is right and the content is not.
    #[error("the block's fields do not fit together")]
    Malformed,
}

/// A block ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Sequence of its first event.
    pub first: Seq,
    /// Sequence of its last event.
    pub last: Seq,
    /// Which part of one large event, and of how many.
    pub part: (u16, u16),
    /// Head and payload.
    pub bytes: Bytes,
}

impl Packed {
    /// Its key in the store: sorts by sequence, then part.
    pub fn key(&self) -> [u8; 10] {
        let mut key = [0; 10];
        key[..8].copy_from_slice(&self.first.to_be_bytes());
        key[8..].copy_from_slice(&self.part.0.to_be_bytes());
        key
    }

    /// The payload alone.
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(HEAD..)
    }
}

/// What all blocks of a commit share.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The stream's tag.
    pub tag: u64,
    /// Sequence of its first event.
    pub first: Seq,
    /// Its number of events.
    pub len: u32,
    /// When it was made, ms since 1970.
    pub accepted_ms: i64,
}

/// Packs `records`, one per event, into blocks: as few as possible, in order.
pub fn pack<'a>(group: &Group, records: impl Iterator<Item = &'a [u8]>) -> Vec<Packed> {
    let mut packer = Packer { group, out: Vec::new(), open: Vec::new(), count: 0, next: group.first };
    for record in records {
        packer.push(record);
    }
    packer.close();
    packer.out
}

struct Packer<'a> {
    group: &'a Group,
    out: Vec<Packed>,
    open: Vec<u8>,
    count: u32,
    next: Seq,
}

impl Packer<'_> {
    fn push(&mut self, record: &[u8]) {
        if record.len() > PAYLOAD_BYTES_MAX {
            self.close();
            self.push_parts(record);
            return;
        }
        if self.open.len() + record.len() > VALUE_BYTES_MAX {
            self.close();
        }
        if self.open.is_empty() {
            self.open.resize(HEAD, 0);
        }
        self.open.extend_from_slice(record);
        self.count += 1;
    }

    fn push_parts(&mut self, record: &[u8]) {
        // The writer refuses records over RECORD_BYTES_MAX.
        let parts = u16::try_from(record.len().div_ceil(PAYLOAD_BYTES_MAX)).unwrap_or(u16::MAX);
        for (part, payload) in (0..parts).zip(record.chunks(PAYLOAD_BYTES_MAX)) {
            let mut bytes = Vec::with_capacity(HEAD + payload.len());
            bytes.resize(HEAD, 0);
            bytes.extend_from_slice(payload);
            self.finish(bytes, 1, (part, parts));
        }
        self.next += 1;
    }

    fn close(&mut self) {
        if self.count > 0 {
            let (bytes, count) = (std::mem::take(&mut self.open), std::mem::take(&mut self.count));
            self.finish(bytes, count, (0, 1));
            self.next += u64::from(count);
        }
    }

    fn finish(&mut self, mut bytes: Vec<u8>, count: u32, part: (u16, u16)) {
        // At most VALUE_BYTES_MAX.
        let payload = u32::try_from(bytes.len() - HEAD).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&payload.to_le_bytes());
        bytes[12] = if part.1 > 1 { KIND_PART } else { KIND_EVENTS };
        bytes[14..16].copy_from_slice(&part.1.to_le_bytes());
        bytes[16..18].copy_from_slice(&part.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&count.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.group.tag.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.next.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.group.first.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.group.len.to_le_bytes());
        bytes[52..60].copy_from_slice(&self.group.accepted_ms.to_le_bytes());
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let last = self.next + u64::from(count) - 1;
        self.out.push(Packed { first: self.next, last, part, bytes: bytes.into() });
    }
}

/// Reads and checks the block at the start of `bytes`.
pub fn parse(bytes: &[u8], tag: u64) -> Result<Head, BlockError> {
    let prefix = bytes.len().min(MAGIC.len());
    if bytes[..prefix] != MAGIC[..prefix] {
        return Err(BlockError::Magic);
    }
    let mut rest = Fields(bytes.get(4..HEAD).ok_or(BlockError::Short)?);
    let crc = u32::from_le_bytes(rest.take());
    let payload = u32::from_le_bytes(rest.take()) as usize;
    if payload > PAYLOAD_BYTES_MAX {
        return Err(BlockError::Malformed);
    }
    let body = bytes.get(8..HEAD + payload).ok_or(BlockError::Short)?;
    if crc32fast::hash(body) != crc {
        return Err(BlockError::Checksum);
    }
    let [kind, _] = rest.take();
    let parts = u16::from_le_bytes(rest.take());
    let part = u16::from_le_bytes(rest.take());
    let _: [u8; 2] = rest.take();
    let count = u32::from_le_bytes(rest.take());
    if u64::from_le_bytes(rest.take()) != tag {
        return Err(BlockError::Foreign);
    }
    let first = u64::from_le_bytes(rest.take());
    let group = u64::from_le_bytes(rest.take());
    let group_len = u64::from(u32::from_le_bytes(rest.take()));
    let accepted_ms = i64::from_le_bytes(rest.take());
    let last = first.checked_add(u64::from(count)).and_then(|end| end.checked_sub(1));
    let group_last = group.checked_add(group_len).and_then(|end| end.checked_sub(1));
    let (Some(last), Some(group_last)) = (last, group_last) else { return Err(BlockError::Malformed) };
    let whole = kind == KIND_EVENTS && parts == 1 && part == 0;
    let piece = kind == KIND_PART && parts > 1 && part < parts && count == 1;
    let ordered = 0 < group && group <= first && first <= last && last <= group_last;
    if !(whole || piece) || !ordered {
        return Err(BlockError::Malformed);
    }
    Ok(Head { first, last, part: (part, parts), group: (group, group_last), accepted_ms, payload })
}

/// The fields of a head; it is long enough for all of them.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, tail) = self.0.split_at(N.min(self.0.len()));
        self.0 = tail;
        head.try_into().unwrap_or([0; N])
    }
}

/// Cuts a payload of whole records into them, without copying. `None`: they do not fill it exactly.
pub fn records(payload: &Bytes) -> Option<Vec<Bytes>> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let end = at.checked_add(record::peek_len(&payload[at..])?)?;
        if end > payload.len() {
            return None;
        }
        out.push(payload.slice(at..end));
        at = end;
    }
    Some(out)
}

/// What [`find`] came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A good block of this stream at this offset.
    Block(usize, Head),
    /// What starts at this offset may be a block once more bytes are there.
    More(usize),
}

/// The next good block in `bytes` at or after `from`, whatever lies around it.
pub fn find(bytes: &[u8], from: usize, tag: u64) -> Found {
    let mut at = from.min(bytes.len());
    while let Some(skip) = bytes[at..].iter().position(|&b| b == MAGIC[0]) {
        at += skip;
        match parse(&bytes[at..], tag) {
            Ok(head) => return Found::Block(at, head),
            Err(BlockError::Short) => return Found::More(at),
            Err(_) => at += 1,
        }
    }
    Found::More(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: u64 = 0x0123_4567_89ab_cdef;

    fn record(len: usize, fill: u8) -> Vec<u8> {
        let mut out = u32::try_from(len).unwrap().to_le_bytes().to_vec();
        out.resize(4 + len, fill);
        out
    }

    fn group(first: Seq, len: usize) -> Group {
        Group { tag: TAG, first, len: u32::try_from(len).unwrap(), accepted_ms: -5 }
    }

    /// Puts packed blocks together again as a reader does.
    fn unpack(blocks: &[Packed]) -> Vec<(Seq, Vec<u8>)> {
        let mut out: Vec<(Seq, Vec<u8>)> = Vec::new();
        for block in blocks {
            let head = parse(&block.bytes, TAG).unwrap();
            assert_eq!((head.first, head.last, head.part), (block.first, block.last, block.part));
            assert_eq!(head.total(), block.bytes.len());
            if head.is_part() {
                if head.part.0 == 0 {
                    out.push((head.first, Vec::new()));
                }
                let (seq, whole) = out.last_mut().unwrap();
                assert_eq!(*seq, head.first);
                whole.extend_from_slice(&block.payload());
            } else {
                out.extend((head.first..).zip(records(&block.payload()).unwrap().iter().map(|r| r.to_vec())));
            }
        }
        out
    }

    #[test]
    fn an_event_of_a_mebibyte_is_cut_and_put_together() {
        let big = record(1 << 20, 7);
        let small = record(10, 1);
        let blocks = pack(&group(9, 3), [&small[..], &big, &small].into_iter());
        assert_eq!(blocks.len(), 2 + big.len().div_ceil(PAYLOAD_BYTES_MAX));
        assert_eq!(unpack(&blocks), [(9, small.clone()), (10, big), (11, small)]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let blocks = pack(&group(1, 2), [&record(20, 1)[..], &record(30, 2)].into_iter());
        let good = &blocks[0].bytes;
        for i in 0..good.len() {
            assert!(parse(&good[..i], TAG).is_err(), "cut at {i}");
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[i] ^= 1 << bit;
                assert!(parse(&bad, TAG).is_err(), "bit {bit} of byte {i}");
            }
        }
        assert_eq!(parse(good, TAG + 1), Err(BlockError::Foreign));
    }

    proptest! {
        #[test]
        fn any_commit_is_packed_within_the_limits_and_read_back(
            first in 1..u64::MAX / 2,
            lens in proptest::collection::vec(prop_oneof![0..600usize, 13_000..16_000usize, 28_000..60_000usize], 1..60),
        ) {
            let records: Vec<_> = lens.iter().enumerate().map(|(i, &len)| record(len, i as u8)).collect();
            let blocks = pack(&group(first, records.len()), records.iter().map(Vec::as_slice));
            prop_assert!(blocks.iter().all(|b| b.bytes.len() <= VALUE_BYTES_MAX));
            prop_assert!(blocks.windows(2).all(|w| w[0].key() < w[1].key()));
            let expected: Vec<_> = (first..).zip(records).collect();
            prop_assert_eq!(unpack(&blocks), expected);
        }

        #[test]
        fn blocks_are_found_in_any_surroundings(
            noise in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'T'), Just(b'G'), Just(b'B'), Just(1), any::<u8>()], 0..200), 1..20),
        ) {
            let mut bytes = Vec::new();
            let mut places = Vec::new();
            for (i, noise) in noise.iter().enumerate() {
                bytes.extend_from_slice(noise);
                places.push((bytes.len(), i as Seq + 1));
                let block = pack(&group(i as Seq + 1, 1), std::iter::once(&record(i * 31, 0)[..])).remove(0);
                bytes.extend_from_slice(&block.bytes);
            }
            let mut found = Vec::new();
            let mut at = 0;
            while at < bytes.len() {
                match find(&bytes, at, TAG) {
                    Found::Block(place, head) => {
                        found.push((place, head.first));
                        at = place + head.total();
                    }
                    Found::More(place) => at = place + 1,
                }
            }
            prop_assert_eq!(found, places);
        }

        #[test]
        fn noise_is_never_a_block(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(parse(&noise, TAG).is_err());
            let mut framed = MAGIC.to_vec();
            framed.extend_from_slice(&noise);
            prop_assert!(parse(&framed, TAG).is_err());
        }
    }
}
