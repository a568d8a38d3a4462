//! Writes inboxes: for every node whose assignment is new, the full desired state, signed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::documents::Found;
use super::state::artefact;
use super::wire::{self, Inboxes, Outgoing, batch_of};
use super::{Control, Shared};
use crate::cloud::rollout::{self, NodeId};
use crate::downlink::artefact::message::MESSAGE_BYTES_MAX;
use crate::downlink::artefact::{Assignment, Digest, DocumentRef, Envelope, Message, SecretKey};
use crate::event::Timestamp;
use crate::pulsar::names;

/// How often it looks whether there is something to send.
const TICK: Duration = Duration::from_millis(50);

/// The wait before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(3);

/// Nodes of one look.
const LOOK_MAX: usize = 256;

/// Sends while this process has the lead, until `stop`.
pub async fn run(control: Control, stop: CancellationToken) {
    let mut inboxes = Inboxes::new(control.0.cluster.clone(), control.0.clock.clone());
    let mut last_told = None;
    while !stop.is_cancelled() {
        let turn = turn(&control, &mut inboxes, &mut last_told);
        match stop.run_until_cancelled(turn).await {
            Some(true) => {}
            Some(false) => drop(stop.run_until_cancelled(tokio::time::sleep(TICK)).await),
            None => return,
        }
    }
}

/// Sends the next few; `false`: there was nothing to do, or it failed and a wait is in order.
async fn turn(control: &Control, inboxes: &mut Inboxes, told: &mut Option<(String, Instant)>) -> bool {
    let nodes = control.lock().take_to_send();
    if nodes.is_empty() {
        return false;
    }
    let (mut ready, mut later) = (Vec::with_capacity(nodes.len()), Vec::new());
    let mut fetched = HashMap::new();
    for node in nodes {
        match control.message(&node, &mut fetched).await {
            Ok(Some(message)) => ready.push((node, message)),
            Ok(None) => {}
            Err(why) => later.push((node, why)),
        }
    }
    while !ready.is_empty() && control.lock().leads {
        let n = batch_of(ready.iter().map(|(_, message)| message.payload.len()));
        let batch: Vec<(NodeId, Outgoing)> = ready.drain(..n.min(ready.len())).collect();
        let topics =
            batch.iter().map(|(node, message)| (names::inbox_topic(&control.0.tenant, node.as_str()), message.clone()));
        let sent = inboxes.send(&topics.collect::<Vec<_>>()).await;
        let failed = batch.into_iter().zip(sent).filter_map(|((node, _), sent)| Some((node, sent.err()?)));
        later.extend(failed);
    }
    let Some((node, why)) = later.first() else { return true };
    // One line for each new reason, and one a minute for one that stays.
    let is_news = told.as_ref().is_none_or(|(before, at)| before != why || at.elapsed() > Duration::from_secs(60));
    if is_news {
        tracing::warn!(
            node = node.as_str(),
            others = later.len() - 1,
            reason = why,
            "cannot write inboxes; trying again"
        );
        *told = Some((why.clone(), Instant::now()));
    }
    tokio::time::sleep(PAUSE).await;
    let mut shared = control.lock();
    if shared.leads {
        shared.state.to_send.extend(later.into_iter().map(|(node, _)| node));
    }
    false
}

impl Shared {
    fn take_to_send(&mut self) -> Vec<NodeId> {
        if !self.leads {
            return Vec::new();
        }
        let waiting = &mut self.state.to_send;
        std::iter::from_fn(|| waiting.pop_first()).take(LOOK_MAX).collect()
    }
}

impl Control {
    /// The node's desired state as it is now; `None`: nothing is assigned to it.
    async fn message(
        &self,
        node: &NodeId,
        fetched: &mut HashMap<Digest, Arc<Envelope>>,
    ) -> Result<Option<Outgoing>, String> {
        let Some(key) = &self.0.key else { return Ok(None) };
        let assigned = self.with(|state| state.rollouts.assignment(node));
        let Some(assigned) = assigned else { return Ok(None) };
        let target = assigned.target.map(artefact);
        let document = match target {
            None => None,
            Some(sha256) => Some(match fetched.get(&sha256) {
                Some(envelope) => envelope.clone(),
                None => {
                    let envelope = self.envelope(sha256).await?;
                    fetched.insert(sha256, envelope.clone());
                    envelope
                }
            }),
        };
        let (version, keyring, epoch) = self.with(|state| {
            let version = target.and_then(|sha256| state.documents.get(sha256)).map(|known| known.version);
            (version, state.documents.keyring().cloned(), state.documents.trust().epoch())
        });
        let document_ref = match (target, version) {
            (Some(sha256), Some(version)) => Some(DocumentRef { sha256, version }),
            (None, _) => None,
            (Some(sha256), None) => return Err(format!("document {sha256} is not known")),
        };
        let assignment = sign(node, &assigned, (epoch, document_ref), key);
        let message = Message { keyring, assignment, document: document.map(|d| (*d).clone()) }.encode();
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(format!(
                "the message for {node} has {} bytes, at most {MESSAGE_BYTES_MAX} are taken",
                message.len()
            ));
        }
        Ok(Some(Outgoing { key: node.as_str().to_owned(), properties: Vec::new(), payload: message.into() }))
    }

    /// The envelope of a document, from memory or from its topic.
    pub(super) async fn envelope(&self, sha256: Digest) -> Result<Arc<Envelope>, String> {
        let place = match self.with(|state| state.documents.find(sha256)) {
            Some(Found::Here(envelope)) => return Ok(envelope),
            Some(Found::There(place)) => place,
            None => return Err(format!("document {sha256} is not known")),
        };
        let topic = names::documents_topic(&self.0.tenant);
        let gone = || format!("document {sha256} is not in {topic} any more, at {}:{}", place.ledger, place.entry);
        let entry = wire::fetch(&self.0.cluster, &topic, place).await.map_err(|e| e.to_string())?.ok_or_else(gone)?;
        let envelope = Envelope::decode(&entry.payload.unwrap_or_default()).map_err(|_| gone())?;
        if Digest::of(envelope.unverified_payload()) != sha256 {
            return Err(gone());
        }
        self.lock().state.documents.hold(sha256, envelope.clone());
        Ok(Arc::new(envelope))
    }
}

/// All of it is a function of the log and of the newest keyring: whoever sends it again sends the same, which the node knows.
/// A keyring with a higher epoch makes the same assignment newer than everything that the node has taken.
fn sign(
    node: &NodeId,
    assigned: &rollout::Assignment,
    (epoch, document): (u64, Option<DocumentRef>),
    key: &SecretKey,
) -> Envelope {
    let reason = assigned.rollout.as_ref().map(|id| format!("roll-out {id}")).unwrap_or_default();
    let assignment = Assignment {
        node: node.as_str().to_owned(),
        epoch,
        number: assigned.number,
        issued_at: Timestamp::from_unix_ms(i64::try_from(assigned.at_ms).unwrap_or(0)),
        expires_at: None,
        document,
        reason,
        by: String::new(),
    };
    assignment.to_envelope().signed_by(key)
}
