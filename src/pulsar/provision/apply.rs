//! Look, plan, do, and look again, until a fresh look finds nothing left to do.

use std::time::{Duration, Instant};

use super::conflict::Conflict;
use super::desired::{ClusterAt, Desired, DesiredError};
use super::observe::{Observed, observe};
use super::plan::{Plan, Step, plan};
use crate::config::{CloudConfig, cloud};
use crate::pulsar::admin::Admin;
use crate::pulsar::admin_error::{AdminError, Class};
use crate::pulsar::credentials::Credentials;

/// Time for Pulsar to show what it accepted: brokers of a cluster tell each other of changes within a second, and
/// replicators of busy topics appear within a few.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Between two rounds of looking and doing.
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// Tries of one step that failed for a reason that may pass (a topic being loaded, a broker that has just started).
const TRIES_MAX: u32 = 5;
/// Before the second try; doubled for each further one.
const TRY_PAUSE: Duration = Duration::from_millis(250);
/// Between two tries to reach a cluster, while `wait` lasts.
const REACH_PAUSE: Duration = Duration::from_millis(500);

/// Hears what happens.
pub trait Progress {
    /// The difference, before anything is changed.
    fn planned(&mut self, clusters: &[ClusterAt], plan: &Plan);
    /// A step begins: the n-th (from 1) of so many.
    fn begins(&mut self, n: usize, of: usize, cluster: &str, step: &Step);
    /// It is done.
    fn done(&mut self, took: Duration);
    /// A cluster could not be reached; another try follows.
    fn waits(&mut self, cluster: &str, error: &AdminError);
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Steps done; in a dry run, steps planned.
    pub steps: usize,
    /// Warnings given.
    pub warnings: usize,
}

/// Why provisioning did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The configuration does not say what is wanted.
    #[error(transparent)]
    Desired(#[from] DesiredError),
    /// A cluster could not be looked at.
    #[error("cluster {cluster}: {error}")]
    Look {
        /// Which.
        cluster: String,
        /// Why.
        error: Box<AdminError>,
    },
    /// Something stands in the way; nothing was changed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Conflicts(Vec<Conflict>),
    /// A step failed; those before it are done and stay.
    #[error(
        "cluster {cluster}: could not {sentence}: {error}\n{done} steps were done and stay; run it again after the cause is gone"
    )]
    Step {
        /// Where.
        cluster: String,
        /// What it was to do.
        sentence: String,
        /// Why it did not.
        error: Box<AdminError>,
        /// Steps done before.
        done: usize,
    },
    /// Everything was accepted, and still is not there.
    #[error(
        "Pulsar answered every step with \"done\" or \"is there\", and still, after {} s: {}; run it again, and if it stays \
         so, the brokers' logs have the cause",
        SETTLE_MAX.as_secs(),
        .0.join("; ")
    )]
    NotSettled(Vec<String>),
}

impl ProvisionError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Desired(_) | Self::Conflicts(_) => Class::Refuse,
            Self::Look { error, .. } | Self::Step { error, .. } => error.class(),
            Self::NotSettled(_) => Class::Retry,
        }
    }
}

/// Brings every cluster of `config` to what Tidegate needs; with `dry_run` only plans.
/// A cluster that cannot be reached, or has just started, is tried again for `wait`. `grow`: topics that exist may get more partitions.
pub fn provision(
    config: &CloudConfig,
    dry_run: bool,
    grow: bool,
    wait: Duration,
    progress: &mut dyn Progress,
) -> Result<Summary, ProvisionError> {
    let begun = Instant::now();
    let desired = Desired { grow, ..Desired::from_config(config)? };
    let clusters = Clusters::connect(&desired, &config.pulsar)?;
    let mut summary = Summary::default();
    let mut seen = clusters.look(wait, progress)?;
    let mut next = plan(&desired, &seen).map_err(ProvisionError::Conflicts)?;
    progress.planned(&desired.clusters, &next);
    summary.warnings = next.warnings.len();
    if dry_run {
        summary.steps = next.steps.len();
        return Ok(summary);
    }
    let mut settling = None;
    while !(next.steps.is_empty() && next.waiting.is_empty()) {
        if let Some(since) = settling {
            if Instant::elapsed(&since) > SETTLE_MAX {
                return Err(ProvisionError::NotSettled(left(next)));
            }
            std::thread::sleep(ROUND_PAUSE);
        }
        match clusters.apply(&next, &mut summary, progress) {
            Err(ProvisionError::Step { cluster, error, .. }) if error.may_be_starting() && begun.elapsed() < wait => {
                progress.waits(&cluster, &error);
                std::thread::sleep(REACH_PAUSE);
                continue;
            }
            applied => applied?,
        }
        settling = settling.or_else(|| Some(Instant::now()));
        seen = clusters.look(Duration::ZERO, progress)?;
        next = plan(&desired, &seen).map_err(ProvisionError::Conflicts)?;
    }
    Ok(summary)
}

fn look_error(at: &ClusterAt, error: AdminError) -> ProvisionError {
    ProvisionError::Look { cluster: at.name.clone(), error: Box::new(error) }
}

fn left(plan: Plan) -> Vec<String> {
    let steps = plan.steps.into_iter().map(|s| format!("could not {}", s.sentence));
    steps.chain(plan.waiting.into_iter().map(|r| format!("{}: {}", r.cluster, r.text))).collect()
}

struct Clusters<'a> {
    desired: &'a Desired,
    admins: Vec<Admin>,
}

impl<'a> Clusters<'a> {
    fn connect(desired: &'a Desired, pulsar: &cloud::Pulsar) -> Result<Self, ProvisionError> {
        let credentials = Credentials::from(pulsar);
        let connect = |at: &ClusterAt| {
            let admin = Admin::new(&at.admin, &credentials, pulsar.ca_file.as_deref());
            admin.map_err(|error| look_error(at, error))
        };
        Ok(Self { desired, admins: desired.clusters.iter().map(connect).collect::<Result<_, _>>()? })
    }

    /// Looks at all clusters before anything is changed at any.
    fn look(&self, wait: Duration, progress: &mut dyn Progress) -> Result<Vec<Observed>, ProvisionError> {
        let begun = Instant::now();
        let mut all = Vec::with_capacity(self.admins.len());
        for (at, admin) in self.desired.clusters.iter().zip(&self.admins) {
            let seen = loop {
                match observe(admin, self.desired) {
                    Ok(seen) => break seen,
                    Err(e) if e.class() == Class::Retry && begun.elapsed() < wait => {
                        progress.waits(&at.name, &e);
                        std::thread::sleep(REACH_PAUSE);
                    }
                    Err(error) => return Err(look_error(at, error)),
                }
            };
            all.push(seen);
        }
        Ok(all)
    }

    fn apply(&self, plan: &Plan, summary: &mut Summary, progress: &mut dyn Progress) -> Result<(), ProvisionError> {
        for (n, step) in plan.steps.iter().enumerate() {
            let cluster = &self.desired.clusters[step.at].name;
            let begun = Instant::now();
            progress.begins(n + 1, plan.steps.len(), cluster, step);
            change(&self.admins[step.at], step).map_err(|error| ProvisionError::Step {
                cluster: cluster.clone(),
                sentence: step.sentence.clone(),
                error: Box::new(error),
                done: summary.steps,
            })?;
            summary.steps += 1;
            progress.done(begun.elapsed());
        }
        Ok(())
    }
}

/// Sends one step. That it may be there already is no error: the next look says whether it is as wished.
fn change(admin: &Admin, step: &Step) -> Result<(), AdminError> {
    let mut pause = TRY_PAUSE;
    for _ in 1..TRIES_MAX {
        match admin.change(&step.change) {
            Err(e) if e.class() == Class::Retry => std::thread::sleep(pause),
            other => return other.map(|_| ()),
        }
        pause *= 2;
    }
    admin.change(&step.change).map(|_| ())
}
