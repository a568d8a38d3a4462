//! Wills: what is published when a connection ends without DISCONNECT (MQTT 5.0 §3.1.2.5). [pure]

use std::sync::Arc;

use super::record::{Millis, Record};
use super::session::{Slot, Will};
use super::{Broker, Due, LastWill, Reaction};

impl Broker {
    /// Another will, or none.
    pub(super) fn set_will(&mut self, slot: Slot, will: Option<Box<Will>>, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let old = std::mem::replace(&mut session.will, will);
        if let Some(at) = old.as_ref().and_then(|old| old.due_at) {
            self.due.remove(&(at, Due::Will(session.id)));
        }
        if session.persistent && (old.is_some() || session.will.is_some()) {
            let will = session.will.as_ref();
            reaction.records.push(Record::Will {
                session: session.id,
                will: will.map(|will| (will.message.clone(), will.delay_s)),
                due_at: will.and_then(|will| will.due_at),
            });
        }
        self.book(slot);
    }

    /// The connection has ended: the will is due now, or after its delay [MQTT-3.1.2-8].
    pub(super) fn delay_will(&mut self, now: Millis, slot: Slot, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(will) = session.will.as_ref() else { return };
        let due_at = now + u64::from(will.delay_s) * 1000;
        if due_at <= now || session.expires_at.is_some_and(|at| at <= now) {
            self.publish_will(now, slot, reaction);
            return;
        }
        let will = Will::new(will.message.clone(), will.delay_s, Some(due_at));
        self.due.insert((due_at, Due::Will(session.id)));
        self.set_will(slot, Some(will), reaction);
    }

    /// Publishes the will if there is one.
    pub(super) fn publish_will(&mut self, now: Millis, slot: Slot, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get(slot) else { return };
        let Some((message, bytes)) = session.will.as_ref().map(|will| (will.message.clone(), will.bytes)) else {
            return;
        };
        let (client_id, owner) = (session.client_id.clone(), session.owner.clone());
        let expiry_s = message.properties.as_ref().and_then(|p| p.message_expiry_s);
        let message = match expiry_s {
            // §3.1.3.2.4: counted from now.
            Some(s) => {
                let mut message = (*message).clone();
                message.expires_at = Some(now + u64::from(s) * 1000);
                Arc::new(message)
            }
            None => message,
        };
        self.counts.wills += 1;
        self.deliver(now, &message, Some(slot), reaction);
        reaction.published.push(LastWill { message, client_id, owner, bytes });
        // Last: a power cut in between repeats the will and does not lose it.
        self.set_will(slot, None, reaction);
    }
}
