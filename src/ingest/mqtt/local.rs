//! Events that came by HTTP, for local subscribers: published on `mqtt.http_topic` once they are on disk.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::broker::record::Message;
use super::broker::{Counts, Source};
use super::hub::Hub;
use super::packet::{Properties, QoS};
use crate::config::EdgeConfig;
use crate::downlink::commands::{Speaker, Topics};
use crate::event::Event;

/// How long a sender waits for the journal at most: a tidying of what a gateway keeps takes less on a good card.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(2);

/// What the HTTP way in sees of the MQTT side. Cheap to clone.
#[derive(Clone)]
pub struct Local {
    hub: Hub,
    topic: Option<String>,
    commands: Topics,
}

impl Local {
    /// With `mqtt.http_topic`; {device} and {type} are filled in.
    pub fn new(hub: Hub, config: &EdgeConfig) -> Self {
        Self { hub, topic: config.mqtt.http_topic.clone(), commands: Topics::new(config) }
    }

    /// The broker in numbers, for the status page.
    pub fn counts(&self) -> Counts {
        self.hub.counts()
    }

    /// Why the journal of sessions takes and answers nothing at present.
    pub fn journal_trouble(&self) -> Option<Arc<str>> {
        self.hub.journal().trouble()
    }

    /// The messages for `events`, which will be published once these are on disk.
    pub fn messages(&self, events: &[Event]) -> Vec<Message> {
        let Some(topic) = &self.topic else { return Vec::new() };
        events.iter().map(|event| message(topic, event)).collect()
    }

    /// Waits until the journal has room for what absent subscribers are to get, for [`ROOM_WAIT_MAX`] at most. Who can wait for
    /// that (HTTP before it stores, bridges) should, before it publishes.
    pub async fn room(&self) {
        if !self.hub.journal().has_room() {
            let _ = tokio::time::timeout(ROOM_WAIT_MAX, self.hub.journal().room()).await;
        }
    }

    /// Publishes them; does not wait. While the journal is behind, absent subscribers get nothing: what waits for them
    /// would have to be written as well, and the device that sends by HTTP has waited long enough.
    ///
    /// What would come out on a topic of commands is left out: an event's type is its sender's choice, and what another
    /// broker's clients publish is nobody's here, but devices obey what comes on these topics.
    pub fn publish(&self, messages: Vec<Message>) {
        self.publish_from(Source::Gateway, messages);
    }

    /// The same for what came by a bridge: clients that are bridges of other brokers do not get it, for it would come back.
    pub fn publish_bridged(&self, messages: Vec<Message>) {
        self.publish_from(Source::Bridge, messages);
    }

    fn publish_from(&self, source: Source, messages: Vec<Message>) {
        for mut message in messages {
            if self.commands.speaker(&message.topic) != Speaker::Anybody {
                tracing::debug!(topic = %message.topic, "not published locally: only the gateway sends commands");
                continue;
            }
            if !self.hub.journal().has_room() {
                message.qos = QoS::AtMostOnce;
            }
            self.hub.publish_soon(source, message);
        }
    }
}

/// As in CloudEvents' MQTT binding, binary mode: attributes are user properties, the payload is the data.
fn message(topic: &str, event: &Event) -> Message {
    let attribute = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut user = vec![
        attribute("specversion", "1.0"),
        attribute("id", &event.id),
        attribute("source", &event.source),
        attribute("type", &event.ty),
        attribute("time", &event.time.to_string()),
    ];
    user.extend(event.subject.as_deref().map(|subject| attribute("subject", subject)));
    user.extend(event.dataschema.as_deref().map(|schema| attribute("dataschema", schema)));
    user.extend(event.extensions.iter().cloned());
    let properties = Properties { content_type: event.datacontenttype.clone(), user, ..Properties::default() };
    Message {
        topic: fill(topic, event).into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        payload: Bytes::clone(&event.data),
        properties: Some(Box::new(properties)),
        expires_at: None,
    }
}

/// `{device}` and `{type}` each become one level: what would make more of it, or a wildcard, becomes `_`.
fn fill(template: &str, event: &Event) -> String {
    let mut out = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (value, name) = if rest.starts_with("{device}") {
            (event.key(), "{device}")
        } else if rest.starts_with("{type}") {
            (event.ty.as_str(), "{type}")
        } else {
            ("{", "{")
        };
        for c in value.chars() {
            let _ = out.write_char(if matches!(c, '/' | '+' | '#') { '_' } else { c });
        }
        rest = &rest[name.len()..];
    }
    out += rest;
    if out.starts_with('$') && !template.starts_with('$') {
        // §4.7.2: these topics are the gateway's, and not a device's that is called so.
        out.replace_range(..1, "_");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::sample;

    #[test]
    fn a_topic_has_the_levels_of_its_template_whatever_the_event_says() {
        let event = Event { ty: "a/b".into(), subject: Some("+#".into()), ..sample("1") };
        assert_eq!(fill("http/{device}/{type}/x{", &event), "http/__/a_b/x{");
        assert_eq!(fill("fixed", &event), "fixed");
        let event = Event { subject: Some("$SYS".into()), ..event };
        assert_eq!(fill("{device}/x", &event), "_SYS/x");
        assert_eq!(fill("a/{device}", &event), "a/$SYS");
    }
}
