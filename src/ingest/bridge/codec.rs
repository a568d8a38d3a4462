//! MQTT packets as a client sends and gets them, for 3.1.1 and 5.0 alike. [pure]
//!
//! Only `rumqttc`'s packets are used, not its event loops. What those do, read in 0.25.1 (`state.rs`, `eventloop.rs`,
//! `v5/…`) and seen with mosquitto 2.0.11:
//! - They take one request at a time, each with a flush of its own, and up to nine packets in the same time. So acknowledgements
//!   fall behind without bound under load: 1,700 after a second, and all of these messages come again after a kill.
//! - They cannot stop reading and go on acknowledging and pinging.
//! - PUBREL for a packet id that this event loop has not seen is an error that ends the connection; after a reconnect the broker
//!   sends just that (MQTT 3.1.1 §4.4), and so a QoS 2 message caught between PUBREC and PUBREL ends every connection.
//! - A collision of outgoing packet ids ends in `CollisionTimeout` again and again.
//! - In 5.0, `flush` has no time limit and topic aliases are not resolved.
//!
//! With the packets alone: PUBREC is sent when the message is on disk, PUBREL is answered with PUBCOMP whatever it is for.

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::{self as v5_bytes, v5};
use rumqttc::{Packet as V4Packet, mqttbytes as v4_bytes, mqttbytes::v4};

use super::window::Handle;
use crate::config::edge::BridgeVersion;
use crate::ingest::mqtt::broker::record::Message;
use crate::ingest::mqtt::packet::{Properties, QoS};

/// Largest packet taken. In 5.0 the broker is told and drops what is larger (§3.1.2.11.4).
pub const PACKET_BYTES_MAX: u32 = 16 << 20;

/// What CONNECT says.
#[derive(Clone)]
pub struct Login {
    /// Client id.
    pub client_id: String,
    /// In seconds.
    pub keep_alive_s: u16,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// Most messages of QoS 1 and 2 without our acknowledgement (5.0).
    pub receive_max: u16,
}

/// A packet from the other broker.
#[derive(Debug)]
pub enum Incoming {
    /// CONNACK that lets us in.
    Connected {
        /// It has kept our session.
        session_present: bool,
        /// It wants another keep-alive, in seconds (5.0).
        keep_alive_s: Option<u16>,
    },
    /// CONNACK that does not: its reason, and what helps.
    Refused(String, &'static str),
    /// PUBLISH.
    Message(Box<Delivery>),
    /// SUBACK: of each filter in order the granted QoS, or why not.
    Subscribed(Vec<Result<u8, String>>),
    /// PUBREL: wants PUBCOMP.
    Released(u16),
    /// DISCONNECT (5.0), with its reason.
    Closed(String),
    /// PINGRESP, UNSUBACK.
    Other,
}

/// A message from the other broker.
#[derive(Debug)]
pub struct Delivery {
    /// `None`: QoS 0.
    pub handle: Option<Handle>,
    /// Sent before.
    pub dup: bool,
    /// The message.
    pub message: Message,
}

/// What is no packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Larger than [`PACKET_BYTES_MAX`].
    TooLarge(usize),
    /// Breaks the protocol, and how.
    Broken(String),
}

/// What helps against a refusal.
pub const CREDENTIALS: &str = "check bridge.user_name and bridge.password_file, and what that broker lets us do";
const CLIENT_ID: &str = "set another bridge.client_id";
const VERSION: &str = "set bridge.version to what that broker speaks";
const LATER: &str = "it is tried again";

/// Packet ids of ours. One SUBSCRIBE at most waits for its answer, and nothing waits for UNSUBACK.
const SUBSCRIBE_ID: u16 = 1;
const UNSUBSCRIBE_ID: u16 = 2;

/// Writes and reads packets of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec(pub BridgeVersion);

impl Codec {
    /// CONNECT to a session that stays.
    pub fn connect(self, login: Login, out: &mut BytesMut) -> Result<(), Bad> {
        let Login { client_id, keep_alive_s: keep_alive, credentials, receive_max } = login;
        match self.0 {
            BridgeVersion::V311 => {
                let mut connect = v4::Connect::new(client_id);
                (connect.keep_alive, connect.clean_session) = (keep_alive, false);
                connect.login = credentials.map(|(user, password)| v4::Login::new(user, password));
                write_v4(&V4Packet::Connect(connect), out)
            }
            BridgeVersion::V5 => {
                let properties = v5::ConnectProperties {
                    // Never (§3.1.2.11.2): what the other broker keeps for us may wait for weeks.
                    session_expiry_interval: Some(u32::MAX),
                    receive_maximum: Some(receive_max),
                    max_packet_size: Some(PACKET_BYTES_MAX),
                    ..v5::ConnectProperties::new()
                };
                let properties = Some(properties);
                let connect = v5::Connect { keep_alive, client_id, clean_start: false, properties };
                let login = credentials.map(|(user, password)| v5::Login::new(user, password));
                write_v5(&v5::Packet::Connect(connect, None, login), out)
            }
        }
    }

    /// PUBACK or PUBREC.
    pub fn ack(self, handle: Handle, out: &mut BytesMut) -> Result<(), Bad> {
        let id = handle.packet_id;
        match (self.0, handle.exactly_once) {
            (BridgeVersion::V311, false) => write_v4(&V4Packet::PubAck(v4::PubAck::new(id)), out),
            (BridgeVersion::V311, true) => write_v4(&V4Packet::PubRec(v4::PubRec::new(id)), out),
            (BridgeVersion::V5, false) => write_v5(&v5::Packet::PubAck(v5::PubAck::new(id, None)), out),
            (BridgeVersion::V5, true) => write_v5(&v5::Packet::PubRec(v5::PubRec::new(id, None)), out),
        }
    }

    /// PUBCOMP.
    pub fn complete(self, packet_id: u16, out: &mut BytesMut) -> Result<(), Bad> {
        match self.0 {
            BridgeVersion::V311 => write_v4(&V4Packet::PubComp(v4::PubComp::new(packet_id)), out),
            BridgeVersion::V5 => write_v5(&v5::Packet::PubComp(v5::PubComp::new(packet_id, None)), out),
        }
    }

    /// One SUBSCRIBE. In 5.0 retained messages are only asked for where the subscription is new.
    pub fn subscribe(self, filters: &[String], exactly_once: bool, out: &mut BytesMut) -> Result<(), Bad> {
        match self.0 {
            BridgeVersion::V311 => {
                let qos = if exactly_once { v4_bytes::QoS::ExactlyOnce } else { v4_bytes::QoS::AtLeastOnce };
                let filters = filters.iter().map(|path| v4::SubscribeFilter::new(path.clone(), qos)).collect();
                write_v4(&V4Packet::Subscribe(v4::Subscribe { pkid: SUBSCRIBE_ID, filters }), out)
            }
            BridgeVersion::V5 => {
                let qos = if exactly_once { v5_bytes::QoS::ExactlyOnce } else { v5_bytes::QoS::AtLeastOnce };
                let filter = |path: &String| v5::Filter {
                    retain_forward_rule: v5::RetainForwardRule::OnNewSubscribe,
                    ..v5::Filter::new(path.clone(), qos)
                };
                let filters = filters.iter().map(filter).collect();
                write_v5(&v5::Packet::Subscribe(v5::Subscribe { pkid: SUBSCRIBE_ID, filters, properties: None }), out)
            }
        }
    }

    /// One UNSUBSCRIBE.
    pub fn unsubscribe(self, filters: Vec<String>, out: &mut BytesMut) -> Result<(), Bad> {
        let pkid = UNSUBSCRIBE_ID;
        match self.0 {
            BridgeVersion::V311 => write_v4(&V4Packet::Unsubscribe(v4::Unsubscribe { pkid, topics: filters }), out),
            BridgeVersion::V5 => {
                write_v5(&v5::Packet::Unsubscribe(v5::Unsubscribe { pkid, filters, properties: None }), out)
            }
        }
    }

    /// PINGREQ.
    pub fn ping(self, out: &mut BytesMut) -> Result<(), Bad> {
        match self.0 {
            BridgeVersion::V311 => write_v4(&V4Packet::PingReq, out),
            BridgeVersion::V5 => write_v5(&v5::Packet::PingReq(v5::PingReq), out),
        }
    }

    /// DISCONNECT; the session stays.
    pub fn disconnect(self, out: &mut BytesMut) -> Result<(), Bad> {
        match self.0 {
            BridgeVersion::V311 => write_v4(&V4Packet::Disconnect, out),
            BridgeVersion::V5 => {
                let normal = v5::DisconnectReasonCode::NormalDisconnection;
                write_v5(&v5::Packet::Disconnect(v5::Disconnect::new(normal)), out)
            }
        }
    }

    /// Takes the next packet out of `input`; `None`: it is not all there.
    pub fn read(self, input: &mut BytesMut) -> Result<Option<Incoming>, Bad> {
        match self.0 {
            BridgeVersion::V311 => match V4Packet::read(input, PACKET_BYTES_MAX as usize) {
                Ok(packet) => of_v4(packet).map(Some),
                Err(v4_bytes::Error::InsufficientBytes(_)) => Ok(None),
                Err(v4_bytes::Error::PayloadSizeLimitExceeded(bytes)) => Err(Bad::TooLarge(bytes)),
                Err(e) => Err(Bad::Broken(e.to_string())),
            },
            BridgeVersion::V5 => match v5::Packet::read(input, Some(PACKET_BYTES_MAX)) {
                Ok(packet) => of_v5(packet).map(Some),
                Err(v5_bytes::Error::InsufficientBytes(_)) => Ok(None),
                Err(v5_bytes::Error::PayloadSizeLimitExceeded { pkt_size, .. }) => Err(Bad::TooLarge(pkt_size)),
                Err(e) => Err(Bad::Broken(e.to_string())),
            },
        }
    }
}

fn write_v4(packet: &V4Packet, out: &mut BytesMut) -> Result<(), Bad> {
    packet.write(out, usize::MAX).map(|_| ()).map_err(|e| Bad::Broken(e.to_string()))
}

fn write_v5(packet: &v5::Packet, out: &mut BytesMut) -> Result<(), Bad> {
    packet.write(out, None).map(|_| ()).map_err(|e| Bad::Broken(e.to_string()))
}

fn handle(packet_id: u16, qos: u8) -> Option<Handle> {
    (qos > 0).then_some(Handle { packet_id, exactly_once: qos == 2 })
}

fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn of_v4(packet: V4Packet) -> Result<Incoming, Bad> {
    use v4::ConnectReturnCode as Code;
    Ok(match packet {
        V4Packet::ConnAck(connack) => match connack.code {
            Code::Success => Incoming::Connected { session_present: connack.session_present, keep_alive_s: None },
            code => {
                let way_out = match code {
                    Code::BadUserNamePassword | Code::NotAuthorized => CREDENTIALS,
                    Code::BadClientId => CLIENT_ID,
                    Code::RefusedProtocolVersion => VERSION,
                    Code::ServiceUnavailable | Code::Success => LATER,
                };
                Incoming::Refused(format!("{code:?}"), way_out)
            }
        },
        V4Packet::Publish(publish) => Incoming::Message(Box::new(Delivery {
            handle: handle(publish.pkid, publish.qos as u8),
            dup: publish.dup,
            message: Message {
                topic: publish.topic.into(),
                qos: qos(publish.qos as u8),
                retain: publish.retain,
                payload: publish.payload,
                properties: None,
                expires_at: None,
            },
        })),
        V4Packet::SubAck(suback) => Incoming::Subscribed(
            suback
                .return_codes
                .iter()
                .map(|code| match code {
                    v4::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    v4::SubscribeReasonCode::Failure => Err("without a reason (3.1.1 has none)".to_owned()),
                })
                .collect(),
        ),
        V4Packet::PubRel(pubrel) => Incoming::Released(pubrel.pkid),
        V4Packet::PingResp | V4Packet::UnsubAck(_) => Incoming::Other,
        other => return Err(Bad::Broken(format!("a packet that no client gets: {other:?}"))),
    })
}

fn of_v5(packet: v5::Packet) -> Result<Incoming, Bad> {
    Ok(match packet {
        v5::Packet::ConnAck(connack) => connack_v5(connack),
        v5::Packet::Publish(publish) => Incoming::Message(Box::new(delivery_v5(publish)?)),
        v5::Packet::SubAck(suback) => Incoming::Subscribed(
            suback
                .return_codes
                .iter()
                .map(|code| match code {
                    v5::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    refused => Err(format!("{refused:?}")),
                })
                .collect(),
        ),
        v5::Packet::PubRel(pubrel) => Incoming::Released(pubrel.pkid),
        v5::Packet::Disconnect(disconnect) => {
            let words = disconnect.properties.and_then(|p| p.reason_string);
            let words = words.map_or(String::new(), |words| format!(" ({words})"));
            Incoming::Closed(format!("it says {:?}{words}", disconnect.reason_code))
        }
        v5::Packet::PingResp(_) | v5::Packet::UnsubAck(_) => Incoming::Other,
        other => return Err(Bad::Broken(format!("a packet that no client gets: {other:?}"))),
    })
}

fn connack_v5(connack: v5::ConnAck) -> Incoming {
    use v5::ConnectReturnCode as Code;
    if connack.code == Code::Success {
        let keep_alive_s = connack.properties.and_then(|p| p.server_keep_alive);
        return Incoming::Connected { session_present: connack.session_present, keep_alive_s };
    }
    let way_out = match connack.code {
        Code::BadUserNamePassword | Code::NotAuthorized | Code::Banned | Code::BadAuthenticationMethod => CREDENTIALS,
        Code::BadClientId | Code::ClientIdentifierNotValid => CLIENT_ID,
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => VERSION,
        _ => LATER,
    };
    let words = connack.properties.and_then(|p| p.reason_string).map_or(String::new(), |words| format!(" ({words})"));
    Incoming::Refused(format!("{:?}{words}", connack.code), way_out)
}

fn delivery_v5(publish: v5::Publish) -> Result<Delivery, Bad> {
    let topic = std::str::from_utf8(&publish.topic).map_err(|_| Bad::Broken("a topic that is not UTF-8".to_owned()))?;
    if topic.is_empty() {
        // Only with an alias, and none was offered (§3.1.2.11.5).
        return Err(Bad::Broken("a message without a topic".to_owned()));
    }
    Ok(Delivery {
        handle: handle(publish.pkid, publish.qos as u8),
        dup: publish.dup,
        message: Message {
            topic: topic.into(),
            qos: qos(publish.qos as u8),
            retain: publish.retain,
            payload: publish.payload,
            properties: publish.properties.map(|p| Box::new(properties(p))),
            expires_at: None,
        },
    })
}

fn properties(given: v5::PublishProperties) -> Properties {
    Properties {
        payload_is_utf8: given.payload_format_indicator.map(|indicator| indicator == 1),
        message_expiry_s: given.message_expiry_interval,
        topic_alias: None,
        response_topic: given.response_topic.map(Into::into),
        correlation_data: given.correlation_data,
        user: given.user_properties,
        subscription_ids: Vec::new(),
        content_type: given.content_type,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: [Codec; 2] = [Codec(BridgeVersion::V311), Codec(BridgeVersion::V5)];

    #[test]
    fn a_message_is_read_when_all_of_it_is_there() {
        // MQTT 3.1.1 §3.3: QoS 1, DUP, topic "a/b", packet id 10, payload "x".
        let bytes: &[u8] = b"\x3a\x08\x00\x03a/b\x00\x0ax";
        for end in 0..bytes.len() {
            assert!(BOTH[0].read(&mut BytesMut::from(&bytes[..end])).unwrap().is_none(), "{end}");
        }
        let Some(Incoming::Message(got)) = BOTH[0].read(&mut BytesMut::from(bytes)).unwrap() else { panic!() };
        assert_eq!((got.handle, got.dup), (Some(Handle { packet_id: 10, exactly_once: false }), true));
        assert_eq!((&*got.message.topic, &got.message.payload[..]), ("a/b", &b"x"[..]));
    }

    #[test]
    fn a_refusal_says_what_helps() {
        let Some(Incoming::Refused(why, way_out)) =
            BOTH[0].read(&mut BytesMut::from(&b"\x20\x02\x00\x05"[..])).unwrap()
        else {
            panic!()
        };
        assert_eq!((why.as_str(), way_out), ("NotAuthorized", CREDENTIALS));
        let Some(Incoming::Refused(why, way_out)) =
            BOTH[1].read(&mut BytesMut::from(&b"\x20\x03\x00\x86\x00"[..])).unwrap()
        else {
            panic!()
        };
        assert_eq!((why.as_str(), way_out), ("BadUserNamePassword", CREDENTIALS));
    }

    #[test]
    fn what_is_too_large_is_known_by_its_head() {
        // Remaining length 268,435,455.
        for codec in BOTH {
            let e = codec.read(&mut BytesMut::from(&b"\x30\xff\xff\xff\x7f"[..])).unwrap_err();
            assert_eq!(e, Bad::TooLarge(268_435_455));
        }
    }

    #[test]
    fn connect_is_as_the_standard_draws_it() {
        let login = |credentials| Login { client_id: "c".into(), keep_alive_s: 30, credentials, receive_max: 7 };
        let mut out = BytesMut::new();
        BOTH[0].connect(login(Some(("u".into(), "p".into()))), &mut out).unwrap();
        assert_eq!(&out[..], b"\x10\x13\x00\x04MQTT\x04\xc0\x00\x1e\x00\x01c\x00\x01u\x00\x01p");
        out.clear();
        BOTH[1].connect(login(None), &mut out).unwrap();
        let properties = b"\x11\xff\xff\xff\xff\x21\x00\x07\x27\x01\x00\x00\x00";
        assert_eq!(&out[..], [b"\x10\x1b\x00\x04MQTT\x05\x00\x00\x1e\x0d", &properties[..], b"\x00\x01c"].concat());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// The packets are a dependency's: whatever comes, they must not panic nor loop.
        #[test]
        fn noise_never_panics(first in any::<u8>(), noise in prop::collection::vec(any::<u8>(), 0..80)) {
            for codec in BOTH {
                let mut whole = vec![first, u8::try_from(noise.len()).unwrap()];
                whole.extend(&noise);
                for bytes in [&whole[..], &noise[..]] {
                    let mut input = BytesMut::from(bytes);
                    for _ in 0..=bytes.len() {
                        if !matches!(codec.read(&mut input), Ok(Some(_))) { break }
                    }
                }
            }
        }
    }
}
