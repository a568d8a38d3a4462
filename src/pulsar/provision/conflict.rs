//! What no step can mend: found before anything is changed, all of it at once. [pure]

use super::desired::Desired;
use super::observe::Observed;
use crate::pulsar::names;

/// What stands in the way; nothing is changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Another cluster is at the URL.
    #[error(
        "{admin} is the cluster {found}, not {name:?}: correct the name in [pulsar] clusters or [[cluster]], or the URL"
    )]
    OtherCluster {
        /// The admin URL.
        admin: String,
        /// The configured name.
        name: String,
        /// What it calls itself, or the names it knows.
        found: String,
    },
    /// A cluster without an address.
    #[error("cluster {at} does not know {name:?}: add a [[cluster]] for each cluster, with service and admin URL")]
    UnknownCluster {
        /// The cluster that was asked.
        at: String,
        /// The name it does not know.
        name: String,
    },
    /// Partitions would have to go.
    #[error(
        "lane {lane:?} has {there} partitions at {at} and {wanted} in the configuration: Pulsar cannot take partitions \
         away. Set partitions = {there}, or use a lane of another name"
    )]
    Shrink {
        /// The lane.
        lane: String,
        /// The cluster.
        at: String,
        /// Partitions there.
        there: u32,
        /// Partitions configured.
        wanted: u32,
    },
    /// More partitions for a topic that gateways may be sending to. A device's events move to another partition, whose
    /// sequence ids may be ahead already: the broker then takes an event that was sent and not confirmed for a
    /// duplicate, and it is lost.
    #[error(
        "lane {lane:?} has {there} partitions at {at} and {wanted} in the configuration: growing them while a gateway has \
         events under way can lose or double these. Stop or drain every gateway (no backlog in /v1/status), then run this \
         with --grow-partitions; or set partitions = {there}"
    )]
    Grow {
        /// The lane.
        lane: String,
        /// The cluster.
        at: String,
        /// Partitions there.
        there: u32,
        /// Partitions configured.
        wanted: u32,
    },
    /// A lane's topic without partitions.
    #[error(
        "the topic {topic} at {at} exists without partitions (it appeared when somebody used its name); Pulsar cannot add \
         them. Consume what it holds and delete it, or use a lane of another name"
    )]
    NotPartitioned {
        /// The topic.
        topic: String,
        /// The cluster.
        at: String,
    },
    /// A dead-letter topic with partitions.
    #[error(
        "the topic {topic} at {at} has partitions, but dead letters need one without: delete it, or rename the lane"
    )]
    Partitioned {
        /// The topic.
        topic: String,
        /// The cluster.
        at: String,
    },
}

/// Everything that stands in the way.
pub(super) fn conflicts(desired: &Desired, seen: &[Observed]) -> Vec<Conflict> {
    let mut all = Vec::new();
    for (here, seen) in desired.clusters.iter().zip(seen) {
        let itself = seen.broker.as_ref().and_then(|b| b.cluster.clone());
        let known = || seen.known.keys().cloned().collect::<Vec<_>>().join(", ");
        let found = match itself {
            Some(name) if name == here.name => None,
            Some(name) => Some(name),
            None => (!seen.known.contains_key(&here.name)).then(|| format!("one of {}", known())),
        };
        if let Some(found) = found {
            all.push(Conflict::OtherCluster { admin: here.admin.clone(), name: here.name.clone(), found });
            continue;
        }
        for name in &desired.names {
            if !seen.known.contains_key(name) && desired.clusters.iter().all(|c| &c.name != name) {
                all.push(Conflict::UnknownCluster { at: here.name.clone(), name: name.clone() });
            }
        }
        for topic in &desired.topics {
            let Some(there) = seen.topics.get(&topic.name) else { continue };
            let at = here.name.clone();
            let full = || format!("{}/{}/{}", desired.tenant, names::TELEMETRY, topic.name);
            match (topic.partitions, there.partitions) {
                (Some(_), 0) => all.push(Conflict::NotPartitioned { topic: full(), at }),
                (Some(wanted), there) if there > wanted => {
                    all.push(Conflict::Shrink { lane: topic.lane.clone(), at, there, wanted });
                }
                (Some(wanted), there) if there < wanted && !desired.grow => {
                    all.push(Conflict::Grow { lane: topic.lane.clone(), at, there, wanted });
                }
                (None, n) if n > 0 => all.push(Conflict::Partitioned { topic: full(), at }),
                _ => {}
            }
        }
    }
    all
}
