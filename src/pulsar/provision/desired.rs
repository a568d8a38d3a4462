//! What should be in Pulsar, from the configuration. [pure]

use std::time::Duration;

use crate::config::CloudConfig;
use crate::pulsar::names;

/// Most that Pulsar's retention takes in either unit: both are Java ints.
const RETENTION_MAX: i64 = i32::MAX as i64;
/// What `control` keeps per topic, whatever its age: a gateway that was away for a year must find its newest desired
/// state. Pulsar trims whole ledgers, also the one with the newest message when a new, empty one was begun after it (the
/// topic was loaded anew), so the limit must be beyond what comes into one ledger: 4 hours by default, a message of at most
/// 1 MiB a minute. At a push of 10 KB a day it takes 280 years to reach.
const CONTROL_MB: i64 = 1024;
/// Bundles of `control`: Pulsar moves topics between brokers in bundles and begins with 4. Two topics a gateway, and a
/// bundle is split at 1,000: good for 30,000 gateways without a split.
const CONTROL_BUNDLES: u32 = 64;
/// What gateways' reports keep: the last of each node counts, and a decision that a controller has not read within this
/// time is seen in the node's next report all the same.
const REPORTS_MINUTES: i64 = 3 * 1440;
/// A report every minute, of some 600 bytes with its signature and Pulsar's part: 2 GiB are three days of 800 gateways and
/// half an hour of 100,000. A process reads all of it when it starts.
const REPORTS_MB: i64 = 2048;

/// Everything that should be there, on every cluster alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The tenant.
    pub tenant: String,
    /// The clusters to work on, each through its own admin URL; at least one.
    pub clusters: Vec<ClusterAt>,
    /// Names of the clusters that the tenant may use and its topics live in.
    pub names: Vec<String>,
    /// Namespaces below the tenant.
    pub namespaces: Vec<Namespace>,
    /// Topics in the namespace of the lanes.
    pub topics: Vec<Topic>,
    /// The cloud's subscription on each of them.
    pub subscription: String,
    /// Whether the operator said that a topic that exists may get more partitions: see [`super::Conflict::Grow`].
    pub grow: bool,
}

/// Where a cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterAt {
    /// Its name in Pulsar.
    pub name: String,
    /// Its service URL, as the other clusters reach it.
    pub service: String,
    /// Its admin URL.
    pub admin: String,
}

/// One namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name below the tenant.
    pub name: String,
    /// What its topics keep after it was consumed.
    pub retention: Retention,
    /// Bundles that it is created with; `None`: as many as the broker's default says.
    pub bundles: Option<u32>,
    /// Whether a topic may appear because somebody uses its name. Not among the lanes: such a topic has neither the
    /// right partitions nor the cloud's subscription, and Pulsar deletes what was stored in it and acknowledged.
    pub auto_topics: bool,
}

/// Pulsar's retention, in Pulsar's units; -1: without limit, both 0: nothing is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Minutes.
    pub minutes: i64,
    /// Megabytes (2^20) per topic or partition.
    pub megabytes: i64,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name below the namespace.
    pub name: String,
    /// Partitions; `None`: not partitioned.
    pub partitions: Option<u32>,
    /// The lane whose topic this is.
    pub lane: String,
}

/// Why the configuration does not say what is wanted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    /// A cluster is named but not to be found.
    #[error("[pulsar] clusters names {name:?}, but no [[cluster]] says where it is: add one, or remove the name")]
    Nowhere {
        /// The name.
        name: String,
    },
    /// Two clusters with one name.
    #[error("[[cluster]] {name:?} is there twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// No cluster at all.
    #[error("[pulsar] clusters is empty: name the cluster that `admin` leads to, such as \"standalone\"")]
    NoCluster,
    /// No lane.
    #[error("there is no [[lane]]: without one there is nothing to send events to")]
    NoLane,
    /// One topic for two purposes.
    #[error("two lanes need the topic {topic:?} (a lane's dead letters go to \"<lane>-dead\"): rename one of them")]
    Topic {
        /// The topic.
        topic: String,
    },
    /// A lane without partitions.
    #[error("lane {lane:?} has partitions = 0: it needs at least 1")]
    Partitions {
        /// The lane.
        lane: String,
    },
}

impl Desired {
    /// Reads the configuration.
    pub fn from_config(config: &CloudConfig) -> Result<Self, DesiredError> {
        let pulsar = &config.pulsar;
        let (clusters, names) = clusters(config)?;
        let retention = Retention::new(pulsar.retention, pulsar.retention_bytes);
        let namespace = |name: &str, retention, auto_topics| Namespace {
            name: name.to_owned(),
            retention,
            bundles: None,
            auto_topics,
        };
        let control = namespace(names::CONTROL, Retention { minutes: -1, megabytes: CONTROL_MB }, true);
        Ok(Self {
            tenant: pulsar.tenant.clone(),
            grow: false,
            clusters,
            names,
            namespaces: vec![
                namespace(names::TELEMETRY, retention, false),
                Namespace { bundles: Some(CONTROL_BUNDLES), ..control },
                namespace(names::REPORTS, Retention { minutes: REPORTS_MINUTES, megabytes: REPORTS_MB }, true),
                // A place in the log is the number of an assignment: without its beginning all of it means something else.
                namespace(names::ROLLOUTS, Retention { minutes: -1, megabytes: -1 }, true),
                // A pack is useless when its first chunks are gone; packs are deleted whole, by whoever retires a version.
                namespace(names::MODELS, Retention { minutes: -1, megabytes: -1 }, true),
            ],
            topics: topics(config)?,
            subscription: pulsar.subscription.clone(),
        })
    }
}

/// `[[cluster]]` decides when it is there; else the one cluster that `[pulsar] admin` leads to, under the first name.
fn clusters(config: &CloudConfig) -> Result<(Vec<ClusterAt>, Vec<String>), DesiredError> {
    let pulsar = &config.pulsar;
    if config.clusters.is_empty() {
        let name = pulsar.clusters.first().ok_or(DesiredError::NoCluster)?.clone();
        let only = ClusterAt { name, service: pulsar.service.clone(), admin: pulsar.admin.clone() };
        return Ok((vec![only], pulsar.clusters.clone()));
    }
    let names: Vec<String> = config.clusters.iter().map(|c| c.name.clone()).collect();
    if let Some(at) = (1..names.len()).find(|&i| names[..i].contains(&names[i])) {
        return Err(DesiredError::Twice { name: names[at].clone() });
    }
    // The default was not written by anybody.
    if pulsar.clusters != CloudConfig::default().pulsar.clusters
        && let Some(name) = pulsar.clusters.iter().find(|n| !names.contains(n))
    {
        return Err(DesiredError::Nowhere { name: name.clone() });
    }
    let at = |c: &crate::config::cloud::Cluster| ClusterAt {
        name: c.name.clone(),
        service: c.service.clone(),
        admin: c.admin.clone(),
    };
    Ok((config.clusters.iter().map(at).collect(), names))
}

fn topics(config: &CloudConfig) -> Result<Vec<Topic>, DesiredError> {
    let mut topics: Vec<Topic> = Vec::new();
    for lane in &config.lanes {
        if lane.partitions == 0 {
            return Err(DesiredError::Partitions { lane: lane.name.clone() });
        }
        for (topic, partitions) in [
            (names::lane_topic(&config.pulsar.tenant, &lane.name), Some(lane.partitions)),
            (names::dead_topic(&config.pulsar.tenant, &lane.name), None),
        ] {
            let name = topic.rsplit('/').next().unwrap_or_default().to_owned();
            if topics.iter().any(|t| t.name == name) {
                return Err(DesiredError::Topic { topic: name });
            }
            topics.push(Topic { name, partitions, lane: lane.name.clone() });
        }
    }
    if topics.is_empty() { Err(DesiredError::NoLane) } else { Ok(topics) }
}

impl Retention {
    /// From what people write, rounded up. Pulsar refuses one limit of 0 beside one that is not: 0 in either is 0 in both.
    pub fn new(time: Duration, bytes: u64) -> Self {
        let minutes = clamp(time.as_secs().div_ceil(60));
        let megabytes = clamp(bytes.div_ceil(1 << 20));
        if minutes == 0 || megabytes == 0 { Self { minutes: 0, megabytes: 0 } } else { Self { minutes, megabytes } }
    }

    /// The stronger of both, limit by limit.
    pub fn or_stronger(self, other: Self) -> Self {
        let longer = |a: i64, b: i64| if a < 0 || b < 0 { -1 } else { a.max(b) };
        Self { minutes: longer(self.minutes, other.minutes), megabytes: longer(self.megabytes, other.megabytes) }
    }
}

fn clamp(n: u64) -> i64 {
    i64::try_from(n).map_or(RETENTION_MAX, |n| n.min(RETENTION_MAX))
}

impl std::fmt::Display for Retention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.minutes == 0 && self.megabytes == 0 {
            return f.write_str("nothing");
        }
        match self.minutes {
            m if m < 0 => f.write_str("for ever")?,
            m if m % 1440 == 0 => write!(f, "{} d", m / 1440)?,
            m if m % 60 == 0 => write!(f, "{} h", m / 60)?,
            m => write!(f, "{m} min")?,
        }
        match self.megabytes {
            m if m < 0 => f.write_str(" without a limit in size"),
            m if m % 1024 == 0 => write!(f, " up to {} GiB", m / 1024),
            m => write!(f, " up to {m} MiB"),
        }
    }
}
