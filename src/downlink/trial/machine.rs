//! The state machine of the trial; what it does and why is in the module's page. [pure]

use super::away::Away;
use super::proof::{Ask, Proof};
use super::record::{Candidate, Failure, Outcome, Place, Reason, Record, Slot, Stage};
use super::{
    Action, Assigned, Input, Millis, Number, Policy, REPORT_AGAIN_MS, RETRY_MS_FIRST, RETRY_MS_MAX, STEP_MS_MAX,
    TURN_MS_FIRST, TURN_MS_MAX,
};

/// See the module.
#[derive(Debug)]
pub struct Machine {
    pub(super) policy: Policy,
    pub(super) record: Record,
    pub(super) phase: Phase,
    pub(super) disk: Disk,
    pub(super) running: Running,
    pub(super) away: Away,
    pub(super) pending: Option<Assigned>,
    pub(super) actions: Vec<Action>,
    /// Of probes, checks and generations: each number is used once.
    pub(super) next_number: u64,
    reports_sent: u64,
    reports_due: Millis,
    /// The cloud asks for the last decision again.
    is_asked_again: bool,
}

/// What is lost with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The committed one runs, or is about to, and there is no candidate.
    Idle,
    /// A document is on its way into a slot.
    Writing(Assigned, Slot),
    /// The record of a trial is on its way to the disk.
    Beginning(u64),
    /// The same after a start of the process; nothing runs yet.
    Counting(u64),
    /// The candidate runs, or is about to.
    Trial {
        /// Up to here the record counts the time.
        stepped: Millis,
        /// What of it is on disk.
        saved_ms: Millis,
    },
    /// The candidate is proven; the record is on its way to the disk.
    Committing(u64),
    /// The committed one runs again, and is asked for the same proof.
    Watching {
        /// Until then it must give it, or the link was to blame.
        until: Millis,
    },
    /// The candidate waits for its next trial.
    Waiting {
        /// Its turn comes then, even if the committed one has not reached Pulsar.
        turn: Millis,
    },
}

/// What is known of the record on disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Counts the record's changes.
    revision: u64,
    /// The newest revision that is durable.
    durable: u64,
    writing: Option<u64>,
    /// Reports below this are in the durable record.
    durable_reports: u64,
    writing_reports: u64,
    failures: u32,
    retry: Option<Millis>,
}

/// What runs.
#[derive(Debug)]
pub(super) struct Running {
    pub generation: u64,
    pub place: Place,
    /// It is the candidate.
    pub candidate: bool,
    pub proof: Proof,
    /// Applying the committed one failed so often; it is tried again then.
    failures: u32,
    retry: Option<Millis>,
}

/// What operators see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// What is committed runs and nothing is on its way.
    Settled,
    /// A new configuration is being stored or proves itself.
    OnTrial,
    /// A new configuration waits for its next trial.
    Waiting,
}

impl Machine {
    pub(super) fn new(policy: Policy, record: Record, stored: bool) -> Self {
        let reports = record.next_report;
        Self {
            policy,
            phase: Phase::Idle,
            disk: Disk { durable_reports: if stored { reports } else { 0 }, ..Disk::default() },
            running: Running {
                generation: 0,
                place: Place::Local,
                candidate: false,
                proof: Proof::new(1),
                failures: 0,
                retry: None,
            },
            away: Away::new(&record),
            pending: None,
            actions: Vec::new(),
            next_number: 1,
            reports_sent: 0,
            reports_due: 0,
            is_asked_again: false,
            record,
        }
    }

    /// What would be on disk after the next write.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What operators see.
    pub fn status(&self) -> Status {
        match self.phase {
            Phase::Idle => Status::Settled,
            Phase::Watching { .. } | Phase::Waiting { .. } => Status::Waiting,
            _ => Status::OnTrial,
        }
    }

    /// Time that what is on trial has left to prove itself; `None`: nothing is.
    pub fn left_ms(&self, now: Millis) -> Option<Millis> {
        let Phase::Trial { stepped, .. } = self.phase else { return None };
        let used = self.used_ms().saturating_add(now.saturating_sub(stepped).min(STEP_MS_MAX));
        Some(self.policy.confirm_ms.saturating_sub(used))
    }

    /// The operator has set something else. What has begun goes on by it.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// What runs or is about to; an [`Action::Apply`] with the same place has left before.
    pub fn running(&self) -> Place {
        self.running.place
    }

    /// Whether what was applied as `generation` is kept: not on trial, or not any more, and the disk knows it.
    pub fn keeps(&self, generation: u64) -> bool {
        self.running.generation == generation && !self.running.candidate
    }

    /// Takes one input; the shell does the actions in their order.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Action> {
        self.count_time(now);
        self.count_away(now);
        self.take(now, input);
        self.go_on(now);
        self.consider_pending();
        self.persist_if_changed(now);
        self.send_reports(now);
        std::mem::take(&mut self.actions)
    }

    /// The latest time for the next [`Input::Tick`]; `None`: there is nothing to wait for.
    pub fn deadline(&self) -> Option<Millis> {
        let phase = match self.phase {
            Phase::Trial { stepped, .. } => {
                let used = self.record.candidate.as_ref().map_or(0, |c| c.used_ms);
                Some(stepped.saturating_add(self.policy.confirm_ms.saturating_sub(used).clamp(1, STEP_MS_MAX)))
            }
            Phase::Watching { until } => Some(until),
            Phase::Waiting { turn } => Some(turn),
            _ => None,
        };
        let health = self.policy.health && self.running.candidate;
        let asks = self.is_asked().then(|| self.running.proof.deadline(health)).flatten();
        let reports = (self.running.proof.connected && !self.record.reports.is_empty()).then_some(self.reports_due);
        [phase, asks, reports, self.disk.retry, self.running.retry, self.away_deadline()].into_iter().flatten().min()
    }

    fn take(&mut self, now: Millis, input: Input) {
        match input {
            Input::Offered(assigned) => {
                self.note_repetition(assigned.number);
                let newest = self.pending.map_or(Number::default(), |p| p.number).max(self.record.settled);
                if assigned.number > newest {
                    self.pending = Some(assigned);
                }
            }
            Input::Rejected { number, detail } => {
                self.note_repetition(number);
                self.rejected(number, detail);
            }
            Input::SlotWritten { number } => self.slot_written(number),
            Input::SlotNotWritten { number, detail } => self.slot_not_written(number, detail),
            Input::Persisted { write } => self.persisted(now, write),
            Input::NotPersisted { write } => self.not_persisted(now, write),
            Input::Applied { generation } if generation == self.running.generation => {
                self.running.proof.applied = true;
                if !self.running.candidate && self.running.place == self.record.committed.place {
                    self.is_applied_again();
                }
            }
            Input::NotApplied { generation, detail } if generation == self.running.generation => {
                self.not_applied(now, detail);
            }
            Input::Connected { generation } if generation == self.running.generation => {
                self.running.proof.connected();
                self.reports_sent = 0;
                self.is_back();
            }
            Input::Connected { generation } => self.reached(generation),
            Input::NotApplied { generation, .. } => self.not_there(now, generation),
            Input::Disconnected { generation, detail } if generation == self.running.generation => {
                self.running.proof.disconnected(detail);
            }
            Input::ProbeAcknowledged { probe } => self.running.proof.probe_acknowledged(probe),
            Input::ProbeRefused { probe, detail } => self.running.proof.probe_refused(probe, detail),
            Input::Healthy { check } => self.running.proof.health(now, check, Ok(())),
            Input::Unhealthy { check, detail } => self.running.proof.health(now, check, Err(detail)),
            Input::ReportAcknowledged { seq } => {
                let before = self.record.reports.len();
                self.record.reports.retain(|r| r.seq != seq);
                if self.record.reports.len() != before {
                    self.changed();
                }
            }
            // What is answered to an earlier generation says nothing about this one.
            Input::Applied { .. } | Input::Disconnected { .. } | Input::Tick => {}
        }
    }

    /// An assignment that comes again after it was decided asks what became of it: the cloud may have lost the report.
    fn note_repetition(&mut self, number: Number) {
        let decided = self.record.last.as_ref().filter(|last| last.number == number);
        self.is_asked_again |= decided.is_some_and(|last| !self.record.reports.contains(last));
    }

    /// What follows from time and from what has become known.
    fn go_on(&mut self, now: Millis) {
        if self.is_asked() {
            let health = self.policy.health && self.running.candidate;
            match self.running.proof.ask(now, health, self.next_number) {
                Some(Ask::Probe) => {
                    let probe = self.number();
                    self.actions.push(Action::Probe { probe });
                }
                Some(Ask::CheckHealth) => {
                    let check = self.number();
                    self.actions.push(Action::CheckHealth { check });
                }
                None => {}
            }
        }
        let proof = &self.running.proof;
        match self.phase {
            Phase::Trial { .. } if proof.acknowledged && (proof.healthy || !self.policy.health) => self.commit(),
            Phase::Trial { .. } if self.used_ms() >= self.policy.confirm_ms => self.time_is_over(now),
            Phase::Watching { .. } | Phase::Waiting { .. } if proof.acknowledged => self.link_is_there(),
            Phase::Watching { until } if until <= now => self.link_was_down(now),
            Phase::Waiting { turn } if turn <= now => self.begin_again(false),
            _ => {}
        }
        if self.running.retry.is_some_and(|at| at <= now) && !self.running.candidate {
            self.running.retry = None;
            self.apply_committed();
        }
        self.look_elsewhere(now);
    }

    /// Whether what runs is asked for a proof.
    fn is_asked(&self) -> bool {
        matches!(self.phase, Phase::Trial { .. } | Phase::Watching { .. } | Phase::Waiting { .. })
    }

    fn used_ms(&self) -> Millis {
        self.record.candidate.as_ref().map_or(0, |c| c.used_ms)
    }

    /// Counts the time of a trial, and saves it four times per confirm time: a process that is killed again and again
    /// prolongs its trial by less than it has already had.
    fn count_time(&mut self, now: Millis) {
        let every = self.policy.confirm_ms / 4;
        let Phase::Trial { stepped, saved_ms } = &mut self.phase else { return };
        let Some(candidate) = &mut self.record.candidate else { return };
        candidate.used_ms = candidate.used_ms.saturating_add(now.saturating_sub(*stepped).min(STEP_MS_MAX));
        *stepped = now.max(*stepped);
        if candidate.used_ms.saturating_sub(*saved_ms) >= every {
            *saved_ms = candidate.used_ms;
            self.changed();
        }
    }

    /// Takes the newest offer up when nothing else is on its way.
    fn consider_pending(&mut self) {
        let free = matches!(self.phase, Phase::Idle | Phase::Watching { .. } | Phase::Waiting { .. });
        if !free || !self.disk.is_clean() {
            return;
        }
        let Some(assigned) = self.pending.take_if(|p| p.number > self.record.settled) else {
            self.pending = None;
            return;
        };
        if self.record.candidate.is_some() {
            // Its slot is not touched before the record says that it is over.
            self.pending = Some(assigned);
            self.settle(Outcome::Superseded, None);
            return;
        }
        let committed = &mut self.record.committed;
        if committed.place.digest() == assigned.digest {
            committed.number = assigned.number;
            self.record.settled = assigned.number;
            self.record.report(assigned.number, Outcome::Committed, None);
            self.changed();
            if self.running.place != self.record.committed.place {
                self.running.failures = 0;
                self.apply_committed();
            }
            return;
        }
        let Some(digest) = assigned.digest else {
            self.begin(assigned, Place::Local);
            return;
        };
        let slot = match self.record.committed.place {
            Place::Slot { slot, .. } => slot.other(),
            Place::Local => Slot::A,
        };
        self.phase = Phase::Writing(assigned, slot);
        if self.record.previous.is_some_and(|p| matches!(p.place, Place::Slot { slot: held, .. } if held == slot)) {
            self.record.previous = None;
            self.changed();
        }
        self.actions.push(Action::WriteSlot { slot, number: assigned.number, digest });
    }

    pub(super) fn begin(&mut self, assigned: Assigned, place: Place) {
        self.record.settled = self.record.settled.max(assigned.number);
        self.record.candidate = Some(Candidate {
            config: super::Config { number: assigned.number, place },
            stage: Stage::OnTrial,
            starts: 0,
            attempts: 0,
            turns: 0,
            grounded: false,
            used_ms: 0,
            failure: None,
        });
        self.begin_again(self.running.proof.connected);
    }

    /// Puts the candidate on trial.
    pub(super) fn begin_again(&mut self, grounded: bool) {
        let Some(candidate) = &mut self.record.candidate else { return };
        candidate.stage = Stage::OnTrial;
        candidate.used_ms = 0;
        candidate.grounded = grounded;
        let count = if grounded { &mut candidate.attempts } else { &mut candidate.turns };
        *count = count.saturating_add(1);
        self.changed();
        self.phase = Phase::Beginning(self.disk.revision);
    }

    fn persisted(&mut self, now: Millis, write: u64) {
        if self.disk.writing != Some(write) {
            return;
        }
        let disk = &mut self.disk;
        (disk.writing, disk.durable, disk.durable_reports) = (None, write, disk.writing_reports);
        disk.failures = 0;
        match self.phase {
            Phase::Beginning(needed) | Phase::Counting(needed) if write >= needed => {
                let Some(candidate) = &self.record.candidate else { return };
                self.phase = Phase::Trial { stepped: now, saved_ms: candidate.used_ms };
                let place = candidate.config.place;
                self.apply(place, true);
            }
            Phase::Committing(needed) if write >= needed => {
                self.running.candidate = false;
                self.phase = Phase::Idle;
            }
            _ => {}
        }
    }

    fn not_persisted(&mut self, now: Millis, write: u64) {
        if self.disk.writing != Some(write) {
            return;
        }
        self.disk.writing = None;
        self.disk.retry = Some(now.saturating_add(doubled(RETRY_MS_FIRST, self.disk.failures, RETRY_MS_MAX)));
        self.disk.failures = self.disk.failures.saturating_add(1);
        if matches!(self.phase, Phase::Beginning(_) | Phase::Counting(_)) {
            let failure = Failure::new(Reason::NotStored, "the record of the trial cannot be written");
            self.settle(Outcome::Reverted, Some(failure));
        }
    }

    fn persist_if_changed(&mut self, now: Millis) {
        let disk = &mut self.disk;
        if disk.retry.is_some_and(|at| at <= now) {
            disk.retry = None;
        }
        if disk.is_clean() || disk.writing.is_some() || disk.retry.is_some() {
            return;
        }
        disk.writing = Some(disk.revision);
        disk.writing_reports = self.record.next_report;
        let action = Action::Persist { write: disk.revision, record: Box::new(self.record.clone()) };
        // Before what it decides.
        let at = self.actions.iter().position(|a| matches!(a, Action::Apply { .. })).unwrap_or(self.actions.len());
        self.actions.insert(at, action);
    }

    fn send_reports(&mut self, now: Millis) {
        if !self.running.proof.connected {
            return;
        }
        let last = self.record.last.as_ref().filter(|last| last.seq < self.disk.durable_reports);
        if let Some(last) = last.filter(|_| std::mem::take(&mut self.is_asked_again)) {
            self.actions.push(Action::Report(last.clone()));
        }
        if self.reports_due <= now {
            self.reports_sent = 0;
        }
        let durable = self.disk.durable_reports;
        let due: Vec<_> =
            self.record.reports.iter().filter(|r| r.seq > self.reports_sent && r.seq < durable).cloned().collect();
        if let Some(last) = due.last() {
            self.reports_sent = last.seq;
            self.reports_due = now.saturating_add(REPORT_AGAIN_MS);
            self.actions.extend(due.into_iter().map(Action::Report));
        } else if self.reports_due <= now {
            self.reports_due = now.saturating_add(REPORT_AGAIN_MS);
        }
    }

    /// The record differs from what is on disk.
    pub(super) fn changed(&mut self) {
        self.disk.revision = self.disk.revision.saturating_add(1);
    }

    pub(super) fn revision(&self) -> u64 {
        self.disk.revision
    }

    pub(super) fn apply_committed(&mut self) {
        self.apply(self.record.committed.place, false);
    }

    pub(super) fn apply(&mut self, place: Place, candidate: bool) {
        let generation = self.number();
        let failures = if candidate { 0 } else { self.running.failures };
        let proof = Proof::new(self.next_number);
        self.running = Running { generation, place, candidate, proof, failures, retry: None };
        self.away.look = None;
        self.actions.push(Action::Apply { generation, place });
    }

    /// What was committed cannot be applied: the local file is the last resort, and the committed one is tried again,
    /// because a port that is in use now may be free in a minute.
    pub(super) fn fall_back(&mut self, now: Millis, detail: String) {
        let committed = self.record.committed;
        let retry = now.saturating_add(doubled(RETRY_MS_FIRST, self.running.failures, RETRY_MS_MAX));
        let failures = self.running.failures.saturating_add(1);
        if self.running.place == committed.place && committed.place != Place::Local {
            if self.running.failures == 0 {
                let failure = Failure::new(Reason::NotApplied, detail);
                self.record.report(committed.number, Outcome::Fallback, Some(failure));
                self.changed();
            }
            self.apply(Place::Local, false);
        }
        (self.running.failures, self.running.retry) = (failures, Some(retry));
    }

    /// What was committed runs after all: the report that it does not is not the last word.
    fn is_applied_again(&mut self) {
        let failures = std::mem::take(&mut self.running.failures);
        let committed = self.record.committed;
        if failures > 0 && committed.place != Place::Local {
            self.record.report(committed.number, Outcome::Committed, None);
            self.changed();
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

impl Disk {
    fn is_clean(&self) -> bool {
        self.durable == self.revision
    }
}

/// `first`, doubled so often, at most `most`.
pub(super) fn doubled(first: Millis, times: u32, most: Millis) -> Millis {
    first.saturating_mul(1 << times.min(20)).min(most)
}

/// How long the committed one has before the candidate's next turn.
pub(super) fn turn_after(turns: u8) -> Millis {
    doubled(TURN_MS_FIRST, u32::from(turns), TURN_MS_MAX)
}
