//! The two slots and the record on disk: whole, or as they were before, whenever the power ends.
//!
//! ```text
//! <dir>/trial     the record (super::record)
//! <dir>/slot-a    "tidegate-slot 1 number=12 length=34 crc=0badcafe digest=<64 hex digits>\n" and the document
//!                 (the CRC is of number, digest and document); " epoch=2" behind "1" and in the CRC, unless it is 0
//! <dir>/slot-b    likewise
//! ```
//! A file is replaced by [`files::replace`]: what a cut leaves beside it (`*.new`) is never read, and overwritten by the
//! next write.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Number;
use super::record::{Digest, RECORD_BYTES_MAX, Record, RecordError, Slot};
use super::start::{Found, Stored};
use crate::sys::files;

/// Largest document: what an inbox message can carry.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Longest first line of a slot.
const HEADER_BYTES_MAX: usize = 192;

/// Why a slot does not give its document.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The system refuses.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The slot's file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{} is damaged; assign a configuration anew, and look after the disk", _0.display())]
    Damaged(PathBuf),
    /// It is another one.
    #[error("{} holds another document than the record says", _0.display())]
    Other(PathBuf),
}

/// The directory of the slots. Its files have one owner: the process that holds the data directory's lock.
#[derive(Clone, Debug)]
pub struct Slots {
    dir: PathBuf,
}

impl Slots {
    /// Uses `dir`, and makes it if it is not there.
    pub fn open(dir: &Path) -> io::Result<Self> {
        files::create_dir_durable(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// What is there. Damage is part of the answer; an error is a disk that does not answer, and nothing may be decided then.
    pub fn find(&self) -> io::Result<Found> {
        let record = match read_at_most(&self.record_path(), RECORD_BYTES_MAX) {
            Ok(Some(bytes)) => Record::decode(&bytes).map(Some),
            Ok(None) => Err(RecordError::Damaged),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Err(RecordError::Damaged),
            Err(e) => return Err(e),
        };
        // A sector that cannot be read is damage of its slot; the other one may be well.
        let stored = |slot| self.load(slot).ok().map(|(stored, _)| stored);
        Ok(Found { record, slots: [stored(Slot::A), stored(Slot::B)] })
    }

    /// Puts a document into a slot, durably; a record first if there is none, so that a filled slot without one is a loss.
    pub fn write(&self, slot: Slot, number: Number, digest: Digest, document: &[u8]) -> io::Result<()> {
        if document.len() > DOCUMENT_BYTES_MAX {
            let message = format!("the document has {} bytes, at most {DOCUMENT_BYTES_MAX} fit", document.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if !self.record_path().try_exists()? {
            self.persist(&Record::default())?;
        }
        let mut bytes = header(number, &digest, document).into_bytes();
        bytes.extend_from_slice(document);
        files::replace(&self.slot_path(slot), &bytes)
    }

    /// The document that a slot holds, which must be `digest`'s.
    pub fn read(&self, slot: Slot, digest: &Digest) -> Result<Vec<u8>, SlotError> {
        let (stored, document) = self.load(slot)?;
        if stored.digest == *digest { Ok(document) } else { Err(SlotError::Other(self.slot_path(slot))) }
    }

    /// Replaces the record, durably.
    pub fn persist(&self, record: &Record) -> io::Result<()> {
        files::replace(&self.record_path(), &record.encode())
    }

    fn load(&self, slot: Slot) -> Result<(Stored, Vec<u8>), SlotError> {
        let path = self.slot_path(slot);
        let bytes = match read_at_most(&path, HEADER_BYTES_MAX + DOCUMENT_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(SlotError::Damaged(path)),
            Err(source) => return Err(SlotError::Io { path, source }),
        };
        parse(bytes).ok_or(SlotError::Damaged(path))
    }

    fn record_path(&self) -> PathBuf {
        self.dir.join("trial")
    }

    fn slot_path(&self, slot: Slot) -> PathBuf {
        self.dir.join(match slot {
            Slot::A => "slot-a",
            Slot::B => "slot-b",
        })
    }
}

/// The file's bytes; `None`: there are more.
fn read_at_most(path: &Path, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= most).then_some(bytes))
}

/// The first line, as there is exactly one for a document.
fn header(number: Number, digest: &Digest, document: &[u8]) -> String {
    let mut crc = crc32fast::Hasher::new();
    [&number.n.to_le_bytes(), &digest[..], document].into_iter().for_each(|part| crc.update(part));
    let epoch = match number.epoch {
        0 => String::new(),
        epoch => {
            crc.update(&epoch.to_le_bytes());
            format!(" epoch={epoch}")
        }
    };
    let (crc, length, n) = (crc.finalize(), document.len(), number.n);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("tidegate-slot 1{epoch} number={n} length={length} crc={crc:08x} digest={digest}\n")
}

fn parse(mut bytes: Vec<u8>) -> Option<(Stored, Vec<u8>)> {
    let end = bytes.iter().take(HEADER_BYTES_MAX).position(|b| *b == b'\n')?;
    let document = bytes.split_off(end + 1);
    let line = std::str::from_utf8(&bytes).ok()?;
    let field = |name: &str| line.trim_end().split(' ').skip(2).find_map(|f| f.strip_prefix(name));
    let epoch = field("epoch=").map_or(Some(0), |epoch| epoch.parse().ok())?;
    let number = Number::new(epoch, field("number=")?.parse().ok()?);
    let digest = unhex(field("digest=")?)?;
    (line == header(number, &digest, &document)).then_some((Stored { number, digest }, document))
}

fn unhex(text: &str) -> Option<Digest> {
    let mut digest = [0; 32];
    if text.len() != 2 * digest.len() {
        return None;
    }
    for (i, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(digest)
}
