//! The resume rule: what of a lane is sent alone, what in batches, and what has arrived. [pure]
//!
//! Pulsar compares only the lowest sequence id of a batch with the highest it has accepted from the
//! producer, drops a batch that fails the comparison *and acknowledges it*. So after every start and
//! every disruption (verified on a 4.0.7 broker, tests/uplink_trap.rs):
//!
//! 1. the producer is opened and the broker names L, the highest sequence it has *pushed* (not stored);
//! 2. what is not confirmed up to L is sent alone, each answered "stored", "duplicate" or an error;
//! 3. what lies beyond L is sent in batches: none of them can straddle what is stored;
//! 4. on any doubt: everything again from 1, with the outbox as the only state.
//!
//! A lane has one producer per partition. Sequences increase within a partition with gaps, because
//! neighbours went to other partitions; and in the lane with gaps, because the outbox may have given up
//! some. Receipts come in the order of sending per producer, so a partition's unconfirmed events start
//! at its oldest unit, and the lane is confirmed up to just below the lowest of these.

use std::collections::VecDeque;

use super::batch::{Limits, Open};

/// Position of an event in its lane.
pub type Seq = u64;

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// All producers are open.
    Opened {
        /// `last_sequence_id` of each partition's producer; `None`: the broker knows none.
        last: &'a [Option<Seq>],
        /// Last sequence the outbox has given to an event.
        last_durable: Seq,
    },
    /// The lane's next event. Ask [`Resume::has_room`] first.
    Event {
        /// Its sequence, above all earlier ones of this connection.
        seq: Seq,
        /// Where its key belongs.
        partition: usize,
        /// Its size as sent.
        bytes: usize,
    },
    /// No further event can be taken now.
    Flush,
    /// The broker has answered the oldest unit of `partition`.
    Receipt {
        /// Whose.
        partition: usize,
        /// Sequence it names: the unit's lowest.
        seq: Seq,
        /// It was dropped as already stored: the message id is (-1,-1).
        duplicate: bool,
    },
    /// The broker has refused a unit for good: it was not stored, and what was sent behind it may have been.
    Refused {
        /// Whose.
        partition: usize,
        /// A sequence of the unit: brokers name its highest here.
        seq: Seq,
    },
    /// One producer was closed and opened again with nothing in flight, to see what the broker remembers.
    Probed {
        /// Whose.
        partition: usize,
        /// Its `last_sequence_id` now.
        last: Option<Seq>,
    },
    /// The connection is gone, or was given up.
    Lost,
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send the event just given by itself.
    Alone {
        /// To which partition.
        partition: usize,
        /// Its sequence.
        seq: Seq,
    },
    /// Put the event just given into the open batch of `partition`.
    Append {
        /// Which partition's.
        partition: usize,
    },
    /// Send the open batch of `partition`.
    Cut {
        /// Which partition's.
        partition: usize,
        /// What is in it.
        batch: Open,
    },
    /// Everything up to here has arrived.
    Confirm {
        /// Inclusive.
        through: Seq,
    },
    /// Give the connection up and start again at rule 1.
    Restart(Doubt),
    /// The broker does not remember what it confirmed: its deduplication is off.
    NotRemembered,
    /// The broker remembers: deduplication is on.
    Remembered,
}

/// Why a connection cannot be trusted any more. Nothing is lost by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// A receipt that fits nothing in flight.
    #[error("the broker answered sequence {got} of partition {partition}, {expected} was next")]
    Unexpected {
        /// Whose.
        partition: usize,
        /// What it named.
        got: Seq,
        /// What was next; 0: nothing was in flight.
        expected: Seq,
    },
    /// A batch was dropped as a duplicate although it began beyond L: nobody knows which of its events are stored.
    #[error("the broker dropped a batch ({lowest} to {highest}, partition {partition}) as a duplicate")]
    BatchDropped {
        /// Whose.
        partition: usize,
        /// Its lowest sequence.
        lowest: Seq,
        /// Its highest.
        highest: Seq,
    },
    /// An event was refused, a later one was stored, and now the broker takes the first for a duplicate.
    #[error(
        "the broker refused event {seq} (partition {partition}) earlier and stored later ones; now its deduplication \
         takes the event for stored, which it is not. The lane stops here so that the event is not lost"
    )]
    Overtaken {
        /// Whose.
        partition: usize,
        /// Its sequence.
        seq: Seq,
    },
    /// The broker has events of this stream that this outbox never had. Sending would drop new events as duplicates.
    #[error(
        "the broker already has events of this gateway up to sequence {last}, its outbox ends at {last_durable}: the \
         outbox was copied, restored from a backup, or lost its end in a power cut (durability = \"os\"). Nothing is \
         sent, because the broker would take new events for old ones. Move the outbox directory away, so that \
         a new incarnation begins"
    )]
    AheadOfOutbox {
        /// The broker's L.
        last: Seq,
        /// The outbox's end.
        last_durable: Seq,
    },
}

/// Refused units remembered; when there are more, the newest ones count as one wide range: a lane that stops
/// needlessly is better than one that loses.
const REFUSED_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Unit {
    lowest: Seq,
    highest: Seq,
    events: usize,
    bytes: usize,
}

#[derive(Clone, Debug, Default)]
struct Partition {
    /// L when the producer was opened; 0: none. Sequences start at 1.
    last: Seq,
    open: Open,
    in_flight: VecDeque<Unit>,
}

impl Partition {
    fn lowest_unconfirmed(&self) -> Option<Seq> {
        self.in_flight.front().map(|u| u.lowest).or((self.open.events > 0).then_some(self.open.lowest))
    }
}

/// What the broker is known to do about duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Unknown,
    /// Events were stored since the producers were opened, so a probe can tell.
    Testable,
    Known,
}

/// One lane's state. It outlives connections.
#[derive(Clone, Debug)]
pub struct Resume {
    limits: Limits,
    partitions: Vec<Partition>,
    /// Ranges that were refused, as (partition, lowest, highest).
    refused: Vec<(usize, Seq, Seq)>,
    /// Highest stored by this process, per partition; grows with the partitions.
    stored: Vec<Seq>,
    confirmed: Seq,
    /// Highest sequence taken on this connection.
    taken: Seq,
    outstanding_bytes: usize,
    outstanding_events: usize,
    memory: Memory,
    #[cfg(test)]
    pub(super) bug: Option<tests::Bug>,
}

impl Resume {
    /// A lane of which everything up to `confirmed` has arrived.
    pub fn new(confirmed: Seq, limits: Limits) -> Self {
        Self {
            limits,
            partitions: Vec::new(),
            refused: Vec::new(),
            stored: Vec::new(),
            confirmed,
            taken: confirmed,
            outstanding_bytes: 0,
            outstanding_events: 0,
            memory: Memory::Unknown,
            #[cfg(test)]
            bug: None,
        }
    }

    /// Lowers the limit on batches: the broker's own may be smaller.
    pub fn limit_batches(&mut self, bytes: usize) {
        self.limits.batch_bytes = self.limits.batch_bytes.min(bytes);
    }

    /// Where to read the outbox from after [`Input::Opened`].
    pub fn next(&self) -> Seq {
        #[cfg(test)]
        if self.bug == Some(tests::Bug::NoResend) {
            return self.taken + 1;
        }
        self.confirmed + 1
    }

    /// An event of `bytes` may be taken. One always may when nothing is in flight, whatever its size;
    /// none while a probe waits for its turn.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.memory != Memory::Testable
            && (self.outstanding_bytes == 0 || self.outstanding_bytes + bytes <= self.limits.window)
    }

    /// Events taken and not confirmed.
    pub fn outstanding_events(&self) -> usize {
        self.outstanding_events
    }

    /// Their bytes.
    pub fn outstanding_bytes(&self) -> usize {
        self.outstanding_bytes
    }

    /// Something was sent and not answered.
    pub fn awaits_receipts(&self) -> bool {
        self.partitions.iter().any(|p| !p.in_flight.is_empty())
    }

    /// A partition whose producer should be closed and opened again, to learn whether the broker
    /// remembers: once after a start, when the broker named no L at all and has stored something since.
    pub fn wants_probe(&self) -> Option<usize> {
        if self.memory != Memory::Testable || self.outstanding_events > 0 {
            return None;
        }
        self.stored.iter().position(|s| *s > 0)
    }

    /// Takes one input; appends what to do.
    pub fn handle(&mut self, input: Input<'_>, effects: &mut Vec<Effect>) {
        match input {
            Input::Opened { last, last_durable } => self.opened(last, last_durable, effects),
            Input::Event { seq, partition, bytes } => self.event(seq, partition, bytes, effects),
            Input::Flush => self.flush(effects),
            Input::Receipt { partition, seq, duplicate } => self.receipt(partition, seq, duplicate, effects),
            Input::Refused { partition, seq } => self.refused(partition, seq),
            Input::Probed { partition, last } => {
                let remembered = last.unwrap_or(0) >= self.stored[partition];
                // Asked once: an answer in either sense holds until the next connection.
                self.memory = Memory::Known;
                self.partitions[partition].last = last.unwrap_or(0);
                effects.push(if remembered { Effect::Remembered } else { Effect::NotRemembered });
            }
            Input::Lost => self.lost(),
        }
    }

    fn opened(&mut self, last: &[Option<Seq>], last_durable: Seq, effects: &mut Vec<Effect>) {
        self.lost();
        if let Some(ahead) = last.iter().flatten().find(|l| **l > last_durable) {
            effects.push(Effect::Restart(Doubt::AheadOfOutbox { last: *ahead, last_durable }));
            return;
        }
        if self.stored.len() < last.len() {
            self.stored.resize(last.len(), 0);
        }
        self.taken = self.next() - 1;
        self.partitions = last.iter().map(|l| Partition { last: l.unwrap_or(0), ..Partition::default() }).collect();
        // Deduplication that is off names no L, ever. What was stored before must be covered by L.
        let forgot = last.iter().zip(&self.stored).any(|(l, stored)| l.unwrap_or(0) < *stored);
        let names_one = last.iter().any(Option::is_some);
        self.memory = if names_one && !forgot { Memory::Known } else { Memory::Unknown };
        if self.memory == Memory::Known {
            effects.push(Effect::Remembered);
        } else {
            // A producer that was away for too long is forgotten although deduplication is on: only what
            // is stored from now on proves anything.
            self.stored.fill(0);
        }
    }

    fn event(&mut self, seq: Seq, partition: usize, bytes: usize, effects: &mut Vec<Effect>) {
        assert!(seq > self.taken, "the outbox gives sequences in order");
        self.taken = seq;
        #[cfg(test)]
        if self.bug == Some(tests::Bug::TrustLast) && seq <= self.partitions[partition].last {
            return;
        }
        let p = &mut self.partitions[partition];
        self.outstanding_bytes += bytes;
        self.outstanding_events += 1;
        let alone = seq <= p.last;
        #[cfg(test)]
        let alone = alone && self.bug != Some(tests::Bug::Straddle);
        if alone {
            // Sequences increase: nothing beyond L can have been gathered yet.
            assert_eq!(p.open.events, 0, "a batch was begun before L was passed");
            p.in_flight.push_back(Unit { lowest: seq, highest: seq, events: 1, bytes });
            effects.push(Effect::Alone { partition, seq });
            return;
        }
        if p.open.is_full_for(bytes, &self.limits) {
            cut(p, partition, effects);
        }
        p.open.add(seq, bytes);
        effects.push(Effect::Append { partition });
    }

    fn flush(&mut self, effects: &mut Vec<Effect>) {
        for (i, p) in self.partitions.iter_mut().enumerate() {
            if p.open.may_leave(p.in_flight.len(), &self.limits) {
                cut(p, i, effects);
            }
        }
        #[cfg(test)]
        if self.bug == Some(tests::Bug::ConfirmBeforeReceipt) {
            effects.push(Effect::Confirm { through: self.taken });
        }
    }

    fn receipt(&mut self, partition: usize, seq: Seq, duplicate: bool, effects: &mut Vec<Effect>) {
        let front = self.partitions.get(partition).and_then(|p| p.in_flight.front().copied());
        let Some(unit) = front.filter(|u| u.lowest == seq) else {
            let expected = front.map_or(0, |u| u.lowest);
            effects.push(Effect::Restart(Doubt::Unexpected { partition, got: seq, expected }));
            return;
        };
        let overtaken =
            duplicate && self.refused.iter().any(|(p, low, high)| *p == partition && (*low..=*high).contains(&seq));
        #[cfg(test)]
        let overtaken = overtaken && self.bug != Some(tests::Bug::ForgetRefusal);
        if overtaken {
            effects.push(Effect::Restart(Doubt::Overtaken { partition, seq }));
            return;
        }
        let doubtful = duplicate && unit.events > 1;
        #[cfg(test)]
        let doubtful = doubtful && self.bug != Some(tests::Bug::Straddle);
        if doubtful {
            let (lowest, highest) = (unit.lowest, unit.highest);
            effects.push(Effect::Restart(Doubt::BatchDropped { partition, lowest, highest }));
            return;
        }
        let p = &mut self.partitions[partition];
        p.in_flight.pop_front();
        self.outstanding_bytes -= unit.bytes;
        self.outstanding_events -= unit.events;
        self.stored[partition] = self.stored[partition].max(unit.highest);
        if self.memory == Memory::Unknown {
            self.memory = Memory::Testable;
        }
        let lowest = self.partitions.iter().filter_map(Partition::lowest_unconfirmed).min();
        let through = lowest.map_or(self.taken, |l| l - 1);
        if through > self.confirmed {
            self.confirmed = through;
            self.refused.retain(|(_, _, highest)| *highest > through);
            effects.push(Effect::Confirm { through });
        }
    }

    fn refused(&mut self, partition: usize, seq: Seq) {
        let Some(p) = self.partitions.get(partition) else { return };
        let Some(unit) = p.in_flight.iter().find(|u| (u.lowest..=u.highest).contains(&seq)) else { return };
        if self.refused.len() < REFUSED_MAX {
            self.refused.push((partition, unit.lowest, unit.highest));
        } else if let Some(newest) = self.refused.iter_mut().rev().find(|(p, _, _)| *p == partition) {
            (newest.1, newest.2) = (newest.1.min(unit.lowest), newest.2.max(unit.highest));
        }
    }

    fn lost(&mut self) {
        self.partitions.clear();
        self.outstanding_bytes = 0;
        self.outstanding_events = 0;
    }
}

fn cut(p: &mut Partition, partition: usize, effects: &mut Vec<Effect>) {
    let batch = std::mem::take(&mut p.open);
    let Open { lowest, highest, events, bytes } = batch;
    p.in_flight.push_back(Unit { lowest, highest, events, bytes });
    effects.push(Effect::Cut { partition, batch });
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
