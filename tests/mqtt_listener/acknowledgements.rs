//! What is acknowledged, when, in which order, and what is refused with which reason.

use std::time::Duration;

use tidegate::config::edge::{Lane, Mapping};

use crate::harness::Gate;
use crate::support::mqtt::{Options, Reply};

fn local(topic: &str) -> Mapping {
    Mapping { topic: topic.into(), upstream: false, ..Mapping::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_puback_comes_in_order_and_after_the_commit() {
    const MESSAGES: u64 = 2000;
    const IN_FLIGHT: u64 = 50;
    let gate = Gate::start(|_| {});
    let mut client = gate.connect(Options::new("a")).await;
    let mut sent = Vec::new();
    for n in 1..=MESSAGES {
        sent.push(client.publish("devices/d/reading", n.to_string(), 1).await);
        if n > IN_FLIGHT {
            let acknowledged = n - IN_FLIGHT;
            client.puback(sent[acknowledged as usize - 1]).await;
            assert!(gate.last("telemetry") >= acknowledged, "{acknowledged} acknowledged before the commit");
        }
    }
    for id in &sent[(MESSAGES - IN_FLIGHT) as usize..] {
        client.puback(*id).await;
    }
    let stored = gate.stored("telemetry").await;
    let numbers: Vec<u64> = stored.iter().map(|e| std::str::from_utf8(&e.data).unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=MESSAGES).collect::<Vec<_>>());
    assert_eq!(gate.metric("tidegate_mqtt_messages_total{qos=\"1\",fate=\"upstream\"}"), MESSAGES as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn pubacks_keep_their_order_over_lanes_and_local_topics() {
    let gate = Gate::start(|c| {
        let lane = |name: &str, mqtt: &[&str]| Lane {
            name: name.into(),
            types: vec![String::new(); mqtt.len()],
            mqtt: mqtt.iter().map(|t| (*t).to_owned()).collect(),
        };
        c.lanes = vec![lane("alarms", &["+/alarm"]), lane("rest", &[])];
        c.mappings = vec![local("local/#")];
    });
    let mut client = gate.connect(Options::new("a")).await;
    let mut sent = Vec::new();
    for n in 0..90 {
        sent.push(client.publish(["x/alarm", "x/reading", "local/x"][n % 3], "1", 1).await);
    }
    for id in sent {
        client.puback(id).await;
    }
    assert_eq!((gate.last("alarms"), gate.last("rest")), (30, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_sent_again_is_stored_once() {
    let gate = Gate::start(|_| {});
    let mut client = gate.connect(Options::new("a").stays()).await;
    let id = client.publish("devices/d/reading", "1", 2).await;
    assert!(matches!(client.next().await, Reply::Pubrec { id: got, reason: 0 | 0x10, .. } if got == id));
    let again = client.publish_bytes("devices/d/reading", b"1", 2, false, true, id);
    client.write(&again).await;
    assert!(matches!(client.next().await, Reply::Pubrec { id: got, reason: 0 | 0x10, .. } if got == id));
    // The same over a new connection.
    drop(client);
    let mut client = gate.connect(Options::new("a").stays()).await;
    assert!(client.present);
    client.write(&again).await;
    assert!(matches!(client.next().await, Reply::Pubrec { id: got, reason: 0 | 0x10, .. } if got == id));
    client.answer(0x62, id).await;
    assert_eq!(client.next().await, Reply::Pubcomp { id, reason: 0 });
    assert_eq!(gate.last("telemetry"), 1);
    // The id is free again: another message.
    client.write(&again).await;
    assert!(matches!(client.next().await, Reply::Pubrec { .. }));
    assert_eq!(gate.last("telemetry"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_is_stored_and_not_answered() {
    let gate = Gate::start(|_| {});
    let mut client = gate.connect(Options::new("a")).await;
    for n in 0..100 {
        client.publish("devices/d/reading", n.to_string(), 0).await;
    }
    client.publish_and_wait("devices/d/reading", "last").await;
    assert_eq!(gate.last("telemetry"), 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_too_large_or_no_event_is_refused_and_the_others_are_stored() {
    let gate = Gate::start(|c| c.outbox.max_event = 1024);
    let mut client = gate.connect(Options::new("a")).await;
    let mut bytes = client.publish_bytes("devices/d/r", b"1", 1, false, false, 1);
    bytes.extend(client.publish_bytes("devices/d/r", &[b'x'; 2000], 1, false, false, 2));
    bytes.extend(client.publish_bytes("devices/d/\u{7f}", b"1", 1, false, false, 3));
    bytes.extend(client.publish_bytes("devices/d/r", b"1", 1, false, false, 4));
    client.write(&bytes).await;
    client.puback(1).await;
    match client.next().await {
        Reply::Puback { id: 2, reason: 0x97, text } => assert!(text.contains("outbox.max_event"), "{text}"),
        other => panic!("{other:?}"),
    }
    match client.next().await {
        Reply::Puback { id: 3, reason: 0x90, text } => assert!(text.contains("control character"), "{text}"),
        other => panic!("{other:?}"),
    }
    client.puback(4).await;
    assert_eq!(gate.last("telemetry"), 2);
    assert_eq!(gate.metric("tidegate_mqtt_refused_total{reason=\"too-large\"}"), 1.0);
}

/// Cut off, a client of 3.1.1 would come back with the same message for good, before everything else that it has.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_can_never_be_stored_does_not_hold_up_a_client_of_3_1_1() {
    let gate = Gate::start(|c| {
        c.outbox.max_event = 1024;
        c.mappings = vec![Mapping {
            topic: "ce/#".into(),
            payload: tidegate::config::edge::Payload::CloudEvents,
            ..Mapping::default()
        }];
    });
    let mut client = gate.connect(Options::v311("a")).await;
    for qos in [1, 2] {
        for (topic, payload) in [("devices/d/\u{7f}", &b"1"[..]), ("ce/x", b"no event"), ("devices/d/r", &[b'x'; 2000])]
        {
            let id = client.publish(topic, payload, qos).await;
            match client.next().await {
                Reply::Puback { id: got, .. } if qos == 1 && got == id => {}
                Reply::Pubrec { id: got, .. } if qos == 2 && got == id => {
                    client.answer(0x62, id).await;
                    assert_eq!(client.next().await, Reply::Pubcomp { id, reason: 0 });
                }
                other => panic!("{topic}: {other:?}"),
            }
        }
    }
    client.publish_and_wait("devices/d/r", "good").await;
    assert_eq!(gate.last("telemetry"), 1);
    for (line, count) in [
        ("messages_total{qos=\"1\",fate=\"lost\"}", 3.0),
        ("messages_total{qos=\"2\",fate=\"lost\"}", 3.0),
        ("refused_total{reason=\"too-large\"}", 2.0),
        ("refused_total{reason=\"unfit\"}", 4.0),
    ] {
        assert_eq!(gate.metric(&format!("tidegate_mqtt_{line}")), count, "{line}");
    }
}

/// The session is kept here, and the client's own state is not (`mosquitto_pub -c`, paho without persistence).
#[tokio::test(flavor = "multi_thread")]
async fn qos_2_under_a_packet_id_that_a_client_has_forgotten_is_another_message() {
    let gate = Gate::start(|_| {});
    for n in 0..20 {
        let mut client = gate.connect(Options::v311("a").stays()).await;
        let publish = client.publish_bytes("devices/d/r", n.to_string().as_bytes(), 2, false, false, 1);
        client.write(&publish).await;
        if n % 3 != 1 {
            assert!(matches!(client.next().await, Reply::Pubrec { id: 1, .. }));
        }
        if n % 3 == 2 {
            client.answer(0x62, 1).await;
            assert_eq!(client.next().await, Reply::Pubcomp { id: 1, reason: 0 });
        }
    }
    let all: Vec<_> = (0..20).map(|n: u32| n.to_string()).collect();
    let stored = || async {
        let mut stored: Vec<_> =
            gate.stored("telemetry").await.iter().map(|e| String::from_utf8_lossy(&e.data).into_owned()).collect();
        stored.sort_by_key(|n| n.parse::<u32>().unwrap());
        stored
    };
    // One that got no PUBREC may be lost with its connection; those that did are all there, once.
    let stored = stored().await;
    let unique: std::collections::BTreeSet<_> = stored.iter().collect();
    assert_eq!(unique.len(), stored.len(), "{stored:?}");
    for (n, text) in all.iter().enumerate().filter(|(n, _)| n % 3 != 1) {
        assert!(stored.contains(text), "{n} of {stored:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_refuses_with_its_reason_and_local_messages_go_on() {
    let gate = Gate::start(|c| {
        c.outbox.max_bytes = 16 << 20;
        c.mappings = vec![local("local/#")];
    });
    let mut listener = gate.connect(Options::new("listener")).await;
    listener.subscribe("local/#", 1).await;
    let mut client = gate.connect(Options::new("a")).await;
    let payload = vec![b'x'; 60_000];
    let mut stored = 0;
    let text = loop {
        client.publish("devices/d/reading", &payload, 1).await;
        match client.next().await {
            Reply::Puback { reason: 0 | 0x10, .. } => stored += 1,
            Reply::Puback { reason: 0x97, text, .. } => break text,
            other => panic!("{other:?}"),
        }
        assert!(stored < 1000, "16 MiB are never full");
    };
    assert!(text.contains("full") && text.contains("send it again later"), "{text}");
    client.publish_and_wait("local/x", "still here").await;
    assert_eq!(listener.next().await.payload(), b"still here");
    // 3.1.1 has no words for it: the connection ends, and the client sends again.
    let mut old = gate.connect(Options::v311("old")).await;
    old.publish("devices/d/reading", &payload, 1).await;
    assert!(old.ends().await);
    // QoS 0 is dropped and counted.
    client.publish("devices/d/reading", &payload, 0).await;
    client.publish_and_wait("local/x", "2").await;
    crate::support::eventually(
        "the drop is counted",
        Duration::from_secs(10),
        || gate.metric("tidegate_mqtt_messages_total{qos=\"0\",fate=\"refused\"}"),
        |n| *n == 1.0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counters_say_what_happened() {
    let gate = Gate::start(|c| c.mappings = vec![local("local/#")]);
    let mut client = gate.connect(Options::new("a")).await;
    client.subscribe("local/#", 0).await;
    client.publish_and_wait("local/x", "12345").await;
    client.next().await;
    client.publish_and_wait("devices/d/r", "1").await;
    for (line, value) in [
        ("mqtt_connections_total{kind=\"tcp\"}", 1.0),
        ("mqtt_connections_open{kind=\"tcp\"}", 1.0),
        ("mqtt_packets_received_total{type=\"publish\"}", 2.0),
        ("mqtt_packets_sent_total{type=\"puback\"}", 2.0),
        ("mqtt_packets_sent_total{type=\"publish\"}", 1.0),
        ("mqtt_messages_total{qos=\"1\",fate=\"local\"}", 1.0),
        ("mqtt_messages_total{qos=\"1\",fate=\"upstream\"}", 1.0),
        ("mqtt_refused_total{reason=\"full\"}", 0.0),
        ("mqtt_ack_seconds_count", 1.0),
        ("mqtt_sessions", 1.0),
        ("mqtt_subscriptions", 1.0),
        ("mqtt_dropped_total{reason=\"slow\"}", 0.0),
    ] {
        // A packet counts when it is with the kernel, and the client may have it before that.
        let metric = || gate.metric(&format!("tidegate_{line}"));
        crate::support::eventually(line, Duration::from_secs(10), metric, |n| *n == value).await;
    }
    assert!(gate.metric("tidegate_mqtt_received_bytes_total") > 0.0);
}
