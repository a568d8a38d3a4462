//! Writes inboxes: for every node whose assignment is new, the full desired state, signed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::documents::Found;
use super::later::Later;
use super::state::artefact;
use super::wire::{self, Inboxes, NotSent, Outgoing};
use super::{Control, Shared};
use crate::cloud::rollout::{self, NodeId};
use crate::downlink::artefact::message::MESSAGE_BYTES_MAX;
use crate::downlink::artefact::{Assignment, Digest, DocumentRef, Envelope, Message, SecretKey};
use crate::event::Timestamp;
use crate::pulsar::names;

/// How often it looks whether there is something to send.
const TICK: Duration = Duration::from_millis(50);

/// Inboxes that are written at a time: the broker's round trips overlap, and it creates so many topics in a few seconds.
const WINDOW: usize = 256;

/// Of these, inboxes that have failed before: they may take half a minute each to fail again.
const RETRIES_MAX: usize = 128;

/// Memory of the messages under way, in KiB.
const ROOM_KIB: usize = 32 << 10;

/// A document that could not be fetched is not asked for again for so long: all who need it learn at once.
const NOT_FETCHED_FOR: Duration = Duration::from_secs(3);

/// The same reason is told again after this time.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Sends while this process has the lead, until `stop`.
pub async fn run(control: Control, inboxes: Inboxes, stop: CancellationToken) {
    let mut sender = Sender {
        work: Work { control, inboxes, room: Arc::new(Semaphore::new(ROOM_KIB)), fetching: Arc::default() },
        flying: BTreeSet::new(),
        later: Later::default(),
        told: None,
    };
    let mut flights = FuturesUnordered::new();
    while !stop.is_cancelled() {
        while let Some(node) = sender.next() {
            flights.push(sender.work.clone().send(node));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Some((node, sent)) = flights.next(), if !flights.is_empty() => sender.landed(node, sent),
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

struct Sender {
    work: Work,
    /// One message at a time for each: the last one written counts.
    flying: BTreeSet<NodeId>,
    later: Later,
    told: Option<(String, Instant)>,
}

impl Sender {
    /// The next node whose inbox is to be written now. Whoever failed before comes after those who did not.
    fn next(&mut self) -> Option<NodeId> {
        let mut shared = self.work.control.lock();
        if !shared.leads {
            self.later.clear();
        }
        if !shared.may_send() || self.flying.len() >= WINDOW {
            return None;
        }
        let waiting = &mut shared.state.to_send;
        let fresh = loop {
            let Some(node) = waiting.iter().find(|node| !self.flying.contains(*node)).cloned() else { break None };
            waiting.remove(&node);
            if !self.later.holds(&node) {
                break Some(node);
            }
        };
        let again = || (self.later.tried() < RETRIES_MAX).then(|| self.later.due(Instant::now())).flatten();
        let node = fresh.or_else(again)?;
        self.flying.insert(node.clone());
        Some(node)
    }

    fn landed(&mut self, node: NodeId, sent: Result<(), NotSent>) {
        self.flying.remove(&node);
        let meters = self.work.control.0.meters.clone();
        match sent {
            Ok(()) => {
                meters.sent.inc();
                self.later.done(&node);
            }
            Err(NotSent::Stale) => {
                self.later.done(&node);
                let mut shared = self.work.control.lock();
                if shared.leads {
                    shared.state.to_send.insert(node);
                }
            }
            Err(why) => {
                meters.failed.inc();
                self.tell(&node, &why);
                self.later.failed(node, matches!(why, NotSent::Topic(_)), Instant::now());
            }
        }
        meters.waiting.set(i64::try_from(self.later.len()).unwrap_or(i64::MAX));
    }

    /// One line for each new reason, and one a minute for one that stays.
    fn tell(&mut self, node: &NodeId, why: &NotSent) {
        let why = why.to_string();
        if self.told.as_ref().is_none_or(|(before, at)| *before != why || at.elapsed() > LINE_EVERY) {
            let (node, others) = (node.as_str(), self.later.len());
            tracing::warn!(node, others, reason = why, "cannot write an inbox; trying again, the others go on");
            self.told = Some((why, Instant::now()));
        }
    }
}

/// What writing one inbox needs.
#[derive(Clone)]
struct Work {
    control: Control,
    inboxes: Inboxes,
    room: Arc<Semaphore>,
    /// Held while a document is fetched; the last one that was not there.
    fetching: Arc<tokio::sync::Mutex<Option<(Digest, Instant, String)>>>,
}

impl Work {
    async fn send(self, node: NodeId) -> (NodeId, Result<(), NotSent>) {
        let sent = self.write(&node).await;
        (node, sent)
    }

    async fn write(&self, node: &NodeId) -> Result<(), NotSent> {
        let kib = |bytes: usize| u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let stopping = || NotSent::Link("the process stops".to_owned());
        // As large as it can be, until its size is known.
        let mut room = self.room.clone().acquire_many_owned(kib(MESSAGE_BYTES_MAX)).await.map_err(|_| stopping())?;
        let Some((number, message)) = self.message(node).await.map_err(NotSent::Topic)? else { return Ok(()) };
        drop(room.split(kib(MESSAGE_BYTES_MAX - message.payload.len()).saturating_sub(1) as usize));
        let topic = names::inbox_topic(&self.control.0.tenant, node.as_str());
        let is_due = || {
            let shared = self.control.lock();
            let now = shared.state.rollouts.assignment(node).map(|assigned| assigned.number);
            shared.may_send() && now == Some(number)
        };
        self.inboxes.send(&topic, &message, is_due).await
    }

    async fn message(&self, node: &NodeId) -> Result<Option<(u64, Outgoing)>, String> {
        let target = self.control.with(|state| state.rollouts.assignment(node).and_then(|assigned| assigned.target));
        let document = match target.map(artefact) {
            Some(sha256) => Some((sha256, self.document(sha256).await?)),
            None => None,
        };
        self.control.message(node, document)
    }

    /// The document, fetched once for all who need it.
    async fn document(&self, sha256: Digest) -> Result<Arc<Envelope>, String> {
        if let Some(Found::Here(envelope)) = self.control.with(|state| state.documents.find(sha256)) {
            return Ok(envelope);
        }
        let mut fetching = self.fetching.lock().await;
        if let Some((of, at, why)) = &*fetching
            && *of == sha256
            && at.elapsed() < NOT_FETCHED_FOR
        {
            return Err(why.clone());
        }
        let envelope = self.control.envelope(sha256).await;
        *fetching = envelope.as_ref().err().map(|why| (sha256, Instant::now(), why.clone()));
        envelope
    }
}

impl Shared {
    /// Whether this process has the lead for certain, by the broker's word and by the log's. One that was stopped for long, and
    /// has not noticed yet, has not: what it wrote would be older than what is there, and the newest.
    fn may_send(&self) -> bool {
        let lead = self.state.rollouts.lead();
        self.leads && self.reign.as_ref().is_some_and(|r| r.held.is_certain() && (r.epoch, &*r.name) == lead)
    }
}

impl Control {
    /// The node's desired state as it is now, with the document that it names, and the assignment's number; `None`:
    /// nothing is assigned to it, or something else by now.
    fn message(
        &self,
        node: &NodeId,
        document: Option<(Digest, Arc<Envelope>)>,
    ) -> Result<Option<(u64, Outgoing)>, String> {
        let Some(key) = &self.0.key else { return Ok(None) };
        let Some(assigned) = self.with(|state| state.rollouts.assignment(node)) else { return Ok(None) };
        let target = assigned.target.map(artefact);
        if target != document.as_ref().map(|(sha256, _)| *sha256) {
            // It is to be sent again because of that.
            return Ok(None);
        }
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
        let message = Message { keyring, assignment, document: document.map(|(_, d)| (*d).clone()) }.encode();
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(format!(
                "the message for {node} has {} bytes, at most {MESSAGE_BYTES_MAX} are taken",
                message.len()
            ));
        }
        let message = Outgoing { key: node.as_str().to_owned(), properties: Vec::new(), payload: message.into() };
        Ok(Some((assigned.number, message)))
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
        models: assigned.models.clone(),
        reason,
        by: String::new(),
    };
    assignment.to_envelope().signed_by(key)
}
