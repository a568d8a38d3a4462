//! Names and patterns: of gateways, lanes, Pulsar's own, event types, MQTT topics. [pure]

use super::kinds::{Kind, echo, quoted};
use crate::event::ATTRIBUTE_BYTES_MAX;
use crate::event::topic::Filter;

/// Longest node id: it is part of topic, producer and file names.
pub(super) const NODE_ID_MAX: usize = 64;

/// A name with a rule.
pub(super) struct Name {
    most: usize,
    allowed: fn(char) -> bool,
    rule: &'static str,
    taken: fn(&str) -> Option<&'static str>,
}

impl Name {
    /// At most so many of the allowed characters, unless it is `taken`; `rule` says so.
    pub(super) const fn new(
        most: usize,
        allowed: fn(char) -> bool,
        rule: &'static str,
        taken: fn(&str) -> Option<&'static str>,
    ) -> Self {
        Self { most, allowed, rule, taken }
    }
}

/// A gateway's name. No dots: it is the first part of `node.incarnation.lane`.
pub(super) const NODE_ID: Name = Name {
    most: NODE_ID_MAX,
    allowed: |c| c.is_ascii_alphanumeric() || c == '-' || c == '_',
    rule: "1 to 64 letters, digits, - or _ (no dots)",
    taken: |_| None,
};

/// A lane's name: part of a topic's and a directory's.
pub(super) const LANE_NAME: Name = Name {
    most: 32,
    allowed: |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    rule: "1 to 32 lower-case letters, digits or -",
    taken: |name| match name {
        _ if name.starts_with('-') || name.ends_with('-') => Some("starts or ends with -"),
        _ if name.ends_with("-dead") => Some("ends with -dead, which is the lane's dead-letter topic"),
        _ if name.contains("-partition-") => Some("has -partition- in it, which Pulsar keeps for itself"),
        _ => None,
    },
};

/// What Pulsar takes as the name of a tenant, cluster or subscription.
pub(super) const PULSAR_NAME: Name = Name {
    most: 64,
    allowed: |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '=' | ':' | '.'),
    rule: "1 to 64 letters, digits or - _ = : .",
    taken: |_| None,
};

impl Kind for Name {
    type Value = String;

    fn takes(&self) -> String {
        format!("{}, in quotes", self.rule)
    }

    fn text(&self, text: &str) -> Result<String, String> {
        let length = text.chars().count();
        if length == 0 || length > self.most || !text.chars().all(self.allowed) {
            return Err(format!("{} is no valid name; write {}", echo(text), self.rule));
        }
        match (self.taken)(text) {
            Some(why) => Err(format!("{} {why}; choose another name", echo(text))),
            None => Ok(text.to_owned()),
        }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

/// Event types with `*` for any run of characters.
pub(super) struct TypePattern;

impl Kind for TypePattern {
    type Value = String;

    fn takes(&self) -> String {
        "an event type such as \"*.alarm\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        if text.is_empty() || text.len() > ATTRIBUTE_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(format!("{} can match no event type; write {}", echo(text), self.takes()));
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

/// An MQTT topic filter (MQTT 5.0 §4.7), not a shared subscription.
pub(super) struct TopicFilter;

impl Kind for TopicFilter {
    type Value = String;

    fn takes(&self) -> String {
        "an MQTT topic filter such as \"devices/+/alarm\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        let wrong = match Filter::parse(text) {
            Ok(filter) if filter.group().is_none() => return Ok(text.to_owned()),
            Ok(_) => "shared subscriptions are not taken here".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(format!("{} is no topic filter: {wrong}; write {}", echo(text), self.takes()))
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}
