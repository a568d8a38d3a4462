//! Property tests of the plan: from any state found it converges, lowers nothing and deletes nothing.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Map;

use super::super::broker::Broker;
use super::super::desired::DesiredError;
use super::super::observe;
use super::*;
use crate::config::CloudConfig;
use crate::config::cloud::{Cluster, Lane};

fn config(clusters: usize, partitions: u32) -> CloudConfig {
    let mut config = CloudConfig::default();
    let at = |i: usize| Cluster {
        name: format!("c{i}"),
        service: format!("pulsar://c{i}:6650"),
        admin: format!("http://c{i}:8080/"),
    };
    config.clusters = (0..clusters).map(at).collect();
    config.lanes = vec![Lane { name: "telemetry".into(), partitions }];
    config
}

fn fresh(desired: &Desired) -> Vec<Observed> {
    let one = |here: &ClusterAt| Observed {
        known: [(here.name.clone(), addresses(here))].into(),
        broker: Some(Broker { cluster: Some(here.name.clone()), ..Broker::default() }),
        ..Observed::default()
    };
    desired.clusters.iter().map(one).collect()
}

/// What Pulsar does with a step, as far as it is observed. Refuses what Pulsar refuses.
fn perform(seen: &mut Observed, change: &Change) {
    let body = change.body.clone().unwrap_or_default();
    let (path, _) = change.path.split_once('?').unwrap_or((&change.path, ""));
    let parts: Vec<&str> = path.split('/').collect();
    match (change.verb, parts.as_slice()) {
        (verb, ["clusters", name]) => {
            let before = seen.known.insert((*name).into(), body.as_object().unwrap().clone());
            assert_eq!(before.is_some(), verb == Verb::Post);
        }
        (verb, ["tenants", _]) => {
            assert_eq!(seen.tenant.is_some(), verb == Verb::Post);
            let tenant: observe::Tenant = serde_json::from_value(body).unwrap();
            assert!(tenant.allowed_clusters.iter().all(|c| seen.known.contains_key(c)), "412: clusters do not exist");
            seen.tenant = Some(tenant);
        }
        (Verb::Put, ["namespaces", _, name]) => {
            let policies: Policies = serde_json::from_value(body).unwrap();
            allowed(seen, &policies.replication_clusters);
            assert!(seen.namespaces.insert((*name).into(), policies).is_none());
        }
        (Verb::Post, ["namespaces", _, name, policy]) => {
            if *policy == "replication" {
                allowed(seen, &serde_json::from_value::<Vec<String>>(body.clone()).unwrap());
            }
            let there = seen.namespaces.get_mut(*name).unwrap();
            match *policy {
                "deduplication" => there.deduplication = serde_json::from_value(body).unwrap(),
                "retention" => there.retention_policies = serde_json::from_value(body).unwrap(),
                "inactiveTopicPolicies" => there.inactive_topic_policies = serde_json::from_value(body).unwrap(),
                "autoTopicCreation" => there.auto_topics = serde_json::from_value(body).unwrap(),
                "replication" => there.replication_clusters = serde_json::from_value(body).unwrap(),
                other => panic!("no policy {other}"),
            }
        }
        (_, ["persistent", _, namespace, rest @ ..]) => {
            assert!(seen.namespaces.contains_key(*namespace), "404: namespace");
            perform_on_topic(seen, change.verb, rest, &body);
        }
        other => panic!("no such request: {other:?}"),
    }
}

fn allowed(seen: &Observed, clusters: &[String]) {
    let tenant = seen.tenant.as_ref().unwrap();
    assert!(clusters.iter().all(|c| tenant.allowed_clusters.contains(c)), "403: cluster not allowed for the tenant");
}

fn perform_on_topic(seen: &mut Observed, verb: Verb, rest: &[&str], body: &Value) {
    let partitions = || u32::try_from(body.as_u64().unwrap()).unwrap();
    match (verb, rest) {
        (Verb::Put, [name]) => {
            let topic =
                observe::Topic { partitions: 0, subscriptions: vec![Some(BTreeSet::new())], ..Default::default() };
            assert!(seen.topics.insert((*name).into(), topic).is_none(), "409");
        }
        (Verb::Put, [name, "partitions"]) => {
            let n = partitions();
            let topic = observe::Topic {
                partitions: n,
                subscriptions: vec![Some(BTreeSet::new()); n as usize],
                ..Default::default()
            };
            assert!(seen.topics.insert((*name).into(), topic).is_none(), "409");
        }
        (Verb::Post, [name, "partitions"]) => {
            let there = seen.topics.get_mut(*name).unwrap();
            assert!(partitions() > there.partitions, "422");
            let of_others = there.subscriptions.iter().flatten().flatten().cloned().collect();
            there.partitions = partitions();
            there.subscriptions.resize(there.partitions as usize, Some(of_others));
        }
        (Verb::Post, [name, "createMissedPartitions"]) => {
            let there = seen.topics.get_mut(*name).unwrap();
            there.subscriptions.iter_mut().for_each(|s| _ = s.get_or_insert_default());
        }
        (Verb::Put, [name, "subscription", subscription]) => {
            let (topic, only) = match name.split_once("-partition-") {
                Some((topic, i)) => (topic, Some(i.parse::<usize>().unwrap())),
                None => (*name, None),
            };
            for (i, there) in seen.topics.get_mut(topic).unwrap().subscriptions.iter_mut().enumerate() {
                if only.is_none_or(|o| o == i) {
                    there.get_or_insert_default().insert((*subscription).into());
                }
            }
        }
        other => panic!("no such request: {other:?}"),
    }
}

fn perform_all(seen: &mut [Observed], plan: &Plan) {
    plan.steps.iter().for_each(|step| perform(&mut seen[step.at], &step.change));
}

/// Anything an operator, an older version or an interrupted run may have left.
fn observed(names: Vec<String>) -> impl Strategy<Value = Vec<Observed>> {
    names.iter().map(|me| one_observed(me.clone(), names.clone())).collect::<Vec<_>>()
}

fn one_observed(me: String, names: Vec<String>) -> impl Strategy<Value = Observed> {
    let known = proptest::collection::vec(any::<Option<bool>>(), names.len());
    let replication = proptest::collection::vec(any::<bool>(), names.len());
    let policies = (
        any::<Option<bool>>(),
        proptest::option::of(prop_oneof![Just((-1, -1)), Just((0, 0)), (1..99_999i64, 1..99_999i64)]),
        any::<Option<bool>>(),
        any::<Option<bool>>(),
    );
    let subscriptions = proptest::collection::vec(any::<Option<bool>>(), 0..6);
    (known, replication, any::<[bool; 3]>(), policies, subscriptions).prop_map(
        move |(known, replication, [tenant, namespace, topic], (dedup, retention, inactive, auto), subscriptions)| {
            let mut seen = Observed::default();
            seen.known.insert(me.clone(), Map::new());
            for (name, known) in names.iter().zip(known) {
                if let (Some(right), true) = (known, *name != me) {
                    let url = if right { format!("http://{name}:8080") } else { "http://old".into() };
                    let data =
                        json!({ "serviceUrl": url, "brokerServiceUrl": format!("pulsar://{name}:6650"), "kept": 1 });
                    seen.known.insert(name.clone(), data.as_object().unwrap().clone());
                }
            }
            if !tenant {
                return seen;
            }
            let known: Vec<String> = seen.known.keys().cloned().collect();
            seen.tenant = Some(observe::Tenant { admin_roles: vec!["ops".into()], allowed_clusters: known.clone() });
            if !namespace {
                return seen;
            }
            let policies = Policies {
                replication_clusters: known
                    .iter()
                    .zip(replication)
                    .filter(|(n, r)| *r || **n == me)
                    .map(|(n, _)| n.clone())
                    .collect(),
                deduplication: dedup,
                retention_policies: retention
                    .map(|(minutes, megabytes)| observe::RetentionPolicies { minutes, megabytes }),
                inactive_topic_policies: inactive
                    .map(|b| json!({ "deleteWhileInactive": b, "kept": 1 }).as_object().unwrap().clone()),
                auto_topics: auto.map(|allowed| observe::AutoTopics { allowed, kind: None }),
                ..Policies::default()
            };
            seen.namespaces.insert(names::TELEMETRY.into(), policies);
            if topic && !subscriptions.is_empty() {
                let set = |has: bool| if has { ["tidegate-cloud".to_owned()].into() } else { BTreeSet::new() };
                let subscriptions: Vec<_> = subscriptions.into_iter().map(|s| s.map(set)).collect();
                let partitions = u32::try_from(subscriptions.len()).unwrap();
                seen.topics
                    .insert("telemetry".into(), observe::Topic { partitions, subscriptions, ..Default::default() });
            }
            seen
        },
    )
}

proptest! {
    #[test]
    fn whatever_was_there_two_rounds_lead_to_nothing_to_do(
        (clusters, mut seen) in (1..4usize).prop_flat_map(|n| (Just(n), observed((0..n).map(|i| format!("c{i}")).collect()))),
        partitions in 1..8u32,
    ) {
        let desired = Desired { grow: true, ..Desired::from_config(&config(clusters, partitions)).unwrap() };
        let before = seen.clone();
        match plan(&desired, &seen) {
            Err(conflicts) => {
                let too_many = |o: &Observed| o.topics.get("telemetry").is_some_and(|t| t.partitions > partitions);
                prop_assert_eq!(conflicts.len(), seen.iter().filter(|o| too_many(o)).count());
            }
            Ok(first) => {
                perform_all(&mut seen, &first);
                // A partition that was missing may need its subscription in a second round.
                let second = plan(&desired, &seen).unwrap();
                perform_all(&mut seen, &second);
                let last = plan(&desired, &seen).unwrap();
                prop_assert_eq!(&last.steps, &vec![]);
                for (before, after) in before.iter().zip(&seen) {
                    prop_assert!(nothing_lost(before, after), "{:?}\n{:?}", before, after);
                    let namespace = &after.namespaces["telemetry"];
                    prop_assert_eq!(namespace.deduplication, Some(true));
                    prop_assert_eq!(namespace.replication_clusters.len(), clusters);
                    let topic = &after.topics["telemetry"];
                    prop_assert_eq!(topic.partitions, partitions);
                    let subscribed = |s: &Option<BTreeSet<String>>| s.as_ref().is_some_and(|s| s.contains("tidegate-cloud"));
                    prop_assert!(topic.subscriptions.iter().all(subscribed));
                }
            }
        }
    }
}

fn nothing_lost(before: &Observed, after: &Observed) -> bool {
    let tenant = |o: &Observed| o.tenant.clone().unwrap_or_default();
    let retention =
        |o: &Observed| o.namespaces.get("telemetry").and_then(|n| n.retention_policies).map(Retention::from);
    let kept = |o: &Observed| o.known.values().filter(|d| d.contains_key("kept")).count();
    tenant(before).admin_roles.iter().all(|r| tenant(after).admin_roles.contains(r))
        && tenant(before).allowed_clusters.iter().all(|c| tenant(after).allowed_clusters.contains(c))
        && retention(before).is_none_or(|b| retention(after).is_some_and(|a| a.or_stronger(b) == a))
        && kept(before) == kept(after)
}

#[test]
fn a_fresh_cluster_gets_its_safety_before_its_topics() {
    let desired = Desired { grow: true, ..Desired::from_config(&config(2, 4)).unwrap() };
    let mut seen = fresh(&desired);
    let plan = plan(&desired, &seen).unwrap();
    let position = |text: &str| plan.steps.iter().position(|s| s.sentence.contains(text)).unwrap();
    assert!(position("register cluster") < position("create tenant"));
    assert!(position("create tenant") < position("create namespace tidegate/telemetry"));
    assert!(position("create namespace tidegate/telemetry") < position("create topic telemetry with 4 partitions"));
    assert!(position("create topic") < position("create subscription"));
    let namespace = &plan.steps[position("create namespace tidegate/telemetry")];
    let body = namespace.change.body.as_ref().unwrap();
    assert_eq!(body["deduplicationEnabled"], true, "in the request that creates it: no event can come before");
    assert_eq!(body["replication_clusters"], json!(["c0", "c1"]));
    perform_all(&mut seen, &plan);
    assert_eq!(super::plan(&desired, &seen).unwrap().steps, vec![]);
}

#[test]
fn all_conflicts_are_told_at_once() {
    let desired = Desired { grow: true, ..Desired::from_config(&config(2, 2)).unwrap() };
    let mut seen = fresh(&desired);
    seen[0].broker = Some(Broker { cluster: Some("standalone".into()), ..Broker::default() });
    seen[1].topics.insert(
        "telemetry".into(),
        observe::Topic { partitions: 3, subscriptions: vec![None; 3], ..Default::default() },
    );
    seen[1].topics.insert(
        "telemetry-dead".into(),
        observe::Topic { partitions: 1, subscriptions: vec![None], ..Default::default() },
    );
    let conflicts = plan(&desired, &seen).unwrap_err();
    assert_eq!(conflicts.len(), 3, "{conflicts:?}");
    assert!(conflicts[0].to_string().contains("is the cluster standalone, not \"c0\""), "{}", conflicts[0]);
}

#[test]
fn provisioning_waits_for_every_replicator() {
    let desired = Desired { grow: true, ..Desired::from_config(&config(2, 2)).unwrap() };
    let mut seen = fresh(&desired);
    let first = plan(&desired, &seen).unwrap();
    perform_all(&mut seen, &first);
    let there = |connected, backlog| [("c1".to_owned(), observe::Replicator { connected, backlog })].into();
    let topic = seen[0].topics.get_mut("telemetry").unwrap();
    topic.replicators = vec![there(false, 0), Default::default()];
    let plan_now = plan(&desired, &seen).unwrap();
    let text = "replication of telemetry (partition 1) to c1 has not begun".to_owned();
    assert_eq!(plan_now.waiting, vec![Remark { cluster: "c0".into(), text }]);
    assert_eq!(plan_now.warnings, vec![], "one that has nothing to do may be disconnected");

    seen[0].topics.get_mut("telemetry").unwrap().replicators = vec![there(false, 3), there(true, 5)];
    let plan_now = plan(&desired, &seen).unwrap();
    assert_eq!(plan_now.waiting, vec![]);
    assert!(plan_now.warnings[0].text.starts_with("3 events of telemetry wait for c1"), "{plan_now:?}");
}

#[test]
fn low_broker_defaults_are_warned_of() {
    let read = |text: &str| Broker::read(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap());
    let low = read(
        r#"{"clusterName":"a","brokerDeduplicationProducerInactivityTimeoutMinutes":"360",
            "brokerDeduplicationMaxNumberOfProducers":"10000","ttlDurationDefaultInSeconds":"9",
            "subscriptionExpirationTimeMinutes":"5","backlogQuotaDefaultRetentionPolicy":"consumer_backlog_eviction",
            "backlogQuotaDefaultLimitBytes":"1"}"#,
    );
    assert_eq!(low.warnings().len(), 5);
    let high = read(
        r#"{"brokerDeduplicationProducerInactivityTimeoutMinutes":"361","brokerDeduplicationMaxNumberOfProducers":"10001",
            "ttlDurationDefaultInSeconds":"0","backlogQuotaDefaultRetentionPolicy":"consumer_backlog_eviction",
            "backlogQuotaDefaultLimitBytes":"-1"}"#,
    );
    assert_eq!(high.warnings(), Vec::<String>::new());
}

#[test]
fn a_configuration_that_cannot_be_meant_is_refused() {
    let of = |change: fn(&mut CloudConfig)| {
        let mut config = config(2, 1);
        change(&mut config);
        Desired::from_config(&config).unwrap_err()
    };
    assert_eq!(of(|c| c.lanes.clear()), DesiredError::NoLane);
    assert_eq!(of(|c| c.clusters[1].name = "c0".into()), DesiredError::Twice { name: "c0".into() });
    assert_eq!(of(|c| c.pulsar.clusters = vec!["c2".into()]), DesiredError::Nowhere { name: "c2".into() });
    assert_eq!(
        of(|c| c.lanes.push(Lane { name: "telemetry-dead".into(), partitions: 1 })),
        DesiredError::Topic { topic: "telemetry-dead".into() }
    );
    assert_eq!(of(|c| c.lanes[0].partitions = 0), DesiredError::Partitions { lane: "telemetry".into() });
}

#[test]
fn retention_is_rounded_up_and_written_for_people() {
    use std::time::Duration;
    let of = |seconds, bytes| Retention::new(Duration::from_secs(seconds), bytes);
    assert_eq!(of(61, (1 << 20) + 1), Retention { minutes: 2, megabytes: 2 });
    assert_eq!(of(0, 5), Retention { minutes: 0, megabytes: 0 });
    assert_eq!(of(u64::MAX, u64::MAX), Retention { minutes: i64::from(i32::MAX), megabytes: i64::from(i32::MAX) });
    assert_eq!(of(7 * 86_400, 10 << 30).to_string(), "7 d up to 10 GiB");
    assert_eq!(of(5400, 1 << 20).to_string(), "90 min up to 1 MiB");
    assert_eq!(Retention { minutes: -1, megabytes: -1 }.to_string(), "for ever without a limit in size");
    assert_eq!(of(0, 0).to_string(), "nothing");
}
