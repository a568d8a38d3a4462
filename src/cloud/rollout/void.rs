//! Why an event of the log changes nothing. [pure]

use super::event::{Malformed, RolloutId};

/// Why an event changed nothing. It stays in the log; every reader finds it void.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Void {
    /// Another controller has the lead.
    #[error("epoch {epoch} of {name} is not the lead's: {lead_name} has it with epoch {lead}")]
    Fenced {
        /// The author's.
        epoch: u64,
        /// The author.
        name: String,
        /// The lead's.
        lead: u64,
        /// Who has it.
        lead_name: String,
    },
    /// Only a controller, or only an operator does this.
    #[error("this is not the author's to decide")]
    Author,
    /// It breaks a limit.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no such roll-out, or it is forgotten.
    #[error("there is no roll-out {0}")]
    Unknown(RolloutId),
    /// The id is taken.
    #[error("roll-out {0} exists with another content: take another id")]
    Exists(RolloutId),
    /// It has happened already, or the stage does not allow it.
    #[error("roll-out {0} is not at that point")]
    Stage(RolloutId),
    /// Too few successes, too many failures, no approval, or the soak is not over.
    #[error("roll-out {0} may not go on yet")]
    NotYet(RolloutId),
    /// It has no members.
    #[error("roll-out {0} has no nodes: enrol some")]
    Empty(RolloutId),
    /// It has an event before this one.
    #[error("the log has begun")]
    Begun,
    /// Too many run.
    #[error("{0} roll-outs are running, which is the most: abort one, or wait (\"tidegate rollout list\" shows them)")]
    TooMany(usize),
}
