//! What a version's pack must carry: the chunks that no kept earlier version has, in pieces. [pure]

use std::collections::{BTreeSet, HashMap, HashSet};

use super::chunks::{Chunk, Cut};
use super::hash::Hash;
use super::index::{self, Entry, Index, PACKS_MAX, PackRef};
use super::manifest::Signed;
use super::pack::{self, PIECE_BYTES_MAX, PIECE_CHUNKS_MAX};

/// A pack as it is to be published: first the head's messages, then the pieces'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of the whole version.
    pub index: Index,
    /// The chunks of each piece, to be read from the file.
    pub pieces: Vec<Vec<Chunk>>,
    /// Messages of the head.
    pub heads: u32,
}

/// Why a version cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// The file is another one.
    #[error(
        "the file has {found} bytes and the hash {hash}, which is not what its manifest says; publish the two together"
    )]
    OtherFile {
        /// Its bytes.
        found: u64,
        /// Its hash.
        hash: Hash,
    },
    /// A chunk does not fit into a piece.
    #[error("a chunk has {0} bytes, and a piece at most {PIECE_BYTES_MAX}; cut the file into shorter ones")]
    ChunkTooLong(u32),
}

impl Layout {
    /// Of the file that `cut` is of. `kept` are the indexes of versions whose packs, and those that they name, are all
    /// still there; those of other names, and of this version or later ones, are passed over. A piece has at most
    /// `piece_bytes_max` bytes ([`PIECE_BYTES_MAX`] or less).
    pub fn of(signed: &Signed, cut: &Cut, kept: &[&Index], piece_bytes_max: usize) -> Result<Self, DeltaError> {
        let manifest = signed.manifest();
        if (cut.size, cut.hash) != (manifest.size, manifest.blake3) {
            return Err(DeltaError::OtherFile { found: cut.size, hash: cut.hash });
        }
        let earlier = |index: &&&Index| index.name == manifest.name && index.version < manifest.version;
        let kept = carried(kept.iter().filter(earlier).copied(), manifest.version);
        let piece_bytes_max = piece_bytes_max.min(PIECE_BYTES_MAX);
        let mut pieces = Pieces::default();
        let mut packs: Vec<PackRef> = vec![PackRef { version: manifest.version, heads: 0, pieces: 0 }];
        let mut pack_numbers: HashMap<u64, u16> = HashMap::new();
        let mut entries = Vec::with_capacity(cut.chunks.len());
        for chunk in &cut.chunks {
            let (pack, piece) = match kept.get(&chunk.hash) {
                None => (0, pieces.add(chunk, piece_bytes_max)?),
                Some((from, piece)) => {
                    let number = pack_numbers.entry(from.version).or_insert_with(|| {
                        packs.push(*from);
                        u16::try_from(packs.len() - 1).unwrap_or(u16::MAX) // at most PACKS_MAX
                    });
                    (*number, *piece)
                }
            };
            entries.push(Entry { hash: chunk.hash, length: chunk.length, pack, piece });
        }
        let manifest_bytes = signed.envelope().encode().len();
        let heads = pack::heads(manifest_bytes, index::encoded_bytes(&manifest.name, packs.len(), entries.len()));
        let pieces = pieces.done;
        if let Some(own) = packs.first_mut() {
            *own = PackRef {
                version: manifest.version,
                heads,
                pieces: u32::try_from(pieces.len()).unwrap_or(u32::MAX), // at most CHUNKS_MAX
            };
        }
        let (name, version) = (manifest.name.clone(), manifest.version);
        let index = Index { name, version, size: cut.size, blake3: cut.hash, packs, entries };
        Ok(Self { index, pieces, heads })
    }

    /// As it was, from its index alone: how a publication that broke off goes on. `None`: the index does not say where all of
    /// its own pack's chunks are, or not as [`Layout::of`] does.
    pub fn again(index: &Index) -> Option<Self> {
        let own = *index.packs.iter().find(|pack| pack.version == index.version)?;
        let mut pieces: Vec<Vec<Chunk>> = vec![Vec::new(); own.pieces as usize]; // at most CHUNKS_MAX
        let mut seen = HashSet::new();
        for (offset, &Entry { hash, length, piece, .. }) in
            index.placed().filter(|(_, entry)| index.pack_of(entry) == Some(&own))
        {
            if seen.insert(hash) {
                pieces.get_mut(piece as usize)?.push(Chunk { hash, offset, length });
            }
        }
        let bytes = |piece: &Vec<Chunk>| piece.iter().map(|chunk| chunk.length as usize).sum::<usize>();
        let fits = |piece: &Vec<Chunk>| {
            (1..=PIECE_CHUNKS_MAX).contains(&piece.len()) && (1..=PIECE_BYTES_MAX).contains(&bytes(piece))
        };
        pieces.iter().all(fits).then(|| Self { index: index.clone(), pieces, heads: own.heads })
    }

    /// Messages of the pack.
    pub fn places(&self) -> u32 {
        self.heads.saturating_add(u32::try_from(self.pieces.len()).unwrap_or(u32::MAX))
    }

    /// The messages of the head.
    pub fn head(&self, signed: &Signed) -> Vec<Vec<u8>> {
        pack::encode_head(signed.envelope().encode().as_bytes(), &self.index, self.places())
    }
}

/// Which pack carries a chunk, and in which piece; of the newest packs as many as an index can name beside its own.
fn carried<'i>(kept: impl Iterator<Item = &'i Index>, version: u64) -> HashMap<Hash, (PackRef, u32)> {
    let mut found: HashMap<Hash, (PackRef, u32)> = HashMap::new();
    let mut versions = BTreeSet::new();
    for index in kept {
        for entry in &index.entries {
            if let Some(pack) = index.pack_of(entry).filter(|pack| pack.version < version) {
                versions.insert(pack.version);
                found.entry(entry.hash).or_insert((*pack, entry.piece));
            }
        }
    }
    let newest: BTreeSet<u64> = versions.into_iter().rev().take(PACKS_MAX - 1).collect();
    found.retain(|_, (pack, _)| newest.contains(&pack.version));
    found
}

/// Pieces that are being filled, one after the other.
#[derive(Default)]
struct Pieces {
    done: Vec<Vec<Chunk>>,
    bytes: usize,
    carried: HashMap<Hash, u32>,
}

impl Pieces {
    /// In which piece the chunk is carried.
    fn add(&mut self, chunk: &Chunk, bytes_max: usize) -> Result<u32, DeltaError> {
        if let Some(piece) = self.carried.get(&chunk.hash) {
            return Ok(*piece);
        }
        let length = chunk.length as usize;
        if length > PIECE_BYTES_MAX {
            return Err(DeltaError::ChunkTooLong(chunk.length));
        }
        match self.done.last_mut() {
            Some(last) if self.bytes + length <= bytes_max && last.len() < PIECE_CHUNKS_MAX => {
                last.push(*chunk);
                self.bytes += length;
            }
            _ => {
                self.done.push(vec![*chunk]);
                self.bytes = length;
            }
        }
        let piece = u32::try_from(self.done.len() - 1).unwrap_or(u32::MAX); // at most CHUNKS_MAX
        self.carried.insert(chunk.hash, piece);
        Ok(piece)
    }
}
