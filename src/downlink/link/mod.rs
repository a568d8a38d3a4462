//! The edge's control link: the node's inbox and its commands down, its reports up, over one connection to Pulsar of its
//! own with the uplink's settings. It has no state that must survive: the newest inbox message is read again at every
//! connection, a command until it is taken, a report until its sender has heard of the receipt.

pub(crate) mod content;
mod core;
pub(crate) mod frames;
mod meters;
mod pending;
mod run;
pub(crate) mod wires;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::artefact::SecretKey;
use super::report::{NodeReport, REPORT_BYTES_MAX};
use crate::config::EdgeConfig;
use crate::observe::status::LinkStatus;
use crate::pulsar::credentials::Credentials;
use crate::pulsar::wire::{Address, Connector, LinkError};
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;

pub(crate) use self::core::requests;
pub use meters::Meters;

/// Largest message taken, as it is sent and after decompression; larger ones are refused without being held.
pub const MESSAGE_BYTES_MAX: usize = super::artefact::MESSAGE_BYTES_MAX;

/// Command messages handed over and not yet acknowledged; the broker sends no more than these.
pub const COMMANDS_MAX: usize = 16;

/// Reports without a receipt; callers repeat those that find no room.
pub const REPORTS_MAX: usize = 16;

/// Time for Pulsar to confirm a report: a broker that lives needs milliseconds, one that writes to slow disks seconds.
pub const RECEIPT_MAX: Duration = Duration::from_secs(15);

/// Longest wait of this link between two attempts to connect, whatever `uplink.retry_max` says: events may wait for an
/// hour, the configuration that mends that may not.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Longest time that one address gets, whatever `uplink.connect_timeout` says: the next one may be the right one.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// Where to connect, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Brokers or proxies of one cluster, tried in turn. At least one.
    pub addresses: Vec<Address>,
    /// Token, authorities, time to connect.
    pub connector: Connector,
    /// Pulsar tenant.
    pub tenant: String,
    /// This node.
    pub node: String,
    /// The outbox's life; part of the producer's name, so that a copied disk is found out.
    pub incarnation: String,
    /// Longest wait between two attempts to connect.
    pub retry_max: Duration,
}

impl Settings {
    /// Those of `[uplink]`; `None` when it names no Pulsar. The error names a URL that cannot be read.
    pub fn of(config: &EdgeConfig, incarnation: &str) -> Result<Option<Self>, LinkError> {
        let uplink = &config.uplink;
        let addresses = uplink.pulsar.iter().map(|url| Address::parse(url)).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            addresses,
            connector: Connector {
                credentials: Credentials::from(uplink),
                ca_file: uplink.ca_file.clone(),
                connect_timeout: uplink.connect_timeout.min(CONNECT_MAX),
            },
            tenant: uplink.tenant.clone(),
            node: config.node.id.clone(),
            incarnation: incarnation.to_owned(),
            retry_max: uplink.retry_max.min(RETRY_MAX),
        }))
    }

    /// Name of the reports' producer. Nobody else of this name may send meanwhile.
    fn producer(&self) -> String {
        format!("{}.{}.reports", self.node, self.incarnation)
    }
}

/// What the link has to say. The newest state and the newest inbox message replace older ones that nobody has fetched.
#[derive(Debug)]
pub enum Heard {
    /// The inbox is subscribed and reports can be sent, with the settings of `generation`.
    Connected {
        /// As given to [`Link::set`].
        generation: u64,
    },
    /// That is over, or an attempt failed. The same reason is not repeated.
    Disconnected {
        /// As given to [`Link::set`].
        generation: u64,
        /// In words, and what to do.
        why: String,
    },
    /// The newest message of the inbox. The same one comes again at every connection.
    Inbox {
        /// The settings it was read with.
        generation: u64,
        /// At which of their addresses.
        at: Address,
        /// As the cloud sent it; nothing of it is verified.
        bytes: Bytes,
    },
    /// The inbox has no message.
    Empty {
        /// The settings it was read with.
        generation: u64,
        /// At which of their addresses.
        at: Address,
    },
    /// A command. It comes again at every connection until it is taken.
    Command {
        /// As the cloud sent it; nothing of it is verified.
        bytes: Bytes,
        /// Acknowledges it.
        taken: Taken,
    },
    /// A message that cannot be handed over: too large, damaged, or not sent as the cloud sends.
    Unfit {
        /// The settings it was read with.
        generation: u64,
        /// A code for machines.
        reason: &'static str,
        /// For people.
        detail: String,
    },
}

/// The right to acknowledge a command. Dropped without [`Taken::done`], the command comes again after a while.
pub struct Taken(Option<Box<dyn FnOnce(bool) + Send>>);

impl Taken {
    /// Calls `tell` once, with whether the command was taken.
    pub fn new(tell: impl FnOnce(bool) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// The command is in the journal: Pulsar may forget it.
    pub fn done(mut self) {
        self.tell(true);
    }

    fn tell(&mut self, done: bool) {
        if let Some(tell) = self.0.take() {
            tell(done);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.tell(false);
    }
}

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Taken")
    }
}

/// Why a report is not known to be stored. Its caller repeats it; the cloud knows repetitions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// There is no Pulsar to send to.
    #[error("no uplink is configured (uplink.pulsar)")]
    Off,
    /// The link is down.
    #[error("the control link is down: {0}")]
    Down(String),
    /// The broker refused it.
    #[error("{0}")]
    Refused(String),
    /// No receipt in time.
    #[error("Pulsar has not confirmed the report within {} s", RECEIPT_MAX.as_secs())]
    NoReceipt,
    /// Too many wait already.
    #[error("{REPORTS_MAX} reports already wait for Pulsar's confirmation")]
    Busy,
    /// It will never fit.
    #[error("the report has {0} bytes; at most {REPORT_BYTES_MAX} are sent")]
    TooLarge(usize),
    /// The process stops.
    #[error("the control link has stopped")]
    Stopped,
}

/// A report on its way to the task, and the way back.
struct Order {
    bytes: Vec<u8>,
    answer: oneshot::Sender<Result<(), NotSent>>,
}

/// What [`Link::set`] wants.
#[derive(Clone, Debug, Default)]
struct Wanted {
    settings: Option<Settings>,
    generation: u64,
    /// Grows when another address is wanted.
    moves: u64,
}

/// The link. Cheap to clone; its task ends when all clones are gone, when nobody listens, or when the tasks stop.
#[derive(Clone)]
pub struct Link {
    wanted: Arc<watch::Sender<Wanted>>,
    reports: mpsc::Sender<Order>,
    status: Status,
    key: Arc<OnceLock<SecretKey>>,
}

impl Link {
    /// Starts the link's task; nothing is connected until [`Link::set`].
    pub fn start(tasks: &Tasks, clock: Clock, meters: Meters) -> (Self, mpsc::Receiver<Heard>) {
        let (wanted, wants) = watch::channel(Wanted::default());
        let (reports, orders) = mpsc::channel(REPORTS_MAX);
        // One is fetched while the next is ready; what is newer replaces what waits behind them.
        let (heard, hears) = mpsc::channel(1);
        let status = Status::default();
        let stop = tasks.stopping().clone();
        tasks.spawn("control link", run::run(run::Ends { wants, orders, heard }, status.clone(), clock, meters, stop));
        (Self { wanted: Arc::new(wanted), reports, status, key: Arc::default() }, hears)
    }

    /// Uses `settings` from now on (`None`: none), as `generation`. With other settings than before the old connection is
    /// closed first; with the same it is kept, and said to be connected in the new generation when it is.
    pub fn set(&self, settings: Option<Settings>, generation: u64) {
        self.wanted.send_modify(|wanted| (wanted.settings, wanted.generation) = (settings, generation));
    }

    /// Where the inbox was read nothing is assigned to this node: another one of the addresses is tried, if there is one.
    pub fn elsewhere(&self) {
        self.wanted.send_modify(|wanted| wanted.moves = wanted.moves.wrapping_add(1));
    }

    /// Whether reports are signed.
    pub fn signs(&self) -> bool {
        self.key.get().is_some()
    }

    /// Reports are signed with `key` from now on, and with no other one.
    pub fn sign_with(&self, key: SecretKey) {
        let _ = self.key.set(key);
    }

    /// Sends `report` and waits for Pulsar's receipt, at most [`RECEIPT_MAX`]; fails at once while the link is down.
    /// Dropped half-way it may still be sent.
    pub async fn report(&self, report: &NodeReport) -> Result<(), NotSent> {
        let bytes = report.message(self.key.get());
        if bytes.len() > REPORT_BYTES_MAX {
            return Err(NotSent::TooLarge(bytes.len()));
        }
        let (answer, answered) = oneshot::channel();
        self.reports.try_send(Order { bytes, answer }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => NotSent::Busy,
            mpsc::error::TrySendError::Closed(_) => NotSent::Stopped,
        })?;
        answered.await.unwrap_or(Err(NotSent::Stopped))
    }

    /// For the status page.
    pub fn status(&self) -> LinkStatus {
        self.status.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the task last wrote of itself.
#[derive(Clone, Default)]
struct Status(Arc<Mutex<LinkStatus>>);

impl Status {
    fn update(&self, change: impl FnOnce(&mut LinkStatus)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_of_the_uplink_is_not_this_link_s() {
        let mut config = EdgeConfig::default();
        assert!(Settings::of(&config, "00ff").unwrap().is_none());
        config.uplink.pulsar = vec!["pulsar://127.0.0.1:6650".to_owned()];
        let hours = Duration::from_secs(3600);
        (config.uplink.retry_max, config.uplink.connect_timeout) = (hours, hours);
        let settings = Settings::of(&config, "00ff").unwrap().unwrap();
        assert_eq!((settings.retry_max, settings.connector.connect_timeout), (RETRY_MAX, CONNECT_MAX));
        (config.uplink.retry_max, config.uplink.connect_timeout) = (Duration::from_millis(5), Duration::from_millis(7));
        let settings = Settings::of(&config, "00ff").unwrap().unwrap();
        assert_eq!((settings.retry_max.as_millis(), settings.connector.connect_timeout.as_millis()), (5, 7));
    }
}
