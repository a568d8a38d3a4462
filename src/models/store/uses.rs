//! What a version is used for besides being the one in use: beside it, or no longer.

use std::path::PathBuf;

use super::active::Active;
use super::disk::Disk;
use super::error::At as _;
use super::shelf::{self, MODEL};
use super::{Proven, Store, StoreError};
use crate::models::manifest::Name;
use crate::models::pack::Head;

impl<D: Disk> Store<D> {
    /// Manifest and index of a version that is here, or on its way; nobody has verified them. `None`: they are not here,
    /// or cannot be read.
    pub fn head(&self, name: &Name, version: u64) -> Option<Head> {
        let shelf = self.shelf(name).ok()?;
        let dir = match shelf.versions.contains_key(&version) {
            true => shelf.version_dir(version),
            false => shelf.partial_dir(version),
        };
        let manifest = shelf::manifest(&self.disk, &dir).ok()?;
        Some(Head { manifest, index: shelf::index(&self.disk, &dir)? })
    }

    /// A version that was proven in this life of the process.
    pub fn known(&self, name: &Name, version: u64) -> Option<Proven> {
        let name = name.clone();
        let this = (name, version);
        self.proven.has(&this).then_some(Proven { name: this.0, version })
    }

    /// The file of a version that is here.
    pub fn version_path(&self, name: &Name, version: u64) -> PathBuf {
        self.dir.join(name.as_str()).join(version.to_string()).join(MODEL)
    }

    /// No version is in use any more, and there is no way back.
    pub fn deactivate(&mut self, name: &Name) -> Result<(), StoreError> {
        let shelf = self.shelf(name)?;
        if shelf.versions.is_empty() && shelf.link.is_none() && shelf.active() == Active::default() {
            return Ok(()); // there never was one, nor a directory
        }
        shelf.set_active(&self.disk, Active::default()).at(&shelf.dir)
    }

    /// Leads `shadow` to a version, or nowhere.
    pub fn set_shadow(&mut self, name: &Name, to: Option<&Proven>) -> Result<(), StoreError> {
        let shelf = self.shelf(name)?;
        if let Some(proven) = to {
            let (version, this) = (proven.version, (name.clone(), proven.version));
            if !self.proven.has(&this) || proven.name != *name || !shelf.versions.contains_key(&version) {
                return Err(StoreError::Missing { name: name.clone(), version });
            }
        } else if shelf.shadow.is_none() {
            return Ok(());
        }
        shelf.set_shadow(&self.disk, to.map(Proven::version)).at(&shelf.dir)
    }
}
