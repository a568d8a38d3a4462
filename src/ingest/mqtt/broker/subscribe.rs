//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5.0 §3.8, §3.10). [pure]

use std::collections::HashMap;

use super::held::Held;
use super::record::{Millis, Record};
use super::session::{Options, Slot};
use super::{Broker, Denied, Reaction, SUBSCRIPTION_BYTES_MAX};
use crate::ingest::identity::rules::is_hidden;
use crate::ingest::mqtt::packet::{Answers, FilterOptions, Packet, Reason, RetainHandling, Subscribe, Unsubscribe};
use crate::ingest::mqtt::topic::Filter;

/// What nobody may subscribe to: 0x80, for a server that "does not wish to reveal the reason" (§3.9.3). It is not the
/// client's rights that lack. Paho's suite wants the same, and its client takes no other code.
const HIDDEN: Reason = Reason::UNSPECIFIED;

/// Where what a filter asks for is in the lists.
#[derive(Default)]
struct Place {
    pull: Option<usize>,
    record: Option<usize>,
}

/// The last one counts.
fn put<T>(list: &mut Vec<T>, place: &mut Option<usize>, item: T) {
    match place.and_then(|at| list.get_mut(at)) {
        Some(known) => *known = item,
        None => {
            *place = Some(list.len());
            list.push(item);
        }
    }
}

impl Broker {
    pub(super) fn subscribe(&mut self, now: Millis, slot: Slot, subscribe: Subscribe, reaction: &mut Reaction) {
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut with_retained: Vec<(String, Options)> = Vec::new();
        // A filter that is there ten thousand times is one subscription.
        let mut places: HashMap<String, Place> = HashMap::new();
        let shared_no_local =
            |f: &FilterOptions| f.no_local && Filter::parse(&f.filter).is_ok_and(|f| f.group().is_some());
        if subscribe.filters.iter().any(shared_no_local) {
            self.close(slot, Reason::PROTOCOL_ERROR, "no local with a shared subscription", reaction); // [MQTT-3.8.3-4]
            return;
        }
        let bridge = self.sessions.get(slot).is_some_and(|session| session.bridge);
        for mut filter in subscribe.filters {
            if bridge {
                // What 3.1.1 cannot ask for and mosquitto gives a bridge: it wants back nothing of its own, and keeps what is retained.
                filter.no_local = Filter::parse(&filter.filter).is_ok_and(|f| f.group().is_none());
                filter.retain_as_published = true;
            }
            let options = Options::new(&filter, subscribe.subscription_id);
            match self.add_subscription(slot, &filter.filter, options) {
                Ok(new) => {
                    reasons.push(Reason(filter.qos as u8));
                    let send = match filter.retain_handling {
                        RetainHandling::Send => true,
                        RetainHandling::SendIfNew => new,
                        RetainHandling::DoNotSend => false,
                    };
                    let place = places.entry(filter.filter.clone()).or_default();
                    if send {
                        let pull = (filter.filter.clone(), options);
                        put(&mut with_retained, &mut place.pull, pull);
                    }
                    if let Some(session) = self.sessions.get(slot).filter(|s| s.persistent) {
                        let (session, subscription_id) = (session.id, subscribe.subscription_id);
                        let record = Record::Subscribed { session, options: filter, subscription_id };
                        put(&mut reaction.records, &mut place.record, record);
                    }
                }
                Err(reason) => {
                    reasons.push(reason);
                    if reason == Reason::QUOTA_EXCEEDED
                        && let Some(client_id) = self.sessions.get(slot).map(|session| session.client_id.clone())
                    {
                        self.tell_no_room(now, "a subscription", &client_id, reaction);
                    }
                    if [Reason::NOT_AUTHORIZED, HIDDEN].contains(&reason) {
                        reaction.denied.push(Denied::Subscribe(filter.filter));
                    }
                }
            }
        }
        reaction.replies.push(Packet::Suback(Answers { packet_id: subscribe.packet_id, reasons }));
        self.begin_pulls(slot, with_retained, reaction);
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
                    || !self.may_hold(slot, Held::subscription(filter, parsed.levels()))
                {
                    return Err(Reason::QUOTA_EXCEEDED);
                }
                let session = self.sessions.get_mut(slot).ok_or(Reason::UNSPECIFIED)?;
                session.subscription_bytes += filter.len();
                session.subscription_levels += parsed.levels();
                session.subscriptions.insert(at, (filter.into(), options));
                self.book(slot);
            }
        }
        Ok(self.subscriptions.insert(parsed, slot, options).is_none())
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
            session.subscription_levels -= parsed.levels();
            self.subscriptions.remove(parsed, slot);
        }
        session.pulls.retain(|pull| *pull.filter != *filter);
        if session.persistent {
            reaction.records.push(Record::Unsubscribed { session: session.id, filter: filter.to_owned() });
        }
        self.book(slot);
        true
    }
}
