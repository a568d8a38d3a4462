//! What a broker sends, cut into commands and messages; a message that is too large goes by without being held. [pure]

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use pulsar::message::proto::{BaseCommand, CommandMessage, MessageMetadata};

use super::MESSAGE_BYTES_MAX;
use super::content::{self, Unfit};
use crate::pulsar::wire::frame::{CRC32C, MAGIC_CRC32C, WireError};

/// A frame's parts besides the payload: a command of some 50 bytes and the metadata, which carry names and properties.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Largest frame that is held.
pub const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 2 * HEAD_BYTES_MAX;

/// Pulsar's `maxMessageSize` can be set higher than anybody does; a frame beyond this is another protocol's.
const FRAME_BYTES_SANE: usize = 1 << 30;

/// Read at once while nothing is known of what comes.
const READ_BYTES: usize = 2 << 10;

/// Read at once while a frame goes by.
const SKIP_BYTES: usize = 16 << 10;

/// One frame.
#[derive(Debug)]
pub enum Frame {
    /// A command.
    Command(Box<BaseCommand>),
    /// A message.
    Message(Box<Incoming>),
}

/// A message as a consumer gets it: one entry of the topic, which may hold several.
#[derive(Debug)]
pub struct Incoming {
    /// For which consumer, and the entry's id.
    pub to: CommandMessage,
    /// How many permits the broker has counted for it; `None`: that could not be read.
    pub permits: Option<u32>,
    /// The messages.
    pub content: Result<Vec<Bytes>, Unfit>,
}

/// Cuts frames off the bytes of one connection.
#[derive(Debug, Default)]
pub struct Frames {
    /// Bytes of a refused frame that are still to come.
    skip: usize,
}

impl Frames {
    /// How much room the next read should have.
    pub fn room(&self, input: &BytesMut) -> usize {
        if self.skip > 0 {
            return SKIP_BYTES;
        }
        match size_of_frame(input) {
            Some(size) if size <= FRAME_BYTES_MAX => (size + 4).saturating_sub(input.len()).max(READ_BYTES),
            _ => READ_BYTES,
        }
    }

    /// Takes the next frame off `input`; `None`: more bytes are needed.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let gone = self.skip.min(input.len());
        input.advance(gone);
        self.skip -= gone;
        let Some(size) = size_of_frame(input).filter(|_| self.skip == 0) else { return Ok(None) };
        if !(4..=FRAME_BYTES_SANE).contains(&size) {
            return Err(WireError(format!("a frame of {size} bytes")));
        }
        if size > FRAME_BYTES_MAX {
            return self.refuse(input, size);
        }
        if input.len() < size + 4 {
            return Ok(None);
        }
        let mut rest = input.split_to(size + 4).freeze();
        rest.advance(4);
        let command = take_sized(&mut rest).ok_or_else(|| WireError("a command longer than its frame".to_owned()))?;
        let mut command = BaseCommand::decode(command).map_err(|e| WireError(e.to_string()))?;
        Ok(Some(match command.message.take() {
            Some(to) => {
                let (permits, content) = read_message(rest);
                Frame::Message(Box::new(Incoming { to, permits, content }))
            }
            None => Frame::Command(Box::new(command)),
        }))
    }

    /// A frame that is not held: only its head is waited for, to know whom it was for.
    fn refuse(&mut self, input: &mut BytesMut, size: usize) -> Result<Option<Frame>, WireError> {
        let Some(command_size) = number(input, 4) else { return Ok(None) };
        if command_size > HEAD_BYTES_MAX {
            return Err(WireError(format!("a command of {command_size} bytes")));
        }
        let after_command = 8 + command_size;
        let Some(command) = input.get(8..after_command) else { return Ok(None) };
        let command = BaseCommand::decode(command).map_err(|e| WireError(e.to_string()))?;
        let Some(to) = command.message else { return Err(WireError(format!("a command's frame of {size} bytes"))) };
        // Magic, checksum and size stand before the metadata.
        let metadata_at = after_command + 10;
        let Some(metadata_size) = number(input, after_command + 6) else { return Ok(None) };
        let mut permits = None;
        let mut head = metadata_at;
        if metadata_size <= HEAD_BYTES_MAX {
            head += metadata_size;
            let Some(metadata) = input.get(metadata_at..head) else { return Ok(None) };
            permits = MessageMetadata::decode(metadata).ok().map(|m| content::messages(&m));
        }
        input.advance(head);
        self.skip = (size + 4).saturating_sub(head);
        let content = Err(Unfit::too_large(size));
        Ok(Some(Frame::Message(Box::new(Incoming { to, permits, content }))))
    }
}

/// Metadata and payload, behind the command.
fn read_message(mut rest: Bytes) -> (Option<u32>, Result<Vec<Bytes>, Unfit>) {
    if rest.get(..2) == Some(&MAGIC_CRC32C.to_be_bytes()[..]) && rest.len() >= 6 {
        rest.advance(2);
        let sum = rest.get_u32();
        if CRC32C.checksum(&rest) != sum {
            return (None, Err(Unfit::damaged("its checksum is wrong")));
        }
    }
    let Some(metadata) = take_sized(&mut rest) else {
        return (None, Err(Unfit::damaged("its metadata is longer than its frame")));
    };
    match MessageMetadata::decode(metadata) {
        Ok(metadata) => (Some(content::messages(&metadata)), content::read(&metadata, rest)),
        Err(e) => (None, Err(Unfit::damaged(&e.to_string()))),
    }
}

/// What a frame says of its size, itself not counted.
fn size_of_frame(input: &BytesMut) -> Option<usize> {
    number(input, 0)
}

fn number(input: &BytesMut, at: usize) -> Option<usize> {
    let bytes = input.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?) as usize)
}

/// Takes a size and so many bytes.
pub fn take_sized(from: &mut Bytes) -> Option<Bytes> {
    let size = u32::from_be_bytes(from.get(..4)?.try_into().ok()?) as usize;
    if from.len() - 4 < size {
        return None;
    }
    from.advance(4);
    Some(from.split_to(size))
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
