//! PUBLISH (MQTT 5.0 §3.3, 3.1.1 §3.3). [pure]
//!
//! The payload is copied out of the read buffer. A part split off the buffer instead would keep all of it alive: one retained
//! message of 20 bytes would hold 64 KiB that no limit counts, and the buffer could not be used again for the next read. The copy
//! costs 6 ns more at 256 bytes and 0.7 µs at 64 KiB (`cargo bench --bench mqtt_packet`), far less than the disk that comes next.

use std::num::NonZeroU16;

use bytes::Bytes;
use mqtt_protocol_core::mqtt::packet::PropertyId;

use super::super::error::{Fault, fault, forbidden, malformed};
use super::super::properties::Block;
use super::super::reader::Reader;
use super::super::{Properties, Publish, QoS, Reason, Version};

const DUP: u8 = 0x08;
const RETAIN: u8 = 0x01;

/// MQTT 5.0 §3.3.1.
pub(super) fn check_flags(flags: u8) -> Result<(), Fault> {
    match QoS::from_bits((flags >> 1) & 0x03) {
        None => Err(malformed("QoS 3 (MQTT 5.0 §3.3.1.2, 3.1.1 §3.3.1.2)")),
        Some(QoS::AtMostOnce) if flags & DUP != 0 => {
            Err(malformed("DUP with QoS 0 (MQTT 5.0 §3.3.1.1, 3.1.1 §3.3.1.1)"))
        }
        Some(_) => Ok(()),
    }
}

pub(super) fn publish(flags: u8, packet: &mut Reader<'_>, version: Version) -> Result<Publish, Fault> {
    let qos = QoS::from_bits((flags >> 1) & 0x03).unwrap_or_default(); // 3 was refused by `check_flags`
    let topic = packet.topic_name()?;
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(packet.packet_id()?) };
    let properties = if version == Version::V5 { properties(packet)? } else { None };
    if topic.is_empty() && properties.as_ref().is_none_or(|p| p.topic_alias.is_none()) {
        return Err(forbidden("no topic name, and no alias for one (MQTT 5.0 §3.3.2.1, 3.1.1 §4.7.3)"));
    }
    Ok(Publish {
        dup: flags & DUP != 0,
        qos,
        retain: flags & RETAIN != 0,
        topic: topic.into(),
        packet_id,
        properties,
        payload: Bytes::copy_from_slice(packet.rest()),
    })
}

const ALIAS_0: Fault = fault(Reason::TOPIC_ALIAS_INVALID, "topic alias 0 (MQTT 5.0 §3.3.2.3.4)");

/// MQTT 5.0 §3.3.2.3.
fn properties(packet: &mut Reader<'_>) -> Result<Option<Box<Properties>>, Fault> {
    let mut block = Block::from(packet)?;
    if block.is_empty() {
        return Ok(None);
    }
    let mut properties = Box::<Properties>::default();
    while let Some(id) = block.next()? {
        match id {
            PropertyId::TopicAlias => {
                let alias = NonZeroU16::new(block.reader().u16()?);
                properties.topic_alias = Some(alias.ok_or(ALIAS_0)?);
            }
            PropertyId::SubscriptionIdentifier => {
                return Err(forbidden("a subscription identifier from a client (MQTT 5.0 §3.3.4)"));
            }
            _ => block.message_property(id, &mut properties)?,
        }
    }
    Ok(Some(properties))
}
