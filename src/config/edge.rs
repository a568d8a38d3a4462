//! `edge.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The whole of `edge.toml`.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// `[node]`
    pub node: Node,
    /// `[http]`
    pub http: Http,
    /// `[outbox]`
    pub outbox: Outbox,
    /// `[[lane]]`, in the order written; the last one takes what no other lane matches.
    pub lanes: Vec<Lane>,
    /// `[uplink]`
    pub uplink: Uplink,
    /// `[log]`
    pub log: Log,
}

/// `[node]`: who this gateway is.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name of the gateway, unique in the tenant: 1 to 64 letters, digits, `-`, `_`.
    pub id: String,
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// Groups that configuration can be addressed to.
    pub groups: Vec<String>,
}

/// `[http]`: the HTTP way in.
#[derive(Clone, Debug)]
pub struct Http {
    /// Address and port.
    pub listen: SocketAddr,
    /// Most connections at once; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// Time for a request's head to arrive, and for an idle connection to say something.
    pub header_timeout: Duration,
    /// Time for a request's body to arrive.
    pub body_timeout: Duration,
    /// Largest body as sent, in bytes.
    pub max_body: u64,
    /// Largest body after decompression, in bytes.
    pub max_inflated: u64,
    /// Most events in one request.
    pub max_batch: usize,
    /// Bodies held in memory at once, in bytes; more are refused with 503.
    pub max_memory: u64,
}

/// `[outbox]`: the buffer on disk.
#[derive(Clone, Debug)]
pub struct Outbox {
    /// Most disk space, in bytes, for all lanes together.
    pub max_bytes: u64,
    /// When an event counts as accepted.
    pub durability: Durability,
    /// Largest event (its record on disk), in bytes.
    pub max_event: u64,
    /// How long an event repeated with the same source and id gets the first answer again.
    pub dedup_window: Duration,
}

/// When an event counts as accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After fdatasync returned: survives a power cut.
    Disk,
    /// When the operating system has it: survives kill -9, not a power cut.
    Os,
}

/// `[[lane]]`: a stream of events with its own sequence and topic.
#[derive(Clone, Debug)]
pub struct Lane {
    /// 1 to 32 lower-case letters, digits, `-`.
    pub name: String,
    /// Event types this lane takes; `*` matches any run of characters. Empty: everything that is left.
    pub types: Vec<String>,
}

/// `[uplink]`: the way to Pulsar.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// Service URLs (`pulsar://` or `pulsar+ssl://`) of one cluster, tried in turn. Empty: only buffer.
    pub pulsar: Vec<String>,
    /// Pulsar tenant.
    pub tenant: String,
    /// Name of the cluster; part of the producer's name, so it must not change while events wait.
    pub cluster: String,
    /// Token, if the broker wants one. Prefer `token_file`.
    pub token: Option<Secret>,
    /// File with the token; read at every connect.
    pub token_file: Option<PathBuf>,
    /// PEM file with the authorities to trust for `pulsar+ssl://`, instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Most events in a batch.
    pub batch_events: usize,
    /// Most bytes in a batch before compression.
    pub batch_bytes: u64,
    /// Most bytes sent and not yet confirmed, per lane.
    pub window: u64,
    /// Compression of batches.
    pub compression: Compression,
    /// Time to connect, including TLS.
    pub connect_timeout: Duration,
    /// Time for the broker to confirm a batch before the connection is given up.
    pub receipt_timeout: Duration,
    /// Longest wait between two attempts to connect.
    pub retry_max: Duration,
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

/// `[log]`: what is written to standard error.
#[derive(Clone, Debug)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,tidegate::uplink=debug`.
    pub level: String,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// A value that never appears in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            node: Node { id: "edge".into(), data_dir: "./tidegate-data".into(), groups: Vec::new() },
            http: Http {
                listen: SocketAddr::from(([127, 0, 0, 1], 8800)),
                max_connections: 10_240,
                header_timeout: Duration::from_secs(10),
                body_timeout: Duration::from_secs(30),
                max_body: 16 << 20,
                max_inflated: 64 << 20,
                max_batch: 10_000,
                max_memory: 64 << 20,
            },
            outbox: Outbox {
                max_bytes: 2 << 30,
                durability: Durability::Disk,
                max_event: 1 << 20,
                dedup_window: Duration::from_secs(600),
            },
            lanes: vec![Lane { name: "telemetry".into(), types: Vec::new() }],
            uplink: Uplink {
                pulsar: Vec::new(),
                tenant: "tidegate".into(),
                cluster: "standalone".into(),
                token: None,
                token_file: None,
                ca_file: None,
                batch_events: 1000,
                batch_bytes: 128 << 10,
                window: 4 << 20,
                compression: Compression::None,
                connect_timeout: Duration::from_secs(10),
                receipt_timeout: Duration::from_secs(30),
                retry_max: Duration::from_millis(800),
            },
            log: Log { format: LogFormat::Human, level: "info".into() },
        }
    }
}
