//! A message as an event: CloudEvents' MQTT protocol binding 1.0.2, else what the route says. [pure]
//!
//! | message | event |
//! |---|---|
//! | content type `application/cloudevents+json` (5.0), or the mapping says so | the payload: structured mode (binding §3.2) |
//! | user property `specversion` (5.0) | user properties are attributes, the payload is data: binary mode (§3.1) |
//! | any other | type and subject of the route, the payload is data |
//!
//! User properties of a message without `specversion` are for local subscribers and no part of the event.

use bytes::Bytes;

use super::Upstream;
use crate::config::edge::Payload;
use crate::event::{ATTRIBUTE_BYTES_MAX, EXTENSIONS_MAX, Event, Timestamp};
use crate::ingest::decode::{self, Attributes, Context, Decoded, Format, SEGMENT};
use crate::ingest::mqtt::packet::Reason;
use crate::ingest::refusal::{Kind, Refusal};

/// Extension attribute with the topic that a message came on.
pub const TOPIC_EXTENSION: &str = "mqtttopic";

/// The media types of structured mode all begin so (binding §3).
const STRUCTURED: &str = "application/cloudevents";

/// What of a message becomes an event.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Application message.
    pub payload: &'a Bytes,
    /// Content type (5.0).
    pub content_type: Option<&'a str>,
    /// User properties (5.0).
    pub user: &'a [(String, String)],
}

/// Where an event's id comes from if the message does not bring one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// Made for this event; a message that is sent again is another event.
    Ours(String),
    /// The same for the same message sent again: the outbox takes it once within `outbox.dedup_window`.
    Name(String),
}

/// Why a message cannot be an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its topic, whatever the payload.
    #[error("{0}")]
    Topic(String),
    /// What it says of itself is not right.
    #[error("{0}")]
    Content(Refusal),
}

impl Unfit {
    /// The code for a sender that can be told (MQTT 5.0 §3.4.2.1).
    pub fn reason(&self) -> Reason {
        match self {
            Self::Topic(_) => Reason::TOPIC_NAME_INVALID,
            Self::Content(_) => Reason::PAYLOAD_FORMAT_INVALID,
        }
    }
}

/// `source` of events from `client` (a client id or a bridge's name) unless they bring one; made once per connection.
/// The error is a sentence for the sender.
pub fn source(node: &str, client: &str) -> Result<String, String> {
    let source = format!("/nodes/{node}/mqtt/{}", percent_encoding::utf8_percent_encode(client, SEGMENT));
    if source.len() > ATTRIBUTE_BYTES_MAX {
        let bytes = source.len();
        return Err(format!(
            "the client id makes an event's source of {bytes} bytes; at most {ATTRIBUTE_BYTES_MAX} are taken: choose a \
             shorter client id"
        ));
    }
    Ok(source)
}

/// The event of a message that `route` sends upstream. `source` is [`source`]'s.
pub fn event(
    route: Upstream<'_>,
    message: MessageView<'_>,
    source: &str,
    now: Timestamp,
    id: Id,
) -> Result<Event, Unfit> {
    check_topic(message.topic)?;
    let content_type = message.content_type.filter(|t| !t.is_empty());
    let structured = route.payload == Payload::CloudEvents || content_type.is_some_and(is_structured);
    let described = structured || message.user.iter().any(|(name, _)| name == "specversion");
    if !described {
        return plain(route, message, content_type, source, now, id);
    }
    let context = Context {
        node: String::new(), // only for a source that is not given
        device: None,
        subject: Some(route.subject),
        source: Some(source.to_owned()),
        // A CloudEvent in JSON must name its type; in binary mode the topic may stand in for it.
        ty: (!structured).then_some(route.ty),
        now,
        max_events: 1,
    };
    let mut event = if structured {
        of_json(&context, content_type, message.payload)
    } else {
        Attributes::of_properties(message.user, content_type.or(route.content_type))
            .and_then(|attributes| attributes.event(&context, message.payload))
    }
    .map_err(Unfit::Content)?;
    if event.id_is_ours {
        (event.id, event.id_is_ours) = id.parts();
    }
    name_topic(&mut event, message.topic)?;
    Ok(event)
}

impl Id {
    fn parts(self) -> (String, bool) {
        match self {
            Self::Ours(id) => (id, true),
            Self::Name(id) => (id, false),
        }
    }
}

fn check_topic(topic: &str) -> Result<(), Unfit> {
    if topic.len() > ATTRIBUTE_BYTES_MAX {
        let bytes = topic.len();
        return Err(Unfit::Topic(format!(
            "the topic has {bytes} bytes; an event takes at most {ATTRIBUTE_BYTES_MAX}: use a shorter one, or map it \
             with upstream = false"
        )));
    }
    if topic.chars().any(char::is_control) {
        return Err(Unfit::Topic(format!(
            "the topic {topic:?} has a control character, which no attribute of a CloudEvent may have"
        )));
    }
    Ok(())
}

fn plain(
    route: Upstream<'_>,
    message: MessageView<'_>,
    content_type: Option<&str>,
    source: &str,
    now: Timestamp,
    id: Id,
) -> Result<Event, Unfit> {
    let topic = message.topic;
    let (id, id_is_ours) = id.parts();
    let event = Event {
        id,
        id_is_ours,
        source: source.to_owned(),
        ty: route.ty,
        subject: Some(route.subject),
        time: now,
        datacontenttype: content_type.or(route.content_type).map(str::to_owned),
        dataschema: None,
        extensions: vec![(TOPIC_EXTENSION.to_owned(), topic.to_owned())],
        data: message.payload.clone(),
    };
    // Everything but a 5.0 message's content type comes from the topic.
    event.check().map_err(|reason| match event.datacontenttype.as_deref() {
        Some(t) if t.len() > ATTRIBUTE_BYTES_MAX || t.chars().any(char::is_control) => {
            Unfit::Content(Refusal::new(Kind::InvalidEvent, reason))
        }
        _ => Unfit::Topic(format!("the topic {topic:?} makes no event: {reason}; correct its [[mapping]]")),
    })?;
    Ok(event)
}

fn is_structured(content_type: &str) -> bool {
    content_type.get(..STRUCTURED.len()).is_some_and(|start| start.eq_ignore_ascii_case(STRUCTURED))
}

/// Structured mode. A mapping's word counts only where the message does not name another event format.
fn of_json(context: &Context, content_type: Option<&str>, payload: &Bytes) -> Result<Event, Refusal> {
    if let Some(named) = content_type.filter(|t| is_structured(t)) {
        let essence = named.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/cloudevents+json") {
            return Err(Refusal::new(
                Kind::UnsupportedMediaType,
                format!(
                    "content type {named:?} is not taken; send one CloudEvent as application/cloudevents+json, or its \
                     attributes as user properties"
                ),
            ));
        }
    }
    let Decoded { events, .. } = decode::decode(Format::Structured, context, payload)?;
    let none = || Refusal::new(Kind::MalformedBody, "the payload holds no event");
    events.into_iter().next().ok_or_else(none)
}

/// The topic is a fact: it replaces what the sender may have put there.
fn name_topic(event: &mut Event, topic: &str) -> Result<(), Unfit> {
    event.extensions.retain(|(name, _)| name != TOPIC_EXTENSION);
    if event.extensions.len() == EXTENSIONS_MAX {
        let most = EXTENSIONS_MAX - 1;
        let reason = format!("more than {most} extension attributes besides {TOPIC_EXTENSION:?}; send fewer");
        return Err(Unfit::Content(Refusal::new(Kind::InvalidEvent, reason)));
    }
    event.extensions.push((TOPIC_EXTENSION.to_owned(), topic.to_owned()));
    Ok(())
}
