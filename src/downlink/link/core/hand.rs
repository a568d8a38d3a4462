//! The commands that are handed over and not yet acknowledged. Which of them the broker sends again, and when room for
//! further ones is given back, follows from here. [pure]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pulsar::message::proto::MessageIdData;

use crate::downlink::link::COMMANDS_MAX;

/// A command that was not taken is asked for again after this: a full disk does not empty at once.
pub const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// An entry's place in its topic: ledger and entry.
pub type Key = (u64, u64);

/// The place that an id names.
pub fn key(id: &MessageIdData) -> Key {
    (id.ledger_id, id.entry_id)
}

#[derive(Debug)]
struct Held {
    id: MessageIdData,
    /// Messages of it that are still with somebody.
    left: usize,
    refused: bool,
    /// The consumer that got it last.
    consumer: u64,
    permits: u32,
}

/// What is to be done for an entry that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Hand it over.
    New,
    /// Somebody has it: so many permits are free at once.
    Known {
        /// How many.
        permits: u32,
    },
    /// More than was asked for.
    TooMany,
}

/// What is to be done for an entry that is over.
#[derive(Debug, PartialEq)]
pub struct Over {
    /// Acknowledge it,
    pub id: MessageIdData,
    /// at this consumer, if it is still the one,
    pub consumer: u64,
    /// and give these permits back.
    pub permits: u32,
}

/// The commands in hand.
#[derive(Debug, Default)]
pub struct Hand {
    held: BTreeMap<Key, Held>,
    /// When what was refused is asked for again.
    again: Option<Instant>,
    /// Permits that what was refused has used up.
    owed: u32,
}

impl Hand {
    /// `consumer` got the entry `id` with so many messages.
    pub fn arrived(&mut self, id: &MessageIdData, consumer: u64, messages: usize, permits: u32) -> Arrival {
        let key = key(id);
        if let Some(held) = self.held.get_mut(&key) {
            if held.consumer == consumer {
                return Arrival::Known { permits };
            }
            // It came again after a reconnect: its permits are those of the new consumer now.
            (held.consumer, held.permits) = (consumer, permits);
            return Arrival::Known { permits: 0 };
        }
        if self.held.len() >= COMMANDS_MAX {
            return Arrival::TooMany;
        }
        self.held.insert(key, Held { id: id.clone(), left: messages, refused: false, consumer, permits });
        Arrival::New
    }

    /// Somebody is done with one message of `key`. `consumer`: the one that is open now.
    pub fn settled(&mut self, key: Key, taken: bool, consumer: Option<u64>, now: Instant) -> Option<Over> {
        let held = self.held.get_mut(&key)?;
        held.left = held.left.saturating_sub(1);
        held.refused |= !taken;
        if held.left > 0 {
            return None;
        }
        let held = self.held.remove(&key)?;
        if !held.refused {
            return Some(Over { id: held.id, consumer: held.consumer, permits: held.permits });
        }
        if consumer == Some(held.consumer) {
            self.owed = self.owed.saturating_add(held.permits);
            self.again = self.again.or(Some(now + AGAIN_AFTER));
        }
        None
    }

    /// The consumer is gone: the next one gets everything again.
    pub fn disconnected(&mut self) {
        (self.again, self.owed) = (None, 0);
    }

    /// When [`Hand::due`] is to be asked.
    pub fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// What was refused is to be asked for again now, with so many permits.
    pub fn due(&mut self, now: Instant) -> Option<u32> {
        self.again.filter(|at| *at <= now)?;
        self.again = None;
        Some(std::mem::take(&mut self.owed))
    }
}
