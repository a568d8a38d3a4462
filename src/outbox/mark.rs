//! How far a lane has come: a few numbers that are written after every commit without waiting for the disk,
//! and synced now and then.
//!
//! What the kernel has survives the death of this process, so after kill -9 the mark says exactly what was
//! acknowledged, and a store that holds less is damaged. After a power cut it may lag behind: then it is a
//! lower bound, which is told by the boot id. Overwriting in place needs no space, so that a confirmation can
//! be written (and space be freed) on a full disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::Seq;

const FILE: &str = "mark";
/// Each slot in a page of its own, and only one of them written between two syncs: a power cut can tear one.
const SLOT_BYTES: usize = 4096;
const SLOT_LEN: usize = 4 + 8 + 8 + 8 + 1 + 36;

/// The numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Last sequence that was acknowledged.
    pub last: Seq,
    /// Everything up to here is confirmed.
    pub confirmed: Seq,
    /// The outbox was closed after this: nothing was written since.
    pub clean: bool,
}

/// A mark that was read, and what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The numbers.
    pub mark: Mark,
    /// They are exactly what was acknowledged, not only a lower bound.
    pub exact: bool,
}

/// The file.
#[derive(Debug)]
pub struct MarkFile {
    file: Arc<File>,
    slot: u8,
    generation: u64,
    boot: [u8; 36],
}

impl MarkFile {
    /// Opens or makes the mark of the lane in `dir`. Its name is not durable before the directory is synced.
    pub fn open(dir: &Path) -> io::Result<(Self, Option<Read>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join(FILE))?;
        let boot = boot_id();
        let (slots, newest) = read_slots(&file)?;
        let slot = newest.map_or(0, |n| 1 - n);
        let read = newest.and_then(|n| slots[usize::from(n)].as_ref());
        if file.metadata()?.len() < 2 * SLOT_BYTES as u64 {
            file.write_all_at(&[0; SLOT_BYTES], SLOT_BYTES as u64)?; // takes its space now, while there is some
        }
        let generation = read.map_or(0, |r| r.generation);
        Ok((Self { file: Arc::new(file), slot, generation, boot }, read.map(|r| r.judge(&boot))))
    }

    /// Reads the mark of the lane in `dir` and changes nothing.
    pub fn peek(dir: &Path) -> io::Result<Option<Read>> {
        let file = match File::open(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let (slots, newest) = read_slots(&file)?;
        Ok(newest.and_then(|n| slots[usize::from(n)].as_ref()).map(|r| r.judge(&boot_id())))
    }

    /// Hands `mark` to the kernel.
    pub fn write(&mut self, mark: &Mark) -> io::Result<()> {
        self.generation += 1;
        let mut bytes = Vec::with_capacity(SLOT_LEN);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&mark.last.to_le_bytes());
        bytes.extend_from_slice(&mark.confirmed.to_le_bytes());
        bytes.push(u8::from(mark.clean));
        bytes.extend_from_slice(&self.boot);
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&bytes, u64::from(self.slot) * SLOT_BYTES as u64)
    }

    /// The file to sync so that everything written up to now is on disk; what is written from now on goes to
    /// the other slot. Syncing needs no lock on the mark.
    pub fn turn_over(&mut self) -> Arc<File> {
        self.slot = 1 - self.slot;
        self.file.clone()
    }
}

struct Slot {
    generation: u64,
    mark: Mark,
    boot: [u8; 36],
}

impl Slot {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let crc = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        if crc32fast::hash(bytes.get(4..SLOT_LEN)?) != crc {
            return None;
        }
        let mark = Mark { last: number(12)?, confirmed: number(20)?, clean: *bytes.get(28)? == 1 };
        Some(Self { generation: number(4)?, mark, boot: bytes.get(29..SLOT_LEN)?.try_into().ok()? })
    }

    fn judge(&self, boot: &[u8; 36]) -> Read {
        let same_boot = self.boot == *boot && *boot != [0; 36];
        Read { mark: self.mark, exact: self.mark.clean || same_boot }
    }
}

/// Both slots, and which of them is the newest.
fn read_slots(file: &File) -> io::Result<([Option<Slot>; 2], Option<u8>)> {
    let mut slots = [None, None];
    for (slot, place) in slots.iter_mut().zip([0, SLOT_BYTES as u64]) {
        let mut bytes = [0; SLOT_LEN];
        match file.read_exact_at(&mut bytes, place) {
            Ok(()) => *slot = Slot::parse(&bytes),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(e) => return Err(e),
        }
    }
    let generation = |slot: &Option<Slot>| slot.as_ref().map(|s| s.generation);
    let newest = match (generation(&slots[0]), generation(&slots[1])) {
        (None, None) => None,
        (a, b) => Some(u8::from(b > a)),
    };
    Ok((slots, newest))
}

/// Names the running kernel's life; zeros where the system does not say, which counts as "another one".
fn boot_id() -> [u8; 36] {
    let text = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.get(..36).and_then(|t| t.try_into().ok()).unwrap_or([0; 36])
}

/// Makes the mark of the lane in `dir` what a power cut may leave: an older one, of another boot.
#[cfg(test)]
pub(super) fn as_after_a_power_cut(dir: &Path, last: Seq, confirmed: Seq) {
    std::fs::remove_file(dir.join(FILE)).unwrap();
    let (mut file, _) = MarkFile::open(dir).unwrap();
    file.boot = [b'x'; 36];
    file.write(&Mark { last, confirmed, clean: false }).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_mark_is_read_and_a_torn_one_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, read) = MarkFile::open(dir.path()).unwrap();
        assert_eq!(read, None);
        let mark = |last| Mark { last, confirmed: last / 2, clean: false };
        file.write(&mark(10)).unwrap();
        file.turn_over().sync_data().unwrap();
        file.write(&mark(20)).unwrap();
        file.write(&mark(21)).unwrap();
        drop(file);
        let (mut file, read) = MarkFile::open(dir.path()).unwrap();
        assert_eq!(read, Some(Read { mark: mark(21), exact: true }));
        file.write(&mark(30)).unwrap();
        assert_eq!(MarkFile::peek(dir.path()).unwrap().unwrap().mark, mark(30));
        // The slot written last is torn.
        file.file.write_all_at(&[0xff; 20], u64::from(file.slot) * SLOT_BYTES as u64).unwrap();
        assert_eq!(MarkFile::peek(dir.path()).unwrap().unwrap().mark, mark(21));
    }

    #[test]
    fn after_another_boot_a_mark_is_only_a_lower_bound_unless_the_close_was_clean() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = MarkFile::open(dir.path()).unwrap();
        file.boot = [b'x'; 36];
        file.write(&Mark { last: 1, confirmed: 0, clean: false }).unwrap();
        assert!(!MarkFile::peek(dir.path()).unwrap().unwrap().exact);
        file.write(&Mark { last: 1, confirmed: 0, clean: true }).unwrap();
        assert!(MarkFile::peek(dir.path()).unwrap().unwrap().exact);
    }
}
