//! What must hold whatever happens, told from what leaves the machine and what reaches the disk.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{Disk, Kind, document_of};
use crate::downlink::trial::{
    ATTEMPTS_MAX, Action, Digest, Input, Number, Outcome, Place, Reason, Record, Report, STARTS_MAX, Slot, Stage,
};

#[derive(Default)]
pub struct Oracle {
    assigned: BTreeMap<Number, Option<Digest>>,
    /// The outcome that is durable, by number.
    pub decided: BTreeMap<Number, Outcome>,
    /// Of which a probe was acknowledged while it ran.
    acknowledged: BTreeSet<Number>,
    acknowledged_reports: BTreeSet<u64>,
    /// What the cloud has seen.
    pub seen: BTreeMap<u64, Report>,
    loads: BTreeMap<Number, u8>,
    started_on_trial: Option<Number>,
    candidate: Option<Number>,
    /// The link went down while the candidate ran, or the process ended.
    pub disturbed: bool,
    pub crashes: u32,
    /// The next record starts anew.
    is_damaged: bool,
    /// The disk lost something, at some time.
    was_damaged: bool,
    /// Whether a good document may only be blamed after a disturbance.
    pub is_just: bool,
}

impl Oracle {
    pub fn assigned(&mut self, number: Number, digest: Option<Digest>) {
        self.assigned.insert(number, digest);
    }

    /// What was decided before is not on disk any more.
    pub fn damaged(&mut self) {
        self.decided.clear();
        self.seen.clear();
        self.loads.clear();
        self.acknowledged_reports.clear();
        (self.is_damaged, self.was_damaged) = (true, true);
    }

    pub fn crashed(&mut self) {
        self.crashes += 1;
        self.candidate = None;
        self.disturbed = true;
    }

    pub fn started(&mut self, disk: &Record, machine: &Record) {
        let on_trial = |r: &Record| r.candidate.as_ref().filter(|c| c.stage == Stage::OnTrial).map(|c| c.config.number);
        self.started_on_trial = on_trial(disk).filter(|_| on_trial(machine).is_some());
    }

    pub fn given(&mut self, input: &Input, running: Option<Place>) {
        match input {
            Input::ProbeAcknowledged { .. } => {
                let place = self.candidate.and_then(|n| self.assigned[&n]);
                if running.is_some_and(|r| r.digest() == place) {
                    self.acknowledged.extend(self.candidate);
                }
            }
            Input::ReportAcknowledged { seq } => {
                self.acknowledged_reports.insert(*seq);
            }
            _ => {}
        }
    }

    pub fn link_went_down(&mut self) {
        self.disturbed |= self.candidate.is_some();
    }

    pub fn acts(&mut self, action: &Action, disk: &Disk, connected: bool) {
        match action {
            Action::Apply { place, .. } => self.applies(place, disk, connected),
            Action::Report(report) => {
                let record = disk.record();
                let durable = record.reports.contains(report) || record.last.as_ref() == Some(report);
                assert!(durable, "{report:?} leaves before it is durable");
                let known = self.seen.insert(report.seq, report.clone());
                assert!(known.is_none_or(|k| k == *report), "one number, two reports: {report:?}");
            }
            _ => {}
        }
    }

    fn applies(&mut self, place: &Place, disk: &Disk, connected: bool) {
        assert!(disk.holds(place), "{place:?} is to run and is not there");
        let record = disk.record();
        self.candidate = None;
        let on_trial = record.candidate.as_ref().filter(|c| c.stage == Stage::OnTrial && c.config.place == *place);
        if let Some(candidate) = on_trial {
            let number = candidate.config.number;
            assert!(!self.decided.contains_key(&number), "{number} runs again after {:?}", self.decided[&number]);
            assert!(number > record.committed.number, "{number} would displace {}", record.committed.number);
            (self.candidate, self.disturbed) = (Some(number), !connected);
            if self.started_on_trial.take() == Some(number) {
                let loads = self.loads.entry(number).or_default();
                *loads += 1;
                assert!(*loads <= STARTS_MAX, "{number} was loaded by {loads} starts");
                self.disturbed = true;
            }
            return;
        }
        // What a lost link takes back was committed before, and the way back waits for nothing.
        let is_last_resort = *place == Place::Local || record.previous.is_some_and(|before| before.place == *place);
        assert!(*place == record.committed.place || is_last_resort, "{place:?} runs without a durable decision");
    }

    pub fn written(&mut self, before: &Disk, after: &Disk) {
        let (old, new) = (before.record(), after.record());
        for (i, slot) in Slot::ALL.into_iter().enumerate() {
            if before.slots[i] != after.slots[i] {
                assert!(!matches!(old.committed.place, Place::Slot { slot: s, .. } if s == slot), "overwritten");
                assert!(old.candidate.is_none(), "a slot is written while a candidate is on disk");
            }
        }
        if before.record != after.record && std::mem::take(&mut self.is_damaged) {
            return;
        }
        let lost_its_link = |r: &Report| {
            (r.number, r.failure.as_ref().map(|f| f.reason)) == (old.committed.number, Some(Reason::LinkLost))
                && !old.reports.contains(r)
        };
        let taken_back = new.reports.iter().any(lost_its_link);
        assert!(taken_back || new.committed.number >= old.committed.number, "{old:?} → {new:?}");
        assert!(new.settled >= old.settled && new.settled >= new.committed.number);
        if taken_back {
            let proven = self.acknowledged.contains(&new.committed.number);
            let is_known = new.committed.place == Place::Local || old.previous == Some(new.committed);
            assert!(is_known || proven, "{old:?} → {new:?}");
            assert_ne!(old.committed.place, Place::Local, "the own file is the last resort");
        } else if new.committed.place != old.committed.place {
            let number = new.committed.number;
            assert!(self.acknowledged.contains(&number), "{number} is committed unproven");
            assert_eq!(document_of(&new.committed.place).kind, Kind::Good, "committed");
        } else if new.committed.number != old.committed.number {
            assert_eq!(self.assigned[&new.committed.number], new.committed.place.digest());
        }
        if let Some(candidate) = &new.candidate {
            let number = candidate.config.number;
            assert_eq!(self.assigned[&number], candidate.config.place.digest());
            assert!(!self.decided.contains_key(&number), "{number} is decided and on trial");
            assert!(candidate.attempts <= ATTEMPTS_MAX && candidate.starts <= STARTS_MAX, "{candidate:?}");
            let is_new = old.candidate.as_ref().is_none_or(|c| c.config.number != number);
            assert!(!is_new || number > old.committed.number);
        }
        let lost = |r: &&Report| !new.reports.contains(r) && !self.acknowledged_reports.contains(&r.seq);
        let lost = old.reports.iter().filter(lost).count() as u64;
        assert!(lost <= new.reports_dropped - old.reports_dropped, "reports are lost: {old:?} → {new:?}");
        for report in &new.reports {
            if !old.reports.contains(report) {
                self.decides(report);
            }
        }
    }

    fn decides(&mut self, report: &Report) {
        let reason = report.failure.as_ref().map(|f| f.reason);
        if matches!(reason, Some(Reason::RecordDamaged | Reason::SlotDamaged)) {
            assert!(self.was_damaged, "the disk is blamed: {report:?}");
        }
        if report.outcome == Outcome::Fallback {
            // It may run after all, later.
            self.decided.remove(&report.number);
            return;
        }
        let before = self.decided.insert(report.number, report.outcome);
        assert_eq!(before, None, "{} is decided again: {report:?}", report.number);
        let Some(Some(digest)) = self.assigned.get(&report.number) else { return };
        let good = document_of(&Place::Slot { slot: Slot::A, digest: *digest }).kind == Kind::Good;
        if self.is_just && good && report.outcome == Outcome::Reverted {
            match reason {
                Some(Reason::NotConnected | Reason::NotAcknowledged) => {
                    assert!(self.disturbed, "a good document is blamed: {report:?}");
                }
                Some(Reason::TooManyStarts) => assert!(self.crashes > u32::from(STARTS_MAX)),
                Some(Reason::LinkUnsteady) => {}
                other => panic!("a good document is reverted: {other:?}"),
            }
        }
    }

    /// Every outcome was seen by the cloud.
    pub fn all_was_told(&self, dropped: u64) {
        let told: BTreeSet<Number> = self.seen.values().map(|r| r.number).collect();
        let untold = self.decided.keys().filter(|n| !told.contains(n)).count() as u64;
        assert!(untold <= dropped, "{untold} outcomes were never told, {dropped} were dropped");
    }
}
