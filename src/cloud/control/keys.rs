//! Whose reports count: each gateway's key, the first that spoke under its name. [pure]
//!
//! Pins lie in a topic of their own, `rollouts/keys`, which only the cloud's processes write: whoever has read as far has
//! the same. The first pin of a gateway counts until it is released by an operator; two processes that pin at the same
//! time so agree.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::reports::Dropped;
use crate::cloud::rollout::{self, NodeId};
use crate::downlink::artefact::{KeyId, PublicKey};

/// Gateways whose keys are remembered: as many as roll-outs can name. Some 150 bytes each.
pub const NODES_MAX: usize = rollout::NODES_MAX;

/// Pins of one message: some 130 bytes each.
pub const BATCH_MAX: usize = 1_000;

/// One message of the topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// These speak with these keys from now on; whoever has one keeps it.
    Pinned {
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// At most [`BATCH_MAX`].
        nodes: Vec<(NodeId, PublicKey)>,
    },
    /// The next key that speaks for these is theirs.
    Released {
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// Who said so.
        by: String,
        /// At most [`BATCH_MAX`].
        nodes: Vec<NodeId>,
    },
}

/// Somebody else who speaks for a gateway: its disk was replaced, or somebody pretends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// The key of the last one.
    pub key: PublicKey,
    /// Reports since the pin.
    pub reports: u64,
    /// When the last one was heard, in milliseconds since 1970.
    pub heard_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Keys {
    pinned: BTreeMap<NodeId, PublicKey>,
    /// The first that was heard of those that have no pin yet.
    first: BTreeMap<NodeId, PublicKey>,
    strangers: BTreeMap<NodeId, Stranger>,
}

impl Keys {
    /// Takes the next message of the topic; gives the nodes of whom another key was believed until now.
    pub fn apply(&mut self, event: Event) -> BTreeSet<NodeId> {
        let mut wrong = BTreeSet::new();
        match event {
            Event::Pinned { nodes, .. } => {
                for (node, key) in nodes.into_iter().take(BATCH_MAX) {
                    if self.pinned.contains_key(&node) || self.pinned.len() >= NODES_MAX {
                        continue;
                    }
                    if self.first.remove(&node).is_some_and(|first| first != key) {
                        wrong.insert(node.clone());
                    }
                    self.pinned.insert(node, key);
                }
            }
            Event::Released { nodes, .. } => nodes.iter().take(BATCH_MAX).for_each(|node| {
                self.pinned.remove(node);
                self.first.remove(node);
                self.strangers.remove(node);
            }),
        }
        wrong
    }

    /// Whether `key` speaks for `node`. Its signature must have been verified, or is to be.
    pub fn expect(&mut self, node: &NodeId, key: &PublicKey, heard_ms: u64) -> Result<(), Dropped> {
        match self.of(node) {
            Some(known) if known == key => Ok(()),
            Some(_) => {
                let fresh = Stranger { key: key.clone(), reports: 0, heard_ms };
                let stranger = self.strangers.entry(node.clone()).or_insert(fresh);
                *stranger = Stranger { key: key.clone(), reports: stranger.reports.saturating_add(1), heard_ms };
                Err(Dropped::Stranger { key: key.id() })
            }
            None if self.first.len() >= NODES_MAX => Err(Dropped::Full),
            None => {
                self.first.insert(node.clone(), key.clone());
                Ok(())
            }
        }
    }

    /// The key that speaks for `node`.
    pub fn of(&self, node: &NodeId) -> Option<&PublicKey> {
        self.pinned.get(node).or_else(|| self.first.get(node))
    }

    /// Its id, for people.
    pub fn id_of(&self, node: &NodeId) -> Option<KeyId> {
        self.of(node).map(PublicKey::id)
    }

    /// Who else has spoken for `node`.
    pub fn stranger(&self, node: &NodeId) -> Option<&Stranger> {
        self.strangers.get(node)
    }

    /// The next pins to write.
    pub fn to_pin(&self) -> Vec<(NodeId, PublicKey)> {
        if self.pinned.len() >= NODES_MAX {
            return Vec::new();
        }
        self.first.iter().take(BATCH_MAX).map(|(node, key)| (node.clone(), key.clone())).collect()
    }

    /// Forgets those of a node without a pin, which nobody hears any more.
    pub fn forget(&mut self, node: &NodeId) {
        self.first.remove(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downlink::artefact::SecretKey;

    fn key(n: u8) -> PublicKey {
        SecretKey::from_seed(&[n; 32]).unwrap().public().clone()
    }

    #[test]
    fn the_first_key_speaks_for_a_gateway_until_it_is_released() {
        let (mut keys, node) = (Keys::default(), NodeId::from("press-7"));
        assert_eq!(keys.expect(&node, &key(1), 1), Ok(()));
        let stranger = Err(Dropped::Stranger { key: key(2).id() });
        assert_eq!(keys.expect(&node, &key(2), 2), stranger);
        assert_eq!(keys.to_pin(), [(node.clone(), key(1))]);
        let pin = |n| Event::Pinned { at_ms: 1, nodes: vec![(node.clone(), key(n))] };
        // Another process was first, and heard another one first.
        assert_eq!(keys.apply(pin(2)), BTreeSet::from([node.clone()]));
        assert!(keys.apply(pin(1)).is_empty() && keys.to_pin().is_empty());
        assert_eq!(keys.expect(&node, &key(2), 3), Ok(()));
        assert_eq!(keys.expect(&node, &key(1), 4), Err(Dropped::Stranger { key: key(1).id() }));
        let seen = keys.stranger(&node).unwrap();
        assert_eq!((seen.key.id(), seen.reports, seen.heard_ms), (key(1).id(), 2, 4));
        keys.apply(Event::Released { at_ms: 5, by: "anna".into(), nodes: vec![node.clone()] });
        assert_eq!((keys.expect(&node, &key(1), 6), keys.stranger(&node)), (Ok(()), None));
    }

    #[test]
    fn an_event_is_read_back() {
        for event in [
            Event::Pinned { at_ms: 1, nodes: vec![(NodeId::from("press-7"), key(1))] },
            Event::Released { at_ms: 2, by: "anna".into(), nodes: vec![NodeId::from("press-7")] },
        ] {
            let text = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event, "{text}");
        }
    }
}
