//! Opens a lane's topic: how many partitions, who owns each, and a producer on each, with the broker's L.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use pulsar::message::proto::{
    BaseCommand, CommandLookupTopic, CommandPartitionedTopicMetadata, CommandProducer, ProducerAccessMode,
    base_command::Type, command_lookup_topic_response::LookupType,
    command_partitioned_topic_metadata_response::LookupType as MetadataType,
};

use super::error::LinkError;
use super::link::{Address, Connection, Connector};
use super::resume::Seq;
use crate::pulsar::names;

/// Most partitions of one lane: each costs a producer at the broker and a batch in memory here.
pub const PARTITIONS_MAX: usize = 1024;

/// Most redirections of one lookup (the Java client's default).
const REDIRECTS_MAX: usize = 20;

/// A lane's topic, open on all its partitions.
pub struct Session {
    /// Connections that have producers.
    pub connections: Vec<Connection>,
    /// One per partition; its number is the producer's id.
    pub producers: Vec<Producer>,
}

/// One partition's producer.
#[derive(Clone, Debug)]
pub struct Producer {
    /// Index of its connection.
    pub connection: usize,
    /// The partition's topic.
    pub topic: String,
    /// L.
    pub last: Option<Seq>,
}

/// Where to connect for a partition: the address, and the broker behind it if it is a proxy.
type Place = (Address, Option<String>);

/// Opens `topic` at the cluster of `url` with producers named `name`.
pub async fn open(connector: &Connector, url: &str, topic: &str, name: &str) -> Result<Session, LinkError> {
    let service: Place = (Address::parse(url)?, None);
    let mut pool = HashMap::new();
    pool.insert(service.clone(), connector.connect(&service.0, None).await?);
    let topics = partitions(connector, &mut pool, &service, topic).await?;
    let owners = owners(connector, &mut pool, &service, &topics).await?;
    let mut by_place: HashMap<&Place, Vec<usize>> = HashMap::new();
    for (i, place) in owners.iter().enumerate() {
        by_place.entry(place).or_default().push(i);
    }
    // A connection that only served lookups closes here, when the pool ends.
    let groups = by_place.into_iter().map(|(place, indices)| {
        let pooled = pool.remove(place);
        let topics = &topics;
        async move {
            let connection = match pooled {
                Some(connection) => connection,
                None => connector.connect(&place.0, place.1.as_deref()).await?,
            };
            produce(connector, connection, topics, name, indices).await
        }
    });
    let mut session = Session { connections: Vec::new(), producers: Vec::new() };
    let mut producers = vec![None; topics.len()];
    for (connection, opened) in try_join_all(groups).await? {
        for (i, last) in opened {
            let topic = topics[i].clone();
            producers[i] = Some(Producer { connection: session.connections.len(), topic, last });
        }
        session.connections.push(connection);
    }
    session.producers = producers.into_iter().flatten().collect();
    Ok(session)
}

type Pool = HashMap<Place, Connection>;

async fn partitions(
    connector: &Connector,
    pool: &mut Pool,
    service: &Place,
    topic: &str,
) -> Result<Vec<String>, LinkError> {
    let connection = pooled(connector, pool, service).await?;
    let id = connection.request_id();
    let request = BaseCommand {
        r#type: Type::PartitionedMetadata as i32,
        partition_metadata: Some(CommandPartitionedTopicMetadata {
            topic: topic.to_owned(),
            request_id: id,
            ..CommandPartitionedTopicMetadata::default()
        }),
        ..BaseCommand::default()
    };
    let answer = connection.ask(&connector.credentials, "asking for the partitions", vec![(id, request)]).await?;
    let what = || format!("the partitions of {topic}");
    for command in answer {
        if let Some(error) = command.error {
            return Err(connection.refused(what(), error.error, error.message));
        }
        let Some(metadata) = command.partition_metadata_response else { continue };
        if metadata.response() == MetadataType::Failed {
            return Err(connection.refused(what(), metadata.error.unwrap_or(0), metadata.message.unwrap_or_default()));
        }
        let partitions = metadata.partitions.unwrap_or(0);
        if partitions as usize > PARTITIONS_MAX {
            let partitions = partitions as usize;
            return Err(LinkError::Partitions { topic: topic.to_owned(), partitions, limit: PARTITIONS_MAX });
        }
        // 0: the topic is not partitioned (or does not exist, which the lookup will say).
        return Ok(match partitions {
            0 => vec![topic.to_owned()],
            n => (0..n).map(|i| names::partition(topic, i)).collect(),
        });
    }
    Err(unexpected(&connection.broker))
}

async fn owners(
    connector: &Connector,
    pool: &mut Pool,
    service: &Place,
    topics: &[String],
) -> Result<Vec<Place>, LinkError> {
    let mut found: Vec<Option<Place>> = vec![None; topics.len()];
    // Who is to be asked about which topics; true: by the word of the broker that sent us there.
    let mut ask: HashMap<(Place, bool), Vec<usize>> = HashMap::new();
    ask.insert((service.clone(), false), (0..topics.len()).collect());
    for _ in 0..=REDIRECTS_MAX {
        let mut again: HashMap<(Place, bool), Vec<usize>> = HashMap::new();
        for ((place, authoritative), indices) in ask.drain() {
            let connection = pooled(connector, pool, &place).await?;
            let requests: Vec<_> = indices
                .iter()
                .map(|i| {
                    let id = connection.request_id();
                    (id, lookup(&topics[*i], id, authoritative))
                })
                .collect();
            let answers = connection.ask(&connector.credentials, "looking up the topic", requests).await?;
            for (i, answer) in indices.into_iter().zip(answers) {
                match located(connection, service, &topics[i], answer)? {
                    Located::At(place) => found[i] = Some(place),
                    Located::Ask(place, authoritative) => again.entry((place, authoritative)).or_default().push(i),
                }
            }
        }
        ask = again;
        if ask.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
    }
    let topic = topics.first().cloned().unwrap_or_default();
    Err(LinkError::Redirects { topic, limit: REDIRECTS_MAX })
}

fn lookup(topic: &str, request_id: u64, authoritative: bool) -> BaseCommand {
    BaseCommand {
        r#type: Type::Lookup as i32,
        lookup_topic: Some(CommandLookupTopic {
            topic: topic.to_owned(),
            request_id,
            authoritative: Some(authoritative),
            ..CommandLookupTopic::default()
        }),
        ..BaseCommand::default()
    }
}

enum Located {
    At(Place),
    Ask(Place, bool),
}

fn located(from: &Connection, service: &Place, topic: &str, answer: BaseCommand) -> Result<Located, LinkError> {
    let what = || format!("the lookup of {topic}");
    if let Some(error) = answer.error {
        return Err(from.refused(what(), error.error, error.message));
    }
    let Some(answer) = answer.lookup_topic_response else { return Err(unexpected(&from.broker)) };
    if answer.response() == LookupType::Failed {
        return Err(from.refused(what(), answer.error.unwrap_or(0), answer.message.unwrap_or_default()));
    }
    // Secure in, secure on: a lookup must not talk us out of TLS.
    let url = if service.0.tls { &answer.broker_service_url_tls } else { &answer.broker_service_url };
    let Some(url) = url.as_deref().filter(|u| !u.is_empty()) else {
        let reason = "the lookup names no address of the kind we use (TLS or plain)".to_owned();
        return Err(LinkError::Protocol { broker: from.broker.clone(), reason });
    };
    let broker = Address::parse(url)?;
    let place = match answer.proxy_through_service_url.unwrap_or(false) {
        true => (service.0.clone(), Some(broker.authority())),
        false if broker == service.0 => service.clone(),
        false => (broker, None),
    };
    Ok(match answer.response() {
        LookupType::Redirect => Located::Ask(place, answer.authoritative.unwrap_or(false)),
        _ => Located::At(place),
    })
}

async fn pooled<'a>(connector: &Connector, pool: &'a mut Pool, place: &Place) -> Result<&'a mut Connection, LinkError> {
    match pool.entry(place.clone()) {
        std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
        std::collections::hash_map::Entry::Vacant(entry) => {
            Ok(entry.insert(connector.connect(&place.0, place.1.as_deref()).await?))
        }
    }
}

type Opened = (Connection, Vec<(usize, Option<Seq>)>);

async fn produce(
    connector: &Connector,
    mut connection: Connection,
    topics: &[String],
    name: &str,
    indices: Vec<usize>,
) -> Result<Opened, LinkError> {
    let requests: Vec<_> = indices
        .iter()
        .map(|i| {
            let id = connection.request_id();
            (id, producer(&topics[*i], *i as u64, id, name))
        })
        .collect();
    let answers = connection.ask(&connector.credentials, "opening the producer", requests).await?;
    let mut opened = Vec::with_capacity(indices.len());
    for (i, answer) in indices.into_iter().zip(answers) {
        opened.push((i, last_sequence(&connection.broker, &topics[i], answer)?));
    }
    Ok((connection, opened))
}

/// The request that opens a producer: ours by name, sharing the topic with all other gateways.
pub fn producer(topic: &str, producer_id: u64, request_id: u64, name: &str) -> BaseCommand {
    BaseCommand {
        r#type: Type::Producer as i32,
        producer: Some(CommandProducer {
            topic: topic.to_owned(),
            producer_id,
            request_id,
            producer_name: Some(name.to_owned()),
            user_provided_producer_name: Some(true),
            producer_access_mode: Some(ProducerAccessMode::Shared as i32),
            ..CommandProducer::default()
        }),
        ..BaseCommand::default()
    }
}

/// L, from the answer to [`producer`].
pub fn last_sequence(broker: &str, topic: &str, answer: BaseCommand) -> Result<Option<Seq>, LinkError> {
    if let Some(error) = answer.error {
        return Err(super::link::refused(broker, format!("a producer on {topic}"), error.error, error.message));
    }
    let Some(success) = answer.producer_success else { return Err(unexpected(broker)) };
    // -1: the broker knows none. Ours begin at 1.
    Ok(success.last_sequence_id.and_then(|l| Seq::try_from(l).ok()).filter(|l| *l > 0))
}

fn unexpected(broker: &str) -> LinkError {
    LinkError::Protocol { broker: broker.to_owned(), reason: "an answer of the wrong kind".to_owned() }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
