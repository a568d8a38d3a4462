//! What a lane's directory remembers between two lives of the process: which file is being written, how much of
//! it counts, and what the store above knew at that point. Replaced as a whole at every commit.
//!
//! ```text
//! "TGSTATE1" · crc32 u32 · header length u32 · header (JSON) · snapshot (the rest)
//! ```
//! All numbers are little-endian; `crc32` (IEEE) covers what follows it.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sys::files;

/// Name of the state file in a lane's directory.
pub const FILE: &str = "state";

const MAGIC: &[u8; 8] = b"TGSTATE1";
const HEAD: usize = MAGIC.len() + 8;

/// Position and file of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The number the next file gets.
    pub next: u64,
    /// The file being written.
    pub current: Option<Current>,
}

/// The file being written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Current {
    /// Its name when it is complete; until then `.partial` is added.
    pub name: String,
    /// Bytes of it that count: whole zstd frames.
    pub committed: u64,
    /// When it was begun, in ms since 1970.
    pub opened_ms: i64,
}

/// Why a state file was not read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Its content is not what was written.
    #[error("is damaged: {0}")]
    Damaged(&'static str),
}

/// Reads the state of the lane in `dir` and the snapshot with it. `Ok(None)`: there is none.
pub fn read(dir: &Path) -> Result<Option<(State, Vec<u8>)>, StateError> {
    let mut bytes = match std::fs::read(dir.join(FILE)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let (state, snapshot) = decode(&bytes).map_err(StateError::Damaged)?;
    bytes.drain(..snapshot);
    Ok(Some((state, bytes)))
}

fn decode(bytes: &[u8]) -> Result<(State, usize), &'static str> {
    let word = |at: usize| {
        let raw: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(raw))
    };
    if !bytes.starts_with(MAGIC) {
        return Err("it does not begin as a state file of this version does");
    }
    let (crc, length) = word(MAGIC.len()).zip(word(MAGIC.len() + 4)).ok_or("it is cut short")?;
    if crc32fast::hash(&bytes[MAGIC.len() + 4..]) != crc {
        return Err("its checksum is wrong");
    }
    let snapshot = HEAD.saturating_add(length as usize);
    let header = bytes.get(HEAD..snapshot).ok_or("its parts do not fit together")?;
    let state = serde_json::from_slice(header).map_err(|_| "its header cannot be read")?;
    Ok((state, snapshot))
}

/// Makes `state` and `snapshot` the lane's state, durably.
pub fn write(dir: &Path, state: &State, snapshot: &[u8]) -> io::Result<()> {
    let header = serde_json::to_vec(state)?;
    let mut bytes = Vec::with_capacity(HEAD + header.len() + snapshot.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&u32::try_from(header.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(snapshot);
    let crc = crc32fast::hash(&bytes[MAGIC.len() + 4..]);
    bytes[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&crc.to_le_bytes());
    files::replace(&dir.join(FILE), &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_every_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_none());
        let current = Current { name: "x".into(), committed: 7, opened_ms: -1 };
        let state = State { next: 3, current: Some(current) };
        write(dir.path(), &state, b"snapshot").unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some((state, b"snapshot".to_vec())));
        let good = std::fs::read(dir.path().join(FILE)).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(dir.path().join(FILE), &bad).unwrap();
            assert!(matches!(read(dir.path()), Err(StateError::Damaged(_))), "byte {at}");
            std::fs::write(dir.path().join(FILE), &good[..at]).unwrap();
            assert!(matches!(read(dir.path()), Err(StateError::Damaged(_))), "cut at {at}");
        }
    }
}
