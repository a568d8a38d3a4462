//! A pack: the messages of one topic that carry a version's manifest, its index, and the chunks no kept one had. [pure]
//!
//! ```text
//! every message   "TGMP" 1  kind u8  place u32  places u32  …
//! kind 1, head    …  a part of the head, in order:  length u32  manifest length u32  manifest (envelope)  index
//! kind 2, piece   …  chunks u16  { length u32 }  zstd of the chunks, one after the other
//! ```
//! Little endian. A message says its place, from 0, and how many the pack has: replication to another cluster keeps the
//! order of messages, not their ids. Nothing here is signed: what a piece holds goes by its hashes, which are made here.

use std::io;

use super::hash::Hash;
use super::index::{INDEX_BYTES_MAX, Index, IndexError};
use super::manifest;

/// Longest part of a head, in bytes: with its header what a gateway takes of Pulsar as one message
/// (`downlink::link::MESSAGE_BYTES_MAX`).
pub const PART_BYTES_MAX: usize = (1 << 20) - HEADER_BYTES;

/// Largest head, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 + manifest::ENVELOPE_BYTES_MAX + INDEX_BYTES_MAX;

/// Most messages of a head.
pub const HEADS_MAX: u32 = HEAD_BYTES_MAX.div_ceil(PART_BYTES_MAX) as u32;

/// Most bytes of a piece before it is compressed: what is fetched again when the link ends in the middle of one.
pub const PIECE_BYTES_MAX: usize = 256 << 10;

/// Most chunks of a piece. Sixteen of the shortest fill one; the last chunks of files may be shorter.
pub const PIECE_CHUNKS_MAX: usize = 4096;

/// Largest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + PART_BYTES_MAX;

/// zstd's. Weights hardly become smaller with more, and a version is compressed once.
pub const LEVEL: i32 = 9;

const MAGIC: &[u8; 5] = b"TGMP\x01";
const HEADER_BYTES: usize = MAGIC.len() + 1 + 4 + 4;
const HEAD: u8 = 1;
const PIECE: u8 = 2;

/// Why bytes are no message of a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It is something else, or a later version's.
    #[error("this is no message of a model's pack that this version of tidegate reads")]
    Foreign,
    /// More bytes, chunks or messages than there may be.
    #[error("the pack's {what}: {found}, at most {max} are taken; publish the version again")]
    TooMany {
        /// Of which there are.
        what: &'static str,
        /// As many as there are.
        found: usize,
        /// As many as there may be.
        max: usize,
    },
    /// It ends too early, or does not say the same everywhere.
    #[error("the message of the model's pack is damaged: {0}; publish the version again")]
    Damaged(&'static str),
    /// The head's index.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// One message.
#[derive(Debug)]
pub struct Message<'b> {
    /// Which one it is, from 0.
    pub place: u32,
    /// Messages of the pack.
    pub places: u32,
    /// What it carries.
    pub body: Body<'b>,
}

/// What a message carries.
#[derive(Debug)]
pub enum Body<'b> {
    /// A part of the head, for a [`HeadReader`].
    Head(&'b [u8]),
    /// Some chunks.
    Piece(Piece),
}

/// Some chunks, each under the hash that it really has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    bytes: Vec<u8>,
    chunks: Vec<(Hash, usize)>,
}

impl Piece {
    /// The chunks, each with its hash.
    pub fn chunks(&self) -> impl Iterator<Item = (Hash, &[u8])> {
        let mut rest = &self.bytes[..];
        self.chunks.iter().map_while(move |(hash, length)| {
            let (chunk, after) = rest.split_at_checked(*length)?;
            rest = after;
            Some((*hash, chunk))
        })
    }
}

/// Writes a piece. The chunks must be within [`PIECE_BYTES_MAX`] and [`PIECE_CHUNKS_MAX`].
pub fn encode_piece(place: u32, places: u32, chunks: &[&[u8]]) -> io::Result<Vec<u8>> {
    let raw = chunks.concat();
    let count = u16::try_from(chunks.len()).ok().filter(|n| (1..=PIECE_CHUNKS_MAX).contains(&usize::from(*n)));
    let (Some(count), 1..=PIECE_BYTES_MAX) = (count, raw.len()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "these chunks are not a piece"));
    };
    let mut to = header(PIECE, place, places);
    to.extend_from_slice(&count.to_le_bytes());
    for chunk in chunks {
        to.extend_from_slice(&u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_le_bytes()); // at most 256 KiB
    }
    to.extend_from_slice(&zstd::bulk::compress(&raw, LEVEL)?);
    Ok(to)
}

/// Reads a message that anybody may have written. Takes at most [`PIECE_BYTES_MAX`] of memory, whatever it says.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, PackError> {
    at_most("message's bytes", bytes.len(), MESSAGE_BYTES_MAX)?;
    let (magic, rest) = bytes.split_first_chunk::<5>().ok_or(PackError::Foreign)?;
    if magic != MAGIC {
        return Err(PackError::Foreign);
    }
    let short = PackError::Damaged("it ends too early");
    let Some(([kind], rest)) = rest.split_first_chunk::<1>() else { return Err(short) };
    let Some((place, rest)) = rest.split_first_chunk::<4>() else { return Err(short) };
    let Some((places, rest)) = rest.split_first_chunk::<4>() else { return Err(short) };
    let (place, places) = (u32::from_le_bytes(*place), u32::from_le_bytes(*places));
    if place >= places {
        return Err(PackError::Damaged("its place is after the last one"));
    }
    let body = match *kind {
        HEAD => Body::Head(rest),
        PIECE => Body::Piece(decode_piece(rest)?),
        _ => return Err(PackError::Foreign),
    };
    Ok(Message { place, places, body })
}

fn decode_piece(bytes: &[u8]) -> Result<Piece, PackError> {
    let short = || PackError::Damaged("it ends too early");
    let (count, rest) = bytes.split_first_chunk::<2>().ok_or_else(short)?;
    let count = usize::from(u16::from_le_bytes(*count));
    at_most("chunks in one piece", count, PIECE_CHUNKS_MAX)?;
    let (lengths, compressed) = rest.split_at_checked(count * 4).ok_or_else(short)?;
    let (lengths, _) = lengths.as_chunks::<4>();
    let lengths: Vec<usize> = lengths.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize).collect();
    let total = lengths.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length)).unwrap_or(usize::MAX);
    at_most("bytes in one piece", total, PIECE_BYTES_MAX)?;
    if lengths.is_empty() || lengths.contains(&0) {
        return Err(PackError::Damaged("it has no chunk, or an empty one"));
    }
    // The capacity is the bound: the decoder writes into it, and needs no window of its own.
    let raw = zstd::bulk::decompress(compressed, total).map_err(|_| PackError::Damaged("it does not decompress"))?;
    if raw.len() != total {
        return Err(PackError::Damaged("it has fewer bytes than it says"));
    }
    let mut chunks = Vec::with_capacity(lengths.len());
    let mut rest = &raw[..];
    for length in lengths {
        let (chunk, after) = rest.split_at_checked(length).ok_or_else(short)?;
        chunks.push((Hash::of(chunk), length));
        rest = after;
    }
    Ok(Piece { bytes: raw, chunks })
}

/// A version's manifest and index. Nobody has verified them, nor held one against the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The envelope's bytes, for [`manifest::Signed::verify`].
    pub manifest: Vec<u8>,
    /// The index.
    pub index: Index,
}

/// Messages that a head of so many bytes needs, of which `manifest` are the envelope's.
pub(super) fn heads(manifest: usize, index: usize) -> u32 {
    // At most HEADS_MAX: both are within their bounds.
    u32::try_from((8 + manifest + index).div_ceil(PART_BYTES_MAX)).unwrap_or(u32::MAX)
}

/// Writes a head, in its messages; `places` is how many the whole pack has.
pub fn encode_head(manifest: &[u8], index: &Index, places: u32) -> Vec<Vec<u8>> {
    let index = index.encode();
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes(); // at most HEAD_BYTES_MAX
    let whole = [&length(4 + manifest.len() + index.len())[..], &length(manifest.len()), manifest, &index].concat();
    let part = |(place, part): (u32, &[u8])| [&header(HEAD, place, places)[..], part].concat();
    (0..).zip(whole.chunks(PART_BYTES_MAX)).map(part).collect()
}

/// Puts a head's parts together, in their order. Holds at most [`HEAD_BYTES_MAX`] bytes.
#[derive(Debug, Default)]
pub struct HeadReader {
    bytes: Vec<u8>,
    next: u32,
}

impl HeadReader {
    /// The place that comes next.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Takes the part of the next place; the head, if it is whole now. After an error nothing more may be taken.
    pub fn push(&mut self, place: u32, part: &[u8]) -> Result<Option<Head>, PackError> {
        if place != self.next {
            return Err(PackError::Damaged("a part of its head is missing"));
        }
        at_most("head's bytes", self.bytes.len() + part.len(), HEAD_BYTES_MAX)?;
        if part.is_empty() {
            return Err(PackError::Damaged("a part of its head is empty"));
        }
        self.next += 1;
        self.bytes.extend_from_slice(part);
        let Some((length, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        at_most("head's bytes", length, HEAD_BYTES_MAX - 4)?;
        if rest.len() < length {
            return Ok(None);
        }
        let wrong = PackError::Damaged("its head is longer or shorter than it says");
        let Some((manifest, rest)) = rest.split_first_chunk::<4>() else { return Err(wrong) };
        let Some((manifest, index)) = rest.split_at_checked(u32::from_le_bytes(*manifest) as usize) else {
            return Err(wrong);
        };
        if self.bytes.len() != 4 + length {
            return Err(wrong);
        }
        Ok(Some(Head { manifest: manifest.to_vec(), index: Index::decode(index)? }))
    }
}

fn header(kind: u8, place: u32, places: u32) -> Vec<u8> {
    let mut to = Vec::with_capacity(HEADER_BYTES + 64);
    to.extend_from_slice(MAGIC);
    to.push(kind);
    to.extend_from_slice(&place.to_le_bytes());
    to.extend_from_slice(&places.to_le_bytes());
    to
}

fn at_most(what: &'static str, found: usize, max: usize) -> Result<(), PackError> {
    if found > max { Err(PackError::TooMany { what, found, max }) } else { Ok(()) }
}
