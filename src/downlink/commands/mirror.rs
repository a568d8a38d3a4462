//! What waits, as retained MQTT messages: published when it comes, cleared when it is over, and all of it anew at
//! every start (the truth is in the journal, so the broker need not keep these messages on disk).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::command::{Command, Config, Millis};
use super::core::State;
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
    /// Publishes and retains a message, instead of what was retained there.
    fn publish(&self, message: Retained) -> BoxFuture<'_, Result<(), String>>;
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

/// Publishes until `stopping`.
pub async fn run(commands: &Commands, publisher: &dyn Publisher, stopping: &CancellationToken) {
    begin(commands);
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

fn begin(commands: &Commands) {
    let core = commands.0.lock();
    let waiting = core.all_waiting().map(|c| Changed::Command(c.device.clone(), c.id.clone()));
    let configs = core.all_configs().map(|c| Changed::Config(c.device.clone()));
    let all = waiting.chain(configs).collect();
    *commands.0.mirror.lock() = Some(all);
}

async fn show(commands: &Commands, publisher: &dyn Publisher, change: &Changed) -> Result<(), String> {
    let unknown = |e: CommandError| e.to_string();
    let topics = &commands.0.topics;
    let now = commands.0.line.now();
    let message = match change {
        Changed::Command(device, id) => match commands.state(device, id).await.map_err(unknown)? {
            Some(State::Waiting(command)) if command.expires > now => {
                of_command(&command, topics.command(device, id), now, commands.show(command.expires))
            }
            _ => return publisher.clear(topics.command(device, id)).await,
        },
        Changed::Config(device) => match commands.config(device).await.map_err(unknown)? {
            Some(config) => of_config(&config, topics.config(device)),
            None => return publisher.clear(topics.config(device)).await,
        },
    };
    let is_command = matches!(change, Changed::Command(..));
    publisher.publish(message).await?;
    if is_command {
        commands.delivered(Via::Mqtt);
    }
    Ok(())
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
