//! Appends to the outbox under way, in the order in which their messages came.
//!
//! They are handed to the disk in this order, and their answers are looked at in this order: the broker gives the
//! acknowledgements in the order of arrival anyway (MQTT 5.0 §4.6).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::event::Event;
use crate::ingest::http::budget::Lease;
use crate::ingest::mqtt::packet::{PacketId, QoS};
use crate::ingest::mqtt::upstream::{BUSY_MAX, BUSY_RETRY, Refused};
use crate::ingest::scoring::Scoring;
use crate::journal::{Journal, JournalError, Position};
use crate::outbox::{AppendError, Batch, Receipt};

/// Appends under way per connection, from which on nothing more is read. Each holds what one read brought.
const FLIGHTS_MAX: usize = 32;

/// Bytes in them, from which on nothing more is read: a disk of 1 ms stays busy with hundreds of MB/s.
const BYTES_MAX: usize = 256 << 10;

/// Messages of one read for one lane.
pub struct Load {
    /// Their events.
    pub batch: Batch,
    /// How many, by quality of service.
    pub counts: [u64; 3],
    /// Those that want an answer.
    pub ids: Vec<PacketId>,
    /// This must be on disk before the outbox is asked: a QoS 2 message has its name in it, and after a power cut would get
    /// another one.
    pub after: Option<Position>,
    /// Its events that wait for their scores, with their places in the batch.
    pub asked: Vec<(usize, Event)>,
    scoring: Option<Scored>,
    scored_bytes: usize,
}

/// What became of a [`Load`].
pub struct Landed {
    /// See there.
    pub counts: [u64; 3],
    /// See there.
    pub ids: Vec<PacketId>,
    /// When its messages came.
    pub at: Instant,
    /// On disk, or not.
    pub result: Result<(), Refused>,
}

struct Flight {
    state: State,
    scoring: Option<Scored>,
    counts: [u64; 3],
    ids: Vec<PacketId>,
    at: Instant,
    bytes: usize,
    _lease: Lease,
}

enum State {
    Waiting(Batch, Option<Position>),
    Sent(Receipt),
    Refused(Refused),
}

/// The batch with the scores of its events.
type Scored = Pin<Box<dyn Future<Output = Batch> + Send>>;

type Named = Pin<Box<dyn Future<Output = Result<(), JournalError>> + Send>>;

/// See the module.
#[derive(Default)]
pub struct Flights {
    queue: VecDeque<Flight>,
    /// How many of them are handed over.
    sent: usize,
    bytes: usize,
    named: Option<Named>,
    /// Since when the disk's queue is full, and when to try again.
    busy: Option<(Instant, Instant)>,
}

impl Load {
    pub fn new(batch: Batch) -> Self {
        Self { batch, counts: [0; 3], ids: Vec::new(), after: None, asked: Vec::new(), scoring: None, scored_bytes: 0 }
    }

    /// Asks for the scores of `asked`; the batch comes back with them.
    pub fn ask(&mut self, scoring: &Scoring) {
        if !self.asked.is_empty() {
            let (asked, empty) = (std::mem::take(&mut self.asked), self.batch.emptied());
            let batch = std::mem::replace(&mut self.batch, empty);
            self.scored_bytes = batch.bytes();
            self.scoring = Some(Box::pin(scoring.of_batch(batch, asked)));
        }
    }

    /// A message was added to the batch.
    pub fn carries(&mut self, qos: QoS, id: Option<PacketId>) {
        self.counts[qos as usize] += 1;
        self.ids.extend(id);
    }
}

impl Flights {
    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether more may be read. Not while the disk's queue is full: then the sender waits.
    pub fn has_room(&self) -> bool {
        self.queue.len() < FLIGHTS_MAX && self.bytes < BYTES_MAX && self.busy.is_none()
    }

    /// When [`Flights::poll`] has something to do, though nobody wakes it.
    pub fn deadline(&self) -> Option<Instant> {
        self.busy.map(|(_, again)| again)
    }

    /// Takes a load; `lease`: its share of the memory.
    pub fn push(&mut self, load: Load, at: Instant, lease: Lease) {
        let bytes = load.batch.bytes() + load.scored_bytes;
        let Load { batch, counts, ids, after, scoring, .. } = load;
        self.bytes += bytes;
        self.queue.push_back(Flight {
            state: State::Waiting(batch, after),
            scoring,
            counts,
            ids,
            at,
            bytes,
            _lease: lease,
        });
    }

    /// Hands over what can be, and waits for the oldest answer.
    pub fn poll(&mut self, cx: &mut Context<'_>, journal: &Journal) -> Poll<Landed> {
        self.launch(cx, journal);
        let Some(first) = self.queue.front_mut() else { return Poll::Pending };
        let result = match &mut first.state {
            State::Waiting(..) => return Poll::Pending,
            State::Sent(receipt) => ready!(Pin::new(receipt).poll(cx)).map(drop).map_err(Refused::from),
            State::Refused(refused) => Err(refused.clone()),
        };
        let Some(Flight { counts, ids, at, bytes, .. }) = self.queue.pop_front() else { return Poll::Pending };
        self.sent -= 1;
        self.bytes -= bytes;
        Poll::Ready(Landed { counts, ids, at, result })
    }

    fn launch(&mut self, cx: &mut Context<'_>, journal: &Journal) {
        while let Some(flight) = self.queue.get_mut(self.sent) {
            let State::Waiting(batch, after) = &mut flight.state else {
                self.sent += 1;
                continue;
            };
            if let Some(position) = *after {
                let journal = journal.clone();
                let named =
                    self.named.get_or_insert_with(|| Box::pin(async move { journal.durable(position).await })).as_mut();
                let Poll::Ready(named) = named.poll(cx) else { return };
                (self.named, *after) = (None, None);
                if let Err(e) = named {
                    flight.state = State::Refused(Refused::unnamed(&e));
                    continue;
                }
            }
            // Whoever came later waits as well: the order is that of the arrivals.
            if let Some(scoring) = &mut flight.scoring {
                let Poll::Ready(scored) = scoring.as_mut().poll(cx) else { return };
                (*batch, flight.scoring) = (scored, None);
            }
            let now = Instant::now();
            if self.busy.is_some_and(|(_, again)| now < again) {
                return;
            }
            match batch.submit() {
                Ok(receipt) => (flight.state, self.busy) = (State::Sent(receipt), None),
                Err(AppendError::Busy { .. }) if self.busy.is_none_or(|(since, _)| now < since + BUSY_MAX) => {
                    let since = self.busy.map_or(now, |(since, _)| since);
                    self.busy = Some((since, now + BUSY_RETRY));
                    return;
                }
                Err(e) => (flight.state, self.busy) = (State::Refused(e.into()), None),
            }
        }
    }
}

#[cfg(test)]
mod tests;
