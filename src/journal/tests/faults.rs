//! Disks that refuse when a test says so, and that remember what was synced.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

/// What the journal asks of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A write.
    Write,
    /// A sync.
    Sync,
}

#[derive(Default)]
struct Disk {
    /// Calls that still succeed, and how many are refused then.
    refuse: HashMap<PathBuf, (u32, u32)>,
    synced: HashMap<PathBuf, u32>,
}

static DISK: LazyLock<Mutex<Disk>> = LazyLock::new(Mutex::default);

/// In `dir`, after `good` more calls, `bad` calls are refused.
pub fn refuse(dir: &Path, good: u32, bad: u32) {
    DISK.lock().unwrap().refuse.insert(dir.to_owned(), (good, bad));
}

/// Calls that are still to be refused.
pub fn refusals_left(dir: &Path) -> u32 {
    DISK.lock().unwrap().refuse.get(dir).map_or(0, |r| r.1)
}

/// Bytes of a segment that a sync has covered.
pub fn synced_len(path: &Path) -> u32 {
    DISK.lock().unwrap().synced.get(path).copied().unwrap_or(0)
}

pub fn check(path: &Path, call: Call) -> io::Result<()> {
    let mut disk = DISK.lock().unwrap();
    let Some((good, bad)) = disk.refuse.get_mut(path.parent().unwrap()) else { return Ok(()) };
    if *good > 0 {
        *good -= 1;
    } else if *bad > 0 {
        *bad -= 1;
        return Err(io::Error::other(format!("the test refuses this {call:?}")));
    }
    Ok(())
}

pub fn synced(path: &Path, len: u32) {
    DISK.lock().unwrap().synced.insert(path.to_owned(), len);
}
