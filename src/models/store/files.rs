//! The files of a version that is not whole: made, found again, taken back from a damaged one.

use std::io;
use std::path::Path;

use super::disk::{self, Disk};
use super::error::At as _;
use super::shelf::{self, DATA, INDEX, MANIFEST, MODEL, Shelf};
use super::{Store, StoreError, Version};
use crate::models::index::INDEX_BYTES_MAX;
use crate::models::manifest::{Manifest, Signed};

impl<D: Disk> Store<D> {
    /// Whether the directory is of this very version: then what is good of its data is good.
    pub(super) fn is_of(&self, dir: &Path, manifest: &[u8], index: &[u8]) -> bool {
        let found = shelf::manifest(&self.disk, dir).ok();
        let same_index = || disk::read(&self.disk, &dir.join(INDEX), INDEX_BYTES_MAX).ok().flatten();
        found.as_deref() == Some(manifest) && same_index().as_deref() == Some(index)
    }

    /// Keeps the newest signature of a version that is here: the key of the one before may be revoked.
    pub(super) fn renew(&self, dir: &Path, signed: &Signed) -> Result<(), StoreError> {
        let bytes = signed.envelope().encode().into_bytes();
        if shelf::manifest(&self.disk, dir).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        disk::replace(&self.disk, dir, MANIFEST, &bytes).at(dir)
    }

    /// Makes the directory with all its files, durably; the data are as long as they will be.
    pub(super) fn create(
        &self,
        shelf: &Shelf,
        dir: &Path,
        manifest: &Manifest,
        files: [(&str, &[u8]); 2],
    ) -> io::Result<D::File> {
        self.disk.create_dir(&self.dir)?;
        self.disk.create_dir(&shelf.dir)?;
        self.disk.sync_dir(&self.dir)?;
        self.disk.create_dir(dir)?;
        let data = self.disk.create(&dir.join(DATA))?;
        self.disk.allocate(&data, manifest.size)?;
        self.disk.sync(&data)?;
        for (name, bytes) in files {
            disk::replace(&self.disk, dir, name, bytes)?;
        }
        self.disk.sync_dir(&shelf.dir)?;
        Ok(data)
    }

    /// The data of a directory that a crash may have left anywhere between its making and its whole name.
    pub(super) fn reopen(&self, dir: &Path, manifest: &Manifest) -> io::Result<D::File> {
        let data = match disk::if_there(self.disk.open_to_write(&dir.join(DATA)))? {
            Some(data) => data,
            None => match disk::if_there(self.disk.rename(&dir.join(MODEL), &dir.join(DATA)))? {
                Some(()) => {
                    self.disk.sync_dir(dir)?;
                    self.disk.open_to_write(&dir.join(DATA))?
                }
                None => self.disk.create(&dir.join(DATA))?,
            },
        };
        if self.disk.length(&data)? != manifest.size {
            self.disk.allocate(&data, manifest.size)?;
        }
        self.disk.sync_dir(dir)?;
        Ok(data)
    }

    /// Makes a damaged version one that is to be assembled, so that what is good of it need not be fetched. It is no
    /// longer in use then: the one before is, or none.
    pub(super) fn take_back(&mut self, shelf: &Shelf, this: &Version) -> Result<Shelf, StoreError> {
        let version = this.1;
        let (dir, partial) = (shelf.version_dir(version), shelf.partial_dir(version));
        let usable = |other: u64| other != version && shelf.versions.get(&other).is_some_and(|held| held.sized);
        shelf.set_active(&self.disk, shelf.active().restricted(usable)).at(&shelf.dir)?;
        if shelf.partials.contains_key(&version) {
            shelf.remove(&self.disk, &partial).at(&partial)?;
        }
        self.disk.rename(&dir, &partial).at(&dir)?;
        self.disk.sync_dir(&shelf.dir).at(&shelf.dir)?;
        self.damaged.remove(this);
        self.proven.remove(this);
        self.shelf(&this.0)
    }
}
