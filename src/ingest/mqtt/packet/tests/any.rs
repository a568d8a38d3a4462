//! Any valid packet, for property tests.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::*;

/// Strings as MQTT allows them: any Unicode but U+0000.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9/_-]{0,24}", "[^\u{0}]{0,12}", Just("x".repeat(300))]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9/_$-]{1,24}", "[^\u{0}+#]{1,12}", Just("y".repeat(300))]
}

fn filter() -> impl Strategy<Value = String> {
    prop_oneof![name(), Just("#".to_owned()), Just("a/+/c/#".to_owned()), Just("$share/group/a/#".to_owned())]
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![vec(any::<u8>(), 0..64), vec(any::<u8>(), 100..400)].prop_map(Bytes::from)
}

fn user() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((text(), text()), 0..3)
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<PacketId>()
}

fn properties(alias: bool) -> impl Strategy<Value = Option<Box<Properties>>> {
    let fields = (
        option::of(any::<bool>()),
        option::of(any::<u32>()),
        option::of(any::<NonZeroU16>()),
        option::of(name()),
        option::of(payload()),
        user(),
        option::of(text()),
    );
    fields.prop_map(
        move |(payload_is_utf8, message_expiry_s, topic_alias, topic, correlation_data, user, content_type)| {
            let properties = Properties {
                payload_is_utf8,
                message_expiry_s,
                topic_alias: topic_alias.filter(|_| alias),
                response_topic: topic.map(Into::into),
                correlation_data,
                user,
                subscription_ids: Vec::new(),
                content_type,
            };
            (properties != Properties::default()).then(|| Box::new(properties))
        },
    )
}

fn publish(version: Version) -> impl Strategy<Value = Packet> {
    let fields = (any::<bool>(), qos(), any::<bool>(), name(), packet_id(), properties(true), payload(), any::<bool>());
    fields.prop_map(move |(dup, qos, retain, topic, packet_id, properties, payload, leave_out)| {
        let properties = properties.filter(|_| version == Version::V5);
        let leave_out = leave_out && properties.as_ref().is_some_and(|p| p.topic_alias.is_some());
        Packet::Publish(Box::new(Publish {
            dup: dup && qos != QoS::AtMostOnce,
            qos,
            retain,
            topic: if leave_out { "".into() } else { topic.into() },
            packet_id: Some(packet_id).filter(|_| qos != QoS::AtMostOnce),
            properties,
            payload,
        }))
    })
}

fn will(version: Version) -> impl Strategy<Value = Will> {
    (qos(), any::<bool>(), name(), properties(false), payload(), any::<u32>()).prop_map(
        move |(qos, retain, topic, properties, payload, delay_s)| {
            let v5 = version == Version::V5;
            let message = Publish {
                dup: false,
                qos,
                retain,
                topic: topic.into(),
                packet_id: None,
                properties: properties.filter(|_| v5),
                payload,
            };
            Will { message, delay_s: if v5 { delay_s } else { 0 } }
        },
    )
}

fn connect(version: Version) -> impl Strategy<Value = Packet> {
    let v5 = version == Version::V5;
    let head =
        (any::<bool>(), any::<u16>(), text(), option::of(will(version)), option::of(text()), option::of(payload()));
    let properties = (
        option::of(any::<u32>()),
        any::<NonZeroU16>(),
        option::of(1..=u32::MAX),
        any::<u16>(),
        any::<bool>(),
        any::<bool>(),
        option::of(text()),
        user(),
    );
    (head, properties).prop_map(move |((clean_start, keep_alive_s, client_id, will, user_name, password), p)| {
        let mut connect = Connect {
            version,
            bridge: false,
            clean_start: clean_start || (!v5 && client_id.is_empty()),
            keep_alive_s,
            client_id,
            will,
            password: password.filter(|_| v5 || user_name.is_some()),
            user_name,
            session_expiry_s: p.0,
            receive_maximum: p.1,
            maximum_packet_size: p.2,
            topic_alias_maximum: p.3,
            request_response_information: p.4,
            request_problem_information: p.5,
            authentication_method: p.6,
            user_properties: p.7,
        };
        if !v5 {
            connect.session_expiry_s = (!connect.clean_start).then_some(u32::MAX);
            connect.receive_maximum = NonZeroU16::MAX;
            connect.maximum_packet_size = None;
            connect.topic_alias_maximum = 0;
            connect.request_response_information = false;
            connect.request_problem_information = true;
            connect.authentication_method = None;
            connect.user_properties = Vec::new();
        }
        Packet::Connect(Box::new(connect))
    })
}

fn ack(version: Version, codes: &'static [u8], make: fn(Ack) -> Packet) -> BoxedStrategy<Packet> {
    let v5 = version == Version::V5;
    (packet_id(), proptest::sample::select(codes), option::of(text()))
        .prop_map(move |(packet_id, code, text)| {
            let reason = if v5 { Reason(code) } else { Reason::SUCCESS };
            make(Ack { packet_id, reason, reason_string: text.filter(|_| v5) })
        })
        .boxed()
}

fn subscribe(version: Version) -> impl Strategy<Value = Packet> {
    let v5 = version == Version::V5;
    let handling =
        prop_oneof![Just(RetainHandling::Send), Just(RetainHandling::SendIfNew), Just(RetainHandling::DoNotSend)];
    let filter = (filter(), qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        move |(filter, qos, local, kept, handling)| FilterOptions {
            no_local: v5 && local && !filter.starts_with("$share/"),
            filter,
            qos,
            retain_as_published: v5 && kept,
            retain_handling: if v5 { handling } else { RetainHandling::Send },
        },
    );
    (packet_id(), option::of(1u32..=268_435_455), vec(filter, 1..5)).prop_map(move |(packet_id, id, filters)| {
        Packet::Subscribe(Box::new(Subscribe { packet_id, subscription_id: id.filter(|_| v5), filters }))
    })
}

fn disconnect(version: Version) -> impl Strategy<Value = Packet> {
    let codes: &[u8] = &[0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    let v5 = version == Version::V5;
    (proptest::sample::select(codes), option::of(any::<u32>()), option::of(text())).prop_map(
        move |(code, expiry, text)| {
            Packet::Disconnect(Box::new(Disconnect {
                reason: if v5 { Reason(code) } else { Reason::SUCCESS },
                session_expiry_s: expiry.filter(|_| v5),
                reason_string: text.filter(|_| v5),
            }))
        },
    )
}

const TAKEN: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const KNOWN: &[u8] = &[0x00, 0x92];

/// Whatever a client may send, but AUTH.
pub(super) fn client_packet(version: Version) -> impl Strategy<Value = Packet> {
    let unsubscribe = (packet_id(), vec(filter(), 1..5))
        .prop_map(|(packet_id, filters)| Packet::Unsubscribe(Box::new(Unsubscribe { packet_id, filters })));
    prop_oneof![
        connect(version),
        publish(version),
        ack(version, TAKEN, Packet::Puback),
        ack(version, TAKEN, Packet::Pubrec),
        ack(version, KNOWN, Packet::Pubrel),
        ack(version, KNOWN, Packet::Pubcomp),
        subscribe(version),
        unsubscribe,
        Just(Packet::Pingreq),
        disconnect(version),
    ]
}

/// Either version.
pub(super) fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V311), Just(Version::V5)]
}

/// Any answer of a server, with reasons that its packet has.
pub(super) fn server_packet(version: Version) -> impl Strategy<Value = Packet> {
    const CONNACK: &[u8] = &[0x80, 0x81, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9F];
    const SUBACK: &[u8] = &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E];
    const UNSUBACK: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
    const DISCONNECT: &[u8] =
        &[0x00, 0x81, 0x82, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x9F];
    let optional = (
        option::of(any::<u32>()),
        option::of(1..=u16::MAX),
        option::of(1..=u32::MAX),
        option::of(name()),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
        option::of(text()),
    );
    let connack =
        (any::<bool>(), option::of(proptest::sample::select(CONNACK)), optional).prop_map(|(session, code, o)| {
            Packet::Connack(Box::new(Connack {
                session_present: session,
                reason: Reason(code.unwrap_or(0)),
                session_expiry_s: o.0,
                receive_maximum: o.1,
                maximum_packet_size: o.2,
                assigned_client_id: o.3,
                topic_alias_maximum: o.4,
                server_keep_alive_s: o.5,
                reason_string: o.6,
            }))
        });
    let answers = |codes: &'static [u8], make: fn(Answers) -> Packet| {
        (packet_id(), vec(proptest::sample::select(codes), 1..5)).prop_map(move |(packet_id, codes)| {
            make(Answers { packet_id, reasons: codes.into_iter().map(Reason).collect() })
        })
    };
    let delivery = (publish(version), vec(1u32..=268_435_455, 0..3)).prop_map(move |(packet, ids)| match packet {
        Packet::Publish(mut publish) => {
            if version == Version::V5 && !ids.is_empty() {
                publish.properties.get_or_insert_default().subscription_ids = ids;
            }
            Packet::Publish(publish)
        }
        other => other,
    });
    let disconnect = (proptest::sample::select(DISCONNECT), option::of(text())).prop_map(|(code, reason_string)| {
        Packet::Disconnect(Box::new(Disconnect { reason: Reason(code), session_expiry_s: None, reason_string }))
    });
    prop_oneof![
        connack,
        answers(SUBACK, Packet::Suback),
        answers(UNSUBACK, Packet::Unsuback),
        delivery,
        disconnect,
        Just(Packet::Pingresp),
        ack(version, TAKEN, Packet::Puback),
        ack(version, TAKEN, Packet::Pubrec),
        ack(version, KNOWN, Packet::Pubrel),
        ack(version, KNOWN, Packet::Pubcomp),
    ]
}
