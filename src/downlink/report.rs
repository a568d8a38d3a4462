//! What a node tells the cloud about itself and its assignments: one JSON object a message. [pure]

use serde::{Deserialize, Serialize};

use super::artefact::Digest;
use super::number::{Number, is_zero};
use super::trial;

/// Largest report: names, a reason, and a few numbers for each lane.
pub const REPORT_BYTES_MAX: usize = 64 * 1024;

/// A report. Fields of later versions are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who.
    pub node: String,
    /// The outbox's life: another one means that the disk was lost or replaced.
    pub incarnation: String,
    /// When, in milliseconds since 1970 on the node's clock; `None` while that cannot be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
    /// Version of the program.
    pub software: String,
    /// `node.groups`.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What is committed.
    pub committed: Running,
    /// What is on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Running>,
    /// The last assignment that was taken, whatever became of it: only newer ones are. `None`: an older version, which does
    /// not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Number>,
    /// What there is to say.
    pub what: What,
}

/// A configuration that a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The assignment's epoch.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// The assignment's; 0: none, the local file of the beginning.
    pub number: u64,
    /// The document; `None`: the local file alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
}

impl Running {
    /// The assignment's place.
    pub fn at(&self) -> Number {
        Number::new(self.epoch, self.number)
    }
}

/// What there is to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It is there. Sent at every connection and now and then.
    Present {
        /// How long the process runs, in seconds.
        uptime_s: u64,
        /// When the next one can be expected, in seconds.
        next_s: u64,
        /// What waits in each lane.
        #[serde(default)]
        lanes: Vec<Lane>,
    },
    /// It stops in order.
    Leaving,
    /// An assignment was decided.
    Decided {
        /// Grows with every such report of this node: one that is told again has the same.
        seq: u64,
        /// The assignment's epoch.
        #[serde(default, skip_serializing_if = "is_zero")]
        epoch: u64,
        /// The assignment's.
        number: u64,
        /// What became of it.
        outcome: Outcome,
        /// A code for machines, empty when committed.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
        /// For people.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// What lay in the inbox was no offer: not signed, for another node, older, expired. Nobody can be held to its number.
    Refused {
        /// A code for machines.
        reason: String,
        /// For people.
        detail: String,
    },
}

/// What waits in a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// Its name.
    pub name: String,
    /// Events.
    pub events: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// What became of an assignment: `trial::Outcome` as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It proved itself and stays.
    Committed,
    /// It was tried and taken back.
    Reverted,
    /// It was not tried.
    Refused,
    /// A newer one came before it was decided.
    Superseded,
    /// What was committed cannot be had; the local file runs.
    Fallback,
}

impl Outcome {
    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Reverted => "reverted",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
            Self::Fallback => "fallback",
        }
    }
}

impl From<trial::Outcome> for Outcome {
    fn from(outcome: trial::Outcome) -> Self {
        match outcome {
            trial::Outcome::Committed => Self::Committed,
            trial::Outcome::Reverted => Self::Reverted,
            trial::Outcome::Refused => Self::Refused,
            trial::Outcome::Superseded => Self::Superseded,
            trial::Outcome::Fallback => Self::Fallback,
        }
    }
}

impl From<&trial::Report> for What {
    fn from(report: &trial::Report) -> Self {
        let failure = report.failure.as_ref();
        Self::Decided {
            seq: report.seq,
            epoch: report.number.epoch,
            number: report.number.n,
            outcome: report.outcome.into(),
            reason: failure.map_or_else(String::new, |failure| failure.reason.code().to_owned()),
            detail: failure.map_or_else(String::new, |failure| failure.detail.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back_and_the_fields_of_later_versions_are_passed_over() {
        let report = NodeReport {
            node: "press-7".into(),
            incarnation: "00ff".into(),
            at_ms: None,
            software: "0.1.0".into(),
            groups: vec!["plant-7".into()],
            committed: Running { epoch: 0, number: 0, sha256: None },
            trial: Some(Running { epoch: 2, number: 9, sha256: Some(Digest::of(b"x")) }),
            accepted: Some(Number::new(2, 9)),
            what: What::Decided {
                seq: 1,
                epoch: 2,
                number: 9,
                outcome: Outcome::Reverted,
                reason: "not-connected".into(),
                detail: String::new(),
            },
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<NodeReport>(&text).unwrap(), report);
        let later = text.replacen('{', "{\"later\":{},", 1);
        assert_eq!(serde_json::from_str::<NodeReport>(&later).unwrap(), report);
    }
}
