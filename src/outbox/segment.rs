//! A store: one small sled database that is filled, sealed, read and removed whole.
//!
//! Many small databases instead of one, because sled never gives space back. Within one, every nine values get
//! a tree of their own: sled appends to a page up to ten times and then rewrites all of it, and nine values of
//! 14 KB stay below the 128 KB from which on a page would go to a blob file that sled never syncs.
//! A store is only ever written by the process that made it and never opened by sled again (see [`super::scan`]).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Seq;
use super::block::Packed;
use super::scan;
use crate::sys::files;
use crate::sys::sync_barrier;

/// Values per tree; see above.
const TREE_VALUES_MAX: usize = 9;

/// Trees per store: for each one sled writes the list of all trees again.
const TREES_MAX: usize = 128;

/// Sequences per store at most. With the directory's name it bounds what a lost store can have held.
/// 65,536 events of 128 bytes fill a store by size, so it seldom decides.
pub const EVENTS_MAX: u64 = 65_536;

/// sled's page cache per database. Nothing is read back through it.
const CACHE_BYTES: u64 = 1 << 20;

/// Directory entries and the `conf` file of a store, as the file system accounts for them.
pub const OVERHEAD_BYTES: u64 = 16 * 1024;

/// A store that is open and empty, under a temporary name.
#[derive(Debug)]
pub struct Spare {
    db: sled::Db,
    dir: PathBuf,
}

/// The store that takes a lane's commits.
#[derive(Debug)]
pub struct Active {
    db: sled::Db,
    tree: Option<sled::Tree>,
    in_tree: usize,
    trees: usize,
    bytes: u64,
    first: Seq,
    file: File,
}

/// The name of the store whose first event is `first`.
pub fn dir_name(first: Seq) -> String {
    format!("{first:020}")
}

/// The inverse of [`dir_name`].
pub fn parse_dir_name(name: &str) -> Option<Seq> {
    (name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit())).then(|| name.parse().ok()).flatten()
}

impl Spare {
    /// Makes an empty store at `dir` and puts its files and their names on disk, if `durable`.
    pub fn create(dir: &Path, durable: bool) -> io::Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        let db = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None).create_new(true).open();
        let db = db.map_err(io_error)?;
        db.flush().map_err(io_error)?;
        if durable {
            // sled syncs none of these by itself.
            for file in ["conf", scan::FILE] {
                File::open(dir.join(file))?.sync_all()?;
            }
            files::sync_dir(dir)?;
        }
        Ok(Self { db, dir: dir.to_owned() })
    }

    /// Gives the store its name. sled uses the path only while it opens a database and for values so large
    /// that we never write them, so it does not mind.
    pub fn adopt(self, lane_dir: &Path, first: Seq, durable: bool) -> io::Result<Active> {
        let dir = lane_dir.join(dir_name(first));
        fs::rename(&self.dir, &dir)?;
        if durable {
            files::sync_dir(lane_dir)?;
        }
        let file = File::open(dir.join(scan::FILE))?;
        Ok(Active { db: self.db, tree: None, in_tree: 0, trees: 0, bytes: 0, first, file })
    }

    /// What it takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        disk_bytes(&self.dir)
    }

    /// Removes it.
    pub fn discard(self) {
        drop(self.db);
        remove(&self.dir);
    }
}

impl Active {
    /// Sequence of the first event, and the store's name.
    pub fn first(&self) -> Seq {
        self.first
    }

    /// `block` belongs into the next store.
    pub fn is_full_for(&self, block: &Packed, bytes_max: u64) -> bool {
        let tree_full = self.tree.is_none() || self.in_tree >= TREE_VALUES_MAX;
        // The parts of an event stay together: one store always has a whole event or nothing of it.
        let starts = block.part.0 == 0;
        let by_trees = tree_full && self.trees >= TREES_MAX;
        let by_count = block.last + 1 - self.first > EVENTS_MAX;
        starts && self.bytes > 0 && (self.bytes + block.bytes.len() as u64 > bytes_max || by_trees || by_count)
    }

    /// More than half of what it takes is used up: time to make the next one.
    pub fn is_half_full(&self, bytes_max: u64) -> bool {
        self.bytes > bytes_max / 2 || self.trees > TREES_MAX / 2
    }

    /// Hands a block to sled. It is on disk after [`Active::flush`].
    pub fn insert(&mut self, block: &Packed) -> io::Result<()> {
        if self.tree.is_none() || self.in_tree >= TREE_VALUES_MAX {
            self.tree = Some(self.db.open_tree(block.key()).map_err(io_error)?);
            self.in_tree = 0;
            self.trees += 1;
        }
        if let Some(tree) = &self.tree {
            tree.insert(block.key(), &block.bytes[..]).map_err(io_error)?;
            self.in_tree += 1;
            self.bytes += block.bytes.len() as u64;
        }
        Ok(())
    }

    /// Returns once everything inserted is on disk.
    pub fn flush(&self) -> io::Result<()> {
        self.db.flush().map(drop).map_err(io_error)
    }

    /// What it takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.file.metadata().map_or(self.bytes, |m| m.len()) + OVERHEAD_BYTES
    }
}

/// What the store at `dir` takes on disk.
pub fn disk_bytes(dir: &Path) -> u64 {
    fs::metadata(dir.join(scan::FILE)).map_or(0, |m| m.len()) + OVERHEAD_BYTES
}

/// Prefix of a directory that is being removed; what a crash leaves of it goes at the next start.
pub const GONE: &str = "gone-";

/// Removes a directory in one step as far as its name is concerned. `false`: it is still there.
pub fn remove(dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let gone = dir.with_file_name(format!("{GONE}{name}"));
    if gone.exists() {
        let _ = fs::remove_dir_all(&gone);
    }
    match fs::rename(dir, &gone) {
        Ok(()) => {
            if let Err(e) = fs::remove_dir_all(&gone) {
                tracing::warn!(dir = %gone.display(), error = %e, "could not remove a drained store; it goes at the next start");
            }
            true
        }
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

/// Proves through a real flush that sled's sync reaches our barrier.
pub fn prove_barrier(dir: &Path) -> io::Result<()> {
    let place = dir.join("self-test");
    let before = sync_barrier::counts();
    let flushed = Spare::create(&place, false).and_then(|spare| {
        spare.db.insert("barrier", "reached").map_err(io_error)?;
        spare.db.flush().map_err(io_error)?;
        Ok(spare)
    });
    let after = sync_barrier::counts();
    match flushed {
        Ok(spare) => spare.discard(),
        Err(e) => {
            let _ = fs::remove_dir_all(&place);
            let message = format!("cannot write and sync in {}: {e}; events could not be kept there", place.display());
            return Err(io::Error::new(e.kind(), message));
        }
    }
    if after.calls == before.calls {
        return Err(io::Error::other(
            "sled's flush does not reach this program's sync barrier, so events would not survive a power cut; \
             this is a defect of the build (the symbol sync_file_range is not ours). Use another build, or accept \
             the risk with outbox.durability = \"os\"",
        ));
    }
    Ok(())
}

/// sled's error as the system's, so that its kind (disk full, …) is kept.
fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(e) => e,
        other => io::Error::other(other.to_string()),
    }
}
