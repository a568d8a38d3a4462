//! `cloud.toml`: its table of keys, and how it is loaded.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cloud_rules;
use super::document::Document;
use super::edge::{EXAMPLE_KEYS, KEYS_MAX};
use super::env::Env;
use super::key_text::{RevokedId, TrustedKey};
use super::kinds::{Address, Choice, Count, FilePath, Kind, List, Optional, SecretText, Size, Time, TokenFile};
use super::log::Log;
use super::names::{LANE_NAME, PULSAR_NAME};
use super::problem::{ConfigErrors, Warning};
use super::reader::{Fields, OtherMode, Reader};
use super::secret::Secret;
use super::table::{Key, Section, changes, key, section};
use super::urls::{AdminUrl, ServiceUrl, SourceUrl};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// The sections of `cloud.toml`.
pub(super) const SECTIONS: [&str; 8] = ["pulsar", "cluster", "http", "lane", "sink", "control", "models", "log"];

/// The whole of `cloud.toml`.
#[derive(Clone, Debug)]
pub struct CloudConfig {
    /// `[pulsar]`
    pub pulsar: Pulsar,
    /// `[[cluster]]`: addresses of every cluster that topics are replicated between; empty: one cluster.
    pub clusters: Vec<Cluster>,
    /// `[http]`
    pub http: Http,
    /// `[[lane]]`
    pub lanes: Vec<Lane>,
    /// `[[sink]]`
    pub sinks: Vec<Sink>,
    /// `[control]`
    pub control: Control,
    /// `[models]`
    pub models: Models,
    /// `[log]`
    pub log: Log,
}

section! {
    /// `[pulsar]`: the cluster this process works with.
    "pulsar" => Pulsar {
        /// `pulsar://` or `pulsar+ssl://` service URL.
        service: String = "pulsar://127.0.0.1:6650".into(), key(ServiceUrl);
        /// `http://` or `https://` admin URL; used by `tidegate provision`.
        admin: String = "http://127.0.0.1:8080".into(), key(AdminUrl);
        /// Tenant.
        tenant: String = "tidegate".into(), key(PULSAR_NAME);
        /// Names of the clusters the tenant may use and its topics live in.
        clusters: Vec<String> = vec!["standalone".into()], key(List(PULSAR_NAME, 16));
        /// Subscription shared by all cloud processes.
        subscription: String = "tidegate-cloud".into(), key(PULSAR_NAME);
        /// Token, if the broker wants one. Prefer `token_file`.
        token: Option<Secret> = None, key(Optional(SecretText)).example("\"…\"");
        /// File with the token; read at every connect.
        token_file: Option<PathBuf> = None, key(Optional(TokenFile)).example("\"/etc/tidegate/token\"");
        /// PEM file with the authorities to trust, instead of the public ones.
        ca_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/ca.pem\"");
        /// How long topics keep what was consumed, for replay.
        retention: Duration = 7 * DAY, key(Time(Duration::from_secs(60), 3650 * DAY));
        /// How many bytes per topic they keep at most.
        retention_bytes: u64 = 10 * GIB, key(Size(MIB, 1024 * TIB));
    }
}

section! {
    /// `[[cluster]]`: where one of the clusters is; one for each, when topics are replicated between several.
    "cluster" => Cluster {
        /// Its name in Pulsar.
        name: String = String::new(), key(PULSAR_NAME).required().example("\"east\"");
        /// Its service URL, as the other clusters reach it.
        service: String = String::new(), key(ServiceUrl).required().example("\"pulsar://east.example:6650\"");
        /// Its admin URL.
        admin: String = String::new(), key(AdminUrl).required().example("\"http://east.example:8080\"");
    }
}

section! {
    /// `[http]`: the interface for operators.
    "http" => Http {
        /// Address and port.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8900)), key(Address);
    }
}

section! {
    /// `[[lane]]`: as on the gateways.
    "lane" => Lane {
        /// Its name.
        name: String = "telemetry".into(), key(LANE_NAME).required();
        /// Partitions of its topic; can grow, never shrink.
        partitions: u32 = 4, key(Count(1, 1024));
    }
}

/// `[[sink]]`: where events are stored.
#[derive(Clone, Debug)]
pub enum Sink {
    /// `kind = "files"`: compressed NDJSON files.
    Files(FilesSink),
}

section! {
    /// `[[sink]]`: where events are stored.
    "sink" => FilesSink {
        /// Directory; one directory per lane is made in it.
        dir: PathBuf = "./tidegate-events".into(), key(FilePath);
        /// A file is closed at this size (compressed), in bytes.
        rotate_bytes: u64 = 128 * MIB, key(Size(64 << 10, TIB));
        /// A file is closed at this age.
        rotate_after: Duration = Duration::from_secs(3600), key(Time(SECOND, 30 * DAY));
        /// Events are on disk and acknowledged to Pulsar at most this long after they came.
        commit_after: Duration = Duration::from_millis(500), key(Time(Duration::from_millis(1), 60 * SECOND));
        /// Zstandard level, 1 to 19.
        level: i32 = 3, key(Count(1, 19));
    }
}

section! {
    /// `[control]`: configuration that is pushed to gateways. Without `controller_key` this process shows what others do,
    /// takes orders for them, and sends nothing itself.
    "control" => Control {
        /// File with the secret key that signs which gateway runs which document. `tidegate keys signing FILE --role
        /// controller` makes one; gateways have its public key in `downlink.controller_keys`.
        controller_key: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/controller.key\"");
        /// Public keys that sign documents: what is signed with another one is not stored. As on the gateways.
        artefact_keys: Vec<String> = Vec::new(), key(List(TrustedKey, KEYS_MAX)).example(EXAMPLE_KEYS);
        /// Public keys that sign keyrings. As on the gateways.
        roots: Vec<String> = Vec::new(), key(List(TrustedKey, KEYS_MAX)).example(EXAMPLE_KEYS);
        /// Ids of keys that are no longer trusted.
        revoked: Vec<String> = Vec::new(), key(List(RevokedId, 256)).example("[\"0123456789abcdef\"]");
        /// Policy in Rego that can veto a document, whoever signed it; config/policy.rego is an example.
        policy: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/policy.rego\"");
        /// File with those who may give orders: a line `name = "SHA-256 of the token"` for each. Read at every order.
        /// Without it orders are taken from this machine only, and the name that they give is marked as unverified.
        operators_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/operators.toml\"");
        /// A gateway counts as present for this long after it was heard, or twice as long as it said itself.
        present_for: Duration = Duration::from_secs(180), key(Time(Duration::from_secs(1), DAY));
        /// A roll-out no longer waits for a gateway that was not heard for so long; it joins again when it is heard.
        absent_after: Duration = Duration::from_secs(900), key(Time(Duration::from_secs(1), 30 * DAY));
    }
}

section! {
    /// `[models]`: models that are published to gateways.
    "models" => Models {
        /// Directory for a model while it is taken in and verified. Nothing stays there: its files have no names, and are gone
        /// with the process. Room for `uploads_max` models of `max_bytes` is enough.
        dir: PathBuf = "./tidegate-models".into(), key(FilePath);
        /// Largest model that is taken.
        max_bytes: u64 = GIB, key(Size(1, GIB));
        /// Places from which an update may have its model fetched, each with a slash at its end: what it names must begin with
        /// one of them. Without any, updates bring their model with them.
        sources: Vec<String> = Vec::new(),
            key(List(SourceUrl, 64)).example("[\"https://models.example/anomaly/\", \"file:///srv/models/\"]");
        /// Models that are taken in over HTTP at a time; another one is asked to come later.
        uploads_max: u32 = 4, key(Count(1, 64));
    }
}

/// What `kind` of a `[[sink]]` can be. The others of DESIGN §12 are an error and no warning: someone
/// would look for the events there.
struct SinkKind;

const SINK_KINDS: Choice<()> = Choice(&[("files", ())]);

impl Kind for SinkKind {
    type Value = ();

    fn takes(&self) -> String {
        SINK_KINDS.takes()
    }

    fn text(&self, text: &str) -> Result<(), String> {
        match text {
            "postgres" | "clickhouse" => {
                Err(format!("{text:?} is not in this version; write kind = \"files\" and a dir"))
            }
            other => SINK_KINDS.text(other),
        }
    }

    fn show(&self, value: &()) -> Option<String> {
        SINK_KINDS.show(value)
    }
}

impl Default for CloudConfig {
    fn default() -> Self {
        Self {
            pulsar: Pulsar::default(),
            clusters: Vec::new(),
            http: Http::default(),
            lanes: vec![Lane::default()],
            sinks: vec![Sink::Files(FilesSink::default())],
            control: Control::default(),
            models: Models::default(),
            log: Log::default(),
        }
    }
}

impl CloudConfig {
    /// Reads `path` (without one: the defaults) and what `env` overrides.
    pub fn load(path: Option<&Path>, env: &Env) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        Self::read(&Document::load(path)?, env)
    }

    pub(super) fn read(document: &Document, env: &Env) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        let root = document.parse().map_err(ConfigErrors::new)?;
        let mut reader = Reader::new(document, &root, env);
        let default = Self::default();
        let config = Self {
            pulsar: reader.section(),
            clusters: reader.tables(Cluster::NAME, |fields| Some(Cluster::read(fields))).unwrap_or_default(),
            http: reader.section(),
            lanes: non_empty(reader.tables(Lane::NAME, |fields| Some(Lane::read(fields))), default.lanes),
            sinks: non_empty(reader.tables(FilesSink::NAME, read_sink), default.sinks),
            control: reader.section(),
            models: reader.section(),
            log: reader.section(),
        };
        cloud_rules::check(&config, &mut reader);
        let other =
            OtherMode { file: "edge.toml", sections: &super::edge::SECTIONS, variables: super::edge::variables() };
        reader.finish(config, &other)
    }

    /// What differs from the defaults, one line each. Secrets are hidden.
    pub fn effective(&self) -> Vec<String> {
        let default = Self::default();
        let mut lines = changes(&self.pulsar, &default.pulsar);
        lines.extend(self.clusters.iter().map(|c| format!("cluster {}: {}, {}", c.name, c.service, c.admin)));
        lines.extend(changes(&self.http, &default.http));
        lines.extend(self.lanes.iter().map(|l| format!("lane {}: {} partitions", l.name, l.partitions)));
        for Sink::Files(files) in &self.sinks {
            lines.push(format!("sink files: {}", files.dir.display()));
            let same_dir = FilesSink { dir: files.dir.clone(), ..FilesSink::default() };
            lines.extend(changes(files, &same_dir));
        }
        lines.extend(changes(&self.control, &default.control));
        lines.extend(changes(&self.models, &default.models));
        lines.extend(changes(&self.log, &default.log));
        lines
    }
}

fn non_empty<T>(read: Option<Vec<T>>, default: Vec<T>) -> Vec<T> {
    read.filter(|tables| !tables.is_empty()).unwrap_or(default)
}

/// `None`: it is no sink of this version; its other keys are not looked at.
fn read_sink(fields: &mut Fields<'_, '_>) -> Option<Sink> {
    fields.take("kind", &key(SinkKind).required())?;
    Some(Sink::Files(FilesSink::read(fields)))
}

/// The keys of `[[sink]]`, with `kind` first.
pub(super) fn sink_keys() -> Vec<Key> {
    let doc = vec![" What it is: compressed NDJSON files. (\"postgres\" and \"clickhouse\" are not in this version.)"];
    let kind = Key::new("kind", doc, &key(SinkKind).required(), Some(&()));
    std::iter::once(kind).chain(FilesSink::keys()).collect()
}

/// All environment variables of `cloud.toml`.
pub(super) fn variables() -> Vec<String> {
    use super::table::variables_of;
    [
        variables_of::<Pulsar>(),
        variables_of::<Http>(),
        variables_of::<Control>(),
        variables_of::<Models>(),
        variables_of::<Log>(),
    ]
    .concat()
}
