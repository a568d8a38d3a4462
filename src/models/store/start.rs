//! The start: what a crash left is cleared away, and what is in use is there.

use std::collections::BTreeSet;
use std::path::Path;

use super::active::Active;
use super::busy::Busy;
use super::disk::{Disk, Files};
use super::error::At as _;
use super::shelf::Shelf;
use super::{Proofs, Store, StoreError};
use crate::models::manifest::Name;
use crate::sys::files::{self, DirLock};

/// The directory in the data directory.
pub const DIR: &str = "models";

/// Something that somebody should hear of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the messages say
pub enum Found {
    /// The version in use is not what it was.
    #[error(
        "version {version} of {name} was in use and is damaged; now it is {}; look after the disk", version_or_none(*now)
    )]
    Damaged { name: Name, version: u64, now: Option<u64> },
    /// The record of what is in use is damaged.
    #[error(
        "the record of which version of {name} is in use is damaged; going on with {}; look after the disk",
        version_or_none(*now)
    )]
    RecordDamaged { name: Name, now: Option<u64> },
}

fn version_or_none(version: Option<u64>) -> String {
    version.map_or_else(|| "none".to_owned(), |version| format!("version {version}"))
}

impl Store<Files> {
    /// Takes the models below `data_dir`, of which there may be `bytes_max` bytes.
    pub fn open(data_dir: &Path, bytes_max: u64) -> Result<(Self, Vec<Found>), StoreError> {
        let dir = data_dir.join(DIR);
        files::create_dir_durable(&dir).at(&dir)?;
        let lock = DirLock::claim(&dir).at(&dir)?.ok_or_else(|| StoreError::InUse(dir.clone()))?;
        Self::start(Files, &dir, bytes_max, Some(lock))
    }
}

impl<D: Disk> Store<D> {
    /// Takes the models in `dir`, whose lock the caller holds.
    pub fn start(disk: D, dir: &Path, bytes_max: u64, lock: Option<DirLock>) -> Result<(Self, Vec<Found>), StoreError> {
        let (proven, damaged, busy) = (Proofs::default(), BTreeSet::new(), Busy::default());
        let store = Self { disk, dir: dir.to_owned(), bytes_max, proven, damaged, busy, _lock: lock };
        let mut found = Vec::new();
        for name in store.names()? {
            let shelf = store.shelf(&name)?;
            shelf.tidy(&store.disk).at(&shelf.dir)?;
            let (active, told) = look(&name, &shelf);
            shelf.set_active(&store.disk, active).at(&shelf.dir)?;
            found.extend(told);
        }
        Ok((store, found))
    }
}

/// What is to be in use, and what somebody should hear of.
fn look(name: &Name, shelf: &Shelf) -> (Active, Vec<Found>) {
    let said = shelf.active();
    let active = said.restricted(|version| shelf.versions.get(&version).is_some_and(|held| held.sized));
    let (name, now) = (name.clone(), active.current);
    let mut found = Vec::new();
    if shelf.record.is_none() {
        found.push(Found::RecordDamaged { name: name.clone(), now });
    }
    if let Some(version) = said.current.filter(|_| said.current != now) {
        found.push(Found::Damaged { name, version, now });
    }
    (active, found)
}
