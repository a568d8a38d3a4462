//! A gateway whose files of pushed configuration could not be used at the start: it takes them up as soon as they can be,
//! without a visit.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::gateway::Gateway;
use super::{Keeper, policy, trial_of, work};
use crate::downlink::keeper::{Begun, Store, begin, open_inbox};

/// First wait; it doubles up to [`WAIT_MAX`].
const WAIT_FIRST: Duration = Duration::from_secs(5);

/// A full disk that got room, or one that was mended, is found within this.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// When it is looked first, and the wait before.
pub(super) fn first() -> (Instant, Duration) {
    (Instant::now() + WAIT_FIRST, WAIT_FIRST)
}

impl<G: Gateway> Keeper<G> {
    /// Looks whether the files can be used now, and then goes on with what they say.
    pub(super) async fn reopen(&mut self) {
        let Some((_, waited)) = self.reopen else { return };
        let (own, policy) = (self.own.clone(), policy(self.own.alone()));
        let open = move || -> Result<(Begun, Store), String> {
            let store = Store::open(&own.alone().node.data_dir).map_err(|e| e.to_string())?;
            let begun = begin(&own, &store, policy, G::check).map_err(|e| e.to_string())?;
            Ok((begun, store))
        };
        let opened = tokio::task::spawn_blocking(open).await.unwrap_or_else(|e| Err(e.to_string()));
        let taken_up = match opened {
            Ok((begun, store)) => self.take_up(begun, store).await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = taken_up {
            tracing::debug!(reason, "pushed configuration still cannot be kept");
            let wait = (waited * 2).min(WAIT_MAX);
            self.reopen = Some((Instant::now() + wait, wait));
        }
    }

    /// As at a start, but that the gateway runs already.
    async fn take_up(&mut self, begun: Begun, store: Store) -> Result<(), String> {
        let settled = begun.machine.record().settled;
        let inbox = open_inbox(self.own.alone(), Some(&store), settled).map_err(|e| e.to_string())?;
        tracing::info!(dir = %store.dir().display(), "pushed configuration can be kept now");
        let store = Arc::new(store);
        self.jobs = work::start(&self.tasks, Some(store.clone()), self.answers.clone());
        (self.store, self.inbox, self.reopen) = (Some(store), inbox, None);
        self.publish_trust(self.inbox.trust().clone());
        let Begun { machine, place, generation, inputs, actions, decided_from, .. } = begun;
        (self.machine, self.next_decision) = (machine, decided_from);
        debug_assert_eq!(trial_of(&self.machine, place).is_some(), begun.on_trial);
        let applied = self.apply(generation, place).await;
        self.act(actions).await;
        for input in inputs.into_iter().chain([applied]) {
            self.feed(input).await;
        }
        if let Some((_, letter)) = self.unread.take() {
            self.read(letter).await;
        }
        Ok(())
    }
}
