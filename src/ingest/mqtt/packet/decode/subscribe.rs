//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5.0 §3.8, §3.10, 3.1.1 the same). [pure]

use mqtt_protocol_core::mqtt::packet::PropertyId;

use super::super::error::{Fault, fault, forbidden, malformed};
use super::super::properties::{Block, DOES_NOT_BELONG};
use super::super::reader::Reader;
use super::super::{FilterOptions, QoS, Reason, RetainHandling, Subscribe, Unsubscribe, Version};

/// Filters of one packet. Four bytes on the wire become some 50 in memory; a client with more sends a second packet.
pub const FILTERS_MAX: usize = 10_000;

const TOO_MANY: Fault = fault(Reason::QUOTA_EXCEEDED, "more than 10,000 filters; send them in several packets");
const EMPTY: Fault = forbidden("no topic filter (MQTT 5.0 §3.8.3, §3.10.3, 3.1.1 the same)");

pub(super) fn subscribe(packet: &mut Reader<'_>, version: Version) -> Result<Subscribe, Fault> {
    let packet_id = packet.packet_id()?;
    let mut subscription_id = None;
    if version == Version::V5 {
        let mut block = Block::from(packet)?;
        while let Some(id) = block.next()? {
            match id {
                PropertyId::SubscriptionIdentifier => match block.reader().variable()? {
                    0 => return Err(forbidden("subscription identifier 0 (MQTT 5.0 §3.8.2.1.2)")),
                    number => subscription_id = Some(number),
                },
                PropertyId::UserProperty => block.skip_user_property()?,
                _ => return Err(DOES_NOT_BELONG),
            }
        }
    }
    let mut filters = Vec::new();
    while !packet.is_empty() {
        if filters.len() == FILTERS_MAX {
            return Err(TOO_MANY);
        }
        let filter = packet.filter()?;
        filters.push(options(filter, packet.u8()?, version)?);
    }
    if filters.is_empty() { Err(EMPTY) } else { Ok(Subscribe { packet_id, subscription_id, filters }) }
}

/// MQTT 5.0 §3.8.3.1; 3.1.1 §3.8.3 has only the QoS.
fn options(filter: &str, bits: u8, version: Version) -> Result<FilterOptions, Fault> {
    let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
    if bits & reserved != 0 {
        return Err(malformed("reserved bits in subscription options (MQTT 5.0 §3.8.3.1, 3.1.1 §3.8.3)"));
    }
    let qos = QoS::from_bits(bits & 0x03);
    let retain_handling = match bits >> 4 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(forbidden("retain handling 3 (MQTT 5.0 §3.8.3.1)")),
    };
    let no_local = bits & 0x04 != 0;
    if no_local && filter.starts_with("$share/") {
        return Err(forbidden("no local on a shared subscription (MQTT 5.0 §3.8.3.1)"));
    }
    Ok(FilterOptions {
        filter: filter.to_owned(),
        qos: qos.ok_or(forbidden("subscription with QoS 3 (MQTT 5.0 §3.8.3.1, 3.1.1 §3.8.3)"))?,
        no_local,
        retain_as_published: bits & 0x08 != 0,
        retain_handling,
    })
}

pub(super) fn unsubscribe(packet: &mut Reader<'_>, version: Version) -> Result<Unsubscribe, Fault> {
    let packet_id = packet.packet_id()?;
    if version == Version::V5 {
        let mut block = Block::from(packet)?;
        while let Some(id) = block.next()? {
            match id {
                PropertyId::UserProperty => block.skip_user_property()?,
                _ => return Err(DOES_NOT_BELONG),
            }
        }
    }
    let mut filters = Vec::new();
    while !packet.is_empty() {
        if filters.len() == FILTERS_MAX {
            return Err(TOO_MANY);
        }
        filters.push(packet.filter()?.to_owned());
    }
    if filters.is_empty() { Err(EMPTY) } else { Ok(Unsubscribe { packet_id, filters }) }
}
