//! Pushed configuration on the status page: written by the loop, read by the HTTP interface.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::downlink::artefact::{Digest, Role};
use crate::downlink::keeper::Inbox;
use crate::downlink::link::Link;
use crate::downlink::number::{Number, is_zero};
use crate::downlink::report::{ModelPresent, Outcome, Running};
use crate::downlink::trial::{self, Machine, Millis, Record, Stage};
use crate::observe::status::LinkStatus;

/// What there is to see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Whether anything pushed is taken: keys are configured, and the gateway was not started with --local.
    pub open: bool,
    /// Started with --local: what is committed does not run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub local_only: bool,
    /// The configuration that runs unless another one is on trial.
    pub committed: Configuration,
    /// What is not decided yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<OnTrial>,
    /// What was decided last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Decision>,
    /// Decisions that the cloud has not acknowledged.
    pub reports_waiting: usize,
    /// What was refused last, since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// Ids of the keys in force, by what they may sign.
    pub keys: BTreeMap<&'static str, Vec<String>>,
    /// Version of the keyring in force; 0: none.
    pub keyring_version: u64,
    /// Its epoch: the only one whose assignments are taken.
    pub epoch: u64,
    /// The last assignment that was taken, whatever became of it.
    pub accepted: Number,
    /// Models on this gateway.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelPresent>,
    /// Why an assigned model is not fetched yet, if something keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models_wait_for: Option<String>,
    /// The control link.
    pub link: LinkStatus,
}

/// A configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Configuration {
    /// The assignment's epoch, unless it is the first.
    #[serde(skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// The assignment's number; 0: the gateway's own file of the beginning.
    pub number: u64,
    /// Of the document; null: the gateway's own file alone.
    pub sha256: Option<String>,
    /// Of the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// A configuration that is not decided yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OnTrial {
    /// Which.
    #[serde(flatten)]
    pub configuration: Configuration,
    /// "on-trial", or "waiting" for its next trial.
    pub stage: &'static str,
    /// Time left to prove itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// Why the last trial of it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The assignment's epoch, unless it is the first.
    #[serde(skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// The assignment's number.
    pub number: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, unless it is committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// A code for machines.
    pub reason: String,
    /// For people.
    pub detail: String,
}

/// The snapshot, shared. Cheap to clone.
#[derive(Clone, Default)]
pub struct Status(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    snapshot: Snapshot,
    link: Option<Link>,
}

impl Status {
    /// The link, of which the newest status is shown.
    pub fn set_link(&self, link: Link) {
        self.lock().link = Some(link);
    }

    /// Replaces everything but the link's part.
    pub fn set(&self, snapshot: Snapshot) {
        self.lock().snapshot = snapshot;
    }

    /// A copy.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        let link = inner.link.as_ref().map(Link::status).unwrap_or_default();
        Snapshot { link, ..inner.snapshot.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machine as it is shown. `version` knows versions of documents.
pub fn of(machine: &Machine, now: Millis, inbox: &Inbox, version: impl Fn(&trial::Digest) -> Option<u64>) -> Snapshot {
    let record = machine.record();
    let configuration = |config: &trial::Config| Configuration {
        epoch: config.number.epoch,
        number: config.number.n,
        sha256: config.place.digest().map(|digest| Digest::from_bytes(digest).to_string()),
        version: config.place.digest().and_then(|digest| version(&digest)),
    };
    let on_trial = record.candidate.as_ref().map(|candidate| OnTrial {
        configuration: configuration(&candidate.config),
        stage: match candidate.stage {
            Stage::OnTrial => "on-trial",
            Stage::Waiting => "waiting",
        },
        seconds_left: machine.left_ms(now).map(|ms| ms / 1000),
        last_failure: candidate.failure.as_ref().map(ToString::to_string),
    });
    let keys = inbox.keys().into_iter().map(|(role, ids)| {
        let name = match role {
            Role::Root => "roots",
            Role::Artefact => "artefact_keys",
            Role::Controller => "controller_keys",
        };
        (name, ids.iter().map(ToString::to_string).collect())
    });
    Snapshot {
        open: inbox.is_open(),
        local_only: false,
        committed: configuration(&record.committed),
        trial: on_trial,
        last: record.last.as_ref().map(|last| Decision {
            epoch: last.number.epoch,
            number: last.number.n,
            outcome: last.outcome.into(),
            reason: last.failure.as_ref().map(|failure| failure.reason.code()),
            detail: last.failure.as_ref().map(|failure| failure.detail.clone()).unwrap_or_default(),
        }),
        reports_waiting: record.reports.len(),
        models: Vec::new(),
        models_wait_for: None,
        refused: None,
        keys: keys.collect(),
        keyring_version: inbox.trust().keyring_version(),
        epoch: inbox.trust().epoch(),
        accepted: inbox.accepted(),
        link: LinkStatus::default(),
    }
}

/// What is committed, and what is on trial, as reports say it.
pub fn running(record: &Record) -> (Running, Option<Running>) {
    let of = |config: &trial::Config| Running {
        epoch: config.number.epoch,
        number: config.number.n,
        sha256: config.place.digest().map(Digest::from_bytes),
    };
    (of(&record.committed), record.candidate.as_ref().map(|candidate| of(&candidate.config)))
}
