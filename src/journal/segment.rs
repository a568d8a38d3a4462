//! A segment's file: its name, its making, writing and syncing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::frame::{self, HEADER_LEN, Header};
use super::meter::Meter;
use crate::sys::{files, random};

/// The segment that is being written.
#[derive(Debug)]
pub struct Segment {
    pub(super) number: u64,
    path: PathBuf,
    file: File,
    salt: u64,
    /// Bytes written.
    pub(super) len: u32,
    /// Where the last record ends; a note may follow.
    records_end: u32,
    /// Bytes that count as durable.
    pub(super) settled: u32,
    /// Bytes that a frame vouches for.
    vouched: u32,
}

impl Segment {
    /// Makes the file with its header and the frames carried over; with `sync` all is on disk before this returns. On an
    /// error the file may be there.
    pub fn create(dir: &Path, header: Header, carried: &mut [u8], sync: bool) -> io::Result<Self> {
        let path = dir.join(name(header.number));
        let bytes = u32::try_from(carried.len()).map_err(io::Error::other)?;
        let header = Header { salt: random::bits(), carried: bytes, ..header };
        frame::seal(carried, header.salt, HEADER_LEN as u32, HEADER_LEN as u32);
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        faults::check(&path, faults::Call::Write)?;
        file.write_all(&header.encode())?;
        file.write_all(carried)?;
        if sync {
            faults::check(&path, faults::Call::Sync)?;
            file.sync_all()?;
            files::sync_dir(dir)?;
        }
        let len = HEADER_LEN as u32 + bytes;
        faults::synced(&path, len);
        Ok(Self {
            number: header.number,
            path,
            file,
            salt: header.salt,
            len,
            records_end: len,
            settled: len,
            vouched: HEADER_LEN as u32,
        })
    }

    /// Whether `bytes` more make it longer than `max`; an empty one takes anything.
    pub fn room(&self, max: u64) -> usize {
        usize::try_from(max.saturating_sub(u64::from(self.len))).unwrap_or(usize::MAX)
    }

    /// No record is in it.
    pub fn is_empty(&self) -> bool {
        self.len as usize == HEADER_LEN
    }

    /// Writes whole frames in one go. After an error nothing more may be written.
    pub fn write(&mut self, frames: &mut [u8]) -> io::Result<()> {
        let bytes = u32::try_from(frames.len()).map_err(io::Error::other)?;
        frame::seal(frames, self.salt, self.len, self.settled);
        faults::check(&self.path, faults::Call::Write)?;
        self.file.write_all(frames)?;
        self.len += bytes;
        (self.records_end, self.vouched) = (self.len, self.settled);
        Ok(())
    }

    /// Writes down how much is durable. The note itself need not be.
    pub fn note(&mut self) -> io::Result<()> {
        let records_end = self.records_end;
        self.write(&mut frame::note())?;
        self.records_end = records_end;
        Ok(())
    }

    /// Records are not durable yet.
    pub fn unsynced(&self) -> bool {
        self.settled < self.records_end
    }

    /// Puts all that was written on disk. After an error nothing more may be written: the kernel may have dropped the pages.
    pub fn sync(&mut self, meter: &Meter) -> io::Result<()> {
        let start = Instant::now();
        faults::check(&self.path, faults::Call::Sync)?;
        self.file.sync_data()?;
        meter.sync_seconds.observe(start.elapsed().as_secs_f64());
        faults::synced(&self.path, self.len);
        self.settled = self.len;
        Ok(())
    }

    /// All that was written counts as durable although it is not (`durable = false`).
    pub fn settle(&mut self) {
        self.settled = self.len;
    }

    /// Something is durable and no frame says so.
    pub fn wants_note(&self) -> bool {
        self.vouched < self.settled
    }
}

/// Its file's name.
pub fn name(number: u64) -> String {
    format!("{number:010}.log")
}

/// Name of the file of one that was damaged.
pub fn damaged_name(number: u64) -> String {
    format!("{number:010}.damaged")
}

/// Segments in `dir` in order, and damaged ones that were set aside.
pub fn list(dir: &Path) -> io::Result<(Vec<u64>, Vec<u64>)> {
    let (mut segments, mut damaged) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some((number, kind)) = name.to_str().and_then(|n| n.split_once('.')) else { continue };
        match (number.parse(), kind) {
            (Ok(number), "log") => segments.push(number),
            (Ok(number), "damaged") => damaged.push(number),
            _ => {}
        }
    }
    segments.sort_unstable();
    damaged.sort_unstable();
    Ok((segments, damaged))
}

/// Removes a file; one that is not there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(not(test))]
mod faults {
    //! Nothing, outside tests.
    use std::io;
    use std::path::Path;

    pub enum Call {
        Write,
        Sync,
    }

    pub fn check(_: &Path, _: Call) -> io::Result<()> {
        Ok(())
    }

    pub fn synced(_: &Path, _: u32) {}
}

#[cfg(test)]
#[path = "tests/faults.rs"]
pub mod faults;
