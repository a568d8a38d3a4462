//! Which reports count: why one does not. [pure]

use crate::downlink::artefact::KeyId;

/// Why a report does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// It is no report, too large, or under the key of another node.
    #[error("it is no report of a gateway")]
    Unreadable,
    /// Nobody proves it.
    #[error(
        "it is not signed: the gateway is of an earlier version, or has no room for its key; update it, or look there"
    )]
    Unsigned,
    /// The proof is wrong.
    #[error("its signature is wrong: somebody pretends to be this gateway, or it was damaged on its way")]
    Forged,
    /// It is proven by another key than the gateway's.
    #[error(
        "it is signed by key {key}, and another key speaks for this gateway: its disk was replaced, or somebody pretends to \
         be it; if it was, \"tidegate nodes NODE --reset-key\""
    )]
    Stranger {
        /// Of the key.
        key: KeyId,
    },
    /// It decides what nobody has assigned.
    #[error(
        "it decides assignment {number}, and the log has {index} events: it is not true, or the log was begun anew, or \
         the gateway belongs to another cloud"
    )]
    Ahead {
        /// What it says.
        number: u64,
        /// The highest that there can be.
        index: u64,
    },
    /// No room for another node.
    #[error("there are too many gateways: take out those that are gone (DELETE /v1/nodes/…)")]
    Full,
}

impl Dropped {
    /// All codes, for metrics.
    pub const CODES: [&str; 6] = ["unreadable", "unsigned", "forged", "stranger", "ahead", "full"];

    /// For machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Unsigned => "unsigned",
            Self::Forged => "forged",
            Self::Stranger { .. } => "stranger",
            Self::Ahead { .. } => "ahead",
            Self::Full => "full",
        }
    }
}
