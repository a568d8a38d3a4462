//! Finding the broker of a topic, and opening a producer there: requests, and what their answers mean. [pure]

use pulsar::message::proto::{
    BaseCommand, CommandLookupTopic, CommandProducer, ProducerAccessMode, base_command::Type,
    command_lookup_topic_response::LookupType,
};

use super::connection::{Address, refused};
use super::error::LinkError;

/// Most redirections of one lookup (the Java client's default).
pub const REDIRECTS_MAX: usize = 20;

/// Where to connect for a topic: the address, and the broker behind it if it is a proxy.
pub type Place = (Address, Option<String>);

/// The request for who serves `topic`; `authoritative`: by the word of the broker that sent us here.
pub fn lookup(topic: &str, request_id: u64, authoritative: bool) -> BaseCommand {
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

/// What a lookup says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// The topic's broker.
    At(Place),
    /// Whom to ask next, and whether by this broker's word.
    Ask(Place, bool),
}

/// Reads `broker`'s answer to [`lookup`].
pub fn located(broker: &str, service: &Place, topic: &str, answer: BaseCommand) -> Result<Located, LinkError> {
    let what = || format!("the lookup of {topic}");
    if let Some(error) = answer.error {
        return Err(refused(broker, what(), error.error, error.message));
    }
    let Some(answer) = answer.lookup_topic_response else { return Err(unexpected(broker)) };
    if answer.response() == LookupType::Failed {
        return Err(refused(broker, what(), answer.error.unwrap_or(0), answer.message.unwrap_or_default()));
    }
    // Secure in, secure on: a lookup must not talk us out of TLS.
    let url = if service.0.tls { &answer.broker_service_url_tls } else { &answer.broker_service_url };
    let Some(url) = url.as_deref().filter(|u| !u.is_empty()) else {
        let reason = "the lookup names no address of the kind we use (TLS or plain)".to_owned();
        return Err(LinkError::Protocol { broker: broker.to_owned(), reason });
    };
    let owner = Address::parse(url)?;
    let place = match answer.proxy_through_service_url.unwrap_or(false) {
        true => (service.0.clone(), Some(owner.authority())),
        false if owner == service.0 => service.clone(),
        false => (owner, None),
    };
    Ok(match answer.response() {
        LookupType::Redirect => Located::Ask(place, answer.authoritative.unwrap_or(false)),
        _ => Located::At(place),
    })
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

/// The highest sequence id that the broker has of this producer, from the answer to [`producer`].
pub fn last_sequence(broker: &str, topic: &str, answer: BaseCommand) -> Result<Option<u64>, LinkError> {
    if let Some(error) = answer.error {
        return Err(refused(broker, format!("a producer on {topic}"), error.error, error.message));
    }
    let Some(success) = answer.producer_success else { return Err(unexpected(broker)) };
    // -1: the broker knows none. Ours begin at 1.
    Ok(success.last_sequence_id.and_then(|l| u64::try_from(l).ok()).filter(|l| *l > 0))
}

/// An answer to another question.
pub fn unexpected(broker: &str) -> LinkError {
    LinkError::Protocol { broker: broker.to_owned(), reason: "an answer of the wrong kind".to_owned() }
}
