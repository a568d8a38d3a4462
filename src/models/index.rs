//! The index of a version: its chunks in the file's order, and where each is to be had. [pure]
//!
//! ```text
//! "TGMI" 1  name length u8  name  version u64  size u64  blake3 [32]
//! packs u16     { version u64  heads u32  pieces u32 }
//! chunks u32    { blake3 [32]  length u32  pack u16  piece u32 }
//! crc32 u32     of everything before
//! ```
//! Little endian. It is not signed: [`Index::fits`] holds it against the manifest, and what it says of chunks is proven
//! by their hashes. The CRC finds a disk's errors, not an enemy's.

use std::collections::HashMap;

use super::chunks::Sizes;
use super::hash::{HASH_BYTES, Hash};
use super::manifest::{Manifest, NAME_BYTES_MAX, Name};
use super::pack::HEADS_MAX;
use super::{CHUNKS_MAX, MODEL_BYTES_MAX};
use crate::config::overlay::VERSION_MAX;

/// Most packs that the chunks of one version may come from. A version that needs more carries the oldest ones' itself.
pub const PACKS_MAX: usize = 256;

const MAGIC: &[u8; 5] = b"TGMI\x01";
const FIXED_BYTES: usize = MAGIC.len() + 1 + 8 + 8 + HASH_BYTES + 2 + 4 + 4;
const PACK_BYTES: usize = 8 + 4 + 4;

/// Bytes of one chunk's entry.
pub const ENTRY_BYTES: usize = HASH_BYTES + 4 + 2 + 4;

/// Largest index, in bytes: 2.8 MB.
pub const INDEX_BYTES_MAX: usize = FIXED_BYTES + NAME_BYTES_MAX + PACKS_MAX * PACK_BYTES + CHUNKS_MAX * ENTRY_BYTES;

/// A pack that chunks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRef {
    /// The version whose pack it is.
    pub version: u64,
    /// Messages of its head.
    pub heads: u32,
    /// Messages after them, one piece each.
    pub pieces: u32,
}

/// One chunk of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Names and proves it.
    pub hash: Hash,
    /// In bytes, at least 1.
    pub length: u32,
    /// Which of [`Index::packs`] carries it.
    pub pack: u16,
    /// In which of its pieces, from 0.
    pub piece: u32,
}

/// The chunks of one version. All of it is within its bounds: only [`Index::decode`] and [`super::delta`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub(super) name: Name,
    pub(super) version: u64,
    pub(super) size: u64,
    pub(super) blake3: Hash,
    pub(super) packs: Vec<PackRef>,
    pub(super) entries: Vec<Entry>,
}

/// Why bytes are no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// They are something else, or a later version's.
    #[error("this is no model's index that this version of tidegate reads")]
    Foreign,
    /// More bytes than an index may have.
    #[error("the model's index has {0} bytes, at most {INDEX_BYTES_MAX} are taken")]
    TooLarge(usize),
    /// They end too early, go on after the end, or were changed.
    #[error("the model's index is damaged; get it again")]
    Damaged,
    /// A field is out of its bounds.
    #[error("the model's index has a wrong {0}; publish the version again")]
    Wrong(&'static str),
    /// It is another version's, or its lengths do not add up to the model's.
    #[error("the model's index is not the one of its manifest: another {0}; publish the version again")]
    OtherModel(&'static str),
}

impl Index {
    /// The model.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Bytes of the file: the sum of its chunks'.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where chunks come from.
    pub fn packs(&self) -> &[PackRef] {
        &self.packs
    }

    /// The chunks in the file's order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The chunks with their offsets in the file, in bytes.
    pub fn placed(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter().scan(0, |end, entry| {
            let offset = *end;
            *end += u64::from(entry.length);
            Some((offset, entry))
        })
    }

    /// The pack of an entry. It is there: the index is within its bounds.
    pub fn pack_of(&self, entry: &Entry) -> Option<&PackRef> {
        self.packs.get(usize::from(entry.pack))
    }

    /// Where each distinct chunk occurs: the numbers of its entries.
    pub fn by_hash(&self) -> HashMap<Hash, Vec<u32>> {
        let mut found: HashMap<Hash, Vec<u32>> = HashMap::with_capacity(self.entries.len());
        for (number, entry) in (0..).zip(&self.entries) {
            found.entry(entry.hash).or_default().push(number);
        }
        found
    }

    /// Whether it is of the model that the manifest names.
    pub fn fits(&self, manifest: &Manifest) -> Result<(), IndexError> {
        let other = |what| Err(IndexError::OtherModel(what));
        match self {
            _ if self.name != manifest.name => other("name"),
            _ if self.version != manifest.version => other("version"),
            _ if self.size != manifest.size => other("size"),
            _ if self.blake3 != manifest.blake3 => other("hash"),
            _ => Ok(()),
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let capacity = encoded_bytes(&self.name, self.packs.len(), self.entries.len());
        let mut to = Vec::with_capacity(capacity);
        to.extend_from_slice(MAGIC);
        let name = self.name.as_str().as_bytes();
        to.push(u8::try_from(name.len()).unwrap_or(u8::MAX)); // at most 64
        to.extend_from_slice(name);
        to.extend_from_slice(&self.version.to_le_bytes());
        to.extend_from_slice(&self.size.to_le_bytes());
        to.extend_from_slice(self.blake3.bytes());
        to.extend_from_slice(&u16::try_from(self.packs.len()).unwrap_or(u16::MAX).to_le_bytes()); // at most 256
        for pack in &self.packs {
            to.extend_from_slice(&pack.version.to_le_bytes());
            to.extend_from_slice(&pack.heads.to_le_bytes());
            to.extend_from_slice(&pack.pieces.to_le_bytes());
        }
        to.extend_from_slice(&u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_le_bytes()); // at most CHUNKS_MAX
        for entry in &self.entries {
            to.extend_from_slice(entry.hash.bytes());
            to.extend_from_slice(&entry.length.to_le_bytes());
            to.extend_from_slice(&entry.pack.to_le_bytes());
            to.extend_from_slice(&entry.piece.to_le_bytes());
        }
        let crc = crc32fast::hash(&to);
        to.extend_from_slice(&crc.to_le_bytes());
        to
    }

    /// Reads bytes that anybody may have written. Takes memory for what is there, not for what it says is there.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        if bytes.len() > INDEX_BYTES_MAX {
            return Err(IndexError::TooLarge(bytes.len()));
        }
        let (bytes, crc) = bytes.split_last_chunk::<4>().ok_or(IndexError::Damaged)?;
        let mut from = Reader(bytes);
        if from.array::<5>()? != *MAGIC {
            return Err(IndexError::Foreign);
        }
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
            return Err(IndexError::Damaged);
        }
        let [name_length] = from.array()?;
        let name = std::str::from_utf8(from.take(usize::from(name_length))?).ok().and_then(Name::parse);
        let name = name.ok_or(IndexError::Wrong("name"))?;
        let (version, size) = (from.u64()?, from.u64()?);
        let blake3 = Hash::from_bytes(from.array()?);
        let packs = usize::from(from.u16()?);
        from.holds(packs, PACK_BYTES)?;
        let packs = (0..packs).map(|_| {
            let (version, heads, pieces) = (from.u64()?, from.u32()?, from.u32()?);
            Ok(PackRef { version, heads, pieces })
        });
        let packs = packs.collect::<Result<_, IndexError>>()?;
        let entries = usize::try_from(from.u32()?).map_err(|_| IndexError::Damaged)?;
        from.holds(entries, ENTRY_BYTES)?;
        let entries = (0..entries).map(|_| {
            let hash = Hash::from_bytes(from.array()?);
            let (length, pack, piece) = (from.u32()?, from.u16()?, from.u32()?);
            Ok(Entry { hash, length, pack, piece })
        });
        let entries = entries.collect::<Result<_, IndexError>>()?;
        if !from.0.is_empty() {
            return Err(IndexError::Damaged);
        }
        let read = Self { name, version, size, blake3, packs, entries };
        read.check()?;
        Ok(read)
    }

    /// Whether all of it is within its bounds.
    fn check(&self) -> Result<(), IndexError> {
        let fits = |fits: bool, what| if fits { Ok(()) } else { Err(IndexError::Wrong(what)) };
        fits((1..=VERSION_MAX).contains(&self.version), "version")?;
        fits((1..=MODEL_BYTES_MAX).contains(&self.size), "size")?;
        fits(self.packs.len() <= PACKS_MAX, "number of packs")?;
        fits(self.entries.len() <= CHUNKS_MAX, "number of chunks")?;
        for pack in &self.packs {
            fits((1..=VERSION_MAX).contains(&pack.version), "pack's version")?;
            fits((1..=HEADS_MAX).contains(&pack.heads), "number of a pack's heads")?;
            fits(pack.pieces as usize <= CHUNKS_MAX, "number of a pack's pieces")?;
        }
        let (mut size, mut lengths) = (0, HashMap::with_capacity(self.entries.len()));
        for entry in &self.entries {
            fits((1..=Sizes::STANDARD.max).contains(&(entry.length as usize)), "chunk's length")?;
            fits(self.pack_of(entry).is_some_and(|pack| entry.piece < pack.pieces), "chunk's place")?;
            let one = (entry.length, entry.pack, entry.piece);
            fits(*lengths.entry(entry.hash).or_insert(one) == one, "chunk, told in two ways")?;
            size += u64::from(entry.length);
        }
        fits(size == self.size, "size")
    }
}

/// Bytes of the index of so many packs and chunks.
pub(super) fn encoded_bytes(name: &Name, packs: usize, entries: usize) -> usize {
    FIXED_BYTES + name.as_str().len() + packs * PACK_BYTES + entries * ENTRY_BYTES
}

/// Takes fields off the front.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], IndexError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(IndexError::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IndexError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(IndexError::Damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, IndexError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, IndexError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, IndexError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Whether so many records can be there at all, before memory is taken for them.
    fn holds(&self, count: usize, bytes: usize) -> Result<(), IndexError> {
        let wanted = count.checked_mul(bytes).ok_or(IndexError::Damaged)?;
        if wanted <= self.0.len() { Ok(()) } else { Err(IndexError::Damaged) }
    }
}
