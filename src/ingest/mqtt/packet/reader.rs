//! Reads the data types of MQTT (5.0 §1.5) from a packet's bytes, and refuses what they may not hold. [pure]
//!
//! Nothing is allocated before the bytes that fill it have been seen.

use super::PacketId;
use super::error::{Fault, fault, forbidden, malformed};
use super::{QoS, Reason};

/// A packet, or a part of one, from its first unread byte on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Refuses bytes behind the last field.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.rest.is_empty() { Ok(()) } else { Err(malformed("bytes behind the last field (MQTT 5.0 §2.1.4)")) }
    }

    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        const CUT: Fault =
            malformed("a field reaches beyond the end of its packet or properties (MQTT 5.0 §2.1.4, §2.2.2.1)");
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A byte that may only be 0 or 1.
    pub(super) fn flag(&mut self) -> Result<bool, Fault> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(forbidden("a property that is 0 or 1 has another value (MQTT 5.0 §3.1.2.11, §3.3.2.3.2)")),
        }
    }

    #[inline]
    pub(super) fn packet_id(&mut self) -> Result<PacketId, Fault> {
        PacketId::new(self.u16()?).ok_or(forbidden("packet identifier 0 (MQTT 5.0 §2.2.1, 3.1.1 §2.3.1)"))
    }

    /// Variable byte integer (MQTT 5.0 §1.5.5), in as few bytes as it takes.
    #[inline]
    pub(super) fn variable(&mut self) -> Result<u32, Fault> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(OVERLONG) } else { Ok(value) };
            }
        }
        Err(ENDLESS)
    }

    /// Binary data (MQTT 5.0 §1.5.6).
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// UTF-8 string (MQTT 5.0 §1.5.4): no surrogates, which Rust's UTF-8 does not have either, and no U+0000.
    #[inline]
    pub(super) fn string(&mut self) -> Result<&'a str, Fault> {
        let text = std::str::from_utf8(self.binary()?)
            .map_err(|_| malformed("a string is not UTF-8 (MQTT 5.0 §1.5.4, 3.1.1 §1.5.3)"))?;
        if text.as_bytes().contains(&0) {
            return Err(malformed("a string contains U+0000 (MQTT 5.0 §1.5.4, 3.1.1 §1.5.3)"));
        }
        Ok(text)
    }

    /// A topic name; whether it may be empty is the caller's to say (MQTT 5.0 §4.7.1, §4.7.3).
    #[inline]
    pub(super) fn topic_name(&mut self) -> Result<&'a str, Fault> {
        let name = self.string()?;
        // No early exit: the compiler makes vector code of it.
        if name.bytes().fold(false, |found, b| found | (b == b'+') | (b == b'#')) {
            return Err(fault(
                Reason::TOPIC_NAME_INVALID,
                "a wildcard in a topic name (MQTT 5.0 §3.3.2.1, 3.1.1 §3.3.2.1)",
            ));
        }
        Ok(name)
    }

    /// A topic filter, of which only the form of a string is checked.
    pub(super) fn filter(&mut self) -> Result<&'a str, Fault> {
        let filter = self.string()?;
        if filter.is_empty() {
            Err(malformed("an empty topic filter (MQTT 5.0 §4.7.3, 3.1.1 §4.7.3)"))
        } else {
            Ok(filter)
        }
    }
}

/// Only MQTT 5.0 forbids it: 3.1.1 §2.2.3 does not, so a 3.1.1 client that pads its lengths is not refused.
pub(super) const OVERLONG: Fault = malformed("a length takes more bytes than it needs (MQTT 5.0 §1.5.5)");
pub(super) const ENDLESS: Fault = malformed("a length goes on after its fourth byte (MQTT 5.0 §1.5.5, 3.1.1 §2.2.3)");

impl QoS {
    /// From its two bits.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// Its two bits.
    pub(super) fn bits(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }
}
