//! Which gateways have which version of a model: assigned outside of roll-outs, at once, or by a roll-out.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::orders::{NAMED_MAX, Order, OrderError, void_error};
use super::state::is_node;
use super::{Control, LOG, REPORTS};
use crate::cloud::rollout::{Audience, BATCH_MAX, NodeId, Plan, What};
use crate::downlink::artefact::{Mode, ModelAssigned};
use crate::downlink::report::ModelOutcome;

/// Gateways that are named in the words about those that were passed over.
const PASSED_SHOWN: usize = 5;

/// `POST /v1/models/{name}/assign`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignOrder {
    /// A version of the catalogue; with `off` it may be left out.
    #[serde(default)]
    pub version: Option<u64>,
    /// `active`, `shadow` or `off`.
    #[serde(default = "active")]
    pub mode: Mode,
    /// Nodes by name.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// The nodes of these groups that are known now.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Every node that is known now.
    #[serde(default)]
    pub all: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// `POST /v1/models/{name}/rollouts`: like that of a document, see [`Order`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // as there
pub struct RolloutOrder {
    /// A version of the catalogue; with `off` it may be left out.
    #[serde(default)]
    pub version: Option<u64>,
    /// `active`, `shadow` or `off`.
    #[serde(default = "active")]
    pub mode: Mode,
    pub id: String,
    #[serde(default)]
    pub nodes: Vec<String>,
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
    pub all: bool,
    #[serde(default)]
    pub plan: Plan,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub start: bool,
    #[serde(default)]
    pub rollback: bool,
    #[serde(default)]
    pub skip_busy: bool,
}

impl RolloutOrder {
    /// As an order for this version.
    pub fn of(self, model: ModelAssigned) -> Order {
        let Self { id, nodes, groups, all, plan, reason, start, rollback, skip_busy, .. } = self;
        let (document, model) = (None, Some(model));
        Order { id, document, model, nodes, groups, all, plan, reason, start, rollback, skip_busy }
    }
}

fn active() -> Mode {
    Mode::Active
}

/// What an assignment came to.
#[derive(Debug)]
pub struct Given {
    /// Gateways that have it assigned now.
    pub nodes: Vec<NodeId>,
    /// What should be known about it.
    pub warnings: Vec<String>,
}

impl Control {
    /// Assigns a version to nodes that are in no roll-out; those that are in one are passed over. Nodes that are to have it
    /// already do not get it anew, unless it has failed there.
    pub(in crate::cloud) async fn assign_model(
        &self,
        model: ModelAssigned,
        order: &AssignOrder,
        by: &str,
    ) -> Result<Given, OrderError> {
        self.expect_read(LOG, "the log of roll-outs")?;
        if !order.groups.is_empty() || order.all {
            self.expect_read(REPORTS, "what gateways report")?;
        }
        let meant = self.meant(order)?;
        let is_free = |node: &NodeId| self.with(|state| state.rollouts.rollout_of(node).is_none());
        let has = |node: &NodeId| self.with(|state| has(state, node, &model));
        let has_failed = |node: &NodeId| self.with(|state| has_failed(state, node, &model));
        let (had, lacking): (Vec<NodeId>, Vec<NodeId>) = meant.into_iter().partition(|n| has(n) && !has_failed(n));
        let (free, busy): (Vec<NodeId>, Vec<NodeId>) = lacking.into_iter().partition(is_free);
        for nodes in free.chunks(BATCH_MAX) {
            let (model, reason) = (model.clone(), order.reason.clone());
            let what = What::ModelAssigned { nodes: nodes.to_vec(), model, reason };
            what.check().map_err(|e| OrderError::Refused(e.to_string()))?;
            self.order(by, what).await?.map_err(void_error)?;
        }
        // What counts is what the log made of it: a roll-out may have come between.
        let (given, passed): (Vec<NodeId>, Vec<NodeId>) = free.into_iter().partition(has);
        let passed: Vec<NodeId> = busy.into_iter().chain(passed).collect();
        let mut warnings = Vec::new();
        if !passed.is_empty() {
            let shown: Vec<&str> = passed.iter().take(PASSED_SHOWN).map(NodeId::as_str).collect();
            warnings.push(format!(
                "{} were passed over, because they are in roll-outs that are not over or have as many models as there may be: \
                 {}{}; give it to them afterwards",
                passed.len(),
                shown.join(", "),
                if passed.len() > PASSED_SHOWN { ", …" } else { "" }
            ));
        }
        if given.is_empty() && had.is_empty() {
            return Err(OrderError::Conflict(warnings.join("\n")));
        }
        Ok(Given { nodes: had.into_iter().chain(given).collect(), warnings })
    }

    /// The nodes that an order is for; at least one.
    fn meant(&self, order: &AssignOrder) -> Result<BTreeSet<NodeId>, OrderError> {
        if order.nodes.len() > NAMED_MAX {
            let text = format!("{} nodes are named; an order has at most {NAMED_MAX}", order.nodes.len());
            return Err(OrderError::Refused(text));
        }
        if let Some(name) = order.nodes.iter().find(|name| !is_node(name)) {
            let shown: String = name.chars().take(64).collect();
            let text = format!("{shown:?} is no name of a gateway: 1 to 64 letters, digits, - and _");
            return Err(OrderError::Refused(text));
        }
        let audience = Audience { all: order.all, groups: order.groups.clone() };
        let meant: BTreeSet<NodeId> = self.with(|state| {
            let members = state.fleet.after(None).filter(|(_, seen)| audience.includes(&seen.groups));
            let named = order.nodes.iter().map(|name| NodeId::from(name.as_str()));
            members.map(|(node, _)| node.clone()).chain(named).collect()
        });
        if meant.is_empty() {
            let text = "it is for nobody: name nodes, groups that gateways were heard of, or all (\"tidegate nodes\" lists them)";
            return Err(OrderError::Refused(text.to_owned()));
        }
        Ok(meant)
    }
}

/// Whether the node is to have exactly this already.
fn has(state: &super::state::State, node: &NodeId, model: &ModelAssigned) -> bool {
    let models = state.rollouts.assignment(node).map(|assigned| assigned.models).unwrap_or_default();
    let mut of_name = models.iter().filter(|had| had.name == model.name);
    match model.mode {
        // Nothing else of the name.
        Mode::Active | Mode::Off => of_name.clone().count() == 1 && of_name.all(|had| had == model),
        Mode::Shadow => of_name.any(|had| had == model),
    }
}

/// Whether the node has said that it has not taken it, or has gone back from it.
fn has_failed(state: &super::state::State, node: &NodeId, model: &ModelAssigned) -> bool {
    let told = state.fleet.get(node).map(|seen| seen.told.iter()).into_iter().flatten();
    told.filter(|told| told.name == model.name && told.version == model.version)
        .any(|told| matches!(told.outcome, ModelOutcome::Refused | ModelOutcome::Reverted))
}
