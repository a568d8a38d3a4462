//! What becomes of a message on a topic: its lane, type and subject, and the event made of it. [pure]
//!
//! ```text
//! topic ─► the first [[mapping]] that matches ─► local, or upstream: lane, type, subject …
//!     └──► none ─► a lane's `mqtt`, or mqtt.unmapped = "upstream":
//!            devices/{device}/{rest…}   type = the rest with "." for "/", subject = the device
//!            any other topic            type = mqtt.message, subject = the device that sent it, else the topic
//! ```
//! Topics that begin with `$` never go upstream: they are a broker's own.

mod filter;
mod message;
mod template;

pub use message::{Id, MessageView, TOPIC_EXTENSION, Unfit, event, source};

use crate::config::edge::{Lane, Mapping, Payload, Unmapped};
use filter::{Filter, level_named};
use template::{Template, dotted};

/// Type of an event whose topic and mapping name none.
pub const TYPE_DEFAULT: &str = "mqtt.message";

/// Who a message is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender<'a> {
    /// Name of its identity; empty: nobody knows.
    pub device: &'a str,
    /// The client id of an MQTT client, the name of a bridge.
    pub client: &'a str,
}

/// Where a message goes besides our own subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'m> {
    /// Nowhere.
    Local,
    /// To Pulsar.
    Upstream(Upstream<'m>),
}

/// What topic and sender say of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream<'m> {
    /// The lane; `None`: by the event's type. See [`Router::choose`](crate::ingest::Router::choose).
    pub lane: Option<&'m str>,
    /// `type`, unless the message has one.
    pub ty: String,
    /// `subject`, unless the message has one.
    pub subject: String,
    /// `datacontenttype`, unless the message has one.
    pub content_type: Option<&'m str>,
    /// What the payload is.
    pub payload: Payload,
}

/// All mappings, prepared. One per process.
#[derive(Clone, Debug)]
pub struct Mapper {
    rules: Vec<Rule>,
    /// The lanes that name topics, in the configuration's order.
    lanes: Vec<(Vec<Filter>, Box<str>)>,
    unmapped: Unmapped,
}

#[derive(Clone, Debug)]
struct Rule {
    filter: Filter,
    /// `None`: for local subscribers only.
    target: Option<Target>,
}

#[derive(Clone, Debug)]
struct Target {
    lane: Option<Box<str>>,
    ty: Option<Template>,
    subject: Option<Template>,
    content_type: Option<Box<str>>,
    payload: Payload,
}

impl Target {
    fn new(mapping: &Mapping) -> Self {
        let topic = &mapping.topic;
        let device = level_named(topic, "device").map(|_| "{device}");
        Self {
            lane: mapping.lane.as_deref().map(Into::into),
            ty: mapping.r#type.as_deref().map(|text| Template::new(text, topic)),
            subject: mapping.subject.as_deref().or(device).map(|text| Template::new(text, topic)),
            content_type: mapping.content_type.as_deref().map(Into::into),
            payload: mapping.payload,
        }
    }
}

impl Mapper {
    /// Prepares what the configuration says and has checked.
    pub fn new(mappings: &[Mapping], lanes: &[Lane], unmapped: Unmapped) -> Self {
        let rule = |m: &Mapping| Rule { filter: Filter::new(&m.topic), target: m.upstream.then(|| Target::new(m)) };
        let filters = |lane: &Lane| lane.mqtt.iter().map(|f| Filter::new(f)).collect::<Vec<_>>();
        Self {
            rules: mappings.iter().map(rule).collect(),
            lanes: lanes.iter().filter(|l| !l.mqtt.is_empty()).map(|l| (filters(l), l.name.as_str().into())).collect(),
            unmapped,
        }
    }

    /// Where a message on `topic` goes. A topic is a few comparisons per mapping; the first that matches counts.
    pub fn route(&self, topic: &str, sender: Sender<'_>) -> Route<'_> {
        if topic.starts_with('$') {
            return Route::Local;
        }
        let Some(rule) = self.rules.iter().find(|rule| rule.filter.matches(topic)) else {
            return self.unmapped(topic, sender);
        };
        let Some(target) = &rule.target else { return Route::Local };
        Route::Upstream(Upstream {
            lane: target.lane.as_deref().or_else(|| self.lane_of(topic)),
            ty: target.ty.as_ref().map_or_else(|| TYPE_DEFAULT.to_owned(), |t| t.fill(topic, sender)),
            subject: target.subject.as_ref().map_or_else(|| sender_or_topic(sender, topic), |t| t.fill(topic, sender)),
            content_type: target.content_type.as_deref(),
            payload: target.payload,
        })
    }

    /// A lane that names the topic wants it, whatever `unmapped` says of the others.
    fn unmapped(&self, topic: &str, sender: Sender<'_>) -> Route<'_> {
        let lane = self.lane_of(topic);
        if lane.is_none() && self.unmapped == Unmapped::Local {
            return Route::Local;
        }
        let (ty, subject) = match device_of(topic) {
            Some((device, Some(rest))) => (dotted(rest), device.to_owned()),
            Some((device, None)) => (TYPE_DEFAULT.to_owned(), device.to_owned()),
            None => (TYPE_DEFAULT.to_owned(), sender_or_topic(sender, topic)),
        };
        Route::Upstream(Upstream { lane, ty, subject, content_type: None, payload: Payload::Data })
    }

    fn lane_of(&self, topic: &str) -> Option<&str> {
        let named = |(filters, _): &&(Vec<Filter>, Box<str>)| filters.iter().any(|f| f.matches(topic));
        self.lanes.iter().find(named).map(|(_, name)| &**name)
    }
}

fn sender_or_topic(sender: Sender<'_>, topic: &str) -> String {
    if sender.device.is_empty() { topic.to_owned() } else { sender.device.to_owned() }
}

/// The parts of `devices/{device}` and `devices/{device}/{rest…}`, none of them empty.
fn device_of(topic: &str) -> Option<(&str, Option<&str>)> {
    let below = topic.strip_prefix("devices/")?;
    let (device, rest) = below.split_once('/').map_or((below, None), |(device, rest)| (device, Some(rest)));
    (!device.is_empty()).then_some((device, rest.filter(|rest| !rest.is_empty())))
}

#[cfg(test)]
mod tests;
