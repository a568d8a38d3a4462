//! The property block of an MQTT 5.0 packet (§2.2.2): which follow, each at most once, none that does not belong. [pure]

use mqtt_protocol_core::mqtt::packet::PropertyId;

use super::error::{Fault, fault, forbidden, malformed};
use super::reader::Reader;
use super::{Properties, Reason};
use bytes::Bytes;

/// User properties of one packet. Five bytes on the wire become 48 in memory, so a count bounds what a packet's size does not;
/// far more than any known client sends.
pub const USER_PROPERTIES_MAX: usize = 1_000;

/// A property that does not belong to its packet is malformed, not a protocol error (MQTT 5.0 §2.2.2.2).
pub(super) const DOES_NOT_BELONG: Fault =
    malformed("a property that does not belong to this packet (MQTT 5.0 §2.2.2.2)");

/// Properties of a packet, one after the other: [`Block::next`], then read its value.
#[derive(Debug)]
pub(super) struct Block<'a> {
    reader: Reader<'a>,
    seen: u64,
    user: usize,
}

impl<'a> Block<'a> {
    /// Takes the block off the packet.
    #[inline]
    pub(super) fn from(packet: &mut Reader<'a>) -> Result<Self, Fault> {
        let length = packet.variable()?;
        let bytes = packet.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        Ok(Self { reader: Reader::new(bytes), seen: 0, user: 0 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    /// Which property follows. The identifier is a variable byte integer, but all that exist have one byte.
    pub(super) fn next(&mut self) -> Result<Option<PropertyId>, Fault> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = PropertyId::try_from(self.reader.u8()?)
            .map_err(|_| malformed("a property that does not exist (MQTT 5.0 §2.2.2.2)"))?;
        let bit = 1 << id.as_u8();
        if id == PropertyId::UserProperty {
            self.user += 1;
            if self.user > USER_PROPERTIES_MAX {
                return Err(fault(Reason::QUOTA_EXCEEDED, "more than 1,000 user properties; send fewer"));
            }
        } else if self.seen & bit != 0 {
            return Err(forbidden("a property is there twice (MQTT 5.0 §2.2.2.2, §3.1.2.11 and others)"));
        }
        self.seen |= bit;
        Ok(Some(id))
    }

    pub(super) fn reader(&mut self) -> &mut Reader<'a> {
        &mut self.reader
    }

    pub(super) fn user_property(&mut self) -> Result<(String, String), Fault> {
        Ok((self.reader.string()?.to_owned(), self.reader.string()?.to_owned()))
    }

    /// Reads a value that nobody asks for, with all its rules.
    pub(super) fn skip_user_property(&mut self) -> Result<(), Fault> {
        self.reader.string()?;
        self.reader.string()?;
        Ok(())
    }

    /// One of the properties that PUBLISH and a will have in common (MQTT 5.0 §3.1.3.2, §3.3.2.3).
    pub(super) fn message_property(&mut self, id: PropertyId, to: &mut Properties) -> Result<(), Fault> {
        match id {
            PropertyId::PayloadFormatIndicator => to.payload_is_utf8 = Some(self.reader.flag()?),
            PropertyId::MessageExpiryInterval => to.message_expiry_s = Some(self.reader.u32()?),
            PropertyId::ContentType => to.content_type = Some(self.reader.string()?.to_owned()),
            PropertyId::ResponseTopic => to.response_topic = Some(response_topic(&mut self.reader)?.into()),
            PropertyId::CorrelationData => to.correlation_data = Some(Bytes::copy_from_slice(self.reader.binary()?)),
            PropertyId::UserProperty => to.user.push(self.user_property()?),
            _ => return Err(DOES_NOT_BELONG),
        }
        Ok(())
    }
}

fn response_topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Fault> {
    let topic = reader.topic_name()?;
    if topic.is_empty() { Err(malformed("an empty response topic (MQTT 5.0 §3.3.2.3.5, §4.7.3)")) } else { Ok(topic) }
}

/// Properties of which only the reason string and user properties may be there, and nobody asks for either: PUBACK, PUBREC, PUBREL,
/// PUBCOMP (MQTT 5.0 §3.4.2.2). Returns the reason string.
pub(super) fn reason_string<'a>(packet: &mut Reader<'a>) -> Result<Option<&'a str>, Fault> {
    let mut block = Block::from(packet)?;
    let mut found = None;
    while let Some(id) = block.next()? {
        match id {
            PropertyId::ReasonString => found = Some(block.reader.string()?),
            PropertyId::UserProperty => block.skip_user_property()?,
            _ => return Err(DOES_NOT_BELONG),
        }
    }
    Ok(found)
}
