//! Why a lane is not delivering, in words, with the way out; and the class that the metrics count.
//! Every one of them is retried for ever: nothing is lost, and whatever is mended is found by the next attempt.

use std::time::Duration;

use super::resume::Doubt;
use crate::outbox::ReadError;
use crate::pulsar::wire::LinkError;

/// Why a lane is not delivering.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// Its link is down.
    #[error("{0}")]
    Link(#[from] LinkError),
    /// No receipt in time.
    #[error("{broker} has confirmed nothing for {} s although events are waiting for it; the connection is given up", limit.as_secs())]
    NoReceipt {
        /// Host and port.
        broker: String,
        /// How long.
        limit: Duration,
    },
    /// The topic has more partitions than we open.
    #[error("{topic} has {partitions} partitions; at most {limit} are used. Provision it with fewer")]
    Partitions {
        /// The topic.
        topic: String,
        /// How many it has.
        partitions: usize,
        /// The limit.
        limit: usize,
    },
    /// The broker's answers cannot be trusted.
    #[error("{0}")]
    Doubt(#[from] Doubt),
    /// The outbox cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// An event that cannot be sent stands at the head of the lane.
    #[error("event {seq} cannot be sent: {reason}. It and what follows stay in the outbox")]
    Unsendable {
        /// Its sequence.
        seq: u64,
        /// Why.
        reason: String,
    },
}

impl LaneError {
    /// For the metrics' label.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Link(error) => error.class(),
            Self::NoReceipt { .. } => "timeout",
            Self::Partitions { .. } => "configuration",
            Self::Doubt(_) => "doubt",
            Self::Read(_) => "outbox",
            Self::Unsendable { .. } => "unsendable",
        }
    }
}
