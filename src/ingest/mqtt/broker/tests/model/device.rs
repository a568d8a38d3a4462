//! A client that keeps to the standard, and says so where the broker does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Payload, number};
use crate::ingest::mqtt::broker::ConnectionId;
use crate::ingest::mqtt::broker::tests::{ack, connect, pid, v311};
use crate::ingest::mqtt::packet::{Connect, Packet, PacketId, Publish, QoS, Reason, Version};
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

/// What a client does, and what it keeps between connections.
#[derive(Debug)]
pub struct Device {
    pub name: &'static str,
    pub version: Version,
    /// How many messages it takes at once.
    pub window: u16,
    pub link: Option<Link>,
    /// Published and not answered to the end, in order; true: PUBREL is due.
    pub unacked: Vec<(Publish, bool)>,
    /// QoS 2 received and not released.
    held: BTreeMap<PacketId, Payload>,
    /// Those of its messages that the broker has handed out and not taken: they come again.
    pub handed: BTreeSet<Payload>,
    /// Counts sessions, as this client sees them.
    pub session: u32,
    /// It asked for a new session and has not heard of one.
    pub renews: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    pub id: ConnectionId,
    /// Replies, and how much of the log has to be on disk before each.
    pub to_client: VecDeque<(Packet, usize)>,
    pub to_server: VecDeque<Packet>,
    pub welcome: bool,
    /// The shell was woken.
    pub awake: bool,
    /// Published on this connection and not answered, in order, for each QoS: a repeated PUBREC may come before a
    /// PUBACK [MQTT-4.6.0-2], [MQTT-4.6.0-3].
    unanswered: [VecDeque<PacketId>; 3],
    /// Received and not acknowledged.
    pub to_ack: Vec<(Packet, PacketId)>,
    /// PUBLISH packets that were sent to it and not acknowledged, as the server's side sees it.
    pub under_way: usize,
    /// What the shell stores: packet id, log before it may, name, payload; whether the outbox has it.
    pub storing: Vec<Storing>,
    /// QoS 1 that the broker has handed out and not answered.
    pub handed: Vec<(Option<PacketId>, Payload)>,
    /// Planted mistake: the real packet id by the one on the wire.
    pub wire_ids: BTreeMap<PacketId, PacketId>,
}

#[derive(Debug)]
pub struct Storing {
    pub packet_id: PacketId,
    pub needs: usize,
    pub name: Option<(u64, u64)>,
    pub payload: Payload,
    pub done: bool,
}

/// What happened at a client that the rest must know.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Acknowledged(Payload),
    Refused(Payload),
    Delivered { payload: Payload, topic: String, qos: QoS, retain: bool },
}

impl Link {
    pub fn new(id: ConnectionId) -> Self {
        Self {
            id,
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            welcome: false,
            awake: false,
            unanswered: Default::default(),
            to_ack: Vec::new(),
            under_way: 0,
            storing: Vec::new(),
            handed: Vec::new(),
            wire_ids: BTreeMap::new(),
        }
    }
}

impl Device {
    pub fn new(name: &'static str, version: Version, window: u16) -> Self {
        Self {
            name,
            version,
            window,
            link: None,
            unacked: Vec::new(),
            held: BTreeMap::new(),
            handed: BTreeSet::new(),
            session: 0,
            renews: false,
        }
    }

    /// Asks for a new session, and goes on asking until it hears of one. What it kept of the old one is gone when it has asked,
    /// for so it may be at the server [MQTT-3.1.2-4].
    pub fn renew(&mut self) {
        self.renews = true;
        self.unacked.clear();
        self.held.clear();
    }

    pub fn connect(&self, clean: bool, expiry_s: u32) -> Connect {
        match self.version {
            Version::V311 => v311(self.name, clean),
            Version::V5 => Connect {
                clean_start: clean,
                session_expiry_s: Some(expiry_s),
                receive_maximum: self.window.try_into().unwrap(),
                ..connect(self.name)
            },
        }
    }

    /// Publishes, within the broker's window.
    pub fn publish(&mut self, mut publish: Publish, receive_max: usize) -> bool {
        let Some(link) = self.link.as_mut().filter(|l| l.welcome) else { return false };
        if publish.qos != AtMostOnce {
            if self.unacked.len() >= receive_max {
                return false;
            }
            // The lowest that is free: ids are used again as soon as may be.
            let free = (1..).map(pid).find(|id| self.unacked.iter().all(|(p, _)| p.packet_id != Some(*id)));
            publish.packet_id = free;
            link.unanswered[publish.qos as usize].extend(free);
            self.unacked.push((publish.clone(), false));
        }
        link.to_server.push_back(Packet::Publish(Box::new(publish)));
        true
    }

    /// Takes one packet. `lazy`: acknowledges later. An error is a promise that was broken.
    pub fn read(&mut self, packet: Packet, lazy: bool) -> Result<Option<Seen>, String> {
        let Some(link) = self.link.as_mut() else { return Ok(None) };
        match packet {
            Packet::Connack(connack) => {
                link.welcome = true;
                self.renews = false;
                if !connack.session_present {
                    self.session += 1;
                    self.unacked.clear();
                    self.held.clear();
                }
                // [MQTT-4.4.0-1]
                for (publish, released) in &self.unacked {
                    let id = publish.packet_id.ok_or("no packet id")?;
                    if *released {
                        link.to_server.push_back(Packet::Pubrel(ack(id)));
                    } else {
                        link.unanswered[publish.qos as usize].push_back(id);
                        link.to_server.push_back(Packet::Publish(Box::new(Publish { dup: true, ..publish.clone() })));
                    }
                }
            }
            Packet::Puback(answer) => return self.answered(answer.packet_id, answer.reason, AtLeastOnce),
            Packet::Pubrec(answer) => return self.answered(answer.packet_id, answer.reason, ExactlyOnce),
            Packet::Pubcomp(answer) => {
                // Not found: the PUBCOMP before was lost (MQTT 5.0 §3.7.2.1).
                if ![Reason::SUCCESS, Reason::PACKET_ID_NOT_FOUND].contains(&answer.reason) {
                    return Err(format!("PUBCOMP {:?}", answer.reason));
                }
                let known = self.unacked.iter().position(|(p, rel)| p.packet_id == Some(answer.packet_id) && *rel);
                self.unacked.remove(known.ok_or("PUBCOMP for nothing")?);
            }
            Packet::Publish(publish) => return self.delivered(*publish, lazy),
            Packet::Pubrel(answer) => {
                if answer.reason != Reason::SUCCESS {
                    return Err(format!("PUBREL {:?}", answer.reason));
                }
                self.held.remove(&answer.packet_id);
                link.to_server.push_back(Packet::Pubcomp(answer));
            }
            _ => {}
        }
        Ok(None)
    }

    fn answered(&mut self, id: PacketId, reason: Reason, qos: QoS) -> Result<Option<Seen>, String> {
        let Some(link) = self.link.as_mut() else { return Ok(None) };
        if link.unanswered[qos as usize].pop_front() != Some(id) {
            return Err(format!("answer for {id} out of order"));
        }
        let at = self.unacked.iter().position(|(p, _)| p.packet_id == Some(id)).ok_or("answer for nothing")?;
        if self.unacked[at].0.qos != qos {
            return Err(format!("answer of the wrong kind for {id}"));
        }
        let payload = number(&self.unacked[at].0.payload);
        if reason.is_error() {
            self.unacked.remove(at);
            return Ok(Some(Seen::Refused(payload)));
        }
        if qos == ExactlyOnce {
            self.unacked[at].1 = true;
            link.to_server.push_back(Packet::Pubrel(ack(id)));
        } else {
            self.unacked.remove(at);
        }
        Ok(Some(Seen::Acknowledged(payload)))
    }

    fn delivered(&mut self, publish: Publish, lazy: bool) -> Result<Option<Seen>, String> {
        let Some(link) = self.link.as_mut() else { return Ok(None) };
        let payload = number(&publish.payload);
        let mut new = true;
        if let Some(id) = publish.packet_id {
            if link.to_ack.iter().any(|(_, known)| *known == id) {
                return Err(format!("packet id {id} of {payload} is under way already"));
            }
            if let Some(held) = self.held.get(&id) {
                if *held != payload || publish.qos != ExactlyOnce {
                    return Err(format!("packet id {id} is that of {held}, and now of {payload}"));
                }
                new = false;
            }
            let answer = if publish.qos == ExactlyOnce {
                self.held.insert(id, payload);
                Packet::Pubrec(ack(id))
            } else {
                Packet::Puback(ack(id))
            };
            if lazy {
                link.to_ack.push((answer, id));
            } else {
                link.to_server.push_back(answer);
            }
        }
        let (topic, qos, retain) = (publish.topic.to_string(), publish.qos, publish.retain);
        Ok(new.then_some(Seen::Delivered { payload, topic, qos, retain }))
    }

    /// Acknowledges one that it has not.
    pub fn acknowledge(&mut self, pick: usize) {
        if let Some(link) = self.link.as_mut().filter(|l| !l.to_ack.is_empty()) {
            let (packet, _) = link.to_ack.remove(pick % link.to_ack.len());
            link.to_server.push_back(packet);
        }
    }
}
