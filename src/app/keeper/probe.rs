//! Asks the running configuration for a proof: that a real event arrives on the real path, and that the operator's own
//! check succeeds.
//!
//! **Why this proves that the gateway can go on.** A configuration strands a gateway when nothing goes up any more, or when
//! no other configuration comes down. What is asked for covers both, each on the connection that will carry it later:
//!
//! - *Up.* A receipt of Pulsar for an event of the lane that takes what no other lane takes, and of each lane that the
//!   committed configuration does not have, counted from the moment at which its way up was in effect. The
//!   uplink's links of before have ended by then, if anything about them has changed, so the receipt came over a
//!   connection that was made with this configuration: address, TLS, credentials, tenant, topic, producer, limits. Only
//!   receipts count. A lane's confirmed position also moves when a broker says at a connection what it already has, which
//!   shows that somebody is there and not that anything can be stored. Whose event it is does not matter: with a backlog
//!   the backlog's own receipts are the proof, at once and however long it is, and when the outbox is full nothing must
//!   be appended. Without one a `tidegate.probe` goes the way of all events: outbox, disk, lane.
//! - *Down.* The control link is connected with this configuration, and this gateway's inbox, read over that connection,
//!   holds the assignment on trial or a newer one. Any Pulsar can be connected to; only the one that central operations
//!   write to has that (`hear`). This comes first: another Pulsar would take events as well as ours does, and then they
//!   would be there (`live`).
//! - *In.* Devices that sent events before are not all refused (`doors`).

use super::gateway::{Gateway, PROBE_TYPE, Probe};
use super::{Keeper, Running};
use crate::config::EdgeConfig;
use crate::downlink::keeper::store;
use crate::downlink::trial::{Input, Place};
use crate::event::{Event, Timestamp};
use crate::sys::random;

impl<G: Gateway> Keeper<G> {
    /// From now on receipts count for what runs.
    pub(super) async fn prove_from_here(&mut self) {
        let committed = match self.running.trial {
            Some(_) => self.committed().await,
            None => None,
        };
        self.running.marks = Some(self.live.marks(committed.as_ref()));
    }

    async fn committed(&self) -> Option<EdgeConfig> {
        let (own, store) = (self.own.clone(), self.store.clone()?);
        let place = self.machine.record().committed.place;
        let load = move || store::load(&own, store.slots(), &place).ok();
        let (config, _) = tokio::task::spawn_blocking(load).await.ok().flatten()?;
        Some(config)
    }

    /// Asks for receipts, until they are there or another probe takes its place.
    pub(super) fn probe(&mut self, number: u64) {
        let Running { marks, over, probe_over, generation, .. } = &mut self.running;
        probe_over.cancel();
        *probe_over = over.child_token();
        let Some(marks) = marks else { return };
        let event = event(&self.own.alone().node.id, *generation, self.clock.unix_ms());
        let stop = probe_over.clone();
        let asked = self.live.probe(marks, Probe { number, event, answers: self.answers.clone() });
        self.tasks.spawn_contained("probe", async move {
            stop.run_until_cancelled(asked).await;
        });
    }

    /// Asks whether devices get in, and for the operator's own check.
    pub(super) fn check_health(&mut self, check: u64) {
        let (doors, command) = (self.doors_open(), self.live.health(&self.own.alone().downlink));
        let run = async move {
            doors.await?;
            command.await
        };
        let (over, answers) = (self.running.over.clone(), self.answers.clone());
        self.tasks.spawn_contained("health check", async move {
            let Some(result) = over.run_until_cancelled(run).await else { return };
            let answer = match result {
                Ok(()) => Input::Healthy { check },
                Err(detail) => Input::Unhealthy { check, detail },
            };
            let _ = answers.send(answer).await;
        });
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
impl<G: Gateway> Drop for Running<G> {
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
