//! What a running configuration has shown of itself. [pure]

use super::record::{Failure, Reason};
use super::{HEALTH_AGAIN_MS, Millis, PROBE_AGAIN_MS};

/// Of one generation.
#[derive(Clone, Debug, Default)]
pub(super) struct Proof {
    /// It was applied.
    pub applied: bool,
    /// Pulsar is connected.
    pub connected: bool,
    /// Pulsar acknowledged a probe.
    pub acknowledged: bool,
    /// The health command succeeded.
    pub healthy: bool,
    /// The first probe of this generation; earlier ones prove nothing about it.
    first_probe: u64,
    probe_due: Option<Millis>,
    check: Option<u64>,
    check_due: Millis,
    last: Option<Failure>,
}

/// What to ask next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Probe,
    CheckHealth,
}

impl Proof {
    /// Nothing is shown yet; `next_probe` is the number of the next probe.
    pub fn new(next_probe: u64) -> Self {
        Self { first_probe: next_probe, ..Self::default() }
    }

    pub fn connected(&mut self) {
        self.connected = true;
        self.probe_due = None;
    }

    pub fn disconnected(&mut self, detail: String) {
        self.connected = false;
        self.last = Some(Failure::new(Reason::NotConnected, detail));
    }

    pub fn probe_acknowledged(&mut self, probe: u64) {
        self.acknowledged |= self.applied && probe >= self.first_probe;
    }

    pub fn probe_refused(&mut self, probe: u64, detail: String) {
        if probe >= self.first_probe {
            self.last = Some(Failure::new(Reason::NotAcknowledged, detail));
        }
    }

    pub fn health(&mut self, now: Millis, check: u64, result: Result<(), String>) {
        if self.check != Some(check) {
            return;
        }
        self.check = None;
        self.check_due = now.saturating_add(HEALTH_AGAIN_MS);
        match result {
            Ok(()) => self.healthy = true,
            Err(detail) => self.last = Some(Failure::new(Reason::Unhealthy, detail)),
        }
    }

    /// What is known of why it is not proven.
    pub fn last_detail(&self) -> &str {
        self.last.as_ref().map_or("no more is known", |failure| &failure.detail)
    }

    /// What is missing and can be asked for now; asking is noted with `number`.
    pub fn ask(&mut self, now: Millis, health: bool, number: u64) -> Option<Ask> {
        if self.applied && self.connected && !self.acknowledged && self.probe_due.is_none_or(|due| due <= now) {
            self.probe_due = Some(now.saturating_add(PROBE_AGAIN_MS));
            return Some(Ask::Probe);
        }
        if self.acknowledged && health && !self.healthy && self.check.is_none() && self.check_due <= now {
            self.check = Some(number);
            return Some(Ask::CheckHealth);
        }
        None
    }

    /// When [`Proof::ask`] has something to ask next, unless an input comes before.
    pub fn deadline(&self, health: bool) -> Option<Millis> {
        if self.applied && self.connected && !self.acknowledged {
            return Some(self.probe_due.unwrap_or(0));
        }
        (self.acknowledged && health && !self.healthy && self.check.is_none()).then_some(self.check_due)
    }

    /// Why it is not proven when its time is over, and whether that tells something about it without asking the other
    /// one: nothing of the link is needed to be applied, and one that was acknowledged had a link.
    pub fn verdict(&self, confirm_ms: Millis) -> (Failure, bool) {
        let reason = match self {
            Self { applied: false, .. } => Reason::NotApplied,
            Self { acknowledged: true, .. } => Reason::Unhealthy,
            Self { connected: true, .. } => Reason::NotAcknowledged,
            _ => Reason::NotConnected,
        };
        let known = self.last.as_ref().filter(|f| f.reason == reason).map_or("no more is known", |f| &f.detail);
        let failure = Failure::new(reason, format!("within {} s: {known}", confirm_ms / 1000));
        (failure, matches!(reason, Reason::NotApplied | Reason::Unhealthy))
    }
}
