//! Names on Pulsar: topics, producers, subscriptions, message properties. [pure]

/// Namespace of the lanes' topics, below the tenant.
pub const TELEMETRY: &str = "telemetry";

/// Namespace of inboxes and commands: the cloud writes, gateways read.
pub const CONTROL: &str = "control";

/// Namespace of what gateways say about themselves: gateways write, the cloud reads. Of its own because it is kept for
/// days, and the rest for ever.
pub const REPORTS: &str = "reports";

/// Namespace of the log of roll-outs and of the documents: only the cloud's processes read and write here. Of its own
/// because nothing of it may ever be trimmed, and because a gateway that could write here could give orders to all.
pub const ROLLOUTS: &str = "rollouts";

/// Namespace of models: the cloud writes packs, gateways read them, training pipelines write updates. Kept for ever: a pack
/// is the only place where a version's bytes are.
pub const MODELS: &str = "models";

/// Message property: `node.incarnation.lane`.
pub const STREAM: &str = "tg_stream";
/// Message property: the event's sequence in its stream, in decimal.
pub const SEQ: &str = "tg_seq";
/// Message property: `"1"` when the event was delivered from a backlog.
pub const LATE: &str = "tg_late";
/// Message property: the event's id, as CloudEvents' Kafka binding names its headers.
pub const ID: &str = "ce_id";
/// Message property: the event's source.
pub const SOURCE: &str = "ce_source";
/// Message property: CloudEvents' version, "1.0".
pub const SPECVERSION: &str = "ce_specversion";
/// Message property: the event's type.
pub const TYPE: &str = "ce_type";
/// Message property: the event's subject.
pub const SUBJECT: &str = "ce_subject";
/// Message property: the event's time.
pub const TIME: &str = "ce_time";
/// Message property: the URI of the data's schema.
pub const DATASCHEMA: &str = "ce_dataschema";
/// Message property: the media type of the data.
pub const CONTENT_TYPE: &str = "content-type";
/// Prefix of all other attributes' properties.
pub const CE_PREFIX: &str = "ce_";

/// Topic of a lane.
pub fn lane_topic(tenant: &str, lane: &str) -> String {
    format!("persistent://{tenant}/{TELEMETRY}/{lane}")
}

/// Topic for events of a lane that could not be stored.
pub fn dead_topic(tenant: &str, lane: &str) -> String {
    format!("persistent://{tenant}/{TELEMETRY}/{lane}-dead")
}

/// Topic with a node's full desired state; the newest message counts.
pub fn inbox_topic(tenant: &str, node: &str) -> String {
    format!("persistent://{tenant}/{CONTROL}/inbox-{node}")
}

/// Topic with the commands for a node's devices; each counts until the node has taken it or it expires.
pub fn commands_topic(tenant: &str, node: &str) -> String {
    format!("persistent://{tenant}/{CONTROL}/commands-{node}")
}

/// Topic with what all nodes say about themselves and their assignments; keyed by node.
pub fn reports_topic(tenant: &str) -> String {
    format!("persistent://{tenant}/{REPORTS}/nodes")
}

/// Topic with the log of configuration's roll-outs: its order decides, and nothing of it may be lost.
pub fn rollouts_topic(tenant: &str) -> String {
    format!("persistent://{tenant}/{ROLLOUTS}/config")
}

/// Topic with the keys of gateways that the cloud has pinned: whose reports count.
pub fn keys_topic(tenant: &str) -> String {
    format!("persistent://{tenant}/{ROLLOUTS}/keys")
}

/// Topic with the signed documents and keyrings.
pub fn documents_topic(tenant: &str) -> String {
    format!("persistent://{tenant}/{ROLLOUTS}/documents")
}

/// Topic whose only producer has the lead among the cloud's processes; it has no messages.
pub fn lead_topic(tenant: &str) -> String {
    format!("persistent://{tenant}/{ROLLOUTS}/lead")
}

/// Topic with the catalogue of models: which versions there are, whole.
pub fn catalogue_topic(tenant: &str) -> String {
    format!("persistent://{tenant}/{ROLLOUTS}/models")
}

/// Topic with the pack of one version of a model.
pub fn pack_topic(tenant: &str, name: &str, version: u64) -> String {
    format!("persistent://{tenant}/{MODELS}/pack-{name}-{version}")
}

/// Topic to which training pipelines send models.
pub fn updates_topic(tenant: &str) -> String {
    format!("persistent://{tenant}/{MODELS}/updates")
}

/// Topic in which they are told what became of them.
pub fn results_topic(tenant: &str) -> String {
    format!("persistent://{tenant}/{MODELS}/results")
}

/// One partition of a partitioned topic.
pub fn partition(topic: &str, index: u32) -> String {
    format!("{topic}-partition-{index}")
}

/// A stream: one lane in one life of one gateway's outbox. Sequences count within it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// The gateway.
    pub node: String,
    /// The outbox's life.
    pub incarnation: String,
    /// The lane.
    pub lane: String,
}

impl Stream {
    /// Name of its producer at `cluster`. The cluster is part of it because deduplication state is
    /// replicated with the messages: a producer that failed over and came back would be refused its own events.
    pub fn producer(&self, cluster: &str) -> String {
        format!("{self}@{cluster}")
    }

    /// Reads `node.incarnation.lane`; none of the parts has a dot.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut next = || parts.next().filter(|p| !p.is_empty()).map(str::to_owned);
        let stream = Self { node: next()?, incarnation: next()?, lane: next()? };
        parts.next().is_none().then_some(stream)
    }
}

impl std::fmt::Display for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.node, self.incarnation, self.lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_back_from_its_name() {
        let s = Stream { node: "press-7".into(), incarnation: "00ff".into(), lane: "alarms".into() };
        assert_eq!(s.to_string(), "press-7.00ff.alarms");
        assert_eq!(s.producer("eu"), "press-7.00ff.alarms@eu");
        assert_eq!(Stream::parse(&s.to_string()), Some(s));
        for bad in ["", "a.b", "a.b.c.d", "a..c"] {
            assert_eq!(Stream::parse(bad), None, "{bad}");
        }
    }
}
