//! Why a bridge is not connected, in words for its operator: the thing, the reason, the way out.

use std::path::PathBuf;

/// Why there is no connection, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The password file.
    #[error("bridge.password_file {}: {reason}", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// Files for TLS.
    #[error("{0}")]
    Tls(#[from] crate::security::tls::TlsError),
    /// No connection could be made.
    #[error("cannot connect to {url}: {reason}; check that the broker runs there and that bridge.url is right")]
    Unreachable {
        /// `bridge.url`
        url: String,
        /// The system's words.
        reason: String,
    },
    /// The broker, or whoever answers there, is not whom we trust, or does not trust us.
    #[error(
        "TLS with {url}: {reason}; check bridge.ca_file, bridge.certificate_file, and that the broker's certificate names this host"
    )]
    Handshake {
        /// `bridge.url`
        url: String,
        /// What TLS says.
        reason: String,
    },
    /// CONNACK with a reason.
    #[error("{url} refuses us: {reason}; {way_out}")]
    Refused {
        /// `bridge.url`
        url: String,
        /// The broker's reason.
        reason: String,
        /// What helps.
        way_out: &'static str,
    },
    /// A connection that worked ended.
    #[error("the connection to {url} ended: {reason}")]
    Lost {
        /// `bridge.url`
        url: String,
        /// What happened.
        reason: String,
    },
    /// A packet larger than is taken: in 3.1.1 it cannot be refused, so the broker offers it again and again.
    #[error(
        "{url} sends a message of {bytes} bytes; at most {max} are taken, and in MQTT 3.1.1 there is no way to refuse it: remove it there (with the session of this client id), or limit the size of messages there"
    )]
    TooLarge {
        /// `bridge.url`
        url: String,
        /// Its size.
        bytes: usize,
        /// Our limit.
        max: usize,
    },
    /// Nothing came and nothing could be sent for too long.
    #[error("{url} has said nothing for {seconds} s")]
    Silent {
        /// `bridge.url`
        url: String,
        /// How long.
        seconds: u64,
    },
}

impl BridgeError {
    /// Label of the metric.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Password { .. } | Self::Tls(_) => "files",
            Self::Unreachable { .. } => "unreachable",
            Self::Handshake { .. } => "tls",
            Self::Refused { .. } => "refused",
            Self::Lost { .. } => "lost",
            Self::TooLarge { .. } => "too-large",
            Self::Silent { .. } => "silent",
        }
    }
}
