//! What the log holds. [pure]

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BATCH_MAX, GROUPS_MAX, ID_BYTES_MAX, Plan, PlanError, RAISED_MAX, REASON_BYTES_MAX, UnixMs};
use crate::downlink::artefact::model::Name;
use crate::downlink::artefact::{Mode, ModelAssigned, model};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            fn is_valid(&self) -> bool {
                !self.0.is_empty() && self.0.len() <= ID_BYTES_MAX
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A gateway's name.
    NodeId
}
id! {
    /// A roll-out's name.
    RolloutId
}

/// SHA-256 of what is rolled out; as text in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

/// A text that is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hex digits")]
pub struct NotADigest;

impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotADigest);
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            let pair = text.get(2 * i..2 * i + 2).ok_or(NotADigest)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(bytes))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When, on the clock of whoever appended it: for people, but for a controller's, which measures soaks while it leads.
    pub at_ms: UnixMs,
    /// Who.
    pub by: Author,
    /// What.
    pub what: What,
}

/// Who appended an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Author {
    /// A process that has, or had, the lead.
    Controller {
        /// Its claim's.
        epoch: u64,
        /// Another one for every start of a process: of two that claim the same epoch one has it.
        name: String,
    },
    /// Somebody at the interface.
    Operator {
        /// Who.
        name: String,
    },
}

/// What a node says about an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It runs.
    Success,
    /// It was refused, or taken back. It outweighs a success of the same number, whichever comes first.
    Failure,
}

/// What a report is about, if that is a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSaid {
    /// The model.
    pub name: Name,
    /// Its version.
    pub version: u64,
    /// What became of it as; `None`: it is not used, whatever it was to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

impl ModelSaid {
    /// Whether it is said of what was assigned like this.
    pub fn concerns(&self, assigned: &ModelAssigned) -> bool {
        let is_mode = self.mode.is_none_or(|mode| mode == assigned.mode);
        self.name == assigned.name && self.version == assigned.version && is_mode
    }
}

/// A node's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeReport {
    /// Which node.
    pub node: NodeId,
    /// Which assignment.
    pub number: u64,
    /// What of it; `None`: its document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSaid>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, for operators.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Whom a roll-out is for besides the nodes that are enrolled by name: who turns up later and belongs to it is enrolled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audience {
    /// Every node there is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// The nodes of these groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

impl Audience {
    /// Whether it is for nobody but the nodes that were named.
    pub fn is_empty(&self) -> bool {
        !self.all && self.groups.is_empty()
    }

    /// Whether a node of these groups belongs to it.
    pub fn includes(&self, groups: &[String]) -> bool {
        self.all || self.groups.iter().any(|group| groups.contains(group))
    }
}

/// What happened or is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs)] // `rollout`, `nodes`, `wave`, `reason` say what they are
pub enum What {
    /// The log begins, and this names it. The first event, and void anywhere else.
    Begun { id: String },
    /// A controller takes the lead with its author's epoch.
    Claimed,
    /// A roll-out of `model`, or without one of the document `target` (`None`: what the node has by itself), is drafted.
    /// `audience` says who joins it later.
    Created {
        rollout: RolloutId,
        target: Option<Digest>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<ModelAssigned>,
        plan: Plan,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
        #[serde(default, skip_serializing_if = "Audience::is_empty")]
        audience: Audience,
        /// It brings back what nodes ran before, and has a place of its own.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        rollback: bool,
    },
    /// Nodes join: a draft, a running roll-out, or one that is completed and stands.
    Enrolled { rollout: RolloutId, nodes: Vec<NodeId> },
    /// Its first wave begins.
    Started { rollout: RolloutId },
    /// This wave begins.
    Advanced { rollout: RolloutId, wave: usize },
    /// An operator approves that this wave begins.
    Approved { rollout: RolloutId, wave: usize },
    /// An operator declares this wave, which has begun, passed: neither successes nor soak are waited for.
    Passed { rollout: RolloutId, wave: usize },
    /// Nothing more is exposed.
    Paused { rollout: RolloutId, reason: String },
    /// It goes on; failures so far are accepted.
    Resumed { rollout: RolloutId },
    /// The lead has seen that enough have succeeded, and measures the soak from here: for when it has nothing else to say.
    Soaking { rollout: RolloutId },
    /// It is over, and exposed nodes are put back to what they ran before.
    Aborted { rollout: RolloutId, reason: String },
    /// Nodes of this audience that turn up later do not join it any more; without any, nobody does.
    Retired {
        rollout: RolloutId,
        #[serde(default, skip_serializing_if = "Audience::is_empty")]
        audience: Audience,
    },
    /// It is over, and stands.
    Completed { rollout: RolloutId },
    /// Nodes have spoken.
    Reported { reports: Vec<NodeReport> },
    /// Nodes that were exposed and have not been seen for long.
    Absent { rollout: RolloutId, nodes: Vec<NodeId> },
    /// Nodes are gone for good.
    Departed { nodes: Vec<NodeId> },
    /// Nodes get something outside of any roll-out. One that is in a roll-out that is not over is passed over.
    Assigned { nodes: Vec<NodeId>, target: Option<Digest> },
    /// Nodes get a version of a model, beside whatever else they have. One that is in a roll-out that is not over, or has as
    /// many models as there may be, is passed over.
    ModelAssigned {
        nodes: Vec<NodeId>,
        model: ModelAssigned,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// Numbers go on above this, also those of assignments that nodes have not spoken of: for a log that was lost, trimmed or
    /// begun anew while nodes remember. An operator says so: what nodes report could be forged.
    Raised { index: u64 },
}

/// Why an event can be no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too many at once.
    #[error("an event names at most {BATCH_MAX} nodes, not {0}: append several")]
    Batch(usize),
    /// Empty or too long.
    #[error("an id has 1 to {ID_BYTES_MAX} bytes")]
    Id,
    /// Too long.
    #[error("a reason has at most {REASON_BYTES_MAX} bytes")]
    Reason,
    /// Too many groups.
    #[error("a roll-out is for at most {GROUPS_MAX} groups, not {0}")]
    Groups(usize),
    /// No log gets that far.
    #[error(
        "numbers can be raised to {RAISED_MAX} at most, not to {0}, which no log reaches by itself: leave them behind with a keyring of a higher epoch"
    )]
    Raised(u64),
    /// The model.
    #[error("{0}")]
    Model(String),
    /// Gates that nothing is measured for.
    #[error("{0}")]
    Gates(&'static str),
    /// Two things.
    #[error("a roll-out brings a document or a model, not both")]
    Both,
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl What {
    /// Checks the limits; what does not keep them is void for every reader.
    pub fn check(&self) -> Result<(), Malformed> {
        let nodes = |nodes: &[NodeId]| match nodes {
            _ if nodes.len() > BATCH_MAX => Err(Malformed::Batch(nodes.len())),
            _ if nodes.iter().all(NodeId::is_valid) => Ok(()),
            _ => Err(Malformed::Id),
        };
        let reason = |text: &str| if text.len() <= REASON_BYTES_MAX { Ok(()) } else { Err(Malformed::Reason) };
        let audience = |audience: &Audience| {
            let is_id = |group: &String| !group.is_empty() && group.len() <= ID_BYTES_MAX;
            match audience.groups.len() {
                n if n > GROUPS_MAX => Err(Malformed::Groups(n)),
                _ if audience.groups.iter().all(is_id) => Ok(()),
                _ => Err(Malformed::Id),
            }
        };
        match self {
            Self::Created { rollout, target, model, plan, reason: text, audience: of, .. } => {
                plan.check()?;
                model::check(model.as_slice()).map_err(Malformed::Model)?;
                if model.is_some() && target.is_some() {
                    return Err(Malformed::Both);
                }
                plan.gates.check(model.as_ref().map(|model| model.mode)).map_err(Malformed::Gates)?;
                reason(text)?;
                audience(of)?;
                if rollout.is_valid() { Ok(()) } else { Err(Malformed::Id) }
            }
            Self::Retired { audience: of, .. } => audience(of),
            Self::Enrolled { nodes: n, .. }
            | Self::Absent { nodes: n, .. }
            | Self::Departed { nodes: n }
            | Self::Assigned { nodes: n, .. } => nodes(n),
            Self::ModelAssigned { nodes: n, model, reason: text } => {
                reason(text)?;
                model::check(std::slice::from_ref(model)).map_err(Malformed::Model)?;
                nodes(n)
            }
            Self::Reported { reports } if reports.len() > BATCH_MAX => Err(Malformed::Batch(reports.len())),
            Self::Reported { reports } => reports.iter().try_for_each(|r| reason(&r.reason)),
            Self::Paused { reason: text, .. } | Self::Aborted { reason: text, .. } => reason(text),
            Self::Begun { id } if id.is_empty() || id.len() > ID_BYTES_MAX => Err(Malformed::Id),
            Self::Raised { index } if *index > RAISED_MAX => Err(Malformed::Raised(*index)),
            _ => Ok(()),
        }
    }
}
