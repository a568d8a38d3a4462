//! Files that may be replaced while the process runs: looked at every two seconds, and at SIGHUP.
//!
//! Looking (one `stat` per file) works on every file system and through the renames and symbolic links that
//! configuration managers use; inotify does not.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often files are looked at.
pub const EVERY: Duration = Duration::from_secs(2);

/// What tells one content of a file from another: device, inode, length and time of the last change of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: meta.dev(),
        inode: meta.ino(),
        length: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
    })
}

/// Some files, and how they were when they were last looked at.
#[derive(Debug)]
pub struct Watched {
    files: Vec<(PathBuf, Option<Stamp>)>,
}

impl Watched {
    /// Remembers how the files are now. Call it before reading them, so that no change is missed.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { files: paths.into_iter().map(|path| (path.clone(), stamp(&path))).collect() }
    }

    /// Whether any of them is another since the last look. A missing file is one of its states.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        for (path, seen) in &mut self.files {
            let now = stamp(path);
            changed |= now != *seen;
            *seen = now;
        }
        changed
    }
}

/// When to look.
#[derive(Debug)]
pub struct Looks {
    every: Interval,
    hang_up: Signal,
}

/// Why it is time to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The time has come: read what has changed.
    Regular,
    /// SIGHUP: read everything again.
    Asked,
}

impl Looks {
    /// Starts; the first regular look is due one interval from now. From then on SIGHUP no longer ends the process.
    pub fn new() -> io::Result<Self> {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        every.reset();
        Ok(Self { every, hang_up: signal(SignalKind::hangup())? })
    }

    /// Waits for the next look. Cancelling it loses none.
    pub async fn next(&mut self) -> Look {
        tokio::select! {
            Some(()) = self.hang_up.recv() => Look::Asked,
            _ = self.every.tick() => Look::Regular,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "1").unwrap();
        let mut watched = Watched::new([a.clone(), b.clone()]);
        assert!(!watched.changed());
        std::fs::write(&b, "new").unwrap();
        assert!(watched.changed() && !watched.changed());
        // As configuration managers do it: same length, same time, another file.
        let other = dir.path().join("c");
        std::fs::write(&other, "2").unwrap();
        let time = std::fs::metadata(&a).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        std::fs::rename(&other, &a).unwrap();
        assert!(watched.changed() && !watched.changed());
        std::fs::remove_file(&b).unwrap();
        assert!(watched.changed() && !watched.changed());
    }
}
