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

use tokio_util::sync::CancellationToken;

use super::{Keeper, Running};
use crate::downlink::keeper::{health, store};
use crate::downlink::trial::{Input, Place};
use crate::event::{Event, Timestamp};
use crate::outbox::{Outbox, Writer};
use crate::sys::random;
use crate::uplink::Acknowledged;

/// Type of the event.
pub const PROBE_TYPE: &str = "tidegate.probe";

/// How often it is looked whether Pulsar has acknowledged something.
const LOOK_EVERY: Duration = Duration::from_millis(50);

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
        let table = self.live.router.table();
        let mut names = vec![table.lane_for(PROBE_TYPE).lane().to_owned()];
        if let Some(committed) = committed {
            let new = self.live.config.lanes.iter().map(|lane| lane.name.clone());
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
        let table = self.live.router.table();
        let lanes: Vec<Lane> = lanes
            .iter()
            .filter_map(|(name, acknowledged, from)| {
                let writer = table.lane_named(name)?.clone();
                let event = Some(event(&self.own.alone().node.id, generation, self.clock.unix_ms()));
                Some(Lane { writer, acknowledged: acknowledged.clone(), from: *from, event })
            })
            .collect();
        let (outbox, answers) = (self.live.outbox.clone(), self.answers.clone());
        self.live.tasks.spawn_contained("probe", async move {
            let Some(result) = until_acknowledged(&outbox, lanes, stop).await else { return };
            let answer = match result {
                Ok(()) => Input::ProbeAcknowledged { probe },
                Err(detail) => Input::ProbeRefused { probe, detail },
            };
            let _ = answers.send(answer).await;
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

/// `None`: stopped before.
async fn until_acknowledged(
    outbox: &Outbox,
    mut lanes: Vec<Lane>,
    stop: CancellationToken,
) -> Option<Result<(), String>> {
    let work = async {
        loop {
            lanes.retain(|lane| lane.acknowledged.events() <= lane.from);
            if lanes.is_empty() {
                return Ok(());
            }
            let status = outbox.status();
            for lane in &mut lanes {
                let backlog = status.iter().find(|s| s.lane == lane.writer.lane()).map_or(0, |s| s.backlog_events);
                // What waits is the probe. A broker that turns out to have it already leaves nothing, and then one is sent.
                if backlog == 0
                    && let Some(event) = lane.event.take()
                {
                    lane.writer.append(vec![event]).await.map_err(|e| e.to_string())?;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    stop.run_until_cancelled(work).await
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
