//! From what should be and what is to the steps between, in the order in which they are safe. [pure]
//!
//! The order: clusters learn of each other, then tenants, then namespaces, each with all its policies in the one request
//! that creates it (no event can come before deduplication, retention and replication are on: a replicator starts at the
//! *latest* message when its topic is older than it, `replicationStartAt` in 4.0.7), then topics, then subscriptions.
//! Replication of a namespace that exists already comes last, when the other clusters have its topics and subscriptions.

use serde_json::{Value, json};

use super::conflict::{Conflict, conflicts};
use super::desired::{ClusterAt, Desired, Namespace, Retention, Topic};
use super::observe::{Observed, Policies};
use crate::pulsar::admin::{Change, Verb, encode};
use crate::pulsar::names;

/// What is to be done, and what is to be said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// What Pulsar does by itself after a step, and has not done yet.
    pub waiting: Vec<Remark>,
    /// What is left alone although it differs.
    pub notes: Vec<Remark>,
    /// What can cost events and is not ours to change.
    pub warnings: Vec<Remark>,
}

/// One change of one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Which of [`Desired::clusters`].
    pub at: usize,
    /// What it does, for people.
    pub sentence: String,
    /// How.
    pub change: Change,
}

/// One sentence about one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The cluster's name.
    pub cluster: String,
    /// The sentence.
    pub text: String,
}

/// The steps from `seen` (one for each of [`Desired::clusters`]) to `desired`, or everything that stands in the way.
pub fn plan(desired: &Desired, seen: &[Observed]) -> Result<Plan, Vec<Conflict>> {
    assert_eq!(desired.clusters.len(), seen.len(), "one look for each cluster");
    let conflicts = conflicts(desired, seen);
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let mut planner = Planner { desired, plan: Plan::default(), last: Vec::new() };
    let each = || desired.clusters.iter().zip(seen).enumerate();
    each().for_each(|(at, (here, seen))| planner.clusters(at, here, seen));
    each().for_each(|(at, (_, seen))| planner.tenant(at, seen));
    for namespace in &desired.namespaces {
        each().for_each(|(at, (_, seen))| planner.namespace(at, seen, namespace));
    }
    for topic in &desired.topics {
        each().for_each(|(at, (_, seen))| planner.topic(at, seen, topic));
    }
    for topic in &desired.topics {
        each().for_each(|(at, (_, seen))| planner.subscriptions(at, seen, topic));
    }
    each().for_each(|(at, (here, seen))| planner.replicators(at, here, seen));
    each().for_each(|(at, (_, seen))| planner.broker(at, seen));
    let Planner { mut plan, last, .. } = planner;
    plan.steps.extend(last);
    Ok(plan)
}

struct Planner<'a> {
    desired: &'a Desired,
    plan: Plan,
    last: Vec<Step>,
}

impl Planner<'_> {
    fn step(&mut self, at: usize, sentence: String, verb: Verb, path: String, body: Option<Value>) {
        self.plan.steps.push(Step { at, sentence, change: Change { verb, path, body } });
    }

    fn note(&mut self, at: usize, text: String) {
        self.plan.notes.push(Remark { cluster: self.desired.clusters[at].name.clone(), text });
    }

    fn warn(&mut self, at: usize, text: String) {
        self.plan.warnings.push(Remark { cluster: self.desired.clusters[at].name.clone(), text });
    }

    /// Each cluster must know the others. Its own entry is its own business.
    fn clusters(&mut self, at: usize, here: &ClusterAt, seen: &Observed) {
        for other in self.desired.clusters.iter().filter(|c| c.name != here.name) {
            let wanted = addresses(other);
            let path = format!("clusters/{}", encode(&other.name));
            match seen.known.get(&other.name) {
                None => {
                    let sentence = format!("register cluster {} at {}", other.name, other.service);
                    self.step(at, sentence, Verb::Put, path, Some(Value::Object(wanted)));
                }
                Some(there) if wanted.iter().all(|(k, v)| there.get(k) == Some(v)) => {}
                Some(there) => {
                    let mut merged = there.clone();
                    merged.extend(wanted);
                    let sentence = format!("correct the address of cluster {} to {}", other.name, other.service);
                    self.step(at, sentence, Verb::Post, path, Some(Value::Object(merged)));
                }
            }
        }
    }

    fn tenant(&mut self, at: usize, seen: &Observed) {
        let path = format!("tenants/{}", encode(&self.desired.tenant));
        let tenant = &self.desired.tenant;
        let Some(there) = &seen.tenant else {
            let sentence = format!("create tenant {tenant}, allowed in {}", list(&self.desired.names));
            let body = json!({ "adminRoles": [], "allowedClusters": self.desired.names });
            return self.step(at, sentence, Verb::Put, path, Some(body));
        };
        if let Some((all, added)) = union(&there.allowed_clusters, &self.desired.names) {
            let sentence = format!("allow tenant {tenant} in {} as well", list(&added));
            let body = json!({ "adminRoles": there.admin_roles, "allowedClusters": all });
            self.step(at, sentence, Verb::Post, path, Some(body));
        }
        let extra = others(&there.allowed_clusters, &self.desired.names);
        if !extra.is_empty() {
            self.note(at, format!("tenant {tenant} may also use {}; left as it is", list(&extra)));
        }
    }

    fn namespace(&mut self, at: usize, seen: &Observed, wanted: &Namespace) {
        let name = format!("{}/{}", self.desired.tenant, wanted.name);
        let path = format!("namespaces/{}/{}", encode(&self.desired.tenant), encode(&wanted.name));
        let Some(there) = seen.namespaces.get(&wanted.name) else {
            let mut body = json!({
                "replication_clusters": self.desired.names,
                "deduplicationEnabled": true,
                "retention_policies": retention_json(wanted.retention),
                "inactive_topic_policies": inactive_json(None),
            });
            if let Some(bundles) = wanted.bundles {
                body["bundles"] = json!({ "numBundles": bundles });
            }
            body["autoTopicCreationOverride"] = auto_topics_json(wanted.auto_topics);
            let mut sentence = format!("create namespace {name}: deduplication on, retention {}", wanted.retention);
            if self.desired.names.len() > 1 {
                sentence += &format!(", replicated between {}", list(&self.desired.names));
            }
            return self.step(at, sentence, Verb::Put, path, Some(body));
        };
        self.policies(at, &name, &path, there, wanted);
        self.replication(at, &name, &path, there);
        self.risks(at, &name, there);
    }

    fn policies(&mut self, at: usize, name: &str, path: &str, there: &Policies, wanted: &Namespace) {
        if there.deduplication != Some(true) {
            let sentence = format!("turn deduplication on in {name}");
            self.step(at, sentence, Verb::Post, format!("{path}/deduplication"), Some(json!(true)));
        }
        let now = there.retention_policies.map(Retention::from);
        let target = now.map_or(wanted.retention, |now| now.or_stronger(wanted.retention));
        if now != Some(target) {
            let from = now.map_or_else(|| "the broker's default".to_owned(), |r| r.to_string());
            let sentence = format!("raise retention of {name} from {from} to {target}");
            self.step(at, sentence, Verb::Post, format!("{path}/retention"), Some(retention_json(target)));
        }
        if target != wanted.retention {
            let text = format!("{name} keeps {target}, longer than the configured {}; left as it is", wanted.retention);
            self.note(at, text);
        }
        let inactive = there.inactive_topic_policies.as_ref();
        if inactive.and_then(|p| p.get("deleteWhileInactive")) != Some(&Value::Bool(false)) {
            let sentence = format!("keep topics of {name} that are quiet for long");
            self.step(at, sentence, Verb::Post, format!("{path}/inactiveTopicPolicies"), Some(inactive_json(inactive)));
        }
        let auto_topics = there.auto_topics.clone().unwrap_or_default();
        let is_right = match wanted.auto_topics {
            true => auto_topics.allowed && auto_topics.kind.as_deref() == Some(NOT_PARTITIONED),
            false => there.auto_topics.is_some() && !auto_topics.allowed,
        };
        if !is_right {
            let sentence = match wanted.auto_topics {
                true => format!("let topics of {name} appear by themselves, without partitions"),
                false => format!("let no topic of {name} appear by itself"),
            };
            let body = auto_topics_json(wanted.auto_topics);
            self.step(at, sentence, Verb::Post, format!("{path}/autoTopicCreation"), Some(body));
        }
    }

    fn replication(&mut self, at: usize, name: &str, path: &str, there: &Policies) {
        if let Some((all, added)) = union(&there.replication_clusters, &self.desired.names) {
            let sentence = format!("replicate {name} to {} as well", list(&added));
            let change = Change { verb: Verb::Post, path: format!("{path}/replication"), body: Some(json!(all)) };
            self.last.push(Step { at, sentence, change });
        }
        let extra = others(&there.replication_clusters, &self.desired.names);
        if !extra.is_empty() {
            self.note(at, format!("{name} is also replicated to {}; left as it is", list(&extra)));
        }
    }

    /// Policies that lose events in silence. An operator made them on purpose: said, not changed.
    fn risks(&mut self, at: usize, name: &str, there: &Policies) {
        if let Some(seconds) = there.message_ttl_in_seconds.filter(|&n| n > 0) {
            self.warn(
                at,
                format!("{name} drops events that nobody has consumed after {seconds} s: remove its message TTL"),
            );
        }
        if let Some(minutes) = there.subscription_expiration_time_minutes.filter(|&n| n > 0) {
            self.warn(
                at,
                format!(
                    "{name} deletes the cloud's subscription, and what it has not consumed, when no cloud process runs \
                     for {minutes} minutes: remove its subscription expiration time"
                ),
            );
        }
        if there.backlog_quota_map.values().any(|q| q.policy == "consumer_backlog_eviction") {
            self.warn(
                at,
                format!(
                    "{name} drops the oldest events of a backlog over its quota: use producer_request_hold instead"
                ),
            );
        }
    }

    fn topic(&mut self, at: usize, seen: &Observed, wanted: &Topic) {
        let path = self.topic_path(&wanted.name);
        let name = &wanted.name;
        let there = seen.topics.get(&wanted.name);
        // "LocalTopicOnly": each cluster is told by its own step; otherwise 4.0.7 reaches across and says 204 even when
        // the other cluster did not do it (seen: the namespace was missing there).
        match (wanted.partitions, there) {
            (Some(n), None) => {
                let sentence = format!("create topic {name} with {}", count(n, "partition"));
                let path = format!("{path}/partitions?createLocalTopicOnly=true");
                self.step(at, sentence, Verb::Put, path, Some(json!(n)));
            }
            (None, None) => {
                let sentence = format!("create topic {name} for events of {} that cannot be stored", wanted.lane);
                self.step(at, sentence, Verb::Put, path, None);
            }
            (Some(n), Some(there)) if there.partitions < n => {
                let sentence = format!("grow topic {name} from {} to {}", there.partitions, count(n, "partition"));
                let path = format!("{path}/partitions?updateLocalTopicOnly=true");
                self.step(at, sentence, Verb::Post, path, Some(json!(n)));
            }
            (Some(_), Some(there)) if there.subscriptions.iter().any(Option::is_none) => {
                let sentence = format!("create the partitions that topic {name} is missing");
                self.step(at, sentence, Verb::Post, format!("{path}/createMissedPartitions"), None);
            }
            _ => {}
        }
    }

    fn subscriptions(&mut self, at: usize, seen: &Observed, wanted: &Topic) {
        let there = seen.topics.get(&wanted.name);
        let present = there
            .map_or(0, |t| t.subscriptions.iter().flatten().filter(|s| s.contains(&self.desired.subscription)).count());
        if there.is_some_and(|t| present == t.subscriptions.len()) {
            // Pulsar gives a partition that is added the subscriptions of the others (seen with 4.0.7).
            return;
        }
        let topic = self.topic_path(&wanted.name);
        let subscription = encode(&self.desired.subscription);
        // Of a partitioned topic as a whole when none has it: one request. Else where it is missing, because the request
        // for the whole would be refused with 409.
        let targets: Vec<(String, String)> = match there {
            Some(t) if present > 0 => (0..t.subscriptions.len())
                .filter(|&i| !t.subscriptions[i].as_ref().is_some_and(|s| s.contains(&self.desired.subscription)))
                .map(|i| (format!("{topic}-partition-{i}"), format!("{}-partition-{i}", wanted.name)))
                .collect(),
            _ => vec![(topic, wanted.name.clone())],
        };
        // Java's MessageId.earliest. Its JSON form is not documented; a message that was there before is delivered.
        let earliest = json!({ "ledgerId": -1, "entryId": -1, "partitionIndex": -1 });
        for (path, name) in targets {
            let sentence =
                format!("create subscription {} on {name}, from the first event on", self.desired.subscription);
            self.step(at, sentence, Verb::Put, format!("{path}/subscription/{subscription}"), Some(earliest.clone()));
        }
    }

    /// A replicator begins at the latest message when it appears. Pulsar creates those of topics that exist some time
    /// *after* it answered the request that turned replication on (seen with 4.0.7: 170 ms later 3 of 16 partitions had
    /// none): what is sent in between never reaches the other cluster. So provisioning is over only when all are there.
    fn replicators(&mut self, at: usize, here: &ClusterAt, seen: &Observed) {
        for (name, topic) in &seen.topics {
            let mut stuck = std::collections::BTreeMap::<&String, i64>::new();
            for (i, there) in topic.replicators.iter().enumerate() {
                for other in self.desired.names.iter().filter(|n| **n != here.name) {
                    match there.get(other) {
                        None => {
                            let text = format!("replication of {name} (partition {i}) to {other} has not begun");
                            self.plan.waiting.push(Remark { cluster: here.name.clone(), text });
                        }
                        Some(r) if !r.connected && r.backlog > 0 => *stuck.entry(other).or_default() += r.backlog,
                        Some(_) => {}
                    }
                }
            }
            for (other, backlog) in stuck {
                self.warn(
                    at,
                    format!(
                        "{backlog} events of {name} wait for {other}, and replication is not connected: check that the \
                         brokers of {} reach {other}'s service URL",
                        here.name
                    ),
                );
            }
        }
    }

    fn broker(&mut self, at: usize, seen: &Observed) {
        match &seen.broker {
            Some(broker) => broker.warnings().into_iter().for_each(|text| self.warn(at, text)),
            None => self.note(
                at,
                "the token may not read the broker's settings; check brokerDeduplicationProducerInactivityTimeoutMinutes \
                 and brokerDeduplicationMaxNumberOfProducers yourself"
                    .to_owned(),
            ),
        }
    }

    fn topic_path(&self, topic: &str) -> String {
        format!("persistent/{}/{}/{}", encode(&self.desired.tenant), names::TELEMETRY, encode(topic))
    }
}

/// The fields of Pulsar's ClusterData that say where `cluster` is.
fn addresses(cluster: &ClusterAt) -> serde_json::Map<String, Value> {
    let admin = cluster.admin.trim_end_matches('/');
    let mut data = serde_json::Map::new();
    let key = if admin.starts_with("https:") { "serviceUrlTls" } else { "serviceUrl" };
    data.insert(key.to_owned(), json!(admin));
    if cluster.service.starts_with("pulsar+ssl:") {
        data.insert("brokerServiceUrlTls".to_owned(), json!(cluster.service));
        data.insert("brokerClientTlsEnabled".to_owned(), json!(true));
    } else {
        data.insert("brokerServiceUrl".to_owned(), json!(cluster.service));
    }
    data
}

/// Pulsar's word for topics that have none; a broker's default may be another, and order needs it.
const NOT_PARTITIONED: &str = "non-partitioned";

fn auto_topics_json(allowed: bool) -> Value {
    match allowed {
        true => json!({ "allowAutoTopicCreation": true, "topicType": NOT_PARTITIONED }),
        false => json!({ "allowAutoTopicCreation": false }),
    }
}

fn retention_json(r: Retention) -> Value {
    json!({ "retentionTimeInMinutes": r.minutes, "retentionSizeInMB": r.megabytes })
}

/// Keeps what an operator set beside the one field that is ours; 60 s is Pulsar's default and has no effect then.
fn inactive_json(there: Option<&serde_json::Map<String, Value>>) -> Value {
    let mut policies = there.cloned().unwrap_or_default();
    policies.entry("inactiveTopicDeleteMode").or_insert_with(|| json!("delete_when_no_subscriptions"));
    policies.entry("maxInactiveDurationSeconds").or_insert_with(|| json!(60));
    policies.insert("deleteWhileInactive".to_owned(), json!(false));
    Value::Object(policies)
}

/// `there` with what it lacks of `wanted`, and what that is; `None`: it lacks nothing.
fn union(there: &[String], wanted: &[String]) -> Option<(Vec<String>, Vec<String>)> {
    let added = others(wanted, there);
    (!added.is_empty()).then(|| ([there, &added].concat(), added))
}

fn others(of: &[String], without: &[String]) -> Vec<String> {
    of.iter().filter(|n| !without.contains(n)).cloned().collect()
}

fn list(names: &[String]) -> String {
    names.join(", ")
}

fn count(n: u32, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
