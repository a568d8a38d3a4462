//! What runs after the process has started, from what is on disk. [pure]

use super::machine::{Machine, Phase, turn_after};
use super::record::{Config, Failure, Outcome, Place, Reason, Record, RecordError, Slot, Stage};
use super::{Action, Digest, Millis, Number, Policy, STARTS_MAX};

/// A document that a slot holds, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The assignment that it was written for.
    pub number: Number,
    /// Which it is.
    pub digest: Digest,
}

/// What the disk holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The record; `None`: there is no file.
    pub record: Result<Option<Record>, RecordError>,
    /// Slots A and B; `None`: empty or damaged.
    pub slots: [Option<Stored>; 2],
}

impl Found {
    fn holds(&self, place: &Place) -> bool {
        match *place {
            Place::Local => true,
            Place::Slot { slot, digest } => {
                let [a, b] = &self.slots;
                let stored = if slot == Slot::A { a } else { b };
                stored.is_some_and(|s| s.digest == digest)
            }
        }
    }
}

impl Machine {
    /// Begins with what is on disk; nothing runs before the first [`Action::Apply`].
    ///
    /// A record that is damaged, or gone while a slot is filled, leaves the local file, a report that says so, and the
    /// numbers below the newest slot's taken: the cloud's current assignment is tried as if it were new.
    pub fn start(policy: Policy, found: &Found, now: Millis) -> (Self, Vec<Action>) {
        let newest = found.slots.iter().flatten().map(|s| s.number).max();
        let mut machine = match (&found.record, newest) {
            (Ok(Some(record)), _) => Self::new(policy, record.clone(), true),
            (Ok(None), None) => Self::new(policy, Record::default(), false),
            (lost, newest) => {
                let mut machine = Self::new(policy, Record::default(), false);
                let why = lost.as_ref().err().map_or("the record of the trial is gone".to_owned(), ToString::to_string);
                let failure = Failure::new(Reason::RecordDamaged, format!("{why}; the local file runs"));
                machine.record.settled = newest.unwrap_or_default().before();
                machine.record.report(newest.unwrap_or_default(), Outcome::Fallback, Some(failure));
                machine.changed();
                machine
            }
        };
        machine.check_committed(found);
        machine.take_candidate_up(found, now);
        if machine.running.generation == 0 && !matches!(machine.phase, Phase::Counting(_)) {
            machine.apply_committed();
        }
        let actions = machine.handle(now, super::Input::Tick);
        (machine, actions)
    }

    fn check_committed(&mut self, found: &Found) {
        let committed = self.record.committed;
        if !found.holds(&committed.place) {
            let failure =
                Failure::new(Reason::SlotDamaged, "the committed document cannot be read; the local file runs");
            self.record.report(committed.number, Outcome::Fallback, Some(failure));
            self.record.committed = Config { number: Number::default(), place: Place::Local };
            // Nothing newer was decided, so the same assignment may come again.
            if self.record.settled == committed.number {
                self.record.settled = committed.number.before();
            }
            self.changed();
        }
    }

    fn take_candidate_up(&mut self, found: &Found, now: Millis) {
        let Some(candidate) = &mut self.record.candidate else { return };
        if !found.holds(&candidate.config.place) {
            let failure = Failure::new(Reason::SlotDamaged, "the document on trial cannot be read");
            self.settle(Outcome::Reverted, Some(failure));
            return;
        }
        // What needs the network at the start, a modem above all, may take longer than the confirm time.
        candidate.grounded = false;
        if candidate.stage == Stage::Waiting {
            let soon = self.policy.confirm_ms.saturating_add(self.policy.control_ms);
            let turn = now.saturating_add(turn_after(candidate.turns).min(soon));
            self.phase = Phase::Waiting { turn };
            return;
        }
        if candidate.starts >= STARTS_MAX {
            let detail = format!("the process has been started more than {STARTS_MAX} times during the trial");
            self.settle(Outcome::Reverted, Some(Failure::new(Reason::TooManyStarts, detail)));
            return;
        }
        candidate.starts += 1;
        self.changed();
        self.phase = Phase::Counting(self.revision());
    }
}
