//! What the control link brings: connections, the inbox, commands for devices.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Keeper;
use super::gateway::Gateway;
use crate::config::edge::Uplink;
use crate::config::overlay::Pushed;
use crate::config::{Changes, OwnFile};
use crate::downlink::artefact::Offer;
use crate::downlink::keeper::inbox::{Asks, Reading};
use crate::downlink::keeper::store::{self, DOCUMENT};
use crate::downlink::keeper::trusted_now;
use crate::downlink::link::Heard;
use crate::downlink::trial::{Assigned, Input, Number};
use crate::pulsar::wire::Address;

/// The reason of a refusal that will be none once the disk has room.
const NOT_STORED: &str = "not-stored";

/// What the disk does not take now is tried again after this: room on a full one comes with what the uplink delivers.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// An inbox message.
#[derive(Clone)]
pub(super) struct Letter {
    /// The settings that it was read with.
    pub generation: u64,
    /// At which of their addresses.
    pub at: Address,
    /// Nothing of it is verified.
    pub bytes: Bytes,
}

impl<G: Gateway> Keeper<G> {
    pub(super) async fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Connected { generation } if generation == self.connection.generation => {
                self.connection.up = true;
                self.teller.up();
                self.consider_connection().await;
            }
            Heard::Disconnected { generation, why } if generation == self.connection.generation => {
                (self.connection.up, self.connection.told, self.connection.seen) = (false, false, Number::default());
                self.teller.down();
                self.feed(Input::Disconnected { generation, detail: why }).await;
            }
            // Of settings that are not in use any more.
            Heard::Connected { .. } | Heard::Disconnected { .. } => {}
            Heard::Inbox { generation, at, bytes } => self.read(Letter { generation, at, bytes }).await,
            Heard::Empty { generation, at } => self.found(generation, at, None).await,
            Heard::Command { bytes, taken } => {
                // Without keys nobody is believed: it stays where it is until there are some.
                if self.inbox.is_open()
                    && let Err(e) = self.orders.try_send((bytes, taken))
                {
                    tracing::warn!(reason = %e, "a command is left in Pulsar for now");
                }
            }
            Heard::Unfit { reason, detail, .. } => self.refuse(detail.clone().as_bytes(), reason, detail),
        }
    }

    /// The machine hears that Pulsar is connected. On trial that is not enough, nor where a document says what Pulsar is: it
    /// must be the one that has the assignment, or no other one would ever come.
    pub(super) async fn consider_connection(&mut self) {
        let generation = self.connection.generation;
        if !self.connection.up || self.connection.told {
            return;
        }
        match self.needed() {
            Some(number) if self.connection.seen < number => {
                let detail =
                    format!("connected, but the inbox there does not hold assignment {number} of this gateway");
                self.feed(Input::Disconnected { generation, detail }).await;
            }
            _ => {
                self.connection.told = true;
                let input = match self.running.trial.is_some() && self.looking.is_none() {
                    true => self.deliver(generation).await,
                    false => Input::Connected { generation },
                };
                self.feed(input).await;
            }
        }
    }

    /// This is the Pulsar that assigns: events go there.
    async fn deliver(&mut self, generation: u64) -> Input {
        match self.live.deliver(self.allowed()).await {
            Ok(()) => {
                if self.running.marks.is_none() {
                    self.prove_from_here().await;
                }
                Input::Connected { generation }
            }
            Err(detail) => Input::NotApplied { generation, detail },
        }
    }

    /// Looks at an inbox message; what cannot be stored now is looked at again later.
    pub(super) async fn read(&mut self, letter: Letter) {
        self.unread = None;
        if self.reopen.is_some() {
            // Kept for the moment from which on there are files.
            self.unread = Some((Instant::now() + READ_AGAIN, letter));
            return;
        }
        if !self.inbox.is_open() || self.store.is_none() {
            return;
        }
        let settled = self.machine.record().settled;
        let Reading { keyring, asks, refused } = self.inbox.read(&letter.bytes, settled, trusted_now(&self.clock));
        if let Some((envelope, trust)) = keyring {
            let version = trust.keyring_version();
            if let Err(reason) = self.on_disk("the keyring", move |store| store.keep_keyring(&envelope)).await {
                // What stands on it does not count either.
                return self.read_later(letter, format!("keyring {version}: {reason}"));
            }
            tracing::info!(version, "a newer keyring is in force");
            self.publish_trust(trust.clone());
            self.inbox.believe(trust);
        }
        refused.into_iter().for_each(|refusal| self.tell_refused(refusal.code(), refusal.to_string()));
        // First, so that what is new begins on a link that is known to be there.
        self.found(letter.generation, letter.at.clone(), asks.number()).await;
        let stored = match asks {
            Asks::Try(offer) => {
                let number = offer.assignment.at();
                self.offered(*offer).await.map_err(|reason| format!("assignment {number}: {reason}"))
            }
            Asks::Again(number) => {
                self.feed(Input::Offered(Assigned { number, digest: None })).await;
                Ok(())
            }
            Asks::Nothing => Ok(()),
        };
        if let Err(reason) = stored {
            self.read_later(letter, reason);
        }
    }

    /// The cloud hears once of each message that waits for the disk; it is no decision.
    fn read_later(&mut self, letter: Letter, reason: String) {
        self.refuse(&letter.bytes, NOT_STORED, format!("{reason}; it is tried again every {READ_AGAIN:?}"));
        self.unread = Some((Instant::now() + READ_AGAIN, letter));
    }

    /// An authentic assignment that is new. The error says why it cannot be stored.
    async fn offered(&mut self, offer: Offer) -> Result<(), String> {
        let Offer { assignment, document, accepted } = offer;
        let number = assignment.at();
        // Before it counts as taken: after a kill in between it is offered again.
        self.models.assign(number, &assignment.models).await?;
        self.on_disk("what was assigned", move |store| store.keep_accepted(&accepted)).await?;
        self.inbox.took(accepted);
        let digest = document.as_ref().map(|document| document.sha256.bytes());
        tracing::info!(%number, reason = assignment.reason, by = assignment.by, "a configuration is assigned");
        if let (Some(document), Some(digest)) = (document, digest) {
            self.remember_version(digest, Some(document.version));
            let text = Bytes::from(document.text);
            let (own, checked, now) = (self.own.clone(), text.clone(), self.live.wanted().uplink.clone());
            let check = tokio::task::spawn_blocking(move || valid::<G>(&own, &checked, &now));
            let checked = check.await.unwrap_or_else(|e| Err(format!("it cannot be checked: {e}")));
            if let Err(detail) = checked {
                self.feed(Input::Rejected { number, detail }).await;
                return Ok(());
            }
            self.offered = Some((digest, text));
        }
        self.feed(Input::Offered(Assigned { number, digest })).await;
        Ok(())
    }

    /// Stores something before it counts. The error says why it cannot be.
    async fn on_disk(
        &self,
        what: &str,
        write: impl FnOnce(&store::Store) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), String> {
        let Some(store) = self.store.clone() else { return Err("there is nowhere to store it".to_owned()) };
        let written = tokio::task::spawn_blocking(move || write(&store)).await;
        let written = written.map_err(|e| e.to_string()).and_then(|written| written.map_err(|e| e.to_string()));
        written.inspect_err(|reason| {
            tracing::error!(reason, "{what} cannot be stored, and does not count yet; trying again in {READ_AGAIN:?}");
        })
    }
}

/// Whether the document can be tried here: it is right over the own file, all of it can take effect without a restart, and
/// what it names is there.
fn valid<G: Gateway>(own: &OwnFile, text: &[u8], now: &Uplink) -> Result<(), String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
    let overlaid = own.with(Pushed { name: DOCUMENT, text }).map_err(|errors| store::one_line(&errors.to_string()))?;
    let changes = Changes::between(own.alone(), &overlaid.config);
    if !changes.at_restart.is_empty() {
        let keys = changes.at_restart.join("; ");
        return Err(format!("these cannot take effect without a restart, so they cannot be tried: {keys}"));
    }
    renames_no_cluster(now, &overlaid.config.uplink)?;
    G::check(&overlaid.config)
}

/// Pulsar knows what it has by the producer's name, and the cluster's is a part of it: what is under way when that changes and
/// a kill -9 comes would arrive twice (seen, tests/hostile_configs). Between two clusters that cannot be helped, and the
/// cloud mode removes it.
fn renames_no_cluster(now: &Uplink, new: &Uplink) -> Result<(), String> {
    if now.cluster == new.cluster || now.pulsar != new.pulsar {
        return Ok(());
    }
    Err(format!(
        "uplink.cluster: {:?} instead of {:?} at the same addresses: events under way would arrive twice; leave it out, \
         or name the other cluster's addresses in uplink.pulsar",
        new.cluster, now.cluster
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EdgeConfig;

    #[test]
    fn a_cluster_has_another_name_at_another_address_only() {
        let uplink = |pulsar: &str, cluster: &str| {
            let pulsar = vec![pulsar.to_owned()];
            Uplink { pulsar, cluster: cluster.to_owned(), ..EdgeConfig::default().uplink }
        };
        let now = uplink("pulsar://a:6650", "a");
        assert_eq!(renames_no_cluster(&now, &uplink("pulsar://b:6650", "b")), Ok(()));
        assert_eq!(renames_no_cluster(&now, &uplink("pulsar://b:6650", "a")), Ok(()));
        let refused = renames_no_cluster(&now, &uplink("pulsar://a:6650", "b")).unwrap_err();
        assert!(refused.contains("arrive twice"), "{refused}");
    }
}
