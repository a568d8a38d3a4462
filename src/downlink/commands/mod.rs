//! Commands and configurations for devices: on disk before the operator is answered, waiting until the device has
//! answered, by HTTP and MQTT alike.
//!
//! ```text
//! operator ─► add ─► core [pure] ─► journal (fdatasync) ─► 201
//!                      │ watch                ┌─► Server-Sent Events, long poll
//!                      └──────────────────────┴─► retained messages (mirror)
//! device ──► answer ─► claim ─► event upstream (outbox, fdatasync) ─► end ─► journal ─► 200
//! ```
//! The state changes at once, under the lock under which the journal takes the records; who has looked at it answers only
//! when the journal has what was written until then. A journal that fails loses nothing of the state: it is written anew.
//!
//! A command is handed out again and again until it is answered (at least once): its id tells the device.

pub mod answer;
pub mod command;
pub mod core;
pub mod metrics;
mod mirror;
pub mod record;
mod timeline;
mod topics;
mod upkeep;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use crate::config::EdgeConfig;
use crate::config::edge::Durability;
use crate::event::{Event, Timestamp};
use crate::journal::{AppendError, Journal, JournalError, Meter, OpenError as JournalOpenError, Position, Settings};
use crate::observe::metrics::Metrics;
use crate::sys::clock::Clock;
use crate::sys::random;
use crate::sys::tasks::Tasks;
use answer::event;
use command::{Closed, Command, Config, Millis, Outcome};
use core::{Claim, Core, Limits, New, Subject};
use record::{Record, RecordError};
use timeline::Line;

pub use core::{Added, Counts, Refused, State};
pub use metrics::Via;
pub use mirror::{Publisher, Retained};
pub use topics::{Speaker, Topics};
pub use watch::Watch;

#[cfg(test)]
mod tests;

/// Directory of the journal in the data directory.
const DIR: &str = "commands";

/// Disk space for each byte of `commands.max_bytes`: what is alive has to fit well into a third of the journal.
const DISK_FACTOR: u64 = 6;

/// Sizes that a segment of the journal has.
const SEGMENT_BYTES: (u64, u64) = (64 << 10, 4 << 20);

/// Closing waits so long for the disk at most.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Puts an event on its way to Pulsar; returns once it is on disk.
pub trait Upstream: Send + Sync + 'static {
    /// Dropping the future does not undo it.
    fn store(&self, event: Event) -> BoxFuture<'_, Result<(), NotStored>>;
}

/// Why an event was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum NotStored {
    #[error("the result cannot be stored: {0}; send it again later")]
    Full(String),
    #[error("the result cannot be stored: {0}; send it again in a moment")]
    Busy(String),
    #[error("the result cannot be stored: {0}; send less detail")]
    TooLarge(String),
    #[error("the result may not be stored: {0}; send it again")]
    Disk(String),
    #[error("the result cannot be stored: {0}; send it again when the gateway is back")]
    Closed(String),
}

impl NotStored {
    /// It may be stored nevertheless.
    fn is_doubtful(&self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

/// Why something was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum CommandError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{0}; it may have been taken nevertheless: repeat it with the same id")]
    Unwritten(#[from] AppendError),
    #[error("{0}; it may have been taken nevertheless: repeat it with the same id")]
    NotDurable(#[from] JournalError),
    #[error(transparent)]
    NotStored(#[from] NotStored),
    #[error("device {device:?} has no command {id:?}, or it ended long ago")]
    Unknown { device: String, id: String },
}

/// Why commands cannot be kept.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum OpenError {
    #[error("cannot open the commands: {0}")]
    Journal(#[from] JournalOpenError),
    #[error(
        "cannot read the commands in {dir}: {reason}; start the newer Tidegate that wrote them, or move the directory away"
    )]
    Version { dir: PathBuf, reason: RecordError },
}

/// What a request to add a command says. Its names must have been checked (`command::check_…`).
#[derive(Clone, Debug)]
pub struct Request {
    /// Whom it is for.
    pub device: String,
    /// Unique for the device; without one a UUIDv7 is made.
    pub id: Option<String>,
    /// What to do.
    pub name: String,
    /// Of the payload.
    pub content_type: Option<String>,
    /// Parameters.
    pub payload: Bytes,
    /// How long it waits; by default `commands.expiry`.
    pub expires_in: Option<Duration>,
}

/// What became of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It is upstream, and the command is over, with this outcome: that of the first answer, if several came at once.
    Now(Outcome),
    /// It was answered before.
    Before(Arc<Closed>),
}

/// All commands of this gateway. Cheap to clone.
#[derive(Clone)]
pub struct Commands(Arc<Inner>);

struct Inner {
    core: Mutex<Core>,
    journal: Journal,
    line: Line,
    clock: Clock,
    node: String,
    expiry: Duration,
    wait_max: Duration,
    payload_bytes_max: u64,
    upstream: Arc<dyn Upstream>,
    topics: Topics,
    watchers: watch::Watchers,
    mirror: mirror::Changes,
    meters: metrics::Meters,
    /// The upkeep has something to do sooner than it thinks.
    attention: Notify,
}

impl Commands {
    /// Opens or makes the commands below `config.node.data_dir`. Blocks on the disk.
    pub fn open(
        config: &EdgeConfig,
        clock: &Clock,
        metrics: &Metrics,
        journal: Meter,
        upstream: Arc<dyn Upstream>,
    ) -> Result<Self, OpenError> {
        let commands = &config.commands;
        let limits = Limits {
            waiting_max: commands.max_waiting,
            bytes_max: commands.max_bytes,
            payload_bytes_max: commands.max_command,
        };
        let segment_bytes_max = (commands.max_bytes / 4).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1);
        let settings = Settings {
            durable: config.outbox.durability == Durability::Disk,
            segment_bytes_max,
            total_bytes_max: commands.max_bytes.saturating_mul(DISK_FACTOR).max(segment_bytes_max * DISK_FACTOR),
        };
        let dir = config.node.data_dir.join(DIR);
        let mut core = Core::new(limits);
        let mut newer = None;
        let journal = Journal::open(&dir, settings, journal, |bytes| match Record::decode(bytes) {
            Ok(record) => core.restore(record),
            Err(reason @ RecordError::Version(_)) => newer = Some(reason),
            // The journal's checksum was right: a defect of who wrote it. The others are worth more than this one.
            Err(reason) => tracing::error!(%reason, "a record of the commands is left out"),
        })?;
        if let Some(reason) = newer {
            return Err(OpenError::Version { dir, reason });
        }
        let line = Line::after(core.time(), clock);
        core.restored(line.now());
        let meters = metrics::Meters::new(metrics);
        meters.show(&core.counts());
        Ok(Self(Arc::new(Inner {
            core: Mutex::new(core),
            journal,
            line,
            clock: clock.clone(),
            node: config.node.id.clone(),
            expiry: commands.expiry,
            wait_max: commands.max_wait,
            payload_bytes_max: commands.max_command,
            upstream,
            topics: Topics::new(config),
            watchers: watch::Watchers::default(),
            mirror: mirror::Changes::default(),
            meters,
            attention: Notify::new(),
        })))
    }

    /// Expires, reports and tidies until `tasks` stops.
    pub fn start(&self, tasks: &Tasks) {
        let (commands, stopping) = (self.clone(), tasks.stopping().clone());
        tasks.spawn("commands", async move {
            upkeep::run(&commands, &stopping).await;
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// Keeps a retained message for everything that waits, from now on until `tasks` stops. To be called before anybody can
    /// subscribe.
    pub fn publish_to(&self, tasks: &Tasks, publisher: Arc<dyn Publisher>) {
        mirror::begin(self, publisher.as_ref());
        let (commands, stopping) = (self.clone(), tasks.stopping().clone());
        tasks.spawn("commands to MQTT", async move {
            mirror::run(&commands, publisher.as_ref(), &stopping).await;
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// Takes a command; returns once it is on disk. Dropping the future does not undo it.
    pub async fn add(&self, request: Request) -> Result<Added, CommandError> {
        let new = New {
            device: request.device.into(),
            id: request.id.unwrap_or_else(random::uuid_v7).into(),
            name: request.name,
            content_type: request.content_type,
            payload: request.payload,
            expires_in: millis(request.expires_in.unwrap_or(self.0.expiry)),
        };
        let (added, position) = self.0.change(|core, now| match core.add(now, new) {
            Ok((added, record)) => (Ok(added), record.into_iter().collect()),
            Err(refused) => (Err(refused), Vec::new()),
        });
        let added = added?;
        self.0.journal.durable(position?).await?;
        Ok(added)
    }

    /// Why the journal takes and answers nothing at present.
    pub fn journal_trouble(&self) -> Option<Arc<str>> {
        self.0.journal.trouble()
    }

    /// What waits for `device` and was added after place `after` (0: from the beginning), in order: about `bytes_max` of it,
    /// but at least one.
    pub async fn waiting(&self, device: &str, after: u64, bytes_max: usize) -> Result<Vec<Arc<Command>>, CommandError> {
        self.0
            .look(|core, now| {
                let (mut bytes, mut count) = (0, 0);
                let fits = |c: &&Arc<Command>| {
                    (bytes, count) = (bytes + c.payload.len(), count + 1);
                    count == 1 || bytes <= bytes_max
                };
                core.waiting(now, device, after).take_while(fits).cloned().collect()
            })
            .await
    }

    /// The place after which to go on for a device that has seen the command `id`.
    pub fn place(&self, device: &str, id: &str) -> u64 {
        self.0.lock().place(device, id)
    }

    /// Where a command is.
    pub async fn state(&self, device: &str, id: &str) -> Result<Option<State>, CommandError> {
        self.0.look(|core, _| core.state(device, id)).await
    }

    /// Tells of changes of what is addressed to `device`.
    pub fn subscribe(&self, device: &str) -> Watch {
        watch::Watch::new(self.0.clone(), device)
    }

    /// A device answers: returns once that is on its way to Pulsar and the command is over, both on disk. May be
    /// dropped at any time; the answer then counts or not, and repeating it settles it.
    pub async fn answer(&self, device: &str, id: &str, outcome: &Outcome) -> Result<Answered, CommandError> {
        let claim = self.0.lock().claim(device, id, outcome);
        let (subject, outcome) = match claim {
            Claim::Report(subject, outcome) => (subject, outcome),
            Claim::Closed(closed) => {
                // Answered only once that it is closed is on disk.
                self.0.look(|_, _| ()).await?;
                return Ok(Answered::Before(closed));
            }
            Claim::Unknown => return Err(CommandError::Unknown { device: device.to_owned(), id: id.to_owned() }),
        };
        let mut claimed = Claimed { inner: &self.0, subject, doubtful: true };
        if let Err(e) = self.0.report(&claimed.subject, &outcome).await {
            claimed.doubtful = e.is_doubtful();
            return Err(e.into());
        }
        let ((), position) =
            self.0.change(|core, now| ((), core.end(now, &claimed.subject, &outcome).into_iter().collect()));
        self.0.journal.durable(position?).await?;
        Ok(Answered::Now(outcome))
    }

    /// Takes a command back, if it waits; `None`: there is no such command. Whether its device has begun is not known.
    pub async fn cancel(&self, device: &str, id: &str) -> Result<Option<State>, CommandError> {
        let (state, position) = self.0.change(|core, now| {
            let records = core.cancel(now, device, id).into_iter().collect();
            (core.state(device, id), records)
        });
        self.0.journal.durable(position?).await?;
        Ok(state)
    }

    /// Sets a device's configuration. Returns once it is on disk; `true`: it was another one before, or none.
    pub async fn configure(
        &self,
        device: &str,
        content_type: Option<String>,
        payload: Bytes,
    ) -> Result<(Arc<Config>, bool), CommandError> {
        let (set, position) =
            self.0.change(|core, now| match core.configure(now, device.into(), content_type, payload) {
                Ok((config, record)) => (Ok((config, record.is_some())), record.into_iter().collect()),
                Err(refused) => (Err(refused), Vec::new()),
            });
        let set = set?;
        self.0.journal.durable(position?).await?;
        Ok(set)
    }

    /// A device's configuration.
    pub async fn config(&self, device: &str) -> Result<Option<Arc<Config>>, CommandError> {
        self.0.look(|core, _| core.config(device)).await
    }

    /// Removes a device's configuration; `false`: it had none.
    pub async fn unconfigure(&self, device: &str) -> Result<bool, CommandError> {
        let (had, position) = self.0.change(|core, _| {
            let record = core.unconfigure(device);
            (record.is_some(), record.into_iter().collect())
        });
        self.0.journal.durable(position?).await?;
        Ok(had)
    }

    /// Device and command that a message on `topic` answers, if it is such a topic.
    pub fn result_topic(&self, topic: &str) -> Option<(String, String)> {
        self.0.topics.result(topic)
    }

    /// The state in numbers.
    pub fn counts(&self) -> Counts {
        self.0.lock().counts()
    }

    /// A point in time as people read it.
    pub fn show(&self, at: Millis) -> Timestamp {
        self.0.line.show(at)
    }

    /// `commands.max_wait`
    pub fn wait_max(&self) -> Duration {
        self.0.wait_max
    }

    /// `commands.max_command`
    pub fn payload_bytes_max(&self) -> u64 {
        self.0.payload_bytes_max
    }

    /// Counts a command that was handed out.
    pub fn delivered(&self, via: Via) {
        self.0.meters.delivered(via);
    }

    /// Puts what is left on disk.
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE_MAX, self.0.journal.close()).await.is_err() {
            tracing::error!("the disk did not take the state of commands within {CLOSE_MAX:?}; leaving it");
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Core> {
        // Every change is complete in one step.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and hands its records to the journal, then tells whom it concerns. The position is that of
    /// everything up to now, records or not.
    fn change<T>(
        &self,
        work: impl FnOnce(&mut Core, Millis) -> (T, Vec<Record>),
    ) -> (T, Result<Position, AppendError>) {
        let mut core = self.lock();
        let (result, records) = work(&mut core, self.line.now());
        let mut bytes: Vec<_> = records.iter().map(Record::encode).collect();
        if !records.is_empty() {
            bytes.extend(self.line.record_if_due().map(|r| r.encode()));
        }
        let position = self.journal.append(&bytes);
        if records.is_empty() {
            return (result, position);
        }
        self.meters.show(&core.counts());
        drop(core);
        for record in &records {
            self.tell(record);
        }
        self.attention.notify_one();
        (result, position)
    }

    fn tell(&self, record: &Record) {
        match record {
            Record::Added(command) => {
                self.meters.added();
                self.mirror.command(&command.device, &command.id);
                self.watchers.tell(&command.device);
            }
            Record::Ended { device, id, outcome, .. } => {
                self.meters.ended(outcome.status);
                self.mirror.command(device, id);
                self.watchers.tell(device);
            }
            Record::Config(config) => {
                self.mirror.config(&config.device);
                self.watchers.tell(&config.device);
            }
            Record::NoConfig { device } => {
                self.mirror.config(device);
                self.watchers.tell(device);
            }
            Record::Reported { .. }
            | Record::Closed(_)
            | Record::Time(_)
            | Record::Published { .. }
            | Record::ConfigPublished { .. } => {}
        }
    }

    /// Reads the state, and returns once all that it shows is on disk.
    async fn look<T>(&self, work: impl FnOnce(&Core, Millis) -> T) -> Result<T, CommandError> {
        let (result, position) = {
            let core = self.lock();
            (work(&core, self.line.now()), self.journal.append::<Vec<u8>>(&[]))
        };
        self.journal.durable(position?).await?;
        Ok(result)
    }

    /// Sends the end of a command upstream.
    async fn report(&self, subject: &Subject, outcome: &Outcome) -> Result<(), NotStored> {
        let now = Timestamp::from_unix_ms(self.clock.unix_ms());
        self.upstream.store(event(&self.node, subject, outcome, now)).await
    }
}

/// The right to send an answer upstream, given back in any case. Dropped on the way, it leaves doubt.
struct Claimed<'a> {
    inner: &'a Inner,
    subject: Subject,
    doubtful: bool,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.inner.lock().release(&self.subject, self.doubtful);
    }
}

fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
