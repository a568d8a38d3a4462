//! `edge.toml`: its table of keys, and how it is loaded.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use super::devices::{
    Bridge, BridgeVersion, CONNECTION_BYTES, CertificateName, ClientCertificates, Commands, Identity, IdentityMode,
    Mapping, Mqtt, Payload, SESSION_BYTES, SESSIONS_BYTES, Tls, TlsVersion, Unmapped,
};
use super::document::Document;
use super::edge_rules;
use super::env::Env;
pub use super::inference::Inference;
use super::key_text::{RevokedId, TrustedKey};
use super::kinds::{Address, Choice, Count, FilePath, List, Optional, OrOff, SecretText, Size, Text, Time, TokenFile};
pub use super::log::{Log, LogFormat};
pub use super::models::{Model, Models};
use super::names::{LANE_NAME, NODE_ID, PULSAR_NAME, TopicFilter, TypePattern};
use super::overlay::{self, CheckedOn, Overlaid, Pushed};
use super::problem::{ConfigErrors, Warning};
use super::reader::{OtherMode, Reader};
pub use super::secret::Secret;
use super::table::{Section, changes, key, section};
use super::urls::ServiceUrl;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// What stands in for the node's name until it is known.
const NODE_ID_FALLBACK: &str = "edge";

/// Most keys of one kind: a few people, the cloud's, and their successors.
pub(super) const KEYS_MAX: usize = 16;

/// SHA-256 of "tidegate example key": nobody has a secret key to it.
pub(super) const EXAMPLE_KEYS: &str = "[\"tidegate-pub-ed25519:e8J+esSsJx/0oLQpTErXA3+L1Lzu4vSS2VxRN2bX7OM=\"]";

/// The type pattern of a lane that gets no events: every event has a type.
pub(super) const TAKES_NOTHING: &str = "";

/// The sections of `edge.toml`.
pub(super) const SECTIONS: [&str; 16] = [
    "node",
    "http",
    "mqtt",
    "tls",
    "identity",
    "mapping",
    "bridge",
    "inference",
    "commands",
    "outbox",
    "lane",
    "uplink",
    "downlink",
    "models",
    "model",
    "log",
];

/// The whole of `edge.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeConfig {
    /// `[node]`
    pub node: Node,
    /// `[http]`
    pub http: Http,
    /// `[mqtt]`
    pub mqtt: Mqtt,
    /// `[tls]`
    pub tls: Tls,
    /// `[identity]`
    pub identity: Identity,
    /// `[[mapping]]`, in the order written.
    pub mappings: Vec<Mapping>,
    /// `[[bridge]]`
    pub bridges: Vec<Bridge>,
    /// `[[inference]]`, in the order written.
    pub inferences: Vec<Inference>,
    /// `[commands]`
    pub commands: Commands,
    /// `[outbox]`
    pub outbox: Outbox,
    /// `[[lane]]`, in the order written; the last one takes what no other lane matches.
    pub lanes: Vec<Lane>,
    /// `[uplink]`
    pub uplink: Uplink,
    /// `[downlink]`
    pub downlink: Downlink,
    /// `[models]`
    pub models: Models,
    /// `[[model]]`
    pub model: Vec<Model>,
    /// `[log]`
    pub log: Log,
}

section! {
    /// `[node]`: who this gateway is.
    "node" => Node {
        /// Name of the gateway, unique in the tenant: 1 to 64 letters, digits, `-`, `_`.
        id: String = NODE_ID_FALLBACK.into(),
            key(NODE_ID).default_note("the host name up to its first dot").example("\"press-7\"");
        /// Where everything durable lies.
        data_dir: PathBuf = "./tidegate-data".into(), key(FilePath);
        /// Groups that configuration can be addressed to.
        groups: Vec<String> = Vec::new(), key(List(NODE_ID, 64)).example("[\"plant-7\"]");
    }
}

section! {
    /// `[http]`: the HTTP way in.
    "http" => Http {
        /// Address and port.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8800)), key(Address);
        /// Address and port for HTTPS, with the certificate of `[tls]`.
        tls_listen: Option<SocketAddr> = None, key(OrOff(Address)).default_note("\"off\"").example("\"0.0.0.0:8843\"");
        /// Most connections at once; further ones wait in the kernel's queue.
        max_connections: usize = 10_240, key(Count(1, 1_000_000));
        /// Time for a request's head to arrive, and for an idle connection to say something.
        header_timeout: Duration = Duration::from_secs(10),
            key(Time(Duration::from_millis(100), Duration::from_secs(3600)));
        /// Time for a request's body to arrive.
        body_timeout: Duration = Duration::from_secs(30),
            key(Time(Duration::from_millis(100), Duration::from_secs(3600)));
        /// Largest body as sent, in bytes.
        max_body: u64 = 16 * MIB, key(Size(KIB, GIB));
        /// Largest body after decompression, in bytes.
        max_inflated: u64 = 64 * MIB, key(Size(KIB, GIB));
        /// Most events in one request.
        max_batch: usize = 10_000, key(Count(1, 1_000_000));
        /// Bodies held in memory at once, in bytes; more are refused with 503.
        max_memory: u64 = 64 * MIB, key(Size(MIB, 64 * GIB));
    }
}

section! {
    /// `[outbox]`: the buffer on disk.
    "outbox" => Outbox {
        /// Most disk space, in bytes, for all lanes together.
        max_bytes: u64 = 2 * GIB, key(Size(16 * MIB, 64 * TIB));
        /// When an event counts as accepted: "disk", after fdatasync returned, survives a power cut;
        /// "os", when the operating system has it, survives kill -9 but not a power cut.
        durability: Durability = Durability::Disk,
            key(Choice(&[("disk", Durability::Disk), ("os", Durability::Os)]));
        /// Largest event (its record on disk), in bytes. Pulsar takes messages of up to 5 MiB.
        max_event: u64 = MIB, key(Size(KIB, 4 * MIB));
        /// How long an event repeated with the same source and id gets the first answer again.
        dedup_window: Duration = Duration::from_secs(600), key(Time(Duration::ZERO, Duration::from_secs(86_400)));
    }
}

/// When an event counts as accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After fdatasync returned: survives a power cut.
    Disk,
    /// When the operating system has it: survives kill -9, not a power cut.
    Os,
}

section! {
    /// `[[lane]]`: a stream of events with its own sequence and topic. An event goes into the first
    /// lane that matches its type; the last lane has no types and takes what is left.
    "lane" => Lane {
        /// 1 to 32 lower-case letters, digits, `-`.
        name: String = "telemetry".into(), key(LANE_NAME).required();
        /// Event types this lane takes; `*` matches any run of characters. Empty: everything that is left.
        types: Vec<String> = Vec::new(), key(List(TypePattern, 256)).example("[\"*.alarm\"]");
        /// MQTT topics whose messages this lane takes, whatever their type. A lane with `mqtt` and without `types`
        /// takes nothing else.
        mqtt: Vec<String> = Vec::new(), key(List(TopicFilter, 256)).example("[\"+/alarm\"]");
    }
    later {
        /// 1 is delivered first. Not in effect in this version: lanes share the link evenly.
        priority: key(Count(1_u32, 9)).example("1").later(|_| Some("lanes share the link evenly"));
        /// What happens when the disk budget is used up. Only "refuse" is in effect in this version.
        on_full: key(Choice(&[("refuse", true), ("drop-oldest", false), ("thin", false)]))
            .default_note("\"refuse\"")
            .example("\"refuse\"")
            .later(|refuse| (!refuse).then_some("a full lane refuses new events, as with \"refuse\""));
    }
}

section! {
    /// `[uplink]`: the way to Pulsar.
    "uplink" => Uplink {
        /// Service URLs (`pulsar://` or `pulsar+ssl://`) of one cluster, tried in turn. Empty: only buffer.
        pulsar: Vec<String> = Vec::new(), key(List(ServiceUrl, 16)).example("[\"pulsar://127.0.0.1:6650\"]");
        /// Pulsar tenant.
        tenant: String = "tidegate".into(), key(PULSAR_NAME);
        /// Name of the cluster; part of the producer's name, so it must not change while events wait.
        cluster: String = "standalone".into(), key(PULSAR_NAME);
        /// Token, if the broker wants one. Prefer `token_file`.
        token: Option<Secret> = None, key(Optional(SecretText)).example("\"…\"");
        /// File with the token; read at every connect.
        token_file: Option<PathBuf> = None, key(Optional(TokenFile)).example("\"/etc/tidegate/token\"");
        /// PEM file with the authorities to trust for `pulsar+ssl://`, instead of the public ones.
        ca_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/ca.pem\"");
        /// Most events in a batch.
        batch_events: usize = 1000, key(Count(1, 100_000));
        /// Most bytes in a batch before compression.
        batch_bytes: u64 = 128 * KIB, key(Size(KIB, 4 * MIB));
        /// Most bytes sent and not yet confirmed, per lane.
        window: u64 = 4 * MIB, key(Size(64 * KIB, GIB));
        /// Compression of batches.
        compression: Compression = Compression::None,
            key(Choice(&[("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)]));
        /// Time to connect, including TLS.
        connect_timeout: Duration = Duration::from_secs(10),
            key(Time(Duration::from_millis(100), Duration::from_secs(300)));
        /// Time for the broker to confirm a batch before the connection is given up.
        receipt_timeout: Duration = Duration::from_secs(30),
            key(Time(Duration::from_secs(1), Duration::from_secs(600)));
        /// Longest wait between two attempts to connect.
        retry_max: Duration = Duration::from_millis(800),
            key(Time(Duration::from_millis(10), Duration::from_secs(3600)));
    }
}

section! {
    /// `[downlink]`: whom this gateway takes configuration from, and how it is tried. `tidegate config verify` checks a
    /// signed file by it. Without keys nothing is taken.
    "downlink" => Downlink {
        /// Public keys that sign keyrings: documents that add and revoke the other keys without a visit.
        roots: Vec<String> = Vec::new(), key(List(TrustedKey, KEYS_MAX)).example(EXAMPLE_KEYS);
        /// Public keys that sign configuration documents. Their secret keys belong on an operator's machine.
        artefact_keys: Vec<String> = Vec::new(), key(List(TrustedKey, KEYS_MAX)).example(EXAMPLE_KEYS);
        /// Public keys that sign assignments: which document which gateway runs. Their secret keys are the cloud's.
        controller_keys: Vec<String> = Vec::new(), key(List(TrustedKey, KEYS_MAX)).example(EXAMPLE_KEYS);
        /// Ids of keys that are no longer trusted, whoever says otherwise.
        revoked: Vec<String> = Vec::new(), key(List(RevokedId, 256)).example("[\"0123456789abcdef\"]");
        /// How long a pushed configuration has to prove itself: to reach Pulsar, and to get an event acknowledged. Else it is
        /// undone.
        confirm: Duration = Duration::from_secs(85), key(Time(Duration::from_secs(1), Duration::from_secs(3600)));
        /// While a pushed document runs: how long the control link may be without a connection before the settings of the
        /// document before, and then this file's, are tried for the time `confirm`; in vain, again after twice the time, at
        /// most a day. Where this gateway's assignment is found it goes on with those.
        lost_after: Duration = Duration::from_secs(3600), key(Time(Duration::from_secs(5), Duration::from_secs(86_400)));
        /// Program and arguments that must also succeed (exit code 0) before a pushed configuration is kept. Run as it
        /// stands here, without a shell; again every 5 s while it fails.
        health_command: Vec<String> = Vec::new(),
            key(List(Text(4096), 64)).example("[\"/usr/local/bin/plant-check\", \"--quick\"]");
        /// Time for that program; after it, it and what it has started are killed, and it counts as failed.
        health_timeout: Duration = Duration::from_secs(20),
            key(Time(Duration::from_millis(100), Duration::from_secs(600)));
    }
}

/// Compression of batches on the way to Pulsar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            node: Node::default(),
            http: Http::default(),
            mqtt: Mqtt::default(),
            tls: Tls::default(),
            identity: Identity::default(),
            mappings: Vec::new(),
            bridges: Vec::new(),
            inferences: Vec::new(),
            commands: Commands::default(),
            outbox: Outbox::default(),
            lanes: vec![Lane::default()],
            uplink: Uplink::default(),
            downlink: Downlink::default(),
            models: Models::default(),
            model: Vec::new(),
            log: Log::default(),
        }
    }
}

impl EdgeConfig {
    /// Reads `path` (without one: the defaults) and what `env` overrides.
    pub fn load(path: Option<&Path>, env: &Env) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        Self::read(&Document::load(path)?, env)
    }

    /// Reads `path` with `document` over it: the same rules, and the document cannot set what is the gateway's own.
    pub fn load_with(path: Option<&Path>, document: Pushed<'_>, env: &Env) -> Result<Overlaid, ConfigErrors> {
        overlay::read(Document::load(path)?, document, env, CheckedOn::Gateway)
    }

    pub(super) fn read(document: &Document, env: &Env) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        let root = document.parse().map_err(ConfigErrors::new)?;
        Self::read_by(Reader::new(document, &root, env), env)
    }

    pub(super) fn read_by(mut reader: Reader<'_>, env: &Env) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        let config = Self::read_sections(&mut reader, env);
        let other =
            OtherMode { file: "cloud.toml", sections: &super::cloud::SECTIONS, variables: super::cloud::variables() };
        reader.finish(config, &other)
    }

    fn read_sections(reader: &mut Reader<'_>, env: &Env) -> Self {
        let mut config = Self {
            node: reader.section(),
            http: reader.section(),
            mqtt: reader.section(),
            tls: reader.section(),
            identity: reader.section(),
            mappings: reader.tables(Mapping::NAME, |fields| Some(Mapping::read(fields))).unwrap_or_default(),
            bridges: reader.tables(Bridge::NAME, |fields| Some(Bridge::read(fields))).unwrap_or_default(),
            inferences: reader.tables(Inference::NAME, |fields| Some(Inference::read(fields))).unwrap_or_default(),
            commands: reader.section(),
            outbox: reader.section(),
            lanes: read_lanes(reader),
            uplink: reader.section(),
            downlink: reader.section(),
            models: reader.section(),
            model: reader.tables(Model::NAME, |fields| Some(Model::read(fields))).unwrap_or_default(),
            log: reader.section(),
        };
        edge_rules::name_the_node(&mut config.node, reader, env);
        let first = reader.problems_so_far();
        edge_rules::check(&config, reader);
        if !reader.files_are_here() {
            // Lanes and bridges come as a whole, the rest key by key.
            reader.unless_the_gateway_says_otherwise(first, |reader, problem| match problem.key.split_once('.') {
                Some((Lane::NAME | Bridge::NAME | Inference::NAME, _)) => false,
                Some((Mapping::NAME, "lane")) => !reader.is_there::<Lane>(),
                Some((Mapping::NAME, _)) => false,
                _ => true,
            });
        }
        config
    }

    /// What differs from the defaults, one line each. Secrets are hidden.
    pub fn effective(&self) -> Vec<String> {
        let default = Self::default();
        let mut lines = changes(&self.node, &default.node);
        lines.extend(changes(&self.http, &default.http));
        lines.extend(changes(&self.mqtt, &default.mqtt));
        lines.extend(changes(&self.tls, &default.tls));
        lines.extend(changes(&self.identity, &default.identity));
        lines.extend(self.mappings.iter().map(|m| match m.upstream {
            true => format!("mapping {}: upstream", m.topic),
            false => format!("mapping {}: local", m.topic),
        }));
        lines.extend(self.bridges.iter().map(|b| format!("bridge {}: {} from {}", b.name, b.topics.join(", "), b.url)));
        lines.extend(self.inferences.iter().map(|i| format!("inference {}: scores {}", i.model, i.types.join(", "))));
        lines.extend(changes(&self.commands, &default.commands));
        lines.extend(changes(&self.outbox, &default.outbox));
        lines.extend(self.lanes.iter().map(|lane| {
            let types = lane.types.iter().filter(|t| *t != TAKES_NOTHING).cloned();
            let topics = lane.mqtt.iter().map(|t| format!("MQTT {t}"));
            match types.chain(topics).collect::<Vec<_>>().join(", ") {
                takes if takes.is_empty() => format!("lane {}: takes what no other lane matches", lane.name),
                takes => format!("lane {}: takes {takes}", lane.name),
            }
        }));
        lines.extend(changes(&self.uplink, &default.uplink));
        lines.extend(changes(&self.downlink, &default.downlink));
        lines.extend(changes(&self.models, &default.models));
        lines.extend(self.model.iter().map(|model| format!("model {}", model.name)));
        lines.extend(changes(&self.log, &default.log));
        lines
    }
}

fn read_lanes(reader: &mut Reader<'_>) -> Vec<Lane> {
    let lanes = reader.tables(Lane::NAME, |fields| {
        let mut lane = Lane::read(fields);
        if fields.has("mqtt") && !fields.has("types") {
            // Without types it would take everything.
            lane.types = vec![TAKES_NOTHING.to_owned()];
        }
        Some(lane)
    });
    lanes.filter(|lanes| !lanes.is_empty()).unwrap_or_else(|| EdgeConfig::default().lanes)
}

/// All environment variables of `edge.toml`.
pub(super) fn variables() -> Vec<String> {
    use super::table::variables_of;
    [
        variables_of::<Node>(),
        variables_of::<Http>(),
        variables_of::<Mqtt>(),
        variables_of::<Tls>(),
        variables_of::<Identity>(),
        variables_of::<Commands>(),
        variables_of::<Outbox>(),
        variables_of::<Uplink>(),
        variables_of::<Downlink>(),
        variables_of::<Models>(),
        variables_of::<Log>(),
    ]
    .concat()
}
