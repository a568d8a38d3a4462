//! Tests of decoding: every content type, every refusal with its line or index.

use super::*;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

fn context() -> Context {
    Context {
        node: "n".into(),
        device: None,
        subject: None,
        source: None,
        ty: None,
        now: Timestamp::from_unix_ms(5),
        max_events: 3,
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

fn run(content_type: &'static str, context: &Context, body: &str) -> Result<Decoded, Refusal> {
    let format = Format::of(&headers(&[("content-type", content_type)]))?;
    decode(format, context, &Bytes::copy_from_slice(body.as_bytes()))
}

fn refused(content_type: &'static str, body: &str) -> Refusal {
    run(content_type, &context(), body).unwrap_err()
}

#[test]
fn every_refusal_names_its_event() {
    const BATCH: &str = "application/cloudevents-batch+json";
    const LINES: &str = "application/x-ndjson";
    let ok = r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#;
    let at = Some(Place::Index(1));
    for (body, kind, words) in [
        (format!("[{ok},{{}}]"), Kind::InvalidEvent, "\"specversion\" is missing"),
        (format!("[{ok},7]"), Kind::InvalidEvent, "a CloudEvent, a JSON object"),
        (format!("[{ok},{{\"id\":}}]"), Kind::MalformedBody, "column"),
        (format!("[{ok},{}]", ok.replace("1.0", "0.3")), Kind::InvalidEvent, "\"0.3\" is not known"),
        (format!("[{ok},{}]", ok.replace("\"t\"", "\"\"")), Kind::InvalidEvent, "\"type\" is empty"),
        (format!("[{ok},{}]", ok.replace("\"1\"", "1.5")), Kind::InvalidEvent, "attribute \"id\" to be a string"),
        (format!("[{ok},{}]", ok.replace("\"1\"", "{}")), Kind::InvalidEvent, "attribute \"id\" to be a string"),
        (format!("[{ok},{}]", ok.replace("type", "tYpe")), Kind::InvalidEvent, "\"type\" is missing"),
        (format!("[{ok},{}]", ok.replace("}", ",\"id\":\"2\"}")), Kind::InvalidEvent, "\"id\" is given twice"),
        (format!("[{ok},{}]", ok.replace("}", ",\"time\":\"x\"}")), Kind::InvalidEvent, "RFC 3339"),
        (format!("[{ok},{}]", ok.replace("}", ",\"data_base64\":\"!\"}")), Kind::InvalidEvent, "data_base64"),
        (
            format!("[{ok},{}]", ok.replace("}", ",\"data\":1,\"data\":2}")),
            Kind::InvalidEvent,
            "\"data\" is given twice",
        ),
        (format!("[{ok},{}]", ok.replace("}", ",\"data\":1,\"data_base64\":\"\"}")), Kind::InvalidEvent, "both given"),
        (format!("[{ok},{}]", ok.replace("}", ",\"Bad\":\"x\"}")), Kind::InvalidEvent, "\"Bad\""),
        (format!("[{ok},{}", &ok[..20]), Kind::MalformedBody, "EOF"),
    ] {
        let refusal = refused(BATCH, &body);
        assert_eq!((refusal.kind, refusal.place), (kind, at), "{body}: {refusal}");
        assert!(refusal.detail.starts_with("event 1: ") && refusal.detail.contains(words), "{body}: {refusal}");
    }
    let refusal = refused(LINES, &format!("{ok}\n\n{{\"a\":1"));
    assert_eq!((refusal.kind, refusal.place), (Kind::MalformedBody, Some(Place::Line(3))), "{refusal}");
}

#[test]
fn a_body_of_nothing_or_of_too_much_is_refused() {
    assert_eq!(refused("application/cloudevents-batch+json", "[]").kind, Kind::MalformedBody);
    assert_eq!(refused("application/x-ndjson", " \n\r\n").kind, Kind::MalformedBody);
    assert_eq!(refused("application/json", "").kind, Kind::MalformedBody);
    assert_eq!(run("application/x-ndjson", &context(), "1\n2\n3\n").unwrap().events.len(), 3);
    assert_eq!(refused("application/x-ndjson", "1\n2\n3\n4").kind, Kind::TooManyEvents);
    let four = format!("[{}]", [r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#; 4].join(","));
    assert_eq!(refused("application/cloudevents-batch+json", &four).kind, Kind::TooManyEvents);
}

#[test]
fn a_cloudevent_as_plain_json_is_told_its_content_type() {
    let refusal = refused("application/json", r#"{"specversion":"1.0"}"#);
    assert_eq!(refusal.kind, Kind::UnsupportedMediaType);
    assert!(refusal.detail.contains("application/cloudevents+json"));
}

#[test]
fn content_types_decide() {
    let kind = |pairs: &[(&'static str, &'static str)]| Format::of(&headers(pairs)).map_err(|e| e.kind);
    assert!(matches!(kind(&[("content-type", "Application/JSON; charset=\"UTF-8\"")]), Ok(Format::Plain(_))));
    assert!(matches!(kind(&[("ce-id", "1")]), Ok(Format::Binary(_))));
    for refused in [
        &[("content-type", "application/json; charset=latin1")][..],
        &[("content-type", "application/cloudevents+xml"), ("ce-id", "1")],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("content-type", "")],
        &[],
    ] {
        assert_eq!(kind(refused).unwrap_err(), Kind::UnsupportedMediaType, "{refused:?}");
    }
    let lines = kind(&[("content-type", "application/x-ndjson"), ("ce-type", "t")]);
    assert_eq!(lines.unwrap_err(), Kind::BadRequest);
    let twice = kind(&[("content-type", "text/plain"), ("ce-datacontenttype", "text/html")]);
    assert_eq!(twice.unwrap_err(), Kind::InvalidEvent);
}

#[test]
fn the_path_decides_whose_events_these_are() {
    let mut context = Context { device: Some("d".into()), ..context() };
    let event =
        |subject: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"{subject}"}}"#);
    let run = |context: &Context, subject| run("application/cloudevents+json", context, &event(subject));
    assert_eq!(run(&context, "d").unwrap().events[0].subject.as_deref(), Some("d"));
    assert_eq!(run(&context, "e").unwrap_err().kind, Kind::SubjectMismatch);
    context.device = None;
    context.subject = Some("d".into());
    assert_eq!(run(&context, "e").unwrap().events[0].subject.as_deref(), Some("e"), "?subject= only fills a gap");
}

#[test]
fn a_structured_event_without_a_type_takes_the_requests_or_none() {
    let body = r#"{"specversion":"1.0","id":"1","source":"s"}"#;
    assert!(refused("application/cloudevents+json", body).detail.contains("\"type\" is missing"));
    let typed = Context { ty: Some("t".into()), ..context() };
    assert_eq!(run("application/cloudevents+json", &typed, body).unwrap().events[0].ty, "t");
}

#[test]
fn data_are_slices_of_the_body_not_copies() {
    let body = Bytes::from_static(br#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"a":1}}"#);
    let event = decode(Format::Structured, &context(), &body).unwrap().events.remove(0);
    let offset = event.data.as_ptr() as usize - body.as_ptr() as usize;
    assert_eq!(&body[offset..][..event.data.len()], br#"{"a":1}"#);
}

proptest! {
    #[test]
    fn noise_is_refused_or_taken_and_never_panics(body in "[\\[\\]{}\",:0-9a-z\\\\\n ]{0,60}") {
        for content_type in ["application/json", "application/x-ndjson", "application/cloudevents+json",
                             "application/cloudevents-batch+json"] {
            if let Ok(decoded) = run(content_type, &context(), &body) {
                prop_assert!(!decoded.events.is_empty());
            }
        }
    }

    /// What is plain JSON to serde_json is plain JSON here, and its bytes are kept.
    #[test]
    fn plain_json_is_kept(numbers in proptest::collection::vec(any::<f64>(), 0..5), text in "\\PC{0,20}") {
        let body = serde_json::json!({ "n": numbers, "t": text }).to_string();
        let decoded = run("application/json", &context(), &body).unwrap();
        prop_assert_eq!(&decoded.events[0].data, body.as_bytes());
    }

    #[test]
    fn base64_data_comes_back(data in proptest::collection::vec(any::<u8>(), 0..50)) {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(&data);
        let body = format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"{text}"}}"#);
        let decoded = run("application/cloudevents+json", &context(), &body).unwrap();
        prop_assert_eq!(&decoded.events[0].data, &data);
    }

    #[test]
    fn any_binary_header_is_decoded_or_refused(value in proptest::collection::vec(0x20u8..0xff, 0..30)) {
        let mut map = headers(&[("ce-type", "t")]);
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            map.insert("ce-x", value);
            let _ = Format::of(&map);
        }
    }
}
