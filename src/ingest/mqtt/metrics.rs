//! What the MQTT way in counts.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::packet::{Packet, QoS};
use super::transport::Kind;
use super::upstream::Why;
use crate::observe::metrics::Metrics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FateLabel {
    qos: u8,
    fate: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Names of the packet types, by their numbers (MQTT 5.0 §2.1.2).
const TYPES: [&str; 16] = [
    "reserved",
    "connect",
    "connack",
    "publish",
    "puback",
    "pubrec",
    "pubrel",
    "pubcomp",
    "subscribe",
    "suback",
    "unsubscribe",
    "unsuback",
    "pingreq",
    "pingresp",
    "disconnect",
    "auth",
];

/// Label of messages that were not stored upstream because of their content, the outbox …: [`Why`].
const FATES: [&str; 4] = ["upstream", "local", "refused", "lost"];

/// From a commit on a fast disk to a hung one, in seconds.
const ACK_BUCKETS_S: [f64; 13] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// On disk for Pulsar.
    Upstream,
    /// For local subscribers only.
    Local,
    /// Not taken upstream.
    Refused(Why),
    /// The same, and acknowledged, because its client cannot be told and it could never be taken.
    Lost(Why),
}

/// The counters; clones share them. Those of the hot path are looked up once.
#[derive(Clone)]
pub struct Counters(Arc<Inner>);

struct Inner {
    connections: [Counter; 4],
    open: [Gauge; 4],
    packets_in: [Counter; 16],
    packets_out: [Counter; 16],
    fates: [[Counter; FATES.len()]; 3],
    refused: [Counter; Why::ALL.len()],
    bytes_in: Counter,
    bytes_out: Counter,
    connects_refused: Counter,
    accept_errors: Counter,
    ack_seconds: Histogram,
    memory: Gauge,
}

fn each<L, C, const N: usize>(family: &Family<L, C>, label: impl Fn(usize) -> L) -> [C; N]
where
    L: Clone + std::hash::Hash + Eq,
    C: Clone + Default,
{
    std::array::from_fn(|i| family.get_or_create(&label(i)).clone())
}

impl Counters {
    /// Registers everything in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let connections = Family::<KindLabel, Counter>::default();
        let open = Family::<KindLabel, Gauge>::default();
        let (packets_in, packets_out) =
            (Family::<TypeLabel, Counter>::default(), Family::<TypeLabel, Counter>::default());
        let fates = Family::<FateLabel, Counter>::default();
        let refused = Family::<ReasonLabel, Counter>::default();
        let kind = |i: usize| KindLabel { kind: Kind::ALL[i].name() };
        let packet_type = |i: usize| TypeLabel { r#type: TYPES[i] };
        let new = Inner {
            connections: each(&connections, kind),
            open: each(&open, kind),
            packets_in: each(&packets_in, packet_type),
            packets_out: each(&packets_out, packet_type),
            fates: [0, 1, 2].map(|qos| each(&fates, |i| FateLabel { qos, fate: FATES[i] })),
            refused: each(&refused, |i| ReasonLabel { reason: Why::ALL[i].name() }),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            connects_refused: Counter::default(),
            accept_errors: Counter::default(),
            ack_seconds: Histogram::new(ACK_BUCKETS_S),
            memory: Gauge::default(),
        };
        metrics.register(|r| {
            r.register("mqtt_connections", "Connections accepted, by what they came over", connections);
            r.register("mqtt_connections_open", "Connections open now", open);
            r.register("mqtt_packets_received", "Packets from clients", packets_in);
            r.register("mqtt_packets_sent", "Packets to clients", packets_out);
            r.register("mqtt_messages", "Messages from clients by quality of service and what became of them", fates);
            r.register("mqtt_refused", "Messages that were not taken upstream, by reason", refused);
            r.register("mqtt_received_bytes", "Bytes from clients, without TLS and WebSocket", new.bytes_in.clone());
            r.register("mqtt_sent_bytes", "Bytes to clients, without TLS and WebSocket", new.bytes_out.clone());
            r.register(
                "mqtt_connects_refused",
                "Connections that never got as far as a session",
                new.connects_refused.clone(),
            );
            r.register("mqtt_accept_errors", "Failures to accept a connection", new.accept_errors.clone());
            r.register(
                "mqtt_ack_seconds",
                "From PUBLISH (QoS 1 and 2) to its PUBACK or PUBREC",
                new.ack_seconds.clone(),
            );
            r.register(
                "mqtt_memory_bytes",
                "Bytes held for large packets and messages on their way to the disk",
                new.memory.clone(),
            );
        });
        Self(Arc::new(new))
    }

    /// A connection was accepted; it is open until the result is dropped.
    pub fn open(&self, kind: Kind) -> Open {
        self.0.connections[kind as usize].inc();
        self.0.open[kind as usize].inc();
        Open(self.clone(), kind)
    }

    /// A packet came.
    pub fn packet_in(&self, packet: &Packet) {
        self.0.packets_in[number(packet)].inc();
    }

    /// Packets are with the kernel.
    pub fn packets_out(&self, tally: &Tally) {
        for (counter, &n) in self.0.packets_out.iter().zip(&tally.0).filter(|(_, n)| **n > 0) {
            counter.inc_by(n.into());
        }
    }

    /// `n` messages of `qos` met their fate.
    pub fn fate(&self, qos: QoS, fate: Fate, n: u64) {
        let at = match fate {
            Fate::Upstream => 0,
            Fate::Local => 1,
            Fate::Refused(why) | Fate::Lost(why) => {
                self.0.refused[why as usize].inc_by(n);
                if matches!(fate, Fate::Refused(_)) { 2 } else { 3 }
            }
        };
        self.0.fates[qos as usize][at].inc_by(n);
    }

    /// Bytes came.
    pub fn bytes_in(&self, n: usize) {
        self.0.bytes_in.inc_by(n as u64);
    }

    /// Bytes went.
    pub fn bytes_out(&self, n: usize) {
        self.0.bytes_out.inc_by(n as u64);
    }

    /// A connection did not get as far as a session.
    pub fn connect_refused(&self) {
        self.0.connects_refused.inc();
    }

    /// Failures to accept.
    pub fn accept_errors(&self) -> &Counter {
        &self.0.accept_errors
    }

    /// From PUBLISH to its answer.
    pub fn ack_seconds(&self, seconds: f64) {
        self.0.ack_seconds.observe(seconds);
    }

    /// Shows the memory budget.
    pub fn memory(&self) -> Gauge {
        self.0.memory.clone()
    }

    /// For `$SYS`.
    pub fn totals(&self) -> Totals {
        let sum = |counters: &[Counter]| counters.iter().map(Counter::get).sum();
        Totals {
            packets_in: sum(&self.0.packets_in),
            packets_out: sum(&self.0.packets_out),
            bytes_in: self.0.bytes_in.get(),
            bytes_out: self.0.bytes_out.get(),
            sockets: sum(&self.0.connections),
            connects: self.0.packets_in[1].get(),
        }
    }
}

/// Sums since the start.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // named after what they count
pub struct Totals {
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub sockets: u64,
    pub connects: u64,
}

/// Counts a connection while it lives.
pub struct Open(Counters, Kind);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.open[self.1 as usize].dec();
    }
}

/// How many packets of each type.
#[derive(Clone, Debug, Default)]
pub struct Tally([u32; 16]);

impl Tally {
    /// One more.
    pub fn add(&mut self, packet: &Packet) {
        self.0[number(packet)] += 1;
    }
}

fn number(packet: &Packet) -> usize {
    match packet {
        Packet::Connect(_) => 1,
        Packet::Connack(_) => 2,
        Packet::Publish(_) => 3,
        Packet::Puback(_) => 4,
        Packet::Pubrec(_) => 5,
        Packet::Pubrel(_) => 6,
        Packet::Pubcomp(_) => 7,
        Packet::Subscribe(_) => 8,
        Packet::Suback(_) => 9,
        Packet::Unsubscribe(_) => 10,
        Packet::Unsuback(_) => 11,
        Packet::Pingreq => 12,
        Packet::Pingresp => 13,
        Packet::Disconnect(_) => 14,
        Packet::Auth(_) => 15,
    }
}
