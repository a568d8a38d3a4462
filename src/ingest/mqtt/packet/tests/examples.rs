//! Every packet byte by byte, with the standards' own examples where they have one.

use super::Version::{V5, V311};
use super::*;

fn ack(reason: Reason, text: Option<&str>) -> Ack {
    Ack { packet_id: id(0x1234), reason, reason_string: text.map(str::to_owned) }
}

/// Both ways: the bytes give the packet, the packet gives the bytes.
fn both(version: Version, bytes: &[u8], packet: &Packet) {
    assert_eq!(decode(version, bytes).as_ref(), Ok(packet));
    assert_eq!(encoded(packet, version), bytes, "{packet:?}");
}

/// What only a server sends.
fn sent(version: Version, packet: &Packet, bytes: &[u8]) {
    assert_eq!(encoded(packet, version), bytes, "{packet:?}");
}

/// 3.1.1 §3.1.2, figure 3.6: user name, password, will with QoS 1, clean session, keep alive 10.
#[test]
fn connect_3_1_1() {
    let bytes = packet(0x10, b"\0\x04MQTT\x04\xCE\0\x0A\0\x01c\0\x01w\0\x03off\0\x01u\0\x01p");
    let message =
        Publish { qos: QoS::AtLeastOnce, topic: "w".into(), payload: Bytes::from("off"), ..Publish::default() };
    let wanted = Connect {
        version: V311,
        bridge: false,
        clean_start: true,
        keep_alive_s: 10,
        client_id: "c".into(),
        will: Some(Will { message, delay_s: 0 }),
        user_name: Some("u".into()),
        password: Some(Bytes::from("p")),
        session_expiry_s: None,
        receive_maximum: NonZeroU16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_response_information: false,
        request_problem_information: true,
        authentication_method: None,
        user_properties: vec![],
    };
    both(V311, &bytes, &Packet::Connect(Box::new(wanted)));
}

/// MQTT 5.0 §3.1.2.12: the same with a session expiry of 10 s; then all other properties.
#[test]
fn connect_5_0() {
    let properties = b"\x11\0\0\0\x0A\x21\0\x14\x27\0\0\x40\0\x22\0\x0A\x19\x01\x17\0\x15\0\x01m\x26\0\x01k\0\x01v";
    let will = b"\x18\0\0\0\x05\x01\x01\x02\0\0\0\x3C\x08\0\x01r\x09\0\x01i\x26\0\x01k\0\x01v\x03\0\x01t";
    let mut body = b"\0\x04MQTT\x05\xEE\0\x0A".to_vec();
    body.push(properties.len() as u8);
    body.extend_from_slice(properties);
    body.extend_from_slice(b"\0\x01c");
    body.push(will.len() as u8);
    body.extend_from_slice(will);
    body.extend_from_slice(b"\0\x01w\0\x03off\0\x01u\0\x01p");
    let pair = ("k".to_owned(), "v".to_owned());
    let message = Publish {
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "w".into(),
        properties: Some(Box::new(Properties {
            payload_is_utf8: Some(true),
            message_expiry_s: Some(60),
            topic_alias: None,
            response_topic: Some("r".into()),
            correlation_data: Some(Bytes::from("i")),
            user: vec![pair.clone()],
            subscription_ids: vec![],
            content_type: Some("t".into()),
        })),
        payload: Bytes::from("off"),
        ..Publish::default()
    };
    let wanted = Connect {
        version: V5,
        bridge: false,
        clean_start: true,
        keep_alive_s: 10,
        client_id: "c".into(),
        will: Some(Will { message, delay_s: 5 }),
        user_name: Some("u".into()),
        password: Some(Bytes::from("p")),
        session_expiry_s: Some(10),
        receive_maximum: NonZeroU16::new(20).unwrap(),
        maximum_packet_size: Some(16_384),
        topic_alias_maximum: 10,
        request_response_information: true,
        request_problem_information: false,
        authentication_method: Some("m".into()),
        user_properties: vec![pair],
    };
    both(V5, &packet(0x10, &body), &Packet::Connect(Box::new(wanted)));
}

/// 3.1.1 §3.3.2.3, figure 3.11, and MQTT 5.0 §3.3.2.4: topic a/b, packet identifier 10.
#[test]
fn publish() {
    let mut publish = Publish {
        qos: QoS::AtLeastOnce,
        topic: "a/b".into(),
        packet_id: Some(id(10)),
        payload: Bytes::from("x"),
        ..Publish::default()
    };
    both(V311, b"\x32\x08\0\x03a/b\0\x0Ax", &Packet::Publish(Box::new(publish.clone())));
    both(V5, b"\x32\x09\0\x03a/b\0\x0A\0x", &Packet::Publish(Box::new(publish.clone())));
    publish.dup = true;
    publish.retain = true;
    publish.qos = QoS::ExactlyOnce;
    both(V311, b"\x3D\x08\0\x03a/b\0\x0Ax", &Packet::Publish(Box::new(publish.clone())));
    let properties = Properties { topic_alias: NonZeroU16::new(7), message_expiry_s: Some(1), ..Properties::default() };
    publish.properties = Some(Box::new(properties));
    both(V5, b"\x3D\x11\0\x03a/b\0\x0A\x08\x02\0\0\0\x01\x23\0\x07x", &Packet::Publish(Box::new(publish.clone())));
    sent(V311, &Packet::Publish(Box::new(publish)), b"\x3D\x08\0\x03a/b\0\x0Ax");
}

/// MQTT 5.0 §3.3.4: all subscription identifiers that matched.
#[test]
fn a_delivery_carries_subscription_identifiers() {
    let properties = Properties { subscription_ids: vec![1, 268_435_455], ..Properties::default() };
    let publish = Publish { topic: "a".into(), properties: Some(Box::new(properties)), ..Publish::default() };
    sent(V5, &Packet::Publish(Box::new(publish)), b"\x30\x0B\0\x01a\x07\x0B\x01\x0B\xFF\xFF\xFF\x7F");
}

/// The shortest form (MQTT 5.0 §3.4.2.1), and nothing but the identifier in 3.1.1.
#[test]
fn acknowledgements() {
    type Kind = fn(Ack) -> Packet;
    let kinds: [Kind; 4] = [Packet::Puback, Packet::Pubrec, Packet::Pubrel, Packet::Pubcomp];
    for (first, kind) in [0x40, 0x50, 0x62, 0x70].into_iter().zip(kinds) {
        both(V311, &[first, 2, 0x12, 0x34], &kind(ack(Reason::SUCCESS, None)));
        both(V5, &[first, 2, 0x12, 0x34], &kind(ack(Reason::SUCCESS, None)));
        let refusal = if first < 0x60 { Reason::QUOTA_EXCEEDED } else { Reason::PACKET_ID_NOT_FOUND };
        both(V5, &[first, 3, 0x12, 0x34, refusal.0], &kind(ack(refusal, None)));
        sent(V311, &kind(ack(refusal, Some("full"))), &[first, 2, 0x12, 0x34]);
        let long = [&[first, 11, 0x12, 0x34, refusal.0, 7, 0x1F, 0, 4][..], b"full"].concat();
        both(V5, &long, &kind(ack(refusal, Some("full"))));
        both(V5, &[first, 9, 0x12, 0x34, 0, 5, 0x1F, 0, 2, b'o', b'k'], &kind(ack(Reason::SUCCESS, Some("ok"))));
    }
}

/// 3.1.1 §3.8.3.1, figure 3.23, and MQTT 5.0 §3.8.4, figure 3-21: a/b with QoS 1, c/d with QoS 2.
#[test]
fn subscribe() {
    let options = |filter: &str, qos| FilterOptions {
        filter: filter.into(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    };
    let filters = vec![options("a/b", QoS::AtLeastOnce), options("c/d", QoS::ExactlyOnce)];
    let mut subscribe = Subscribe { packet_id: id(10), subscription_id: None, filters };
    let wanted = b"\x82\x0E\0\x0A\0\x03a/b\x01\0\x03c/d\x02";
    both(V311, wanted, &Packet::Subscribe(Box::new(subscribe.clone())));
    let wanted = b"\x82\x0F\0\x0A\0\0\x03a/b\x01\0\x03c/d\x02";
    both(V5, wanted, &Packet::Subscribe(Box::new(subscribe.clone())));
    subscribe.subscription_id = Some(200);
    subscribe.filters[0].no_local = true;
    subscribe.filters[0].retain_as_published = true;
    subscribe.filters[0].retain_handling = RetainHandling::DoNotSend;
    subscribe.filters[1].retain_handling = RetainHandling::SendIfNew;
    let wanted = b"\x82\x12\0\x0A\x03\x0B\xC8\x01\0\x03a/b\x2D\0\x03c/d\x12";
    both(V5, wanted, &Packet::Subscribe(Box::new(subscribe)));
}

/// 3.1.1 §3.10.3.1, figure 3.30.
#[test]
fn unsubscribe() {
    let filters = vec!["a/b".to_owned(), "c/d".to_owned()];
    let unsubscribe = Packet::Unsubscribe(Box::new(Unsubscribe { packet_id: id(10), filters }));
    both(V311, b"\xA2\x0C\0\x0A\0\x03a/b\0\x03c/d", &unsubscribe);
    both(V5, b"\xA2\x0D\0\x0A\0\0\x03a/b\0\x03c/d", &unsubscribe);
}

#[test]
fn pings() {
    for version in [V311, V5] {
        both(version, b"\xC0\0", &Packet::Pingreq);
        sent(version, &Packet::Pingresp, b"\xD0\0");
    }
}

#[test]
fn disconnect() {
    let mut disconnect = Disconnect { reason: Reason::SUCCESS, session_expiry_s: None, reason_string: None };
    both(V311, b"\xE0\0", &Packet::Disconnect(Box::new(disconnect.clone())));
    both(V5, b"\xE0\0", &Packet::Disconnect(Box::new(disconnect.clone())));
    disconnect.reason = Reason::DISCONNECT_WITH_WILL;
    both(V5, b"\xE0\x01\x04", &Packet::Disconnect(Box::new(disconnect.clone())));
    disconnect.session_expiry_s = Some(9);
    disconnect.reason_string = Some("bye".into());
    both(V5, b"\xE0\x0D\x04\x0B\x11\0\0\0\x09\x1F\0\x03bye", &Packet::Disconnect(Box::new(disconnect.clone())));
    disconnect.reason = Reason::SESSION_TAKEN_OVER;
    sent(V5, &Packet::Disconnect(Box::new(disconnect)), b"\xE0\x0D\x8E\x0B\x11\0\0\0\x09\x1F\0\x03bye");
}

/// 3.1.1 §3.2.2.3, table 3.1.
#[test]
fn connack_has_return_codes_in_3_1_1() {
    for (reason, code) in [
        (0x00, 0),
        (0x84, 1),
        (0x85, 2),
        (0x88, 3),
        (0x89, 3),
        (0x97, 3),
        (0x9F, 3),
        (0x80, 3),
        (0x86, 4),
        (0x87, 5),
        (0x8A, 5),
        (0x8C, 5),
    ] {
        let connack =
            Connack { session_present: true, reason_string: Some("why".into()), ..Connack::refused(Reason(reason)) };
        let present = u8::from(code == 0); // MQTT-3.2.2-4
        sent(V311, &Packet::Connack(Box::new(connack)), &[0x20, 2, present, code]);
    }
}

#[test]
fn connack_5_0() {
    sent(V5, &Packet::Connack(Box::new(Connack::refused(Reason::SUCCESS))), b"\x20\x03\0\0\0");
    let refusal = Connack { session_present: true, ..Connack::refused(Reason::NOT_AUTHORIZED) };
    sent(V5, &Packet::Connack(Box::new(refusal)), b"\x20\x03\0\x87\0"); // MQTT-3.2.2-6
    let full = Connack {
        session_present: true,
        reason: Reason::SUCCESS,
        reason_string: Some("ok".into()),
        session_expiry_s: Some(60),
        receive_maximum: Some(20),
        maximum_packet_size: Some(65_536),
        assigned_client_id: Some("id".into()),
        topic_alias_maximum: Some(10),
        server_keep_alive_s: Some(30),
    };
    let properties = b"\x11\0\0\0\x3C\x21\0\x14\x27\0\x01\0\0\x12\0\x02id\x22\0\x0A\x1F\0\x02ok\x13\0\x1E";
    let body = [&[1, 0, properties.len() as u8], &properties[..]].concat();
    sent(V5, &Packet::Connack(Box::new(full)), &packet(0x20, &body));
}

/// 3.1.1 §3.9.3.1, figure 3.26; there every refusal is 0x80, and UNSUBACK says nothing.
#[test]
fn suback_and_unsuback() {
    let reasons = vec![Reason(0), Reason(2), Reason::TOPIC_FILTER_INVALID, Reason(1)];
    let answers = Answers { packet_id: id(10), reasons };
    sent(V311, &Packet::Suback(answers.clone()), b"\x90\x06\0\x0A\0\x02\x80\x01");
    sent(V5, &Packet::Suback(answers), b"\x90\x07\0\x0A\0\0\x02\x8F\x01");
    let reasons = vec![Reason::SUCCESS, Reason::NO_SUBSCRIPTION_EXISTED];
    let answers = Answers { packet_id: id(10), reasons };
    sent(V311, &Packet::Unsuback(answers.clone()), b"\xB0\x02\0\x0A");
    sent(V5, &Packet::Unsuback(answers), b"\xB0\x05\0\x0A\0\0\x11");
}

/// MQTT 5.0 §1.5.5, table 1-1: where the length grows by a byte.
#[test]
fn lengths_at_their_borders() {
    for (payload, header) in [
        (127 - 3, &[0x30, 0x7F][..]),
        (128 - 3, &[0x30, 0x80, 0x01]),
        (16_383 - 3, &[0x30, 0xFF, 0x7F]),
        (16_384 - 3, &[0x30, 0x80, 0x80, 0x01]),
        (2_097_151 - 3, &[0x30, 0xFF, 0xFF, 0x7F]),
        (2_097_152 - 3, &[0x30, 0x80, 0x80, 0x80, 0x01]),
    ] {
        let publish = Publish { topic: "a".into(), payload: vec![b'x'; payload].into(), ..Publish::default() };
        let publish = Packet::Publish(Box::new(publish));
        let bytes = encoded(&publish, V311);
        assert!(bytes.starts_with(header), "{:02x?}", &bytes[..5]);
        let mut decoder = connected_with(V311, 1 << 22);
        assert_eq!(decoder.next(&mut BytesMut::from(&bytes[..])), Ok(Some(publish)));
    }
}

#[test]
fn what_no_bytes_can_say_is_an_error_and_writes_nothing() {
    let long = "x".repeat(65_536);
    let mut to = BytesMut::from(&b"before"[..]);
    let answer = Packet::Puback(ack(Reason::QUOTA_EXCEEDED, Some(&long)));
    assert_eq!(encode(&answer, V5, &mut to), Err(EncodeError::FieldTooLong(65_536)));
    assert_eq!(encode(&answer, V311, &mut to), Ok(()), "3.1.1 leaves it out");
    to.truncate(6);
    let publish = Packet::Publish(Box::new(Publish { topic: long.into(), ..Publish::default() }));
    assert_eq!(encode(&publish, V311, &mut to), Err(EncodeError::FieldTooLong(65_536)));
    assert_eq!(encode(&Packet::Auth(Reason(0x18)), V311, &mut to), Err(EncodeError::NotInVersion("AUTH")));
    let payload = Bytes::from(vec![0; 268_435_455 - 2]);
    let publish = Packet::Publish(Box::new(Publish { topic: "a".into(), payload, ..Publish::default() }));
    assert_eq!(encoded_len(&publish, V311), Err(EncodeError::TooLong(268_435_456)));
    assert_eq!(&to[..], b"before");
}

/// The client is told the rule in both of the packets that can.
#[test]
fn a_refusal_says_why() {
    let error = decode(V5, b"\x32\x06\0\x01a\0\0\0").unwrap_err();
    assert_eq!(error.to_string(), format!("PUBLISH refused, reason 0x82: {}", error.what));
    let (answer, version) = error.answer_packet().unwrap();
    let words = error.what.clone().into_owned();
    let disconnect = Disconnect { reason: Reason::PROTOCOL_ERROR, session_expiry_s: None, reason_string: Some(words) };
    assert_eq!((answer, version), (Packet::Disconnect(Box::new(disconnect)), V5));
}

/// MQTT-3.1.2-24, MQTT-3.4.2-2: a reason string goes before a packet grows too large, and a message that is too large is not sent.
#[test]
fn a_client_gets_no_larger_packet_than_it_takes() {
    let up_to = |packet: &Packet, max| {
        let mut to = BytesMut::new();
        encode_up_to(&mut packet.clone(), V5, max, &mut to).map(|()| to.to_vec())
    };
    let refusal = Packet::Puback(ack(Reason::QUOTA_EXCEEDED, Some("full")));
    assert_eq!(up_to(&refusal, 13), Ok(encoded(&refusal, V5)));
    assert_eq!(up_to(&refusal, 12), Ok(vec![0x40, 3, 0x12, 0x34, 0x97]));
    assert_eq!(up_to(&refusal, 4), Err(EncodeError::TooLarge { size: 5, max: 4 }));
    let (disconnect, _) = decode(V5, b"\x32\x06\0\x01a\0\0\0").unwrap_err().answer_packet().unwrap();
    assert_eq!(up_to(&disconnect, 20), Ok(vec![0xE0, 1, 0x82]));
    let connack =
        Packet::Connack(Box::new(Connack { reason_string: Some("why".into()), ..Connack::refused(Reason(0x87)) }));
    assert_eq!(up_to(&connack, 5), Ok(vec![0x20, 3, 0, 0x87, 0]));
    let publish = Packet::Publish(Box::new(Publish { topic: "a".into(), ..Publish::default() }));
    assert_eq!(up_to(&publish, 6), Ok(vec![0x30, 4, 0, 1, b'a', 0]));
    assert_eq!(up_to(&publish, 5), Err(EncodeError::TooLarge { size: 6, max: 5 }));
}
