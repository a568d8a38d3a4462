//! Who comes in, by HTTP, MQTT or otherwise, and what each may do. One model for all of them.
//!
//! ```text
//! Presented (token, password, JWT, certificate, address) ─► Gate ─┬─► Identity: name, rights, quotas, revoked
//!                                                                 └─► Denied ─► audit log, metrics, throttle
//! ```
//! Two modes. *Required*: who shows no right credential is refused. *Open*: everybody may do everything but touch the
//! broker's own topics and what `identity.deny_subscribe` names. In open mode a credential is still looked at: a right one
//! gives its device's name and quotas; a wrong one is refused if it claims to be a device of the file, or is a JSON
//! web token while `identity.jwt_key_file` is set; any other is ignored, for many clients send one that nobody asked for.
//!
//! What a sender shows explicitly wins over the certificate of its connection.

mod audit;
mod certificate;
pub mod devices_file;
mod directory;
mod gate;
mod jwt;
mod limiter;
mod meters;
mod metrics;
pub mod quota;
mod reload;
pub mod rules;
mod terms;
mod throttle;
pub mod verify;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::downlink::commands::{Speaker, Topics};
use crate::ingest::mqtt::broker;
use directory::Listed;
pub use gate::Gate;
pub use jwt::{KeyError, Keys};
use meters::{Meters, Shared};
pub use quota::Wait;
pub use reload::{IdentityError, IdentityStatus};
use rules::Rights;

/// What a sender shows.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// Its address.
    pub peer: IpAddr,
    /// Leaf (DER) of a client certificate that TLS has verified.
    pub certificate: Option<&'a [u8]>,
    /// User name: a device's name, or anything beside a token.
    pub user: Option<&'a str>,
    /// Password, or a token in its place.
    pub secret: Option<&'a [u8]>,
    /// Bearer token (RFC 6750): one of ours, or a JSON web token.
    pub bearer: Option<&'a str>,
}

/// Why somebody is not let in. The words may be shown to them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing was shown, and something must be.
    #[error("a credential is needed: a token, name and password, or a client certificate")]
    NoCredential,
    /// It is wrong. Whether there is such a user is not said.
    #[error("the credential is wrong")]
    BadCredential,
    /// A signed credential that is not taken, and why.
    #[error("{0}")]
    NotTaken(String),
    /// A right credential of a device that is switched off.
    #[error("this device is disabled on this gateway")]
    Disabled,
    /// Its address has failed too often.
    #[error("too many failed attempts from this address; wait {} s", seconds(*wait))]
    LockedOut {
        /// For how long still.
        wait: Duration,
    },
    /// It has as many connections as it may have.
    #[error("this device has {max} connections already, as many as it may")]
    TooManyConnections {
        /// `identity.max_connections`
        max: usize,
    },
    /// Too many passwords wait to be checked.
    #[error("too many logins at once; wait {} s", seconds(*wait))]
    Busy {
        /// When trying again makes sense.
        wait: Duration,
    },
}

/// Whole seconds, rounded up.
pub fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl Denied {
    /// A stable word for programs: the label in metrics and the reason in the log of refusals.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredential => "no-credential",
            Self::BadCredential => "bad-credential",
            Self::NotTaken(_) => "credential-not-taken",
            Self::Disabled => "disabled",
            Self::LockedOut { .. } => "locked-out",
            Self::TooManyConnections { .. } => "too-many-connections",
            Self::Busy { .. } => "too-many-logins",
        }
    }

    /// After which time the same may be tried again.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::LockedOut { wait } | Self::Busy { wait } => Some(*wait),
            _ => None,
        }
    }
}

/// What somebody who is in was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused<'a> {
    /// To publish to this topic.
    Publish(&'a str),
    /// To subscribe to this filter.
    Subscribe(&'a str),
    /// To send events of this subject.
    Subject(&'a str),
    /// To do what only operators may, such as sending this command.
    Operator(&'a str),
    /// More than its quota.
    Quota(Wait),
    /// To take over a session that belongs to somebody else.
    Session(&'a str),
    /// A message that cannot be an event: acknowledged, because its client could not be told, and lost for the cloud.
    Event(&'a str),
}

impl Refused<'_> {
    /// A stable word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Publish(_) => "publish",
            Self::Subscribe(_) => "subscribe",
            Self::Subject(_) => "subject",
            Self::Operator(_) => "operator-only",
            Self::Quota(_) => "quota",
            Self::Session(_) => "session",
            Self::Event(_) => "no-event",
        }
    }
}

/// Who a connection or request speaks for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    peer: IpAddr,
    rights: Arc<Rights>,
    /// Topics on which not everybody's word counts who may publish to them.
    topics: Arc<Topics>,
    operator: bool,
    listed: Option<Arc<Listed>>,
    terms: Arc<terms::Terms>,
    revoked: CancellationToken,
    // Beside the token, whose question takes a lock.
    over: AtomicBool,
    meter: Option<Shared>,
    meters: Arc<Meters>,
    /// Some rate is limited.
    metered: bool,
    /// Most connections; `None`: they are not counted.
    connections_max: Option<usize>,
}

impl Identity {
    /// The device's name; empty: anonymous, in open mode.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The same, to keep.
    pub fn shared_name(&self) -> Arc<str> {
        self.0.name.clone()
    }

    /// May send commands to devices and read this gateway's status: those with role "operator"; in open mode everybody.
    pub fn is_operator(&self) -> bool {
        self.0.operator
    }

    /// Whether it may publish to this topic name. Commands and configurations come from the gateway and operators only,
    /// also where a pattern of topics covers them, only who may speak for a device answers its commands, and what the gateway
    /// says of its models nobody else says.
    pub fn may_publish(&self, topic: &str) -> bool {
        self.0.rights.may_publish(&self.0.name, topic)
            && match self.0.topics.speaker(topic) {
                Speaker::GatewayAlone => false,
                Speaker::Anybody => true,
                Speaker::Gateway => self.0.operator,
                Speaker::Device(device) => self.0.operator || self.may_speak_for(device),
            }
    }

    /// Whether it may subscribe to this filter, `$share/group/` taken off: everything that it can match is allowed.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        self.0.rights.may_subscribe(&self.0.name, filter)
    }

    /// Whether it may send events of this subject, or act as this device.
    pub fn may_speak_for(&self, subject: &str) -> bool {
        self.0.rights.may_speak_for(&self.0.name, subject)
    }

    /// Cancelled when the credential or the rights are changed, disabled, taken out or over: close the connection.
    pub fn revoked(&self) -> &CancellationToken {
        &self.0.revoked
    }

    /// Whether it was; cheap enough for every request.
    pub fn is_revoked(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
            || self.0.terms.is_over()
            || self.0.listed.as_ref().is_some_and(|listed| listed.is_over())
    }

    /// Whether [`Identity::admit`] can say no.
    pub fn is_metered(&self) -> bool {
        self.0.metered
    }

    /// Takes from the quotas of the device and of all, or says how long to wait.
    pub fn admit(&self, events: usize, bytes: usize) -> Result<(), Wait> {
        match &self.0.meter {
            Some(meter) if self.0.metered => self.0.meters.admit(meter, events, bytes),
            _ => Ok(()),
        }
    }

    fn revoke(&self) {
        self.0.over.store(true, Ordering::Release);
        self.0.revoked.cancel();
    }
}

impl broker::Rules for Identity {
    fn may_publish(&self, topic: &str) -> bool {
        Self::may_publish(self, topic)
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        Self::may_subscribe(self, filter)
    }
}

/// One connection of a device; dropped, it makes room for another.
#[derive(Debug)]
pub struct ConnectionGuard(Option<Shared>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some(meter) = &self.0 {
            meter.lock().unwrap_or_else(PoisonError::into_inner).leave();
        }
    }
}
