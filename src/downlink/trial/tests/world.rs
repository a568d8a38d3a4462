//! A gateway around the machine: a disk that may fail, a link that comes and goes, brokers that move, documents of every
//! kind, and a shell whose answers come late, in any order, or never.

use std::collections::{BTreeMap, VecDeque};

use super::nth;
use super::oracle::Oracle;
use crate::downlink::trial::{
    Action, Assigned, Digest, Found, Input, Machine, Millis, Place, Policy, Record, Slot, Stored,
};

/// What a document does to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It works while the broker is where it says.
    Good,
    NotConnected,
    NotAcknowledged,
    Unhealthy,
    NotApplied,
    /// Applying it never ends.
    Hangs,
    /// Applying it ends the process.
    Crashes,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Good,
        Self::NotConnected,
        Self::NotAcknowledged,
        Self::Unhealthy,
        Self::NotApplied,
        Self::Hangs,
        Self::Crashes,
    ];
}

/// A document; 255 as kind is the local file alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document {
    pub kind: Kind,
    /// Which of two places of the broker it names.
    pub broker: u8,
    pub variant: u8,
}

impl Document {
    pub fn digest(&self) -> Digest {
        let mut digest = [self.variant; 32];
        digest[0] = Kind::ALL.iter().position(|k| *k == self.kind).unwrap() as u8;
        digest[1] = self.broker;
        digest
    }
}

pub fn document_of(place: &Place) -> Document {
    let local = Document { kind: Kind::Good, broker: 0, variant: 0 };
    place.digest().map_or(local, |d| Document { kind: Kind::ALL[usize::from(d[0])], broker: d[1], variant: d[2] })
}

/// What a disk that fails does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    None,
    /// Nothing was written.
    Refuses,
    /// It was written, and the answer is an error: the sync of the directory failed.
    WritesAndRefuses,
}

#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub record: Option<Vec<u8>>,
    pub slots: [Option<Stored>; 2],
}

impl Disk {
    pub fn found(&self) -> Found {
        let record = self.record.as_deref().map(Record::decode).transpose();
        Found { record, slots: self.slots }
    }

    pub fn record(&self) -> Record {
        self.found().record.ok().flatten().unwrap_or_default()
    }

    pub fn holds(&self, place: &Place) -> bool {
        match place {
            Place::Local => true,
            Place::Slot { slot, digest } => {
                self.slots[usize::from(*slot == Slot::B)].is_some_and(|s| s.digest == *digest)
            }
        }
    }
}

pub struct World {
    pub policy: Policy,
    pub now: Millis,
    pub disk: Disk,
    pub fault: DiskFault,
    pub link: bool,
    pub broker: u8,
    pub machine: Machine,
    /// What the shell has still to do, in order.
    pub actions: VecDeque<Action>,
    /// What it has still to answer, in any order.
    pub answers: Vec<Input>,
    pub oracle: Oracle,
    pub newest_offer: u64,
    /// By number; `None`: the document is not valid here.
    assigned: BTreeMap<u64, Option<Option<Digest>>>,
    /// Generation, place, applied, connected.
    running: Option<(u64, Place, bool, bool)>,
    /// Whose settings the control link looks at: generation, place, connected.
    looking: Option<(u64, Place, bool)>,
    /// Durable steps so far.
    pub durable_steps: usize,
    /// The process ends at this durable step; true: after it, unanswered.
    pub crash_at: Option<(usize, bool)>,
}

impl World {
    pub fn new(policy: Policy) -> Self {
        let disk = Disk::default();
        let (machine, actions) = Machine::start(policy, &disk.found(), 0);
        Self {
            policy,
            now: 0,
            disk,
            fault: DiskFault::None,
            link: true,
            broker: 0,
            machine,
            actions: actions.into(),
            answers: Vec::new(),
            oracle: Oracle::default(),
            newest_offer: 0,
            assigned: BTreeMap::new(),
            running: None,
            looking: None,
            durable_steps: 0,
            crash_at: None,
        }
    }

    pub fn crash(&mut self) {
        self.oracle.crashed();
        (self.running, self.looking) = (None, None);
        self.answers.clear();
        // A clock of the process: it starts anew.
        self.now = 0;
        let (machine, actions) = Machine::start(self.policy, &self.disk.found(), self.now);
        (self.machine, self.actions) = (machine, actions.into());
        self.oracle.started(&self.disk.record(), self.machine.record());
        // The inbox gives its newest message to everybody who comes.
        self.answers.extend(self.assigned.keys().next_back().map(|number| self.message(*number)));
    }

    pub fn give(&mut self, input: Input) {
        self.oracle.given(&input, self.running.map(|r| r.1));
        let actions = self.machine.handle(self.now, input);
        self.actions.extend(actions);
    }

    /// The nth number; numbers may repeat and be old; a number always means the same document.
    pub fn offer(&mut self, number: u64, document: Option<Document>) {
        let digest = document.map(|d| d.digest());
        let digest = *self.assigned.entry(number).or_insert(Some(digest));
        self.oracle.assigned(nth(number), digest.flatten());
        self.deliver(number);
    }

    /// A number whose document is not valid here.
    pub fn reject(&mut self, number: u64) {
        self.assigned.entry(number).or_insert(None);
        self.deliver(number);
    }

    fn deliver(&mut self, number: u64) {
        self.newest_offer = self.newest_offer.max(number);
        let input = self.message(number);
        self.give(input);
    }

    fn message(&self, number: u64) -> Input {
        let (digest, number) = (self.assigned[&number], nth(number));
        let invalid = || Input::Rejected { number, detail: "line 3: unknown key".into() };
        digest.map_or_else(invalid, |digest| Input::Offered(Assigned { number, digest }))
    }

    /// Does the shell's next action.
    pub fn act(&mut self) {
        let Some(action) = self.actions.pop_front() else { return };
        let connected = self.running.is_some_and(|r| r.3);
        self.oracle.acts(&action, &self.disk, connected);
        match action {
            Action::WriteSlot { slot, number, digest } => {
                // As `Slots::write` does.
                if self.disk.record.is_none() {
                    match self.durable(|disk| disk.record = Some(Record::default().encode())) {
                        None => return,
                        Some(true) => {}
                        Some(false) => {
                            self.answers.push(Input::SlotNotWritten { number, detail: "no space".into() });
                            return;
                        }
                    }
                }
                let answer = match self
                    .durable(|disk| disk.slots[usize::from(slot == Slot::B)] = Some(Stored { number, digest }))
                {
                    None => return,
                    Some(true) => Input::SlotWritten { number },
                    Some(false) => Input::SlotNotWritten { number, detail: "no space".into() },
                };
                self.answers.push(answer);
            }
            Action::Persist { write, record } => {
                let bytes = record.encode();
                let answer = match self.durable(|disk| disk.record = Some(bytes)) {
                    None => return,
                    Some(true) => Input::Persisted { write },
                    Some(false) => Input::NotPersisted { write },
                };
                self.answers.push(answer);
            }
            Action::Apply { generation, place } => self.apply(generation, place),
            Action::Look { generation, place } => self.look(generation, place),
            Action::Probe { probe } => match self.running {
                Some((_, place, _, true)) if document_of(&place).kind == Kind::NotAcknowledged => {
                    self.answers.push(Input::ProbeRefused { probe, detail: "not allowed".into() });
                }
                Some((_, _, _, true)) => self.answers.push(Input::ProbeAcknowledged { probe }),
                _ => {}
            },
            Action::CheckHealth { check } => {
                let sick = self.running.is_some_and(|r| document_of(&r.1).kind == Kind::Unhealthy);
                let sick_answer = Input::Unhealthy { check, detail: "exit code 3".into() };
                self.answers.push(if sick { sick_answer } else { Input::Healthy { check } });
            }
            Action::Report(report) => {
                if connected {
                    self.answers.push(Input::ReportAcknowledged { seq: report.seq });
                }
            }
        }
    }

    /// Whether it was done; `None`: the process ended.
    fn durable(&mut self, write: impl FnOnce(&mut Disk)) -> Option<bool> {
        let step = self.durable_steps;
        self.durable_steps += 1;
        let before = self.disk.clone();
        if self.fault != DiskFault::Refuses && self.crash_at != Some((step, false)) {
            write(&mut self.disk);
        }
        self.oracle.written(&before, &self.disk);
        if self.crash_at.is_some_and(|(at, _)| at == step) {
            self.crash_at = None;
            self.crash();
            return None;
        }
        Some(self.fault == DiskFault::None)
    }

    fn look(&mut self, generation: u64, place: Place) {
        let Some((own, runs, _, connected)) = &mut self.running else { return };
        *connected = false;
        if *runs == place {
            (*own, self.looking) = (generation, None);
        } else if self.disk.holds(&place) {
            self.looking = Some((generation, place, false));
        } else {
            let detail = "it is not there any more".into();
            self.answers.push(Input::NotApplied { generation, detail });
        }
    }

    fn apply(&mut self, generation: u64, place: Place) {
        self.looking = None;
        self.running = Some((generation, place, false, false));
        match document_of(&place).kind {
            Kind::Crashes => self.crash(),
            Kind::NotApplied => {
                self.answers.push(Input::NotApplied { generation, detail: "port 1883 is in use".into() });
            }
            Kind::Hangs => {}
            _ => {
                self.running = Some((generation, place, true, false));
                self.answers.push(Input::Applied { generation });
            }
        }
    }

    pub fn reachable(&self, place: &Place) -> bool {
        let document = document_of(place);
        self.link && document.broker == self.broker && document.kind != Kind::NotConnected
    }

    /// The link's state as the running configuration finds it.
    pub fn connect(&mut self) {
        if let Some((generation, place, connected)) = self.looking {
            let reachable = self.reachable(&place);
            self.looking = Some((generation, place, reachable));
            if reachable && !connected {
                self.answers.push(Input::Connected { generation });
            }
            return;
        }
        let Some((generation, place, true, connected)) = self.running else { return };
        let reachable = self.reachable(&place);
        if reachable != connected {
            self.running = Some((generation, place, true, reachable));
            let detail = "connection refused".into();
            let lost = Input::Disconnected { generation, detail };
            self.answers.push(if reachable { Input::Connected { generation } } else { lost });
        }
    }

    /// Gives one of the answers that wait.
    pub fn answer(&mut self, which: usize) {
        if !self.answers.is_empty() {
            let is_link = |input: &Input| matches!(input, Input::Connected { .. } | Input::Disconnected { .. });
            let mut which = which % self.answers.len();
            // What one task sees of the link comes in its order.
            if is_link(&self.answers[which]) {
                which = self.answers.iter().position(is_link).unwrap();
            }
            let input = self.answers.remove(which);
            self.give(input);
        }
    }

    /// Everything works for so long, as far as the link, the broker and the disk let it.
    pub fn run(&mut self, ms: Millis) {
        let mut left = ms;
        loop {
            let mut steps = 0;
            while !self.actions.is_empty() || !self.answers.is_empty() {
                self.act();
                self.connect();
                self.answer(0);
                steps += 1;
                assert!(steps < 10_000, "the machine does not come to rest");
            }
            self.connect();
            if !self.answers.is_empty() {
                continue;
            }
            let wait = self.machine.deadline().map_or(left, |at| at.saturating_sub(self.now).min(left));
            if left == 0 {
                return;
            }
            (self.now, left) = (self.now + wait, left - wait);
            self.give(Input::Tick);
            if wait == 0 && self.actions.is_empty() {
                assert!(self.machine.deadline().is_none_or(|at| at > self.now), "a deadline that has passed stays");
            }
        }
    }
}
