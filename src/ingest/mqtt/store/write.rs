//! Records to bytes. [pure]

use super::{VERSION, kind};
use crate::ingest::mqtt::broker::record::{Intent, Message, Record, SessionState, Waiting};
use crate::ingest::mqtt::packet::{FilterOptions, PacketId, Properties, QoS, RetainHandling};

/// The bytes of a record.
pub fn encode(record: &Record) -> Vec<u8> {
    let mut w = Write(vec![VERSION, kind_of(record)]);
    match record {
        Record::Session(state) => w.state(state),
        Record::SessionEnded { session } => w.id(*session),
        Record::SessionExpiry { session, expires_at, expiry_s } => {
            w.id(*session);
            w.flags(&[expires_at.is_some()]);
            expires_at.iter().for_each(|at| w.number(*at));
            w.number((*expiry_s).into());
        }
        Record::Subscribed { session, options, subscription_id } => {
            w.id(*session);
            w.subscription(options, *subscription_id);
        }
        Record::Unsubscribed { session, filter } => {
            w.id(*session);
            w.bytes(filter.as_bytes());
        }
        Record::Intent { session, packet_id, name, digest } => {
            w.id(*session);
            w.packet_id(*packet_id);
            w.number(*name);
            w.id(*digest);
        }
        Record::Received { session, packet_id }
        | Record::Stored { session, packet_id }
        | Record::Released { session, packet_id } => {
            w.id(*session);
            w.packet_id(*packet_id);
        }
        Record::Queued { id, message, to, received, moved } => {
            w.number(*id);
            w.message(message);
            w.count(to.len());
            to.iter().for_each(|t| w.waiting(t));
            w.flags(&[received.is_some(), moved.is_some()]);
            if let Some((session, packet_id)) = received {
                w.id(*session);
                w.packet_id(*packet_id);
            }
            if let Some((session, id)) = moved {
                w.id(*session);
                w.number(*id);
            }
        }
        Record::OutgoingReceived { session, id }
        | Record::OutgoingDone { session, id }
        | Record::OutgoingSent { session, through: id } => {
            w.id(*session);
            w.number(*id);
        }
        Record::Retained { topic, message } => {
            w.bytes(topic.as_bytes());
            w.flags(&[message.is_some()]);
            message.iter().for_each(|m| w.message(m));
        }
        Record::Will { session, will, due_at } => {
            w.id(*session);
            w.flags(&[will.is_some(), due_at.is_some()]);
            if let Some((message, delay_s)) = will {
                w.message(message);
                w.number((*delay_s).into());
            }
            due_at.iter().for_each(|at| w.number(*at));
        }
        Record::Time(now) => w.number(*now),
    }
    w.0
}

fn kind_of(record: &Record) -> u8 {
    match record {
        Record::Session(_) => kind::SESSION,
        Record::SessionEnded { .. } => kind::SESSION_ENDED,
        Record::SessionExpiry { .. } => kind::SESSION_EXPIRY,
        Record::Subscribed { .. } => kind::SUBSCRIBED,
        Record::Unsubscribed { .. } => kind::UNSUBSCRIBED,
        Record::Intent { .. } => kind::INTENT,
        Record::Received { .. } => kind::RECEIVED,
        Record::Stored { .. } => kind::STORED,
        Record::Released { .. } => kind::RELEASED,
        Record::Queued { .. } => kind::QUEUED,
        Record::OutgoingSent { .. } => kind::OUTGOING_SENT,
        Record::OutgoingReceived { .. } => kind::OUTGOING_RECEIVED,
        Record::OutgoingDone { .. } => kind::OUTGOING_DONE,
        Record::Retained { .. } => kind::RETAINED,
        Record::Will { .. } => kind::WILL,
        Record::Time(_) => kind::TIME,
    }
}

struct Write(Vec<u8>);

impl Write {
    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn count(&mut self, n: usize) {
        self.number(n as u64);
    }

    /// A session's, or a digest.
    fn id(&mut self, id: u64) {
        self.0.extend_from_slice(&id.to_le_bytes());
    }

    fn packet_id(&mut self, id: PacketId) {
        self.number(id.get().into());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// At most eight, the first in the lowest bit.
    fn flags(&mut self, flags: &[bool]) {
        self.0.push(flags.iter().rev().fold(0, |byte, flag| byte << 1 | u8::from(*flag)));
    }

    fn subscription(&mut self, options: &FilterOptions, id: Option<u32>) {
        self.bytes(options.filter.as_bytes());
        let handling = match options.retain_handling {
            RetainHandling::Send => 0,
            RetainHandling::SendIfNew => 1,
            RetainHandling::DoNotSend => 2,
        };
        self.0.push(qos(options.qos) | handling << 2);
        self.flags(&[options.no_local, options.retain_as_published, id.is_some()]);
        id.iter().for_each(|id| self.number((*id).into()));
    }

    fn message(&mut self, m: &Message) {
        self.bytes(m.topic.as_bytes());
        self.0.push(qos(m.qos));
        self.flags(&[m.retain, m.properties.is_some(), m.expires_at.is_some()]);
        self.bytes(&m.payload);
        m.properties.iter().for_each(|p| self.properties(p));
        m.expires_at.iter().for_each(|at| self.number(*at));
    }

    fn properties(&mut self, p: &Properties) {
        self.flags(&[
            p.payload_is_utf8.is_some(),
            p.payload_is_utf8 == Some(true),
            p.message_expiry_s.is_some(),
            p.topic_alias.is_some(),
            p.response_topic.is_some(),
            p.correlation_data.is_some(),
            p.content_type.is_some(),
        ]);
        p.message_expiry_s.iter().for_each(|s| self.number((*s).into()));
        p.topic_alias.iter().for_each(|a| self.number(a.get().into()));
        p.response_topic.iter().for_each(|t| self.bytes(t.as_bytes()));
        p.correlation_data.iter().for_each(|d| self.bytes(d));
        p.content_type.iter().for_each(|t| self.bytes(t.as_bytes()));
        self.count(p.user.len());
        for (name, value) in &p.user {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
        self.numbers(&p.subscription_ids);
    }

    fn numbers(&mut self, numbers: &[u32]) {
        self.count(numbers.len());
        numbers.iter().for_each(|n| self.number((*n).into()));
    }

    fn waiting(&mut self, w: &Waiting) {
        self.id(w.session);
        self.0.push(qos(w.qos));
        self.flags(&[w.retain, w.received, w.packet_id.is_some(), w.sent, w.share.is_some()]);
        w.packet_id.iter().for_each(|id| self.packet_id(*id));
        self.numbers(&w.subscription_ids);
        w.share.iter().for_each(|share| self.bytes(share.as_bytes()));
    }

    fn state(&mut self, s: &SessionState) {
        self.id(s.session);
        self.bytes(s.client_id.as_bytes());
        self.bytes(s.owner.as_bytes());
        let due_at = s.will.as_ref().and_then(|w| w.2);
        self.flags(&[s.expires_at.is_some(), s.queue_continues, s.will.is_some(), due_at.is_some()]);
        s.expires_at.iter().for_each(|at| self.number(*at));
        self.number(s.expiry_s.into());
        self.count(s.subscriptions.len());
        s.subscriptions.iter().for_each(|(options, id)| self.subscription(options, *id));
        self.count(s.intents.len());
        for Intent { packet_id, name, digest, stored } in &s.intents {
            self.packet_id(*packet_id);
            self.number(*name);
            self.id(*digest);
            self.flags(&[*stored]);
        }
        self.count(s.received.len());
        for (packet_id, digest) in &s.received {
            self.packet_id(*packet_id);
            self.id(*digest);
        }
        self.count(s.queue.len());
        for (id, message, waiting) in &s.queue {
            self.number(*id);
            self.message(message);
            self.waiting(waiting);
        }
        if let Some((message, delay_s, _)) = &s.will {
            self.message(message);
            self.number((*delay_s).into());
        }
        due_at.iter().for_each(|at| self.number(*at));
    }
}

fn qos(qos: QoS) -> u8 {
    match qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => 2,
    }
}
