//! A connection to the broker of a topic, and the frames that come over it.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use pulsar::message::proto::{
    BaseCommand, CommandPartitionedTopicMetadata, CommandPing, MessageMetadata, base_command::Type,
};
use pulsar::message::{Codec, Message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::codec::Decoder as _;

use crate::config::cloud;
use crate::pulsar::credentials::Credentials;
use crate::pulsar::wire::connection::{auth_response, pong, refused};
use crate::pulsar::wire::frame::{self, WireError};
use crate::pulsar::wire::lookup::{Located, Place, REDIRECTS_MAX, located, lookup, unexpected};
use crate::pulsar::wire::{Address, Connection, Connector, LinkError};

/// Time for one address to answer a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that is quiet for so long is asked whether it lives.
pub const PING_EVERY: Duration = Duration::from_secs(5);

/// One that says nothing for so long is given up. A broker answers a ping at once, unless Java's collector holds it.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Room for a command and the metadata around a message.
const FRAME_EXTRA: usize = 256 << 10;

/// Where Pulsar is, and as whom we come.
#[derive(Clone, Debug)]
pub struct Cluster {
    connector: Connector,
    service: Place,
}

/// Why a topic cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The connection, or the broker's refusal. The wire's words name the gateway's keys; here they are `[pulsar]`'s.
    #[error("{}", words(.0))]
    Link(#[from] LinkError),
    /// Its messages would have no order.
    #[error("{topic} has {partitions} partitions and must have none: delete it, and run `tidegate provision`")]
    Partitioned {
        /// The topic.
        topic: String,
        /// As many.
        partitions: u32,
    },
    /// It has more, and does not send it.
    #[error("{topic} has said nothing for {seconds} s, and is not read to its end: is the broker, or its disk, slow?")]
    Silent {
        /// The topic.
        topic: String,
        /// For so long.
        seconds: u64,
    },
    /// It moves, or was deleted.
    #[error("the broker closed {topic}: it moves to another broker, or was unloaded or deleted")]
    Closed {
        /// The topic.
        topic: String,
    },
}

impl TopicError {
    /// The broker's answer to whoever asks to be the only producer, and is the second.
    pub fn is_taken(&self) -> bool {
        use pulsar::message::proto::ServerError as E;
        matches!(self, Self::Link(LinkError::Refused { code: E::ProducerFenced | E::ProducerBusy, .. }))
    }
}

fn words(error: &LinkError) -> String {
    error.to_string().replace("uplink.pulsar", "pulsar.service").replace("uplink.", "pulsar.")
}

impl Cluster {
    /// The one of `[pulsar]`.
    pub fn of(pulsar: &cloud::Pulsar) -> Result<Self, TopicError> {
        let connector = Connector {
            credentials: Credentials::from(pulsar),
            ca_file: pulsar.ca_file.clone(),
            connect_timeout: CONNECT_TIMEOUT,
        };
        Ok(Self { connector, service: (Address::parse(&pulsar.service)?, None) })
    }

    /// What it shows to brokers.
    pub fn credentials(&self) -> &Credentials {
        &self.connector.credentials
    }

    /// Where lookups are asked first.
    pub fn service(&self) -> &Place {
        &self.service
    }

    /// A connection to `place`.
    pub async fn connect(&self, place: &Place) -> Result<Connection, LinkError> {
        self.connector.connect(&place.0, place.1.as_deref()).await
    }

    /// A connection to the broker of `topic`, which must not be partitioned.
    pub async fn connect_to(&self, topic: &str) -> Result<Connection, TopicError> {
        let (mut place, mut authoritative) = (self.service.clone(), false);
        let mut connection = self.connect(&place).await?;
        self.expect_whole(&mut connection, topic).await?;
        for _ in 0..=REDIRECTS_MAX {
            let id = connection.request_id();
            let request = vec![(id, lookup(topic, id, authoritative))];
            let answer = connection.ask(self.credentials(), "looking up the topic", request).await?.pop();
            let answer = answer.ok_or_else(|| unexpected(&connection.broker))?;
            let (next, is_there) = match located(&connection.broker, &self.service, topic, answer)? {
                Located::At(owner) => (owner, true),
                Located::Ask(other, by_its_word) => {
                    authoritative = by_its_word;
                    (other, false)
                }
            };
            if next != place {
                connection = self.connect(&next).await?;
                place = next;
            }
            if is_there {
                return Ok(connection);
            }
        }
        Err(LinkError::Redirects { topic: topic.to_owned(), limit: REDIRECTS_MAX }.into())
    }

    async fn expect_whole(&self, connection: &mut Connection, topic: &str) -> Result<(), TopicError> {
        let request_id = connection.request_id();
        let request = BaseCommand {
            r#type: Type::PartitionedMetadata as i32,
            partition_metadata: Some(CommandPartitionedTopicMetadata {
                topic: topic.to_owned(),
                request_id,
                ..CommandPartitionedTopicMetadata::default()
            }),
            ..BaseCommand::default()
        };
        let answers = connection.ask(self.credentials(), "asking for the partitions", vec![(request_id, request)]);
        let answer = answers.await?.pop().unwrap_or_default();
        let what = || format!("the partitions of {topic}");
        if let Some(error) = answer.error {
            return Err(refused(&connection.broker, what(), error.error, error.message).into());
        }
        let Some(metadata) = answer.partition_metadata_response else {
            return Err(unexpected(&connection.broker).into());
        };
        if let Some(code) = metadata.error {
            let message = metadata.message.unwrap_or_default();
            return Err(refused(&connection.broker, what(), code, message).into());
        }
        match metadata.partitions.unwrap_or(0) {
            0 => Ok(()),
            partitions => Err(TopicError::Partitioned { topic: topic.to_owned(), partitions }),
        }
    }
}

/// An open connection whose frames are read one by one.
pub struct Wire {
    connection: Connection,
    credentials: Credentials,
    heard: Instant,
}

impl Wire {
    /// Takes over a connection on which all requests have been answered.
    pub fn new(connection: Connection, credentials: &Credentials) -> Self {
        Self { connection, credentials: credentials.clone(), heard: Instant::now() }
    }

    /// The next frame that is not housekeeping, or `None` when there was some, or a while has passed: to be called again.
    /// Dropped half-way nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Message>, LinkError> {
        // Only this part can be dropped half-way without harm: reading.
        let read = tokio::time::timeout(PING_EVERY, self.read()).await;
        match read {
            Ok(Ok(message)) => {
                self.heard = Instant::now();
                Ok(Some(message))
            }
            Ok(Err(e)) => Err(e),
            Err(_) if self.heard.elapsed() > SILENCE_MAX => {
                Err(LinkError::Silent { broker: self.connection.broker.clone(), silence: SILENCE_MAX })
            }
            Err(_) => Ok(None),
        }
    }

    /// What every connection does with `frame`: `None` when that was all; with no frame it asks whether the other end lives.
    /// Must be called to its end.
    pub async fn keep(&mut self, frame: Option<Message>) -> Result<Option<Message>, LinkError> {
        let Some(frame) = frame else {
            self.send(&ping()).await?;
            return Ok(None);
        };
        if frame.command.ping.is_some() {
            self.send(&pong()).await?;
        } else if frame.command.auth_challenge.is_some() {
            let answer = auth_response(&self.credentials).await?;
            self.send(&answer).await?;
        } else if frame.command.pong.is_none() {
            return Ok(Some(frame));
        }
        Ok(None)
    }

    async fn read(&mut self) -> Result<Message, LinkError> {
        let Connection { io, input, broker, message_max, .. } = &mut self.connection;
        loop {
            if let Some(message) = next_message(input, *message_max + FRAME_EXTRA)
                .map_err(|e| LinkError::Protocol { broker: broker.clone(), reason: e.to_string() })?
            {
                return Ok(message);
            }
            let lost = |reason: String| LinkError::Lost { broker: broker.clone(), reason };
            match io.read_buf(input).await {
                Ok(0) => return Err(lost("closed by the other end".to_owned())),
                Ok(_) => {}
                Err(e) => return Err(lost(e.to_string())),
            }
        }
    }

    /// Sends a command.
    pub async fn send(&mut self, command: &BaseCommand) -> Result<(), LinkError> {
        let mut frames = BytesMut::new();
        frame::command(&mut frames, command);
        self.write(&frames).await
    }

    /// Sends frames.
    pub async fn write(&mut self, frames: &[u8]) -> Result<(), LinkError> {
        let written = async {
            self.connection.io.write_all(frames).await?;
            self.connection.io.flush().await
        };
        let lost = |reason: String| LinkError::Lost { broker: self.connection.broker.clone(), reason };
        match tokio::time::timeout(SILENCE_MAX, written).await {
            Ok(done) => done.map_err(|e| lost(e.to_string())),
            Err(_) => Err(lost(format!("it took nothing for {} s", SILENCE_MAX.as_secs()))),
        }
    }

    /// When something was heard last.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// The connection, for requests while nothing else goes on.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

fn ping() -> BaseCommand {
    BaseCommand { r#type: Type::Ping as i32, ping: Some(CommandPing {}), ..BaseCommand::default() }
}

/// Takes the next frame off `input`; `None`: more bytes are needed.
fn next_message(input: &mut BytesMut, bytes_max: usize) -> Result<Option<Message>, WireError> {
    if let Some(size) = input.get(..4) {
        let size = u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize;
        // The crate's decoder trusts this number.
        if !(4..=bytes_max).contains(&size) {
            return Err(WireError(format!("a frame of {size} bytes")));
        }
        // One allocation for a large message instead of many.
        input.reserve((size + 4).saturating_sub(input.len()));
    }
    Codec.decode(input).map_err(|e| WireError(e.to_string()))
}

/// The payload, if it is one whole message as our own writers send it.
pub fn plain(metadata: &MessageMetadata, payload: Vec<u8>) -> Option<Vec<u8>> {
    let is_plain = metadata.num_messages_in_batch.is_none_or(|n| n <= 1)
        && metadata.compression.unwrap_or(0) == 0
        && metadata.encryption_keys.is_empty()
        && metadata.num_chunks_from_msg.is_none_or(|n| n <= 1);
    // A batch of one is a batch all the same: the payload begins with its own metadata.
    (is_plain && metadata.num_messages_in_batch.is_none()).then_some(payload)
}
