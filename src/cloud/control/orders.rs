//! Orders of operators: checked, written, read back. Each may be given again: what is so already stays so.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use super::numbers::Ahead;
use super::state::{is_node, target};
use super::{AppendError, Control, DOCUMENTS, LOG, REPORTS, StoreError, TopicState};
use crate::cloud::policy::{POLICY_BYTES_MAX, Policy};
use crate::cloud::rollout::{Audience, Author, BATCH_MAX, NodeId, Plan, RolloutId, Stage, Void, What};
use crate::config::overlay::{Overlaid, Pushed, check_alone};
use crate::downlink::artefact::counter::judge_document;
use crate::downlink::artefact::{Digest, Envelope, ModelAssigned, Refusal};
use crate::event::Timestamp;

/// Most nodes that one order names: as many as a roll-out has.
pub const NAMED_MAX: usize = crate::cloud::rollout::MEMBERS_MAX;

/// Gateways that are named in the words about those that are in other roll-outs.
const BUSY_SHOWN: usize = 5;

/// How long something that is not known yet is waited for: another process has stored it, and this one reads it within
/// milliseconds unless it has just lost its connection.
const COMES_EVERY: Duration = Duration::from_millis(100);
const COMES_TRIES: u32 = 30;

/// Why an order is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It can never be, as it is.
    #[error("{0}")]
    Refused(String),
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// It does not fit what is.
    #[error("{0}")]
    Conflict(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
    /// It is stored, and what it came to is not known yet.
    #[error("{0}")]
    Later(String),
}

impl From<AppendError> for OrderError {
    fn from(e: AppendError) -> Self {
        match e {
            AppendError::Write(_) => Self::Unavailable(e.to_string()),
            AppendError::NotReadBack => Self::Later(e.to_string()),
        }
    }
}

/// What was stored.
#[derive(Debug)]
pub struct Uploaded {
    /// Names it.
    pub sha256: Digest,
    /// As its `[document]` says.
    pub version: u64,
    /// It was stored before.
    pub was_there: bool,
    /// What should be known.
    pub warnings: Vec<String>,
}

/// `POST /v1/rollouts`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The roll-out's name; the same again is the same order.
    pub id: String,
    /// SHA-256 of the document; null: the gateways' own files alone.
    pub document: Option<Digest>,
    /// The model that it brings instead; ordered under `/v1/models`, where its versions are known.
    #[serde(skip)]
    pub model: Option<ModelAssigned>,
    /// Nodes by name.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// The nodes of these groups, also those that turn up later.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Every node, also those that turn up later.
    #[serde(default)]
    pub all: bool,
    /// Waves and thresholds.
    #[serde(default)]
    pub plan: Plan,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Begin at once.
    #[serde(default)]
    pub start: bool,
    /// It brings back what the nodes ran before: it has a place whatever else runs.
    #[serde(default)]
    pub rollback: bool,
    /// Named nodes that are in another roll-out are passed over; without it they are a reason to refuse the order.
    #[serde(default)]
    pub skip_busy: bool,
}

impl Order {
    fn id(&self) -> RolloutId {
        RolloutId::from(self.id.as_str())
    }

    fn audience(&self) -> Audience {
        Audience { all: self.all, groups: self.groups.clone() }
    }

    fn created(&self) -> What {
        What::Created {
            rollout: self.id(),
            target: self.document.map(target),
            model: self.model.clone(),
            plan: self.plan.clone(),
            reason: self.reason.clone(),
            audience: self.audience(),
            rollback: self.rollback,
        }
    }
}

/// Whom an order is for, as far as they are known.
struct Meant {
    /// Those that are free, and those that it has already.
    nodes: Vec<NodeId>,
    /// What should be known about it.
    warnings: Vec<String>,
}

/// `POST /v1/rollouts/{id}/{action}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// The wave to approve or to pass, from 0; without it the next one, or the one that has begun.
    #[serde(default)]
    pub wave: Option<usize>,
    /// With retire: for the nodes of these groups; without any, for everybody.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// `POST /v1/log/raise`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raise {
    /// Numbers go on above this; without it, above the highest that a gateway says it has taken.
    #[serde(default)]
    pub to: Option<u64>,
}

/// What can be done with a roll-out.
pub const ACTIONS: [&str; 7] = ["start", "pause", "resume", "abort", "approve", "pass", "retire"];

impl Order {
    fn check(&self) -> Result<(), OrderError> {
        let refused = |text: String| Err(OrderError::Refused(text));
        self.created().check().map_err(|e| OrderError::Refused(e.to_string()))?;
        if self.id.chars().any(|c| !(c.is_ascii_alphanumeric() || "-_.".contains(c))) {
            return refused(format!("{:?} is no id for a roll-out: letters, digits and -_. only", self.id));
        }
        if self.nodes.len() > NAMED_MAX {
            return refused(format!("{} nodes are named; a roll-out has at most {NAMED_MAX}", self.nodes.len()));
        }
        if let Some(name) = self.nodes.iter().find(|name| !is_node(name)) {
            let shown: String = name.chars().take(64).collect();
            return refused(format!("{shown:?} is no name of a gateway: 1 to 64 letters, digits, - and _"));
        }
        if self.nodes.is_empty() && self.groups.is_empty() && !self.all {
            return refused("it is for nobody: name nodes, groups, or all".to_owned());
        }
        Ok(())
    }
}

impl Control {
    /// Stores a signed document that every gateway with the same keys would take.
    pub async fn upload(&self, bytes: &[u8], by: &str) -> Result<Uploaded, OrderError> {
        self.expect_read(DOCUMENTS, "the stored documents")?;
        let envelope = Envelope::decode(bytes).map_err(|e| {
            OrderError::Refused(format!("this is no signed document: {e}; \"tidegate config sign\" makes one"))
        })?;
        let now = Timestamp::from_unix_ms(self.0.clock.unix_ms());
        let trust = self.with(|state| state.documents.trust().clone());
        let document = judge_document(envelope.clone(), &trust, Some(now)).map_err(refused)?;
        let warnings = self.check(document.text.clone()).await?;
        let (was_there, same_version) = self.with(|state| {
            let same = |known: &&super::documents::Known| known.version == document.version;
            let other = state.documents.newest_first().find(|k| same(k) && k.sha256 != document.sha256);
            (state.documents.get(document.sha256).is_some(), other.map(|known| known.sha256))
        });
        let mut uploaded = Uploaded { sha256: document.sha256, version: document.version, was_there, warnings };
        uploaded.warnings.extend(same_version.map(|other| {
            format!(
                "version {} is also that of another document, {other}: name this one by its SHA-256",
                document.version
            )
        }));
        if !was_there {
            self.keep(document.sha256.to_string(), by, &envelope).await?;
        }
        Ok(uploaded)
    }

    /// Stores a signed keyring; gives its version.
    pub async fn upload_keyring(&self, bytes: &[u8], by: &str) -> Result<(u64, bool), OrderError> {
        self.expect_read(DOCUMENTS, "the stored documents")?;
        let envelope = Envelope::decode(bytes).map_err(|e| {
            OrderError::Refused(format!("this is no signed keyring: {e}; \"tidegate config keyring\" makes one"))
        })?;
        let trust = self.with(|state| state.documents.trust().clone());
        let version = trust.with_keyring(envelope.clone()).map_err(refused)?.keyring_version();
        let was_there = version == trust.keyring_version();
        if !was_there {
            self.keep("keyring".to_owned(), by, &envelope).await?;
        }
        Ok((version, was_there))
    }

    async fn keep(&self, key: String, by: &str, envelope: &Envelope) -> Result<(), OrderError> {
        self.store(key, by, envelope.encode().into_bytes()).await.map_err(|e| match e {
            StoreError::Append(e) => e.into(),
            StoreError::Refused(why) => OrderError::Conflict(why),
        })
    }

    /// The gateway's own rules, and the policy. What should be known is given back.
    async fn check(&self, text: String) -> Result<Vec<String>, OrderError> {
        let policy = self.0.config.policy.clone();
        // A policy may compute for long; it must not hold up others.
        let checked = tokio::task::spawn_blocking(move || {
            let read: Overlaid = check_alone(Pushed { name: "document", text: &text }).map_err(|e| e.to_string())?;
            let Some(path) = policy else { return Ok(read) };
            let policy = read_policy(&path).map_err(|why| format!("control.policy {why}; nothing passes"))?;
            let reasons = policy.reasons(&read).map_err(|e| e.to_string())?;
            let denied = reasons.iter().map(|reason| format!("denied by the policy: {reason}")).collect::<Vec<_>>();
            if denied.is_empty() { Ok(read) } else { Err(denied.join("\n")) }
        });
        let read = checked.await.map_err(|e| OrderError::Unavailable(e.to_string()))?.map_err(OrderError::Refused)?;
        Ok(read.warnings.iter().map(ToString::to_string).collect())
    }

    /// Drafts a roll-out, enrols its nodes, and starts it if that is asked for. `true`: it is new.
    pub async fn create(&self, order: &Order, by: &str) -> Result<(bool, Vec<String>), OrderError> {
        self.expect_read(LOG, "the log of roll-outs")?;
        order.check()?;
        let id = order.id();
        let is_over = |state: &super::state::State| state.rollouts.progress(&id).is_some_and(|p| !p.stage.is_active());
        let Meant { nodes, warnings } = match self.with(is_over) {
            true => Meant { nodes: Vec::new(), warnings: Vec::new() },
            false => self.nodes_of(order)?,
        };
        if let Some(sha256) = order.document {
            if !self.comes(|state| state.documents.get(sha256).is_some()).await {
                let text = format!("there is no document {sha256}; store it first (POST /v1/documents)");
                return Err(OrderError::Unknown(text));
            }
            let envelope = self.envelope(sha256).await.map_err(OrderError::Unavailable)?;
            // Keys and policy may have changed since it was stored.
            let trust = self.with(|state| state.documents.trust().clone());
            let now = Timestamp::from_unix_ms(self.0.clock.unix_ms());
            let document = judge_document((*envelope).clone(), &trust, Some(now)).map_err(refused)?;
            self.check(document.text).await?;
        }
        let is_new = self.draft(&id, order, by).await?;
        if !self.with(|state| state.rollouts.progress(&id)).is_some_and(|p| p.stage.is_active()) {
            return Ok((is_new, warnings));
        }
        let begun = self.begin(order, &nodes, by).await;
        if order.start
            && let Err(OrderError::Conflict(why) | OrderError::Refused(why)) = &begun
        {
            // Something came between: what was not started must not lie about, and hold its gateways.
            let reason = super::fleet::cut(format!("not started: {why}"));
            let _ = self.order(by, What::Aborted { rollout: id, reason }).await;
        }
        begun.map(|()| (is_new, warnings))
    }

    /// Enrols the nodes of a draft, or of a roll-out that runs already, and starts it if that is asked for.
    async fn begin(&self, order: &Order, nodes: &[NodeId], by: &str) -> Result<(), OrderError> {
        let id = order.id();
        let is_in = |node: &NodeId| self.with(|state| state.rollouts.rollout_of(node) == Some(&id));
        let nodes: Vec<NodeId> = nodes.iter().filter(|node| !is_in(node)).cloned().collect();
        for nodes in nodes.chunks(BATCH_MAX) {
            let enrolled = self.order(by, What::Enrolled { rollout: id.clone(), nodes: nodes.to_vec() }).await?;
            enrolled.map_err(void_error)?;
        }
        if order.start { self.act(&order.id, "start", &Act::default(), by).await } else { Ok(()) }
    }

    /// Drafts a roll-out, unless the same was done before; perhaps not to its end.
    async fn draft(&self, id: &RolloutId, order: &Order, by: &str) -> Result<bool, OrderError> {
        let is_same = self.with(|state| {
            let known = state.rollouts.created(id)?;
            let brings = known.target == order.document.map(target) && known.model == order.model.as_ref();
            let is_same = brings && known.rollback == order.rollback;
            Some(is_same && *known.plan == order.plan && *known.audience == order.audience())
        });
        match is_same {
            Some(true) => return Ok(false),
            Some(false) => return Err(void_error(Void::Exists(id.clone()))),
            None => {}
        }
        match self.order(by, order.created()).await? {
            Ok(()) => Ok(true),
            Err(Void::Stage(_)) => Ok(false),
            Err(void) => Err(void_error(void)),
        }
    }

    /// The nodes that an order is for. One that is to start is refused here, before anything of it is in the log, when it has
    /// nobody to go to or no place.
    fn nodes_of(&self, order: &Order) -> Result<Meant, OrderError> {
        let (id, audience) = (order.id(), order.audience());
        self.with(|state| {
            let named: BTreeSet<NodeId> = order.nodes.iter().map(|name| NodeId::from(name.as_str())).collect();
            let unheard = named.iter().filter(|node| state.fleet.get(node).is_none()).count();
            let members = state.fleet.after(None).filter(|(_, seen)| audience.includes(&seen.groups));
            let all: BTreeSet<NodeId> = members.map(|(node, _)| node.clone()).chain(named.iter().cloned()).collect();
            let other = |node: &NodeId| state.rollouts.rollout_of(node).filter(|other| **other != id);
            let (busy, nodes): (Vec<NodeId>, Vec<NodeId>) = all.into_iter().partition(|node| other(node).is_some());
            let mut warnings = Vec::new();
            if unheard > 0 {
                warnings.push(format!("{unheard} of the named gateways were never heard: a wrong name, or not installed yet"));
            }
            let in_words = |nodes: &[&NodeId]| {
                let one = |node: &&NodeId| Some(format!("{node} in {}", other(node)?));
                let shown: Vec<String> = nodes.iter().take(BUSY_SHOWN).filter_map(one).collect();
                let more = nodes.len().saturating_sub(shown.len());
                shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
            };
            let busy_named: Vec<&NodeId> = busy.iter().filter(|node| named.contains(*node)).collect();
            if !busy_named.is_empty() && !order.skip_busy {
                return Err(OrderError::Conflict(format!(
                    "in roll-outs that are not over: {}; abort those first (\"tidegate rollout abort\"), wait, or pass over \
                     these gateways with --skip-busy",
                    in_words(&busy_named)
                )));
            }
            if !busy.is_empty() {
                warnings.push(format!(
                    "passed over, because they are in roll-outs that are not over: {}; give it to them afterwards",
                    in_words(&busy.iter().collect::<Vec<_>>())
                ));
            }
            if order.start && nodes.is_empty() {
                let none = "it has no gateway to go to: none of those meant was heard yet (\"tidegate nodes\" lists them)";
                let why = if busy.is_empty() { none.to_owned() } else { warnings.join("\n") };
                return Err(OrderError::Conflict(why));
            }
            if order.start && state.rollouts.progress(&id).is_none_or(|p| p.stage == Stage::Draft) {
                state.rollouts.expect_room(order.rollback).map_err(void_error)?;
            }
            Ok(Meant { nodes, warnings })
        })
    }

    /// Does something with a roll-out.
    pub async fn act(&self, id: &str, action: &str, act: &Act, by: &str) -> Result<(), OrderError> {
        self.expect_read(LOG, "the log of roll-outs")?;
        let rollout = RolloutId::from(id);
        self.comes(|state| state.rollouts.progress(&rollout).is_some()).await;
        let before = self.with(|state| state.rollouts.progress(&rollout));
        let Some(before) = before else { return Err(void_error(Void::Unknown(rollout))) };
        let reason = act.reason.clone();
        let (what, is_so) = match action {
            "start" => (What::Started { rollout: rollout.clone() }, before.stage != Stage::Draft),
            "pause" => (What::Paused { rollout: rollout.clone(), reason }, before.paused.is_some()),
            "resume" => (What::Resumed { rollout: rollout.clone() }, before.paused.is_none()),
            "abort" => {
                (What::Aborted { rollout: rollout.clone(), reason }, matches!(before.stage, Stage::Aborted { .. }))
            }
            "approve" => {
                let wave = act.wave.unwrap_or(before.wave + 1);
                (What::Approved { rollout: rollout.clone(), wave }, wave <= before.wave && before.exposed > 0)
            }
            "pass" => {
                let wave = act.wave.unwrap_or(before.wave);
                (What::Passed { rollout: rollout.clone(), wave }, wave < before.wave)
            }
            "retire" => {
                let audience = Audience { all: false, groups: act.groups.clone() };
                (What::Retired { rollout: rollout.clone(), audience }, matches!(before.stage, Stage::Aborted { .. }))
            }
            other => {
                let text = format!("there is no {other:?}; there are {}", ACTIONS.join(", "));
                return Err(OrderError::Unknown(text));
            }
        };
        let is_over = !before.stage.is_active() && action != "retire";
        if is_so && (!is_over || matches!(action, "start" | "abort")) {
            return Ok(());
        }
        if is_over {
            let stage = if before.stage == Stage::Completed { "completed" } else { "aborted" };
            let text = format!("roll-out {id} is {stage}: nothing more can be done with it; make a new one");
            return Err(OrderError::Conflict(text));
        }
        what.check().map_err(|e| OrderError::Refused(e.to_string()))?;
        match self.order(by, what).await? {
            // Somebody else did the same a moment before.
            Ok(()) | Err(Void::Stage(_)) => Ok(()),
            Err(void) => Err(void_error(void)),
        }
    }

    /// Nodes are gone for good: their names are forgotten.
    pub async fn depart(&self, node: &str, by: &str) -> Result<(), OrderError> {
        self.expect_read(LOG, "the log of roll-outs")?;
        if !is_node(node) {
            return Err(OrderError::Refused(format!("{node:?} is no name of a gateway")));
        }
        let nodes = vec![NodeId::from(node)];
        // Who comes under its name later has another key.
        self.release(node, by).await?;
        self.order(by, What::Departed { nodes }).await?.map_err(void_error)
    }

    /// Numbers go on above `to`, or without it above what gateways say that they took; gives where they stand then.
    pub async fn raise(&self, to: Option<u64>, by: &str) -> Result<u64, OrderError> {
        self.expect_read(LOG, "the log of roll-outs")?;
        let to = match to {
            Some(to) => to,
            None => {
                self.expect_read(REPORTS, "what gateways report")?;
                let groups = self.with(|state| state.all_ahead(self.now_ms()));
                let above = groups.iter().find(|group| group.how == Ahead::Log).map(|group| group.highest.n);
                above.ok_or_else(|| {
                    let others = groups.iter().map(|group| self.with(|state| state.explain(group)));
                    let nobody =
                        "no gateway says that it has taken a number that raising would leave behind".to_owned();
                    OrderError::Conflict(std::iter::once(nobody).chain(others).collect::<Vec<_>>().join("\n"))
                })?
            }
        };
        let what = What::Raised { index: to };
        what.check().map_err(|e| OrderError::Refused(e.to_string()))?;
        self.order(by, what).await?.map_err(void_error)?;
        Ok(self.with(|state| state.rollouts.index()))
    }

    pub(super) async fn order(&self, by: &str, what: What) -> Result<Result<(), Void>, OrderError> {
        Ok(self.append(Author::Operator { name: by.to_owned() }, what).await?.result)
    }

    /// Waits a little until it is so: another process may have stored it a moment ago, for the same operator.
    async fn comes(&self, is_so: impl Fn(&super::state::State) -> bool) -> bool {
        for _ in 0..COMES_TRIES {
            if self.with(&is_so) {
                return true;
            }
            tokio::time::sleep(COMES_EVERY).await;
        }
        self.with(is_so)
    }

    pub(super) fn expect_read(&self, which: usize, what: &str) -> Result<(), OrderError> {
        match self.topic_state(which) {
            TopicState::Read => Ok(()),
            TopicState::Reading => Err(OrderError::Unavailable(format!("{what} is still being read; try again"))),
            TopicState::Problem(why) => Err(OrderError::Unavailable(format!("{what} cannot be read: {why}"))),
        }
    }

    /// The document of this version.
    pub fn of_version(&self, version: u64) -> Result<Digest, OrderError> {
        self.with(|state| {
            let mut found = state.documents.newest_first().filter(|known| known.version == version);
            match (found.next(), found.next()) {
                (Some(known), None) => Ok(known.sha256),
                (Some(_), Some(_)) => Err(OrderError::Conflict(format!(
                    "several documents have version {version}: name one by its SHA-256"
                ))),
                (None, _) => Err(OrderError::Unknown(format!("there is no document of version {version}"))),
            }
        })
    }

    /// The kind of what is stored under `sha256`, and its bytes.
    pub async fn document(&self, sha256: Digest) -> Result<String, OrderError> {
        if self.with(|state| state.documents.get(sha256).is_none()) {
            return Err(OrderError::Unknown(format!("there is no document {sha256}")));
        }
        Ok(self.envelope(sha256).await.map_err(OrderError::Unavailable)?.encode())
    }
}

/// In the words of this side: its keys are in `[control]`, as the gateways' are in `[downlink]`.
fn refused(refusal: Refusal) -> OrderError {
    let words =
        refusal.to_string().replace("downlink.", "control.").replace("none of this gateway's", "none of this cloud's");
    OrderError::Refused(format!("{}: {words}", refusal.code()))
}

pub(super) fn void_error(void: Void) -> OrderError {
    match void {
        Void::Unknown(_) => OrderError::Unknown(void.to_string()),
        Void::Malformed(_) | Void::Author => OrderError::Refused(void.to_string()),
        _ => OrderError::Conflict(void.to_string()),
    }
}

/// Reads the policy; the error names the file.
pub(super) fn read_policy(path: &std::path::Path) -> Result<Policy, String> {
    use std::io::Read as _;
    let (mut text, name) = (String::new(), path.display().to_string());
    let limit = u64::try_from(POLICY_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_string(&mut text))
        .map_err(|e| format!("{name}: cannot be read: {e}"))?;
    Policy::read(&name, &text).map_err(|e| e.to_string())
}
