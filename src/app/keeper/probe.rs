//! Asks the running configuration for a proof: that a real event arrives on the real path, and that the operator's own
//! check succeeds.
//!
//! **Why this proves that the gateway can go on.** A configuration strands a gateway when nothing goes up any more, or when
//! no other configuration comes down. What is asked for covers both, each on the connection that will carry it later:
//!
//! - *Up.* A receipt of Pulsar for an event of the lane that takes what no other lane takes, and of each lane that the
//!   committed configuration does not have, counted from the moment at which this configuration was in effect. The
//!   uplink's links of before have ended by then, if anything about them has changed, so the receipt came over a
//!   connection that was made with this configuration: address, TLS, credentials, tenant, topic, producer, limits. Only
//!   receipts count. A lane's confirmed position also moves when a broker says at a connection what it already has, which
//!   shows that somebody is there and not that anything can be stored. Whose event it is does not matter: with a backlog
//!   the backlog's own receipts are the proof, at once and however long it is, and when the outbox is full nothing must
//!   be appended. Without one a `tidegate.probe` goes the way of all events: outbox, disk, lane.
//! - *Down.* The control link is connected with this configuration, and this gateway's inbox, read over that connection,
//!   holds the assignment on trial or a newer one. Any Pulsar can be connected to; only the one that central operations
//!   write to has that (`hear`).

use std::time::Duration;

use tokio::sync::mpsc;

use super::{Keeper, Running};
use crate::downlink::keeper::{health, store};
use crate::downlink::trial::{Input, Place};
use crate::event::{Event, Timestamp};
use crate::ingest::router::Router;
use crate::observe::status::{LinkState, Links};
use crate::outbox::{Outbox, Writer};
use crate::sys::random;
use crate::uplink::Acknowledged;

/// Type of the event.
pub const PROBE_TYPE: &str = "tidegate.probe";

/// How often it is looked whether Pulsar has acknowledged something.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What keeps a lane from its receipt is told after so many looks: a broker that is well has answered by then.
const TELL_EVERY: u32 = 20;

/// A probe.
struct Asked {
    probe: u64,
    lanes: Vec<Lane>,
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

impl Keeper {
    /// From now on receipts count for what runs.
    pub(super) async fn prove_from_here(&mut self) {
        let committed = match self.running.trial {
            Some(_) => self.committed_lanes().await,
            None => None,
        };
        let lanes = &self.live.wanted().lanes;
        // They are open: it was applied.
        let routed = Router::new(lanes, &self.live.outbox).map(|router| router.table());
        let mut names: Vec<String> = routed.iter().map(|table| table.lane_for(PROBE_TYPE).lane().to_owned()).collect();
        if let Some(committed) = committed {
            let new = lanes.iter().map(|lane| lane.name.clone());
            names.extend(new.filter(|name| !committed.contains(name)));
            names.dedup();
        }
        self.running.lanes = names
            .into_iter()
            .map(|name| {
                let acknowledged = self.live.uplink.acknowledged(&name);
                let from = acknowledged.events();
                (name, acknowledged, from)
            })
            .collect();
    }

    async fn committed_lanes(&self) -> Option<Vec<String>> {
        let (own, store) = (self.own.clone(), self.store.clone()?);
        let place = self.machine.record().committed.place;
        let load = move || store::load(&own, store.slots(), &place).ok();
        let (config, _) = tokio::task::spawn_blocking(load).await.ok().flatten()?;
        Some(config.lanes.into_iter().map(|lane| lane.name).collect())
    }

    /// Asks for receipts, until they are there or another probe takes its place.
    pub(super) fn probe(&mut self, probe: u64) {
        let Running { lanes, over, probe_over, generation, .. } = &mut self.running;
        probe_over.cancel();
        *probe_over = over.child_token();
        let (stop, generation) = (probe_over.clone(), *generation);
        let lanes: Vec<Lane> = lanes
            .iter()
            .filter_map(|(name, acknowledged, from)| {
                let writer = self.live.outbox.writer(name)?;
                let event = Some(event(&self.own.alone().node.id, generation, self.clock.unix_ms()));
                Some(Lane { writer, acknowledged: acknowledged.clone(), from: *from, event })
            })
            .collect();
        let asked = Asked { probe, lanes, outbox: self.live.outbox.clone(), links: self.live.uplink.links().clone() };
        let answers = self.answers.clone();
        self.live.tasks.spawn_contained("probe", async move {
            stop.run_until_cancelled(asked.until_acknowledged(answers)).await;
        });
    }

    /// Runs the operator's program.
    pub(super) fn check_health(&mut self, check: u64) {
        let downlink = self.own.alone().downlink.clone();
        let (over, answers) = (self.running.over.clone(), self.answers.clone());
        self.live.tasks.spawn_contained("health command", async move {
            let run = health::run(&downlink.health_command, downlink.health_timeout);
            let Some(result) = over.run_until_cancelled(run).await else { return };
            let answer = match result {
                Ok(()) => Input::Healthy { check },
                Err(detail) => Input::Unhealthy { check, detail },
            };
            let _ = answers.send(answer).await;
        });
    }
}

impl Asked {
    /// Answers once all lanes have their receipt, and before that why one has none yet, for the report.
    async fn until_acknowledged(mut self, answers: mpsc::Sender<Input>) {
        let (probe, mut told) = (self.probe, None);
        for look in 1_u32.. {
            self.lanes.retain(|lane| lane.acknowledged.events() <= lane.from);
            if self.lanes.is_empty() {
                let _ = answers.send(Input::ProbeAcknowledged { probe }).await;
                return;
            }
            let refused = self.append().await.err();
            let reason = refused.or_else(|| (look % TELL_EVERY == 0).then(|| self.trouble()).flatten());
            if reason.is_some() && reason != told {
                let detail = reason.clone().unwrap_or_default();
                told = reason;
                let _ = answers.send(Input::ProbeRefused { probe, detail }).await;
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

fn event(node: &str, generation: u64, now_ms: i64) -> Event {
    Event {
        id: random::uuid_v7(),
        id_is_ours: true,
        source: format!("/nodes/{node}"),
        ty: PROBE_TYPE.to_owned(),
        subject: None,
        time: Timestamp::from_unix_ms(now_ms),
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: Vec::new(),
        data: format!("{{\"generation\":{generation}}}").into_bytes().into(),
    }
}

/// Nothing of it runs any more.
impl Drop for Running {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// What is told of a place in logs.
pub(super) fn name(place: &Place) -> String {
    match place.digest() {
        None => "the gateway's own file alone".to_owned(),
        Some(digest) => format!("the document {}", super::sha256(&digest)),
    }
}
