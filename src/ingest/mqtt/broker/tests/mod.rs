//! The broker's promises, one test for each, and a site to make them at.

mod bounding;
mod connecting;
mod delivering;
mod ending;
mod model;
mod publishing;
mod restoring;
mod sharing;
mod subscribing;

use std::collections::HashSet;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{Message, Millis, Record};
use super::*;
use crate::ingest::mqtt::packet::{
    Ack, Connack, Connect, Disconnect, FilterOptions, PacketId, Properties, Publish, QoS, RetainHandling, Subscribe,
    Unsubscribe, Version, Will,
};
use crate::ingest::mqtt::store;
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

/// What a client may do not: anything about these.
#[derive(Debug, Default)]
struct Except(HashSet<&'static str>);

impl Rules for Except {
    fn may_publish(&self, topic: &str) -> bool {
        !self.0.contains(topic)
    }
    fn may_subscribe(&self, filter: &str) -> bool {
        !self.0.contains(filter)
    }
}

pub(crate) fn anybody() -> Who {
    who("", &[])
}

fn who(owner: &str, denied: &[&'static str]) -> Who {
    Who { owner: owner.into(), rules: Arc::new(Except(denied.iter().copied().collect())) }
}

fn limits() -> Limits {
    Limits {
        receive_max: 10,
        max_packet: 65_536,
        topic_alias_max: 4,
        keep_alive_max_s: 60,
        session_expiry_max_s: 1_000_000,
        max_sessions: 20,
        max_subscriptions: 10,
        max_queued: 100,
        max_queued_bytes: 1 << 20,
        max_total_bytes: 4 << 20,
        guaranteed_bytes: 1_000,
        held_bytes: Share { own: 1_000, shared: 1 << 20 },
        held_levels: Share { own: 10, shared: 10_000 },
        max_retained: 20,
        max_retained_bytes: 1 << 20,
        deny_subscribe: Arc::new([]),
    }
}

fn pid(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

/// A 5.0 CONNECT with a clean start and no session expiry.
pub(crate) fn connect(client_id: &str) -> Connect {
    Connect {
        version: Version::V5,
        bridge: false,
        clean_start: true,
        keep_alive_s: 30,
        client_id: client_id.into(),
        will: None,
        user_name: None,
        password: None,
        session_expiry_s: None,
        receive_maximum: NonZeroU16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_response_information: false,
        request_problem_information: true,
        authentication_method: None,
        user_properties: Vec::new(),
    }
}

/// One that goes on with its session if there is one, which outlives the connection by an hour.
fn lasting(client_id: &str) -> Connect {
    Connect { clean_start: false, session_expiry_s: Some(3600), ..connect(client_id) }
}

/// A 3.1.1 CONNECT.
fn v311(client_id: &str, clean: bool) -> Connect {
    let session_expiry_s = (!clean).then_some(u32::MAX);
    Connect { version: Version::V311, clean_start: clean, session_expiry_s, ..connect(client_id) }
}

fn with_will(connect: Connect, topic: &str, delay_s: u32) -> Connect {
    let message = Publish { payload: Bytes::from_static(b"gone"), ..message(topic, AtLeastOnce, "gone") };
    Connect { will: Some(Will { message, delay_s }), ..connect }
}

/// A PUBLISH; its packet id is 1 if it needs one.
fn message(topic: &str, qos: QoS, payload: &str) -> Publish {
    let packet_id = (qos != AtMostOnce).then(|| pid(1));
    Publish { qos, topic: topic.into(), packet_id, payload: Bytes::from(payload.to_owned()), ..Publish::default() }
}

fn with(publish: Publish, change: impl FnOnce(&mut Properties)) -> Publish {
    let mut properties = publish.properties.clone().unwrap_or_default();
    change(&mut properties);
    Publish { properties: Some(properties), ..publish }
}

fn filter(filter: &str, qos: QoS) -> FilterOptions {
    let (no_local, retain_as_published, retain_handling) = (false, false, RetainHandling::Send);
    FilterOptions { filter: filter.into(), qos, no_local, retain_as_published, retain_handling }
}

/// The outbox is full.
fn full() -> Result<(), Unstored> {
    Err(Unstored::for_now(Reason::QUOTA_EXCEEDED))
}

/// The outbox has not looked at it.
fn busy() -> Result<(), Unstored> {
    Err(Unstored { unsure: true, ..Unstored::for_now(Reason::QUOTA_EXCEEDED) })
}

/// It cannot be an event.
fn unfit() -> Result<(), Unstored> {
    Err(Unstored::for_good(Reason::PAYLOAD_FORMAT_INVALID))
}

fn ack(id: PacketId) -> Ack {
    packets::ack(id, Reason::SUCCESS)
}

/// A broker with a shell that does at once what it is told.
struct Site {
    broker: Broker,
    now: Millis,
    records: Vec<Record>,
    kicked: Vec<(ConnectionId, Reason)>,
    published: Vec<LastWill>,
    woken: Vec<ConnectionId>,
    denied: Vec<Denied>,
    notices: Vec<Notice>,
    connections: u64,
    next_id: u16,
}

impl Site {
    fn new() -> Self {
        Self::with(limits())
    }

    fn with(limits: Limits) -> Self {
        Self {
            broker: Broker::new(limits, 1_000),
            now: 1_000_000,
            records: Vec::new(),
            kicked: Vec::new(),
            published: Vec::new(),
            woken: Vec::new(),
            denied: Vec::new(),
            notices: Vec::new(),
            connections: 0,
            next_id: 0,
        }
    }

    /// Does what a reaction asks for, and leaves the rest.
    fn shell(&mut self, reaction: Reaction) -> Reaction {
        for record in &reaction.records {
            self.records.push(store::decode(&store::encode(record)).unwrap());
        }
        self.kicked.extend(&reaction.kick);
        self.published.extend(reaction.published.iter().cloned());
        self.woken.extend(&reaction.wake);
        self.denied.extend(reaction.denied.iter().cloned());
        self.notices.extend(reaction.notices.iter().cloned());
        reaction
    }

    fn try_connect(&mut self, connect: Connect, who: Who) -> (ConnectionId, Connack, Option<Reason>) {
        self.connections += 1;
        let id = ConnectionId(self.connections);
        let reaction = self.broker.connect(self.now, id, connect, who);
        let mut reaction = self.shell(reaction);
        let Some(Packet::Connack(connack)) = reaction.replies.pop() else { panic!("no CONNACK: {reaction:?}") };
        assert!(reaction.replies.is_empty());
        let close = reaction.close.map(|(reason, _)| reason);
        assert_eq!(connack.reason.is_error(), close.is_some());
        (id, *connack, close)
    }

    fn connect(&mut self, connect: Connect) -> ConnectionId {
        let (id, connack, _) = self.try_connect(connect, anybody());
        assert_eq!(connack.reason, Reason::SUCCESS);
        id
    }

    fn refused(&mut self, connect: Connect, who: Who) -> Reason {
        let (_, connack, close) = self.try_connect(connect, who);
        assert_eq!(Some(connack.reason), close);
        connack.reason
    }

    /// Says whether it was resumed.
    fn resumes(&mut self, connect: Connect) -> (ConnectionId, bool) {
        let (id, connack, close) = self.try_connect(connect, anybody());
        assert_eq!(close, None);
        (id, connack.session_present)
    }

    fn packet(&mut self, from: ConnectionId, packet: Packet) -> Reaction {
        let reaction = self.broker.packet(self.now, from, packet);
        self.shell(reaction)
    }

    fn subscribe(&mut self, from: ConnectionId, filters: Vec<FilterOptions>) -> Vec<Reason> {
        self.subscribe_as(from, filters, None)
    }

    fn subscribe_as(&mut self, from: ConnectionId, filters: Vec<FilterOptions>, id: Option<u32>) -> Vec<Reason> {
        let subscribe = Subscribe { packet_id: pid(9), subscription_id: id, filters };
        let reaction = self.packet(from, Packet::Subscribe(Box::new(subscribe)));
        match &reaction.replies[..] {
            [Packet::Suback(answers)] if answers.packet_id == pid(9) => answers.reasons.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn unsubscribe(&mut self, from: ConnectionId, filters: &[&str]) -> Vec<Reason> {
        let filters = filters.iter().map(|f| (*f).to_owned()).collect();
        let reaction = self.packet(from, Packet::Unsubscribe(Box::new(Unsubscribe { packet_id: pid(8), filters })));
        match &reaction.replies[..] {
            [Packet::Unsuback(answers)] if answers.packet_id == pid(8) => answers.reasons.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn publish(&mut self, from: ConnectionId, publish: Publish) -> (Published, Reaction) {
        let (published, reaction) = self.broker.publish(self.now, from, publish);
        (published, self.shell(reaction))
    }

    fn stored(&mut self, from: ConnectionId, results: &[(PacketId, Result<(), Unstored>)]) -> Reaction {
        let reaction = self.broker.stored(self.now, from, results);
        self.shell(reaction)
    }

    /// The whole exchange, with a packet id of its own; says how it was answered.
    fn send(&mut self, from: ConnectionId, publish: Publish) -> Option<Reason> {
        self.next_id = self.next_id % 60_000 + 1;
        let id = pid(self.next_id);
        let publish = Publish { packet_id: publish.packet_id.map(|_| id), ..publish };
        let qos = publish.qos;
        let (published, reaction) = self.publish(from, publish);
        let mut replies = reaction.replies;
        if matches!(published, Published::New { .. }) && qos != AtMostOnce {
            replies.extend(self.stored(from, &[(id, Ok(()))]).replies);
        }
        match (qos, &replies[..]) {
            (AtLeastOnce, [Packet::Puback(ack)]) if ack.packet_id == id => Some(ack.reason),
            (ExactlyOnce, [Packet::Pubrec(received)]) if received.packet_id == id => {
                if !received.reason.is_error() {
                    let replies = self.packet(from, Packet::Pubrel(ack(id))).replies;
                    assert_eq!(replies, [Packet::Pubcomp(ack(id))]);
                }
                Some(received.reason)
            }
            (_, []) => None,
            other => panic!("{other:?}"),
        }
    }

    /// What goes out, without an answer to it.
    fn take(&mut self, to: ConnectionId) -> Vec<Packet> {
        let mut all = Vec::new();
        loop {
            let reaction = self.broker.take(self.now, to, 1_000, usize::MAX);
            let reaction = self.shell(reaction);
            if reaction.replies.is_empty() && !reaction.wake.contains(&to) {
                return all;
            }
            all.extend(reaction.replies);
        }
    }

    /// The same, PUBLISH packets only.
    fn taken(&mut self, to: ConnectionId) -> Vec<Publish> {
        let publish = |packet| match packet {
            Packet::Publish(publish) => *publish,
            other => panic!("{other:?}"),
        };
        self.take(to).into_iter().map(publish).collect()
    }

    /// Everything that a client gets if it answers as it should.
    fn receive(&mut self, to: ConnectionId) -> Vec<Publish> {
        let mut all = Vec::new();
        loop {
            let packets = self.take(to);
            if packets.is_empty() {
                return all;
            }
            for packet in packets {
                match packet {
                    Packet::Publish(publish) => {
                        self.acknowledge(to, &publish);
                        all.push(*publish);
                    }
                    Packet::Pubrel(release) => {
                        self.packet(to, Packet::Pubcomp(ack(release.packet_id)));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn acknowledge(&mut self, from: ConnectionId, publish: &Publish) {
        match (publish.qos, publish.packet_id) {
            (AtLeastOnce, Some(id)) => assert!(self.packet(from, Packet::Puback(ack(id))).replies.is_empty()),
            (ExactlyOnce, Some(id)) => {
                assert_eq!(self.packet(from, Packet::Pubrec(ack(id))).replies, [Packet::Pubrel(ack(id))]);
                self.packet(from, Packet::Pubcomp(ack(id)));
            }
            _ => {}
        }
    }

    fn payloads(&mut self, to: ConnectionId) -> Vec<String> {
        self.receive(to).iter().map(|p| String::from_utf8_lossy(&p.payload).into_owned()).collect()
    }

    /// The connection breaks.
    fn lose(&mut self, connection: ConnectionId) {
        let reaction = self.broker.closed(self.now, connection);
        self.shell(reaction);
    }

    fn disconnect(&mut self, connection: ConnectionId, reason: Reason, session_expiry_s: Option<u32>) -> Reaction {
        let disconnect = Disconnect { reason, session_expiry_s, reason_string: None };
        self.packet(connection, Packet::Disconnect(Box::new(disconnect)))
    }

    fn bye(&mut self, connection: ConnectionId) {
        assert!(self.disconnect(connection, Reason::SUCCESS, None).close.is_none());
        self.lose(connection); // the socket, as the shell sees it
    }

    /// Time passes.
    fn pass(&mut self, seconds: u64) {
        self.now += seconds * 1000;
        while self.broker.next_deadline().is_some_and(|at| at <= self.now) {
            let reaction = self.broker.tick(self.now);
            self.shell(reaction);
        }
    }

    /// The gateway is killed, and starts again from its records.
    fn restart(&mut self) {
        self.restart_after(0);
    }

    /// The same, after a time by its clock.
    fn restart_after(&mut self, away_ms: Millis) {
        self.now += away_ms;
        let limits = self.broker.limits.clone();
        self.broker = Broker::new(limits, 7_000_000 + self.connections);
        for record in self.records.clone() {
            self.broker.restore(record);
        }
        let reaction = self.broker.restored(self.now, away_ms);
        self.shell(reaction);
    }
}
