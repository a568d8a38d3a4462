//! The state machine of all devices' commands and configurations. [pure]
//!
//! ```text
//! add ─► waiting ─┬─ claim ─► (result goes upstream) ─► end(answer) ─► closed, remembered for a while ─► forgotten
//!                 └─ tick (expired), cancel ─► closed, unreported ─► reported ─┘
//! ```
//! A method takes an input and the time, changes the state at once and says what to write to the journal. Whoever
//! shows the state or answers waits until the journal has what was written before (the shell does). Written in order, any
//! beginning of the records gives a state that was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::command::{Closed, Command, Config, Millis, Outcome, Status};
use super::record::Record;
use crate::journal::time_line::Restored;

mod published;
#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
mod tidy;

pub use tidy::TidyCursor;

/// A command that is over is remembered so long: its sender repeats it within hours if at all.
pub const REMEMBERED_MS: Millis = 24 * 3600 * 1000;

/// Most of them, of all devices; with the bytes of an id and a name, 2 MB.
pub const REMEMBERED_MAX: usize = 4096;

/// Most commands that one call of [`Core::tick`] ends, so that nobody waits long for the lock.
pub const TICK_MAX: usize = 256;

/// Bounds, from `[commands]`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most commands that wait for one device.
    pub waiting_max: usize,
    /// Most bytes in all.
    pub bytes_max: u64,
    /// Largest payload of a command or configuration.
    pub payload_bytes_max: u64,
}

/// A command to be added. Its names have been checked.
#[derive(Clone, Debug)]
pub struct New {
    /// Whom it is for.
    pub device: Arc<str>,
    /// Unique for the device.
    pub id: Arc<str>,
    /// What to do.
    pub name: String,
    /// Of the payload.
    pub content_type: Option<String>,
    /// Parameters.
    pub payload: Bytes,
    /// How long it waits.
    pub expires_in: Millis,
}

/// Where a command is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for its device's answer.
    Waiting(Arc<Command>),
    /// It is over.
    Closed(Arc<Closed>),
}

/// What became of an addition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// It waits now.
    New(Arc<Command>),
    /// It was added before; this is what became of it.
    Repeated(State),
}

/// Why something was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum Refused {
    #[error("command {id:?} of device {device:?} is another one: take another id, or leave it out")]
    Conflict { device: Arc<str>, id: Arc<str> },
    #[error(
        "{waiting} commands wait for device {device:?}, at most {max} may (commands.max_waiting): wait until it answers, or cancel some"
    )]
    DeviceFull { device: Arc<str>, waiting: usize, max: usize },
    #[error(
        "{bytes} bytes wait for all devices, at most {max} may (commands.max_bytes): wait until they answer, or cancel some"
    )]
    Full { bytes: u64, max: u64 },
    #[error("{bytes} bytes, at most {max} are taken; send less, or raise commands.max_command")]
    TooLarge { bytes: u64, max: u64 },
}

/// What a device's answer leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Send this outcome upstream, then call [`Core::end`], in any case [`Core::release`]. It is the first answer's: one
    /// that came while that was being stored, or after doubt whether it was, changes nothing.
    Report(Subject, Outcome),
    /// It was answered before.
    Closed(Arc<Closed>),
    /// There is no such command, or not any more.
    Unknown,
}

/// Which command an outcome is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Whose.
    pub device: Arc<str>,
    /// Which.
    pub id: Arc<str>,
    /// What it was to do.
    pub name: String,
}

/// An answer that is on its way.
#[derive(Debug)]
struct Claimed {
    outcome: Outcome,
    /// How many see to it now.
    active: u32,
    /// It may be upstream.
    doubtful: bool,
}

type Key = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Device {
    waiting: BTreeMap<u64, Arc<Command>>,
    closed: BTreeMap<u64, Arc<Closed>>,
    ids: BTreeMap<Arc<str>, u64>,
    config: Option<Arc<Config>>,
    /// Those of `waiting` that subscribers by MQTT have.
    published: BTreeSet<u64>,
    /// They have the configuration too.
    config_published: bool,
}

impl Device {
    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.config.is_none()
    }
}

/// The state in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that wait.
    pub waiting: usize,
    /// Commands that are over and remembered.
    pub closed: usize,
    /// Of these, not yet reported upstream.
    pub unreported: usize,
    /// Devices with a configuration.
    pub configs: usize,
    /// Devices with anything.
    pub devices: usize,
    /// What all of it counts into `commands.max_bytes`.
    pub bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    devices: BTreeMap<Arc<str>, Device>,
    /// Of what waits.
    deadlines: BTreeMap<(Millis, u64), Key>,
    /// What is over and reported, the oldest first.
    remembered: BTreeMap<(Millis, u64), Key>,
    /// What is over and not reported.
    unreported: BTreeMap<u64, Key>,
    claims: BTreeMap<Key, Claimed>,
    next_seq: u64,
    configs: usize,
    bytes: u64,
    /// What the records tell of the time line.
    time: Restored,
}

impl Core {
    /// Nothing waits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            devices: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            remembered: BTreeMap::new(),
            unreported: BTreeMap::new(),
            claims: BTreeMap::new(),
            next_seq: 1,
            configs: 0,
            bytes: 0,
            time: Restored::default(),
        }
    }

    /// Takes a command. One with the same id and content as an earlier one (whatever its expiry) is that one.
    pub fn add(&mut self, now: Millis, new: New) -> Result<(Added, Option<Record>), Refused> {
        self.forget(now);
        let bytes = new.payload.len() as u64;
        if bytes > self.limits.payload_bytes_max {
            return Err(Refused::TooLarge { bytes, max: self.limits.payload_bytes_max });
        }
        let command = Arc::new(Command {
            device: new.device,
            id: new.id,
            seq: self.next_seq,
            name: new.name,
            content_type: new.content_type,
            payload: new.payload,
            created: now,
            expires: now.saturating_add(new.expires_in),
        });
        if let Some(state) = self.state(&command.device, &command.id) {
            let digest = match &state {
                State::Waiting(earlier) => earlier.digest(),
                State::Closed(earlier) => earlier.digest,
            };
            return if digest == command.digest() {
                Ok((Added::Repeated(state), None))
            } else {
                Err(Refused::Conflict { device: command.device.clone(), id: command.id.clone() })
            };
        }
        let waiting = self.devices.get(&command.device).map_or(0, |d| d.waiting.len());
        if waiting >= self.limits.waiting_max {
            let max = self.limits.waiting_max;
            return Err(Refused::DeviceFull { device: command.device.clone(), waiting, max });
        }
        self.make_room(command.cost())?;
        self.insert(command.clone());
        Ok((Added::New(command.clone()), Some(Record::Added(command))))
    }

    /// What waits for `device` and was added after place `after`, in order.
    pub fn waiting(&self, now: Millis, device: &str, after: u64) -> impl Iterator<Item = &Arc<Command>> {
        let all = self.devices.get(device).into_iter();
        all.flat_map(move |d| d.waiting.range(after.saturating_add(1)..))
            .map(|(_, c)| c)
            .filter(move |c| c.expires > now)
    }

    /// The place of a command that `device` was given, for [`Core::waiting`]; of one that is not known, the beginning.
    pub fn place(&self, device: &str, id: &str) -> u64 {
        self.devices.get(device).and_then(|d| d.ids.get(id)).copied().unwrap_or(0)
    }

    /// Where a command is.
    pub fn state(&self, device: &str, id: &str) -> Option<State> {
        let device = self.devices.get(device)?;
        let seq = device.ids.get(id)?;
        let waiting = device.waiting.get(seq).cloned().map(State::Waiting);
        waiting.or_else(|| device.closed.get(seq).cloned().map(State::Closed))
    }

    /// All that waits, for publishing it anew.
    pub fn all_waiting(&self) -> impl Iterator<Item = &Arc<Command>> {
        self.devices.values().flat_map(|d| d.waiting.values())
    }

    /// All configurations.
    pub fn all_configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        self.devices.values().filter_map(|d| d.config.as_ref())
    }

    /// A device answers. An answer to a command that had expired or was cancelled counts: the device did act.
    pub fn claim(&mut self, device: &str, id: &str, outcome: &Outcome) -> Claim {
        let subject = match self.state(device, id) {
            None => return Claim::Unknown,
            Some(State::Closed(closed)) if closed.outcome.status.is_answer() => return Claim::Closed(closed),
            Some(State::Closed(c)) => Subject { device: c.device.clone(), id: c.id.clone(), name: c.name.clone() },
            Some(State::Waiting(c)) => Subject { device: c.device.clone(), id: c.id.clone(), name: c.name.clone() },
        };
        let key = (subject.device.clone(), subject.id.clone());
        let new = || Claimed { outcome: outcome.clone(), active: 0, doubtful: false };
        let claimed = self.claims.entry(key).or_insert_with(new);
        claimed.active += 1;
        Claim::Report(subject, claimed.outcome.clone())
    }

    /// One who got [`Claim::Report`] has ended. `doubtful`: it may be upstream although that is not known.
    pub fn release(&mut self, subject: &Subject, doubtful: bool) {
        let key = (subject.device.clone(), subject.id.clone());
        if let Some(claimed) = self.claims.get_mut(&key) {
            claimed.active = claimed.active.saturating_sub(1);
            claimed.doubtful |= doubtful;
            if claimed.active == 0 && !claimed.doubtful {
                self.claims.remove(&key);
            }
        }
    }

    /// The outcome of a claim is upstream.
    pub fn end(&mut self, now: Millis, subject: &Subject, outcome: &Outcome) -> Option<Record> {
        self.claims.remove(&(subject.device.clone(), subject.id.clone()));
        match self.state(&subject.device, &subject.id)? {
            State::Closed(closed) if closed.outcome.status.is_answer() => None,
            _ => Some(self.close(now, (subject.device.clone(), subject.id.clone()), outcome, true)),
        }
    }

    /// An operator takes a command back. `None`: there is none that waits.
    pub fn cancel(&mut self, now: Millis, device: &str, id: &str) -> Option<Record> {
        match self.state(device, id)? {
            State::Waiting(c) => {
                let key = (c.device.clone(), c.id.clone());
                Some(self.close(now, key, &Outcome::plain(Status::Cancelled), false))
            }
            State::Closed(_) => None,
        }
    }

    /// Ends what has expired, at most [`TICK_MAX`] of it, and forgets what is old. A command whose answer is just going
    /// upstream is left alone.
    pub fn tick(&mut self, now: Millis) -> Vec<Record> {
        self.forget(now);
        let due = self.deadlines.range(..=(now, u64::MAX)).map(|(_, key)| key);
        let due: Vec<Key> =
            due.filter(|key| self.claims.get(key).is_none_or(|c| c.active == 0)).take(TICK_MAX).cloned().collect();
        due.into_iter().map(|key| self.close(now, key, &Outcome::plain(Status::Expired), false)).collect()
    }

    /// When [`Core::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Millis> {
        let expires = self.deadlines.first_key_value().map(|((at, _), _)| *at);
        let old = self.remembered.first_key_value().map(|((at, _), _)| at.saturating_add(REMEMBERED_MS));
        expires.into_iter().chain(old).min()
    }

    /// Ends that the gateway itself decided and that are to go upstream, the first `most`.
    pub fn unreported(&self, most: usize) -> Vec<Arc<Closed>> {
        let closed = |(seq, (device, _)): (&u64, &Key)| self.devices.get(device)?.closed.get(seq).cloned();
        self.unreported.iter().take(most).filter_map(closed).collect()
    }

    /// Such an end is upstream.
    pub fn reported(&mut self, closed: &Closed) -> Option<Record> {
        let (device, id) = self.unreported.remove(&closed.seq)?;
        let entry = self.devices.get_mut(&device)?.closed.get_mut(&closed.seq)?;
        Arc::make_mut(entry).reported = true;
        self.remembered.insert((entry.closed, entry.seq), (device.clone(), id.clone()));
        Some(Record::Reported { device, id })
    }

    /// A device's configuration.
    pub fn config(&self, device: &str) -> Option<Arc<Config>> {
        self.devices.get(device)?.config.clone()
    }

    /// Sets a device's configuration; `None` as record: it was this already.
    pub fn configure(
        &mut self,
        now: Millis,
        device: Arc<str>,
        content_type: Option<String>,
        payload: Bytes,
    ) -> Result<(Arc<Config>, Option<Record>), Refused> {
        let bytes = payload.len() as u64;
        if bytes > self.limits.payload_bytes_max {
            return Err(Refused::TooLarge { bytes, max: self.limits.payload_bytes_max });
        }
        let earlier = self.config(&device);
        if let Some(same) = earlier.as_ref().filter(|c| c.payload == payload && c.content_type == content_type) {
            return Ok((same.clone(), None));
        }
        let version = earlier.as_ref().map_or(1, |c| c.version + 1);
        let config = Arc::new(Config { device, version, content_type, payload, updated: now });
        self.make_room(config.cost().saturating_sub(earlier.map_or(0, |c| c.cost())))?;
        self.set_config(config.clone());
        Ok((config.clone(), Some(Record::Config(config))))
    }

    /// Removes a device's configuration; `None`: it had none.
    pub fn unconfigure(&mut self, device: &str) -> Option<Record> {
        let config = self.take_config(device)?;
        Some(Record::NoConfig { device: config.device.clone() })
    }

    /// Applies a record at the start, in the order in which they were written.
    pub fn restore(&mut self, record: Record) {
        match record {
            Record::Added(command) => {
                self.drop_command(&command.device, &command.id);
                self.insert(command);
            }
            Record::Ended { device, id, outcome, closed, reported } => {
                if self.state(&device, &id).is_some() {
                    self.close(closed, (device, id), &outcome, reported);
                }
            }
            Record::Reported { device, id } => {
                if let Some(State::Closed(closed)) = self.state(&device, &id) {
                    self.reported(&closed);
                }
            }
            Record::Closed(closed) => {
                self.drop_command(&closed.device, &closed.id);
                self.next_seq = self.next_seq.max(closed.seq.saturating_add(1));
                self.remember(closed);
            }
            Record::Config(config) => self.set_config(config),
            Record::NoConfig { device } => drop(self.take_config(&device)),
            Record::Time(reading) => self.time.reading(reading),
            Record::Published { device, id } => drop(self.published(&device, &id)),
            Record::ConfigPublished { device, version } => drop(self.config_published(&device, version)),
        }
    }

    /// After the last of them.
    pub fn restored(&mut self, now: Millis) {
        self.forget(now);
        // Limits may have been lowered: what waits stays nevertheless.
        let _ = self.make_room(0);
    }

    /// What the records tell of the time line, which goes on from there.
    pub fn time(&self) -> &Restored {
        &self.time
    }

    /// The state in numbers.
    pub fn counts(&self) -> Counts {
        Counts {
            waiting: self.deadlines.len(),
            closed: self.remembered.len() + self.unreported.len(),
            unreported: self.unreported.len(),
            configs: self.configs,
            devices: self.devices.len(),
            bytes: self.bytes,
        }
    }

    fn insert(&mut self, command: Arc<Command>) {
        self.bytes += command.cost();
        self.next_seq = self.next_seq.max(command.seq.saturating_add(1));
        self.time.at_least(command.created);
        let key = (command.device.clone(), command.id.clone());
        self.deadlines.insert((command.expires, command.seq), key);
        let device = self.devices.entry(command.device.clone()).or_default();
        device.ids.insert(command.id.clone(), command.seq);
        device.waiting.insert(command.seq, command);
    }

    /// Ends a command that waits, or says of a closed one how it ended after all.
    fn close(&mut self, now: Millis, key: Key, outcome: &Outcome, reported: bool) -> Record {
        let (device, id) = key;
        if let Some(state) = self.drop_command(&device, &id) {
            let (seq, name, digest, created, expires) = match &state {
                State::Waiting(c) => (c.seq, c.name.clone(), c.digest(), c.created, c.expires),
                State::Closed(c) => (c.seq, c.name.clone(), c.digest, c.created, c.expires),
            };
            let (device, id, outcome) = (device.clone(), id.clone(), outcome.kept());
            let closed = Closed { device, id, seq, name, digest, created, expires, outcome, closed: now, reported };
            self.remember(Arc::new(closed));
        }
        Record::Ended { device, id, outcome: outcome.kept(), closed: now, reported }
    }

    fn remember(&mut self, closed: Arc<Closed>) {
        self.bytes += closed.cost();
        self.time.at_least(closed.closed);
        let key = (closed.device.clone(), closed.id.clone());
        if closed.reported {
            self.remembered.insert((closed.closed, closed.seq), key);
        } else {
            self.unreported.insert(closed.seq, key);
        }
        let device = self.devices.entry(closed.device.clone()).or_default();
        device.ids.insert(closed.id.clone(), closed.seq);
        device.closed.insert(closed.seq, closed);
    }

    /// Takes a command out of everything, as if it had never been.
    fn drop_command(&mut self, device: &str, id: &str) -> Option<State> {
        let entry = self.devices.get_mut(device)?;
        let seq = entry.ids.remove(id)?;
        entry.published.remove(&seq);
        let state = match (entry.waiting.remove(&seq), entry.closed.remove(&seq)) {
            (Some(command), _) => {
                self.bytes -= command.cost();
                self.deadlines.remove(&(command.expires, seq));
                Some(State::Waiting(command))
            }
            (None, Some(closed)) => {
                self.bytes -= closed.cost();
                self.remembered.remove(&(closed.closed, seq));
                self.unreported.remove(&seq);
                Some(State::Closed(closed))
            }
            (None, None) => None,
        };
        if entry.is_empty() {
            self.devices.remove(device);
        }
        state
    }

    fn set_config(&mut self, config: Arc<Config>) {
        self.take_config(&config.device.clone());
        self.bytes += config.cost();
        self.configs += 1;
        self.time.at_least(config.updated);
        let device = config.device.clone();
        self.devices.entry(device).or_default().config = Some(config);
    }

    fn take_config(&mut self, device: &str) -> Option<Arc<Config>> {
        let entry = self.devices.get_mut(device)?;
        let config = entry.config.take()?;
        entry.config_published = false;
        if entry.is_empty() {
            self.devices.remove(device);
        }
        self.bytes -= config.cost();
        self.configs -= 1;
        Some(config)
    }

    /// Makes room for `cost` bytes by forgetting what is over and reported, the oldest first.
    fn make_room(&mut self, cost: u64) -> Result<(), Refused> {
        let max = self.limits.bytes_max;
        let needed = self.bytes.saturating_add(cost).saturating_sub(max);
        if needed == 0 {
            return Ok(());
        }
        let mut freed = 0;
        let mut go = Vec::new();
        for ((_, seq), (device, id)) in &self.remembered {
            if freed >= needed {
                break;
            }
            freed += self.devices.get(device).and_then(|d| d.closed.get(seq)).map_or(0, |c| c.cost());
            go.push((device.clone(), id.clone()));
        }
        if freed < needed {
            return Err(Refused::Full { bytes: self.bytes, max });
        }
        go.iter().for_each(|key| self.forget_one(key));
        Ok(())
    }

    /// Forgets what is over, reported, and old or too much.
    fn forget(&mut self, now: Millis) {
        while let Some(((closed, _), key)) = self.remembered.first_key_value() {
            if self.remembered.len() <= REMEMBERED_MAX && closed.saturating_add(REMEMBERED_MS) > now {
                return;
            }
            let key = key.clone();
            self.forget_one(&key);
        }
    }

    fn forget_one(&mut self, key: &Key) {
        self.claims.remove(key);
        self.drop_command(&key.0, &key.1);
    }
}
