//! The small files beside the stores: who this outbox is, how far sequences are reserved, what a sealed store
//! holds, and what was lost. Each is checked by a checksum when read; see [`super::mark`] for the one that changes often.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cursor::Gap;
use super::{OpenError, Seq};
use crate::sys::{files, random};

const IDENTITY: [&str; 2] = ["identity", "identity.copy"];
const RESERVE: &str = "reserve";
const SEAL: &str = "seal";
const LEDGER: &str = "ledger";

/// Lines of a ledger that are read back. What is older than these has long been passed by the cursor.
const LEDGER_LINES_MAX: usize = 10_000;

/// Who this outbox is. Lost with the disk, on purpose: a new disk must not inherit old sequences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Random name of this outbox's life.
    pub incarnation: String,
    /// Random number that marks its blocks; it never leaves the disk.
    tag: String,
}

impl Identity {
    /// Reads the identity of the outbox in `dir`; `None`: there is none yet.
    pub fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        let mut there = false;
        for name in IDENTITY {
            match fs::read(dir.join(name)) {
                Ok(bytes) => {
                    there = true;
                    if let Some(identity) = unframe(&bytes) {
                        return Ok(Some(identity));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(OpenError(format!("cannot read {}: {e}", dir.join(name).display()))),
            }
        }
        if !there && !has_stores(dir) {
            return Ok(None);
        }
        Err(OpenError(format!(
            "{}: the files {IDENTITY:?}, which name this outbox, are damaged or missing, so its events cannot be read; \
             restore one of them from a backup, or move the directory away to start with an empty outbox",
            dir.display()
        )))
    }

    /// Reads the identity, or makes one. Both copies are there afterwards.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let identity = Self::read(dir)?.unwrap_or_else(|| Self { incarnation: random::hex16(), tag: random::hex16() });
        for name in IDENTITY {
            let path = dir.join(name);
            if fs::read(&path).ok().and_then(|b| unframe::<Self>(&b)).as_ref() != Some(&identity) {
                files::replace(&path, &frame(&identity))
                    .map_err(|e| OpenError(format!("cannot write {}: {e}", path.display())))?;
            }
        }
        Ok(identity)
    }

    /// The tag of a lane's blocks.
    pub fn tag(&self, lane: &str) -> u64 {
        let own = u64::from_str_radix(&self.tag, 16).unwrap_or_default();
        // FNV-1a, so that a lane's directory that is put in another's place is noticed.
        lane.bytes().fold(own ^ 0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }
}

fn has_stores(dir: &Path) -> bool {
    let lanes = fs::read_dir(dir).into_iter().flatten().flatten();
    lanes
        .filter_map(|lane| fs::read_dir(lane.path()).ok())
        .flatten()
        .flatten()
        .any(|store| super::segment::parse_dir_name(&store.file_name().to_string_lossy()).is_some())
}

/// Sequences up to here may be in use: written and synced before the first of them is.
pub fn read_reserve(lane_dir: &Path) -> Option<Seq> {
    unframe(&fs::read(lane_dir.join(RESERVE)).ok()?)
}

/// See [`read_reserve`].
pub fn write_reserve(lane_dir: &Path, through: Seq) -> io::Result<()> {
    files::replace(&lane_dir.join(RESERVE), &frame(&through))
}

/// What a store holds, written when nothing more will come; saves reading it again. Not synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Its last sequence.
    pub last: Seq,
    /// Bytes of its events.
    pub payload: u64,
    /// When its first event was accepted, ms since 1970.
    pub oldest_ms: i64,
    /// When its last event was accepted.
    pub newest_ms: i64,
    /// It has events whose sender named them: they are needed to answer repetitions.
    pub named: bool,
}

impl Seal {
    /// Reads the seal of the store at `dir`.
    pub fn read(dir: &Path) -> Option<Self> {
        unframe(&fs::read(dir.join(SEAL)).ok()?)
    }

    /// Bytes of its events after `confirmed`, in proportion to their number; `first` is the store's name.
    pub fn payload_after(&self, first: Seq, confirmed: Seq) -> u64 {
        let events = (self.last + 1).saturating_sub(first).max(1);
        let waiting = self.last.saturating_sub(confirmed).min(events);
        let share = u128::from(self.payload) * u128::from(waiting) / u128::from(events);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Seals the store at `dir`.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(SEAL), frame(self))
    }
}

/// Sequences that are gone, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The first of them.
    pub first: Seq,
    /// The last of them.
    pub last: Seq,
    /// What happened, in words.
    pub reason: String,
    /// When it was found, ms since 1970.
    pub at_ms: i64,
}

impl Loss {
    /// The sequences.
    pub fn gap(&self) -> Gap {
        (self.first, self.last)
    }
}

/// All losses of a lane, oldest first. A line that cannot be read is passed over.
pub fn read_ledger(lane_dir: &Path) -> Vec<Loss> {
    let text = fs::read(lane_dir.join(LEDGER)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut losses: Vec<Loss> =
        text.lines().rev().take(LEDGER_LINES_MAX).filter_map(|line| serde_json::from_str(line).ok()).collect();
    losses.reverse();
    losses
}

/// Adds a loss to the ledger, on disk when this returns.
pub fn add_loss(lane_dir: &Path, loss: &Loss) -> io::Result<()> {
    let mut line = serde_json::to_vec(loss).map_err(io::Error::other)?;
    line.push(b'\n');
    let path = lane_dir.join(LEDGER);
    let is_new = !path.exists();
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(&line)?;
    file.sync_data()?;
    if is_new { files::sync_dir(lane_dir) } else { Ok(()) }
}

/// JSON, and its checksum on a second line.
fn frame<T: Serialize>(content: &T) -> Vec<u8> {
    // These types have nothing that JSON cannot say.
    let json = serde_json::to_string(content).unwrap_or_default();
    format!("{json}\n{:08x}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

fn unframe<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (json, crc) = text.strip_suffix('\n')?.split_once('\n')?;
    (u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(json.as_bytes())).then(|| serde_json::from_str(json).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_damaged_copy_of_the_identity_is_mended_and_two_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), None);
        let made = Identity::open(dir.path()).unwrap();
        assert_eq!(made.incarnation.len(), 16);
        assert_ne!(made.tag("a"), made.tag("b"));
        fs::write(dir.path().join("identity"), "").unwrap();
        assert_eq!(Identity::open(dir.path()).unwrap(), made);
        fs::write(dir.path().join("identity.copy"), "x").unwrap();
        assert_eq!(Identity::open(dir.path()).unwrap(), made);
        for name in IDENTITY {
            fs::write(dir.path().join(name), "{}\n00000000\n").unwrap();
        }
        assert!(Identity::open(dir.path()).unwrap_err().0.contains("backup"));
    }

    #[test]
    fn small_files_are_read_back_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_reserve(dir.path()), None);
        write_reserve(dir.path(), 7).unwrap();
        assert_eq!(read_reserve(dir.path()), Some(7));
        fs::write(dir.path().join(RESERVE), "9\n00000000\n").unwrap();
        assert_eq!(read_reserve(dir.path()), None);
        let loss = |first| Loss { first, last: first + 1, reason: "because".into(), at_ms: 0 };
        add_loss(dir.path(), &loss(1)).unwrap();
        OpenOptions::new().append(true).open(dir.path().join(LEDGER)).unwrap().write_all(b"\xff{torn\n").unwrap();
        add_loss(dir.path(), &loss(5)).unwrap();
        assert_eq!(read_ledger(dir.path()), [loss(1), loss(5)]);
    }
}
