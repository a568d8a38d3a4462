//! How a trial ends, and what follows. [pure]

use super::machine::{Machine, Phase, turn_after};
use super::record::{Failure, Outcome, Place, Reason, Stage};
use super::{ATTEMPTS_MAX, Millis, Number};

impl Machine {
    /// An authentic assignment that is not valid here: never tried, told once.
    pub(super) fn rejected(&mut self, number: Number, detail: String) {
        let is_taken = matches!(self.phase, Phase::Writing(assigned, _) if assigned.number >= number);
        if number > self.record.settled && !is_taken {
            self.record.settled = number;
            self.record.report(number, Outcome::Refused, Some(Failure::new(Reason::Invalid, detail)));
            self.changed();
        }
    }

    pub(super) fn slot_written(&mut self, number: Number) {
        let Phase::Writing(assigned, slot) = self.phase else { return };
        if let (true, Some(digest)) = (assigned.number == number, assigned.digest) {
            self.begin(assigned, Place::Slot { slot, digest });
        }
    }

    pub(super) fn slot_not_written(&mut self, number: Number, detail: String) {
        let Phase::Writing(assigned, _) = self.phase else { return };
        if assigned.number == number {
            self.record.settled = self.record.settled.max(number);
            self.record.report(number, Outcome::Refused, Some(Failure::new(Reason::NotStored, detail)));
            self.changed();
            self.phase = Phase::Idle;
        }
    }

    pub(super) fn not_applied(&mut self, now: Millis, detail: String) {
        match self.phase {
            Phase::Trial { .. } => {
                self.settle(Outcome::Reverted, Some(Failure::new(Reason::NotApplied, detail)));
            }
            // It has proved itself.
            Phase::Committing(_) => {}
            _ => self.fall_back(now, detail),
        }
    }

    /// The candidate is proven.
    pub(super) fn commit(&mut self) {
        let Some(candidate) = self.record.candidate.take() else { return };
        let before = std::mem::replace(&mut self.record.committed, candidate.config);
        if before.place != candidate.config.place {
            self.record.previous = Some(before);
        }
        (self.record.away_ms, self.record.looks) = (0, 0);
        self.record.report(candidate.config.number, Outcome::Committed, None);
        self.changed();
        self.phase = Phase::Committing(self.revision());
    }

    /// The candidate is over; the committed one runs again if it does not.
    pub(super) fn settle(&mut self, outcome: Outcome, failure: Option<Failure>) {
        let Some(candidate) = self.record.candidate.take() else { return };
        self.record.report(candidate.config.number, outcome, failure.or(candidate.failure));
        self.changed();
        self.phase = Phase::Idle;
        let nothing_runs = self.running.generation == 0;
        if self.running.candidate || nothing_runs {
            self.apply_committed();
        }
    }

    /// The confirm time is over without a proof.
    pub(super) fn time_is_over(&mut self, now: Millis) {
        let (failure, is_known) = self.running.proof.verdict(self.policy.confirm_ms);
        if is_known {
            self.settle(Outcome::Reverted, Some(failure));
            return;
        }
        let Some(candidate) = &mut self.record.candidate else { return };
        candidate.stage = Stage::Waiting;
        candidate.failure = Some(failure);
        self.changed();
        self.apply_committed();
        self.phase = Phase::Watching { until: now.saturating_add(self.policy.control_ms) };
    }

    /// The committed one is proven while a candidate that was not waits.
    pub(super) fn link_is_there(&mut self) {
        let Some(candidate) = &self.record.candidate else { return };
        if matches!(self.phase, Phase::Watching { .. }) && candidate.grounded {
            self.settle(Outcome::Reverted, None);
        } else if candidate.attempts < ATTEMPTS_MAX {
            self.begin_again(true);
        } else {
            let last = candidate.failure.as_ref().map_or(String::new(), ToString::to_string);
            let detail = format!("the link was down in {ATTEMPTS_MAX} trials; the last one: {last}");
            self.settle(Outcome::Reverted, Some(Failure::new(Reason::LinkUnsteady, detail)));
        }
    }

    /// The committed one was not proven in the control time either.
    pub(super) fn link_was_down(&mut self, now: Millis) {
        let Some(candidate) = &self.record.candidate else { return };
        self.phase = Phase::Waiting { turn: now.saturating_add(turn_after(candidate.turns)) };
    }
}
