//! Why there is no connection, or a broker does not do what it is asked, in words, with the way out; and the class that
//! the metrics count. Every one of them is retried for ever: whatever is mended is found by the next attempt.

use std::time::Duration;

use pulsar::message::proto::ServerError;

use super::frame::WireError;
use crate::pulsar::credentials::CredentialsError;
use crate::security::tls::TlsError;

/// Why a link is down.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The service URL cannot be read.
    #[error(
        "{url:?} is not a service URL ({reason}); write pulsar://host:6650 or pulsar+ssl://host:6651 in uplink.pulsar"
    )]
    Url {
        /// As written.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The host's name has no address.
    #[error("cannot find the address of {host}: {reason}; check uplink.pulsar and this machine's DNS")]
    Dns {
        /// The host.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// Nobody answers there.
    #[error("cannot connect to {broker}: {reason}; check that Pulsar runs there and that the network lets us through")]
    Connect {
        /// Host and port.
        broker: String,
        /// What the system said.
        reason: std::io::Error,
    },
    /// No secure connection.
    #[error("no TLS connection to {broker}: {reason}; {advice}")]
    Tls {
        /// Host and port.
        broker: String,
        /// What TLS said.
        reason: std::io::Error,
        /// The way out.
        advice: &'static str,
    },
    /// The files for TLS are unfit.
    #[error("{0}; check uplink.ca_file")]
    Trust(#[from] TlsError),
    /// No token to show.
    #[error("{0}; check uplink.{key}", key = .0.key())]
    Credentials(#[from] CredentialsError),
    /// A step took too long.
    #[error("{broker}: {step} took longer than {} ms", limit.as_millis())]
    Slow {
        /// Host and port.
        broker: String,
        /// What was waited for.
        step: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The other end closed the connection, or the system did.
    #[error("connection to {broker} lost: {reason}")]
    Lost {
        /// Host and port.
        broker: String,
        /// What the system said.
        reason: String,
    },
    /// Nothing is heard any more.
    #[error("{broker} has said nothing for {} s; the connection is given up", silence.as_secs())]
    Silent {
        /// Host and port.
        broker: String,
        /// For how long.
        silence: Duration,
    },
    /// What arrives is not Pulsar's protocol.
    #[error("{broker}: {reason}; is this really Pulsar's binary port (usually 6650, TLS 6651)?")]
    Protocol {
        /// Host and port.
        broker: String,
        /// What is wrong.
        reason: String,
    },
    /// The broker refused a request.
    #[error("{broker} refused {what}: {message} ({code:?}){}", advice(*code))]
    Refused {
        /// Host and port.
        broker: String,
        /// What we asked for.
        what: String,
        /// Pulsar's code.
        code: ServerError,
        /// Its words.
        message: String,
    },
    /// The broker closed what we had opened: the topic moves, or was deleted or terminated.
    #[error("{broker} closed the {what} of {topic}: the topic moves to another broker, or was unloaded or deleted")]
    Closed {
        /// Host and port.
        broker: String,
        /// "producer" or "consumer".
        what: &'static str,
        /// The topic.
        topic: String,
    },
    /// A cluster that nothing is assigned from.
    #[error(
        "{broker}: the inbox there holds no assignment of this gateway: either this is another cluster, which \
         uplink.pulsar must not name, or what was assigned is lost there: assign it anew"
    )]
    NotOurs {
        /// Host and port.
        broker: String,
    },
    /// Lookup sends us in circles.
    #[error("lookup of {topic} was redirected more than {limit} times; check the brokers' advertised addresses")]
    Redirects {
        /// The topic.
        topic: String,
        /// The limit.
        limit: usize,
    },
}

/// What an operator does about a refusal.
fn advice(code: ServerError) -> &'static str {
    use ServerError as E;
    match code {
        E::TopicNotFound | E::MetadataError => "; if the topic does not exist, run `tidegate provision`",
        E::AuthenticationError => "; check uplink.token or uplink.token_file: missing, expired or of another cluster",
        E::AuthorizationError => "; the token's role may not do that here: grant it (docs/security.md)",
        E::ProducerBusy => {
            "; another process uses this gateway's identity (a copied disk?), or our own earlier connection is not yet \
             found dead: then it passes within seconds"
        }
        E::ConsumerBusy => {
            "; another process reads as this gateway (a copied disk?), or our own earlier connection is not yet found \
             dead: then it passes within seconds"
        }
        E::ProducerBlockedQuotaExceededError | E::ProducerBlockedQuotaExceededException => {
            "; the topic's backlog quota is used up: a subscription does not consume"
        }
        E::ServiceNotReady | E::PersistenceError | E::UnknownError => "; the broker is not ready: this usually passes",
        E::TopicTerminatedError => "; the topic was terminated: delete it and run `tidegate provision`",
        E::TooManyRequests => "; the broker is overloaded: this usually passes",
        _ => "",
    }
}

impl LinkError {
    /// For the metrics' label.
    pub fn class(&self) -> &'static str {
        use ServerError as E;
        match self {
            Self::Url { .. } | Self::Trust(_) | Self::Credentials(_) => "configuration",
            Self::Dns { .. } => "dns",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Slow { .. } | Self::Silent { .. } => "timeout",
            Self::Lost { .. } => "lost",
            Self::Protocol { .. } | Self::Redirects { .. } => "protocol",
            Self::Closed { .. } => "moved",
            Self::NotOurs { .. } => "not-ours",
            Self::Refused { code, .. } => match code {
                E::AuthenticationError | E::AuthorizationError => "not-allowed",
                E::ProducerBusy | E::ConsumerBusy => "busy",
                E::TopicNotFound => "no-topic",
                _ => "refused",
            },
        }
    }

    /// Bytes from `broker` that make no sense.
    pub fn protocol(broker: &str, error: WireError) -> Self {
        Self::Protocol { broker: broker.to_owned(), reason: error.to_string() }
    }
}
