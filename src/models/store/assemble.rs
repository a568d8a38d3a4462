//! A version that is being assembled on disk: every chunk is proven before it is written, and again before it counts.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::busy::Claim;
use super::disk::Disk;
use crate::models::hash::{Hash, Hasher};
use crate::models::index::Index;
use crate::models::manifest::Manifest;
use crate::models::pack::Piece;
use crate::models::plan::Plan;

/// A version that is being assembled. Dropping it loses nothing that was committed; beginning again goes on with it.
///
/// A piece counts at once, and is durable after [`Assembling::commit`]. Committing after every piece, a power cut loses
/// the piece under way; a slow disk may rather commit once a second.
pub struct Assembling<D: Disk> {
    disk: D,
    data: D::File,
    wanted: Wanted,
    /// The chunks that are here, by the number of the entry.
    has: Vec<bool>,
    uncommitted: u64,
    /// A sync failed: what was written may be anywhere.
    failed: bool,
    manifest: Manifest,
    _claim: Claim,
}

/// Where the chunks go.
struct Wanted {
    index: Arc<Index>,
    /// Of each entry, in bytes from the file's beginning.
    offsets: Vec<u64>,
    /// The numbers of the entries, in the order of their hashes.
    by_hash: Vec<u32>,
}

impl Wanted {
    fn new(index: Arc<Index>) -> Self {
        let offsets = index.placed().map(|(offset, _)| offset).collect();
        let mut by_hash: Vec<u32> = (0..).take(index.entries().len()).collect();
        let hash = |number: &u32| index.entries().get(*number as usize).map(|entry| entry.hash);
        by_hash.sort_unstable_by_key(hash);
        Self { index, offsets, by_hash }
    }

    /// The numbers of the entries of this chunk.
    fn of(&self, hash: Hash) -> &[u32] {
        let entries = self.index.entries();
        let hash_of = |number: &u32| entries.get(*number as usize).map(|entry| entry.hash);
        let start = self.by_hash.partition_point(|number| hash_of(number) < Some(hash));
        let rest = self.by_hash.get(start..).unwrap_or_default();
        let end = rest.partition_point(|number| hash_of(number) == Some(hash));
        rest.get(..end).unwrap_or_default()
    }
}

impl<D: Disk> Assembling<D> {
    pub(super) fn new(disk: D, data: D::File, index: Arc<Index>, manifest: Manifest, claim: Claim) -> Self {
        let has = vec![false; index.entries().len()];
        let wanted = Wanted::new(index);
        Self { disk, data, wanted, has, uncommitted: 0, failed: false, manifest, _claim: claim }
    }

    /// The version's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What is lacking.
    pub fn plan(&self) -> Plan {
        Plan::of(&self.wanted.index, |number| self.has.get(number as usize).is_some_and(|has| *has))
    }

    /// Whether nothing is lacking.
    pub fn is_full(&self) -> bool {
        self.has.iter().all(|has| *has)
    }

    /// Bytes that were written and not committed.
    pub fn uncommitted(&self) -> u64 {
        self.uncommitted
    }

    /// Writes the chunks of `piece` that are lacking, wherever they occur; how many of its chunks were. If none was, and
    /// the plan still wants the piece's place, the piece is not what the index says. Blocks on the disk.
    pub fn write(&mut self, piece: &Piece) -> io::Result<usize> {
        let mut lacking = 0;
        for (hash, bytes) in piece.chunks() {
            lacking += usize::from(self.put(hash, bytes)?);
        }
        Ok(lacking)
    }

    /// Makes durable what was written. After an error only beginning again helps, which looks what the disk has. Blocks on
    /// the disk.
    pub fn commit(&mut self) -> io::Result<()> {
        if self.uncommitted > 0 { self.sync() } else { self.check_not_failed() }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.check_not_failed()?;
        self.disk.sync(&self.data).inspect_err(|_| self.failed = true)?;
        self.uncommitted = 0;
        Ok(())
    }

    fn check_not_failed(&self) -> io::Result<()> {
        match self.failed {
            true => Err(io::Error::other("an earlier sync of it failed; it must be begun again")),
            false => Ok(()),
        }
    }

    /// Writes a chunk wherever it is lacking; whether it was anywhere. `bytes` have this hash.
    fn put(&mut self, hash: Hash, bytes: &[u8]) -> io::Result<bool> {
        self.check_not_failed()?;
        let mut lacking = false;
        for number in self.wanted.of(hash) {
            let number = *number as usize;
            let entry = self.wanted.index.entries().get(number);
            let (Some(entry), Some(offset)) = (entry, self.wanted.offsets.get(number)) else { continue };
            let Some(has) = self.has.get_mut(number).filter(|has| !**has) else { continue };
            if entry.length as usize != bytes.len() {
                continue; // the index lies
            }
            self.disk.write_at(&self.data, *offset, bytes)?;
            self.uncommitted += bytes.len() as u64;
            *has = true;
            lacking = true;
        }
        Ok(lacking)
    }

    /// Looks which chunks are there, on the disk: also what a process wrote that did not live to commit it.
    pub(super) fn look(&mut self) -> io::Result<()> {
        self.sync()?;
        self.disk.forget(&self.data)?;
        let mut buffer = Vec::new();
        let placed = self.wanted.offsets.iter().zip(self.wanted.index.entries());
        for ((offset, entry), has) in placed.zip(&mut self.has) {
            buffer.resize(entry.length as usize, 0);
            self.disk.read_at(&self.data, *offset, &mut buffer)?;
            *has = Hash::of(&buffer) == entry.hash;
        }
        Ok(())
    }

    /// Copies the lacking chunks that a file has, of which `index` is; whatever that file really holds.
    pub(super) fn copy_from(&mut self, path: &Path, index: &Index) -> io::Result<()> {
        // A version that cannot be read lends nothing.
        let Ok(file) = self.disk.open(path) else { return Ok(()) };
        let mut buffer = Vec::new();
        for (offset, entry) in index.placed() {
            let lacks = |number: &u32| self.has.get(*number as usize).is_some_and(|has| !has);
            if !self.wanted.of(entry.hash).iter().any(lacks) {
                continue;
            }
            buffer.resize(entry.length as usize, 0);
            if self.disk.read_at(&file, offset, &mut buffer).is_ok() && Hash::of(&buffer) == entry.hash {
                self.put(entry.hash, &buffer)?;
            }
        }
        Ok(())
    }

    /// Makes everything durable and reads it again from the disk: whether each chunk, and the whole, is what it must be.
    pub(super) fn prove(&mut self) -> io::Result<Proof> {
        self.sync()?;
        self.disk.forget(&self.data)?;
        let (mut whole, mut buffer, mut damaged) = (Hasher::default(), Vec::new(), false);
        for (offset, entry) in self.wanted.offsets.iter().zip(self.wanted.index.entries()) {
            buffer.resize(entry.length as usize, 0);
            self.disk.read_at(&self.data, *offset, &mut buffer)?;
            whole.update(&buffer);
            damaged |= Hash::of(&buffer) != entry.hash;
        }
        Ok(match damaged {
            true => Proof::Damaged,
            false if whole.hash() == self.manifest.blake3 => Proof::Whole,
            false => Proof::OtherModel,
        })
    }
}

/// What reading everything again gave.
pub(super) enum Proof {
    /// It is the manifest's model.
    Whole,
    /// Some chunks are not what they were.
    Damaged,
    /// Each chunk is what the index says, and the whole is not what the manifest says.
    OtherModel,
}
