//! Packets become bytes, in the shortest form that the standards allow. [pure]

mod body;

use bytes::{BufMut, BytesMut};
use mqtt_protocol_core::mqtt::packet::FixedHeader;

use super::{Packet, Publish, Reason, Version};

/// A packet that no bytes can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A length does not fit into its field.
    #[error("a string or binary field of {0} bytes, and 65,535 is the most (MQTT 5.0 §1.5.4)")]
    FieldTooLong(usize),
    /// The packet is longer than the fixed header can say.
    #[error("a packet of {0} bytes, and the most is 268,435,455 (MQTT 5.0 §2.1.4)")]
    TooLong(usize),
    /// The other side takes no packet of this size: what 5.0 tells to do then is not to send it (MQTT 5.0 §3.1.2.11.4).
    #[error("a packet of {size} bytes, and the client takes {max} (MQTT 5.0 §3.1.2.11.4)")]
    TooLarge {
        /// Bytes of the packet.
        size: usize,
        /// Bytes that the client takes.
        max: u32,
    },
    /// 3.1.1 has no AUTH.
    #[error("MQTT 3.1.1 has no {0}")]
    NotInVersion(&'static str),
}

/// Longest remaining length (MQTT 5.0 §1.5.5).
const REMAINING_MAX: usize = 268_435_455;

/// Appends the packet. With an error nothing is appended.
///
/// What 3.1.1 does not have is left out, and its return codes stand for the reasons: see [`return_code`] for CONNACK; SUBACK has 0x80
/// for every refusal, UNSUBACK none. DISCONNECT in 3.1.1 is the client's only: a server closes without a word.
pub fn encode(packet: &Packet, version: Version, to: &mut BytesMut) -> Result<(), EncodeError> {
    // The answer to nearly every packet.
    if let Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) = packet
        && (version == Version::V311 || (ack.reason == Reason::SUCCESS && ack.reason_string.is_none()))
    {
        let [high, low] = ack.packet_id.get().to_be_bytes();
        to.put_slice(&[first_byte(packet), 2, high, low]);
        return Ok(());
    }
    let length = body_len(packet, version)?;
    to.reserve(1 + variable_len(length) + length);
    to.put_u8(first_byte(packet));
    to.variable(length);
    body::body(packet, version, to);
    Ok(())
}

/// Appends the packet to what goes to a client that takes `max` bytes at most, without the reason string if that makes it fit
/// (MQTT 5.0 §3.2.2.3.9, §3.4.2.2.2, §3.14.2.2.3). With an error nothing is appended.
pub fn encode_up_to(packet: &mut Packet, version: Version, max: u32, to: &mut BytesMut) -> Result<(), EncodeError> {
    let fits = |size: usize| u32::try_from(size).is_ok_and(|size| size <= max);
    if !fits(encoded_len(packet, version)?) {
        match packet {
            Packet::Connack(connack) => connack.reason_string = None,
            Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
                ack.reason_string = None;
            }
            Packet::Disconnect(disconnect) => disconnect.reason_string = None,
            _ => {}
        }
        let size = encoded_len(packet, version)?;
        if !fits(size) {
            return Err(EncodeError::TooLarge { size, max });
        }
    }
    encode(packet, version, to)
}

/// Bytes that [`encode`] appends: to be compared with the other side's maximum packet size (MQTT 5.0 §3.1.2.11.4).
pub fn encoded_len(packet: &Packet, version: Version) -> Result<usize, EncodeError> {
    let length = body_len(packet, version)?;
    Ok(1 + variable_len(length) + length)
}

fn body_len(packet: &Packet, version: Version) -> Result<usize, EncodeError> {
    if let (Packet::Auth(_), Version::V311) = (packet, version) {
        return Err(EncodeError::NotInVersion("AUTH"));
    }
    let mut count = Count::default();
    body::body(packet, version, &mut count);
    match count {
        Count { longest, .. } if longest > usize::from(u16::MAX) => Err(EncodeError::FieldTooLong(longest)),
        Count { bytes, .. } if bytes > REMAINING_MAX => Err(EncodeError::TooLong(bytes)),
        Count { bytes, .. } => Ok(bytes),
    }
}

/// The CONNACK return code of 3.1.1 (§3.2.2.3) for a reason code of 5.0.
pub fn return_code(reason: Reason) -> u8 {
    match reason {
        Reason::SUCCESS => 0,
        Reason::UNSUPPORTED_PROTOCOL_VERSION => 1,
        Reason::CLIENT_ID_NOT_VALID => 2,
        Reason::BAD_USER_NAME_OR_PASSWORD => 4,
        Reason::NOT_AUTHORIZED | Reason::BANNED | Reason::BAD_AUTHENTICATION_METHOD => 5,
        // Server unavailable: for all that has no code of its own.
        _ => 3,
    }
}

fn first_byte(packet: &Packet) -> u8 {
    let header = match packet {
        Packet::Publish(publish) => return FixedHeader::Publish as u8 | publish_flags(publish),
        Packet::Connect(_) => FixedHeader::Connect,
        Packet::Connack(_) => FixedHeader::Connack,
        Packet::Puback(_) => FixedHeader::Puback,
        Packet::Pubrec(_) => FixedHeader::Pubrec,
        Packet::Pubrel(_) => FixedHeader::Pubrel,
        Packet::Pubcomp(_) => FixedHeader::Pubcomp,
        Packet::Subscribe(_) => FixedHeader::Subscribe,
        Packet::Suback(_) => FixedHeader::Suback,
        Packet::Unsubscribe(_) => FixedHeader::Unsubscribe,
        Packet::Unsuback(_) => FixedHeader::Unsuback,
        Packet::Pingreq => FixedHeader::Pingreq,
        Packet::Pingresp => FixedHeader::Pingresp,
        Packet::Disconnect(_) => FixedHeader::Disconnect,
        Packet::Auth(_) => FixedHeader::Auth,
    };
    header as u8
}

fn publish_flags(publish: &Publish) -> u8 {
    u8::from(publish.dup) << 3 | publish.qos.bits() << 1 | u8::from(publish.retain)
}

fn variable_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Where a body goes: into a buffer, or only counted.
trait Sink {
    fn bytes(&mut self, bytes: &[u8]);

    /// With its length in front (MQTT 5.0 §1.5.4, §1.5.6).
    fn field(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX); // a longer one was refused when it was counted
        self.u16(length);
        self.bytes(bytes);
    }

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// Variable byte integer (MQTT 5.0 §1.5.5).
    fn variable(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.u8((value & 0x7F) as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }
}

impl Sink for BytesMut {
    fn bytes(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }
}

#[derive(Default)]
struct Count {
    bytes: usize,
    longest: usize,
}

impl Sink for Count {
    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn field(&mut self, bytes: &[u8]) {
        self.bytes += 2 + bytes.len();
        self.longest = self.longest.max(bytes.len());
    }
}
