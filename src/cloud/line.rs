//! One event as a line of NDJSON. [pure]
//!
//! Data that is JSON is embedded as it was sent, numbers digit for digit; only white space outside strings is
//! left out, because a line break would end the line. Text (`text/*`) becomes a JSON string, everything else
//! `data_base64`, as CloudEvents' JSON format does it.

use pulsar::message::Payload;
use serde_json::value::RawValue;

use crate::event::Timestamp;
use crate::pulsar::names;

/// Where an event stands: lane, and what its gateway said of it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The lane whose topic it came from.
    pub lane: &'a str,
    /// `node.incarnation.lane`, if it came from a Tidegate.
    pub stream: Option<&'a str>,
    /// Its sequence in the stream.
    pub seq: u64,
}

/// The properties of a message, found in one pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    /// `tg_stream`.
    pub stream: Option<&'a str>,
    /// `tg_seq`.
    pub seq: Option<&'a str>,
    late: bool,
    id: Option<&'a str>,
    source: Option<&'a str>,
    /// The event's type.
    pub ty: Option<&'a str>,
    /// The event's subject: the device.
    pub subject: Option<&'a str>,
    time: Option<&'a str>,
    content_type: Option<&'a str>,
    dataschema: Option<&'a str>,
    others: usize,
}

impl<'a> Attributes<'a> {
    /// Reads the properties of `payload`.
    pub fn of(payload: &'a Payload) -> Self {
        let mut found = Self::default();
        for property in &payload.metadata.properties {
            let value = Some(property.value.as_str());
            match property.key.as_str() {
                names::STREAM => found.stream = value,
                names::SEQ => found.seq = value,
                names::LATE => found.late = property.value == "1",
                names::ID => found.id = value,
                names::SOURCE => found.source = value,
                names::TYPE => found.ty = value,
                names::SUBJECT => found.subject = value,
                names::TIME => found.time = value,
                names::CONTENT_TYPE => found.content_type = value,
                names::DATASCHEMA => found.dataschema = value,
                names::SPECVERSION => {}
                _ => found.others += 1,
            }
        }
        found
    }

    /// The stream and sequence, if both are there and well-formed.
    pub fn position(&self) -> Option<(&'a str, u64)> {
        let stream = self.stream.filter(|s| s.split('.').filter(|part| !part.is_empty()).count() == 3)?;
        let seq = self.seq?.parse().ok().filter(|&seq| seq > 0)?;
        Some((stream, seq))
    }
}

/// Appends one line, with its line break. Returns where in `out` its data begins.
pub fn write(out: &mut Vec<u8>, place: Place<'_>, attributes: &Attributes<'_>, payload: &Payload) -> usize {
    let mut parts = place.stream.into_iter().flat_map(|s| s.splitn(3, '.'));
    out.extend_from_slice(b"{\"node\":");
    optional(out, parts.next());
    out.extend_from_slice(b",\"incarnation\":");
    optional(out, parts.next());
    out.extend_from_slice(b",\"lane\":");
    string(out, place.lane);
    out.extend_from_slice(b",\"seq\":");
    match place.stream {
        Some(_) => number(out, place.seq),
        None => out.extend_from_slice(b"null"),
    }
    for (name, value) in [("id", attributes.id), ("source", attributes.source), ("type", attributes.ty)] {
        key(out, name);
        optional(out, value);
    }
    // A producer that is not a Tidegate may keep the device in the message's key alone.
    let foreign_key = || payload.metadata.partition_key.as_deref().filter(|_| place.stream.is_none());
    key(out, "subject");
    optional(out, attributes.subject.or_else(foreign_key));
    key(out, "time");
    match attributes.time {
        Some(time) => string(out, time),
        None => string(out, &broker_time(payload).to_string()),
    }
    out.extend_from_slice(if attributes.late { b",\"late\":true" } else { b",\"late\":false" });
    for (name, value) in [("datacontenttype", attributes.content_type), ("dataschema", attributes.dataschema)] {
        if value.is_some() {
            key(out, name);
            optional(out, value);
        }
    }
    if attributes.others > 0 {
        others(out, payload);
    }
    let data_at = out.len();
    data(out, attributes.content_type, &payload.data);
    out.extend_from_slice(b"}\n");
    data_at
}

/// When a producer without `ce_time` says the event was, else when it was published.
fn broker_time(payload: &Payload) -> Timestamp {
    let ms = payload.metadata.event_time.filter(|&ms| ms > 0).unwrap_or(payload.metadata.publish_time);
    Timestamp::from_unix_ms(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Extension attributes, and properties of other producers, each in an object of its own: an extension may be
/// called `node` or `seq` as well, and must not hide ours.
fn others(out: &mut Vec<u8>, payload: &Payload) {
    let known =
        [names::ID, names::SOURCE, names::TYPE, names::SUBJECT, names::TIME, names::DATASCHEMA, names::SPECVERSION];
    let ours = [names::STREAM, names::SEQ, names::LATE, names::CONTENT_TYPE];
    for (object, extension) in [("extensions", true), ("properties", false)] {
        let mut first = true;
        for property in &payload.metadata.properties {
            let name = match property.key.strip_prefix(names::CE_PREFIX) {
                Some(name) if extension && !known.contains(&property.key.as_str()) => name,
                None if !extension && !ours.contains(&property.key.as_str()) => &property.key,
                _ => continue,
            };
            if first {
                key(out, object);
                out.push(b'{');
            } else {
                out.push(b',');
            }
            first = false;
            string(out, name);
            out.push(b':');
            string(out, &property.value);
        }
        if !first {
            out.push(b'}');
        }
    }
}

fn data(out: &mut Vec<u8>, content_type: Option<&str>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let kind = content_type.map_or(Kind::Json, Kind::of);
    if kind == Kind::Json && serde_json::from_slice::<&RawValue>(data).is_ok() {
        key(out, "data");
        return compact(out, data);
    }
    if let (Kind::Text, Ok(text)) = (kind, std::str::from_utf8(data)) {
        key(out, "data");
        return string(out, text);
    }
    key(out, "data_base64");
    out.push(b'"');
    base64(out, data);
    out.push(b'"');
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
    Other,
}

impl Kind {
    fn of(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default().trim().as_bytes();
        let ends = |suffix: &[u8]| {
            essence.len() >= suffix.len() && essence[essence.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
        };
        if ends(b"/json") || ends(b"+json") {
            Self::Json
        } else if essence.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"text/")) {
            Self::Text
        } else {
            Self::Other
        }
    }
}

/// Copies valid JSON without the white space between its tokens.
fn compact(out: &mut Vec<u8>, json: &[u8]) {
    let space = |b: &u8| matches!(b, b' ' | b'\n' | b'\r' | b'\t');
    let mut rest = json;
    while let Some(at) = rest.iter().position(|b| *b == b'"' || space(b)) {
        out.extend_from_slice(&rest[..at]);
        if rest[at] == b'"' {
            let end = at + 1 + string_length(&rest[at + 1..]);
            out.extend_from_slice(&rest[at..end]);
            rest = &rest[end..];
        } else {
            rest = &rest[at + 1..];
        }
    }
    out.extend_from_slice(rest);
}

/// Length of a JSON string whose opening quote is gone, with its closing quote.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        match b {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn optional(out: &mut Vec<u8>, value: Option<&str>) {
    match value {
        Some(value) => string(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn string(out: &mut Vec<u8>, value: &str) {
    if value.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    } else if serde_json::to_writer(&mut *out, value).is_err() {
        // Writing a string to memory has no way to fail.
        out.extend_from_slice(b"null");
    }
}

fn number(out: &mut Vec<u8>, n: u64) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{n}");
}

/// RFC 4648 §4, with padding.
fn base64(out: &mut Vec<u8>, data: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.reserve(data.len().div_ceil(3) * 4);
    for group in data.chunks(3) {
        let bits = group.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            out.push(if i <= group.len() { ALPHABET[(bits >> (18 - 6 * i) & 63) as usize] } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pulsar::message::proto::{KeyValue, MessageMetadata};
    use serde_json::{Value, json};

    use super::*;

    fn message(properties: &[(&str, &str)], data: &[u8]) -> Payload {
        let properties = properties.iter().map(|(k, v)| KeyValue { key: (*k).into(), value: (*v).into() }).collect();
        let metadata = MessageMetadata { properties, publish_time: 1_700_000_000_000, ..MessageMetadata::default() };
        Payload { metadata, data: data.to_vec() }
    }

    fn line(payload: &Payload) -> String {
        let attributes = Attributes::of(payload);
        let (stream, seq) = attributes.position().unzip();
        let mut out = Vec::new();
        write(&mut out, Place { lane: "telemetry", stream, seq: seq.unwrap_or(0) }, &attributes, payload);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(text.ends_with('\n'));
        text
    }

    fn value(payload: &Payload) -> Value {
        serde_json::from_str(&line(payload)).unwrap()
    }

    fn typed(content_type: &str, data: &[u8]) -> Value {
        value(&message(&[("content-type", content_type)], data))
    }

    #[test]
    fn an_event_of_a_gateway_has_all_its_parts() {
        let payload = message(
            &[
                ("tg_stream", "press-7.00ff.telemetry"),
                ("tg_seq", "42"),
                ("tg_late", "1"),
                ("ce_specversion", "1.0"),
                ("ce_id", "e\"1"),
                ("ce_source", "urn:x"),
                ("ce_type", "reading"),
                ("ce_subject", "dev-1"),
                ("ce_time", "2026-01-31T12:00:00Z"),
                ("content-type", "application/json"),
                ("ce_site", "plant-7"),
            ],
            br#"{"value":1}"#,
        );
        assert_eq!(
            value(&payload),
            json!({
                "node": "press-7", "incarnation": "00ff", "lane": "telemetry", "seq": 42, "id": "e\"1", "source": "urn:x",
                "type": "reading", "subject": "dev-1", "time": "2026-01-31T12:00:00Z", "late": true,
                "datacontenttype": "application/json", "extensions": {"site": "plant-7"}, "data": {"value": 1},
            })
        );
    }

    #[test]
    fn an_event_of_another_producer_is_kept_with_what_it_has() {
        let mut payload = message(&[("colour", "red"), ("tg_seq", "1")], b"[1]");
        payload.metadata.partition_key = Some("dev-2".into());
        assert_eq!(
            value(&payload),
            json!({
                "node": null, "incarnation": null, "lane": "telemetry", "seq": null, "id": null, "source": null,
                "type": null, "subject": "dev-2", "time": "2023-11-14T22:13:20Z", "late": false,
                "properties": {"colour": "red"}, "data": [1],
            })
        );
    }

    #[test]
    fn json_stays_as_it_was_sent_on_one_line() {
        let pretty = b"{\n  \"a b\" : [ 1.0, 1e400, 12345678901234567890123 ],\r\n\t\"q\\\" x\\\\\" : \" \\n \" }";
        let text = line(&message(&[("content-type", "application/vnd.x+json; charset=utf-8")], pretty));
        let expected = r#""data":{"a b":[1.0,1e400,12345678901234567890123],"q\" x\\":" \n "}}"#;
        assert!(text.trim_end().ends_with(expected), "{text}");
    }

    #[test]
    fn what_is_not_json_is_text_or_base64() {
        assert_eq!(typed("Text/plain", "21 °C\n".as_bytes())["data"], "21 °C\n");
        assert_eq!(typed("text/plain", b"\xff")["data_base64"], "/w==");
        assert_eq!(typed("application/octet-stream", b"{}")["data_base64"], "e30=");
        assert_eq!(typed("application/json", b"{} x")["data_base64"], "e30geA==");
        assert_eq!(typed("application/json", b"")["data"], Value::Null);
    }

    #[test]
    fn a_position_needs_a_stream_of_three_parts_and_a_number_from_1() {
        let position = |stream, seq| {
            let payload = message(&[("tg_stream", stream), ("tg_seq", seq)], b"");
            Attributes::of(&payload).position().map(|(_, seq)| seq)
        };
        assert_eq!(position("a.b.c", "7"), Some(7));
        for (stream, seq) in [("a.b", "7"), ("a.b.c", "0"), ("a.b.c", "-1"), ("a.b.c", ""), ("a..c", "1")] {
            assert_eq!(position(stream, seq), None, "{stream} {seq}");
        }
    }

    proptest! {
        #[test]
        fn any_properties_and_any_data_make_one_line_of_json(
            id in "\\PC{0,20}|[\\x00-\\x1f]{0,9}", name in "[a-z]{1,5}", text in "\\PC{0,40}",
            data in proptest::collection::vec(any::<u8>(), 0..200), kind in "application/json|text/x|x/y",
        ) {
            let payload = message(&[("ce_id", &id), (&format!("ce_x{name}"), &text), ("content-type", &kind)], &data);
            let value = value(&payload);
            prop_assert_eq!(value["id"].as_str(), Some(&*id));
            prop_assert_eq!(value["extensions"][format!("x{name}")].as_str(), Some(&*text));
        }

        #[test]
        fn compact_json_means_the_same(text in "\\PC{0,20}", n in any::<i64>(), f in any::<f64>()) {
            let original = json!({&*text: [n, f, {"\n": text}], "": null});
            let pretty = serde_json::to_vec_pretty(&original).unwrap();
            prop_assert_eq!(&typed("application/json", &pretty)["data"], &serde_json::from_slice::<Value>(&pretty).unwrap());
        }
    }
}
