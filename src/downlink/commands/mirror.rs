//! What waits, as retained MQTT messages: published when it comes, cleared when it is over, and all of it retained anew at
//! every start (the truth is in the journal, so the broker need not keep these messages on disk). That it was published is in the
//! journal too: to publish it again would queue one more copy for every session that is absent.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::command::{Command, Config, Millis};
use super::core::{Core, State};
use super::record::Record;
use super::{CommandError, Commands, Via};
use crate::event::Timestamp;

/// After a message could not be published, the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// A retained message with an empty payload would clear its topic (MQTT 5.0 §3.3.1.3): a command without data says so in JSON.
const NO_DATA: Bytes = Bytes::from_static(b"null");

/// A message for a topic, to be retained, QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Topic name.
    pub topic: String,
    /// Never empty.
    pub payload: Bytes,
    /// Content type (5.0).
    pub content_type: Option<String>,
    /// User properties (5.0).
    pub user: Vec<(String, String)>,
    /// After how many milliseconds it expires; `None`: never.
    pub expires_in_ms: Option<u64>,
}

/// The MQTT side. Messages need not outlive the process.
pub trait Publisher: Send + Sync + 'static {
    /// Publishes and retains a message, instead of what was retained there. Returns once subscribers' sessions that are kept
    /// have it on disk.
    fn publish(&self, message: Retained) -> BoxFuture<'_, Result<(), String>>;
    /// Only retains it: it was published in an earlier run.
    fn retain(&self, message: Retained) -> Result<(), String>;
    /// Ends what is retained on a topic.
    fn clear(&self, topic: String) -> BoxFuture<'_, Result<(), String>>;
}

/// What may have changed: never more entries than there are commands and configurations, and those that just went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    Command(Arc<str>, Arc<str>),
    Config(Arc<str>),
}

/// What the mirror has still to do.
#[derive(Debug, Default)]
pub struct Changes {
    /// `None`: nobody publishes.
    todo: Mutex<Option<BTreeSet<Changed>>>,
    bell: Notify,
}

impl Changes {
    /// A command came or went.
    pub fn command(&self, device: &Arc<str>, id: &Arc<str>) {
        self.add(|| Changed::Command(device.clone(), id.clone()));
    }

    /// A device's configuration came, changed or went.
    pub fn config(&self, device: &Arc<str>) {
        self.add(|| Changed::Config(device.clone()));
    }

    fn add(&self, change: impl FnOnce() -> Changed) {
        if let Some(todo) = self.lock().as_mut() {
            todo.insert(change());
            self.bell.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeSet<Changed>>> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Changed> {
        self.lock().as_mut()?.pop_first()
    }
}

/// Publishes until `stopping`, after [`begin`].
pub async fn run(commands: &Commands, publisher: &dyn Publisher, stopping: &CancellationToken) {
    let mut failing = false;
    while !stopping.is_cancelled() {
        let Some(change) = commands.0.mirror.take() else {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = commands.0.mirror.bell.notified() => continue,
            }
        };
        match show(commands, publisher, &change).await {
            Ok(()) => failing = false,
            Err(reason) => {
                commands.0.mirror.add(|| change);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(reason, "commands cannot be published by MQTT; trying again");
                }
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }
}

/// Retains what was published in an earlier run; the rest is to be published. Done before anybody can subscribe, or a new subscriber
/// would miss what is only retained.
pub fn begin(commands: &Commands, publisher: &dyn Publisher) {
    let (now, topics, core) = (commands.0.line.now(), &commands.0.topics, commands.0.lock());
    let mut todo = BTreeSet::new();
    for command in core.all_waiting() {
        let (device, id) = (&command.device, &command.id);
        let shown = || of_command(command, topics.command(device, id), now, commands.show(command.expires));
        let known = command.expires > now && core.is_published(device, id);
        if !known || publisher.retain(shown()).is_err() {
            todo.insert(Changed::Command(device.clone(), id.clone()));
        }
    }
    for config in core.all_configs() {
        let known = core.is_config_published(&config.device);
        if !known || publisher.retain(of_config(config, topics.config(&config.device))).is_err() {
            todo.insert(Changed::Config(config.device.clone()));
        }
    }
    *commands.0.mirror.lock() = Some(todo);
}

async fn show(commands: &Commands, publisher: &dyn Publisher, change: &Changed) -> Result<(), String> {
    let unknown = |e: CommandError| e.to_string();
    let topics = &commands.0.topics;
    let now = commands.0.line.now();
    match change {
        Changed::Command(device, id) => match commands.state(device, id).await.map_err(unknown)? {
            Some(State::Waiting(command)) if command.expires > now => {
                let message = of_command(&command, topics.command(device, id), now, commands.show(command.expires));
                if commands.0.lock().is_published(device, id) {
                    return publisher.retain(message);
                }
                publisher.publish(message).await?;
                commands.delivered(Via::Mqtt);
                remember(commands, |core| core.published(device, id));
                Ok(())
            }
            _ => publisher.clear(topics.command(device, id)).await,
        },
        Changed::Config(device) => match commands.config(device).await.map_err(unknown)? {
            Some(config) => {
                let message = of_config(&config, topics.config(device));
                if commands.0.lock().is_config_published(device) {
                    return publisher.retain(message);
                }
                publisher.publish(message).await?;
                remember(commands, |core| core.config_published(device, config.version));
                Ok(())
            }
            None => publisher.clear(topics.config(device)).await,
        },
    }
}

/// Not waited for, and if it is lost, subscribers get one more copy.
fn remember(commands: &Commands, mark: impl FnOnce(&mut Core) -> Option<Record>) {
    if let (_, Err(reason)) = commands.0.change(|core, _| ((), mark(core).into_iter().collect())) {
        tracing::debug!(%reason, "that a command was published is not written down");
    }
}

fn property(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

fn of_command(command: &Command, topic: String, now: Millis, expires: Timestamp) -> Retained {
    Retained {
        topic,
        payload: if command.payload.is_empty() { NO_DATA } else { command.payload.clone() },
        content_type: command.content_type.clone(),
        user: vec![
            property("id", &*command.id),
            property("name", &*command.name),
            property("expires", expires.to_string()),
        ],
        expires_in_ms: Some(command.expires.saturating_sub(now)),
    }
}

fn of_config(config: &Config, topic: String) -> Retained {
    Retained {
        topic,
        payload: config.payload.clone(),
        content_type: config.content_type.clone(),
        user: vec![property("version", config.version.to_string()), property("etag", config.tag())],
        expires_in_ms: None,
    }
}
