//! The broker's records as bytes. [pure]
//!
//! `version | kind | fields`, one byte each for the first two. Numbers are LEB128 of at most ten bytes, session ids eight bytes little-endian (they are
//! random), texts and byte strings have their length in front, lists their count, optional fields a bit in a byte of flags.
//! A kind's fields never change within a version: whoever adds one writes a new version and keeps reading this one.

mod read;
#[cfg(test)]
mod tests;
mod write;

use crate::journal::time_line::Reading;

pub use read::decode;
pub use write::encode;

/// The version written. Of those before it: 1 has no digests in intents and sessions, and does not know what is stored;
/// 2 does not know which outgoing messages were sent, nor what is shared.
const VERSION: u8 = 3;

/// Of a reading of the clocks, which has not changed since.
const CLOCK_VERSION: u8 = 1;

/// What the second byte says.
mod kind {
    pub const SESSION: u8 = 1;
    pub const SESSION_ENDED: u8 = 2;
    pub const SESSION_EXPIRY: u8 = 3;
    pub const SUBSCRIBED: u8 = 4;
    pub const UNSUBSCRIBED: u8 = 5;
    pub const INTENT: u8 = 6;
    pub const RECEIVED: u8 = 7;
    pub const RELEASED: u8 = 8;
    pub const QUEUED: u8 = 9;
    pub const OUTGOING_RECEIVED: u8 = 10;
    pub const OUTGOING_DONE: u8 = 11;
    pub const RETAINED: u8 = 12;
    pub const WILL: u8 = 13;
    pub const TIME: u8 = 14;
    /// Not the broker's: the shelf's own, see there.
    pub const CLOCK: u8 = 15;
    /// Since version 2.
    pub const STORED: u8 = 16;
    /// Since version 3.
    pub const OUTGOING_SENT: u8 = 17;
}

/// The bytes of a reading of the shelf's clocks.
pub fn encode_clock(reading: &Reading) -> Vec<u8> {
    [&[CLOCK_VERSION, kind::CLOCK], &reading.encode()[..]].concat()
}

/// The reading, if these bytes are one.
pub fn decode_clock(bytes: &[u8]) -> Option<Reading> {
    Reading::decode(bytes.strip_prefix(&[CLOCK_VERSION, kind::CLOCK])?)
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer Tidegate, or not by one.
    #[error("record of version {0}: this Tidegate reads versions up to {VERSION}; start the one that wrote it")]
    Version(u8),
    /// Not a kind of this version.
    #[error("record of unknown kind {0}")]
    Kind(u8),
    /// The bytes end within a field.
    #[error("record ends within its {0}")]
    Short(&'static str),
    /// A field has a value that it cannot have.
    #[error("record with an impossible {0}")]
    Value(&'static str),
    /// More bytes than the fields take.
    #[error("record with {0} bytes too many")]
    Long(usize),
}
