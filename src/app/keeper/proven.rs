//! At which addresses this gateway's assignment was found. A pushed document may name more than one cluster, by mistake or
//! because a name has another owner now, and any cluster takes events: they go where central operations write to this
//! gateway, and nowhere else. A failover pair has the inbox on both sides.

use super::gateway::Gateway;
use super::{Keeper, sha256};
use crate::config::EdgeConfig;
use crate::downlink::trial::{Number, Place};
use crate::pulsar::wire::Address;
use crate::uplink::Allowed;

/// Where events may go with `config`, when `proven` are the addresses at which the assignment was found. Who wrote `own`
/// says that its addresses are ours, without any control topic; and where nobody is believed nothing is ever found.
pub fn allowed(own: &EdgeConfig, config: &EdgeConfig, proven: &[Address]) -> Allowed {
    let keys = &own.downlink;
    let believes_nobody = keys.roots.is_empty() && keys.artefact_keys.is_empty() && keys.controller_keys.is_empty();
    match config.uplink.pulsar == own.uplink.pulsar || believes_nobody {
        true => Allowed::All,
        false => Allowed::Only(proven.to_vec()),
    }
}

impl<G: Gateway> Keeper<G> {
    /// Where the events of what runs may go.
    pub(super) fn allowed(&self) -> Allowed {
        allowed(self.own.alone(), self.live.wanted(), &self.proven)
    }

    /// What is stored of `place`: its addresses were found before.
    pub(super) fn proven_before(&self, place: Place) -> Vec<Address> {
        let stored = self.store.as_ref().zip(place.digest());
        stored.map(|(store, digest)| store.proven(sha256(&digest))).unwrap_or_default()
    }

    /// The assignment that must be found before events go anywhere; `None`: none.
    pub(super) fn needed(&self) -> Option<Number> {
        if self.looking.is_some() {
            return Some(self.machine.record().settled);
        }
        let restricted = matches!(self.allowed(), Allowed::Only(_));
        self.running.trial.or_else(|| restricted.then_some(self.machine.record().committed.number))
    }

    /// The inbox at `at` holds assignment `number` of this gateway; `None`: none that could be believed.
    pub(super) async fn found(&mut self, generation: u64, at: Address, number: Option<Number>) {
        if generation < self.connection.since {
            return;
        }
        let needed = self.needed();
        let Some(number) = number.filter(|number| *number >= needed.unwrap_or_default()) else {
            if needed.is_some() && (self.looking.is_some() || !self.proven.contains(&at)) {
                tracing::debug!(address = %at, "nothing is assigned to this gateway there");
                self.link.elsewhere();
            }
            return;
        };
        self.connection.seen = self.connection.seen.max(number);
        if let Some(looking) = &mut self.looking {
            looking.proven.push(at);
            return self.consider_connection().await;
        }
        let is_new = !self.proven.contains(&at);
        if is_new {
            self.proven.push(at);
        }
        self.consider_connection().await;
        if is_new && (self.running.trial.is_none() || self.connection.told) {
            let allowed = self.allowed();
            if let Err(reason) = self.live.allow(allowed).await {
                tracing::error!(reason, "events cannot go to one more address");
            }
            self.keep_proven().await;
        }
    }

    /// Stores what was found: a start needs no control link before events go there.
    pub(super) async fn keep_proven(&self) {
        let digest = self.running.place.digest().filter(|_| self.running.trial.is_none());
        let (Some(digest), Some(store)) = (digest, self.store.clone()) else { return };
        if self.allowed() == Allowed::All || self.proven.is_empty() {
            return;
        }
        let proven = self.proven.clone();
        let kept = tokio::task::spawn_blocking(move || store.keep_proven(sha256(&digest), &proven)).await;
        if let Err(reason) = kept.map_err(|e| e.to_string()).and_then(|kept| kept.map_err(|e| e.to_string())) {
            tracing::warn!(reason, "after a start events wait until the control link has found the assignment again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_own_file_need_no_proof_and_others_do_if_anybody_is_believed() {
        let mut own = EdgeConfig::default();
        own.uplink.pulsar = vec!["pulsar://a".to_owned()];
        own.downlink.controller_keys = vec!["a key".to_owned()];
        let mut pushed = own.clone();
        assert_eq!(allowed(&own, &pushed, &[]), Allowed::All);
        pushed.uplink.pulsar.push("pulsar://b".to_owned());
        let b = Address::parse("pulsar://b").unwrap();
        assert_eq!(allowed(&own, &pushed, std::slice::from_ref(&b)), Allowed::Only(vec![b]));
        own.downlink.controller_keys.clear();
        assert_eq!(allowed(&own, &pushed, &[]), Allowed::All);
    }
}
