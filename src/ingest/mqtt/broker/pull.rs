//! Retained messages for new subscriptions: fetched when the client can take them, so that they need no queue. [pure]
//!
//! A search looks at so many topics in one turn and goes on where it was in the next: ten thousand filters over ten thousand
//! messages hold up nobody but who asked for it.

use std::collections::HashSet;

use super::outgoing;
use super::record::{MessageId, Millis, Record};
use super::retained::Kept;
use super::route::Offer;
use super::session::{Options, Slot};
use super::{Broker, Reaction};
use crate::ingest::identity::rules::is_denied;
use crate::ingest::mqtt::packet::QoS;
use crate::ingest::mqtt::topic::Filter;
use crate::ingest::mqtt::topic::retained::Cursor;

/// Most topics that are looked at in one turn of a client: less than a millisecond.
pub(super) const STEPS_MAX: usize = 1_000;

/// What a subscription has still to get of the retained messages. At most one for each subscription.
#[derive(Debug)]
pub(super) struct Pull {
    pub filter: Box<str>,
    options: Options,
    cursor: Cursor,
    /// Later ones have come to it like any other message.
    before: MessageId,
}

/// What became of an attempt to fetch one more.
enum Pulled {
    Some,
    /// There is no room for it, or no step left.
    Later,
    /// The front one of the pulls is done.
    Done,
}

impl Broker {
    /// These subscriptions get the retained messages (MQTT 5.0 §3.3.1.3), from the beginning if they were getting them;
    /// shared ones get none (§4.8.2).
    pub(super) fn begin_pulls(&mut self, slot: Slot, subscriptions: Vec<(String, Options)>, reaction: &mut Reaction) {
        let before = self.new_message_id();
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let asked: HashSet<&str> = subscriptions.iter().map(|(filter, _)| filter.as_str()).collect();
        session.pulls.retain(|pull| !asked.contains(&*pull.filter));
        for (filter, options) in subscriptions {
            if Filter::parse(&filter).is_ok_and(|filter| filter.group().is_none()) {
                session.pulls.push_back(Pull { filter: filter.into(), options, cursor: Cursor::default(), before });
            }
        }
        if !session.pulls.is_empty() {
            super::wake(session, reaction);
        }
    }

    /// Fetches retained messages while the client's window has room. `anyway`: one also behind what waits already, or who
    /// always has something waiting would never get any.
    pub(super) fn pull(&mut self, now: Millis, slot: Slot, anyway: bool, steps: &mut usize, reaction: &mut Reaction) {
        let mut anyway = anyway;
        while *steps > 0 {
            let Some(session) = self.sessions.get(slot) else { return };
            let (Some(pull), Some(connection)) = (session.pulls.front(), session.connection.as_ref()) else { return };
            let room = match pull.options.qos {
                QoS::AtMostOnce => connection.unreliable.messages.is_empty(),
                _ => session.outgoing.len() < connection.window && connection.unreliable.messages.is_empty(),
            };
            let reliable = pull.options.qos != QoS::AtMostOnce;
            if !(room || anyway && reliable) {
                return;
            }
            anyway = false;
            match self.pull_one(now, slot, steps, reaction) {
                Pulled::Some => {}
                Pulled::Later => return,
                Pulled::Done => {
                    if let Some(session) = self.sessions.get_mut(slot) {
                        session.pulls.pop_front();
                    }
                }
            }
        }
    }

    fn pull_one(&mut self, now: Millis, slot: Slot, steps: &mut usize, reaction: &mut Reaction) -> Pulled {
        let Some(session) = self.sessions.get(slot) else { return Pulled::Later };
        let Some(pull) = session.pulls.front() else { return Pulled::Later };
        let Ok(filter) = Filter::parse(&pull.filter) else { return Pulled::Done };
        let mut cursor = pull.cursor.clone();
        let wanted = |kept: &Kept| {
            kept.since < pull.before
                && kept.message.expires_at.is_none_or(|at| at > now)
                && !is_denied(&self.limits.deny_subscribe, &session.owner, &kept.message.topic)
        };
        let found = loop {
            match self.retained.next(filter, &mut cursor, steps) {
                Some(kept) if wanted(kept) => break Some(kept.message.clone()),
                Some(_) => {}
                None => break None,
            }
        };
        let options = pull.options;
        let Some(message) = found else {
            if *steps > 0 {
                return Pulled::Done;
            }
            self.move_cursor(slot, cursor);
            return Pulled::Later;
        };
        let ids: Vec<u32> = options.id.iter().map(|id| id.get()).collect();
        let qos = options.qos.min(message.qos);
        if qos != QoS::AtMostOnce
            && !self.has_room_to_pull(now, slot, outgoing::bytes(&message) + ids.len() * 4, reaction)
        {
            return Pulled::Later;
        }
        self.move_cursor(slot, cursor);
        let id = self.new_message_id();
        let offer = Offer { id, message: &message, qos, retain: true, ids, share: None };
        if qos == QoS::AtMostOnce {
            self.queue_unreliable(slot, offer, reaction);
        } else if let Some(waiting) = self.queue(slot, offer, reaction) {
            reaction.records.push(Record::Queued { id, message, to: vec![waiting], received: None, moved: None });
        }
        Pulled::Some
    }

    /// Nobody else loses anything for a retained message, but for the first: where the pot is full, they come one at a time. Where
    /// nothing of the pot can be had, that one has to wait.
    fn has_room_to_pull(&mut self, now: Millis, slot: Slot, bytes: usize, reaction: &mut Reaction) -> bool {
        let first = self.sessions.get(slot).is_some_and(|session| session.outgoing.len() == 0);
        // One that is larger than the pot goes when there is nothing in it.
        let alone = first && self.pot.charge == 0;
        let room = alone || self.has_room(slot, bytes) && self.make_room(now, slot, bytes, first, reaction);
        reaction.later |= first && !room;
        room
    }

    fn move_cursor(&mut self, slot: Slot, cursor: Cursor) {
        if let Some(pull) = self.sessions.get_mut(slot).and_then(|session| session.pulls.front_mut()) {
            pull.cursor = cursor;
        }
    }
}
