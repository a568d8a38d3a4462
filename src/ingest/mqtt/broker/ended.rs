//! Clients whose kept session ended a short while ago: that may not be on disk yet. [pure]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::record::Millis;

/// After this time a record counts as on disk; a disk that hangs for longer answers nobody anyway.
const RECENT_MS: Millis = 600_000;

/// Most clients that are remembered; then the oldest go. One megabyte or so.
const ENDED_MAX: usize = 10_000;

/// A CONNACK without records is sent at once. To a client of these it must wait: if a power cut brought the ended
/// session back, the client, which was told that there is none, would take it for its new one.
#[derive(Debug, Default)]
pub(super) struct Ended {
    at: HashMap<Arc<str>, Millis>,
    order: VecDeque<(Millis, Arc<str>)>,
}

impl Ended {
    pub fn add(&mut self, now: Millis, client_id: &Arc<str>) {
        self.at.insert(client_id.clone(), now);
        self.order.push_back((now, client_id.clone()));
        while self.order.len() > ENDED_MAX || self.order.front().is_some_and(|(at, _)| *at + RECENT_MS < now) {
            let Some((at, client_id)) = self.order.pop_front() else { break };
            if self.at.get(&client_id) == Some(&at) {
                self.at.remove(&client_id);
            }
        }
    }

    pub fn recently(&self, now: Millis, client_id: &str) -> bool {
        self.at.get(client_id).is_some_and(|at| *at + RECENT_MS >= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ten_thousand_of_ten_minutes_are_known() {
        let mut ended = Ended::default();
        let name = |n: usize| Arc::from(n.to_string());
        for n in 0..=ENDED_MAX {
            ended.add(1, &name(n));
        }
        assert!(!ended.recently(1, "0") && ended.recently(1, "1"));
        assert_eq!(ended.at.len(), ENDED_MAX);
        assert!(ended.recently(RECENT_MS + 1, "1") && !ended.recently(RECENT_MS + 2, "1"));
        ended.add(RECENT_MS + 2, &name(7));
        assert_eq!((ended.at.len(), ended.order.len()), (1, 1));
        ended.add(RECENT_MS + 2, &name(7));
        ended.add(2 * RECENT_MS, &name(8));
        assert!(ended.recently(2 * RECENT_MS, "7"));
    }
}
