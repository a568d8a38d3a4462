//! Whether devices still get in: a configuration that shuts out all of them is no good, although Pulsar is reached.
//!
//! It is asked where devices' events were accepted shortly before the switch, or where nobody knows because the process
//! ended in the trial. Then one accepted event is enough, unless it may have come in before the switch and waited for the disk.
//! When none comes, refusals decide: with some the trial fails; with none the devices are quiet, and nothing is held against the
//! configuration. A site without devices waits for nothing.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Keeper;
use super::gateway::Gateway;

/// How often it is looked whether somebody came in.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is stored within this time of the first look may have been let in by the configuration before (seen on a busy machine:
/// a shut door was taken for an open one). A part of the time there is, if that is short.
const SETTLE: Duration = Duration::from_secs(1);

/// Looks at what was accepted that are remembered, over the confirm time.
const SAMPLES: u32 = 4;

/// What devices did since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visits {
    /// Events that were accepted from them.
    pub accepted: u64,
    /// Refusals by reason: who they are, what they may, how much.
    pub refused: BTreeMap<&'static str, u64>,
}

/// Counts visits whenever it is asked. Cheap to clone.
#[derive(Clone)]
pub struct Doors(Arc<dyn Fn() -> Visits + Send + Sync>);

impl Doors {
    /// As `count` says.
    pub fn new(count: impl Fn() -> Visits + Send + Sync + 'static) -> Self {
        Self(Arc::new(count))
    }

    fn count(&self) -> Visits {
        (self.0)()
    }

    /// `Ok`: an event was accepted by what runs now, or nobody was refused since `before` and `within` that time.
    async fn open(self, before: Visits, within: Duration) -> Result<(), String> {
        let until = Instant::now() + within;
        sleep(SETTLE.min(within / 4)).await;
        let settled = self.count().accepted.max(before.accepted);
        loop {
            let now = self.count();
            if now.accepted > settled {
                return Ok(());
            }
            if Instant::now() >= until {
                return judge(&before, &now);
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// No event was accepted between these.
fn judge(before: &Visits, now: &Visits) -> Result<(), String> {
    let since = |(reason, n): (&&'static str, &u64)| {
        let more = n.saturating_sub(before.refused.get(*reason).copied().unwrap_or(0));
        (more > 0).then(|| format!("{more} x {reason}"))
    };
    let refused: Vec<String> = now.refused.iter().filter_map(since).collect();
    if refused.is_empty() {
        return Ok(());
    }
    Err(format!("devices sent events before, and all are refused: {}", refused.join(", ")))
}

/// What was accepted in the last while.
#[derive(Debug, Default)]
pub(super) struct Before(VecDeque<(Instant, u64)>);

impl<G: Gateway> Keeper<G> {
    /// When the accepted events are to be counted next.
    pub(super) fn next_sample(&self) -> Instant {
        let every = self.own.alone().downlink.confirm / SAMPLES;
        self.before.0.back().map_or_else(Instant::now, |(at, _)| *at + every)
    }

    /// Counts them.
    pub(super) fn sample(&mut self) {
        let now = (Instant::now(), self.live.doors().count().accepted);
        while self.before.0.len() > SAMPLES as usize {
            self.before.0.pop_front();
        }
        self.before.0.push_back(now);
    }

    /// Devices sent events lately.
    fn was_busy(&self) -> bool {
        let now = self.live.doors().count().accepted;
        self.before.0.front().is_some_and(|(_, then)| now > *then)
    }

    /// What runs from now on is on trial: what came in until here counts as before it.
    pub(super) fn mark_doors(&mut self, at_start: bool) {
        let busy = at_start || self.was_busy();
        self.running.visits = busy.then(|| self.live.doors().count());
    }

    /// Whether devices get in; what remains of the trial leaves time to say that they do not.
    pub(super) fn doors_open(&self) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let left = self.machine.left_ms(self.now()).map(|ms| Duration::from_millis(ms) * 3 / 4);
        let asked = self.running.visits.clone().zip(left).map(|(visits, left)| self.live.doors().open(visits, left));
        async move {
            match asked {
                Some(asked) => asked.await,
                None => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_accepted_event_is_enough_and_without_any_refusals_decide() {
        let accepted = Arc::new(AtomicU64::new(7));
        let refused = Arc::new(AtomicU64::new(3));
        let come = Arc::new(AtomicU64::new(0));
        let (a, r, c) = (accepted.clone(), refused.clone(), come.clone());
        let doors = Doors::new(move || Visits {
            accepted: a.fetch_add(c.load(Ordering::Relaxed), Ordering::Relaxed),
            refused: [("quota", 1), ("no-credential", r.load(Ordering::Relaxed))].into(),
        });
        let before = doors.count();
        let open = || doors.clone().open(before.clone(), Duration::from_secs(60));
        assert_eq!(open().await, Ok(()), "quiet");
        refused.store(31, Ordering::Relaxed);
        let shut = open().await.unwrap_err();
        assert!(shut.ends_with("all are refused: 28 x no-credential"), "{shut}");
        // One that came in before the switch and was stored after it is none that was let in.
        accepted.store(8, Ordering::Relaxed);
        assert!(open().await.is_err());
        come.store(1, Ordering::Relaxed);
        assert_eq!(open().await, Ok(()));
    }
}
