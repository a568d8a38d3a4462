//! Every record reads back, and no bytes do harm.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::ingest::mqtt::broker::record::{Intent, Message, Record, SessionState, Waiting};
use crate::ingest::mqtt::packet::{FilterOptions, PacketId, Properties, QoS, RetainHandling};

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|n| PacketId::new(n).unwrap())
}

fn properties() -> impl Strategy<Value = Box<Properties>> {
    let first = (option::of(any::<bool>()), option::of(any::<u32>()), option::of(packet_id()));
    let second = (option::of(text()), option::of(bytes()), option::of(text()));
    (first, second, vec((text(), text()), 0..3), vec(any::<u32>(), 0..3)).prop_map(|(a, b, user, subscription_ids)| {
        Box::new(Properties {
            payload_is_utf8: a.0,
            message_expiry_s: a.1,
            topic_alias: a.2,
            response_topic: b.0.map(Into::into),
            correlation_data: b.1,
            user,
            subscription_ids,
            content_type: b.2,
        })
    })
}

prop_compose! {
    fn message()(
        topic in text(), qos in qos(), retain in any::<bool>(), payload in bytes(),
        properties in option::of(properties()), expires_at in option::of(any::<u64>()),
    ) -> Arc<Message> {
        Arc::new(Message { topic: topic.into(), qos, retain, payload, properties, expires_at })
    }
}

prop_compose! {
    fn waiting()(
        session in any::<u64>(), qos in qos(), retain in any::<bool>(), packet_id in option::of(packet_id()),
        subscription_ids in vec(any::<u32>(), 0..3), done in any::<[bool; 2]>(), share in option::of(text()),
    ) -> Waiting {
        let ([received, sent], share) = (done, share.map(Into::into));
        Waiting { session, qos, retain, packet_id, subscription_ids, received, sent, share }
    }
}

prop_compose! {
    fn subscription()(
        filter in text(), qos in qos(), no_local in any::<bool>(), retain_as_published in any::<bool>(),
        handling in 0..3usize, id in option::of(any::<u32>()),
    ) -> (FilterOptions, Option<u32>) {
        let all = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
        (FilterOptions { filter, qos, no_local, retain_as_published, retain_handling: all[handling] }, id)
    }
}

prop_compose! {
    fn intent()(packet_id in packet_id(), name in any::<u64>(), digest in any::<u64>(), stored in any::<bool>()) -> Intent {
        Intent { packet_id, name, digest, stored }
    }
}

prop_compose! {
    fn state()(
        names in (any::<u64>(), text(), text()), expires_at in option::of(any::<u64>()), expiry_s in any::<u32>(),
        subscriptions in vec(subscription(), 0..3), intents in vec(intent(), 0..3),
        received in vec((packet_id(), any::<u64>()), 0..3), queue in vec((any::<u64>(), message(), waiting()), 0..3),
        queue_continues in any::<bool>(), will in option::of((message(), any::<u32>(), option::of(any::<u64>()))),
    ) -> SessionState {
        let (session, client_id, owner) = names;
        SessionState {
            session, client_id, owner, expires_at, expiry_s, subscriptions, intents, received, queue, queue_continues, will,
        }
    }
}

fn record() -> impl Strategy<Value = Record> {
    let id = any::<u64>;
    prop_oneof![
        state().prop_map(|s| Record::Session(Box::new(s))),
        id().prop_map(|session| Record::SessionEnded { session }),
        (id(), option::of(id()), any::<u32>()).prop_map(|(session, expires_at, expiry_s)| Record::SessionExpiry {
            session,
            expires_at,
            expiry_s
        }),
        (id(), subscription()).prop_map(|(session, (options, subscription_id))| Record::Subscribed {
            session,
            options,
            subscription_id
        }),
        (id(), text()).prop_map(|(session, filter)| Record::Unsubscribed { session, filter }),
        (id(), packet_id(), id(), id()).prop_map(|(session, packet_id, name, digest)| Record::Intent {
            session,
            packet_id,
            name,
            digest
        }),
        (id(), packet_id()).prop_map(|(session, packet_id)| Record::Received { session, packet_id }),
        (id(), packet_id()).prop_map(|(session, packet_id)| Record::Stored { session, packet_id }),
        (id(), packet_id()).prop_map(|(session, packet_id)| Record::Released { session, packet_id }),
        (id(), message(), vec(waiting(), 0..4), option::of((id(), packet_id())), option::of((id(), id())))
            .prop_map(|(id, message, to, received, moved)| Record::Queued { id, message, to, received, moved }),
        (id(), id()).prop_map(|(session, through)| Record::OutgoingSent { session, through }),
        (id(), id()).prop_map(|(session, id)| Record::OutgoingReceived { session, id }),
        (id(), id()).prop_map(|(session, id)| Record::OutgoingDone { session, id }),
        (text(), option::of(message())).prop_map(|(topic, m)| Record::Retained { topic: topic.into(), message: m }),
        (id(), option::of((message(), any::<u32>())), option::of(id()))
            .prop_map(|(session, will, due_at)| { Record::Will { session, will, due_at } }),
        id().prop_map(Record::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_record_reads_back(record in record()) {
        prop_assert_eq!(decode(&encode(&record)), Ok(record));
    }

    #[test]
    fn no_other_length_of_a_record_is_one(record in record(), cut in any::<prop::sample::Index>(), more in any::<u8>()) {
        let mut bytes = encode(&record);
        prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
        bytes.push(more);
        prop_assert_eq!(decode(&bytes), Err(DecodeError::Long(1)));
    }

    #[test]
    fn damaged_records_never_panic(record in record(), place in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let mut bytes = encode(&record);
        let at = place.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(other) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&other)), Ok(other), "what is read can be written again");
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(kind in 0..20u8, bytes in vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        let _ = decode(&[&[VERSION, kind], &bytes[..]].concat());
    }
}

#[test]
fn unknown_versions_and_kinds_are_said() {
    for version in [0, VERSION + 1] {
        assert_eq!(decode(&[version, kind::TIME, 0]), Err(DecodeError::Version(version)));
    }
    assert_eq!(decode(&[1, 99]), Err(DecodeError::Kind(99)));
    assert_eq!(decode(&[]), Err(DecodeError::Short("version")));
    let numbers_that_lie = [1, kind::QUEUED, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
    assert_eq!(decode(&numbers_that_lie), Err(DecodeError::Value("number")));
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// Records as version 1 wrote them. These bytes never change; a later version adds its own test and must still pass this one.
#[test]
fn records_of_version_1_stay_readable() {
    for (record, hex) in golden() {
        assert_eq!(decode(&from_hex(hex)), Ok(record), "{hex}");
    }
}

/// As version 2 wrote them: the same, but for the digests.
#[test]
fn records_of_version_2_stay_readable() {
    for (record, hex) in golden_2() {
        assert_eq!(decode(&from_hex(&hex)), Ok(record), "{hex}");
    }
}

/// As version 3 writes them: the same, but for what was sent and what is shared.
#[test]
fn records_of_version_3_stay_readable() {
    let session = 0x1122_3344_5566_7788;
    let mut all = golden_2();
    for (record, hex) in &mut all {
        hex.replace_range(..2, "03");
        match record {
            Record::Session(state) => {
                state.queue[0].2.share = Some("$share/g/t".into());
                *hex = hex.replacen("0207f40301070174", "021ff40301070a2473686172652f672f740174", 1);
            }
            Record::Queued { to, moved, .. } if to.is_empty() => {
                *moved = Some((session, 1));
                *hex = hex.replacen("0001887766554433221108", "0003887766554433221108887766554433221101", 1);
            }
            Record::Queued { .. } => *hex = hex.replacen("0207f403010700", "020ff403010700", 1),
            _ => {}
        }
    }
    all.push((Record::OutgoingSent { session, through: 7 }, "0311887766554433221107".to_owned()));
    for (record, hex) in all {
        assert_eq!(decode(&from_hex(&hex)), Ok(record.clone()), "{hex}");
        if VERSION == 3 {
            let written: String = encode(&record).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(written, hex, "{record:?}");
        }
    }
}

fn golden_2() -> Vec<(Record, String)> {
    const DIGEST: u64 = 0x0102_0304_0506_0708;
    let packet_id = PacketId::new(1).unwrap();
    let stored = Record::Stored { session: 0x1122_3344_5566_7788, packet_id };
    let mut all = vec![(stored, "0210887766554433221101".to_owned())];
    for (mut record, hex) in golden() {
        let mut hex = hex.replacen("01", "02", 1);
        match &mut record {
            Record::Intent { digest, .. } => {
                *digest = DIGEST;
                hex += "0807060504030201";
            }
            Record::Session(state) => {
                (state.intents[0].digest, state.received[0].1) = (DIGEST, DIGEST);
                state.intents[0].stored = true;
                hex = hex.replacen("0101020103", "01010208070605040302010101030807060504030201", 1);
            }
            _ => {}
        }
        all.push((record, hex));
    }
    all
}

#[allow(clippy::too_many_lines)] // a list
fn golden() -> Vec<(Record, &'static str)> {
    let pid = |n| PacketId::new(n).unwrap();
    let session = 0x1122_3344_5566_7788;
    let message = Arc::new(Message {
        topic: "a/b".into(),
        qos: QoS::ExactlyOnce,
        retain: true,
        payload: Bytes::from_static(b"on"),
        properties: Some(Box::new(Properties {
            payload_is_utf8: Some(true),
            message_expiry_s: Some(300),
            topic_alias: Some(pid(3)),
            response_topic: Some("r".into()),
            correlation_data: Some(Bytes::from_static(&[9])),
            user: vec![("k".into(), "v".into())],
            subscription_ids: vec![1, 128],
            content_type: Some("t".into()),
        })),
        expires_at: Some(1_000),
    });
    let plain = Arc::new(Message {
        topic: "t".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        payload: Bytes::from_static(b"x"),
        properties: None,
        expires_at: None,
    });
    let options = FilterOptions {
        filter: "a/#".into(),
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let waiting = Waiting {
        session,
        qos: QoS::ExactlyOnce,
        retain: true,
        packet_id: Some(pid(500)),
        subscription_ids: vec![7],
        received: true,
        sent: true,
        share: None,
    };
    let state = SessionState {
        session,
        client_id: "c".into(),
        owner: "o".into(),
        expires_at: Some(5),
        expiry_s: u32::MAX,
        subscriptions: vec![(options.clone(), None)],
        intents: vec![Intent { packet_id: pid(1), name: 2, digest: 0, stored: false }],
        received: vec![(pid(3), 0)],
        queue: vec![(4, plain.clone(), waiting.clone())],
        queue_continues: true,
        will: Some((plain.clone(), 60, Some(6))),
    };
    vec![
        (
            Record::Session(Box::new(state)),
            "010188776655443322110163016f0f05ffffffff0f0103612f2309030101020103010401740100017888776655443322110207f40301070174010001783c06",
        ),
        (Record::SessionEnded { session }, "01028877665544332211"),
        (Record::SessionExpiry { session, expires_at: Some(300), expiry_s: 30 }, "0103887766554433221101ac021e"),
        (
            Record::Subscribed { session, options, subscription_id: Some(268_435_455) },
            "0104887766554433221103612f230907ffffff7f",
        ),
        (Record::Unsubscribed { session, filter: "ä".into() }, "0105887766554433221102c3a4"),
        (Record::Intent { session, packet_id: pid(65_535), name: 1, digest: 0 }, "01068877665544332211ffff0301"),
        (Record::Received { session, packet_id: pid(1) }, "0107887766554433221101"),
        (Record::Released { session, packet_id: pid(2) }, "0108887766554433221102"),
        (
            Record::Queued { id: 300, message: message.clone(), to: vec![waiting], received: None, moved: None },
            "0109ac0203612f620207026f6e7fac020301720109017401016b017602018001e8070188776655443322110207f403010700",
        ),
        (
            Record::Queued {
                id: 300,
                message: message.clone(),
                to: Vec::new(),
                received: Some((session, pid(8))),
                moved: None,
            },
            "0109ac0203612f620207026f6e7fac020301720109017401016b017602018001e8070001887766554433221108",
        ),
        (Record::OutgoingReceived { session, id: 1 }, "010a887766554433221101"),
        (Record::OutgoingDone { session, id: 2 }, "010b887766554433221102"),
        (
            Record::Retained { topic: "a/b".into(), message: Some(message) },
            "010c03612f620103612f620207026f6e7fac020301720109017401016b017602018001e807",
        ),
        (Record::Retained { topic: "a/b".into(), message: None }, "010c03612f6200"),
        (Record::Will { session, will: Some((plain, 10)), due_at: Some(11) }, "010d8877665544332211030174010001780a0b"),
        (Record::Will { session, will: None, due_at: None }, "010d887766554433221100"),
        (Record::Time(u64::MAX), "010effffffffffffffffff01"),
    ]
}
