//! Group commit: one thread per lane takes what waits, puts it on disk with one flush, and answers everyone.
//!
//! One thread, because sled's flushes from many threads get in each other's way. A single writer's event is
//! committed at once; only where several appended together last time, the next group waits a fraction of a
//! commit's time for them to come back, for otherwise every second commit would hold the fastest of them alone.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::block::{self, Group};
use super::lane::Lane;
use super::store::{CommitError, Stores};
use super::window::{Fingerprint, Window};
use super::{AppendError, Durable, Seq};

/// Appends that wait for the disk. HTTP allows 10,240 connections, each with one.
const QUEUE_APPENDS_MAX: usize = 16_384;

/// Bytes that wait for the disk: with bodies of 16 MiB two of them fit, and a gateway of 512 MB has room for it.
const QUEUE_BYTES_MAX: usize = 32 << 20;

/// Bytes of a group from which on no further append joins it: bounds how long the first one waits.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// Longest wait for writers of the last group to come back.
const GATHER_MAX: Duration = Duration::from_micros(500);

/// The lane's clockwork turns at least this often although nothing is appended.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Events that were encoded and wait to be put on disk.
#[derive(Debug)]
pub struct Append {
    /// The records, one after the other.
    pub records: Vec<u8>,
    /// Where each of them ends.
    pub ends: Vec<usize>,
    /// For each that its sender named, its fingerprint.
    pub names: Vec<Option<Fingerprint>>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Durable, AppendError>>,
}

impl Append {
    fn record(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.records[start..self.ends[i]]
    }
}

/// Appends on their way to the disk.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    /// Told when an append comes or the queue is closed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Append>,
    bytes: usize,
    closed: bool,
    /// The committer sleeps until so many wait. A wake-up costs more than an append.
    wanted: usize,
}

/// Why an append was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotQueued {
    /// Too much waits already.
    Busy,
    /// The outbox is closing.
    Closed,
}

impl Queue {
    /// Lets an append wait, or gives it back. One alone may be larger than the queue's bytes.
    pub fn push(&self, append: Append) -> Result<(), (NotQueued, Append)> {
        let mut state = self.lock();
        if state.closed {
            return Err((NotQueued::Closed, append));
        }
        let bytes = append.records.len();
        let full = state.waiting.len() >= QUEUE_APPENDS_MAX || state.bytes.saturating_add(bytes) > QUEUE_BYTES_MAX;
        if full && !state.waiting.is_empty() {
            return Err((NotQueued::Busy, append));
        }
        state.bytes += bytes;
        state.waiting.push_back(append);
        let enough = state.waiting.len() == state.wanted;
        drop(state);
        if enough {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// No more is taken; what waits is still committed.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Nobody will commit any more: what waits gets no answer, which its senders notice.
    fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        state.bytes = 0;
    }

    /// The next group, empty after [`IDLE_MAX`] without one. `None`: closed, and nothing waits.
    pub(super) fn take(&self, gather: Option<(usize, Duration)>) -> Option<Vec<Append>> {
        let mut state = self.wait(self.lock(), 1, IDLE_MAX);
        if let Some((appends, at_most)) = gather {
            state = self.wait(state, appends, at_most);
        }
        if state.waiting.is_empty() && state.closed {
            return None;
        }
        let mut group = Vec::with_capacity(state.waiting.len());
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX
            && let Some(append) = state.waiting.pop_front()
        {
            bytes += append.records.len();
            group.push(append);
        }
        state.bytes -= bytes;
        Some(group)
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, appends: usize, at_most: Duration) -> MutexGuard<'a, State> {
        state.wanted = appends;
        let few = |s: &mut State| s.waiting.len() < appends && !s.closed;
        self.changed.wait_timeout_while(state, at_most, few).unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However the committer ends, nobody waits for it.
struct Last<'a>(&'a Queue);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The thread of a lane: commits until the queue is closed and empty. A panic is a failed commit: the thread is
/// joined at the end only, so one that died of it would leave a gateway that takes requests and answers none.
pub fn run(lane: &Arc<Lane>, window: Window) {
    let _last = Last(&lane.queue);
    let mut committer =
        Committer { lane: lane.clone(), stores: Stores::new(lane.clone()), window, born: Instant::now() };
    let mut gather = None;
    while let Some(group) = lane.queue.take(gather) {
        let appends = group.len();
        let start = Instant::now();
        let turn = catch_unwind(AssertUnwindSafe(|| match group.is_empty() {
            true => committer.stores.idle(),
            false => committer.commit(group),
        }));
        if let Err(panic) = turn {
            committer.stores.give_up(panic.as_ref());
        }
        gather = (appends > 1).then(|| (appends, (start.elapsed() / 4).min(GATHER_MAX)));
    }
    committer.stores.seal();
}

struct Committer {
    lane: Arc<Lane>,
    stores: Stores,
    window: Window,
    born: Instant,
}

/// What one append of a group will be answered if the group gets to disk.
struct Planned {
    append: Append,
    answer: Durable,
}

impl Committer {
    fn commit(&mut self, group: Vec<Append>) {
        let start = Instant::now();
        let now_ms = i64::try_from(self.born.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.window.expire(now_ms);
        let first = self.lane.book().last + 1;
        let mut next = first;
        let mut fresh: HashMap<Fingerprint, Seq> = HashMap::new();
        let mut new: Vec<(usize, usize)> = Vec::new(); // which append, which of its events
        let mut planned: Vec<Planned> = Vec::with_capacity(group.len());
        for append in group {
            let taken = new.len();
            let answer = self.plan(&append, planned.len(), &mut next, &mut fresh, &mut new);
            let bytes = new[taken..].iter().map(|(_, i)| append.record(*i).len() as u64).sum();
            match self.stores.admit(bytes) {
                Ok(()) => planned.push(Planned { append, answer }),
                Err(error) => {
                    // Nothing of it is kept: what it named is fresh no more.
                    next -= (new.len() - taken) as u64;
                    new.truncate(taken);
                    fresh.retain(|_, seq| *seq < next);
                    self.refuse(append, error);
                }
            }
        }
        let records = new.iter().map(|(a, i)| planned[*a].append.record(*i));
        // A group has at most GROUP_BYTES_MAX and one append more; each event takes some 30 bytes at least.
        let len = u32::try_from(new.len()).unwrap_or(u32::MAX);
        let group = Group { tag: self.lane.settings.tag, first, len, accepted_ms: self.lane.clock.unix_ms() };
        let blocks = block::pack(&group, records);
        let named = !fresh.is_empty();
        match self.stores.commit(&blocks, group.accepted_ms, named) {
            Ok(()) => {
                for (event, seq) in fresh {
                    self.window.insert(event, seq, now_ms);
                }
                self.lane.meter.committed_events.inc_by(new.len() as u64);
                self.lane.meter.committed_bytes.inc_by(blocks.iter().map(|b| b.bytes.len() as u64).sum());
                self.lane.meter.commit_seconds.observe(start.elapsed().as_secs_f64());
                self.lane.meter.group_size.observe(planned.len() as f64);
                for Planned { append, answer } in planned {
                    self.lane.meter.repeated.inc_by(answer.repeated);
                    let _ = append.answer.send(Ok(answer)); // its future may have been dropped
                }
            }
            Err(error) => planned.into_iter().for_each(|p| self.refuse(p.append, error.clone())),
        }
    }

    /// Gives every new event of `append` its sequence, and tells what to answer.
    fn plan(
        &self,
        append: &Append,
        index: usize,
        next: &mut Seq,
        fresh: &mut HashMap<Fingerprint, Seq>,
        new: &mut Vec<(usize, usize)>,
    ) -> Durable {
        let start = *next;
        let (mut repeated, mut earliest, mut latest) = (0, Seq::MAX, 0);
        for (i, name) in append.names.iter().enumerate() {
            let known = name.and_then(|n| self.window.get(n).or_else(|| fresh.get(&n).copied()));
            if let Some(seq) = known {
                repeated += 1;
                (earliest, latest) = (earliest.min(seq), latest.max(seq));
                continue;
            }
            if let Some(name) = name {
                fresh.insert(*name, *next);
            }
            new.push((index, i));
            *next += 1;
        }
        let accepted = append.names.len() as u64;
        let (first, last) = if *next > start { (start, *next - 1) } else { (earliest, latest) };
        Durable { accepted, repeated, first, last }
    }

    fn refuse(&self, append: Append, error: CommitError) {
        self.lane.meter.refused.inc_by(append.names.len() as u64);
        let lane = self.lane.name.clone();
        let error = match error {
            CommitError::Full(reason) => AppendError::Full { lane, reason },
            CommitError::Disk(reason) => AppendError::Disk { lane, reason },
        };
        let _ = append.answer.send(Err(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &Queue, bytes: usize) -> Result<(), NotQueued> {
        queue.push(append(bytes)).map_err(|(why, _)| why)
    }

    fn append(bytes: usize) -> Append {
        Append { records: vec![0; bytes], ends: vec![bytes], names: vec![None], answer: oneshot::channel().0 }
    }

    #[test]
    fn the_queue_is_bounded_by_number_and_bytes_and_ends_when_closed() {
        let queue = Queue::default();
        assert_eq!(push(&queue, QUEUE_BYTES_MAX + 1), Ok(()), "one alone may be larger");
        assert_eq!(push(&queue, 1), Err(NotQueued::Busy));
        assert_eq!(queue.take(None).map(|g| g.len()), Some(1));
        for _ in 0..QUEUE_APPENDS_MAX {
            assert_eq!(push(&queue, 1), Ok(()));
        }
        assert_eq!(push(&queue, 1), Err(NotQueued::Busy));
        queue.close();
        assert_eq!(push(&queue, 1), Err(NotQueued::Closed));
        assert_eq!(queue.take(None).map(|g| g.len()), Some(QUEUE_APPENDS_MAX), "what waits is still committed");
        assert!(queue.take(None).is_none());
    }

    #[test]
    fn a_group_is_bounded_by_bytes() {
        let queue = Queue::default();
        for _ in 0..5 {
            assert_eq!(push(&queue, GROUP_BYTES_MAX / 2), Ok(()));
        }
        assert_eq!(queue.take(None).map(|g| g.len()), Some(2));
    }
}
