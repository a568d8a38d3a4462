//! A connection's place at the broker, and what it says to it.

use std::sync::Arc;

use super::{Effects, Hub};
use crate::ingest::mqtt::broker::record::Millis;
use crate::ingest::mqtt::broker::{Broker, ConnectionId, Published, Reaction, Unstored, Who};
use crate::ingest::mqtt::packet::{Connect, Packet, PacketId, Publish, Reason};
use crate::ingest::mqtt::signal::Signal;
use crate::journal::Journal;

/// A connection's place at the broker. When it is dropped the connection is over, whatever the cause.
pub struct Seat {
    pub(super) hub: Hub,
    pub(super) connection: ConnectionId,
    pub(super) signal: Arc<Signal>,
}

impl Seat {
    /// Says something to the broker, all of it under one lock.
    pub fn turn<T>(&self, work: impl FnOnce(&mut Turn<'_>) -> T) -> (T, Effects) {
        self.hub.turn(self.connection, work)
    }

    /// How others reach this connection.
    pub fn signal(&self) -> &Signal {
        &self.signal
    }

    /// Where the records are.
    pub fn journal(&self) -> &Journal {
        self.hub.journal()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let connection = self.connection;
        self.hub.own(|broker, now| broker.closed(now, connection));
        self.hub.lock().open.remove(&connection);
    }
}

/// Inputs for the broker under one lock; what it says to them adds up.
pub struct Turn<'a> {
    pub(super) broker: &'a mut Broker,
    pub(super) now: Millis,
    pub(super) connection: ConnectionId,
    pub(super) all: Reaction,
    /// CONNECT is among the inputs.
    pub(super) connects: bool,
}

impl Turn<'_> {
    /// See [`Broker::connect`].
    pub fn connect(&mut self, connect: Connect, who: Who) {
        self.connects = true;
        let reaction = self.broker.connect(self.now, self.connection, connect, who);
        self.add(reaction);
    }

    /// See [`Broker::publish`].
    pub fn publish(&mut self, publish: Publish) -> Published {
        let (published, reaction) = self.broker.publish(self.now, self.connection, publish);
        self.add(reaction);
        published
    }

    /// See [`Broker::publish_refused`].
    pub fn publish_refused(&mut self, publish: Publish, reason: Reason) -> Published {
        let (published, reaction) = self.broker.publish_refused(self.now, self.connection, publish, reason);
        self.add(reaction);
        published
    }

    /// See [`Broker::packet`].
    pub fn packet(&mut self, packet: Packet) {
        let reaction = self.broker.packet(self.now, self.connection, packet);
        self.add(reaction);
    }

    /// See [`Broker::stored`].
    pub fn stored(&mut self, results: &[(PacketId, Result<(), Unstored>)]) {
        let reaction = self.broker.stored(self.now, self.connection, results);
        self.add(reaction);
    }

    /// See [`Broker::take`].
    pub fn take(&mut self, max_bytes: usize, largest: usize) {
        let reaction = self.broker.take(self.now, self.connection, max_bytes, largest);
        self.add(reaction);
    }

    /// Whether the connection must end; then it has nothing more to say.
    pub fn is_over(&self) -> bool {
        self.all.close.is_some()
    }

    pub(super) fn add(&mut self, reaction: Reaction) {
        let Reaction { records, replies, wake, kick, published, denied, notices, words, needs, later, close } =
            reaction;
        append(&mut self.all.records, records);
        append(&mut self.all.replies, replies);
        append(&mut self.all.wake, wake);
        append(&mut self.all.kick, kick);
        append(&mut self.all.published, published);
        append(&mut self.all.denied, denied);
        append(&mut self.all.notices, notices);
        append(&mut self.all.words, words);
        self.all.later |= later;
        self.all.needs = self.all.needs.or(needs);
        self.all.close = self.all.close.or(close);
    }
}

fn append<T>(to: &mut Vec<T>, mut more: Vec<T>) {
    if to.is_empty() {
        *to = more;
    } else {
        to.append(&mut more);
    }
}
