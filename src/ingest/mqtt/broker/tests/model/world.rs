//! A gateway around the broker: connections, a log that is on disk up to a point, an outbox, and crashes.

use std::collections::{BTreeSet, HashSet};

use super::device::{Device, Link, Seen, Storing};
use super::faults::Fault;
use super::oracle::Oracle;
use super::{FILTERS, Op, Payload, SHARED_TOPIC, TOPICS, number};
use crate::ingest::mqtt::broker::record::{Millis, Record};
use crate::ingest::mqtt::broker::tests::{anybody, busy, filter, full, limits, message};
use crate::ingest::mqtt::broker::{
    Broker, ConnectionId, EventName, Limits, Published, Reaction, Source, TidyCursor, WINDOW_MAX,
};
use crate::ingest::mqtt::packet::{
    Disconnect, Packet, PacketId, Publish, QoS, Reason, Subscribe, Unsubscribe, Version,
};
use crate::ingest::mqtt::store;
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

pub type Outcome = Result<(), String>;

pub struct World {
    fault: Fault,
    limits: Limits,
    broker: Broker,
    now: Millis,
    /// All records as bytes; those before `start` have been dropped.
    log: Vec<Vec<u8>>,
    start: usize,
    on_disk: usize,
    /// What a reply that has left needs of the log: a crash may not take it.
    promised: usize,
    pub devices: Vec<Device>,
    oracle: Oracle,
    connections: u64,
    /// Device, topic and QoS of each payload; payload 0 is none.
    published: Vec<(usize, &'static str, QoS)>,
    outbox: Vec<Payload>,
    /// Names that a start finds in the outbox.
    outbox_names: HashSet<(u64, u64)>,
    /// Those that the outbox still takes once: it forgets them while the gateway stands still.
    window: HashSet<(u64, u64)>,
    tidying: Option<(usize, TidyCursor)>,
    /// Deliveries that earlier runs gave up.
    given_up: u64,
}

impl World {
    pub fn new(tight: bool, fault: Fault) -> Self {
        // A message is some 130 bytes.
        let small = Limits { max_total_bytes: 700, guaranteed_bytes: 150, ..limits() };
        let tight_limits = Limits { max_queued: 3, max_retained: 2, receive_max: 3, ..small };
        let limits = if tight { tight_limits } else { Limits { receive_max: 5, ..limits() } };
        Self {
            fault,
            broker: Broker::new(limits.clone(), 1_000_000),
            limits,
            now: 1_000_000,
            log: Vec::new(),
            start: 0,
            on_disk: 0,
            promised: 0,
            devices: vec![
                Device::new("a", Version::V5, 20),
                Device::new("b", Version::V311, u16::MAX),
                Device::new("c", Version::V5, 1),
                Device::new("d", Version::V5, 3),
            ],
            oracle: Oracle::new(4),
            connections: 0,
            published: vec![(0, "", AtMostOnce)],
            outbox: Vec::new(),
            outbox_names: HashSet::new(),
            window: HashSet::new(),
            tidying: None,
            given_up: 0,
        }
    }

    pub fn step(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Connect { device, clean, expiry_s } => self.connect(device, clean, expiry_s)?,
            Op::Lose { device } => self.lose(device),
            Op::Disconnect { device, expiry } => self.disconnect(device, expiry),
            Op::Forget { device } => {
                self.lose(device);
                self.devices[device].unacked.clear();
            }
            Op::Subscribe { device, filter, qos } => self.ask(device, filter, Some(qos)),
            Op::Unsubscribe { device, filter } => self.ask(device, filter, None),
            Op::Publish { device, topic, qos, retain, empty } => self.publish(device, topic, qos, retain, empty),
            Op::Server { device, packets } => self.server(device, packets)?,
            Op::Store { device, pick, count, ok, tell } => self.store(device, pick, count, ok, tell)?,
            Op::Take { device, max_bytes } => self.take(device, max_bytes)?,
            Op::Client { device, packets, lazy } => self.client(device, packets, lazy)?,
            Op::Acknowledge { device, pick } => self.devices[device].acknowledge(pick),
            Op::Sync { part } => self.on_disk += (self.log.len() - self.on_disk) * part / 4,
            Op::Pass { ms } => self.pass(ms),
            Op::Crash { part, long } => self.crash(part, long)?,
            Op::Tidy { max_bytes } => self.tidy(max_bytes),
        }
        self.check()
    }

    // ---- the shell

    /// Does what a reaction says, for the device that it was caused by.
    fn shell(&mut self, device: Option<usize>, mut reaction: Reaction) {
        self.fault.spoil(&mut reaction);
        let lost = self.fault;
        self.log.extend(reaction.records.iter().filter(|r| !lost.loses(r)).map(store::encode));
        let needs = if reaction.records.is_empty() { 0 } else { self.log.len() };
        if let Some(link) = device.and_then(|d| self.devices[d].link.as_mut()) {
            for mut packet in reaction.replies {
                // In the order of the reactions.
                if let Packet::Puback(answer) = &packet {
                    link.handed.retain(|(id, _)| *id != Some(answer.packet_id));
                }
                let needs = link.to_client.back().map_or(needs, |(_, before)| needs.max(*before));
                if matches!(&packet, Packet::Publish(p) if p.qos != AtMostOnce) {
                    link.under_way += 1;
                }
                if let (Some(device), Packet::Publish(p)) = (device, &packet)
                    && p.qos == ExactlyOnce
                    && *p.topic == *SHARED_TOPIC
                {
                    self.oracle.begun(device, number(&p.payload));
                }
                self.fault.on_the_wire(link, &mut packet);
                link.to_client.push_back((packet, needs));
            }
        }
        for connection in reaction.wake {
            let link = self.devices.iter_mut().filter_map(|d| d.link.as_mut()).find(|l| l.id == connection);
            link.into_iter().for_each(|l| l.awake = true);
        }
        if reaction.close.is_some()
            && let Some(device) = device
        {
            let handed = self.devices[device].link.as_ref().map(|link| link.handed.clone());
            self.devices[device].handed.extend(handed.into_iter().flatten().map(|(_, payload)| payload));
            self.lose(device);
        }
    }

    fn lose(&mut self, device: usize) {
        if let Some(link) = self.devices[device].link.take() {
            let reaction = self.broker.closed(self.now, link.id);
            self.shell(None, reaction);
            self.oracle.disconnected(device, self.now, false, self.log.len());
        }
    }

    fn connect(&mut self, device: usize, clean: bool, expiry_s: u32) -> Outcome {
        self.connections += 1;
        let id = ConnectionId(self.connections);
        if clean && self.fault != Fault::KeptAfterCleanStart {
            self.devices[device].renew();
        }
        let clean = clean || self.devices[device].renews;
        let connect = self.devices[device].connect(clean, expiry_s);
        let expiry_s = connect.session_expiry_s.unwrap_or(0).min(self.limits.session_expiry_max_s);
        if self.devices[device].link.is_some() {
            // Taken over: what the old connection had under way is lost with it.
            self.oracle.disconnected(device, self.now, false, self.log.len());
        }
        let mut reaction = self.broker.connect(self.now, id, connect, anybody());
        let Some(Packet::Connack(connack)) = reaction.replies.first() else { return Err("no CONNACK".into()) };
        let present = connack.session_present;
        let kicked = std::mem::take(&mut reaction.kick);
        self.devices[device].link = Some(Link::new(id));
        self.shell(Some(device), reaction);
        for (old, _) in kicked {
            let reaction = self.broker.closed(self.now, old);
            if !reaction.records.is_empty() {
                return Err("a kicked connection still counts".into());
            }
        }
        self.oracle.connected(device, self.now, clean, expiry_s, present, self.log.len())?;
        if !present && !clean {
            // It arrives: a client that did not ask for a new session and never hears of it takes it for the old one the next
            // time, and there is nothing in the standard against that.
            self.on_disk = self.log.len();
            self.client(device, 1, false)?;
        }
        Ok(())
    }

    fn disconnect(&mut self, device: usize, expiry: bool) {
        let Some(link) = self.devices[device].link.take() else { return };
        let session_expiry_s = (expiry && self.devices[device].version == Version::V5).then_some(0);
        let packet = Disconnect { reason: Reason::SUCCESS, session_expiry_s, reason_string: None };
        let reaction = self.broker.packet(self.now, link.id, Packet::Disconnect(Box::new(packet)));
        self.shell(None, reaction);
        let reaction = self.broker.closed(self.now, link.id);
        self.shell(None, reaction);
        self.oracle.disconnected(device, self.now, session_expiry_s.is_some(), self.log.len());
    }

    /// SUBSCRIBE or UNSUBSCRIBE goes off.
    fn ask(&mut self, device: usize, index: usize, qos: Option<QoS>) {
        let Some(link) = self.devices[device].link.as_mut().filter(|l| l.welcome) else { return };
        let packet_id = super::super::pid(60_000);
        link.to_server.push_back(match qos {
            Some(qos) => {
                // Who shares gets it for certain, or nobody knows whether it arrived.
                let qos = if FILTERS[index].starts_with('$') { qos.max(AtLeastOnce) } else { qos };
                let filters = vec![filter(FILTERS[index], qos)];
                Packet::Subscribe(Box::new(Subscribe { packet_id, subscription_id: None, filters }))
            }
            None => Packet::Unsubscribe(Box::new(Unsubscribe { packet_id, filters: vec![FILTERS[index].into()] })),
        });
    }

    fn publish(&mut self, device: usize, topic: usize, qos: QoS, retain: bool, empty: bool) {
        let payload = Payload::try_from(self.published.len()).unwrap();
        // An empty payload has no number: only retained QoS 0 messages are cleared with it.
        let clear = empty && retain && qos == AtMostOnce;
        let text = if clear { String::new() } else { format!("{payload}") };
        let publish = Publish { retain, packet_id: None, ..message(TOPICS[topic], qos, &text) };
        if self.devices[device].publish(publish, usize::from(self.limits.receive_max)) && !clear {
            self.published.push((device, TOPICS[topic], qos));
        }
    }

    /// The server takes packets of a client.
    fn server(&mut self, device: usize, packets: usize) -> Outcome {
        for _ in 0..packets {
            let Some(link) = self.devices[device].link.as_mut() else { return Ok(()) };
            let Some(mut packet) = link.to_server.pop_front() else { return Ok(()) };
            let id = link.id;
            self.fault.off_the_wire(link, &mut packet);
            match &packet {
                Packet::Puback(_) | Packet::Pubcomp(_) => link.under_way = link.under_way.saturating_sub(1),
                _ => {}
            }
            match packet {
                Packet::Publish(publish) => self.arrived(device, id, *publish)?,
                other => {
                    let asked = match &other {
                        Packet::Subscribe(s) => Some((s.filters[0].filter.clone(), Some(s.filters[0].qos))),
                        Packet::Unsubscribe(u) => Some((u.filters[0].clone(), None)),
                        _ => None,
                    };
                    let reaction = self.broker.packet(self.now, id, other);
                    if let Some((why, _)) = &reaction.close {
                        return Err(format!("device {device} was cut off: {why:?}"));
                    }
                    self.shell(Some(device), reaction);
                    if let Some((name, qos)) = asked {
                        let name = FILTERS.iter().find(|f| **f == name).unwrap();
                        self.oracle.subscribed(device, name, qos, self.log.len());
                    }
                }
            }
        }
        Ok(())
    }

    fn arrived(&mut self, device: usize, id: ConnectionId, publish: Publish) -> Outcome {
        let (qos, packet_id, payload, retain) =
            (publish.qos, publish.packet_id, number(&publish.payload), publish.retain);
        let topic = *TOPICS.iter().find(|t| ***t == *publish.topic).unwrap();
        let before = self.log.len();
        // It is here already, and comes again only because it was refused.
        let here = publish.dup && self.devices[device].handed.remove(&payload);
        if qos != ExactlyOnce && payload != 0 && !here {
            self.oracle.routed(self.now, payload, topic, qos);
        }
        let repeated = self.received(id);
        let (published, reaction) = self.broker.publish(self.now, id, publish);
        let tight =
            reaction.replies.iter().any(|p| matches!(p, Packet::Puback(a) if a.reason == Reason::QUOTA_EXCEEDED));
        if let Some((why, _)) = &reaction.close {
            return Err(format!("device {device} was cut off: {why:?}"));
        }
        self.answer(device, &repeated, reaction)?;
        let Published::New { message, name } = published else { return Ok(()) };
        if self.fault == Fault::Qos2DeliveredAtPublish && qos == ExactlyOnce {
            let reaction = self.broker.publish_own(self.now, Source::Gateway, (*message).clone(), false);
            self.shell(None, reaction);
        }
        if let (AtLeastOnce, Some(link)) = (qos, self.devices[device].link.as_mut()) {
            link.handed.push((packet_id, payload));
        }
        if retain && !here && qos != ExactlyOnce && !tight && self.is_retained(topic, payload) {
            self.oracle.retained(topic, payload, before, self.log.len());
        }
        if let (Some(packet_id), Some(link)) = (packet_id, self.devices[device].link.as_mut()) {
            let name = name.map(|EventName { session, number }| (session, number));
            link.storing.push(Storing { packet_id, needs: self.log.len(), name, payload, done: false });
        }
        Ok(())
    }

    /// With tight limits a message may not be retained, which only the broker knows.
    fn is_retained(&self, topic: &str, payload: Payload) -> bool {
        match self.broker.retained.get(topic) {
            Some((kept, _)) => number(&kept.message.payload) == payload,
            None => payload == 0,
        }
    }

    /// The shell has stored some of a client's messages, or cannot.
    fn store(&mut self, device: usize, pick: usize, count: usize, ok: bool, tell: bool) -> Outcome {
        let Some(link) = self.devices[device].link.as_mut() else { return Ok(()) };
        let id = link.id;
        let (mut results, mut told) = (Vec::new(), Vec::new());
        for n in 0..count.min(link.storing.len()) {
            let at = (pick + n) % link.storing.len();
            let storing = &mut link.storing[at];
            if self.fault != Fault::AnswerBeforeRecord {
                self.on_disk = self.on_disk.max(storing.needs);
                self.promised = self.promised.max(storing.needs);
            }
            let new = storing.name.is_none_or(|name| ok && !self.window.contains(&name));
            if ok && !storing.done && new {
                self.outbox_names.extend(storing.name);
                self.window.extend(storing.name);
                self.outbox.push(storing.payload);
            }
            storing.done |= ok;
            if tell {
                let storing = link.storing.remove(at);
                let there = storing.name.is_some_and(|name| self.window.contains(&name));
                // A full outbox knows what it has; a busy one has not looked.
                let refused = if there || pick % 2 == 1 { busy() } else { full() };
                results.push((storing.packet_id, if storing.done { Ok(()) } else { refused }));
                told.push(storing);
                if link.storing.is_empty() {
                    break;
                }
            }
        }
        for ((_, result), storing) in results.iter().zip(&told) {
            if result.is_err() {
                self.oracle.refused(storing.payload);
            }
        }
        let repeated = self.received(id);
        let reaction = self.broker.stored(self.now, id, &results);
        self.answer(device, &repeated, reaction)
    }

    /// What is received and not released on this connection: its PUBREC may be repeated.
    fn received(&self, id: ConnectionId) -> Vec<PacketId> {
        let session = self.broker.slot_of(id).and_then(|slot| self.broker.sessions.get(slot));
        session.map(|s| s.inbound.received().map(|(id, _)| id).collect()).unwrap_or_default()
    }

    /// QoS 2 is handed out when PUBREC is given: of what was stored now, and of those that had to wait for it.
    fn answer(&mut self, device: usize, repeated: &[PacketId], reaction: Reaction) -> Outcome {
        let before = self.log.len();
        let mut handed_out = Vec::new();
        for packet in &reaction.replies {
            if let Packet::Pubrec(answer) = packet
                && !answer.reason.is_error()
                && !repeated.contains(&answer.packet_id)
            {
                let sent = self.devices[device].unacked.iter().find(|(p, _)| p.packet_id == Some(answer.packet_id));
                let sent = sent.ok_or("PUBREC for nothing")?;
                handed_out.push((number(&sent.0.payload), sent.0.topic.clone(), sent.0.retain));
            }
        }
        for (payload, topic, _) in &handed_out {
            self.oracle.routed(self.now, *payload, topic, ExactlyOnce);
        }
        self.shell(Some(device), reaction);
        for (payload, topic, retain) in handed_out {
            let topic = *TOPICS.iter().find(|t| ***t == *topic).unwrap();
            if retain {
                // Several at once: the last stays.
                if self.is_retained(topic, payload) || self.limits.max_retained > 2 {
                    self.oracle.retained(topic, payload, before, self.log.len());
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, device: usize, max_bytes: usize) -> Outcome {
        let window = usize::from(self.devices[device].window.min(WINDOW_MAX));
        let Some(link) = self.devices[device].link.as_mut().filter(|l| l.awake) else { return Ok(()) };
        let reaction = self.broker.take(self.now, link.id, max_bytes, usize::MAX);
        link.awake = !reaction.replies.is_empty();
        self.shell(Some(device), reaction);
        let under_way = self.devices[device].link.as_ref().map_or(0, |l| l.under_way);
        if under_way > window {
            return Err(format!("{under_way} messages under way to device {device}, which takes {window}"));
        }
        Ok(())
    }

    /// A client takes packets that have arrived.
    fn client(&mut self, device: usize, packets: usize, lazy: bool) -> Outcome {
        for _ in 0..packets {
            let Some(link) = self.devices[device].link.as_mut() else { return Ok(()) };
            let hasty = self.fault == Fault::AnswerBeforeRecord;
            let Some((_, needs)) = link.to_client.front().filter(|(_, needs)| hasty || *needs <= self.on_disk) else {
                return Ok(());
            };
            if !hasty {
                self.promised = self.promised.max(*needs);
            }
            let Some((packet, _)) = link.to_client.pop_front() else { return Ok(()) };
            let seen = self.devices[device].read(packet, lazy)?;
            match seen {
                Some(Seen::Acknowledged(payload)) => self.oracle.acknowledged(payload),
                Some(Seen::Delivered { payload, topic, qos, retain: false }) if payload != 0 => {
                    let (from, known, sent) = *self.published.get(payload as usize).ok_or("nobody sent this")?;
                    if known != topic {
                        return Err(format!("{payload} was sent to {known} and came from {topic}"));
                    }
                    let to = (device, self.devices[device].session);
                    self.oracle.delivered(to, (from, sent), payload, topic, qos)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn pass(&mut self, ms: Millis) {
        self.now += ms;
        if self.broker.next_deadline().is_some_and(|at| at <= self.now) {
            let reaction = self.broker.tick(self.now);
            self.shell(None, reaction);
        }
    }

    /// Writes what is alive, a piece at a time; then drops what was before.
    fn tidy(&mut self, max_bytes: usize) {
        let Some((began, cursor)) = self.tidying.take() else {
            self.tidying = Some((self.log.len(), TidyCursor::default()));
            return;
        };
        let (mut records, next) = self.broker.tidy(cursor, max_bytes);
        self.fault.spoil_piece(&mut records);
        self.log.extend(records.iter().map(store::encode));
        match next {
            Some(next) => self.tidying = Some((began, next)),
            None => {
                self.start = began;
                self.on_disk = self.log.len();
                self.promised = self.log.len();
            }
        }
    }

    // ---- crashes and checks

    /// What a broker has after this much of the log.
    fn replayed(&self, kept: usize) -> Broker {
        let mut broker = Broker::new(self.limits.clone(), (self.connections + 2) << 32);
        for bytes in &self.log[self.start..kept] {
            broker.restore(store::decode(bytes).unwrap());
        }
        broker
    }

    /// Everything ends at once. `part` of what nobody was promised is left; 4: a kill -9, all of it.
    /// `long`: the outbox has forgotten the names by the next start.
    fn crash(&mut self, part: usize, long: bool) -> Outcome {
        self.same_state()?;
        let floor = self.promised.max(self.start);
        let kept = floor + (self.log.len() - floor) * part / 4;
        self.log.truncate(kept);
        self.devices.iter_mut().for_each(|d| (d.link, d.handed) = (None, BTreeSet::new()));
        self.tidying = None;
        self.given_up += given_up(&self.broker);
        self.broker = self.replayed(kept);
        self.oracle.crashed(self.now, kept);
        let reaction = self.broker.restored(self.now, 0);
        self.shell(None, reaction);
        if long {
            self.window.clear();
        }
        if self.fault != Fault::NotResolved {
            let names = &self.outbox_names;
            let reaction = self.broker.resolve(|_, EventName { session, number }| names.contains(&(session, number)));
            self.shell(None, reaction);
        }
        self.on_disk = self.on_disk.min(kept);
        self.oracle.restored(self.log.len());
        Ok(())
    }

    fn same_state(&self) -> Outcome {
        let (live, replayed) = (state(&self.broker), state(&self.replayed(self.log.len())));
        if live != replayed {
            return Err(format!("the records do not give the state again:\n{live:#?}\n{replayed:#?}"));
        }
        Ok(())
    }

    /// Bounds, and that what is counted is there.
    fn check(&self) -> Outcome {
        let (counts, limits) = (self.broker.counts(), &self.limits);
        let (mut queued, mut bytes) = (0, 0);
        for (_, session) in self.broker.sessions.from(0) {
            queued += session.outgoing.len();
            bytes += session.outgoing.bytes + session.connection.as_ref().map_or(0, |c| c.unreliable.bytes);
            if session.outgoing.len() > limits.max_queued {
                return Err("a queue is too long".into());
            }
            let ids: Vec<_> = session.waiting().map(|d| d.id).collect();
            if !ids.is_sorted() {
                return Err(format!("a queue is not in order: {ids:?}"));
            }
        }
        if (queued, bytes) != (counts.queued, counts.queued_bytes) {
            return Err(format!("{queued} messages of {bytes} bytes wait, but {counts:?}"));
        }
        if !self.broker.owners_are_known() {
            return Err("it is not known whose sessions there are".into());
        }
        let [booked, there] = self.broker.books();
        if booked != there {
            return Err(format!("booked as waiting: {booked:?}, but there is {there:?}"));
        }
        // QoS 2 that was begun stays when its connection ends, and of what a crash left nobody knows whether it was.
        let shares = limits.guaranteed_bytes * self.devices.len();
        if counts.pot_bytes > limits.max_total_bytes + shares || counts.retained > limits.max_retained {
            return Err(format!("{counts:?}"));
        }
        Ok(())
    }

    /// Lets everything come to rest, and checks that all promises were kept.
    pub fn settle(&mut self) -> Outcome {
        self.all_are_awake()?;
        for device in 0..self.devices.len() {
            self.connect(device, false, 1_000)?;
        }
        self.rest()?;
        // Before they connect anew, which would wake what was forgotten.
        self.nothing_waits()?;
        for device in 0..self.devices.len() {
            self.lose(device);
            self.connect(device, false, 1_000)?;
        }
        self.rest()?;
        self.same_state()?;
        self.check()?;
        self.oracle.settle(self.now, self.given_up + given_up(&self.broker))?;
        for payload in self.oracle.acknowledged_all() {
            let times = self.outbox.iter().filter(|p| **p == payload).count();
            let (.., qos) = self.published[payload as usize];
            if times == 0 || (qos == ExactlyOnce && times > 1) {
                return Err(format!("{payload} is {times} times in the outbox"));
            }
        }
        self.nothing_waits()?;
        self.look_at_retained()
    }

    /// Who has something to take knows it: else it would wait until its device comes again, which heals that.
    fn all_are_awake(&self) -> Outcome {
        for (device, link) in self.devices.iter().enumerate().filter_map(|(n, d)| Some((n, d.link.as_ref()?))) {
            let session = self.broker.slot_of(link.id).and_then(|slot| self.broker.sessions.get(slot));
            let Some((session, connection)) = session.and_then(|s| Some((s, s.connection.as_ref()?))) else { continue };
            let open = session.outgoing.in_flight.len() < connection.window;
            let waits = !connection.unreliable.messages.is_empty() || open && !session.outgoing.queue.is_empty();
            if waits && !link.awake {
                return Err(format!("something waits for device {device}, and nobody has told it"));
            }
        }
        Ok(())
    }

    fn nothing_waits(&self) -> Outcome {
        match self.broker.counts() {
            counts if counts.queued == 0 => Ok(()),
            counts => Err(format!("something is stuck: {counts:?}")),
        }
    }

    fn rest(&mut self) -> Outcome {
        for _ in 0..200 {
            let idle = |d: &Device| {
                d.link.as_ref().is_none_or(|l| {
                    l.welcome
                        && !l.awake
                        && l.to_client.is_empty()
                        && l.to_server.is_empty()
                        && l.to_ack.is_empty()
                        && l.storing.is_empty()
                })
            };
            if self.devices.iter().all(idle) {
                return Ok(());
            }
            self.on_disk = self.log.len();
            for device in 0..self.devices.len() {
                self.client(device, 100, false)?;
                self.devices[device].acknowledge(0);
                self.server(device, 100)?;
                self.store(device, 0, 100, true, true)?;
                self.take(device, 10_000)?;
            }
        }
        Err("it does not come to rest".into())
    }

    fn look_at_retained(&mut self) -> Outcome {
        for topic in TOPICS {
            let found = self.broker.retained.get(topic).map_or(0, |(kept, _)| number(&kept.message.payload));
            let may = self.oracle.may_be_retained(topic);
            if !may.contains(&found) {
                return Err(format!("retained on {topic}: {found}, not one of {may:?}"));
            }
        }
        Ok(())
    }
}

fn given_up(broker: &Broker) -> u64 {
    broker.counts().dropped.full + broker.counts().dropped.total
}

/// All that is on disk of a broker's state, in a fixed order.
fn state(broker: &Broker) -> Vec<String> {
    let (records, next) = broker.tidy(TidyCursor::default(), usize::MAX);
    assert!(next.is_none());
    let mut records: Vec<_> = records.iter().map(|r: &Record| format!("{r:?}")).collect();
    records.sort();
    records
}
