//! What the uplink says of itself, for the status page: written by the link tasks, read by the HTTP interface.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// State of one lane's link to Pulsar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// No uplink is configured: events are only buffered.
    #[default]
    Off,
    /// Trying to connect.
    Connecting,
    /// Connected; finding out what the broker has.
    Resuming,
    /// Connected and delivering.
    Up,
    /// The last attempt failed; waiting for the next.
    Down,
}

/// One lane's link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// What it does now.
    pub state: LinkState,
    /// Since when, ms since 1970 by this machine's clock.
    pub since_ms: i64,
    /// The last error in words, and what to do; kept after recovery.
    pub last_error: Option<String>,
    /// When that was, ms since 1970.
    pub last_error_ms: Option<i64>,
    /// Events sent and not yet confirmed.
    pub in_flight: u64,
    /// Something an operator should mend although events flow, such as deduplication being off.
    pub warning: Option<String>,
}

/// All links, by lane. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Links(Arc<Mutex<BTreeMap<String, LinkStatus>>>);

impl Links {
    /// Changes the entry of `lane`.
    pub fn update(&self, lane: &str, change: impl FnOnce(&mut LinkStatus)) {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(links.entry(lane.to_owned()).or_default());
    }

    /// A copy of all entries.
    pub fn snapshot(&self) -> BTreeMap<String, LinkStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_lane_writes_is_read_under_its_name() {
        let links = Links::default();
        links.clone().update("alarms", |l| l.state = LinkState::Up);
        links.update("alarms", |l| l.in_flight = 3);
        assert_eq!(links.snapshot()["alarms"].state, LinkState::Up);
        assert_eq!(links.snapshot()["alarms"].in_flight, 3);
    }
}
