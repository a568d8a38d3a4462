//! The segments as the thread sees them: which there are, where records go, what happens when the disk refuses.

use std::io;
use std::path::PathBuf;

use super::Settings;
use super::frame::{self, Header};
use super::meter::Meter;
use super::segment::{self, Segment};
use crate::sys::files;

/// Damaged segments kept for whoever wants to look into them. They come on top of the journal's total.
const DAMAGED_MAX: usize = 2;

/// A segment that is complete, or nothing more is known of.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// To be set aside instead of removed.
    pub(super) damaged: bool,
}

/// The end of the chain of segments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tail {
    pub(super) number: u64,
    pub(super) len: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Log {
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
    pub(super) meter: Meter,
    /// All but the open one, oldest first.
    pub(super) kept: Vec<Kept>,
    /// Files that count for nothing and must be gone before a rewriting begins.
    pub(super) refuse: Vec<u64>,
    /// Damaged segments set aside.
    pub(super) aside: Vec<u64>,
    pub(super) open: Option<Segment>,
    pub(super) tail: Tail,
    /// Frames after the tail that were found at the start and that nobody vouches for: not trusted to be on disk (a sync
    /// may have failed before), they are written again with the first new segment.
    pub(super) carry: Vec<u8>,
    /// Segments found at the start that count for nothing once the first new segment says so.
    pub(super) garbage: Vec<Kept>,
    pub(super) next: u64,
    pub(super) void_below: u64,
    /// First segment of the tidying under way.
    pub(super) tidy_from: Option<u64>,
    /// A third of the bytes that the journal may have, or of those that the disk has for it if these are less: so a
    /// rewriting finds the space that it needs, unless others take it.
    pub(super) share: u64,
    /// Where the rewriting under way began, and the end of what was before.
    pub(super) rewrite: Option<(u64, Tail)>,
}

impl Log {
    /// Writes whole frames, in as many segments as it takes.
    pub fn write(&mut self, mut frames: &mut [u8]) -> io::Result<()> {
        while !frames.is_empty() {
            let max = self.settings.segment_bytes_max;
            let Some(segment) = &mut self.open else {
                self.turn_over()?;
                continue;
            };
            let (mut bytes, _) = frame::fitting(frames, segment.room(max));
            if bytes == 0 && segment.is_empty() {
                bytes = frame::first_len(frames);
            }
            if bytes == 0 {
                self.turn_over()?;
                continue;
            }
            let (now, later) = frames.split_at_mut(bytes);
            segment.write(now)?;
            self.meter.written_bytes.inc_by(bytes as u64);
            if !self.settings.durable {
                segment.settle();
            }
            frames = later;
        }
        Ok(())
    }

    /// Everything written is on disk, or counts as if it were.
    pub fn sync(&mut self) -> io::Result<()> {
        match &mut self.open {
            Some(segment) if segment.unsynced() => segment.sync(&self.meter),
            _ => Ok(()),
        }
    }

    /// Writes down how much is durable, so that damage of it will be told from a torn end.
    pub fn note(&mut self) -> io::Result<()> {
        match &mut self.open {
            Some(segment) if segment.wants_note() => segment.note(),
            _ => Ok(()),
        }
    }

    /// Ends the open segment, if any, and begins the next. What was written before is durable first: the next
    /// one's header says so.
    fn turn_over(&mut self) -> io::Result<u64> {
        self.sync()?;
        let header = Header {
            number: self.next,
            previous: self.end().number,
            previous_len: self.end().len,
            void_below: self.void_below,
            rewrite: self.rewrite.map_or(0, |(from, _)| from),
            ..Header::default()
        };
        self.next += 1;
        let made = Segment::create(&self.dir, header, &mut self.carry, self.settings.durable);
        let made = made.inspect_err(|_| self.refuse.push(header.number))?;
        self.carry = Vec::new();
        self.retire();
        self.open = Some(made);
        self.clear_garbage();
        self.measure();
        Ok(header.number)
    }

    /// Looks at the disk for [`Log::share`]. With each segment is often enough: what others do between is found out by a
    /// failed write.
    pub fn measure(&mut self) {
        let free = files::free_bytes(&self.dir).unwrap_or(u64::MAX);
        self.share = self.settings.total_bytes_max.min(self.bytes().saturating_add(free)) / 3;
    }

    fn end(&self) -> Tail {
        self.open.as_ref().map_or(self.tail, |s| Tail { number: s.number, len: s.settled })
    }

    fn retire(&mut self) {
        if let Some(old) = self.open.take() {
            self.tail = Tail { number: old.number, len: old.settled };
            self.kept.push(Kept { number: old.number, bytes: old.len.into(), damaged: false });
        }
    }

    /// A tidying begins: what follows is in segments of its own.
    pub fn begin_tidying(&mut self) -> io::Result<()> {
        if !self.carry.is_empty() {
            self.turn_over()?; // it is part of what is superseded
        }
        self.tidy_from = Some(self.turn_over()?);
        Ok(())
    }

    /// Everything alive follows the beginning: what was before is void, durably so, and goes. Without a tidying: nothing.
    pub fn finish_tidying(&mut self) -> io::Result<()> {
        let Some(from) = self.tidy_from else { return Ok(()) };
        // Also where nothing else is synced: a power cut between the removal and the kernel's own writing
        // would cost everything instead of the last seconds.
        if let Some(segment) = &mut self.open {
            segment.sync(&self.meter)?;
        }
        let durable = std::mem::replace(&mut self.settings.durable, true);
        let before = (self.void_below, self.rewrite);
        (self.void_below, self.rewrite) = (from, None);
        let made = self.turn_over();
        self.settings.durable = durable;
        if made.is_err() {
            (self.void_below, self.rewrite) = before;
        }
        made?;
        self.tidy_from = None;
        self.remove_before(from);
        self.meter.tidyings.inc();
        Ok(())
    }

    fn remove_before(&mut self, from: u64) {
        let (void, kept) = std::mem::take(&mut self.kept).into_iter().partition(|k| k.number < from);
        self.kept = kept;
        self.garbage.extend(void);
        self.clear_garbage();
    }

    /// Removes what counts for nothing, and sets aside what is damaged. What stays is tried again with the next segment.
    fn clear_garbage(&mut self) {
        let (dir, aside) = (&self.dir, &mut self.aside);
        self.garbage.retain(|kept| {
            let path = dir.join(segment::name(kept.number));
            let gone = if kept.damaged {
                let renamed = std::fs::rename(&path, dir.join(segment::damaged_name(kept.number)));
                renamed.inspect(|()| aside.push(kept.number))
            } else {
                segment::remove(&path)
            };
            if let Err(e) = &gone {
                tracing::warn!(path = %path.display(), error = %e, "cannot remove a superseded segment; tried again later");
            }
            gone.is_err_and(|e| e.kind() != io::ErrorKind::NotFound)
        });
        while aside.len() > DAMAGED_MAX {
            let _ = segment::remove(&dir.join(segment::damaged_name(aside.remove(0)))); // for people only
        }
    }

    /// The disk refused, or something was not taken: nothing is added to what is there. Segments of a rewriting
    /// that was under way count for nothing.
    pub fn fail(&mut self) {
        self.retire();
        self.carry = Vec::new(); // what is written anew has it
        self.tidy_from = None;
        if let Some((from, tail)) = self.rewrite.take() {
            self.refuse.extend(self.kept.iter().filter(|k| k.number >= from).map(|k| k.number));
            self.kept.retain(|k| k.number < from);
            self.tail = tail;
        }
        self.refuse.sort_unstable();
        self.refuse.dedup();
    }

    /// Tries the disk: afterwards a new segment is there for everything alive.
    pub fn begin_rewriting(&mut self) -> io::Result<()> {
        self.clear_refuse()?;
        self.rewrite = Some((self.next, self.tail));
        self.begin_tidying()
    }

    /// Newest first, and durably so before the others: it may be the one that says that the others are complete.
    fn clear_refuse(&mut self) -> io::Result<()> {
        while let Some(number) = self.refuse.last() {
            segment::remove(&self.dir.join(segment::name(*number)))?;
            files::sync_dir(&self.dir)?;
            self.refuse.pop();
        }
        Ok(())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, |s| u64::from(s.len));
        self.kept.iter().chain(&self.garbage).map(|k| k.bytes).sum::<u64>() + open
    }

    /// Segments on disk.
    pub fn segments(&self) -> usize {
        self.kept.len() + usize::from(self.open.is_some())
    }

    /// Something that is not on disk yet.
    pub fn unsynced(&self) -> bool {
        self.open.as_ref().is_some_and(Segment::unsynced)
    }

    /// See [`Log::note`].
    pub fn wants_note(&self) -> bool {
        self.open.as_ref().is_some_and(Segment::wants_note)
    }
}
