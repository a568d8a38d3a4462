//! Where every way in meets the models: after an event is made, before it goes to its lane.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::router::Router;
use crate::event::Event;
use crate::inference::{Alarm, Inference};
use crate::outbox::{AppendError, Batch};

/// Longest time that an event waits for its alarm to be stored before it. Longer, and the disk hangs: the alarm is with it,
/// and may still be stored.
const ALARM_MAX: Duration = Duration::from_secs(1);

/// While too much waits for the disk, an alarm is tried again this often, within [`ALARM_MAX`].
const BUSY_RETRY: Duration = Duration::from_millis(5);

/// The models, and the lanes for what they make. Cheap to clone.
#[derive(Clone)]
pub struct Scoring {
    inference: Inference,
    router: Router,
}

impl Scoring {
    /// Alarms go to the lanes that `router` has when they are made.
    pub fn new(inference: Inference, router: Router) -> Self {
        Self { inference, router }
    }

    /// Whether an event of this type waits for a score. Nothing else needs to be asked for one that does not.
    pub fn wants(&self, ty: &str) -> bool {
        self.inference.wants(ty)
    }

    /// The events with their scores. Alarms are stored before, or an event whose acknowledgement was lost could go without
    /// its alarm: whoever sends it again makes the same alarm, which is stored once.
    pub async fn of(&self, events: Vec<Event>) -> Vec<Event> {
        if !events.iter().any(|event| self.wants(&event.ty)) {
            return events;
        }
        self.finish(self.inference.begin(events)).await
    }

    /// The batch with the scores of `asked`: events in it, with their places. The models are asked at once, alarms are stored
    /// when the future is polled.
    pub fn of_batch(&self, mut batch: Batch, asked: Vec<(usize, Event)>) -> impl Future<Output = Batch> + Send + use<> {
        let this = self.clone();
        let (places, events): (Vec<usize>, Vec<Event>) = asked.into_iter().unzip();
        let pending = self.inference.begin(events);
        async move {
            let events = this.finish(pending).await;
            batch.replace(places.into_iter().zip(&events));
            batch
        }
    }

    async fn finish(&self, pending: crate::inference::Pending) -> Vec<Event> {
        let scored = pending.finish().await;
        if !scored.alarms.is_empty() {
            self.store(scored.alarms).await;
        }
        scored.events
    }

    async fn store(&self, alarms: Vec<Alarm>) {
        let table = self.router.table();
        let give_up = Instant::now() + ALARM_MAX;
        let mut batches: Vec<(Batch, Vec<Alarm>)> = Vec::new();
        for alarm in alarms {
            let writer = table.lane_for(&alarm.event.ty);
            let at = batches.iter().position(|(batch, _)| batch.lane() == writer.lane()).unwrap_or_else(|| {
                batches.push((writer.batch(), Vec::new()));
                batches.len() - 1
            });
            let Some((batch, of_batch)) = batches.get_mut(at) else { continue };
            match batch.push(&alarm.event) {
                Ok(()) => of_batch.push(alarm),
                Err(e) => alarm.is_lost(&e.to_string()),
            }
        }
        batches.retain(|(batch, _)| !batch.is_empty());
        for (batch, alarms) in batches {
            // Not in time: the disk has it, and will say no to the event too if it must.
            if let Ok(Err(e)) = tokio::time::timeout_at(give_up, append(batch, give_up)).await {
                alarms.iter().for_each(|alarm| alarm.is_lost(&e.to_string()));
            }
        }
    }
}

async fn append(mut batch: Batch, give_up: Instant) -> Result<(), AppendError> {
    loop {
        match batch.submit() {
            Ok(receipt) => return receipt.await.map(drop),
            Err(AppendError::Busy { .. }) if Instant::now() + BUSY_RETRY < give_up => {
                tokio::time::sleep(BUSY_RETRY).await;
            }
            Err(e) => return Err(e),
        }
    }
}
