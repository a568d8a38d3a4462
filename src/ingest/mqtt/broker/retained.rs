//! Retained messages and their bounds (MQTT 5.0 §3.3.1.3). [pure]

use std::sync::Arc;

use super::record::{Message, MessageId, Millis, Record};
use super::{Broker, Due, KEPT_TOPIC_BYTES_MAX, Reaction, outgoing};

/// The last retained message of a topic.
#[derive(Debug)]
pub(super) struct Kept {
    pub message: Arc<Message>,
    /// On disk too; not so what the gateway says of itself.
    pub durable: bool,
    /// What was queued later has a higher number.
    pub since: MessageId,
}

impl Broker {
    /// Whether there is room for it, if it has to be retained.
    pub(super) fn may_retain(&self, topic: &str, message_bytes: usize, payload_empty: bool) -> bool {
        if payload_empty {
            return true;
        }
        if topic.len() > KEPT_TOPIC_BYTES_MAX {
            return false;
        }
        let (known, old) = self.retained.get(topic).map_or((false, 0), |(_, bytes)| (true, bytes));
        (known || self.retained.len() < self.limits.max_retained)
            && self.retained.bytes() - old + message_bytes <= self.limits.max_retained_bytes
    }

    /// Keeps a message with the retain flag, or forgets the one before if its payload is empty [MQTT-3.3.1-5],
    /// [MQTT-3.3.1-6]. `false`: there is no room for it.
    pub(super) fn retain(&mut self, message: &Arc<Message>, durable: bool, reaction: &mut Reaction) -> bool {
        let bytes = outgoing::bytes(message);
        if message.payload.is_empty() {
            self.forget_retained(&message.topic, reaction);
            return true;
        }
        if durable && !self.may_retain(&message.topic, bytes, false) {
            self.counts.dropped.not_retained += 1;
            return false;
        }
        let was_durable = self.put_retained(message.clone(), durable);
        if durable || was_durable {
            let message_if_durable = durable.then(|| message.clone());
            reaction.records.push(Record::Retained { topic: message.topic.clone(), message: message_if_durable });
        }
        true
    }

    /// Puts it in; says whether the one before was on disk.
    pub(super) fn put_retained(&mut self, message: Arc<Message>, durable: bool) -> bool {
        let bytes = outgoing::bytes(&message);
        if let Some(at) = message.expires_at {
            self.due.insert((at, Due::Retained(message.topic.clone())));
        }
        let (topic, expires_at) = (message.topic.clone(), message.expires_at);
        let since = self.new_message_id();
        let Some(old) = self.retained.set(&topic, Kept { message, durable, since }, bytes) else { return false };
        if let Some(at) = old.message.expires_at
            && Some(at) != expires_at
        {
            self.due.remove(&(at, Due::Retained(topic)));
        }
        old.durable
    }

    /// Ends what is retained on a topic, without a word to subscribers.
    pub fn forget_retained(&mut self, topic: &Arc<str>, reaction: &mut Reaction) {
        let Some(old) = self.retained.remove(topic) else { return };
        if let Some(at) = old.message.expires_at {
            self.due.remove(&(at, Due::Retained(topic.clone())));
        }
        if old.durable {
            reaction.records.push(Record::Retained { topic: topic.clone(), message: None });
        }
    }

    pub(super) fn expire_retained(&mut self, now: Millis, topic: &Arc<str>, reaction: &mut Reaction) {
        let expired = |kept: &Kept| kept.message.expires_at.is_some_and(|at| at <= now);
        if self.retained.get(topic).is_some_and(|(kept, _)| expired(kept)) {
            self.forget_retained(topic, reaction);
            self.counts.dropped.expired += 1;
        }
    }
}
