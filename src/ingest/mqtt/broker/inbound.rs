//! Messages of one client that are not answered yet, and the QoS 2 receiver (MQTT 5.0 §4.3.3). [pure]

use std::collections::VecDeque;
use std::sync::Arc;

use super::Unstored;
use super::record::{Intent, Message};
use crate::ingest::mqtt::packet::{PacketId, QoS};

/// How far a PUBLISH has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// QoS 2 that a lost connection or a crash left before it was stored: sent again, it keeps its name.
    Intended,
    /// The shell stores it.
    Storing,
    /// It is stored, and those before it are not yet answered.
    Stored,
    /// The same, refused.
    Refused(Unstored),
    /// QoS 2: PUBREC is given, PUBREL not come.
    Received,
}

/// A PUBLISH with a packet id.
#[derive(Debug)]
pub(super) struct Incoming {
    pub packet_id: PacketId,
    pub qos: QoS,
    pub stage: Stage,
    /// See [`super::record::digest`].
    pub digest: u64,
    /// QoS 2: its name in the outbox. `None`: it never got as far.
    pub name: Option<u64>,
    /// It had its name before this connection: the outbox may have it, though nobody heard of it.
    pub again: bool,
    /// The outbox has it, but nobody could be answered: only that is left to do when it comes again.
    pub upstream: bool,
    /// QoS 2 until it is stored: handed to subscribers then. `None` also where it is acknowledged and dropped.
    pub message: Option<Arc<Message>>,
}

/// What one costs in memory; on disk it is less.
pub(super) const INCOMING_BYTES: usize = size_of::<Incoming>();

/// All of a session. Bounded by the receive maximum, in 3.1.1 by what the shell stores at once; QoS 2 that is not released by
/// [`UNRELEASED_FACTOR`](super::UNRELEASED_FACTOR).
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// How many of them are QoS 2.
    exactly_once: usize,
    /// Sorted by packet id. Clients count them up and get answers in order, so that most changes are at the ends.
    all: VecDeque<Incoming>,
    /// In order of arrival.
    unanswered: VecDeque<PacketId>,
}

impl Inbound {
    fn at(&self, id: PacketId) -> Result<usize, usize> {
        match self.all.back() {
            Some(last) if last.packet_id < id => Err(self.all.len()),
            _ => self.all.binary_search_by_key(&id, |i| i.packet_id),
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// How many are QoS 2.
    pub fn exactly_once(&self) -> usize {
        self.exactly_once
    }

    pub fn knows(&self, id: PacketId) -> bool {
        self.at(id).is_ok()
    }

    pub fn get_mut(&mut self, id: PacketId) -> Option<&mut Incoming> {
        let at = self.at(id).ok()?;
        self.all.get_mut(at)
    }

    /// Adds one, or puts it in the place of the one with its id.
    pub fn put(&mut self, incoming: Incoming) {
        self.exactly_once += usize::from(incoming.qos == QoS::ExactlyOnce);
        match self.at(incoming.packet_id) {
            Ok(at) => {
                let old = std::mem::replace(&mut self.all[at], incoming);
                self.exactly_once -= usize::from(old.qos == QoS::ExactlyOnce);
            }
            Err(at) => self.all.insert(at, incoming),
        }
    }

    /// Adds one that is to be answered, after all others that are.
    pub fn put_unanswered(&mut self, incoming: Incoming) {
        self.unanswered.push_back(incoming.packet_id);
        self.put(incoming);
    }

    pub fn remove(&mut self, id: PacketId) -> Option<Incoming> {
        let at = self.at(id).ok()?;
        let incoming = self.all.remove(at)?;
        self.exactly_once -= usize::from(incoming.qos == QoS::ExactlyOnce);
        Some(incoming)
    }

    /// The first that is to be answered, if it can be: not while the shell still stores it [MQTT-4.6.0-2],
    /// [MQTT-4.6.0-3].
    pub fn next_answer(&mut self) -> Option<&mut Incoming> {
        loop {
            let id = *self.unanswered.front()?;
            // It may be gone: PUBREL came before its PUBREC was repeated.
            if let Ok(at) = self.at(id) {
                if matches!(self.all.get(at)?.stage, Stage::Storing | Stage::Intended) {
                    return None;
                }
                self.unanswered.pop_front();
                return self.all.get_mut(at);
            }
            self.unanswered.pop_front();
        }
    }

    /// One that was answered is to be answered again, after all others that are.
    pub fn answer_again(&mut self, id: PacketId) {
        if !self.unanswered.contains(&id) {
            self.unanswered.push_back(id);
        }
    }

    /// The connection is gone: what is not answered will come again. QoS 2 keeps its name for that.
    pub fn disconnect(&mut self) {
        self.unanswered = VecDeque::new();
        self.all.retain_mut(|incoming| {
            if incoming.stage != Stage::Received {
                incoming.stage = Stage::Intended;
                incoming.message = None;
            }
            incoming.qos == QoS::ExactlyOnce && (incoming.stage == Stage::Received || incoming.name.is_some())
        });
        self.exactly_once = self.all.len();
        if self.all.is_empty() {
            self.all = VecDeque::new();
        }
    }

    /// QoS 2 that has a name and is not answered, as it is on disk.
    pub fn intents(&self) -> impl Iterator<Item = Intent> {
        let intent =
            |i: &Incoming| Some(Intent { packet_id: i.packet_id, name: i.name?, digest: i.digest, stored: i.upstream });
        self.of_qos_2().filter(|i| i.stage != Stage::Received).filter_map(intent)
    }

    /// QoS 2 with a name that the shell stores: the packet id, the name.
    pub fn storing(&self) -> impl Iterator<Item = (PacketId, u64)> {
        self.of_qos_2().filter(|i| i.stage == Stage::Storing).filter_map(|i| Some((i.packet_id, i.name?)))
    }

    /// QoS 2 with a name is stored, whether or not anybody can be answered. `true`: that is news.
    pub fn put_upstream(&mut self, id: PacketId, name: u64) -> bool {
        let known = self.get_mut(id).filter(|i| i.name == Some(name) && i.stage != Stage::Received);
        known.is_some_and(|incoming| !std::mem::replace(&mut incoming.upstream, true))
    }

    /// QoS 2 with a name that is stored, and waits for its turn to be answered.
    pub fn stored(&self) -> impl Iterator<Item = (PacketId, u64)> {
        self.of_qos_2().filter(|i| i.stage == Stage::Stored).filter_map(|i| Some((i.packet_id, i.name?)))
    }

    /// QoS 2 that is stored and not released: the packet id, the digest.
    pub fn received(&self) -> impl Iterator<Item = (PacketId, u64)> {
        self.of_qos_2().filter(|i| i.stage == Stage::Received).map(|i| (i.packet_id, i.digest))
    }

    /// QoS 1 that is not answered: the packet id, the digest.
    pub fn unanswered_qos_1(&self) -> impl Iterator<Item = (PacketId, u64)> {
        self.all.iter().filter(|i| i.qos == QoS::AtLeastOnce).map(|i| (i.packet_id, i.digest))
    }

    fn of_qos_2(&self) -> impl Iterator<Item = &Incoming> {
        self.all.iter().filter(|i| i.qos == QoS::ExactlyOnce)
    }
}
