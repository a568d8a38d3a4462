//! `cloud.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::edge::{Log, LogFormat, Secret};

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
    /// `[log]`
    pub log: Log,
}

/// `[pulsar]`: the cluster this process works with.
#[derive(Clone, Debug)]
pub struct Pulsar {
    /// `pulsar://` or `pulsar+ssl://` service URL.
    pub service: String,
    /// `http://` or `https://` admin URL; used by `tidegate provision`.
    pub admin: String,
    /// Tenant.
    pub tenant: String,
    /// Names of the clusters the tenant may use and its topics live in.
    pub clusters: Vec<String>,
    /// Subscription shared by all cloud processes.
    pub subscription: String,
    /// Token, if the broker wants one. Prefer `token_file`.
    pub token: Option<Secret>,
    /// File with the token; read at every connect.
    pub token_file: Option<PathBuf>,
    /// PEM file with the authorities to trust, instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// How long topics keep what was consumed, for replay.
    pub retention: Duration,
    /// How many bytes per topic they keep at most.
    pub retention_bytes: u64,
}

/// `[[cluster]]`: where one of the clusters is.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name in Pulsar.
    pub name: String,
    /// Its service URL, as the other clusters reach it.
    pub service: String,
    /// Its admin URL.
    pub admin: String,
}

/// `[http]`: the interface for operators.
#[derive(Clone, Debug)]
pub struct Http {
    /// Address and port.
    pub listen: SocketAddr,
}

/// `[[lane]]`: as on the gateways.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Its name.
    pub name: String,
    /// Partitions of its topic; can grow, never shrink.
    pub partitions: u32,
}

/// `[[sink]]`: where events are stored.
#[derive(Clone, Debug)]
pub enum Sink {
    /// `kind = "files"`: compressed NDJSON files.
    Files(FilesSink),
}

/// `kind = "files"`.
#[derive(Clone, Debug)]
pub struct FilesSink {
    /// Directory; one directory per lane is made in it.
    pub dir: PathBuf,
    /// A file is closed at this size (compressed), in bytes.
    pub rotate_bytes: u64,
    /// A file is closed at this age.
    pub rotate_after: Duration,
    /// Events are on disk and acknowledged to Pulsar at most this long after they came.
    pub commit_after: Duration,
    /// Zstandard level, 1 to 19.
    pub level: i32,
}

impl Default for FilesSink {
    fn default() -> Self {
        Self {
            dir: "./tidegate-events".into(),
            rotate_bytes: 128 << 20,
            rotate_after: Duration::from_secs(3600),
            commit_after: Duration::from_millis(500),
            level: 3,
        }
    }
}

impl Default for CloudConfig {
    fn default() -> Self {
        Self {
            pulsar: Pulsar {
                service: "pulsar://127.0.0.1:6650".into(),
                admin: "http://127.0.0.1:8080".into(),
                tenant: "tidegate".into(),
                clusters: vec!["standalone".into()],
                subscription: "tidegate-cloud".into(),
                token: None,
                token_file: None,
                ca_file: None,
                retention: Duration::from_secs(7 * 86_400),
                retention_bytes: 10 << 30,
            },
            clusters: Vec::new(),
            http: Http { listen: SocketAddr::from(([127, 0, 0, 1], 8900)) },
            lanes: vec![Lane { name: "telemetry".into(), partitions: 4 }],
            sinks: vec![Sink::Files(FilesSink::default())],
            log: Log { format: LogFormat::Human, level: "info".into() },
        }
    }
}
