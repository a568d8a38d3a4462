//! What sessions hold besides the messages that wait: names, filters, wills, exchanges of QoS 2, topic aliases. [pure]
//!
//! Each session has a share for itself, which nobody can take from it. What all of them have beyond that is bounded, and looked
//! at before it grows: so memory and journal have room for whatever is granted, and what makes less of it is always possible.

use super::inbound::INCOMING_BYTES;
use super::record::Millis;
use super::session::{Session, Slot, Will};
use super::{Broker, Notice, Reaction};

/// What a session costs besides its names: on disk. In memory it is some 500 bytes more, which `max_sessions` bounds.
const RECORD_BYTES: usize = 64;

/// What a subscription costs besides its text: its places in the session and in the tree.
const SUBSCRIPTION_BYTES: usize = 160;

/// A filter is kept by the session, by the tree, and by the search for retained messages.
const FILTER_COPIES: usize = 3;

/// What a topic alias costs besides its topic.
const ALIAS_BYTES: usize = 32;

/// Levels of all filters of a session, for each subscription that it may have: each can be a node of the tree, of some 200 bytes
/// however short its text is. Topics have three to six.
const LEVELS_PER_SUBSCRIPTION: usize = 10;

/// That there is no room is said this often at most.
const TELL_AFTER_MS: Millis = 60_000;

/// A bound on something that sessions hold.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// So much each may have whatever the others do.
    pub own: usize,
    /// So much all of them may have beyond that.
    pub shared: usize,
}

impl Share {
    fn charge(self, held: usize) -> usize {
        held.saturating_sub(self.own)
    }

    /// Whether a session that has `old` may have `new`, where all have `charged` beyond their own.
    fn allows(self, charged: usize, old: usize, new: usize) -> bool {
        let (old, new) = (self.charge(old), self.charge(new));
        new <= old || charged - old + new <= self.shared
    }
}

/// What a session holds, or more of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// In memory; on disk it is not more.
    pub bytes: usize,
    /// Of filters.
    pub levels: usize,
}

impl Held {
    pub fn of(session: &Session) -> Self {
        let aliases = session.connection.as_ref().map_or(0, |connection| connection.alias_bytes);
        let bytes = names(&session.client_id, &session.owner)
            + FILTER_COPIES * session.subscription_bytes
            + SUBSCRIPTION_BYTES * session.subscriptions.len()
            + INCOMING_BYTES * session.inbound.exactly_once()
            + session.will.as_ref().map_or(0, |will| will.bytes)
            + aliases;
        Self { bytes, levels: session.subscription_levels }
    }

    pub fn subscription(filter: &str, levels: usize) -> Self {
        Self { bytes: FILTER_COPIES * filter.len() + SUBSCRIPTION_BYTES, levels }
    }

    pub fn bytes(bytes: usize) -> Self {
        Self { bytes, levels: 0 }
    }
}

/// What a topic alias costs.
pub(super) fn alias_bytes(topic: &str) -> usize {
    ALIAS_BYTES + topic.len()
}

fn names(client_id: &str, owner: &str) -> usize {
    RECORD_BYTES + client_id.len() + owner.len()
}

impl Broker {
    /// What counts of it against what all sessions share.
    pub(super) fn charged(&self, held: Held) -> Held {
        let limits = &self.limits;
        Held { bytes: limits.held_bytes.charge(held.bytes), levels: limits.held_levels.charge(held.levels) }
    }

    /// Whether a session may hold so much more.
    pub(super) fn may_hold(&self, slot: Slot, more: Held) -> bool {
        let Some(session) = self.sessions.get(slot) else { return false };
        let (limits, old, all) = (&self.limits, session.booked.held, self.pot.held);
        let levels_max =
            (LEVELS_PER_SUBSCRIPTION * limits.max_subscriptions).max(crate::event::topic::TOPIC_LEVELS_MAX);
        limits.held_bytes.allows(all.bytes, old.bytes, old.bytes + more.bytes)
            && limits.held_levels.allows(all.levels, old.levels, old.levels + more.levels)
            && (more.levels == 0 || old.levels + more.levels <= levels_max)
    }

    /// Whether a client may have a session with this will, in place of the one that it has or going on with it. To go on with the
    /// will that it has, a smaller one or none is always possible.
    pub(super) fn may_begin(
        &self,
        known: Option<Slot>,
        clean: bool,
        names_of: (&str, &str),
        will: Option<&Will>,
    ) -> bool {
        let known = known.and_then(|slot| self.sessions.get(slot));
        let old = known.map_or(0, |session| session.booked.held.bytes);
        let kept = known.filter(|_| !clean).map(|session| old - session.will.as_ref().map_or(0, |will| will.bytes));
        let new = kept.unwrap_or_else(|| names(names_of.0, names_of.1)) + will.map_or(0, |will| will.bytes);
        self.limits.held_bytes.allows(self.pot.held.bytes, old, new)
    }

    /// Says, once in a while, that something was refused because there is no room.
    pub(super) fn tell_no_room(&mut self, now: Millis, what: &'static str, client_id: &str, reaction: &mut Reaction) {
        if self.no_room_told.is_none_or(|at| at + TELL_AFTER_MS <= now) {
            self.no_room_told = Some(now);
            reaction.notices.push(Notice::NoRoom { what, client_id: client_id.into() });
        }
    }
}
