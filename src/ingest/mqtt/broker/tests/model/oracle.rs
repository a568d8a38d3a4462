//! What must be true, kept without looking into the broker: sessions, who is owed which message, what was delivered.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Payload, SHARED_TOPIC};
use crate::ingest::mqtt::broker::record::Millis;
use crate::ingest::mqtt::packet::QoS;
use crate::ingest::mqtt::topic::Filter;
use crate::ingest::mqtt::topic::filter::matches;

/// A session as it must be.
#[derive(Clone, Debug)]
pub struct Session {
    /// Another one has another number.
    number: u64,
    connected: bool,
    persistent: bool,
    expiry_s: u32,
    /// It ends between these.
    ends: Option<(Millis, Millis)>,
    /// How much of the log has to be on disk for it to be as it is; the same for its end.
    position: usize,
    end_position: usize,
    /// Filter, QoS, and how much of the log that needs.
    subscriptions: BTreeMap<&'static str, (QoS, usize)>,
}

#[derive(Clone, Debug)]
enum Known {
    /// There is none, if so much of the log is on disk.
    None(usize),
    Some(Session),
    /// A crash has left it open.
    Open,
}

/// Of a message: who is owed it. All of the first; of the second one, if any of these sessions lasts and shares to the end:
/// it inherits what others leave.
#[derive(Debug, Default)]
struct Debt {
    each: Vec<(usize, u64)>,
    one_of: Vec<(usize, u64)>,
    /// To these it was sent with QoS 2: it is nobody else's any more [MQTT-4.8.2-5].
    begun: Vec<(usize, u64)>,
    /// There was a member that keeps nothing on disk: it may have been lost with it in a crash.
    fragile: bool,
}

/// A retained message that may be there: log before and after it, payload (0: cleared), whether it may also not be there.
type Retained = (usize, usize, Payload, bool);

#[derive(Debug)]
pub struct Oracle {
    sessions: Vec<Known>,
    next_number: u64,
    debts: HashMap<Payload, Debt>,
    /// Handed out again, because the publisher had no answer and sent them again: these have no order towards those
    /// who subscribed in between. And those that were refused: if the publisher does not hear of it, they come again
    /// after later ones that were taken.
    repeated: BTreeSet<Payload>,
    acknowledged: BTreeSet<Payload>,
    /// By device, its session, payload: how often with QoS 2, and how often at all.
    delivered: HashMap<(usize, u32, Payload), (u32, u32)>,
    /// Delivered with QoS 2 by a shared subscription: to which device, in which of its sessions.
    once: HashMap<Payload, (usize, u32)>,
    /// By device, its session, publisher, topic, and QoS as published and as delivered: the last that was new.
    order: HashMap<(usize, u32, usize, String, QoS, QoS), Payload>,
    retained: BTreeMap<&'static str, Vec<Retained>>,
}

fn qos_of(session: &Session, topic: &str, shared: bool) -> Option<QoS> {
    let parsed = |f: &'static str| Filter::parse(f).unwrap();
    let matching = session
        .subscriptions
        .iter()
        .filter(|(f, _)| parsed(f).group().is_some() == shared && matches(parsed(f).pattern(), topic));
    matching.map(|(_, (qos, _))| *qos).max()
}

impl Oracle {
    pub fn new(devices: usize) -> Self {
        Self {
            sessions: vec![Known::None(0); devices],
            next_number: 1,
            debts: HashMap::new(),
            repeated: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            delivered: HashMap::new(),
            once: HashMap::new(),
            order: HashMap::new(),
            retained: BTreeMap::new(),
        }
    }

    /// The session of a device while it lasts for certain.
    fn alive(&self, device: usize, now: Millis) -> Option<&Session> {
        match &self.sessions[device] {
            Known::Some(s) if s.connected || s.ends.is_none_or(|(first, _)| now < first) => Some(s),
            _ => None,
        }
    }

    /// CONNECT was answered; `log`: its length by then.
    pub fn connected(
        &mut self,
        device: usize,
        now: Millis,
        clean: bool,
        expiry_s: u32,
        present: bool,
        log: usize,
    ) -> Result<(), String> {
        let expected = match &self.sessions[device] {
            Known::None(_) => Some(false),
            Known::Open => None,
            Known::Some(s) => match s.ends {
                Some((_, last)) if now >= last => Some(false),
                Some((first, _)) if now >= first => None,
                _ => Some(true),
            },
        };
        let expected = if clean { Some(false) } else { expected };
        if expected.is_some_and(|e| e != present) {
            return Err(format!("session present: {present}, although {:?}", self.sessions[device]));
        }
        let known = std::mem::replace(&mut self.sessions[device], Known::Open);
        let (number, subscriptions) = match known {
            Known::Some(s) if present => (s.number, s.subscriptions),
            _ => {
                self.next_number += 1;
                (self.next_number, BTreeMap::new())
            }
        };
        let (persistent, connected) = (expiry_s > 0, true);
        let (ends, position, end_position) = (None, log, 0);
        let session = Session { number, connected, persistent, expiry_s, ends, position, end_position, subscriptions };
        if !persistent {
            self.debts.values_mut().for_each(|debt| debt.fragile = true);
        }
        self.sessions[device] = Known::Some(session);
        Ok(())
    }

    /// The connection ended; `over`: the session with it.
    pub fn disconnected(&mut self, device: usize, now: Millis, over: bool, log: usize) {
        let Known::Some(s) = &mut self.sessions[device] else { return };
        if over || !s.persistent {
            self.sessions[device] = Known::None(if s.persistent { log } else { s.position });
            return;
        }
        let end = now + u64::from(s.expiry_s) * 1000;
        (s.connected, s.ends, s.end_position) = (false, Some((end, end)), log);
    }

    pub fn subscribed(&mut self, device: usize, filter: &'static str, qos: Option<QoS>, log: usize) {
        if let Known::Some(s) = &mut self.sessions[device] {
            match qos {
                Some(qos) => s.subscriptions.insert(filter, (qos, log)),
                None => s.subscriptions.remove(filter),
            };
            let gone = (device, s.number);
            if qos.is_none() && Filter::parse(filter).unwrap().group().is_some() {
                self.debts.values_mut().for_each(|debt| debt.one_of.retain(|member| *member != gone));
            }
        }
    }

    /// The broker hands a message out.
    pub fn routed(&mut self, now: Millis, payload: Payload, topic: &str, qos: QoS) {
        let mut debt = Debt::default();
        let sessions = (0..self.sessions.len()).filter_map(|d| Some((d, self.alive(d, now)?)));
        for (device, session) in sessions {
            let owed = |granted: Option<QoS>| granted.is_some_and(|g| g.min(qos) != QoS::AtMostOnce);
            if owed(qos_of(session, topic, false)) {
                debt.each.push((device, session.number));
            }
            if owed(qos_of(session, topic, true)) {
                debt.one_of.push((device, session.number));
            }
            debt.fragile |= !session.persistent;
        }
        if self.debts.insert(payload, debt).is_some() {
            self.repeated.insert(payload);
        }
    }

    /// A message goes off to a device with QoS 2.
    pub fn begun(&mut self, device: usize, payload: Payload) {
        if let (Known::Some(s), Some(debt)) = (&self.sessions[device], self.debts.get_mut(&payload)) {
            debt.begun.push((device, s.number));
        }
    }

    /// The server could not store it, and says so.
    pub fn refused(&mut self, payload: Payload) {
        self.repeated.insert(payload);
    }

    pub fn retained(&mut self, topic: &'static str, payload: Payload, before: usize, after: usize) {
        self.retained.entry(topic).or_default().push((before, after, payload, false));
    }

    pub fn acknowledged(&mut self, payload: Payload) {
        self.acknowledged.insert(payload);
    }

    /// A message reached an application.
    pub fn delivered(
        &mut self,
        to: (usize, u32),
        from: (usize, QoS),
        payload: Payload,
        topic: String,
        qos: QoS,
    ) -> Result<(), String> {
        let times = self.delivered.entry((to.0, to.1, payload)).or_default();
        times.1 += 1;
        times.0 += u32::from(qos == QoS::ExactlyOnce);
        if times.0 > 1 {
            return Err(format!("{payload} came twice with QoS 2 to device {}", to.0));
        }
        let is_shared = topic == SHARED_TOPIC;
        if is_shared && qos == QoS::ExactlyOnce && !self.repeated.contains(&payload) {
            let first = *self.once.entry(payload).or_insert((to.0, to.1));
            if first != to {
                return Err(format!("{payload} came with QoS 2 to {first:?} and to {to:?}, who share"));
            }
        }
        // What a member inherits may be older than what it had.
        if times.1 == 1 && !is_shared && !self.repeated.contains(&payload) {
            let last = self.order.entry((to.0, to.1, from.0, topic, from.1, qos)).or_default();
            if payload < *last {
                return Err(format!("{payload} came after {last} to device {}", to.0));
            }
            *last = payload;
        }
        Ok(())
    }

    /// A crash left so much of the log.
    pub fn crashed(&mut self, now: Millis, kept: usize) {
        for known in &mut self.sessions {
            match known {
                Known::None(position) if *position > kept => *known = Known::Open,
                Known::Some(s) if s.position > kept => *known = Known::Open,
                Known::Some(s) if !s.persistent => *known = Known::None(s.position),
                Known::Some(s) => {
                    s.subscriptions.retain(|_, (_, position)| *position <= kept);
                    let again = now + u64::from(s.expiry_s) * 1000;
                    if s.connected {
                        s.ends = Some((again, again));
                    } else if s.end_position > kept {
                        s.ends = s.ends.map(|(first, _)| (first, again));
                    }
                    s.connected = false;
                }
                _ => {}
            }
        }
        for debt in self.debts.values_mut() {
            let stays = |&(device, number): &(usize, u64)| match &self.sessions[device] {
                Known::Some(s) => s.number == number && qos_of(s, SHARED_TOPIC, true).is_some(),
                _ => false,
            };
            debt.one_of.retain(|member| !debt.fragile && stays(member));
        }
        for values in self.retained.values_mut() {
            values.retain(|(before, ..)| *before < kept);
            values.iter_mut().for_each(|(_, after, _, may_lack)| *may_lack |= *after > kept);
            values.iter_mut().for_each(|(_, after, ..)| *after = (*after).min(kept));
        }
    }

    /// After a crash the ends of sessions are written anew, at this length of the log.
    pub fn restored(&mut self, log: usize) {
        for known in &mut self.sessions {
            if let Known::Some(s) = known {
                s.end_position = log;
            }
        }
    }

    /// All has come to rest: what was promised has been kept, but for so many that the broker counted as given up.
    pub fn settle(&self, now: Millis, given_up: u64) -> Result<(), String> {
        let lasts = |(device, number): (usize, u64)| self.alive(device, now).is_some_and(|s| s.number == number);
        let has = |device: usize, payload| self.delivered.keys().any(|(d, _, p)| *d == device && *p == payload);
        let mut missing = Vec::new();
        for payload in &self.acknowledged {
            let Some(debt) = self.debts.get(payload) else { return Err(format!("{payload} was never handed out")) };
            let owed = debt.each.iter().filter(|&&to| lasts(to) && !has(to.0, *payload));
            missing.extend(owed.map(|(device, _)| (*payload, *device)));
            if debt.one_of.iter().any(|&to| lasts(to)) && debt.begun.iter().all(|&to| lasts(to)) {
                let got = (0..self.sessions.len()).any(|device| has(device, *payload));
                missing.extend((!got).then_some((*payload, usize::MAX)));
            }
        }
        if missing.len() as u64 > given_up {
            return Err(format!("acknowledged and missing (payload, device), {given_up} given up: {missing:?}"));
        }
        Ok(())
    }

    pub fn acknowledged_all(&self) -> impl Iterator<Item = Payload> {
        self.acknowledged.iter().copied()
    }

    /// What a new subscriber may find retained under a topic.
    pub fn may_be_retained(&self, topic: &str) -> Vec<Payload> {
        let Some(values) = self.retained.get(topic) else { return vec![0] };
        let certain = values.iter().rposition(|(.., may_lack)| !may_lack);
        let mut may: Vec<_> = values[certain.unwrap_or(0)..].iter().map(|(_, _, payload, _)| *payload).collect();
        may.extend(certain.is_none().then_some(0));
        may
    }
}
