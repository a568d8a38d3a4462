//! What is in Pulsar now, one cluster at a time; only reads.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::broker::Broker;
use super::desired::{Desired, Retention};
use crate::pulsar::admin::{Admin, encode};
use crate::pulsar::admin_error::AdminError;
use crate::pulsar::names;

/// Most partitions of a lane that are looked at one by one: a guard against a wrong number, not a promise of speed.
const PARTITIONS_MAX: u32 = 4096;

/// What one cluster has of what is [`Desired`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Clusters it knows, with all their settings: a change must keep those that are none of ours.
    pub known: BTreeMap<String, Map<String, Value>>,
    /// The tenant.
    pub tenant: Option<Tenant>,
    /// Those of the desired namespaces that exist.
    pub namespaces: BTreeMap<String, Policies>,
    /// Those of the desired topics that exist.
    pub topics: BTreeMap<String, Topic>,
    /// The broker's settings, where the token may read them.
    pub broker: Option<Broker>,
}

/// A tenant, as Pulsar writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// Roles that administer it.
    #[serde(default)]
    pub admin_roles: Vec<String>,
    /// Clusters it may use.
    #[serde(default)]
    pub allowed_clusters: Vec<String>,
}

/// The policies of a namespace that matter here, as Pulsar writes them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Policies {
    /// Clusters its topics live in.
    #[serde(default)]
    pub replication_clusters: Vec<String>,
    /// `None`: as the broker's default says.
    #[serde(default, rename = "deduplicationEnabled")]
    pub deduplication: Option<bool>,
    /// `None`: as the broker's default says.
    #[serde(default)]
    pub retention_policies: Option<RetentionPolicies>,
    /// `None`: as the broker's default says. Kept whole: only one of its fields is ours.
    #[serde(default)]
    pub inactive_topic_policies: Option<Map<String, Value>>,
    /// `None`: as the broker's default says.
    #[serde(default, rename = "autoTopicCreationOverride")]
    pub auto_topics: Option<AutoTopics>,
    /// Seconds after which what nobody has acknowledged is dropped.
    #[serde(default)]
    pub message_ttl_in_seconds: Option<i64>,
    /// Minutes after which a subscription that nobody uses is deleted.
    #[serde(default)]
    pub subscription_expiration_time_minutes: Option<i64>,
    /// Limits of the backlog, by kind.
    #[serde(default)]
    pub backlog_quota_map: BTreeMap<String, BacklogQuota>,
}

/// Retention, as Pulsar writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct RetentionPolicies {
    #[serde(rename = "retentionTimeInMinutes")]
    pub minutes: i64,
    #[serde(rename = "retentionSizeInMB")]
    pub megabytes: i64,
}

impl From<RetentionPolicies> for Retention {
    fn from(p: RetentionPolicies) -> Self {
        Self { minutes: p.minutes, megabytes: p.megabytes }
    }
}

/// Whether topics appear by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AutoTopics {
    /// They do.
    #[serde(default, rename = "allowAutoTopicCreation")]
    pub allowed: bool,
    /// With partitions, or without.
    #[serde(default, rename = "topicType")]
    pub kind: Option<String>,
}

/// A limit of the backlog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct BacklogQuota {
    /// What happens at the limit.
    #[serde(default)]
    pub policy: String,
}

/// A topic that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// Its partitions; 0: it is not partitioned.
    pub partitions: u32,
    /// Subscriptions of each partition (of the topic itself if it has none); `None`: the partition is missing.
    pub subscriptions: Vec<Option<BTreeSet<String>>>,
    /// Replicators of each partition, by the cluster they lead to; empty when the namespace has one cluster.
    pub replicators: Vec<BTreeMap<String, Replicator>>,
}

/// What takes a topic's messages to another cluster, as Pulsar writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Replicator {
    /// It is connected now. One that has nothing to do may not be.
    #[serde(default)]
    pub connected: bool,
    /// Messages that wait for it.
    #[serde(default, rename = "replicationBacklog")]
    pub backlog: i64,
}

/// Looks at one cluster.
pub fn observe(admin: &Admin, desired: &Desired) -> Result<Observed, AdminError> {
    let mut seen = Observed { broker: broker(admin)?, ..Observed::default() };
    for name in admin.get::<Vec<String>>("clusters")?.unwrap_or_default() {
        if let Some(data) = admin.get(&format!("clusters/{}", encode(&name)))? {
            seen.known.insert(name, data);
        }
    }
    let tenant = encode(&desired.tenant);
    seen.tenant = admin.get(&format!("tenants/{tenant}"))?;
    if seen.tenant.is_none() {
        return Ok(seen);
    }
    for namespace in &desired.namespaces {
        if let Some(policies) = admin.get(&format!("namespaces/{tenant}/{}", encode(&namespace.name)))? {
            seen.namespaces.insert(namespace.name.clone(), policies);
        }
    }
    if let Some(policies) = seen.namespaces.get(names::TELEMETRY) {
        let replicated = policies.replication_clusters.len() > 1;
        for topic in &desired.topics {
            if let Some(found) = observe_topic(admin, &tenant, &topic.name, replicated)? {
                seen.topics.insert(topic.name.clone(), found);
            }
        }
    }
    Ok(seen)
}

fn observe_topic(admin: &Admin, tenant: &str, name: &str, replicated: bool) -> Result<Option<Topic>, AdminError> {
    #[derive(Deserialize)]
    struct Metadata {
        partitions: u32,
    }
    #[derive(Default, Deserialize)]
    struct Stats {
        #[serde(default)]
        replication: BTreeMap<String, Replicator>,
    }
    let path = format!("persistent/{tenant}/{}/{}", names::TELEMETRY, encode(name));
    let Some(Metadata { partitions }) = admin.get(&format!("{path}/partitions"))? else { return Ok(None) };
    if partitions > PARTITIONS_MAX {
        let reason = format!("{partitions} partitions; at most {PARTITIONS_MAX} are looked at");
        return Err(AdminError::Answer { url: format!("{}/admin/v2/{path}", admin.url()), reason });
    }
    // The subscriptions of a partitioned topic are the union over its partitions: one that is missing on a single
    // partition does not show there (seen with 4.0.7). So each is asked.
    let each: Vec<String> = match partitions {
        0 => vec![path],
        n => (0..n).map(|i| format!("{path}-partition-{i}")).collect(),
    };
    let mut topic = Topic { partitions, ..Topic::default() };
    for path in each {
        topic.subscriptions.push(admin.get(&format!("{path}/subscriptions"))?);
        if replicated {
            // Without its publishers: a lane has thousands.
            let stats = admin.get::<Stats>(&format!("{path}/stats?excludePublishers=true&excludeConsumers=true"))?;
            topic.replicators.push(stats.unwrap_or_default().replication);
        }
    }
    Ok(Some(topic))
}

/// The broker's settings; only superusers may read them.
fn broker(admin: &Admin) -> Result<Option<Broker>, AdminError> {
    match admin.get::<Map<String, Value>>("brokers/configuration/runtime") {
        Ok(settings) => Ok(settings.as_ref().map(Broker::read)),
        Err(AdminError::Refused { status: 401 | 403, .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
