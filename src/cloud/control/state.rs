//! What a process knows: folds over the log of roll-outs, the documents and the reports. [pure]

use std::collections::BTreeSet;

use serde::Deserialize;

use super::documents::{Documents, Origin, Stored};
use super::fleet::{Fleet, Log};
use super::history::History;
use super::keys::Keys;
use super::reports::Dropped;
use crate::cloud::rollout::{Author, Event, NodeId, Rollouts, Void, What};
use crate::downlink::artefact::assignment::NODE_BYTES_MAX;
use crate::downlink::artefact::{Refusal, Trust};
use crate::downlink::report::{Claim, NodeReport, REPORT_BYTES_MAX};

/// Everything.
pub struct State {
    /// The roll-outs and every node's assignment.
    pub rollouts: Rollouts,
    /// Who changed what and when.
    pub history: History,
    /// The signed documents, and the newest keyring.
    pub documents: Documents,
    /// What the nodes say.
    pub fleet: Fleet,
    /// Whose word that is.
    pub keys: Keys,
    /// Nodes whose inbox is to be written, while this process has the lead.
    pub to_send: BTreeSet<NodeId>,
    /// An event of a later version was read: what the log means is not known any more, so this process must not lead.
    pub blind: Option<u64>,
}

/// What reading one event came to.
pub struct Applied {
    /// Its place in the log.
    pub index: u64,
    /// Why it changed nothing, if it did not.
    pub result: Result<(), Void>,
}

impl State {
    /// Nothing was read yet; `trust` says whose documents and keyrings count.
    pub fn new(trust: Trust) -> Self {
        Self {
            rollouts: Rollouts::default(),
            history: History::default(),
            documents: Documents::new(trust),
            fleet: Fleet::default(),
            keys: Keys::default(),
            to_send: BTreeSet::new(),
            blind: None,
        }
    }

    /// Takes the next message of the log. Whatever it is, it has its place: all processes must count alike.
    pub fn log(&mut self, payload: Option<&[u8]>) -> Applied {
        let read = payload.map(|bytes| (bytes, serde_json::from_slice::<Event>(bytes)));
        let Some((_, Ok(event))) = read else {
            if payload.is_some_and(is_of_a_later_version) {
                self.blind = Some(self.rollouts.index() + 1);
            }
            return self.pass_over();
        };
        let result = self.rollouts.apply(&event);
        self.history.apply(&event, &result, &self.rollouts);
        if let (What::Departed { nodes }, Ok(_)) = (&event.what, &result) {
            nodes.iter().for_each(|node| self.fleet.forget(node));
        }
        let index = self.rollouts.index();
        Applied { index, result: result.map(|nodes| self.to_send.extend(nodes)) }
    }

    /// Something that is no event counts like one that changes nothing.
    fn pass_over(&mut self) -> Applied {
        let nothing =
            Event { at_ms: 0, by: Author::Operator { name: "unreadable".to_owned() }, what: What::Raised { index: 0 } };
        let result = self.rollouts.apply(&nothing);
        self.history.apply(&nothing, &result, &self.rollouts);
        Applied { index: self.rollouts.index(), result: result.map(|_| ()) }
    }

    /// Takes the next message of the documents. A new keyring goes to every node that has an inbox.
    pub fn document(&mut self, payload: Option<&[u8]>, origin: Origin) -> Result<Stored, Refusal> {
        let stored = self.documents.apply(payload.unwrap_or_default(), origin)?;
        if matches!(stored, Stored::Keyring(_)) {
            self.to_send.extend(self.rollouts.assigned().cloned());
        }
        Ok(stored)
    }

    /// Takes the next message of the keys. Whom somebody else spoke for until now is forgotten until it speaks itself.
    pub fn key(&mut self, payload: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let wrong = self.keys.apply(serde_json::from_slice(payload.unwrap_or_default())?);
        wrong.iter().for_each(|node| self.fleet.forget(node));
        Ok(())
    }

    /// Takes a node's report, which was sent under `key`. To be called when the log and the keys have been read: what it says
    /// is compared with those.
    pub fn report(&mut self, key: Option<&str>, payload: Option<&[u8]>, heard_ms: u64) -> Result<(), Dropped> {
        let payload = payload.filter(|bytes| bytes.len() <= REPORT_BYTES_MAX).ok_or(Dropped::Unreadable)?;
        let claim = Claim::of(payload);
        let report = claim.as_ref().map_or(payload, |claim| claim.report);
        let report: NodeReport = serde_json::from_slice(report).map_err(|_| Dropped::Unreadable)?;
        if !is_node(&report.node) || key.is_some_and(|key| key != report.node) {
            return Err(Dropped::Unreadable);
        }
        let (claim, node) = (claim.ok_or(Dropped::Unsigned)?, NodeId::from(&*report.node));
        // Nobody's signature is worth the time if the key is another one.
        if self.keys.of(&node).is_none_or(|known| *known == claim.key) && !claim.is_proven() {
            return Err(Dropped::Forged);
        }
        self.keys.expect(&node, &claim.key, heard_ms)?;
        let assigned = self.rollouts.assignment(&node).map(|assigned| assigned.number);
        self.fleet.apply(report, heard_ms, Log { assigned, index: self.rollouts.index() })
    }

    /// The versions of the documents that nodes run or are to run, for answers.
    pub fn version_of(&self, target: Option<crate::cloud::rollout::Digest>) -> Option<u64> {
        self.documents.get(artefact(target?)).map(|known| known.version)
    }

    /// Forgets nodes that were never assigned anything and have not been heard for long.
    pub fn forget_silent(&mut self, now_ms: u64) -> usize {
        let rollouts = &self.rollouts;
        let is_needed = |node: &NodeId| rollouts.assignment(node).is_some() || rollouts.rollout_of(node).is_some();
        let gone = self.fleet.forget_silent(now_ms, is_needed);
        gone.iter().for_each(|node| self.keys.forget(node));
        gone.len()
    }

    /// Forgets documents that nobody is to run, if there are many. To be called when the log has been read.
    pub fn trim_documents(&mut self) {
        if self.documents.are_many() {
            let in_use = self.in_use();
            self.documents.forget_oldest(|sha256| in_use.contains(&target(sha256)));
        }
    }

    /// The documents that nodes are to run or may be put back to, and those of roll-outs.
    pub fn in_use(&self) -> BTreeSet<crate::cloud::rollout::Digest> {
        let assigned = self.rollouts.assigned().filter_map(|node| self.rollouts.assignment(node)?.target);
        let before = self.rollouts.assigned().filter_map(|node| self.history.previous(node).flatten());
        let rolled = self.rollouts.ids().filter_map(|id| self.rollouts.created(id)?.target);
        assigned.chain(before).chain(rolled).collect()
    }
}

/// What gateways can be called, as their own configuration says.
pub fn is_node(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty() && name.len() <= NODE_BYTES_MAX && name.chars().all(plain)
}

/// The same digest, as documents are named.
pub fn artefact(digest: crate::cloud::rollout::Digest) -> crate::downlink::artefact::Digest {
    crate::downlink::artefact::Digest::from_bytes(digest.0)
}

/// The same digest, as roll-outs name it.
pub fn target(digest: crate::downlink::artefact::Digest) -> crate::cloud::rollout::Digest {
    crate::cloud::rollout::Digest(digest.bytes())
}

/// It has the shape of an event and says something that this version does not know.
fn is_of_a_later_version(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Shape {
        #[allow(dead_code)] // read to see that it is there
        at_ms: u64,
        #[allow(dead_code)]
        by: serde_json::Value,
        #[allow(dead_code)]
        what: serde_json::Value,
    }
    serde_json::from_slice::<Shape>(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::keys::Event as Pins;
    use super::*;
    use crate::downlink::artefact::SecretKey;
    use crate::downlink::report::{Running, What as Said};

    fn state() -> State {
        State::new(Trust::default())
    }

    #[test]
    fn what_is_no_event_has_its_place_and_an_event_of_a_later_version_blinds() {
        let mut state = state();
        for (i, garbage) in [None, Some(&b"x"[..]), Some(b"{}")].into_iter().enumerate() {
            let applied = state.log(garbage);
            assert_eq!((applied.index, applied.result), (i as u64 + 1, Ok(())));
        }
        assert_eq!(state.blind, None);
        let event = r#"{"at_ms":1,"by":{"controller":{"epoch":1,"name":"a"}},"what":"claimed"}"#;
        assert_eq!(state.log(Some(event.as_bytes())).index, 4);
        assert_eq!(state.rollouts.lead(), (1, "a"));
        state.log(Some(br#"{"at_ms":1,"by":{"operator":{"name":"a"}},"what":{"dissolved":{}}}"#));
        assert_eq!((state.blind, state.rollouts.index()), (Some(5), 5));
    }

    fn report(node: &str, key: Option<u8>) -> Vec<u8> {
        let report = NodeReport {
            node: node.to_owned(),
            incarnation: "0".into(),
            at_ms: None,
            software: "1".into(),
            groups: Vec::new(),
            committed: Running { epoch: 0, number: 0, sha256: None },
            trial: None,
            accepted: None,
            what: Said::Leaving,
        };
        report.message(key.map(|n| SecretKey::from_seed(&[n; 32]).unwrap()).as_ref())
    }

    #[test]
    fn a_report_counts_under_its_own_name_only() {
        let mut state = state();
        let mut take = |key: Option<&str>, node: &str| state.report(key, Some(&report(node, Some(1))), 1).is_ok();
        assert!(take(Some("press-7"), "press-7") && take(None, "press-8"));
        assert!(!take(Some("press-7"), "press-9") && !take(None, "press 7") && !take(None, "../x") && !take(None, ""));
        for payload in [Some(&b"[]"[..]), None] {
            assert_eq!(state.report(None, payload, 1), Err(Dropped::Unreadable));
        }
        assert_eq!(state.fleet.len(), 2);
    }

    #[test]
    fn a_report_counts_when_the_gateway_s_own_key_has_signed_it() {
        let mut state = state();
        let mut take = |message: &[u8]| state.report(None, Some(message), 1);
        assert_eq!(take(&report("press-7", None)), Err(Dropped::Unsigned));
        assert_eq!(take(&report("press-7", Some(1))), Ok(()));
        assert!(matches!(take(&report("press-7", Some(2))), Err(Dropped::Stranger { .. })));
        // The proof of another report.
        let own = String::from_utf8(report("press-7", Some(1))).unwrap();
        let forged = own.replace("\"0\"", "\"1\"");
        assert_eq!(take(forged.as_bytes()), Err(Dropped::Forged));
        assert_eq!(state.fleet.get(&NodeId::from("press-7")).unwrap().incarnation, "0");
        // Somebody else's pin came first: what was believed is forgotten.
        let other = SecretKey::from_seed(&[2; 32]).unwrap().public().clone();
        let pin = Pins::Pinned { at_ms: 1, nodes: vec![(NodeId::from("press-7"), other)] };
        state.key(Some(&serde_json::to_vec(&pin).unwrap())).unwrap();
        assert!(state.fleet.is_empty());
        assert_eq!(state.report(None, Some(&report("press-7", Some(2))), 1), Ok(()));
    }
}
