//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5.0 §3.8, §3.10). [pure]

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::record::{Millis, Record};
use super::route::Offer;
use super::session::{Options, Slot};
use super::{Broker, Denied, Reaction, SUBSCRIPTION_BYTES_MAX};
use crate::ingest::identity::rules::{is_denied, is_hidden};
use crate::ingest::mqtt::packet::{Answers, FilterOptions, Packet, Reason, RetainHandling, Subscribe, Unsubscribe};
use crate::ingest::mqtt::topic::Filter;

/// What nobody may subscribe to: 0x80, for a server that "does not wish to reveal the reason" (§3.9.3). It is not the
/// client's rights that lack. Paho's suite wants the same, and its client takes no other code.
const HIDDEN: Reason = Reason::UNSPECIFIED;

impl Broker {
    pub(super) fn subscribe(&mut self, now: Millis, slot: Slot, subscribe: Subscribe, reaction: &mut Reaction) {
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut with_retained: Vec<(String, Options)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let shared_no_local =
            |f: &FilterOptions| f.no_local && Filter::parse(&f.filter).is_ok_and(|f| f.group().is_some());
        if subscribe.filters.iter().any(shared_no_local) {
            self.close(slot, Reason::PROTOCOL_ERROR, "no local with a shared subscription", reaction); // [MQTT-3.8.3-4]
            return;
        }
        for filter in subscribe.filters {
            let options = Options::new(&filter, subscribe.subscription_id);
            match self.add_subscription(slot, &filter.filter, options) {
                Ok(new) => {
                    reasons.push(Reason(filter.qos as u8));
                    let send = match filter.retain_handling {
                        RetainHandling::Send => true,
                        RetainHandling::SendIfNew => new,
                        RetainHandling::DoNotSend => false,
                    };
                    let name = filter.filter.clone();
                    if let Some(session) = self.sessions.get(slot).filter(|s| s.persistent) {
                        let (session, subscription_id) = (session.id, subscribe.subscription_id);
                        reaction.records.push(Record::Subscribed { session, options: filter, subscription_id });
                    }
                    if send {
                        // A filter that is there ten thousand times is searched for once, or one packet would stop everybody.
                        match places.entry(name.clone()) {
                            Entry::Occupied(place) => with_retained[*place.get()].1 = options,
                            Entry::Vacant(place) => {
                                place.insert(with_retained.len());
                                with_retained.push((name, options));
                            }
                        }
                    }
                }
                Err(reason) => {
                    reasons.push(reason);
                    if [Reason::NOT_AUTHORIZED, HIDDEN].contains(&reason) {
                        reaction.denied.push(Denied::Subscribe(filter.filter));
                    }
                }
            }
        }
        reaction.replies.push(Packet::Suback(Answers { packet_id: subscribe.packet_id, reasons }));
        for (filter, options) in with_retained {
            self.offer_retained(now, slot, &filter, options, reaction);
        }
    }

    /// Whether it is a new one; a known one gets the new options [MQTT-3.8.4-3].
    fn add_subscription(&mut self, slot: Slot, filter: &str, options: Options) -> Result<bool, Reason> {
        let parsed = Filter::parse(filter).map_err(|_| Reason::TOPIC_FILTER_INVALID)?;
        let session = self.sessions.get_mut(slot).ok_or(Reason::UNSPECIFIED)?;
        let connection = session.connection.as_ref().ok_or(Reason::UNSPECIFIED)?;
        if is_hidden(&self.limits.deny_subscribe, &session.owner, parsed.pattern()) {
            return Err(HIDDEN);
        }
        if !connection.rules.may_subscribe(parsed.pattern()) {
            return Err(Reason::NOT_AUTHORIZED);
        }
        match session.subscriptions.binary_search_by(|(f, _)| (**f).cmp(filter)) {
            Ok(at) => session.subscriptions[at].1 = options,
            Err(at) => {
                if session.subscriptions.len() >= self.limits.max_subscriptions
                    || session.subscription_bytes + filter.len() > SUBSCRIPTION_BYTES_MAX
                {
                    return Err(Reason::QUOTA_EXCEEDED);
                }
                session.subscription_bytes += filter.len();
                session.subscriptions.insert(at, (filter.into(), options));
            }
        }
        Ok(self.subscriptions.insert(parsed, slot, options).is_none())
    }

    /// Retained messages for a new subscription (MQTT 5.0 §3.3.1.3); shared ones get none (§4.8.2).
    fn offer_retained(&mut self, now: Millis, slot: Slot, filter: &str, options: Options, reaction: &mut Reaction) {
        let Ok(parsed) = Filter::parse(filter) else { return };
        if parsed.group().is_some() || !self.has_room_for_retained(slot, options.qos) {
            return;
        }
        let (mut found, denied) = (Vec::new(), &self.limits.deny_subscribe);
        let owner = self.sessions.get(slot).map_or("", |session| &session.owner);
        self.retained.visit(parsed, |kept| {
            let message = &kept.message;
            if message.expires_at.is_none_or(|at| at > now) && !is_denied(denied, owner, &message.topic) {
                found.push(kept.message.clone());
            }
        });
        for message in found {
            if !self.has_room_for_retained(slot, options.qos) {
                return;
            }
            let id = self.new_message_id();
            let ids = options.id.iter().map(|id| id.get()).collect();
            let qos = options.qos.min(message.qos);
            let offer = Offer { id, message: &message, qos, retain: true, ids, because_retained: true };
            if let Some(waiting) = self.offer(now, slot, offer, reaction) {
                reaction.records.push(Record::Queued { id, message, to: vec![waiting], received: None });
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, slot: Slot, unsubscribe: &Unsubscribe, reaction: &mut Reaction) {
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            reasons.push(if Filter::parse(filter).is_err() {
                Reason::TOPIC_FILTER_INVALID
            } else if self.remove_subscription(slot, filter, reaction) {
                Reason::SUCCESS
            } else {
                Reason::NO_SUBSCRIPTION_EXISTED
            });
        }
        reaction.replies.push(Packet::Unsuback(Answers { packet_id: unsubscribe.packet_id, reasons }));
    }

    /// Whether there was one.
    pub(super) fn remove_subscription(&mut self, slot: Slot, filter: &str, reaction: &mut Reaction) -> bool {
        let Some(session) = self.sessions.get_mut(slot) else { return false };
        let Ok(at) = session.subscriptions.binary_search_by(|(f, _)| (**f).cmp(filter)) else { return false };
        session.subscriptions.remove(at);
        session.subscription_bytes -= filter.len();
        if let Ok(parsed) = Filter::parse(filter) {
            self.subscriptions.remove(parsed, slot);
        }
        if session.persistent {
            reaction.records.push(Record::Unsubscribed { session: session.id, filter: filter.to_owned() });
        }
        true
    }
}
