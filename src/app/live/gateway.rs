//! The running edge as the keeper knows it: what takes effect when, and receipts on the real path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Live, check};
use crate::app::keeper::doors::{Doors, Visits};
use crate::app::keeper::gateway::{Gateway, PROBE_TYPE, Probe};
use crate::config::{Changes, EdgeConfig};
use crate::downlink::report;
use crate::event::Event;
use crate::ingest::router::Router;
use crate::observe::status::{LinkState, Links};
use crate::outbox::{Outbox, Writer};
use crate::sys::random;
use crate::uplink::{Acknowledged, Allowed};

/// How often it is looked whether Pulsar has acknowledged something.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What keeps a lane from its receipt is told after so many looks: a broker that is well has answered by then.
const TELL_EVERY: u32 = 20;

/// What one lane has shown before.
pub struct Mark {
    lane: String,
    acknowledged: Acknowledged,
    from: u64,
}

impl Gateway for Live {
    type Marks = Vec<Mark>;

    fn check(config: &EdgeConfig) -> Result<(), String> {
        check(config)
    }

    fn wanted(&self) -> &EdgeConfig {
        Live::wanted(self)
    }

    fn incarnation(&self) -> &str {
        self.outbox.incarnation()
    }

    fn waiting(&self) -> Vec<report::Lane> {
        let lanes = self.outbox.status().into_iter();
        lanes
            .map(|lane| report::Lane { name: lane.lane, events: lane.backlog_events, bytes: lane.backlog_bytes })
            .collect()
    }

    async fn apply(&mut self, new: EdgeConfig, allowed: Allowed) -> Result<Changes, String> {
        Live::apply(self, new, allowed).await.map_err(|e| e.to_string())
    }

    async fn try_out(&mut self, new: EdgeConfig) -> Result<Changes, String> {
        Live::try_out(self, new).await.map_err(|e| e.to_string())
    }

    async fn deliver(&mut self, allowed: Allowed) -> Result<(), String> {
        Live::deliver(self, allowed).await.map_err(|e| e.to_string())
    }

    async fn allow(&mut self, allowed: Allowed) -> Result<(), String> {
        Live::allow(self, allowed).await.map_err(|e| e.to_string())
    }

    async fn keep(&mut self) -> Result<(), String> {
        Live::keep(self).await.map_err(|e| e.to_string())
    }

    fn marks(&self, committed: Option<&EdgeConfig>) -> Self::Marks {
        let lanes = &Live::wanted(self).lanes;
        // They are open: it was applied.
        let routed = Router::new(lanes, &self.outbox).map(|router| router.table());
        let mut names: Vec<String> = routed.iter().map(|table| table.lane_for(PROBE_TYPE).lane().to_owned()).collect();
        if let Some(committed) = committed {
            let is_new = |name: &String| committed.lanes.iter().all(|lane| lane.name != *name);
            names.extend(lanes.iter().map(|lane| lane.name.clone()).filter(is_new));
            names.dedup();
        }
        let mark = |lane: String| {
            let acknowledged = self.uplink.acknowledged(&lane);
            Mark { from: acknowledged.events(), lane, acknowledged }
        };
        names.into_iter().map(mark).collect()
    }

    fn doors(&self) -> Doors {
        let (outbox, gate, probes) = (self.outbox.clone(), self.gate.clone(), self.probes.clone());
        Doors::new(move || {
            let stored: u64 = outbox.status().iter().map(|lane| lane.last).sum();
            let accepted = stored.saturating_sub(probes.load(Ordering::Relaxed));
            Visits { accepted, refused: gate.refusals() }
        })
    }

    fn probe(&self, from: &Self::Marks, probe: Probe) -> impl Future<Output = ()> + Send + 'static {
        let lane = |mark: &Mark| {
            let writer = self.outbox.writer(&mark.lane)?;
            // An id of its own in each lane.
            let event = Some(Event { id: random::uuid_v7(), ..probe.event.clone() });
            Some(Lane { writer, acknowledged: mark.acknowledged.clone(), from: mark.from, event })
        };
        let lanes: Vec<Lane> = from.iter().filter_map(lane).collect();
        let asked = Asked {
            lanes,
            probes: self.probes.clone(),
            outbox: self.outbox.clone(),
            links: self.uplink.links().clone(),
        };
        asked.until_acknowledged(probe)
    }
}

/// A probe.
struct Asked {
    lanes: Vec<Lane>,
    /// See [`Live::probes`].
    probes: Arc<AtomicU64>,
    outbox: Outbox,
    links: Links,
}

/// What one lane has to show.
struct Lane {
    writer: Writer,
    acknowledged: Acknowledged,
    from: u64,
    event: Option<Event>,
}

impl Asked {
    /// Answers once all lanes have their receipt, and before that why one has none yet.
    async fn until_acknowledged(mut self, probe: Probe) {
        let mut told = None;
        for look in 1_u32.. {
            self.lanes.retain(|lane| lane.acknowledged.events() <= lane.from);
            if self.lanes.is_empty() {
                return probe.acknowledged().await;
            }
            let refused = self.append().await.err();
            let reason = refused.or_else(|| (look % TELL_EVERY == 0).then(|| self.trouble()).flatten());
            if let Some(detail) = reason.filter(|reason| told.as_ref() != Some(reason)) {
                told = Some(detail.clone());
                probe.not_yet(detail).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A lane where nothing waits gets an event, once. What waits is as good; and when a broker turns out to have that
    /// already, so that nothing is left without a receipt, one is sent after all. Not before the lane's link is up: in a
    /// lane that Pulsar does not have it would stay for ever, also when the configuration is undone.
    async fn append(&mut self) -> Result<(), String> {
        let (status, links) = (self.outbox.status(), self.links.snapshot());
        let is_up = |name: &str| links.get(name).is_some_and(|link| link.state == LinkState::Up);
        for lane in &mut self.lanes {
            let backlog = status.iter().find(|s| s.lane == lane.writer.lane()).map_or(0, |s| s.backlog_events);
            if backlog == 0
                && is_up(lane.writer.lane())
                && let Some(event) = lane.event.take()
            {
                // Before it is stored: it must never look like a device's.
                self.probes.fetch_add(1, Ordering::Relaxed);
                lane.writer.append(vec![event]).await.map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    /// What keeps the first lane from getting one.
    fn trouble(&self) -> Option<String> {
        let name = self.lanes.first()?.writer.lane();
        let links = self.links.snapshot();
        let error =
            links.get(name).filter(|link| link.state != LinkState::Up).and_then(|link| link.last_error.as_deref());
        Some(format!("lane {name}: {}", error.unwrap_or("no receipt yet")))
    }
}
