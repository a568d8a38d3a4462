//! A gateway's models on disk: assembled piece by piece, proven as a whole, used from one moment to the next.
//!
//! ```text
//! begin ──► Assembling ── write, commit ──► finish ──► Proven ──► activate ──► current/model
//!   │         ▲   pieces, any order           │          ▲                        │
//!   │ room,   └── after any crash: begin ─────┤ damaged  └── verify: after        └── rollback: the one before
//!   └ what other versions have is copied      └ lying index: dropped  a start
//! ```
//!
//! Promises, after any crash, kill or power cut: `current/model` is a whole version that was proven, or nothing; a chunk
//! that was committed is never fetched again; a version's directory has the whole version or another name.
//!
//! Nothing on disk is trusted. A start looks at the sizes at once ([`Store::start`]); only [`Proven`] can be activated,
//! and a version is proven by reading all of it ([`Store::verify`]) once in every life of the process: whoever runs the
//! store should do so in the background for the version in use and the one before, so that a rollback need not wait for
//! it. Everything here blocks on the disk.

pub mod active;
pub mod assemble;
pub mod budget;
pub mod busy;
pub mod disk;
pub mod error;
mod files;
mod proofs;
pub mod shelf;
mod start;
mod uses;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::assemble::Assembling;
pub use self::busy::Version;
pub use self::disk::{Disk, Files};
pub use self::error::StoreError;
pub use self::proofs::{Proofs, Unusable};
pub use self::start::{DIR, Found};

use self::assemble::Proof;
use self::budget::{Item, NoRoom, make_room};
use self::busy::Busy;
use self::error::At as _;
use self::shelf::{DATA, Held, INDEX, MANIFEST, MODEL, Shelf};
use super::hash::Hasher;
use super::index::Index;
use super::manifest::{Manifest, ManifestError, Name, Signed};
use crate::downlink::artefact::Trust;
use crate::sys::files::DirLock;

/// Bytes that are read at a time when a whole version is hashed.
const READ_BYTES: usize = 256 << 10;

/// The models of a gateway. One process holds them.
#[derive(Debug)]
pub struct Store<D: Disk = Files> {
    disk: D,
    dir: PathBuf,
    bytes_max: u64,
    /// Versions that were read and found whole since the start.
    proven: Proofs,
    /// Versions of which that failed.
    damaged: BTreeSet<Version>,
    busy: Busy,
    _lock: Option<DirLock>,
}

/// A version of which every byte was read and found to be what a trusted key has signed, in this life of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    name: Name,
    version: u64,
}

impl Proven {
    /// The model.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.version
    }
}

impl<D: Disk> Store<D> {
    /// What there is of a model.
    pub fn shelf(&self, name: &Name) -> Result<Shelf, StoreError> {
        let dir = self.dir.join(name.as_str());
        Shelf::read(&self.disk, &dir).at(&dir)
    }

    /// Which versions are proven, from now on as well.
    pub fn proofs(&self) -> Proofs {
        self.proven.clone()
    }

    /// The models of which there is a directory.
    pub fn names(&self) -> Result<Vec<Name>, StoreError> {
        let names = disk::if_there(self.disk.names(&self.dir)).at(&self.dir)?.unwrap_or_default();
        let mut found = Vec::new();
        for name in names.iter().filter_map(|name| Name::parse(name)) {
            let dir = self.dir.join(name.as_str());
            found.extend(disk::if_there(self.disk.names(&dir)).at(&dir)?.map(|_| name));
        }
        found.sort();
        Ok(found)
    }

    /// The file that programs open: it is there while a version is in use.
    pub fn current_path(&self, name: &Name) -> PathBuf {
        self.dir.join(name.as_str()).join(shelf::CURRENT).join(MODEL)
    }

    /// Begins a version, or goes on with it after whatever happened; `None`: it is here. What other versions of the model
    /// have is copied from them. `keep` are the versions that are assigned, of all models: they do not go to make room,
    /// and none of them is given up half fetched.
    pub fn begin(
        &mut self,
        signed: &Signed,
        index: &Arc<Index>,
        keep: &BTreeSet<Version>,
    ) -> Result<Option<Assembling<D>>, StoreError> {
        let manifest = signed.manifest();
        index.fits(manifest)?;
        let (name, version) = (manifest.name.clone(), manifest.version);
        let this = (name.clone(), version);
        let claim = self.busy.claim(&this).ok_or_else(|| StoreError::Busy { name: name.clone(), version })?;
        let mut shelf = self.shelf(&name)?;
        if let Some(held) = shelf.versions.get(&version) {
            if held.sized && !self.damaged.contains(&this) {
                if held.manifest.as_ref() != Some(manifest) {
                    return Err(StoreError::VersionReused { name, version });
                }
                self.renew(&shelf.version_dir(version), signed)?;
                return Ok(None);
            }
            shelf = self.take_back(&shelf, &this)?;
        }
        let index_bytes = index.encode();
        let manifest_bytes = signed.envelope().encode().into_bytes();
        let dir = shelf.partial_dir(version);
        let goes_on = self.is_of(&dir, &manifest_bytes, &index_bytes);
        if !goes_on && shelf.partials.contains_key(&version) {
            shelf.remove(&self.disk, &dir).at(&dir)?;
        }
        let needed = manifest.size + (index_bytes.len() + manifest_bytes.len()) as u64;
        self.make_room(&this, needed, keep)?;
        let data = match goes_on {
            true => self.reopen(&dir, manifest).at(&dir)?,
            false => {
                self.create(&shelf, &dir, manifest, [(MANIFEST, &manifest_bytes), (INDEX, &index_bytes)]).at(&dir)?
            }
        };
        let mut assembling = Assembling::new(self.disk.clone(), data, Arc::clone(index), manifest.clone(), claim);
        if goes_on {
            assembling.look().at(&dir)?;
        }
        self.borrow(&mut assembling, &this, keep)?;
        Ok(Some(assembling))
    }

    /// Reads everything that was assembled again, and gives it the name of a whole version. A damaged one must be begun
    /// again: what is good of it is kept. One that is another model than its manifest's is removed.
    pub fn finish(&mut self, mut assembling: Assembling<D>) -> Result<Proven, StoreError> {
        let (name, version) = (assembling.manifest().name.clone(), assembling.manifest().version);
        let shelf = self.shelf(&name)?;
        let dir = shelf.partial_dir(version);
        if !assembling.is_full() {
            return Err(StoreError::Lacking { name, version, messages: assembling.plan().messages() });
        }
        match assembling.prove().at(&dir)? {
            Proof::Whole => {}
            Proof::Damaged => return Err(StoreError::Damaged { name, version }),
            Proof::OtherModel => {
                shelf.remove(&self.disk, &dir).at(&dir)?;
                return Err(StoreError::NotTheModel { name, version });
            }
        }
        self.disk.rename(&dir.join(DATA), &dir.join(MODEL)).at(&dir)?;
        self.disk.sync_dir(&dir).at(&dir)?;
        self.disk.rename(&dir, &shelf.version_dir(version)).at(&dir)?;
        self.disk.sync_dir(&shelf.dir).at(&shelf.dir)?;
        Ok(self.proven(assembling.manifest()))
    }

    /// Reads all of a version: whether it is what somebody who is trusted now has signed.
    pub fn verify(&mut self, name: &Name, version: u64, trust: &Trust) -> Result<Proven, StoreError> {
        let shelf = self.shelf(name)?;
        let missing = || StoreError::Missing { name: name.clone(), version };
        shelf.versions.get(&version).ok_or_else(missing)?;
        let dir = shelf.version_dir(version);
        let damaged = || StoreError::Damaged { name: name.clone(), version };
        let read = |bytes: Vec<u8>| match Signed::verify(&bytes, trust) {
            Ok(signed) if (&signed.manifest().name, signed.manifest().version) == (name, version) => Ok(signed),
            Ok(_) => Err(damaged()),
            Err(source @ (ManifestError::UnknownKey { .. } | ManifestError::RevokedKey { .. })) => {
                Err(StoreError::Manifest { name: name.clone(), version, source })
            }
            // It was good when it came here.
            Err(_) => Err(damaged()),
        };
        let signed = shelf::manifest(&self.disk, &dir).map_err(|_| damaged()).and_then(read);
        let whole = signed.and_then(|signed| match self.is_model(&dir.join(MODEL), signed.manifest()) {
            true => Ok(signed),
            false => Err(damaged()),
        });
        match whole {
            Ok(signed) => Ok(self.proven(signed.manifest())),
            Err(e) => {
                self.proven.remove(&(name.clone(), version));
                if matches!(e, StoreError::Damaged { .. }) {
                    self.damaged.insert((name.clone(), version));
                }
                Err(e)
            }
        }
    }

    /// Leads `current` to a version. When this returns it is so for good; when the power goes before, it is so or as
    /// before. A version that went to make room since it was proven is missing.
    pub fn activate(&mut self, proven: &Proven) -> Result<(), StoreError> {
        let (name, version) = (&proven.name, proven.version);
        let shelf = self.shelf(name)?;
        if !self.proven.has(&(name.clone(), version)) || !shelf.versions.get(&version).is_some_and(|h| h.sized) {
            return Err(StoreError::Missing { name: name.clone(), version });
        }
        shelf.set_active(&self.disk, shelf.active().with(version)).at(&shelf.dir)
    }

    /// Leads `current` back to the version before; which one that is. Needs no network. Reads all of it first, if nobody
    /// has since the start.
    pub fn rollback(&mut self, name: &Name, trust: &Trust) -> Result<u64, StoreError> {
        let shelf = self.shelf(name)?;
        let back = shelf.active().back().ok_or_else(|| StoreError::NothingBefore { name: name.clone() })?;
        let version = back.current.unwrap_or_default();
        if !self.proven.has(&(name.clone(), version)) {
            self.verify(name, version, trust)?;
        }
        // What would be the way back after that may have gone to make room.
        let there = |other: u64| other == version || shelf.versions.get(&other).is_some_and(|held| held.sized);
        shelf.set_active(&self.disk, back.restricted(there)).at(&shelf.dir)?;
        Ok(version)
    }

    fn proven(&mut self, manifest: &Manifest) -> Proven {
        let (name, version) = (manifest.name.clone(), manifest.version);
        self.damaged.remove(&(name.clone(), version));
        self.proven.add(manifest);
        Proven { name, version }
    }

    /// Removes what goes, so that the version fits.
    fn make_room(&mut self, this: &Version, needed: u64, keep: &BTreeSet<Version>) -> Result<(), StoreError> {
        let mut items = Vec::new();
        for name in self.names()? {
            let shelf = self.shelf(&name)?;
            let active = shelf.active();
            let item = |version: u64, held: &Held, partial: bool| {
                let id = (name.clone(), version);
                let assigned = keep.contains(&id) || self.busy.has(&id);
                let used = active.names(version) || shelf.shadow == Some(version);
                let stays = assigned || (!partial && used);
                Item { id: (id, partial), bytes: held.bytes, since_ms: held.since_ms, partial, stays }
            };
            items.extend(shelf.versions.iter().map(|(version, held)| item(*version, held, false)));
            let others = shelf.partials.iter().filter(|(version, _)| (&name, **version) != (&this.0, this.1));
            items.extend(others.map(|(version, held)| item(*version, held, true)));
        }
        let going = make_room(&items, needed, self.bytes_max).map_err(|NoRoom { staying }| StoreError::NoRoom {
            name: this.0.clone(),
            version: this.1,
            needed,
            staying,
            bytes_max: self.bytes_max,
        })?;
        for ((name, version), partial) in going {
            let shelf = self.shelf(&name)?;
            let dir = if partial { shelf.partial_dir(version) } else { shelf.version_dir(version) };
            shelf.remove(&self.disk, &dir).at(&dir)?;
            self.proven.remove(&(name, version));
        }
        Ok(())
    }

    /// Copies what the other versions of the model have, and removes those that nobody will finish.
    fn borrow(
        &mut self,
        assembling: &mut Assembling<D>,
        this: &Version,
        keep: &BTreeSet<Version>,
    ) -> Result<(), StoreError> {
        let shelf = self.shelf(&this.0)?;
        let others: Vec<u64> = shelf.partials.keys().copied().filter(|version| *version != this.1).collect();
        let versions = shelf.versions.keys().rev().map(|version| (shelf.version_dir(*version), MODEL));
        let partials = others.iter().map(|version| (shelf.partial_dir(*version), DATA));
        for (dir, file) in versions.chain(partials) {
            if assembling.is_full() {
                break;
            }
            if let Some(index) = shelf::index(&self.disk, &dir) {
                assembling.copy_from(&dir.join(file), &index).at(&dir)?;
            }
        }
        assembling.commit().at(&shelf.dir)?;
        for version in others {
            let other = (this.0.clone(), version);
            if !keep.contains(&other) && !self.busy.has(&other) {
                let dir = shelf.partial_dir(version);
                shelf.remove(&self.disk, &dir).at(&dir)?;
            }
        }
        Ok(())
    }

    /// Whether a file is the manifest's model; not, if it cannot be read.
    fn is_model(&self, path: &Path, manifest: &Manifest) -> bool {
        let Ok(file) = self.disk.open(path) else { return false };
        if self.disk.length(&file).ok() != Some(manifest.size) || self.disk.forget(&file).is_err() {
            return false;
        }
        let (mut hasher, mut buffer, mut at) = (Hasher::default(), vec![0; READ_BYTES], 0);
        while at < manifest.size {
            let length = usize::try_from(manifest.size - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            buffer.truncate(length);
            if self.disk.read_at(&file, at, &mut buffer).is_err() {
                return false;
            }
            hasher.update(&buffer);
            at += length as u64;
        }
        hasher.hash() == manifest.blake3
    }
}
