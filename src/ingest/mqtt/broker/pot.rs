//! What waits in all sessions together: how much of it is whose, and from whom it is taken when it is too much. [pure]
//!
//! A session with a connection has [`Limits::guaranteed_bytes`](super::Limits) for itself. What it has beyond that, and all
//! that waits for an absent one, is in a pot of [`Limits::max_total_bytes`](super::Limits). Who wants more than is left in it
//! does not lose: the longest queues do, those of absent clients first.

use std::collections::BTreeSet;

use super::held::Held;
use super::record::Millis;
use super::session::{Session, Slot};
use super::{Broker, Notice, Reaction};

/// So many queues are looked at for something that can be dropped, the largest first: of messages that are under way none can.
const VICTIMS_MAX: usize = 8;

/// A client whose messages were dropped for others is named this often at most.
const TELL_AFTER_MS: Millis = 60_000;

/// The pot is called nearly full from 80 % on, and not again before it was below 70 %.
const NEARLY_FULL: (usize, usize) = (80, 70);

/// What of a session is booked in the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Booked {
    messages: usize,
    bytes: usize,
    /// Bytes in the pot.
    pub charge: usize,
    /// Bytes of QoS 0.
    unreliable: usize,
    absent: bool,
    /// What it holds besides messages.
    pub held: Held,
}

impl Booked {
    fn of(session: &Session, guaranteed: usize) -> Self {
        let unreliable = session.connection.as_ref().map_or(0, |connection| connection.unreliable.bytes);
        let bytes = session.outgoing.bytes + unreliable;
        let absent = !session.connected();
        let charge = if absent { bytes } else { bytes.saturating_sub(guaranteed) };
        let held = Held::of(session);
        Self { messages: session.outgoing.len(), bytes, charge, unreliable, absent, held }
    }

    /// What one more message would add to the pot.
    fn more(&self, bytes: usize, guaranteed: usize) -> usize {
        let free = if self.absent { 0 } else { guaranteed };
        (self.bytes + bytes).saturating_sub(free) - self.charge
    }
}

/// All sessions' messages.
#[derive(Debug, Default)]
pub(super) struct Pot {
    pub messages: usize,
    pub bytes: usize,
    pub charge: usize,
    /// What sessions hold besides messages, beyond what each may.
    pub held: Held,
    /// Queues of QoS 1 and 2 that are in the pot: the absent last, and among them the largest.
    queues: BTreeSet<(bool, usize, Slot)>,
    /// The same of QoS 0.
    unreliable: BTreeSet<(usize, Slot)>,
    nearly_full: bool,
    /// How many messages were taken out for others.
    evicted: u64,
}

impl Pot {
    /// A session has something else than was booked.
    pub fn change(&mut self, slot: Slot, old: Booked, new: Booked) {
        self.messages = self.messages - old.messages + new.messages;
        self.bytes = self.bytes - old.bytes + new.bytes;
        self.charge = self.charge - old.charge + new.charge;
        let queue = |b: &Booked| (b.charge > 0 && b.messages > 0).then_some((b.absent, b.charge, slot));
        let unreliable = |b: &Booked| (b.charge > 0 && b.unreliable > 0).then_some((b.unreliable, slot));
        replace(&mut self.queues, queue(&old), queue(&new));
        replace(&mut self.unreliable, unreliable(&old), unreliable(&new));
    }

    /// How many messages were taken out for others so far.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }
}

fn replace<T: Ord>(set: &mut BTreeSet<T>, old: Option<T>, new: Option<T>) {
    if old != new {
        old.map(|old| set.remove(&old));
        set.extend(new);
    }
}

impl Broker {
    /// To be called after every change of what waits in a session or is held by it, and of whether it has a connection.
    pub(super) fn book(&mut self, slot: Slot) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let new = Booked::of(session, self.limits.guaranteed_bytes);
        let old = std::mem::replace(&mut session.booked, new);
        if old != new {
            self.change_pot(slot, old, new);
        }
    }

    pub(super) fn change_pot(&mut self, slot: Slot, old: Booked, new: Booked) {
        let (before, after) = (self.charged(old.held), self.charged(new.held));
        let held = &mut self.pot.held;
        held.bytes = held.bytes - before.bytes + after.bytes;
        held.levels = held.levels - before.levels + after.levels;
        self.pot.change(slot, old, new);
    }

    /// Makes room in the pot for a message of `bytes`. `reliable`: messages of QoS 1 and 2 may be dropped for it.
    pub(super) fn make_room(
        &mut self,
        now: Millis,
        slot: Slot,
        bytes: usize,
        reliable: bool,
        reaction: &mut Reaction,
    ) -> bool {
        let most = self.limits.max_total_bytes;
        loop {
            let Some(booked) = self.sessions.get(slot).map(|session| session.booked) else { return false };
            let more = booked.more(bytes, self.limits.guaranteed_bytes);
            if more == 0 || self.pot.charge + more <= most {
                return true;
            }
            if more > most || !self.evict(now, booked.charge + more, reliable, reaction) {
                return false;
            }
        }
    }

    /// A connection ended, or the limit is a smaller one now: what is too much goes.
    pub(super) fn fit_pot(&mut self, now: Millis, reaction: &mut Reaction) {
        while self.pot.charge > self.limits.max_total_bytes && self.evict(now, 0, true, reaction) {}
    }

    /// Drops the oldest message of the largest queue: of QoS 0 first, then of an absent client, then of one that has more than
    /// `charge` in the pot.
    fn evict(&mut self, now: Millis, charge: usize, reliable: bool, reaction: &mut Reaction) -> bool {
        if let Some(&(_, slot)) = self.pot.unreliable.last() {
            let connection = self.sessions.get_mut(slot).and_then(|session| session.connection.as_mut());
            let dropped = connection.and_then(|connection| connection.unreliable.pop()).is_some();
            self.counts.dropped.slow += u64::from(dropped);
            self.book(slot);
            return dropped;
        }
        if !reliable {
            return false;
        }
        let may_lose = |&&(absent, bytes, _): &&(bool, usize, Slot)| absent || bytes > charge;
        let largest = self.pot.queues.iter().rev().take(VICTIMS_MAX).filter(may_lose);
        let Some(slot) = largest
            .map(|&(.., slot)| slot)
            .find(|slot| self.sessions.get(*slot).is_some_and(|session| session.outgoing.oldest_unsent().is_some()))
        else {
            return false;
        };
        let Some(session) = self.sessions.get_mut(slot) else { return false };
        let Some(delivery) = session.outgoing.drop_oldest() else { return false };
        session.evicted += 1;
        if session.evicted_told.is_none_or(|at| at + TELL_AFTER_MS <= now) {
            session.evicted_told = Some(now);
            let (client_id, messages) = (session.client_id.clone(), std::mem::take(&mut session.evicted));
            reaction.notices.push(Notice::Evicted { client_id, messages });
        }
        self.counts.dropped.total += 1;
        self.pot.evicted += 1;
        self.done(slot, &delivery, reaction);
        true
    }

    /// Says once that the pot is nearly full.
    pub(super) fn watch_pot(&mut self, reaction: &mut Reaction) {
        let (bytes, bytes_max) = (self.pot.charge, self.limits.max_total_bytes);
        let percent = |percent: usize| bytes_max / 100 * percent;
        if !self.pot.nearly_full && bytes >= percent(NEARLY_FULL.0) && bytes > 0 {
            self.pot.nearly_full = true;
            reaction.notices.push(Notice::NearlyFull { bytes, bytes_max });
        } else if bytes < percent(NEARLY_FULL.1) {
            self.pot.nearly_full = false;
        }
    }

    /// What is booked, and what there is.
    #[cfg(test)]
    pub(super) fn books(&self) -> [(usize, usize, usize, Held); 2] {
        let mut there = (0, 0, 0, Held::default());
        for (_, session) in self.sessions.from(0) {
            let booked = Booked::of(session, self.limits.guaranteed_bytes);
            let held = self.charged(booked.held);
            let held = Held { bytes: there.3.bytes + held.bytes, levels: there.3.levels + held.levels };
            there = (there.0 + booked.messages, there.1 + booked.bytes, there.2 + booked.charge, held);
        }
        [(self.pot.messages, self.pot.bytes, self.pot.charge, self.pot.held), there]
    }
}
