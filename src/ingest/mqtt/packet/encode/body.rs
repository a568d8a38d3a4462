//! What follows the fixed header, packet by packet. Run twice: once to count, once to write. [pure]

use mqtt_protocol_core::mqtt::packet::PropertyId;

use super::super::{
    Ack, Answers, Connack, Connect, Disconnect, FilterOptions, Packet, Properties, Publish, Reason, RetainHandling,
    Version, Will,
};
use super::{Count, Sink, return_code};

pub(super) fn body<S: Sink>(packet: &Packet, version: Version, to: &mut S) {
    let v5 = version == Version::V5;
    match packet {
        Packet::Connect(connect) => self::connect(connect, version, to),
        Packet::Connack(connack) => self::connack(connack, v5, to),
        Packet::Publish(publish) => self::publish(publish, v5, to),
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            self::ack(ack, v5, to)
        }
        Packet::Subscribe(subscribe) => {
            to.u16(subscribe.packet_id.get());
            if v5 {
                block(to, &|to| {
                    if let Some(number) = subscribe.subscription_id {
                        to.u8(PropertyId::SubscriptionIdentifier.as_u8());
                        to.variable(number as usize);
                    }
                });
            }
            for filter in &subscribe.filters {
                to.field(filter.filter.as_bytes());
                to.u8(if v5 { options(filter) } else { filter.qos.bits() });
            }
        }
        Packet::Suback(answers) => self::suback(answers, v5, to),
        Packet::Unsubscribe(unsubscribe) => {
            to.u16(unsubscribe.packet_id.get());
            if v5 {
                to.u8(0); // no properties
            }
            for filter in &unsubscribe.filters {
                to.field(filter.as_bytes());
            }
        }
        Packet::Unsuback(answers) => {
            to.u16(answers.packet_id.get());
            if v5 {
                to.u8(0); // no properties
                answers.reasons.iter().for_each(|reason| to.u8(reason.0));
            }
        }
        Packet::Disconnect(disconnect) if v5 => self::disconnect(disconnect, to),
        Packet::Auth(Reason::SUCCESS) => {}
        Packet::Auth(reason) => to.bytes(&[reason.0, 0]),
        Packet::Disconnect(_) | Packet::Pingreq | Packet::Pingresp => {}
    }
}

/// A property block with its length in front (MQTT 5.0 §2.2.2.1).
fn block<S: Sink>(to: &mut S, properties: &dyn Fn(&mut dyn Sink)) {
    let mut count = Count::default();
    properties(&mut count);
    to.variable(count.bytes);
    properties(to);
}

fn connack<S: Sink>(connack: &Connack, v5: bool, to: &mut S) {
    // No session with a refusal (MQTT-3.2.2-6; 3.1.1 MQTT-3.2.2-4).
    to.u8(u8::from(connack.session_present && connack.reason == Reason::SUCCESS));
    to.u8(if v5 { connack.reason.0 } else { return_code(connack.reason) });
    if !v5 {
        return;
    }
    block(to, &|to| {
        optional_u32(to, PropertyId::SessionExpiryInterval, connack.session_expiry_s);
        optional_u16(to, PropertyId::ReceiveMaximum, connack.receive_maximum);
        optional_u32(to, PropertyId::MaximumPacketSize, connack.maximum_packet_size);
        optional_field(to, PropertyId::AssignedClientIdentifier, connack.assigned_client_id.as_deref());
        optional_u16(to, PropertyId::TopicAliasMaximum, connack.topic_alias_maximum);
        optional_field(to, PropertyId::ReasonString, connack.reason_string.as_deref());
        optional_u16(to, PropertyId::ServerKeepAlive, connack.server_keep_alive_s);
    });
}

fn publish<S: Sink>(publish: &Publish, v5: bool, to: &mut S) {
    to.field(publish.topic.as_bytes());
    if let Some(packet_id) = publish.packet_id {
        to.u16(packet_id.get());
    }
    match &publish.properties {
        Some(properties) if v5 => block(to, &|to| message_properties(properties, to)),
        None if v5 => to.u8(0),
        _ => {}
    }
    to.bytes(&publish.payload);
}

fn message_properties(properties: &Properties, to: &mut dyn Sink) {
    if let Some(utf8) = properties.payload_is_utf8 {
        to.bytes(&[PropertyId::PayloadFormatIndicator.as_u8(), u8::from(utf8)]);
    }
    optional_u32(to, PropertyId::MessageExpiryInterval, properties.message_expiry_s);
    optional_u16(to, PropertyId::TopicAlias, properties.topic_alias.map(Into::into));
    optional_field(to, PropertyId::ResponseTopic, properties.response_topic.as_deref());
    optional_field(to, PropertyId::CorrelationData, properties.correlation_data.as_deref());
    user_properties(to, &properties.user);
    for number in &properties.subscription_ids {
        to.u8(PropertyId::SubscriptionIdentifier.as_u8());
        to.variable(*number as usize);
    }
    optional_field(to, PropertyId::ContentType, properties.content_type.as_deref());
}

/// The short forms, down to the packet identifier alone, are MQTT 5.0 §3.4.2.1 and §3.4.2.2.1.
fn ack<S: Sink>(ack: &Ack, v5: bool, to: &mut S) {
    to.u16(ack.packet_id.get());
    if !v5 || (ack.reason == Reason::SUCCESS && ack.reason_string.is_none()) {
        return;
    }
    to.u8(ack.reason.0);
    if ack.reason_string.is_some() {
        block(to, &|to| optional_field(to, PropertyId::ReasonString, ack.reason_string.as_deref()));
    }
}

fn suback<S: Sink>(answers: &Answers, v5: bool, to: &mut S) {
    to.u16(answers.packet_id.get());
    if v5 {
        to.u8(0); // no properties
    }
    for reason in &answers.reasons {
        to.u8(if !v5 && reason.is_error() { 0x80 } else { reason.0 });
    }
}

fn disconnect<S: Sink>(disconnect: &Disconnect, to: &mut S) {
    let properties = disconnect.session_expiry_s.is_some() || disconnect.reason_string.is_some();
    if disconnect.reason == Reason::SUCCESS && !properties {
        return;
    }
    to.u8(disconnect.reason.0);
    if properties {
        block(to, &|to| {
            optional_u32(to, PropertyId::SessionExpiryInterval, disconnect.session_expiry_s);
            optional_field(to, PropertyId::ReasonString, disconnect.reason_string.as_deref());
        });
    }
}

fn connect<S: Sink>(connect: &Connect, version: Version, to: &mut S) {
    let v5 = version == Version::V5;
    to.field(b"MQTT");
    to.u8(match version {
        Version::V5 => 5,
        Version::V311 if connect.bridge => 0x84,
        Version::V311 => 4,
    });
    let will_flags =
        connect.will.as_ref().map_or(0, |w| 0x04 | w.message.qos.bits() << 3 | u8::from(w.message.retain) << 5);
    to.u8(will_flags
        | u8::from(connect.clean_start) << 1
        | u8::from(connect.password.is_some()) << 6
        | u8::from(connect.user_name.is_some()) << 7);
    to.u16(connect.keep_alive_s);
    if v5 {
        block(to, &|to| connect_properties(connect, to));
    }
    to.field(connect.client_id.as_bytes());
    if let Some(Will { message, delay_s }) = &connect.will {
        if v5 {
            block(to, &|to| {
                optional_u32(to, PropertyId::WillDelayInterval, (*delay_s > 0).then_some(*delay_s));
                if let Some(properties) = &message.properties {
                    message_properties(properties, to);
                }
            });
        }
        to.field(message.topic.as_bytes());
        to.field(&message.payload);
    }
    if let Some(name) = &connect.user_name {
        to.field(name.as_bytes());
    }
    if let Some(password) = &connect.password {
        to.field(password);
    }
}

fn connect_properties(connect: &Connect, to: &mut dyn Sink) {
    optional_u32(to, PropertyId::SessionExpiryInterval, connect.session_expiry_s);
    let receive_maximum = connect.receive_maximum.get();
    optional_u16(to, PropertyId::ReceiveMaximum, (receive_maximum < u16::MAX).then_some(receive_maximum));
    optional_u32(to, PropertyId::MaximumPacketSize, connect.maximum_packet_size);
    let aliases = connect.topic_alias_maximum;
    optional_u16(to, PropertyId::TopicAliasMaximum, (aliases > 0).then_some(aliases));
    if connect.request_response_information {
        to.bytes(&[PropertyId::RequestResponseInformation.as_u8(), 1]);
    }
    if !connect.request_problem_information {
        to.bytes(&[PropertyId::RequestProblemInformation.as_u8(), 0]);
    }
    optional_field(to, PropertyId::AuthenticationMethod, connect.authentication_method.as_deref());
    user_properties(to, &connect.user_properties);
}

/// MQTT 5.0 §3.8.3.1.
fn options(filter: &FilterOptions) -> u8 {
    let retain_handling = match filter.retain_handling {
        RetainHandling::Send => 0,
        RetainHandling::SendIfNew => 1,
        RetainHandling::DoNotSend => 2,
    };
    retain_handling << 4
        | u8::from(filter.retain_as_published) << 3
        | u8::from(filter.no_local) << 2
        | filter.qos.bits()
}

fn user_properties(to: &mut dyn Sink, properties: &[(String, String)]) {
    for (name, value) in properties {
        to.u8(PropertyId::UserProperty.as_u8());
        to.field(name.as_bytes());
        to.field(value.as_bytes());
    }
}

fn optional_u16(to: &mut dyn Sink, id: PropertyId, value: Option<u16>) {
    if let Some(value) = value {
        to.u8(id.as_u8());
        to.u16(value);
    }
}

fn optional_u32(to: &mut dyn Sink, id: PropertyId, value: Option<u32>) {
    if let Some(value) = value {
        to.u8(id.as_u8());
        to.u32(value);
    }
}

fn optional_field<B: AsRef<[u8]> + ?Sized>(to: &mut dyn Sink, id: PropertyId, value: Option<&B>) {
    if let Some(value) = value {
        to.u8(id.as_u8());
        to.field(value.as_ref());
    }
}
