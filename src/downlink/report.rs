//! What a node tells the cloud about itself and its assignments. [pure]
//!
//! ```text
//! {"node":"press-7","incarnation":"…","what":{"present":{…}}}                             the report
//! {"key":"tidegate-pub-ed25519:…","sig":"…"}                                              its proof
//! ```
//! A message is these two lines. The signature is the node's (Ed25519, RFC 8032) over DSSE's pre-authentication encoding of
//! [`MEDIA_TYPE`] and the first line as it stands: nothing that a node signs can be taken for anything else. Not an envelope
//! as documents have it: base64 would make each of many reports twice as large.

use serde::{Deserialize, Serialize};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::artefact::envelope::pae;
use super::artefact::model::Name;
use super::artefact::{Digest, PublicKey, SecretKey};
use super::number::{Number, is_zero};
use super::trial;

/// What a node's signature says that it is under.
pub const MEDIA_TYPE: &str = "application/vnd.tidegate.report.v1+json";

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

/// The second line of a message.
#[derive(Serialize, Deserialize)]
struct Proof {
    key: PublicKey,
    /// Base64.
    sig: String,
}

/// A message, taken apart; nothing of it is verified.
#[derive(Clone, Debug)]
pub struct Claim<'m> {
    /// The report's line.
    pub report: &'m [u8],
    /// Whose it says that it is.
    pub key: PublicKey,
    signature: Vec<u8>,
}

impl<'m> Claim<'m> {
    /// Takes a message apart; `None`: it has no proof.
    pub fn of(message: &'m [u8]) -> Option<Self> {
        let end = message.iter().position(|byte| *byte == b'\n')?;
        let (report, proof) = (message.get(..end)?, message.get(end + 1..)?);
        let Proof { key, sig } = serde_json::from_slice(proof).ok()?;
        Some(Self { report, key, signature: STANDARD.decode(sig).ok()? })
    }

    /// Whether whoever has the key has signed the report.
    pub fn is_proven(&self) -> bool {
        self.key.verifies(&pae(MEDIA_TYPE, self.report), &self.signature)
    }
}

impl NodeReport {
    /// The message of it, signed by the node's `key`. Without one nobody counts it.
    pub fn message(&self, key: Option<&SecretKey>) -> Vec<u8> {
        let mut message = serde_json::to_vec(self).unwrap_or_default(); // strings and numbers can be written
        if let Some(key) = key {
            let sig = STANDARD.encode(key.sign(&pae(MEDIA_TYPE, &message)));
            let proof = serde_json::to_vec(&Proof { key: key.public().clone(), sig }).unwrap_or_default();
            message.push(b'\n');
            message.extend_from_slice(&proof);
        }
        message
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
        /// Its models, at most [`MODELS_MAX`](super::artefact::model::MODELS_MAX).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        models: Vec<ModelPresent>,
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
    /// Something became of an assigned model. The version before does not know it and passes it over.
    Model {
        /// Grows with every such report of this node: one that is told again has the same.
        seq: u64,
        /// The assignment's epoch.
        #[serde(default, skip_serializing_if = "is_zero")]
        epoch: u64,
        /// The assignment's.
        number: u64,
        /// The model.
        name: Name,
        /// Its version.
        version: u64,
        /// What became of it.
        outcome: ModelOutcome,
        /// A code for machines, empty unless it was refused or taken back.
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

/// A model on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPresent {
    /// Its name.
    pub name: Name,
    /// The version that is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The one that a rollback leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
    /// The one that runs beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<u64>,
    /// The one that is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetching: Option<Fetching>,
    /// How those that score events on the gateway do; `None`: none of them does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
}

/// How the versions of a model do. All is counted since they began to score in this process: who finds less than before knows
/// that it has begun anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scores {
    /// The version that is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Run>,
    /// The one beside it. Its alarms are those that it would have made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Run>,
    /// Events that both have scored.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compared: u64,
    /// Of these, above the threshold by one alone.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub disagreed: u64,
}

/// How one version does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which.
    pub version: u64,
    /// Events that it has scored.
    pub scored: u64,
    /// Events that it failed on, was too slow for, or had no time for.
    pub failed: u64,
    /// Events with a score above the threshold.
    pub alarms: u64,
    /// For how long events were held for it, all together, in microseconds.
    pub held_us: u64,
    /// The longest of these times, in microseconds.
    pub held_us_max: u64,
}

/// A version on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetching {
    /// Which.
    pub version: u64,
    /// Bytes of the model that are here.
    pub bytes: u64,
    /// Bytes of the model; 0: not known yet.
    pub of_bytes: u64,
}

/// What became of an assigned model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelOutcome {
    /// It is here, whole and proven.
    Fetched,
    /// It is used, and healthy.
    Active,
    /// It runs beside the one that is used.
    Shadowing,
    /// No version of it is used any more, as assigned.
    Off,
    /// It was used, and the one before is used again.
    Reverted,
    /// It is not used.
    Refused,
}

impl ModelOutcome {
    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Active => "active",
            Self::Shadowing => "shadowing",
            Self::Off => "off",
            Self::Reverted => "reverted",
            Self::Refused => "refused",
        }
    }
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

    #[test]
    fn what_a_node_says_is_proven_by_its_key_and_by_no_other() {
        let report = NodeReport {
            node: "press-7".into(),
            incarnation: "00ff".into(),
            at_ms: None,
            software: "0.1.0\n".into(),
            groups: Vec::new(),
            committed: Running { epoch: 0, number: 0, sha256: None },
            trial: None,
            accepted: None,
            what: What::Leaving,
        };
        let [key, other] = [1, 2].map(|n| SecretKey::from_seed(&[n; 32]).unwrap());
        let message = report.message(Some(&key));
        let claim = Claim::of(&message).unwrap();
        assert_eq!(serde_json::from_slice::<NodeReport>(claim.report).unwrap(), report);
        assert!(claim.is_proven() && claim.key == *key.public());
        assert!(!Claim { key: other.public().clone(), ..claim.clone() }.is_proven());
        assert!(
            Claim::of(&report.message(None)).is_none() && Claim::of(b"").is_none() && Claim::of(b"{}\n{}").is_none()
        );
        // Any byte of what is said.
        for i in 0..claim.report.len() {
            let mut forged = message.clone();
            forged[i] ^= 1;
            assert!(Claim::of(&forged).is_none_or(|claim| !claim.is_proven()), "byte {i}");
        }
        // What was signed for another purpose.
        let sig = STANDARD.encode(key.sign(&pae("application/vnd.tidegate.command.v1+json", claim.report)));
        let proof = serde_json::to_vec(&Proof { key: key.public().clone(), sig }).unwrap();
        assert!(!Claim::of(&[claim.report, b"\n", &proof].concat()).unwrap().is_proven());
    }

    fn of(what: What) -> NodeReport {
        let committed = Running { epoch: 0, number: 0, sha256: None };
        let (node, incarnation, software) = ("press-7".into(), "00ff".into(), "0.1.0".into());
        let groups = Vec::new();
        NodeReport { node, incarnation, at_ms: None, software, groups, committed, trial: None, accepted: None, what }
    }

    #[test]
    fn a_model_is_reported_as_agreed_with_the_cloud_and_nothing_is_said_where_there_is_none() {
        let json = |what: &What| serde_json::to_string(what).unwrap();
        let name = Name::parse("press-anomaly").unwrap();
        let none = What::Present { uptime_s: 1, next_s: 60, lanes: Vec::new(), models: Vec::new() };
        assert_eq!(json(&none), r#"{"present":{"uptime_s":1,"next_s":60,"lanes":[]}}"#);
        let fetching = Some(Fetching { version: 8, bytes: 5, of_bytes: 9 });
        let model = ModelPresent {
            name: name.clone(),
            version: Some(7),
            previous: None,
            shadow: Some(6),
            fetching,
            scores: None,
        };
        let some = What::Present { uptime_s: 1, next_s: 60, lanes: Vec::new(), models: vec![model] };
        let models =
            r#"[{"name":"press-anomaly","version":7,"shadow":6,"fetching":{"version":8,"bytes":5,"of_bytes":9}}]"#;
        assert_eq!(json(&some), format!(r#"{{"present":{{"uptime_s":1,"next_s":60,"lanes":[],"models":{models}}}}}"#));
        let run = Run { version: 7, scored: 3, failed: 0, alarms: 1, held_us: 900, held_us_max: 400 };
        let scores = Scores { active: Some(run), compared: 2, ..Scores::default() };
        assert_eq!(
            serde_json::to_string(&scores).unwrap(),
            r#"{"active":{"version":7,"scored":3,"failed":0,"alarms":1,"held_us":900,"held_us_max":400},"compared":2}"#
        );
        assert_eq!(serde_json::from_str::<Scores>("{}").unwrap(), Scores::default());
        let told = What::Model {
            seq: 3,
            epoch: 0,
            number: 9,
            name,
            version: 8,
            outcome: ModelOutcome::Reverted,
            reason: "unhealthy".into(),
            detail: "the hook ended with 1".into(),
        };
        assert_eq!(
            json(&told),
            r#"{"model":{"seq":3,"number":9,"name":"press-anomaly","version":8,"outcome":"reverted","reason":"unhealthy","detail":"the hook ended with 1"}}"#
        );
        for what in [none, some, told] {
            let report = of(what);
            assert_eq!(serde_json::from_str::<NodeReport>(&serde_json::to_string(&report).unwrap()).unwrap(), report);
        }
        // What the cloud before does with a kind of report that it does not know: it is no report to it.
        assert!(serde_json::from_str::<What>(r#"{"later":{"seq":1}}"#).is_err());
    }
}
