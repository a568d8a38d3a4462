//! Opens a lane's topic: how many partitions, who owns each, and a producer on each, with the broker's L.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use pulsar::message::proto::{
    BaseCommand, CommandPartitionedTopicMetadata, base_command::Type,
    command_partitioned_topic_metadata_response::LookupType as MetadataType,
};

use super::error::LaneError;
use super::resume::Seq;
use crate::pulsar::names;
use crate::pulsar::wire::lookup::{self, Located, Place, REDIRECTS_MAX, unexpected};
use crate::pulsar::wire::{Address, Connection, Connector, LinkError};

/// Most partitions of one lane: each costs a producer at the broker and a batch in memory here.
pub const PARTITIONS_MAX: usize = 1024;

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

/// Opens `topic` at the cluster of `url` with producers named `name`.
pub async fn open(connector: &Connector, url: &str, topic: &str, name: &str) -> Result<Session, LaneError> {
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

async fn partitions(
    connector: &Connector,
    pool: &mut Pool,
    service: &Place,
    topic: &str,
) -> Result<Vec<String>, LaneError> {
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
            return Err(connection.refused(what(), error.error, error.message).into());
        }
        let Some(metadata) = command.partition_metadata_response else { continue };
        if metadata.response() == MetadataType::Failed {
            let (code, message) = (metadata.error.unwrap_or(0), metadata.message.unwrap_or_default());
            return Err(connection.refused(what(), code, message).into());
        }
        let partitions = metadata.partitions.unwrap_or(0);
        if partitions as usize > PARTITIONS_MAX {
            let partitions = partitions as usize;
            return Err(LaneError::Partitions { topic: topic.to_owned(), partitions, limit: PARTITIONS_MAX });
        }
        // 0: the topic is not partitioned (or does not exist, which the lookup will say).
        return Ok(match partitions {
            0 => vec![topic.to_owned()],
            n => (0..n).map(|i| names::partition(topic, i)).collect(),
        });
    }
    Err(unexpected(&connection.broker).into())
}

type Pool = HashMap<Place, Connection>;

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
                    (id, lookup::lookup(&topics[*i], id, authoritative))
                })
                .collect();
            let answers = connection.ask(&connector.credentials, "looking up the topic", requests).await?;
            for (i, answer) in indices.into_iter().zip(answers) {
                match lookup::located(&connection.broker, service, &topics[i], answer)? {
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
            (id, lookup::producer(&topics[*i], *i as u64, id, name))
        })
        .collect();
    let answers = connection.ask(&connector.credentials, "opening the producer", requests).await?;
    let mut opened = Vec::with_capacity(indices.len());
    for (i, answer) in indices.into_iter().zip(answers) {
        opened.push((i, lookup::last_sequence(&connection.broker, &topics[i], answer)?));
    }
    Ok((connection, opened))
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
