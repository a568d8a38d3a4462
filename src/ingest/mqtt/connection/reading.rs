//! From the socket to the broker and towards the disk: as much as there is at once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::Connection;
use super::flights::{Landed, Load};
use crate::ingest::http::budget::Lease;
use crate::ingest::identity::{self, Wait};
use crate::ingest::mqtt::broker::record::Message;
use crate::ingest::mqtt::broker::{EventName, Published, Unstored};
use crate::ingest::mqtt::metrics::Fate;
use crate::ingest::mqtt::packet::{Packet, PacketError, PacketId, QoS, Reason, Version};
use crate::ingest::mqtt::transport::Transport;
use crate::ingest::mqtt::upstream::{Refused, Why};
use crate::journal::Position;

/// Most bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// The beginning of a packet up to this size needs no share of the memory for all: the packets of most clients.
pub(super) const INPUT_FREE_BYTES: usize = 4 << 10;

/// A packet that is larger must be there after this time, and a second more for each KiB of it that has come: what is held for it
/// is not there for others. A modem of 9600 bit/s is faster.
const PACKET_TIME: Duration = Duration::from_secs(60);
const PACKET_BYTES_PER_S: usize = 1 << 10;

/// What a packet costs in memory while it waits, besides its bytes.
const PACKET_BYTES: usize = 256;

/// A client that sends more than it may is not read for a while: that slows it down and loses nothing. One of 5.0 whose
/// message would have to wait for longer than this is told instead (0x97, MQTT 5.0 §4.9 leaves it to the server): its PINGREQ
/// stands behind, and other messages. One of 3.1.1 cannot be told and waits.
const RATE_WAIT_MAX: Duration = Duration::from_secs(2);

/// Longest pause before a paused client is looked at again.
const PAUSE_MAX: Duration = Duration::from_secs(60);

thread_local! {
    /// What a read fills before it is known whose it is: so that ten thousand idle connections hold no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Longest time for which one client has the broker for itself, but for what a single packet takes: a read can bring thousands
/// of packets, and each of them can concern thousands of messages or subscribers.
const TURN_MAX: Duration = Duration::from_millis(2);

/// Most packets that are decoded at once; the others wait as bytes: 64 KiB can be 32,768 packets, which take twenty times as much
/// memory.
const PACKETS_MAX: usize = 256;

/// Packets of a client that sends more than it may, or that had its turn, and when they are looked at again.
pub struct Paused {
    /// Judged by the quota; they come first.
    weighed: VecDeque<Weighed>,
    packets: VecDeque<Packet>,
    fault: Option<PacketError>,
    pub until: Instant,
    /// When they were read.
    since: Instant,
    /// What they cost in memory, and their share of it for as long as they wait.
    bytes: usize,
    lease: Option<Lease>,
}

/// A packet, and what the quota says to it.
struct Weighed {
    packet: Packet,
    over: Option<Wait>,
}

/// A message that the broker has taken.
struct New {
    message: Arc<Message>,
    name: Option<EventName>,
    qos: QoS,
    id: Option<PacketId>,
}

/// Appends what there is to `input`; 0: the client has closed.
pub fn poll_read(stream: &mut Transport, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
        input.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    })
}

impl Connection {
    pub(super) fn read(&mut self, read: io::Result<usize>) {
        match read {
            Ok(0) | Err(_) => return self.lost(),
            Ok(n) => self.shared.counters.bytes_in(n),
        }
        self.heard = Instant::now();
        self.decode();
    }

    /// Takes in what has been read; at the beginning that is what came with CONNECT.
    pub(super) fn decode(&mut self) {
        let mut packets = VecDeque::new();
        let before = self.input.len();
        self.undecoded = false;
        let fault = loop {
            if packets.len() == PACKETS_MAX {
                self.undecoded = true;
                break None;
            }
            match self.decoder.next(&mut self.input) {
                Ok(Some(packet)) => packets.push_back(packet),
                Ok(None) => break None,
                Err(fault) => break Some(fault),
            }
        };
        // What is left of a read must not keep all of it alive.
        if self.input.len() <= INPUT_FREE_BYTES {
            self.input = BytesMut::from(&self.input[..]);
        }
        if !packets.is_empty() {
            self.packet_since = None;
        }
        let bytes = before - self.input.len() + PACKET_BYTES * packets.len();
        if fault.is_none() && !self.share_memory() {
            return self.end(Reason::SERVER_BUSY, "too many large packets at once; send it again later");
        }
        let now = self.heard;
        let weighed = VecDeque::new();
        self.admit(Paused { weighed, packets, fault, until: now, since: now, bytes, lease: None }, now);
    }

    /// The memory that the beginning of a large packet takes is counted.
    fn share_memory(&mut self) -> bool {
        if self.input.len() <= INPUT_FREE_BYTES {
            self.input_lease = None;
            self.packet_since = None;
            return true;
        }
        self.packet_since.get_or_insert(self.heard);
        self.input_lease = None;
        let mut lease = self.shared.coming.lease();
        let granted = lease.grow(self.input.capacity()).is_ok();
        self.input_lease = Some(lease);
        granted
    }

    /// When the packet that is coming must be there.
    pub(super) fn packet_due(&self) -> Option<Instant> {
        let grace = Duration::from_secs((self.input.len() / PACKET_BYTES_PER_S) as u64);
        self.packet_since.map(|since| since + PACKET_TIME + grace)
    }

    /// Goes on with what was read and not taken in.
    pub(super) fn resume(&mut self) {
        self.heard = Instant::now();
        match self.paused.take() {
            Some(paused) => self.admit(*paused, self.heard),
            None => self.decode(),
        }
    }

    /// Takes in what the quota allows, in order; a client that sends more is not read until the rest is allowed too.
    fn admit(&mut self, mut work: Paused, now: Instant) {
        let patience = (work.since + RATE_WAIT_MAX).saturating_duration_since(now);
        let tells = self.decoder.version() == Some(Version::V5);
        let mut pause = None;
        while let Some(packet) = work.packets.pop_front() {
            let over = match &packet {
                Packet::Publish(publish) if self.identity.is_metered() => {
                    self.identity.admit(1, publish.payload.len()).err()
                }
                _ => None,
            };
            if let Some(wait) = over.filter(|wait| !tells || wait.time <= patience) {
                work.packets.push_front(packet);
                pause = Some(wait.time.min(PAUSE_MAX));
                break;
            }
            work.weighed.push_back(Weighed { packet, over });
        }
        if !work.weighed.is_empty() {
            self.take_in(&mut work.weighed, now);
        }
        if self.end.is_none() && (pause.is_some() || !work.weighed.is_empty()) {
            // After a turn the others come first.
            work.until = if work.weighed.is_empty() { now + pause.unwrap_or_default() } else { now };
            self.answer_pings(&mut work.packets);
            if work.weighed.front().is_some_and(|first| grows(&first.packet)) && !self.seat.journal().has_room() {
                let journal = self.seat.journal().clone();
                self.room = Some(Box::pin(async move { journal.room().await }));
                self.answer_weighed_pings(&mut work.weighed);
            }
            // Who only had its turn waits for a moment.
            let waits = work.until > now || self.room.is_some();
            if waits && work.lease.is_none() && work.bytes > INPUT_FREE_BYTES {
                let mut lease = self.shared.coming.lease();
                if lease.grow(work.bytes).is_err() {
                    return self.end(Reason::SERVER_BUSY, "too much has to wait at once; send it again later");
                }
                work.lease = Some(lease);
            }
            self.paused = Some(Box::new(work));
            return;
        }
        if let Some(fault) = work.fault {
            self.end_for_fault(&fault);
        }
    }

    /// So that a client that is held up does not take the gateway for dead.
    fn answer_pings(&mut self, packets: &mut VecDeque<Packet>) {
        packets.retain(|packet| {
            let ping = matches!(packet, Packet::Pingreq);
            if ping {
                self.shared.counters.packet_in(packet);
                // Four bytes always fit.
                let _ = self.output.at_once(Packet::Pingresp);
            }
            !ping
        });
    }

    fn answer_weighed_pings(&mut self, weighed: &mut VecDeque<Weighed>) {
        let mut pings: VecDeque<_> =
            weighed.iter().filter(|w| matches!(w.packet, Packet::Pingreq)).map(|_| Packet::Pingreq).collect();
        weighed.retain(|w| !matches!(w.packet, Packet::Pingreq));
        self.answer_pings(&mut pings);
    }

    /// Gives packets to the broker under one lock, as many as [`TURN_MAX`] allows, and the messages among them to the disk.
    fn take_in(&mut self, packets: &mut VecDeque<Weighed>, now: Instant) {
        let (counters, output, refused) = (&self.shared.counters, &mut self.output, &mut self.refused);
        let (mut goodbye, mut quota) = (false, None);
        let room = self.seat.journal().has_room();
        let (mut new, effects) = self.seat.turn(|turn| {
            let (mut new, begun) = (Vec::new(), Instant::now());
            while begun.elapsed() < TURN_MAX
                && (room || !packets.front().is_some_and(|next| grows(&next.packet)))
                && let Some(Weighed { packet, over }) = packets.pop_front()
            {
                counters.packet_in(&packet);
                goodbye = matches!(packet, Packet::Disconnect(_));
                match (packet, over) {
                    // Nothing that hangs may keep this from the client. Four bytes always fit.
                    (Packet::Pingreq, _) => drop(output.at_once(Packet::Pingresp)),
                    (Packet::Publish(publish), Some(wait)) => {
                        let (qos, id) = (publish.qos, publish.packet_id);
                        let published = turn.publish_refused(*publish, Reason::QUOTA_EXCEEDED);
                        if matches!(published, Published::Answered) {
                            counters.fate(qos, Fate::Refused(Why::Quota), 1);
                            refused.extend(id.map(|id| (id, wait.to_string())));
                            quota = Some(wait);
                        }
                        new.extend(taken(published, qos, id));
                    }
                    (Packet::Publish(publish), None) => {
                        let (qos, id) = (publish.qos, publish.packet_id);
                        new.extend(taken(turn.publish(*publish), qos, id));
                    }
                    (packet, _) => turn.packet(packet),
                }
                if goodbye || turn.is_over() {
                    packets.clear();
                }
            }
            new
        });
        if let Some(wait) = quota {
            self.shared.gate.refused(&self.identity, &identity::Refused::Quota(wait));
        }
        let after = effects.after;
        // It will come back with the same, and should not at once.
        let full = matches!(effects.close, Some((Reason::QUOTA_EXCEEDED, _)));
        if effects.unkept.is_some() {
            // Never acknowledged, so they come again.
            new.retain(|message| message.id.is_none());
        }
        self.take_effect(effects);
        if !new.is_empty() {
            self.send_up(new, after, now);
        }
        if full {
            self.rest();
        }
        if goodbye {
            self.end(Reason::SUCCESS, "");
        }
    }

    /// Makes events of the messages, one append for each lane. Those that stay here, or are refused, are done with.
    fn send_up(&mut self, new: Vec<New>, after: Option<Position>, now: Instant) {
        let mut done: Vec<(PacketId, Result<(), Unstored>)> = Vec::new();
        let mut loads: Vec<Load> = Vec::new();
        let rules = self.shared.upstream.rules();
        for New { message, name, qos, id } in new {
            if self.answers_command(&message, qos, id) {
                continue;
            }
            let put = match rules.event(&self.origin, &message, name) {
                Ok(None) => Ok(None),
                Ok(Some((writer, event))) => {
                    let at = loads.iter().position(|load| load.batch.lane() == writer.lane()).unwrap_or_else(|| {
                        loads.push(Load::new(writer.batch()));
                        loads.len() - 1
                    });
                    let wanted = rules.scoring().wants(&event.ty);
                    let put = loads[at].batch.push(&event).map(|()| Some(at)).map_err(Refused::from);
                    if wanted && put.is_ok() {
                        let place = loads[at].batch.len() - 1;
                        loads[at].asked.push((place, event));
                    }
                    put
                }
                Err(refused) => Err(refused),
            };
            match put {
                Ok(Some(at)) => {
                    loads[at].carries(qos, id);
                    if name.is_some() {
                        // Its name may have been written for an earlier connection.
                        loads[at].after = loads[at].after.or(after).or_else(|| self.appended());
                    }
                }
                Ok(None) => {
                    self.shared.counters.fate(qos, Fate::Local, 1);
                    done.extend(id.map(|id| (id, Ok(()))));
                }
                Err(refused) => {
                    let untold = self.decoder.version() == Some(Version::V311) || qos == QoS::AtMostOnce;
                    if untold {
                        self.note_lost(&message, &refused);
                    }
                    let fate =
                        if untold && id.is_some() { Fate::Lost(refused.why) } else { Fate::Refused(refused.why) };
                    self.shared.counters.fate(qos, fate, 1);
                    done.extend(id.map(|id| (id, Err(refused.unstored()))));
                    self.refused.extend(id.map(|id| (id, refused.text)));
                }
            }
        }
        if !done.is_empty() {
            self.stored(&done);
        }
        loads.retain(|load| !load.batch.is_empty());
        for load in loads {
            self.launch(load, now);
        }
    }

    /// Everything that the journal has been given.
    fn appended(&self) -> Option<Position> {
        self.seat.journal().append::<&[u8]>(&[]).ok()
    }

    fn launch(&mut self, mut load: Load, now: Instant) {
        let mut lease = self.shared.storing.lease();
        if lease.grow(load.batch.bytes()).is_ok() {
            load.ask(self.shared.upstream.rules().scoring());
            return self.flights.push(load, now, lease);
        }
        let text =
            "too many messages are in memory on their way to the disk; nothing was stored, send it again in a moment";
        let refused = Refused { reason: Reason::QUOTA_EXCEEDED, text: text.to_owned(), why: Why::Busy };
        self.landed(Landed { counts: load.counts, ids: load.ids, at: now, result: Err(refused) });
    }
}

/// Whether what is alive may grow by it: then it waits until the journal has room. What makes less of it never waits.
fn grows(packet: &Packet) -> bool {
    match packet {
        Packet::Publish(publish) => publish.qos != QoS::AtMostOnce || publish.retain,
        Packet::Subscribe(_) => true,
        _ => false,
    }
}

fn taken(published: Published, qos: QoS, id: Option<PacketId>) -> Option<New> {
    match published {
        Published::New { message, name } => Some(New { message, name, qos, id }),
        Published::Answered | Published::Pending => None,
    }
}
