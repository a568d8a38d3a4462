//! Routes and events as an operator and a sender expect them.

use bytes::Bytes;

use super::*;
use crate::event::{Event, Timestamp};
use crate::ingest::mqtt::packet::Reason;

const DEVICE: Sender<'static> = Sender { device: "press-7", client: "c 1" };
const NOBODY: Sender<'static> = Sender { device: "", client: "c 1" };

fn mapping(topic: &str) -> Mapping {
    Mapping { topic: topic.into(), ..Mapping::default() }
}

fn lane(name: &str, mqtt: &[&str]) -> Lane {
    Lane { name: name.into(), mqtt: mqtt.iter().map(|t| (*t).to_owned()).collect(), ..Lane::default() }
}

fn upstream<'m>(mapper: &'m Mapper, topic: &str, sender: Sender<'_>) -> Upstream<'m> {
    match mapper.route(topic, sender) {
        Route::Upstream(upstream) => upstream,
        Route::Local => panic!("{topic} stays here"),
    }
}

fn defaults() -> Mapper {
    Mapper::new(&[], &[lane("telemetry", &[])], Unmapped::Upstream)
}

#[test]
fn without_mappings_topics_speak_for_themselves() {
    let mapper = defaults();
    for (topic, sender, ty, subject) in [
        ("devices/press-7/telemetry", NOBODY, "telemetry", "press-7"),
        ("devices/press-7/motor/alarm", DEVICE, "motor.alarm", "press-7"),
        ("devices/press-7", NOBODY, "mqtt.message", "press-7"),
        ("devices/press-7/", NOBODY, "mqtt.message", "press-7"),
        ("devices//a", NOBODY, "mqtt.message", "devices//a"),
        ("a/b", DEVICE, "mqtt.message", "press-7"),
        ("a/b", NOBODY, "mqtt.message", "a/b"),
    ] {
        let route = upstream(&mapper, topic, sender);
        assert_eq!((route.ty.as_str(), route.subject.as_str(), route.lane), (ty, subject, None), "{topic}");
    }
    assert_eq!(mapper.route("$SYS/broker/uptime", DEVICE), Route::Local);
}

#[test]
fn the_first_mapping_counts() {
    let mappings = [
        Mapping { upstream: false, ..mapping("plants/+/secret/#") },
        Mapping {
            lane: Some("fast".into()),
            r#type: Some("t.{what}".into()),
            subject: Some("{plant}.{device}".into()),
            content_type: Some("application/json".into()),
            payload: Payload::CloudEvents,
            ..mapping("plants/{plant}/{device}/{what}")
        },
        mapping("plants/{device}/#"),
        Mapping { r#type: Some("{topic}".into()), ..mapping("other/#") },
    ];
    let mapper = Mapper::new(&mappings, &[lane("fast", &[]), lane("rest", &[])], Unmapped::Local);
    assert_eq!(mapper.route("plants/1/secret/x", DEVICE), Route::Local);
    assert_eq!(
        upstream(&mapper, "plants/1/press/speed", NOBODY),
        Upstream {
            lane: Some("fast"),
            ty: "t.speed".into(),
            subject: "1.press".into(),
            content_type: Some("application/json"),
            payload: Payload::CloudEvents,
        }
    );
    let short = upstream(&mapper, "plants/1", DEVICE);
    assert_eq!((short.ty.as_str(), short.subject.as_str()), ("mqtt.message", "1"));
    let other = upstream(&mapper, "other/a/b", DEVICE);
    assert_eq!((other.ty.as_str(), other.subject.as_str()), ("other.a.b", "press-7"));
    assert_eq!(upstream(&mapper, "other/a", NOBODY).subject, "other/a");
    assert_eq!(mapper.route("elsewhere", DEVICE), Route::Local);
}

#[test]
fn a_lane_takes_the_topics_it_names() {
    let lanes = [lane("alarms", &["+/alarm"]), lane("more", &["#"]), lane("rest", &[])];
    let named = Mapping { lane: Some("rest".into()), ..mapping("x/alarm") };
    let mapper = Mapper::new(&[named, mapping("y/+")], &lanes, Unmapped::Local);
    assert_eq!(upstream(&mapper, "x/alarm", NOBODY).lane, Some("rest"));
    assert_eq!(upstream(&mapper, "y/alarm", NOBODY).lane, Some("alarms"));
    assert_eq!(upstream(&mapper, "z/alarm", NOBODY).lane, Some("alarms"));
    assert_eq!(upstream(&mapper, "z", NOBODY).lane, Some("more"));
}

struct Sent {
    topic: String,
    payload: &'static str,
    content_type: Option<&'static str>,
    user: Vec<(String, String)>,
}

fn sent(topic: &str, payload: &'static str) -> Sent {
    Sent { topic: topic.into(), payload, content_type: None, user: Vec::new() }
}

impl Sent {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.user.push((name.into(), value.into()));
        self
    }

    fn typed(self, content_type: &'static str) -> Self {
        Self { content_type: Some(content_type), ..self }
    }

    fn through(&self, mapper: &Mapper) -> Result<Event, Unfit> {
        let route = upstream(mapper, &self.topic, NOBODY);
        let payload = Bytes::from_static(self.payload.as_bytes());
        let view =
            MessageView { topic: &self.topic, payload: &payload, content_type: self.content_type, user: &self.user };
        let source = source("edge", "c 1").unwrap();
        event(route, view, &source, Timestamp::from_unix_ms(5), Id::Ours("id-1".into()))
    }

    fn event(&self) -> Event {
        self.through(&defaults()).unwrap()
    }

    fn refused(&self) -> Unfit {
        self.through(&defaults()).unwrap_err()
    }
}

fn topic_of(event: &Event) -> Option<&str> {
    event.extensions.iter().find(|(name, _)| name == TOPIC_EXTENSION).map(|(_, value)| value.as_str())
}

#[test]
fn a_plain_message_is_data() {
    let event = sent("devices/a/t", "\u{1}2").with("unit", "K").event();
    assert_eq!((event.id.as_str(), event.id_is_ours), ("id-1", true));
    assert_eq!((event.source.as_str(), event.ty.as_str()), ("/nodes/edge/mqtt/c%201", "t"));
    assert_eq!((event.subject.as_deref(), event.time.unix_ms()), (Some("a"), 5));
    assert_eq!((event.datacontenttype.as_deref(), &event.data[..]), (None, &b"\x012"[..]));
    assert_eq!(event.extensions, [("mqtttopic".to_owned(), "devices/a/t".to_owned())]);
    assert_eq!(sent("t", "x").typed("text/plain").event().datacontenttype.as_deref(), Some("text/plain"));
    assert_eq!(sent("t", "x").typed("").event().datacontenttype, None);
}

#[test]
fn binary_mode_takes_user_properties_as_attributes() {
    let sent = sent("devices/a/t", "{\"v\":1}")
        .with("specversion", "1.0")
        .with("id", "7")
        .with("source", "urn:x")
        .with("time", "1970-01-01T00:00:01Z")
        .with("site", "south")
        .with("Trace-Id", "not an attribute")
        .with("mqtttopic", "a lie");
    let event = sent.typed("application/json").event();
    assert_eq!((event.id.as_str(), event.id_is_ours, event.source.as_str()), ("7", false, "urn:x"));
    assert_eq!((event.ty.as_str(), event.subject.as_deref(), event.time.unix_ms()), ("t", Some("a"), 1000));
    let site = ("site".to_owned(), "south".to_owned());
    assert_eq!(event.extensions, [site, ("mqtttopic".to_owned(), "devices/a/t".to_owned())]);
    assert_eq!(event.datacontenttype.as_deref(), Some("application/json"));
}

#[test]
fn structured_mode_takes_the_payload_as_the_event() {
    const EVENT: &str = r#"{"specversion":"1.0","id":"9","source":"urn:y","type":"z","data":{"v":1}}"#;
    let event = sent("devices/a/t", EVENT).typed("application/CloudEvents+json; charset=utf-8").event();
    assert_eq!((event.id.as_str(), event.ty.as_str(), &event.data[..]), ("9", "z", &br#"{"v":1}"#[..]));
    assert_eq!((event.subject.as_deref(), topic_of(&event)), (Some("a"), Some("devices/a/t")));
    // 3.1.1 has no content type: the mapping says it.
    let says = Mapping { payload: Payload::CloudEvents, ..mapping("#") };
    let mapper = Mapper::new(&[says], &[lane("telemetry", &[])], Unmapped::Local);
    assert_eq!(sent("x", EVENT).through(&mapper).unwrap().id, "9");
    // Without the mapping it is data like any other.
    assert_eq!(sent("x", EVENT).event().id, "id-1");
    let nameless = r#"{"specversion":"1.0","source":"urn:y","type":"z"}"#;
    assert_eq!(sent("x", nameless).through(&mapper).unwrap().id, "id-1");
}

#[test]
fn what_is_no_event_says_why() {
    let long = format!("devices/a/{}", "x".repeat(1015));
    for (unfit, reason, word) in [
        (sent(&long, "").refused(), Reason::TOPIC_NAME_INVALID, "1025 bytes"),
        (sent("a\u{1}", "").refused(), Reason::TOPIC_NAME_INVALID, "control"),
        (sent("a", "{").typed("application/cloudevents+json").refused(), Reason::PAYLOAD_FORMAT_INVALID, "JSON"),
        (sent("a", "").typed("application/cloudevents+avro").refused(), Reason::PAYLOAD_FORMAT_INVALID, "avro"),
        (sent("a", "").typed("text/\u{7}").refused(), Reason::PAYLOAD_FORMAT_INVALID, "datacontenttype"),
        (sent("a", "").with("specversion", "0.3").refused(), Reason::PAYLOAD_FORMAT_INVALID, "0.3"),
        (
            sent("a", "{").with("specversion", "1.0").typed("application/json").refused(),
            Reason::PAYLOAD_FORMAT_INVALID,
            "JSON",
        ),
        (
            sent("a", "").with("specversion", "1.0").with("datacontenttype", "text/plain").refused(),
            Reason::PAYLOAD_FORMAT_INVALID,
            "content type",
        ),
        (
            sent("a", "").with("specversion", "1.0").with("x", "1").with("x", "2").refused(),
            Reason::PAYLOAD_FORMAT_INVALID,
            "twice",
        ),
    ] {
        assert_eq!(unfit.reason(), reason, "{unfit}");
        assert!(unfit.to_string().contains(word), "{unfit}");
    }
    let empty = Mapping { r#type: Some("{kind}".into()), ..mapping("x/{kind}") };
    let mapper = Mapper::new(&[empty], &[lane("telemetry", &[])], Unmapped::Local);
    let unfit = sent("x/", "").through(&mapper).unwrap_err();
    assert!(matches!(&unfit, Unfit::Topic(text) if text.contains("\"type\" is empty")), "{unfit}");
    assert!(source("edge", &"ü".repeat(200)).unwrap_err().contains("client id"));
}

#[test]
fn one_extension_is_kept_for_the_topic() {
    let many = |n: usize| (0..n).fold(sent("a", "").with("specversion", "1.0"), |s, i| s.with(&format!("e{i}"), "v"));
    assert_eq!(many(31).event().extensions.len(), 32);
    assert!(many(32).refused().to_string().contains("more than 31"));
}

#[test]
fn a_message_sent_again_keeps_its_name() {
    let payload = Bytes::new();
    let view = MessageView { topic: "a", payload: &payload, content_type: None, user: &[] };
    let mapper = defaults();
    let route = upstream(&mapper, "a", NOBODY);
    let named = event(route, view, "s", Timestamp::from_unix_ms(0), Id::Name("n-1".into())).unwrap();
    assert_eq!((named.id.as_str(), named.id_is_ours), ("n-1", false));
}
