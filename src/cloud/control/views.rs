//! What the interface shows: nodes, documents, roll-outs, history.

use serde::Serialize;

use super::Control;
use super::documents::Known;
use super::fleet::{ModelTold, Refused, Seen};
use super::gated::measured;
use super::history::{Change, Line};
use super::numbers::{Ahead, Group};
use super::state::{State, artefact};
use crate::cloud::rollout::{Assignment, Audience, Digest as Target, NodeId, Plan, Progress, RolloutId, Verdict};
use crate::downlink::artefact::model::Name;
use crate::downlink::artefact::{Digest, ModelAssigned};
use crate::downlink::number::Number;
use crate::downlink::report::{Lane, ModelOutcome, ModelPresent, Outcome, Running};
use crate::event::Timestamp;

/// Most entries of one answer.
pub const PAGE_MAX: usize = 1_000;

/// Entries of one answer when nothing is asked for.
pub const PAGE: usize = 100;

/// Bytes of one page of nodes, as they are in memory. In JSON it is at most twice as much, and clients take 10 MB.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// A node that was never heard, and what the log knows of one that was.
const SILENT_BYTES: usize = 1024;

/// Nodes of a roll-out that are waited for and shown by name.
const WAITING_SHOWN: usize = 50;

fn time(ms: u64) -> String {
    Timestamp::from_unix_ms(i64::try_from(ms).unwrap_or(i64::MAX)).to_string()
}

/// A document that somebody runs or is to run.
#[derive(Clone, Debug, Serialize)]
pub struct Named {
    sha256: Option<Digest>,
    /// Null for the gateway's own file, and for a document that is not known here.
    version: Option<u64>,
}

impl Named {
    fn of(state: &State, target: Option<Target>) -> Self {
        Self { sha256: target.map(artefact), version: state.version_of(target) }
    }

    fn running(state: &State, running: &Running) -> Self {
        let version = running.sha256.and_then(|sha256| state.documents.get(sha256)).map(|known| known.version);
        Self { sha256: running.sha256, version }
    }
}

/// `/v1/nodes`, one of them.
#[derive(Debug, Serialize)]
pub struct NodeView {
    node: String,
    present: bool,
    /// Null: it was never heard.
    heard_at: Option<String>,
    left: bool,
    groups: Vec<String>,
    software: Option<String>,
    incarnation: Option<String>,
    uptime_s: Option<u64>,
    lanes: Vec<Lane>,
    /// What it runs.
    committed: Option<RunningView>,
    trial: Option<RunningView>,
    /// What it is to run.
    assignment: Option<AssignmentView>,
    /// The roll-out that it is in.
    rollout: Option<String>,
    /// What it ran with success before.
    previous: Option<Named>,
    decided: Option<DecidedView>,
    /// The last message that it did not take for an offer, since it has its assignment.
    refused: Option<RefusedView>,
    /// The id of the key that speaks for it.
    key: Option<String>,
    /// Somebody else speaks for it as well: its reports do not count.
    stranger: Option<StrangerView>,
    /// The last assignment that it took, if it tells.
    accepted: Option<Number>,
    /// It has taken what this cloud never gave: what is assigned to it is refused as older.
    ahead: Option<Ahead>,
    /// Its models: what is assigned, what is there, what became of it.
    #[serde(skip_serializing_if = "ModelsView::is_empty")]
    models: ModelsView,
}

#[derive(Debug, Serialize)]
struct ModelsView {
    assigned: Vec<ModelAssigned>,
    present: Vec<ModelPresent>,
    told: Vec<ModelToldView>,
}

#[derive(Debug, Serialize)]
struct ModelToldView {
    name: Name,
    version: u64,
    number: u64,
    outcome: ModelOutcome,
    reason: String,
    at: String,
}

impl ModelsView {
    fn of(assigned: Option<&Assignment>, seen: Option<&Seen>) -> Self {
        let told = |told: &ModelTold| ModelToldView {
            name: told.name.clone(),
            version: told.version,
            number: told.at.0.n,
            outcome: told.outcome,
            reason: told.reason.clone(),
            at: time(told.heard_ms),
        };
        Self {
            assigned: assigned.map(|assigned| assigned.models.clone()).unwrap_or_default(),
            present: seen.map(|seen| seen.models.clone()).unwrap_or_default(),
            told: seen.map(|seen| seen.told.iter().map(told).collect()).unwrap_or_default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.assigned.is_empty() && self.present.is_empty() && self.told.is_empty()
    }
}

#[derive(Debug, Serialize)]
struct StrangerView {
    key: String,
    reports: u64,
    at: String,
}

#[derive(Debug, Serialize)]
struct RunningView {
    number: u64,
    #[serde(flatten)]
    document: Named,
}

#[derive(Debug, Serialize)]
struct AssignmentView {
    number: u64,
    #[serde(flatten)]
    document: Named,
    at: String,
    rollout: Option<String>,
    /// The roll-out that gave its document, or took another one back.
    document_rollout: Option<String>,
    /// The node has not said what became of it.
    outstanding: bool,
}

#[derive(Debug, Serialize)]
struct DecidedView {
    number: u64,
    outcome: Outcome,
    reason: String,
    at: String,
}

#[derive(Debug, Serialize)]
struct RefusedView {
    reason: String,
    at: String,
}

impl NodeView {
    fn of(state: &State, node: &NodeId, now_ms: u64, present_ms: u64) -> Self {
        let seen = state.fleet.get(node);
        let assigned = state.rollouts.assignment(node);
        let running =
            |running: &Running| RunningView { number: running.number, document: Named::running(state, running) };
        let accepted = seen.and_then(|seen| seen.accepted).map(|(accepted, _)| accepted);
        let is_past = accepted.is_some_and(|accepted| accepted.epoch < state.documents.trust().epoch());
        let text = |of: fn(&Seen) -> &String| seen.map(|seen| of(seen).clone());
        Self {
            node: node.as_str().to_owned(),
            present: seen.is_some_and(|seen| seen.is_present(now_ms, present_ms)),
            heard_at: seen.map(|seen| time(seen.heard_ms)),
            left: seen.is_some_and(|seen| seen.left),
            groups: seen.map(|seen| seen.groups.clone()).unwrap_or_default(),
            software: text(|seen| &seen.software),
            incarnation: text(|seen| &seen.incarnation),
            uptime_s: seen.map(|seen| seen.uptime_s),
            lanes: seen.map(|seen| seen.lanes.clone()).unwrap_or_default(),
            committed: seen.map(|seen| running(&seen.committed)),
            trial: seen.and_then(|seen| seen.trial.as_ref()).map(running),
            models: ModelsView::of(assigned.as_ref(), seen),
            assignment: assigned.map(|assigned| AssignmentView {
                number: assigned.number,
                document: Named::of(state, assigned.target),
                at: time(assigned.at_ms),
                rollout: assigned.rollout.map(String::from),
                document_rollout: assigned.document_rollout.map(String::from),
                // After the epoch was raised it has to be taken once more.
                outstanding: state.rollouts.is_outstanding(node) || is_past,
            }),
            rollout: state.rollouts.rollout_of(node).cloned().map(String::from),
            previous: state.history.previous(node).map(|target| Named::of(state, target)),
            decided: seen.and_then(|seen| seen.decided.as_ref()).map(|d| DecidedView {
                number: d.number,
                outcome: d.outcome,
                reason: d.reason.clone(),
                at: time(d.heard_ms),
            }),
            refused: refusing(state, node).map(|r| RefusedView { reason: r.reason.clone(), at: time(r.heard_ms) }),
            key: state.keys.id_of(node).map(|id| id.to_string()),
            stranger: state.keys.stranger(node).map(|s| StrangerView {
                key: s.key.id().to_string(),
                reports: s.reports,
                at: time(s.heard_ms),
            }),
            accepted,
            ahead: state.ahead(node, now_ms).map(|(how, _)| how),
        }
    }
}

/// What the node refused since it has its assignment; what it refused before says nothing about that.
fn refusing<'s>(state: &'s State, node: &NodeId) -> Option<&'s Refused> {
    let since = state.rollouts.assignment(node).map_or(0, |assigned| assigned.at_ms);
    state.fleet.get(node)?.refused.as_ref().filter(|refused| refused.heard_ms >= since)
}

/// One page of a list.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    items: Vec<T>,
    /// What to ask for as `after` to have the next page; null: this is the last one.
    next: Option<String>,
    /// Of documents, the highest version of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    version_max: Option<u64>,
}

/// `/v1/documents`, one of them.
#[derive(Debug, Serialize)]
pub struct DocumentView {
    sha256: Digest,
    version: u64,
    expires: Option<String>,
    bytes: usize,
    signer: String,
    by: String,
    at: String,
    sets: Vec<String>,
}

impl DocumentView {
    fn of(known: &Known) -> Self {
        Self {
            sha256: known.sha256,
            version: known.version,
            expires: known.expires.map(|expires| expires.to_string()),
            bytes: known.bytes,
            signer: known.signer.to_string(),
            by: known.by.clone(),
            at: time(known.at_ms),
            sets: known.sets.clone(),
        }
    }
}

/// `/v1/rollouts/{id}`.
#[derive(Debug, Serialize)]
pub struct RolloutView {
    id: String,
    document: Named,
    reason: String,
    audience: Audience,
    /// Those of the audience that do not join it any more.
    retired: Audience,
    rollback: bool,
    plan: Plan,
    /// Its place in the log.
    number: u64,
    #[serde(flatten)]
    progress: Progress,
    /// The first of those that have their assignment and have not said what became of it.
    waiting: Vec<WaitingView>,
    /// How many are waited for.
    waiting_for: usize,
    /// Why those that are shown cannot take it, and the way out.
    problems: Vec<String>,
}

/// A node that has its assignment and has not said what became of it.
#[derive(Debug, Serialize)]
struct WaitingView {
    node: String,
    present: bool,
    /// What it did not take for an offer, since it has the assignment.
    refused: Option<String>,
    /// What it has said of the model.
    model: Option<ModelOutcome>,
    /// With gates: how many events the version has scored there.
    #[serde(skip_serializing_if = "Option::is_none")]
    scored: Option<u64>,
}

/// `/v1/history`, one line.
#[derive(Debug, Serialize)]
pub struct LineView {
    number: u64,
    at: String,
    by: String,
    what: &'static str,
    rollout: Option<String>,
    document: Option<Named>,
    wave: Option<usize>,
    reason: String,
    nodes: usize,
    /// Why it changed nothing.
    void: Option<String>,
}

/// `/v1/history`.
#[derive(Debug, Serialize)]
pub struct HistoryView {
    lines: Vec<LineView>,
    /// Older lines are in the log alone.
    cut: bool,
    /// With `node`: its assignments.
    assignments: Vec<ChangeView>,
}

#[derive(Debug, Serialize)]
struct ChangeView {
    number: u64,
    at: String,
    document: Named,
    rollout: Option<String>,
    outcome: Option<Verdict>,
    reason: Option<String>,
    outcome_at: Option<String>,
}

impl ChangeView {
    fn of(state: &State, change: &Change) -> Self {
        let outcome = change.outcome.as_ref();
        Self {
            number: change.number,
            at: time(change.at_ms),
            document: Named::of(state, change.target),
            rollout: change.rollout.clone().map(String::from),
            outcome: outcome.map(|(verdict, ..)| *verdict),
            reason: outcome.map(|(_, reason, _)| reason.clone()),
            outcome_at: outcome.map(|(.., at)| time(*at)),
        }
    }
}

/// `/v1/status`'s part.
#[derive(Debug, Serialize)]
pub struct StatusView {
    /// It has a controller key.
    sends: bool,
    /// This process carries roll-outs out.
    leads: bool,
    /// Who claimed the lead last, and its epoch.
    lead: Option<String>,
    epoch: u64,
    nodes: usize,
    documents: usize,
    keyring: u64,
    /// Events of the log that were read: no number is above it.
    log: u64,
    /// Names the log; null: it does not begin with its beginning.
    log_id: Option<String>,
    /// The epoch of the keyring.
    keyring_epoch: u64,
    /// Gateways that have taken what this cloud never gave.
    ahead: Vec<Group>,
    /// Inboxes that are to be written.
    to_send: usize,
    problems: Vec<String>,
    reading: bool,
}

impl Control {
    pub(super) fn present_ms(&self) -> u64 {
        u64::try_from(self.0.config.present_for.as_millis()).unwrap_or(u64::MAX)
    }

    /// Nodes by name, those that were heard or have an assignment.
    pub fn nodes(&self, group: Option<&str>, after: Option<&str>, limit: usize) -> Page<NodeView> {
        let (now, present) = (self.now_ms(), self.present_ms());
        let after = after.map(NodeId::from);
        self.with(|state| {
            let heard = state.fleet.after(after.as_ref()).map(|(node, _)| node);
            let silent = state.rollouts.assigned_after(after.as_ref()).filter(|node| state.fleet.get(node).is_none());
            let is_in = |node: &&NodeId| {
                let groups =
                    || state.fleet.get(node).is_some_and(|seen| seen.groups.iter().any(|g| Some(&**g) == group));
                group.is_none() || groups()
            };
            let mut found = merge(heard, silent).filter(is_in).take(limit + 1).collect::<Vec<_>>();
            let mut bytes = 0;
            let fits = |node: &&&NodeId| {
                bytes += SILENT_BYTES + state.fleet.get(node).map_or(0, Seen::bytes);
                bytes <= PAGE_BYTES_MAX
            };
            let whole = found.iter().take(limit).take_while(fits).count().max(1);
            let next = (found.len() > whole).then(|| found.truncate(whole)).and_then(|()| found.last());
            let next = next.map(|node| node.as_str().to_owned());
            Page {
                items: found.into_iter().map(|node| NodeView::of(state, node, now, present)).collect(),
                next,
                version_max: None,
            }
        })
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<NodeView> {
        let node = NodeId::from(name);
        self.with(|state| {
            let is_known = state.fleet.get(&node).is_some() || state.rollouts.assignment(&node).is_some();
            is_known.then(|| NodeView::of(state, &node, self.now_ms(), self.present_ms()))
        })
    }

    /// Documents, newest first.
    pub fn documents(&self, after: Option<Digest>, limit: usize) -> Page<DocumentView> {
        self.with(|state| {
            let all = state.documents.newest_first();
            let from = all.skip_while(|known| after.is_some_and(|after| known.sha256 != after));
            let mut found: Vec<&Known> = from.skip(usize::from(after.is_some())).take(limit + 1).collect();
            let next = (found.len() > limit).then(|| found.truncate(limit)).and_then(|()| found.last());
            let next = next.map(|known| known.sha256.to_string());
            let version_max = Some(state.documents.version_max());
            Page { items: found.into_iter().map(DocumentView::of).collect(), next, version_max }
        })
    }

    /// Roll-outs, newest first; there are never many.
    pub fn rollouts(&self) -> Vec<RolloutView> {
        let ids: Vec<RolloutId> = self.with(|state| state.rollouts.ids().cloned().collect());
        let mut all: Vec<RolloutView> = ids.iter().filter_map(|id| self.rollout(id.as_str(), 0)).collect();
        all.sort_by_key(|rollout| std::cmp::Reverse(rollout.number));
        all
    }

    /// One roll-out.
    pub fn rollout(&self, id: &str, shown: usize) -> Option<RolloutView> {
        let id = RolloutId::from(id);
        let (now, present) = (self.now_ms(), self.present_ms());
        self.with(|state| {
            let created = state.rollouts.created(&id)?;
            let waiting = |node: &NodeId| {
                let seen = state.fleet.get(node);
                let refused = refusing(state, node);
                WaitingView {
                    node: node.as_str().to_owned(),
                    present: seen.is_some_and(|seen| seen.is_present(now, present)),
                    refused: refused.map(|refused| refused.reason.clone()),
                    model: created.model.and_then(|model| {
                        let is_it = |told: &&ModelTold| told.name == model.name && told.version == model.version;
                        seen?.told.iter().find(is_it).map(|told| told.outcome)
                    }),
                    scored: state.rollouts.gates_of(node).and_then(|(model, _)| Some(measured(seen?, model).scored)),
                }
            };
            let silent = || state.rollouts.silent(&id);
            let shown = shown.min(WAITING_SHOWN);
            Some(RolloutView {
                id: id.as_str().to_owned(),
                document: Named::of(state, created.target),
                reason: created.reason.to_owned(),
                audience: created.audience.clone(),
                retired: created.retired.clone(),
                rollback: created.rollback,
                plan: created.plan.clone(),
                number: created.index,
                progress: state.rollouts.progress(&id)?,
                waiting: silent().take(shown).map(waiting).collect(),
                waiting_for: silent().count(),
                problems: state.explain_all(silent().take(shown), now),
            })
        })
    }

    /// Who changed what and when, newest first.
    pub fn history(&self, node: Option<&str>, limit: usize) -> HistoryView {
        let node = node.map(NodeId::from);
        self.with(|state| {
            let line = |line: &Line| LineView {
                number: line.index,
                at: time(line.at_ms),
                by: line.by.clone(),
                what: line.what,
                rollout: line.rollout.clone().map(String::from),
                document: line.target.map(|target| Named::of(state, Some(target))),
                wave: line.wave,
                reason: line.reason.clone(),
                nodes: line.nodes,
                void: line.void.clone(),
            };
            HistoryView {
                lines: state.history.lines(node.as_ref()).take(limit).map(line).collect(),
                cut: state.history.is_cut(),
                assignments: node
                    .iter()
                    .flat_map(|node| state.history.changes(node))
                    .map(|change| ChangeView::of(state, change))
                    .collect(),
            }
        })
    }

    /// What is to be known of this process.
    pub fn status(&self) -> StatusView {
        let shared = self.lock();
        let (epoch, lead) = shared.state.rollouts.lead();
        let is_read = shared.topics.iter().all(|topic| topic.is_read);
        let ahead = if is_read { shared.state.all_ahead(self.now_ms()) } else { Vec::new() };
        let problems = shared.topics.iter().filter_map(|topic| topic.problem.clone());
        let problems = problems.chain(shared.lead_problem.clone());
        StatusView {
            sends: self.0.key.is_some(),
            leads: shared.leads,
            lead: Some(lead.to_owned()).filter(|lead| !lead.is_empty()),
            epoch,
            nodes: shared.state.fleet.len(),
            documents: shared.state.documents.newest_first().count(),
            keyring: shared.state.documents.trust().keyring_version(),
            log: shared.state.rollouts.index(),
            to_send: shared.state.to_send.len(),
            log_id: shared.state.rollouts.log().map(str::to_owned),
            keyring_epoch: shared.state.documents.trust().epoch(),
            problems: problems.chain(ahead.iter().map(|group| shared.state.explain(group))).collect(),
            ahead,
            reading: !is_read,
        }
    }
}

/// Two sorted lists as one.
fn merge<'n>(
    a: impl Iterator<Item = &'n NodeId>,
    b: impl Iterator<Item = &'n NodeId>,
) -> impl Iterator<Item = &'n NodeId> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(x), Some(y)) if x <= y => a.next(),
        (_, Some(_)) => b.next(),
        _ => a.next(),
    })
}
