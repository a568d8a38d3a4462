//! `rumqttc` for 3.1.1 and 5.0 as one client: what arrives, acknowledgements, subscriptions.
//!
//! What `rumqttc` 0.25.1 does, read in its source (`state.rs`, `eventloop.rs`, `v5/…`) and seen with mosquitto 2.0.11:
//! - With manual acknowledgements it sends neither PUBACK nor PUBREC by itself; `ack` sends the one or the other by the
//!   message's QoS. PUBREL it answers at once with PUBCOMP.
//! - PUBREL for a packet id that this event loop has not seen is an error ("unsolicited") that ends the connection. After
//!   a reconnect the broker sends PUBREL for what was acknowledged before (MQTT 3.1.1 §4.4), so a QoS 2 message that is
//!   caught between PUBREC and PUBREL would end every further connection in the same way. [`accept_releases`] prevents that.
//! - After an error it keeps requests for the next connection, PUBREC among them, and a collision of outgoing packet ids
//!   ends in `CollisionTimeout` again and again. Therefore an event loop serves one connection here and is thrown away.
//! - Packets of more than 10 KiB are an error unless a limit is set.
//! - `poll` must not be cancelled: an acknowledgement that it took from its channel would be lost with it.
//! - In 5.0, `flush` has no time limit, and a topic alias is not resolved in the event it gives out: none is offered.

use rumqttc::v5::mqttbytes::v5 as v5_packet;
use rumqttc::{Packet as V4Packet, v5};

use super::error::{self, BridgeError};
use super::window::Handle;
use crate::ingest::mqtt::broker::record::Message;
use crate::ingest::mqtt::packet::{Properties, QoS};

/// Largest packet taken. In 5.0 the broker is told and drops what is larger (§3.1.2.11.4).
pub const PACKET_BYTES_MAX: u32 = 16 << 20;

/// Requests (acknowledgements) that wait for the event loop. When it is full, the rest waits in the window.
const REQUESTS_MAX: usize = 1024;

/// What is ready to connect.
pub enum Options {
    /// 3.1.1
    V4(rumqttc::MqttOptions, rumqttc::NetworkOptions),
    /// 5.0
    V5(v5::MqttOptions),
}

/// One connection, yet to be made by the first [`Events::next`].
pub fn connect(options: Options, url: &str) -> (Sender, Events) {
    let url = url.to_owned();
    match options {
        Options::V4(options, network) => {
            let (client, mut events) = rumqttc::AsyncClient::new(options, REQUESTS_MAX);
            events.set_network_options(network);
            accept_releases(|packet_id| {
                let mut publish = rumqttc::Publish::new("", rumqttc::QoS::ExactlyOnce, Vec::new());
                publish.pkid = packet_id;
                let _ = events.state.handle_incoming_packet(V4Packet::Publish(publish));
                events.state.events.clear();
            });
            (Sender::V4(client), Events { source: Source::V4(Box::new(events)), url, connected: false })
        }
        Options::V5(options) => {
            let (client, mut events) = v5::AsyncClient::new(options, REQUESTS_MAX);
            accept_releases(|packet_id| {
                let mut publish = v5_packet::Publish::new("", v5::mqttbytes::QoS::ExactlyOnce, Vec::new(), None);
                publish.pkid = packet_id;
                let _ = events.state.handle_incoming_packet(v5_packet::Packet::Publish(publish));
                events.state.events.clear();
            });
            (Sender::V5(client), Events { source: Source::V5(Box::new(events)), url, connected: false })
        }
    }
}

/// Makes the event loop believe that it has seen every packet id, so that it answers every PUBREL with PUBCOMP.
/// It keeps a bit for each.
fn accept_releases(mut seen: impl FnMut(u16)) {
    (1..=u16::MAX).for_each(&mut seen);
}

/// What a bridge has to do with.
#[derive(Debug)]
pub enum Incoming {
    /// CONNACK.
    Connected {
        /// The other broker has kept our session.
        session_present: bool,
    },
    /// PUBLISH.
    Message(Box<Delivery>),
    /// SUBACK: of each filter in order the granted QoS, or why not.
    Subscribed(Vec<Result<u8, String>>),
    /// PUBREL.
    Released(u16),
    /// Our DISCONNECT has left.
    Disconnected,
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

/// Gives requests to the event loop. Cheap to clone.
#[derive(Clone)]
pub enum Sender {
    /// 3.1.1
    V4(rumqttc::AsyncClient),
    /// 5.0
    V5(v5::AsyncClient),
}

/// A request did not fit; it may later.
#[derive(Debug)]
pub struct NoRoom;

impl Sender {
    /// Acknowledges a message.
    pub fn ack(&self, handle: Handle) -> Result<(), NoRoom> {
        match self {
            Self::V4(client) => {
                let qos = if handle.exactly_once { rumqttc::QoS::ExactlyOnce } else { rumqttc::QoS::AtLeastOnce };
                let mut publish = rumqttc::Publish::new("", qos, Vec::new());
                publish.pkid = handle.packet_id;
                client.try_ack(&publish).map_err(|_| NoRoom)
            }
            Self::V5(client) => {
                use v5::mqttbytes::QoS;
                let qos = if handle.exactly_once { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
                let mut publish = v5_packet::Publish::new("", qos, Vec::new(), None);
                publish.pkid = handle.packet_id;
                client.try_ack(&publish).map_err(|_| NoRoom)
            }
        }
    }

    /// Subscribes to all of `filters` at once. In 5.0 retained messages are only sent for subscriptions that are new.
    pub fn subscribe(&self, filters: &[String], exactly_once: bool) -> Result<(), NoRoom> {
        match self {
            Self::V4(client) => {
                let qos = if exactly_once { rumqttc::QoS::ExactlyOnce } else { rumqttc::QoS::AtLeastOnce };
                let filter = |path: &String| rumqttc::SubscribeFilter::new(path.clone(), qos);
                client.try_subscribe_many(filters.iter().map(filter)).map_err(|_| NoRoom)
            }
            Self::V5(client) => {
                use v5::mqttbytes::QoS;
                let qos = if exactly_once { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
                let filter = |path: &String| v5_packet::Filter {
                    retain_forward_rule: v5_packet::RetainForwardRule::OnNewSubscribe,
                    ..v5_packet::Filter::new(path.clone(), qos)
                };
                client.try_subscribe_many(filters.iter().map(filter)).map_err(|_| NoRoom)
            }
        }
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, filter: &str) -> Result<(), NoRoom> {
        match self {
            Self::V4(client) => client.try_unsubscribe(filter).map_err(|_| NoRoom),
            Self::V5(client) => client.try_unsubscribe(filter).map_err(|_| NoRoom),
        }
    }

    /// Says good-bye; the session stays.
    pub fn disconnect(&self) -> Result<(), NoRoom> {
        match self {
            Self::V4(client) => client.try_disconnect().map_err(|_| NoRoom),
            Self::V5(client) => client.try_disconnect().map_err(|_| NoRoom),
        }
    }
}

enum Source {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// What comes from the other broker.
pub struct Events {
    source: Source,
    url: String,
    connected: bool,
}

/// Something happened: a packet for the bridge, or one that only shows that the connection lives.
pub type Heard = Option<Incoming>;

impl Events {
    /// Connects, then waits for what happens next: at least once in each keep-alive. Must not be cancelled while the
    /// connection is to be used further. After an error there is nothing more.
    pub async fn next(&mut self) -> Result<Heard, BridgeError> {
        let heard = match &mut self.source {
            Source::V4(events) => match events.poll().await {
                Ok(event) => of_v4(event),
                Err(e) => return Err(error_of_v4(e, &self.url, self.connected)),
            },
            Source::V5(events) => match events.poll().await {
                Ok(event) => of_v5(event),
                Err(e) => return Err(error_of_v5(e, &self.url, self.connected)),
            },
        };
        self.connected |= matches!(heard, Some(Incoming::Connected { .. }));
        Ok(heard)
    }
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

fn of_v4(event: rumqttc::Event) -> Heard {
    let packet = match event {
        rumqttc::Event::Incoming(packet) => packet,
        rumqttc::Event::Outgoing(rumqttc::Outgoing::Disconnect) => return Some(Incoming::Disconnected),
        rumqttc::Event::Outgoing(_) => return None,
    };
    Some(match packet {
        V4Packet::ConnAck(connack) => Incoming::Connected { session_present: connack.session_present },
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
        V4Packet::SubAck(suback) => Incoming::Subscribed(suback.return_codes.iter().map(granted_v4).collect()),
        V4Packet::PubRel(pubrel) => Incoming::Released(pubrel.pkid),
        _ => return None,
    })
}

fn granted_v4(code: &rumqttc::SubscribeReasonCode) -> Result<u8, String> {
    match code {
        rumqttc::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
        rumqttc::SubscribeReasonCode::Failure => Err("it gives no reason (MQTT 3.1.1 has none)".to_owned()),
    }
}

fn of_v5(event: v5::Event) -> Heard {
    let packet = match event {
        v5::Event::Incoming(packet) => packet,
        v5::Event::Outgoing(rumqttc::Outgoing::Disconnect) => return Some(Incoming::Disconnected),
        v5::Event::Outgoing(_) => return None,
    };
    Some(match packet {
        v5_packet::Packet::ConnAck(connack) => Incoming::Connected { session_present: connack.session_present },
        v5_packet::Packet::Publish(publish) => Incoming::Message(Box::new(Delivery {
            handle: handle(publish.pkid, publish.qos as u8),
            dup: publish.dup,
            message: Message {
                // What is not UTF-8 breaks the protocol (§1.5.4); it is kept as well as can be.
                topic: String::from_utf8_lossy(&publish.topic).into(),
                qos: qos(publish.qos as u8),
                retain: publish.retain,
                payload: publish.payload,
                properties: publish.properties.map(|p| Box::new(properties(p))),
                expires_at: None,
            },
        })),
        v5_packet::Packet::SubAck(suback) => Incoming::Subscribed(
            suback
                .return_codes
                .iter()
                .map(|code| match code {
                    v5_packet::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    refused => Err(format!("{refused:?}")),
                })
                .collect(),
        ),
        v5_packet::Packet::PubRel(pubrel) => Incoming::Released(pubrel.pkid),
        _ => return None,
    })
}

fn properties(given: v5_packet::PublishProperties) -> Properties {
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

fn error_of_v4(e: rumqttc::ConnectionError, url: &str, connected: bool) -> BridgeError {
    use rumqttc::{ConnectReturnCode as Code, ConnectionError as E, StateError, mqttbytes::Error};
    match e {
        E::ConnectionRefused(code) => {
            let way_out = match code {
                Code::BadUserNamePassword | Code::NotAuthorized => error::CREDENTIALS,
                Code::BadClientId => error::CLIENT_ID,
                Code::RefusedProtocolVersion => error::VERSION,
                Code::ServiceUnavailable | Code::Success => error::LATER,
            };
            refused(url, &format!("{code:?}"), way_out)
        }
        E::MqttState(StateError::Deserialization(Error::PayloadSizeLimitExceeded(bytes))) => too_large(url, bytes),
        E::Tls(reason) => handshake(url, &reason),
        E::NetworkTimeout => broken(url, connected, "no answer in time".to_owned()),
        E::Io(reason) => of_io(url, connected, &reason),
        other => broken(url, connected, other.to_string()),
    }
}

fn error_of_v5(e: v5::ConnectionError, url: &str, connected: bool) -> BridgeError {
    use v5::mqttbytes::Error;
    use v5::{ConnectionError as E, StateError};
    use v5_packet::ConnectReturnCode as Code;
    match e {
        E::ConnectionRefused(code) | E::MqttState(StateError::ConnFail { reason: code }) => {
            let way_out = match code {
                Code::BadUserNamePassword | Code::NotAuthorized | Code::Banned | Code::BadAuthenticationMethod => {
                    error::CREDENTIALS
                }
                Code::BadClientId | Code::ClientIdentifierNotValid => error::CLIENT_ID,
                Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => error::VERSION,
                _ => error::LATER,
            };
            refused(url, &format!("{code:?}"), way_out)
        }
        E::MqttState(StateError::Deserialization(Error::PayloadSizeLimitExceeded { pkt_size, .. })) => {
            too_large(url, pkt_size)
        }
        E::MqttState(StateError::IncomingPacketTooLarge { pkt_size, .. }) => too_large(url, pkt_size),
        E::Tls(reason) => handshake(url, &reason),
        E::Timeout(_) => broken(url, connected, "no answer in time".to_owned()),
        E::Io(reason) => of_io(url, connected, &reason),
        other => broken(url, connected, other.to_string()),
    }
}

/// TLS that fails after the TCP connection shows as an I/O error that holds rustls's.
fn of_io(url: &str, connected: bool, reason: &std::io::Error) -> BridgeError {
    let tls = reason.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    if tls && !connected { handshake(url, &reason) } else { broken(url, connected, reason.to_string()) }
}

fn refused(url: &str, reason: &str, way_out: &'static str) -> BridgeError {
    BridgeError::Refused { url: url.to_owned(), reason: reason.to_owned(), way_out }
}

fn too_large(url: &str, bytes: usize) -> BridgeError {
    BridgeError::TooLarge { url: url.to_owned(), bytes, max: PACKET_BYTES_MAX as usize }
}

fn handshake(url: &str, reason: &impl ToString) -> BridgeError {
    BridgeError::Handshake { url: url.to_owned(), reason: reason.to_string() }
}

fn broken(url: &str, connected: bool, reason: String) -> BridgeError {
    let url = url.to_owned();
    if connected { BridgeError::Lost { url, reason } } else { BridgeError::Unreachable { url, reason } }
}
