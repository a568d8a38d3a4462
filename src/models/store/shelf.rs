//! One model's directory as it is on disk, read anew for every operation: nothing else remembers it.
//!
//! ```text
//! <data_dir>/models/<name>/
//!   7/{model, index, manifest}                a version that was whole and proven when it got this name
//!   partial-8/{data, index, manifest}         one that is being assembled
//!   removing-5/…                              one that is no more
//!   active                                    which version is used, and which one before (super::active)
//!   current -> 7                              what programs follow; after the record, by rename
//!   shadow -> 8                               what runs beside it
//! ```
//! What is durable of a partial version is told by `data` alone: a chunk is there if it has its hash. So nothing can say
//! that something is there which is not, whatever the order in which a disk wrote it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::active::{ACTIVE_BYTES_MAX, Active};
use super::disk::{self, Disk, NEW};
use crate::models::index::{INDEX_BYTES_MAX, Index};
use crate::models::manifest::{ENVELOPE_BYTES_MAX, Manifest};

/// The file of a version.
pub const MODEL: &str = "model";
/// The same while it is being assembled.
pub const DATA: &str = "data";
/// The index, encoded.
pub const INDEX: &str = "index";
/// The manifest's envelope, as it came.
pub const MANIFEST: &str = "manifest";
/// The record.
pub const ACTIVE: &str = "active";
/// The symbolic link that programs follow.
pub const CURRENT: &str = "current";
/// The symbolic link to what runs beside it.
pub const SHADOW: &str = "shadow";
const PARTIAL: &str = "partial-";
const REMOVING: &str = "removing-";

/// A directory of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What its manifest says; nobody has verified it. `None`: it cannot be read.
    pub manifest: Option<Manifest>,
    /// Bytes on disk.
    pub bytes: u64,
    /// The model has as many bytes as the manifest says.
    pub sized: bool,
    /// When its manifest was written, in milliseconds since 1970.
    pub since_ms: i64,
}

/// One model's directory.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// The directory.
    pub dir: PathBuf,
    /// Versions that were whole once.
    pub versions: BTreeMap<u64, Held>,
    /// Versions that are not.
    pub partials: BTreeMap<u64, Held>,
    /// What a crash left.
    pub leftovers: Vec<String>,
    /// `None`: there is a record, and it cannot be read.
    pub record: Option<Active>,
    /// Where `current` leads.
    pub link: Option<String>,
    /// Where `shadow` leads.
    pub shadow: Option<u64>,
}

impl Shelf {
    /// What is in `dir`; nothing, if it is not there.
    pub fn read<D: Disk>(disk: &D, dir: &Path) -> io::Result<Self> {
        let mut shelf = Self {
            dir: dir.to_owned(),
            versions: BTreeMap::new(),
            partials: BTreeMap::new(),
            leftovers: Vec::new(),
            record: Some(Active::default()),
            link: None,
            shadow: None,
        };
        for name in disk::if_there(disk.names(dir))?.unwrap_or_default() {
            let path = dir.join(&name);
            if let Some(version) = version(&name) {
                shelf.versions.insert(version, held(disk, &path, MODEL)?);
            } else if let Some(version) = name.strip_prefix(PARTIAL).and_then(version) {
                shelf.partials.insert(version, held(disk, &path, DATA)?);
            } else if name == ACTIVE {
                let bytes = disk::read(disk, &path, ACTIVE_BYTES_MAX)?;
                shelf.record = bytes.and_then(|bytes| Active::decode(&bytes));
            } else if name == CURRENT {
                shelf.link = disk.read_link(&path).ok();
            } else if name == SHADOW {
                shelf.shadow = disk.read_link(&path).ok().as_deref().and_then(version);
            } else if name.starts_with(REMOVING) || name.ends_with(NEW) {
                shelf.leftovers.push(name);
            }
        }
        Ok(shelf)
    }

    /// What is to be used: what the record says; without one what `current` leads to.
    pub fn active(&self) -> Active {
        let linked = || Active { current: self.link.as_deref().and_then(version), ..Active::default() };
        self.record.unwrap_or_else(linked)
    }

    /// The directory of a version.
    pub fn version_dir(&self, version: u64) -> PathBuf {
        self.dir.join(version.to_string())
    }

    /// Its directory until it is whole.
    pub fn partial_dir(&self, version: u64) -> PathBuf {
        self.dir.join(format!("{PARTIAL}{version}"))
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.versions.values().chain(self.partials.values()).map(|held| held.bytes).sum()
    }

    /// Writes the record, then leads `current` there. What fails between the two is done by the next start. Syncs also when
    /// all is as it should be: who set it may have been killed before it was durable.
    pub fn set_active<D: Disk>(&self, disk: &D, active: Active) -> io::Result<()> {
        if self.record != Some(active) {
            disk::replace(disk, &self.dir, ACTIVE, &active.encode())?;
        }
        let target = active.current.map(|version| version.to_string());
        if target != self.link {
            self.lead(disk, CURRENT, target.as_deref())?;
        }
        disk.sync_dir(&self.dir)
    }

    /// Leads `shadow` to a version, or nowhere.
    pub fn set_shadow<D: Disk>(&self, disk: &D, version: Option<u64>) -> io::Result<()> {
        if version != self.shadow {
            self.lead(disk, SHADOW, version.map(|version| version.to_string()).as_deref())?;
        }
        disk.sync_dir(&self.dir)
    }

    fn lead<D: Disk>(&self, disk: &D, link: &str, target: Option<&str>) -> io::Result<()> {
        let (path, new) = (self.dir.join(link), self.dir.join(format!("{link}{NEW}")));
        let Some(target) = target else { return disk::if_there(disk.remove_file(&path)).map(drop) };
        disk::if_there(disk.remove_file(&new))?;
        disk.symlink(target, &new)?;
        disk.rename(&new, &path)
    }

    /// Removes a directory of a version. First its name goes: no name of a whole version ever has less.
    pub fn remove<D: Disk>(&self, disk: &D, dir: &Path) -> io::Result<()> {
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let removing = self.dir.join(format!("{REMOVING}{name}"));
        remove_all(disk, &removing)?;
        disk.rename(dir, &removing)?;
        disk.sync_dir(&self.dir)?;
        remove_all(disk, &removing)
    }

    /// Removes what a crash left.
    pub fn tidy<D: Disk>(&self, disk: &D) -> io::Result<()> {
        for name in &self.leftovers {
            let path = self.dir.join(name);
            if name.starts_with(REMOVING) {
                remove_all(disk, &path)?;
            } else {
                disk::if_there(disk.remove_file(&path))?;
            }
        }
        if self.leftovers.is_empty() { Ok(()) } else { disk.sync_dir(&self.dir) }
    }
}

/// The index in a version's directory, if it can be read: without one the version only cannot lend its chunks.
pub fn index<D: Disk>(disk: &D, dir: &Path) -> Option<Index> {
    let bytes = disk::read(disk, &dir.join(INDEX), INDEX_BYTES_MAX).ok().flatten()?;
    Index::decode(&bytes).ok()
}

/// The bytes of the manifest in a version's directory.
pub fn manifest<D: Disk>(disk: &D, dir: &Path) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::new(io::ErrorKind::InvalidData, "it is larger than a manifest may be");
    disk::read(disk, &dir.join(MANIFEST), ENVELOPE_BYTES_MAX)?.ok_or_else(too_large)
}

fn version(name: &str) -> Option<u64> {
    name.parse().ok().filter(|version: &u64| *version > 0 && version.to_string() == name)
}

fn held<D: Disk>(disk: &D, dir: &Path, model: &str) -> io::Result<Held> {
    let (mut bytes, mut sized) = (0, None);
    let manifest = manifest(disk, dir).ok().and_then(|bytes| Manifest::unverified(&bytes));
    for name in disk::if_there(disk.names(dir))?.unwrap_or_default() {
        let length = disk::if_there(disk.open(&dir.join(&name)).and_then(|file| disk.length(&file)))?.unwrap_or(0);
        bytes += length;
        if name == model {
            sized = Some(length);
        }
    }
    let sized = sized.is_some() && sized == manifest.as_ref().map(|manifest| manifest.size);
    let since_ms = disk.modified_ms(&dir.join(MANIFEST)).unwrap_or(0);
    Ok(Held { manifest, bytes, sized, since_ms })
}

fn remove_all<D: Disk>(disk: &D, dir: &Path) -> io::Result<()> {
    let Some(names) = disk::if_there(disk.names(dir))? else { return Ok(()) };
    for name in names {
        disk.remove_file(&dir.join(name))?;
    }
    disk.remove_dir(dir)
}
