//! Every content type, and what becomes of what its sender left out.

use std::io::Write;

use serde_json::json;
use tidegate::config::edge::Lane;
use tidegate::event::Timestamp;

use crate::harness::{Gate, NOW_MS, request};

const JSON: &str = "content-type: application/json\r\n";
const LINES: &str = "content-type: application/x-ndjson\r\n";
const STRUCTURED: &str = "content-type: application/cloudevents+json\r\n";
const BATCH: &str = "content-type: application/cloudevents-batch+json; charset=UTF-8\r\n";

#[tokio::test]
async fn plain_json_is_the_data_of_one_event() {
    let gate = Gate::start(|_| {});
    let body = "{ \"value\" : 1.50 }\n";
    let reply = gate.post("/v1/devices/pump%2F3/events?type=pressure", JSON, body).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    assert_eq!(reply.json(), json!({"accepted": 1, "lane": "telemetry", "first": 1, "last": 1}));
    let event = gate.stored("telemetry").await.remove(0);
    assert_eq!(event.data, body, "exactly the bytes sent");
    assert_eq!((event.ty.as_str(), event.subject.as_deref()), ("pressure", Some("pump/3")));
    assert_eq!(event.source, "/devices/pump%2F3");
    assert_eq!(event.time, Timestamp::from_unix_ms(NOW_MS));
    assert_eq!(event.datacontenttype.as_deref(), Some("application/json"));
    assert!(event.id_is_ours && event.id.len() == 36);
}

#[tokio::test]
async fn plain_json_without_a_device_is_the_nodes_reading() {
    let gate = Gate::start(|_| {});
    assert_eq!(gate.post("/v1/events", JSON, "17.5").await.status, 202);
    assert_eq!(gate.post("/v1/events?subject=a+b%2Bc&source=urn:s", JSON, "[]").await.status, 202);
    let events = gate.stored("telemetry").await;
    assert_eq!((events[0].ty.as_str(), events[0].source.as_str()), ("reading", "/nodes/press-7"));
    assert_eq!(events[0].subject, None);
    assert_eq!((events[1].subject.as_deref(), events[1].source.as_str()), (Some("a b+c"), "urn:s"));
}

#[tokio::test]
async fn a_structured_event_keeps_its_attributes_and_its_data_byte_by_byte() {
    let gate = Gate::start(|_| {});
    let body = r#"{"specversion":"1.0","id":"7","source":"urn:s","type":"t","subject":"d","time":"2026-01-31T12:00:00+01:00",
        "dataschema":"urn:schema","site":"a\u00e9","count":-3,"big":true,"none":null,"data":{"b":1.10, "a":"\u00e9"}}"#;
    let reply = gate.post("/v1/devices/d/events", STRUCTURED, body).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let event = gate.stored("telemetry").await.remove(0);
    assert_eq!((event.id.as_str(), event.source.as_str(), event.ty.as_str()), ("7", "urn:s", "t"));
    assert!(!event.id_is_ours);
    assert_eq!(event.time.to_string(), "2026-01-31T11:00:00Z");
    assert_eq!(event.dataschema.as_deref(), Some("urn:schema"));
    assert_eq!(event.datacontenttype.as_deref(), Some("application/json"), "what absence means in this format");
    let extensions: Vec<_> = event.extensions.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(extensions, [("site", "aé"), ("count", "-3"), ("big", "true")]);
    assert_eq!(event.data, r#"{"b":1.10, "a":"\u00e9"}"#);
}

#[tokio::test]
async fn data_that_is_not_json_is_decoded() {
    let gate = Gate::start(|_| {});
    let event =
        |id: usize, rest: &str| format!(r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"t",{rest}}}"#);
    let cases = [
        (r#""datacontenttype":"text/plain","data":"a\"\u00e9""#, &b"a\"\xc3\xa9"[..]),
        (r#""data":"a\"","datacontenttype":"text/plain;charset=utf-8""#, b"a\""),
        (r#""datacontenttype":"application/vnd.x+json","data":"a""#, b"\"a\""),
        (r#""datacontenttype":"text/plain","data":{"a":1}"#, b"{\"a\":1}"),
        (r#""data_base64":"AP+A""#, b"\x00\xff\x80"),
        (r#""data_base64":"AP8=""#, b"\x00\xff"),
        (r#""data_base64":"AP8""#, b"\x00\xff"),
        (r#""comexampleext":"x""#, b""),
    ];
    for (id, (rest, data)) in cases.into_iter().enumerate() {
        let reply = gate.post("/v1/events", STRUCTURED, event(id, rest)).await;
        assert_eq!(reply.status, 202, "{rest}: {reply:?}");
        assert_eq!(gate.stored("telemetry").await.last().unwrap().data, data, "{rest}");
    }
}

#[tokio::test]
async fn a_batch_is_stored_in_its_order() {
    let gate = Gate::start(|_| {});
    let body: Vec<_> =
        (0..3).map(|i| json!({"specversion":"1.0","type":"t","source":"s","id":i.to_string()})).collect();
    let reply = gate.post("/v1/events", BATCH, json!(body).to_string()).await;
    assert_eq!(reply.json(), json!({"accepted": 3, "lane": "telemetry", "first": 1, "last": 3}), "{reply:?}");
    let ids: Vec<_> = gate.stored("telemetry").await.into_iter().map(|e| e.id).collect();
    assert_eq!(ids, ["0", "1", "2"]);
}

#[tokio::test]
async fn a_repeated_event_gets_the_first_answer_and_is_stored_once() {
    let gate = Gate::start(|_| {});
    let event = |id: u32| json!({"specversion": "1.0", "id": id.to_string(), "source": "s", "type": "t"});
    let first = gate.post("/v1/events", BATCH, json!([event(1), event(2)]).to_string()).await.json();
    assert_eq!(first, json!({"accepted": 2, "lane": "telemetry", "first": 1, "last": 2}));
    let again = gate.post("/v1/events", BATCH, json!([event(1), event(2)]).to_string()).await.json();
    assert_eq!(again, json!({"accepted": 2, "lane": "telemetry", "first": 1, "last": 2, "repeated": 2}));
    let partly = gate.post("/v1/events", BATCH, json!([event(2), event(3)]).to_string()).await.json();
    assert_eq!((&partly["accepted"], &partly["repeated"], &partly["last"]), (&2.into(), &1.into(), &3.into()));
    assert_eq!(gate.stored("telemetry").await.len(), 3);
    assert_eq!(gate.metric("tidegate_http_repeated_events_total").await, 3.0);
}

#[tokio::test]
async fn lines_may_be_events_or_plain_data() {
    let gate = Gate::start(|_| {});
    let body =
        "{\"value\":1}\r\n\n  {\"specversion\":\"1.0\",\"id\":\"x\",\"source\":\"s\",\"type\":\"t\",\"data\":[2]}\n3";
    let reply = gate.post("/v1/devices/d/events?type=own", LINES, body).await;
    assert_eq!(reply.json()["accepted"], 3, "{reply:?}");
    let events = gate.stored("telemetry").await;
    let seen: Vec<_> = events.iter().map(|e| (e.ty.as_str(), &e.data[..], e.subject.as_deref())).collect();
    let d = Some("d");
    assert_eq!(seen, [("own", &b"{\"value\":1}"[..], d), ("t", b"[2]", d), ("own", b"3", d)]);
}

#[tokio::test]
async fn binary_mode_takes_any_bytes_and_decodes_its_headers() {
    let gate = Gate::start(|_| {});
    let headers = "content-type: image/png\r\nce-specversion: 1.0\r\nce-id: Euro%20%E2%82%AC\r\nCE-Source: urn:s\r\n\
                   ce-type: photo\r\nce-time: 2026-01-31T12:00:00Z\r\nce-subject: cam\r\nce-site: \"p 7\"\r\n";
    let reply = gate.post("/v1/events", headers, b"\x89PNG\0\xff").await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let event = gate.stored("telemetry").await.remove(0);
    assert_eq!((event.id.as_str(), event.source.as_str(), event.ty.as_str()), ("Euro €", "urn:s", "photo"));
    assert_eq!(event.subject.as_deref(), Some("cam"));
    assert_eq!(event.datacontenttype.as_deref(), Some("image/png"));
    assert_eq!(event.extensions, [("site".to_owned(), "p 7".to_owned())]);
    assert_eq!(event.data, &b"\x89PNG\0\xff"[..]);
}

#[tokio::test]
async fn json_with_ce_headers_is_binary_mode_too() {
    let gate = Gate::start(|_| {});
    let headers = format!("{JSON}ce-type: x.alarm\r\n");
    assert_eq!(gate.post("/v1/devices/d/events", &headers, "{\"specversion\":1}").await.status, 202);
    assert_eq!(gate.stored("telemetry").await[0].ty, "x.alarm");
}

#[tokio::test]
async fn events_go_to_the_lane_of_their_type() {
    let gate = Gate::start(|c| {
        c.lanes.insert(0, Lane { name: "alarms".into(), types: vec!["*.alarm".into()], mqtt: Vec::new() });
    });
    let reply = gate.post("/v1/events?type=fire.alarm", JSON, "1").await;
    assert_eq!(reply.json()["lane"], "alarms");
    assert_eq!(gate.post("/v1/events", JSON, "1").await.json()["lane"], "telemetry");
    assert_eq!((gate.stored("alarms").await.len(), gate.stored("telemetry").await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_taken_small_and_large() {
    let gate = Gate::start(|_| {});
    let mut expected = 0;
    for lines in [2, 5000] {
        let body: String =
            (0..lines).map(|i| format!("{{\"i\":{i},\"noise\":\"{:x}\"}}\n", i * 7_919_777u64)).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(body.as_bytes()).unwrap();
        let zstd = zstd::encode_all(body.as_bytes(), 3).unwrap();
        for (encoding, body) in [("gzip", gzip.finish().unwrap()), ("zstd", zstd), ("identity", body.into_bytes())] {
            let reply = gate.post("/v1/events", &format!("{LINES}content-encoding: {encoding}\r\n"), body).await;
            assert_eq!(reply.json()["accepted"], lines, "{encoding} {reply:?}");
            expected += lines;
        }
    }
    assert_eq!(gate.stored("telemetry").await.len() as u64, expected);
    assert_eq!(gate.metric("tidegate_http_accepted_events_total").await, expected as f64);
    assert_eq!(gate.metric("tidegate_http_body_memory_bytes").await, 0.0);
}

#[tokio::test]
async fn chunked_bodies_and_expect_continue_work() {
    let gate = Gate::start(|_| {});
    let mut client = gate.connect().await;
    let head = format!("POST /v1/events HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n");
    client.write(head + "3\r\n{\"a\r\n").await;
    client.write("4\r\n\":1}\r\n0\r\ntrailer: x\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 202);
    client
        .write(format!(
            "POST /v1/events HTTP/1.1\r\nhost: x\r\n{JSON}expect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        ))
        .await;
    assert_eq!(client.reply().await.status, 100);
    client.write("{}").await;
    assert_eq!(client.reply().await.status, 202);
    client.write(request("/v1/events", JSON, "1")).await;
    assert_eq!(client.reply().await.json()["last"], 3, "and the connection goes on");
    assert_eq!(gate.stored("telemetry").await[0].data, "{\"a\":1}");
}
