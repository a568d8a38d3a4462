//! What is committed has lost its link for long: other settings are looked at, and it is taken back when they reach the
//! cluster that assigns to this gateway. [pure]
//!
//! A trial proves a moment: an address is given up later, a token expires, an authority is replaced. So while a committed
//! document runs, the time without a connection is counted, over restarts too. After [`Policy::away_ms`] the control link
//! alone ([`Action::Look`]) uses the settings of the document before and then of the gateway's own file, for the confirm
//! time each; everything else goes on as it is. Only a Pulsar whose inbox has an assignment that is not older than what
//! was decided counts as reached. When none is, the next look comes after twice the time, at most [`AWAY_MS_MAX`].
//!
//! **What runs then.** What was reached is committed in place of what was not, with the number that it had, and that is
//! reported as [`Outcome::Fallback`]: events arrive again at once, and the gateway does not go back by itself to what had
//! been silent for an hour or more. What was taken back can be assigned anew, and is looked at like any other when the
//! link is lost again. A newer assignment in the inbox that was reached is tried as usual.
//!
//! [`Policy::away_ms`]: super::Policy::away_ms
//! [`Action::Look`]: super::Action::Look

use super::machine::{Machine, Phase, doubled};
use super::record::{Config, Failure, Outcome, Place, Reason, Record};
use super::{Action, Millis, Number};

/// Longest time between two looks.
pub const AWAY_MS_MAX: Millis = 24 * 3_600_000;

/// Largest time that one step counts as without a connection: while the machine was suspended nobody looked for one.
const STEP_MS_MAX: Millis = 60_000;

/// The link looks elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub generation: u64,
    pub config: Config,
    until: Millis,
}

/// The time without a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Away {
    /// Up to here the record counts it.
    stepped: Millis,
    /// What of it is on disk.
    saved_ms: Millis,
    pub look: Option<Look>,
}

impl Away {
    /// As a start finds it.
    pub fn new(record: &Record) -> Self {
        Self { saved_ms: record.away_ms, ..Self::default() }
    }
}

impl Machine {
    /// Whether what runs could be taken back for being without a link.
    fn could_be_away(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Waiting { .. })
            && self.record.committed.place != Place::Local
            && self.running.place == self.record.committed.place
            && self.running.proof.applied
            && !self.running.candidate
    }

    /// The time after which the link looks elsewhere.
    fn away_max(&self) -> Millis {
        doubled(self.policy.away_ms, u32::from(self.record.looks), AWAY_MS_MAX.max(self.policy.away_ms))
    }

    /// Counts the time without a connection, and saves it four times in what is waited for.
    pub(super) fn count_away(&mut self, now: Millis) {
        let step = now.saturating_sub(self.away.stepped).min(STEP_MS_MAX);
        self.away.stepped = now.max(self.away.stepped);
        if !self.could_be_away() || self.running.proof.connected || self.away.look.is_some() {
            return;
        }
        self.record.away_ms = self.record.away_ms.saturating_add(step);
        if self.record.away_ms.saturating_sub(self.away.saved_ms) >= self.away_max() / 4 {
            self.away.saved_ms = self.record.away_ms;
            self.changed();
        }
    }

    /// What runs has a connection.
    pub(super) fn is_back(&mut self) {
        if self.running.candidate || (self.record.away_ms, self.record.looks) == (0, 0) {
            return;
        }
        let is_saved = self.away.saved_ms > 0 || self.record.looks > 0;
        (self.record.away_ms, self.record.looks, self.away.saved_ms) = (0, 0, 0);
        if is_saved {
            self.changed();
        }
    }

    /// Begins to look elsewhere, goes on to the next place, or gives it up for this time.
    pub(super) fn look_elsewhere(&mut self, now: Millis) {
        match self.away.look {
            Some(look) if look.until <= now => self.look_at_next(now, Some(look.config.place)),
            Some(_) => {}
            None if self.could_be_away() && !self.running.proof.connected && self.record.away_ms >= self.away_max() => {
                (self.record.away_ms, self.away.saved_ms) = (0, 0);
                self.record.looks = self.record.looks.saturating_add(1);
                self.changed();
                self.look_at_next(now, None);
            }
            None => {}
        }
    }

    /// Nothing is to be seen there.
    pub(super) fn not_there(&mut self, now: Millis, generation: u64) {
        if let Some(look) = self.away.look.filter(|look| look.generation == generation) {
            self.look_at_next(now, Some(look.config.place));
        }
    }

    fn look_at_next(&mut self, now: Millis, before: Option<Place>) {
        let local = Config { number: Number::default(), place: Place::Local };
        let places = self.record.previous.into_iter().chain([local]);
        let mut places = places.filter(|config| config.place != self.record.committed.place);
        let next = match before {
            None => places.next(),
            Some(Place::Local) => None,
            Some(Place::Slot { .. }) => places.find(|config| config.place == Place::Local),
        };
        let generation = self.number();
        self.away.look = next.map(|config| {
            let until = now.saturating_add(self.policy.confirm_ms);
            Look { generation, config, until }
        });
        if next.is_none() {
            // The link is its own again.
            self.running.generation = generation;
        }
        let place = next.map_or(self.running.place, |config| config.place);
        self.actions.push(Action::Look { generation, place });
    }

    /// The cluster that assigns was reached there.
    pub(super) fn reached(&mut self, generation: u64) {
        let Some(look) = self.away.look.filter(|look| look.generation == generation) else { return };
        let is_held = look.config.place == Place::Local || self.record.previous == Some(look.config);
        if !self.could_be_away() || !is_held {
            return;
        }
        let dead = std::mem::replace(&mut self.record.committed, look.config);
        self.record.previous = Some(dead);
        (self.record.away_ms, self.record.looks, self.away.saved_ms) = (0, 0, 0);
        let known = self.running.proof.last_detail();
        let instead = match look.config.place {
            Place::Local => "the gateway's own file runs".to_owned(),
            Place::Slot { .. } => format!("the document of assignment {} runs", look.config.number),
        };
        let failure = Failure::new(Reason::LinkLost, format!("{instead}; {known}"));
        self.record.report(dead.number, Outcome::Fallback, Some(failure));
        if look.config.number > dead.number {
            // Which had been taken back itself.
            self.record.report(look.config.number, Outcome::Committed, None);
        }
        self.changed();
        self.apply_committed();
    }

    /// When [`Machine::look_elsewhere`] has something to do next, or the time is to be counted.
    pub(super) fn away_deadline(&self) -> Option<Millis> {
        if let Some(look) = self.away.look {
            return Some(look.until);
        }
        if !self.could_be_away() {
            return None;
        }
        let left = self.away_max().saturating_sub(self.record.away_ms);
        (!self.running.proof.connected).then(|| self.away.stepped.saturating_add(left.clamp(1, STEP_MS_MAX)))
    }
}
