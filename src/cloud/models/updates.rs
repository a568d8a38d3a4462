//! Models that training pipelines send to the topic of updates, by any Pulsar client.
//!
//! ```text
//! properties   tg_update: names the update      tg_part: 0 …      tg_parts: how many there are
//! part 0       the signed manifest              part 1 …          the file, one piece after the other
//! or part 0 alone, with tg_url: where the file is, within models.sources
//! ```
//! One process at a time has the subscription. What became of an update is told in the topic of results, in the log and in the
//! metrics, and then its messages are acknowledged: a process that dies before has them sent again, to the next one.
//!
//! Traps of the `pulsar` crate (6.9.1) are those of `cloud::consume`: a stream that ends, goes silent or reports an error
//! makes a new consumer; whole entries are acknowledged, cumulatively.

mod desk;
mod source;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use pulsar::consumer::{InitialPosition, Message};
use pulsar::message::proto::MessageIdData;
use pulsar::{Consumer, ConsumerOptions, DeserializeMessage, Payload, SubType, TokioExecutor};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::desk::{Desk, Entry, Part, Step};
use self::source::SourceError;
use super::publish::Stored;
use super::upload::nameless;
use super::{Class, Models, PublishError};
use crate::cloud::client::{self, ClientError, OPERATION_TIMEOUT};
use crate::cloud::control::wire::{Outgoing, Writer};
use crate::config::cloud;
use crate::event::Timestamp;
use crate::models::manifest::Signed;
use crate::pulsar::names;
use crate::sys::backoff::Backoff;
use crate::sys::random;

/// Message property: names the update that a part belongs to.
pub const UPDATE: &str = "tg_update";
/// Message property: which part it is, from 0.
pub const PART: &str = "tg_part";
/// Message property: how many parts there are.
pub const PARTS: &str = "tg_parts";
/// Message property of part 0: where the file is.
pub const URL: &str = "tg_url";

/// Messages that the broker may send ahead: of at most 5 MiB each.
const PERMITS: u32 = 8;

/// A connection that was quiet so long is asked whether it still lives.
const WATCHDOG: Duration = Duration::from_secs(10);

/// Tries to fetch what an update names, some minutes in all.
const FETCH_TRIES: u32 = 20;

/// One line in the log for the same reason in this time.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Why a consumer has to be made again.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the subscription to {topic} broke: {reason}")]
    Subscription { topic: String, reason: String },
}

/// Why an update is not published.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Message(String),
    #[error("parts of it are missing; send all of it again, under another name")]
    Gap,
    #[error("nothing more came of it; send all of it again, under another name")]
    Silent,
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Refused {
    fn code(&self) -> &'static str {
        match self {
            Self::Message(_) => "malformed-update",
            Self::Gap => "parts-missing",
            Self::Silent => "broken-off",
            Self::Source(SourceError::NotAllowed(_)) => "source-not-allowed",
            Self::Source(SourceError::Unreadable { .. } | SourceError::Unreachable { .. }) => "source-unreadable",
            Self::Source(SourceError::Publish(e)) | Self::Publish(e) => e.code(),
        }
    }
}

/// A message whose data is left where it is.
struct Untouched;

impl DeserializeMessage for Untouched {
    type Output = ();
    fn deserialize_message(_: &Payload) {}
}

/// An update that is being taken in.
struct Taking {
    signed: Signed,
    file: File,
    bytes: u64,
}

/// Takes updates until `stop`.
pub async fn run(models: Models, pulsar: cloud::Pulsar, results: Writer, stop: CancellationToken) {
    let topic = names::updates_topic(&pulsar.tenant);
    let mut backoff = Backoff::default();
    let mut told: Option<(String, Instant)> = None;
    while !stop.is_cancelled() {
        let session = Session {
            models: models.clone(),
            topic: topic.clone(),
            results: results.clone(),
            stop: stop.clone(),
            desk: Desk::default(),
            taking: HashMap::new(),
        };
        let Some(Err(e)) = stop.run_until_cancelled(session.run(&pulsar, &mut backoff)).await else { return };
        let why = e.to_string();
        if told.as_ref().is_none_or(|(before, at)| *before != why || at.elapsed() > LINE_EVERY) {
            tracing::warn!(reason = why, "cannot take updates of models; trying again");
            told = Some((why, Instant::now()));
        }
        let wait = backoff.after_failure(random::bits());
        stop.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
}

/// One consumer's life. What was taken in goes with it: the broker sends again what was not acknowledged.
struct Session {
    models: Models,
    topic: String,
    results: Writer,
    stop: CancellationToken,
    desk: Desk,
    taking: HashMap<String, Taking>,
}

impl Session {
    async fn run(mut self, pulsar: &cloud::Pulsar, backoff: &mut Backoff) -> Result<(), Broken> {
        let mut consumer = self.subscribe(pulsar).await?;
        loop {
            match timeout(WATCHDOG, consumer.next()).await {
                Err(_) => self.ping(&mut consumer).await?,
                Ok(None) => return Err(self.broken("it could not be restored".to_owned())),
                Ok(Some(Err(e))) => return Err(self.broken(e.to_string())),
                Ok(Some(Ok(message))) => {
                    backoff.reset();
                    self.take(&message).await;
                }
            }
            for update in self.desk.silent(self.now_ms()) {
                self.refuse(&update, &Refused::Silent).await;
            }
            if let Some(Entry { ledger, entry }) = self.desk.acknowledge() {
                // No batch index: the whole entry, and with it all before it.
                let id = MessageIdData { ledger_id: ledger, entry_id: entry, ..MessageIdData::default() };
                let acknowledged = consumer.cumulative_ack_with_id(&self.topic, id).await;
                acknowledged.map_err(|e| self.broken(e.to_string()))?;
            }
        }
    }

    async fn subscribe(&self, pulsar: &cloud::Pulsar) -> Result<Consumer<Untouched, TokioExecutor>, Broken> {
        let client = client::connect(pulsar).await?;
        let options = ConsumerOptions::default()
            .durable(true)
            .with_initial_position(InitialPosition::Earliest)
            .with_receiver_queue_size(PERMITS);
        let consumer = client
            .consumer()
            .with_topic(&self.topic)
            .with_subscription(&pulsar.subscription)
            .with_subscription_type(SubType::Failover)
            .with_consumer_name(format!("tidegate-{}", random::hex16()))
            .with_batch_size(PERMITS)
            .with_options(options)
            .build();
        let limit = 3 * OPERATION_TIMEOUT;
        let built = timeout(limit, consumer).await;
        let slow = |_| self.broken(format!("no answer for {} s", limit.as_secs()));
        built.map_err(slow)?.map_err(|e| self.broken(e.to_string()))
    }

    async fn ping(&self, consumer: &mut Consumer<Untouched, TokioExecutor>) -> Result<(), Broken> {
        match timeout(2 * OPERATION_TIMEOUT, consumer.check_connection()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(self.broken(e.to_string())),
            Err(_) => Err(self.broken("the broker does not answer".to_owned())),
        }
    }

    fn broken(&self, reason: String) -> Broken {
        Broken::Subscription { topic: self.topic.clone(), reason }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.models.0.clock.unix_ms()).unwrap_or(0)
    }

    async fn take(&mut self, message: &Message<Untouched>) {
        let id = &message.message_id.id;
        let at = Entry { ledger: id.ledger_id, entry: id.entry_id };
        let properties = &message.payload.metadata.properties;
        let property = |name: &str| properties.iter().find(|p| p.key == name).map(|p| p.value.as_str());
        match Part::of(property) {
            Err(why) => self.refuse("", &Refused::Message(why)).await,
            Ok(part) => {
                let update = part.update.clone();
                let taken = self.part(&part, at, property(URL), &message.payload.data).await;
                if let Err(refused) = taken {
                    self.desk.close(&update);
                    self.refuse(&update, &refused).await;
                }
            }
        }
        let last_of_entry = id.batch_index.unwrap_or(0) + 1 >= message.message_id.batch_size.unwrap_or(1);
        if last_of_entry {
            self.desk.done(at);
        }
    }

    async fn part(&mut self, part: &Part, at: Entry, url: Option<&str>, data: &[u8]) -> Result<(), Refused> {
        let is_last = match self.desk.take(part, at, self.now_ms()) {
            Step::Pass => return Ok(()),
            Step::Gap => return Err(Refused::Gap),
            Step::Begin(over) => {
                if let Some(over) = over {
                    self.refuse(&over, &Refused::Silent).await;
                }
                return self.begin(part, url, data).await;
            }
            Step::Data(is_last) => is_last,
        };
        let mut taking = self.taking.remove(&part.update).ok_or(Refused::Gap)?;
        taking.bytes += data.len() as u64;
        let (found, size) = (taking.bytes, taking.signed.manifest().size);
        if found > size || (is_last && found < size) {
            return Err(PublishError::Size { found, size }.into());
        }
        let (mut file, data) = (taking.file, data.to_vec());
        let written = tokio::task::spawn_blocking(move || file.write_all(&data).map(|()| file)).await;
        let file = written.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(PublishError::from)?;
        if is_last {
            return self.publish(&part.update, taking.signed, file).await;
        }
        self.taking.insert(part.update.clone(), Taking { file, ..taking });
        Ok(())
    }

    async fn begin(&mut self, part: &Part, url: Option<&str>, manifest: &[u8]) -> Result<(), Refused> {
        let (signed, there) = self.later(|| async { self.models.judge(manifest) }).await?;
        if let Some(stored) = there {
            self.desk.close(&part.update);
            self.published(&part.update, &stored).await;
            return Ok(());
        }
        let config = &self.models.0.config;
        match url {
            Some(url) if part.parts == 1 => {
                let file = self.fetch(url, signed.manifest().size).await?;
                self.publish(&part.update, signed, file).await
            }
            None if part.parts > 1 => {
                let file = nameless(&config.dir).map_err(PublishError::from)?;
                self.taking.insert(part.update.clone(), Taking { signed, file, bytes: 0 });
                Ok(())
            }
            _ => {
                let text = format!("an update has its file in parts 1 and on, or is one part with the property {URL}");
                Err(Refused::Message(text))
            }
        }
    }

    async fn fetch(&self, url: &str, size: u64) -> Result<File, Refused> {
        let mut backoff = Backoff::default();
        for n in 1.. {
            let (url, config) = (url.to_owned(), self.models.0.config.clone());
            let fetching = move || source::fetch(&url, &config.sources, size, &config.dir);
            let fetched = tokio::task::spawn_blocking(fetching).await;
            let fetched = fetched.map_err(|e| PublishError::Disk(std::io::Error::other(e)))?;
            match fetched {
                Err(SourceError::Unreachable { url, why }) if n < FETCH_TRIES => {
                    tracing::info!(url, why, "cannot fetch a model; trying again");
                    tokio::time::sleep(backoff.after_failure(random::bits())).await;
                }
                fetched => return Ok(fetched?),
            }
        }
        Err(Refused::Gap) // the loop has returned
    }

    /// Publishes what is all here; whatever may pass is waited for.
    async fn publish(&mut self, update: &str, signed: Signed, file: File) -> Result<(), Refused> {
        let by = format!("updates ({})", signed.signer());
        let file = &file;
        let publish = || async {
            let file = file.try_clone()?;
            self.models.publish(signed.clone(), file, &by).await
        };
        let stored = self.later(publish).await?;
        self.desk.close(update);
        self.published(update, &stored).await;
        Ok(())
    }

    /// Does something again and again until it is done, or refused.
    async fn later<T, F: Future<Output = Result<T, PublishError>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, PublishError> {
        let (mut backoff, mut told) = (Backoff::default(), None);
        loop {
            match attempt().await {
                Err(e) if e.class() == Class::Later => {
                    let why = e.to_string();
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(reason = why, "cannot publish an update now; trying again");
                        told = Some(why);
                    }
                    tokio::time::sleep(backoff.after_failure(random::bits())).await;
                }
                done => return done,
            }
        }
    }

    async fn published(&self, update: &str, stored: &Stored) {
        let manifest = &stored.version.manifest;
        let result = json!({
            "update": update,
            "outcome": "published",
            "name": manifest.name,
            "version": manifest.version,
            "sha256": stored.version.digest,
            "at": Timestamp::from_unix_ms(self.models.0.clock.unix_ms()).to_string(),
        });
        self.tell(update, result).await;
    }

    async fn refuse(&mut self, update: &str, refused: &Refused) {
        let taking = self.taking.remove(update);
        let manifest = taking.as_ref().map(|taking| taking.signed.manifest());
        let (code, reason) = (refused.code(), refused.to_string());
        self.models.0.meters.refused(code);
        tracing::warn!(update, code, reason, "an update of a model was refused");
        let result = json!({
            "update": update,
            "outcome": "refused",
            "reason": code,
            "detail": reason,
            "name": manifest.map(|manifest| &manifest.name),
            "version": manifest.map(|manifest| manifest.version),
            "at": Timestamp::from_unix_ms(self.models.0.clock.unix_ms()).to_string(),
        });
        self.tell(update, result).await;
    }

    /// Told before it is acknowledged; a broker that does not take it now will have it all told again.
    async fn tell(&self, update: &str, result: serde_json::Value) {
        let key = if update.is_empty() { "unknown" } else { update };
        let payload = result.to_string().into_bytes().into();
        let message = Outgoing { key: key.to_owned(), properties: vec![(UPDATE, update.to_owned())], payload };
        let mut backoff = Backoff::default();
        while let Err(e) = self.results.write(message.clone()).await {
            if self.stop.is_cancelled() {
                return std::future::pending().await;
            }
            tracing::warn!(reason = %e, "cannot tell what became of an update; trying again");
            tokio::time::sleep(backoff.after_failure(random::bits())).await;
        }
    }
}
