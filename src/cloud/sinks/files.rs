//! Compressed NDJSON files, one directory per lane.
//!
//! A file is a sequence of zstd frames (`zstdcat` reads them as one). It is called `….partial` while it grows.
//! A commit ends a frame, syncs the file, and then replaces the state file, which says how many of the file's bytes
//! count. What lies beyond them was never acknowledged to Pulsar and comes again, so it is cut off at the next start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

use super::state::{self, Current, State, StateError};
use crate::config::cloud::FilesSink;
use crate::event::Timestamp;
use crate::sys::clock::Clock;
use crate::sys::files;

/// Ending of a file that still grows.
pub const PARTIAL: &str = ".partial";
/// What is added to the name of a file whose content cannot be vouched for.
const DAMAGED: &str = ".damaged";
const ENDING: &str = ".ndjson.zst";

/// Compressed bytes gathered before they are handed to the system: what zstd itself suggests.
const OUT_BYTES: usize = 128 << 10;

/// Why a lane's files cannot be written or read. After one, open the lane again.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The system refused.
    #[error("{action} {}: {source}; nothing is lost: it is tried again, and Pulsar keeps the events", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The state file is there and cannot be used.
    #[error(
        "{} {reason}; restore it from a copy, or remove it to go on without it: \
         then events that Pulsar delivers again are stored a second time", path.display()
    )]
    State {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Compressed bytes it made durable.
    pub bytes: u64,
    /// The file was completed with it.
    pub rotated: bool,
}

/// The files of one lane.
pub struct LaneFiles {
    dir: PathBuf,
    config: FilesSink,
    clock: Clock,
    state: State,
    open: Option<Open>,
    encoder: Encoder<'static>,
    in_frame: bool,
    out: Vec<u8>,
}

struct Open {
    file: File,
    path: PathBuf,
    /// With what is not committed.
    length: u64,
    rotate_at: Instant,
}

impl LaneFiles {
    /// Opens the lane's directory below `config.dir` and brings it to its last commit.
    /// With it, the snapshot of that commit; `None`: there was no commit.
    pub fn open(config: &FilesSink, lane: &str, clock: &Clock) -> Result<(Self, Option<Vec<u8>>), FilesError> {
        let dir = config.dir.join(lane);
        files::create_dir_durable(&dir).map_err(failed("cannot make directory", &dir))?;
        let (state, snapshot, has_state) = match state::read(&dir) {
            // Empty: written below, and no commit since.
            Ok(Some((state, snapshot))) => (state, Some(snapshot).filter(|s| !s.is_empty()), true),
            Ok(None) => (State::default(), None, false),
            Err(StateError::Io(e)) => return Err(failed("cannot read", &dir.join(state::FILE))(e)),
            Err(e @ StateError::Damaged(_)) => {
                return Err(FilesError::State { path: dir.join(state::FILE), reason: e.to_string() });
            }
        };
        let encoder = encoder(config.level).map_err(failed("cannot set up compression for", &dir))?;
        let (config, clock) = (config.clone(), clock.clone());
        let out = Vec::with_capacity(OUT_BYTES);
        let mut lane = Self { dir, config, clock, state, open: None, encoder, in_frame: false, out };
        lane.recover(has_state)?;
        if !has_state {
            // From here on a file that the state does not name was never committed.
            lane.write_state(&[])?;
        }
        Ok((lane, snapshot))
    }

    fn recover(&mut self, has_state: bool) -> Result<(), FilesError> {
        let mut highest = 0;
        let listing = fs::read_dir(&self.dir).map_err(failed("cannot list", &self.dir))?;
        let current = self.state.current.as_ref().map(|c| format!("{}{PARTIAL}", c.name));
        for entry in listing {
            let entry = entry.map_err(failed("cannot list", &self.dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            highest = highest.max(number_of(&name).unwrap_or(0));
            let Some(complete) = name.strip_suffix(PARTIAL).filter(|_| Some(&name) != current.as_ref()) else {
                continue;
            };
            if !has_state {
                // Only the state tells how much of it was acknowledged to Pulsar, which will not send that again.
                let aside = self.dir.join(format!("{complete}{DAMAGED}"));
                tracing::warn!(file = %aside.display(), "keeping a file whose state is gone: events in it may be stored twice");
                fs::rename(entry.path(), &aside).map_err(failed("cannot rename", &entry.path()))?;
            } else {
                tracing::info!(file = %entry.path().display(), "removing a file that was never committed");
                fs::remove_file(entry.path()).map_err(failed("cannot remove", &entry.path()))?;
            }
        }
        self.state.next = self.state.next.max(highest + 1);
        match self.state.current.clone() {
            Some(current) => self.reopen(current),
            None => Ok(()),
        }
    }

    /// Cuts the file that was being written back to its last commit.
    fn reopen(&mut self, current: Current) -> Result<(), FilesError> {
        let path = self.partial(&current.name);
        let file = match OpenOptions::new().append(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // The process ended between the renaming of a complete file and the note that it is complete.
                if !self.dir.join(&current.name).exists() {
                    tracing::error!(file = %path.display(), bytes = current.committed,
                        "a file with stored events is gone; they were acknowledged and are not stored again");
                }
                self.state.current = None;
                return Ok(());
            }
            Err(e) => return Err(failed("cannot open", &path)(e)),
        };
        let length = file.metadata().map_err(failed("cannot read the size of", &path))?.len();
        if length < current.committed {
            tracing::error!(file = %path.display(), length, committed = current.committed,
                "a file is shorter than what was stored in it; what is left is kept as a damaged file");
            let aside = self.dir.join(format!("{}{DAMAGED}", current.name));
            fs::rename(&path, &aside).map_err(failed("cannot rename", &path))?;
            self.state.current = None;
            return Ok(());
        }
        file.set_len(current.committed).map_err(failed("cannot cut", &path))?;
        let age = u64::try_from(self.clock.unix_ms().saturating_sub(current.opened_ms)).unwrap_or(0);
        let left = self.config.rotate_after.saturating_sub(Duration::from_millis(age));
        self.open = Some(Open { file, path, length: current.committed, rotate_at: Instant::now() + left });
        Ok(())
    }

    /// Adds whole lines. They count after the next [`LaneFiles::commit`].
    pub fn write(&mut self, lines: &[u8]) -> Result<(), FilesError> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.open.is_none() {
            self.begin_file()?;
        }
        if !self.in_frame {
            self.encoder.reinit().map_err(failed("cannot compress for", &self.dir))?;
            self.in_frame = true;
        }
        let mut input = InBuffer::around(lines);
        while input.pos() < lines.len() {
            let mut output = OutBuffer::around_pos(&mut self.out, 0);
            self.encoder.run(&mut input, &mut output).map_err(failed("cannot compress for", &self.dir))?;
            self.put_out()?;
        }
        Ok(())
    }

    /// Makes everything written durable together with `snapshot`. Completes the file if it is large or old enough.
    pub fn commit(&mut self, snapshot: &[u8]) -> Result<Committed, FilesError> {
        self.end_frame()?;
        let mut done = Committed::default();
        if let (Some(open), Some(current)) = (&self.open, &mut self.state.current) {
            open.file.sync_data().map_err(failed("cannot sync", &open.path))?;
            done.bytes = open.length - current.committed;
            current.committed = open.length;
        }
        self.write_state(snapshot)?;
        if self.open.as_ref().is_some_and(|o| o.length >= self.config.rotate_bytes || Instant::now() >= o.rotate_at) {
            self.complete_file()?;
            self.write_state(snapshot)?;
            done.rotated = true;
        }
        Ok(done)
    }

    /// When the open file gets old enough to be completed by a commit.
    pub fn rotate_at(&self) -> Option<Instant> {
        self.open.as_ref().map(|o| o.rotate_at)
    }

    fn begin_file(&mut self) -> Result<(), FilesError> {
        let now = self.clock.unix_ms();
        let begun = Timestamp::from_unix_ms(now - now.rem_euclid(1000)).to_string().replace(':', "-");
        let name = format!("{begun}-{:06}{ENDING}", self.state.next);
        let path = self.partial(&name);
        let file = OpenOptions::new().create_new(true).append(true).open(&path);
        let file = file.map_err(failed("cannot create", &path))?;
        files::sync_dir(&self.dir).map_err(failed("cannot sync directory", &self.dir))?;
        self.state.next += 1;
        self.state.current = Some(Current { name, committed: 0, opened_ms: now });
        let rotate_at = Instant::now() + self.config.rotate_after;
        self.open = Some(Open { file, path, length: 0, rotate_at });
        Ok(())
    }

    fn complete_file(&mut self) -> Result<(), FilesError> {
        let (Some(open), Some(current)) = (self.open.take(), self.state.current.take()) else { return Ok(()) };
        fs::rename(&open.path, self.dir.join(&current.name)).map_err(failed("cannot rename", &open.path))?;
        files::sync_dir(&self.dir).map_err(failed("cannot sync directory", &self.dir))
    }

    fn end_frame(&mut self) -> Result<(), FilesError> {
        while self.in_frame {
            let mut output = OutBuffer::around_pos(&mut self.out, 0);
            let left = self.encoder.finish(&mut output, false).map_err(failed("cannot compress for", &self.dir))?;
            self.put_out()?;
            self.in_frame = left > 0;
        }
        Ok(())
    }

    fn put_out(&mut self) -> Result<(), FilesError> {
        if let Some(open) = &mut self.open {
            open.file.write_all(&self.out).map_err(failed("cannot write", &open.path))?;
            open.length += self.out.len() as u64;
        }
        self.out.clear();
        Ok(())
    }

    fn write_state(&self, snapshot: &[u8]) -> Result<(), FilesError> {
        state::write(&self.dir, &self.state, snapshot).map_err(failed("cannot replace", &self.dir.join(state::FILE)))
    }

    fn partial(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{PARTIAL}"))
    }
}

fn encoder(level: i32) -> io::Result<Encoder<'static>> {
    let mut encoder = Encoder::new(level)?;
    // So that damage to a stored file is seen when it is read.
    encoder.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(encoder)
}

/// The number in `2026-11-23T06-00-00Z-000001.ndjson.zst`, complete or not.
fn number_of(name: &str) -> Option<u64> {
    name.split_once(ENDING)?.0.rsplit('-').next()?.parse().ok()
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> FilesError + 'a {
    move |source| FilesError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
