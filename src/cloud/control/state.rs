//! What a process knows: folds over the log of roll-outs, the documents and the reports. [pure]

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::documents::{Documents, Origin, Stored};
use super::fleet::Fleet;
use super::history::History;
use crate::cloud::rollout::{Author, Event, NodeId, Rollouts, Void, What};
use crate::downlink::artefact::assignment::NODE_BYTES_MAX;
use crate::downlink::artefact::{Refusal, Trust};
use crate::downlink::report::{NodeReport, REPORT_BYTES_MAX};

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

    /// Takes a node's report, which was sent under `key`. `false`: it is none, or of somebody else.
    pub fn report(&mut self, key: Option<&str>, payload: Option<&[u8]>, heard_ms: u64) -> bool {
        let Some(payload) = payload.filter(|bytes| bytes.len() <= REPORT_BYTES_MAX) else { return false };
        let Ok(report) = serde_json::from_slice::<NodeReport>(payload) else { return false };
        is_node(&report.node) && key.is_none_or(|key| key == report.node) && self.fleet.apply(report, heard_ms)
    }

    /// The versions of the documents that nodes run or are to run, for answers.
    pub fn version_of(&self, target: Option<crate::cloud::rollout::Digest>) -> Option<u64> {
        self.documents.get(artefact(target?)).map(|known| known.version)
    }

    /// How many of each document's nodes there are: what may not be forgotten lightly.
    pub fn in_use(&self) -> BTreeMap<crate::cloud::rollout::Digest, usize> {
        let mut uses = BTreeMap::new();
        for node in self.rollouts.assigned() {
            if let Some(target) = self.rollouts.assignment(node).and_then(|assignment| assignment.target) {
                *uses.entry(target).or_default() += 1;
            }
        }
        uses
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
    use super::*;

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

    #[test]
    fn a_report_counts_under_its_own_name_only() {
        let mut state = state();
        let report = |node: &str| {
            format!(
                r#"{{"node":"{node}","incarnation":"0","software":"1","committed":{{"number":0}},"what":"leaving","later":1}}"#
            )
        };
        let mut take = |key: Option<&str>, node: &str| state.report(key, Some(report(node).as_bytes()), 1);
        assert!(take(Some("press-7"), "press-7") && take(None, "press-8"));
        assert!(!take(Some("press-7"), "press-9") && !take(None, "press 7") && !take(None, "../x") && !take(None, ""));
        assert!(!state.report(None, Some(b"[]"), 1) && !state.report(None, None, 1));
        assert_eq!(state.fleet.len(), 2);
    }
}
