//! Pulsar's frames: commands through the crate's types, messages around what the caller writes. [pure]
//!
//! ```text
//! command:  size u32 · command size u32 · command
//! message:  … · 0x0e01 · CRC-32C u32 · metadata size u32 · metadata · payload     (the CRC covers what follows it)
//! ```
//! All sizes are big-endian; the first does not count itself.

use bytes::{BufMut, BytesMut};
use prost::Message as _;
use pulsar::message::Codec;
use pulsar::message::proto::{BaseCommand, CommandSend, MessageMetadata, base_command};
use tokio_util::codec::Decoder as _;

/// Largest frame taken where only commands are expected, whose longest part is an error message.
pub const INPUT_FRAME_MAX: usize = 1 << 20;

/// What stands before a message's checksum.
pub const MAGIC_CRC32C: u16 = 0x0e01;

/// The wide table takes 16 bytes a step, the pulsar crate's one.
pub static CRC32C: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);

/// Bytes that are not Pulsar's protocol.
#[derive(Debug, thiserror::Error)]
#[error("not Pulsar's protocol: {0}")]
pub struct WireError(pub String);

/// What a message says of its sender.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// Number of the producer on its connection.
    pub producer_id: u64,
    /// Its name.
    pub name: &'a str,
    /// Now, ms since 1970.
    pub publish_time_ms: u64,
}

/// Appends a command's frame.
pub fn command(out: &mut BytesMut, command: &BaseCommand) {
    let size = command.encoded_len();
    out.reserve(size + 8);
    out.put_u32(size as u32 + 4); // commands we send are far below 4 GiB
    out.put_u32(size as u32);
    // BytesMut grows, so there is always room.
    let _ = command.encode(out);
}

/// Takes the next command off `input`; `None`: more bytes are needed.
pub fn next_command(input: &mut BytesMut) -> Result<Option<BaseCommand>, WireError> {
    if let Some(size) = input.get(..4) {
        let size = u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize;
        // The crate's decoder trusts this number; 4 GiB would be gathered, and less than 4 cannot hold a command.
        if !(4..=INPUT_FRAME_MAX).contains(&size) {
            return Err(WireError(format!("a frame of {size} bytes")));
        }
    }
    Ok(Codec.decode(input).map_err(|e| WireError(e.to_string()))?.map(|m| m.command))
}

impl Sender<'_> {
    /// A message's metadata: this sender, its number, its time.
    pub fn metadata(&self, sequence_id: u64) -> MessageMetadata {
        MessageMetadata {
            producer_name: self.name.to_owned(),
            sequence_id,
            publish_time: self.publish_time_ms,
            ..MessageMetadata::default()
        }
    }
}

/// Appends a message's frame around the metadata that `write` appends and the payload that it returns.
pub fn message<'a>(out: &mut BytesMut, send: CommandSend, write: impl FnOnce(&mut BytesMut) -> &'a [u8]) {
    let base = BaseCommand { r#type: base_command::Type::Send as i32, send: Some(send), ..BaseCommand::default() };
    let start = out.len();
    out.put_u32(0);
    out.put_u32(base.encoded_len() as u32);
    let _ = base.encode(out);
    out.put_u16(MAGIC_CRC32C);
    let crc_at = out.len();
    out.put_u32(0);
    out.put_u32(0);
    let payload = write(out);
    let metadata = (out.len() - crc_at - 8) as u32;
    out[crc_at + 4..crc_at + 8].copy_from_slice(&metadata.to_be_bytes());
    out.extend_from_slice(payload);
    let crc = CRC32C.checksum(&out[crc_at + 4..]);
    out[crc_at..crc_at + 4].copy_from_slice(&crc.to_be_bytes());
    let size = (out.len() - start - 4) as u32; // bounded by the broker's maximum message size
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_a_broker_sends_breaks_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = next_command(&mut input) {}
        }
    }

    #[test]
    fn a_lying_length_is_refused_at_once() {
        assert!(next_command(&mut BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..])).is_err());
        assert!(next_command(&mut BytesMut::from(&[0, 0, 0, 2, 0, 0][..])).is_err());
        assert!(next_command(&mut BytesMut::from(&[0, 0][..])).unwrap().is_none());
    }
}
