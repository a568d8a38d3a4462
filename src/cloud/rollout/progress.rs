//! What operators see of a roll-out. [pure]

use serde::Serialize;

use super::event::{Digest, NodeId};
use crate::downlink::artefact::ModelAssigned;

/// Where a roll-out stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nodes are enrolled, none is exposed.
    Draft,
    /// Waves go on, unless it is paused.
    Running,
    /// It stands.
    Completed,
    /// Exposed nodes are put back.
    Aborted {
        /// Why.
        reason: String,
    },
}

impl Stage {
    /// Whether it is neither completed nor aborted.
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Draft | Self::Running)
    }
}

/// A roll-out in numbers; those of one that is over are as they were then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Where it stands.
    pub stage: Stage,
    /// The document that it brings.
    pub target: Option<Digest>,
    /// The model that it brings instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelAssigned>,
    /// Why it is paused, if it is.
    pub paused: Option<String>,
    /// The wave that has begun, from 0.
    pub wave: usize,
    /// How many there are.
    pub waves: usize,
    /// Nodes enrolled.
    pub members: usize,
    /// Nodes passed over because another roll-out has them.
    pub held: usize,
    /// Nodes that were given the target.
    pub exposed: usize,
    /// Of these, run it.
    pub succeeded: usize,
    /// Of these, refused it or took it back.
    pub failed: usize,
    /// Of these, not seen for long.
    pub absent: usize,
    /// Successes that the wave needs.
    pub needed: usize,
    /// It has them, and the wave is over at this time on the lead's clock unless something changes; 0: at once.
    pub soaks_until_ms: Option<u64>,
    /// The next wave waits for an operator's approval.
    pub waits_for_approval: bool,
    /// The first failures and their reasons.
    pub failures: Vec<(NodeId, String)>,
}
