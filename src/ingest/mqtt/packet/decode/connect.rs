//! CONNECT (MQTT 5.0 §3.1, 3.1.1 §3.1). [pure]

use std::num::NonZeroU16;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::packet::PropertyId;

use super::super::error::{Fault, fault, forbidden, malformed};
use super::super::properties::{Block, DOES_NOT_BELONG};
use super::super::reader::Reader;
use super::super::{Connect, Properties, Publish, QoS, Reason, Version, Will};

/// Bits of the connect flags (MQTT 5.0 §3.1.2.3).
mod flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN_START: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_QOS: u8 = 0x18;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USER_NAME: u8 = 0x80;
}

/// A fault, and the version in which the client understands CONNACK, once that is known.
type Refusal = (Fault, Option<Version>);

pub(super) fn connect(packet: &mut Reader<'_>) -> Result<Connect, Refusal> {
    let (version, bridge) = protocol(packet)?;
    let connect = rest(packet, version).map_err(|fault| (fault, Some(version)))?;
    Ok(Connect { bridge, ..connect })
}

/// Protocol name and level (MQTT 5.0 §3.1.2.1, §3.1.2.2, 3.1.1 the same).
fn protocol(packet: &mut Reader<'_>) -> Result<(Version, bool), Refusal> {
    const UNSUPPORTED: Fault =
        fault(Reason::UNSUPPORTED_PROTOCOL_VERSION, "only MQTT 3.1.1 and 5.0 are spoken here (MQTT 5.0 §3.1.2.2)");
    let unknown = |fault| (fault, None);
    let name = packet.string().map_err(unknown)?;
    let level = packet.u8().map_err(unknown)?;
    match (name, level) {
        // Bit 7 marks a bridge (mosquitto's `try_private`; seen in 2.0.11, where bridges of 5.0 do not set it).
        ("MQTT", 0x04 | 0x84) => Ok((Version::V311, level == 0x84)),
        ("MQTT", 5) => Ok((Version::V5, false)),
        // A bridge asks again without the bit if it gets a refusal in the version of the other bits.
        ("MQTT", level) if level & 0x7F >= 5 => Err((UNSUPPORTED, Some(Version::V5))),
        // "MQIsdp" is MQTT 3.1, whose CONNACK is that of 3.1.1.
        ("MQTT", _) | ("MQIsdp", 3) => Err((UNSUPPORTED, Some(Version::V311))),
        _ => Err((malformed("the protocol name is not MQTT (MQTT 5.0 §3.1.2.1, 3.1.1 §3.1.2.1)"), None)),
    }
}

fn rest(packet: &mut Reader<'_>, version: Version) -> Result<Connect, Fault> {
    let flags = packet.u8()?;
    check_flags(flags, version)?;
    let mut connect = Connect {
        version,
        bridge: false,
        clean_start: flags & flag::CLEAN_START != 0,
        keep_alive_s: packet.u16()?,
        client_id: String::new(),
        will: None,
        user_name: None,
        password: None,
        session_expiry_s: None,
        receive_maximum: NonZeroU16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_response_information: false,
        request_problem_information: true,
        authentication_method: None,
        user_properties: Vec::new(),
    };
    match version {
        Version::V5 => properties(packet, &mut connect)?,
        Version::V311 if !connect.clean_start => connect.session_expiry_s = Some(u32::MAX),
        Version::V311 => {}
    }
    packet.string()?.clone_into(&mut connect.client_id);
    if flags & flag::WILL != 0 {
        connect.will = Some(will(packet, flags, version)?);
    }
    if flags & flag::USER_NAME != 0 {
        connect.user_name = Some(packet.string()?.to_owned());
    }
    if flags & flag::PASSWORD != 0 {
        connect.password = Some(Bytes::copy_from_slice(packet.binary()?));
    }
    packet.end()?;
    if version == Version::V311 && connect.client_id.is_empty() && !connect.clean_start {
        let what = "an empty client identifier without clean session (3.1.1 §3.1.3.1)";
        return Err(fault(Reason::CLIENT_ID_NOT_VALID, what));
    }
    Ok(connect)
}

fn check_flags(flags: u8, version: Version) -> Result<(), Fault> {
    if flags & flag::RESERVED != 0 {
        return Err(malformed("the reserved connect flag is set (MQTT 5.0 §3.1.2.3, 3.1.1 §3.1.2.3)"));
    }
    if flags & flag::WILL_QOS == flag::WILL_QOS {
        return Err(malformed("will QoS 3 (MQTT 5.0 §3.1.2.6, 3.1.1 §3.1.2.6)"));
    }
    if flags & flag::WILL == 0 && flags & (flag::WILL_QOS | flag::WILL_RETAIN) != 0 {
        return Err(malformed("will QoS or retain without a will (MQTT 5.0 §3.1.2.6, §3.1.2.7, 3.1.1 the same)"));
    }
    if version == Version::V311 && flags & flag::PASSWORD != 0 && flags & flag::USER_NAME == 0 {
        return Err(malformed("a password without a user name (3.1.1 §3.1.2.9; 5.0 allows it)"));
    }
    Ok(())
}

/// MQTT 5.0 §3.1.2.11.
fn properties(packet: &mut Reader<'_>, connect: &mut Connect) -> Result<(), Fault> {
    let mut block = Block::from(packet)?;
    let mut authentication_data = false;
    while let Some(id) = block.next()? {
        match id {
            PropertyId::SessionExpiryInterval => connect.session_expiry_s = Some(block.reader().u32()?),
            PropertyId::ReceiveMaximum => {
                connect.receive_maximum = NonZeroU16::new(block.reader().u16()?)
                    .ok_or(forbidden("receive maximum 0 (MQTT 5.0 §3.1.2.11.3)"))?;
            }
            PropertyId::MaximumPacketSize => match block.reader().u32()? {
                0 => return Err(forbidden("maximum packet size 0 (MQTT 5.0 §3.1.2.11.4)")),
                size => connect.maximum_packet_size = Some(size),
            },
            PropertyId::TopicAliasMaximum => connect.topic_alias_maximum = block.reader().u16()?,
            PropertyId::RequestResponseInformation => connect.request_response_information = block.reader().flag()?,
            PropertyId::RequestProblemInformation => connect.request_problem_information = block.reader().flag()?,
            PropertyId::AuthenticationMethod => {
                connect.authentication_method = Some(block.reader().string()?.to_owned());
            }
            // Read and dropped: no method is offered.
            PropertyId::AuthenticationData => {
                block.reader().binary()?;
                authentication_data = true;
            }
            PropertyId::UserProperty => connect.user_properties.push(block.user_property()?),
            _ => return Err(DOES_NOT_BELONG),
        }
    }
    if authentication_data && connect.authentication_method.is_none() {
        return Err(forbidden("authentication data without a method (MQTT 5.0 §3.1.2.11.10)"));
    }
    Ok(())
}

/// MQTT 5.0 §3.1.3.2 to §3.1.3.4.
fn will(packet: &mut Reader<'_>, flags: u8, version: Version) -> Result<Will, Fault> {
    let mut delay_s = 0;
    let mut properties = None;
    if version == Version::V5 {
        let mut block = Block::from(packet)?;
        let mut found = Properties::default();
        let mut any = false;
        while let Some(id) = block.next()? {
            if id == PropertyId::WillDelayInterval {
                delay_s = block.reader().u32()?;
            } else {
                block.message_property(id, &mut found)?;
                any = true;
            }
        }
        properties = any.then(|| Box::new(found));
    }
    let topic = packet.topic_name()?;
    if topic.is_empty() {
        return Err(fault(Reason::TOPIC_NAME_INVALID, "an empty will topic (MQTT 5.0 §4.7.3, 3.1.1 §4.7.3)"));
    }
    let message = Publish {
        dup: false,
        qos: QoS::from_bits((flags & flag::WILL_QOS) >> 3).unwrap_or_default(),
        retain: flags & flag::WILL_RETAIN != 0,
        topic: topic.into(),
        packet_id: None,
        properties,
        payload: Bytes::copy_from_slice(packet.binary()?),
    };
    Ok(Will { message, delay_s })
}
