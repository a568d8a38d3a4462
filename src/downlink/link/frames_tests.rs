//! Frames come out whole, however the bytes are cut, and large ones leave nothing behind.

use proptest::prelude::*;
use pulsar::message::proto::{
    CommandPing, CommandSend, CompressionType, EncryptionKeys, MessageIdData, SingleMessageMetadata, base_command::Type,
};

use super::*;
use crate::pulsar::wire::frame;

fn metadata() -> MessageMetadata {
    MessageMetadata { producer_name: "cloud".to_owned(), sequence_id: 1, publish_time: 1, ..MessageMetadata::default() }
}

/// A message's frame as a broker sends it: as a producer's, with another command.
fn message(out: &mut BytesMut, entry: u64, metadata: &MessageMetadata, payload: &[u8]) {
    let to = CommandMessage {
        consumer_id: 3,
        message_id: MessageIdData { ledger_id: 1, entry_id: entry, ..MessageIdData::default() },
        ..CommandMessage::default()
    };
    let command = BaseCommand { r#type: Type::Message as i32, message: Some(to), ..BaseCommand::default() };
    let mut sent = BytesMut::new();
    frame::message(&mut sent, CommandSend::default(), |out| {
        metadata.encode(out).unwrap();
        payload
    });
    let command_size = u32::from_be_bytes(sent[4..8].try_into().unwrap()) as usize;
    let rest = &sent[8 + command_size..];
    let mut head = BytesMut::new();
    frame::command(&mut head, &command);
    let size = (head.len() - 4 + rest.len()) as u32;
    head[..4].copy_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(rest);
}

fn ping() -> BaseCommand {
    BaseCommand { r#type: Type::Ping as i32, ping: Some(CommandPing {}), ..BaseCommand::default() }
}

/// What is seen of `bytes` when they come in pieces of these sizes; at most `held` bytes are held meanwhile.
fn seen(bytes: &[u8], pieces: &[usize]) -> (Vec<String>, usize) {
    let (mut frames, mut input, mut seen, mut held) = (Frames::default(), BytesMut::new(), Vec::new(), 0);
    let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let size = frames.room(&input).min(*pieces.next().unwrap()).min(rest.len());
        input.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        held = held.max(input.len());
        while let Some(frame) = frames.next(&mut input).unwrap() {
            seen.push(match frame {
                Frame::Command(command) => format!("command {}", command.r#type),
                Frame::Message(m) => {
                    let content = m.content.map(|all| all.iter().map(Bytes::len).collect::<Vec<_>>());
                    format!("{} {:?} {:?}", m.to.message_id.entry_id, m.permits, content.map_err(|e| e.reason))
                }
            });
        }
    }
    assert!(input.is_empty());
    (seen, held)
}

proptest! {
    #[test]
    fn frames_come_whole_however_they_are_cut(
        sizes in prop::collection::vec(prop_oneof![0usize..3000, Just(MESSAGE_BYTES_MAX), Just(MESSAGE_BYTES_MAX + 1), Just(3 << 20)], 1..6),
        pieces in prop::collection::vec(prop_oneof![1usize..40, 1000usize..100_000], 1..20),
    ) {
        let mut bytes = BytesMut::new();
        let mut expected = Vec::new();
        for (n, size) in sizes.iter().enumerate() {
            message(&mut bytes, n as u64, &metadata(), &vec![7; *size]);
            let fits = *size <= MESSAGE_BYTES_MAX;
            expected.push(match fits {
                true => format!("{n} Some(1) {:?}", Ok::<_, &str>([*size])),
                false => format!("{n} Some(1) {:?}", Err::<[usize; 1], _>("too-large")),
            });
            frame::command(&mut bytes, &ping());
            expected.push(format!("command {}", Type::Ping as i32));
        }
        // Single bytes of megabytes would take too long.
        let pieces = if bytes.len() > 10_000 { vec![pieces[0].max(1000), 70_000] } else { pieces };
        let (seen, held) = seen(&bytes, &pieces);
        prop_assert_eq!(seen, expected);
        prop_assert!(held <= FRAME_BYTES_MAX + READ_BYTES, "{held}");
        if sizes.iter().all(|s| *s < 3000 || *s == 3 << 20) {
            prop_assert!(held < 64 << 10, "{held} bytes were held of what was refused");
        }
    }

    #[test]
    fn nothing_a_broker_sends_breaks_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300), whole in any::<bool>()) {
        let mut input = BytesMut::new();
        // Half of them with a first size that fits, so that what is behind it is looked at.
        if whole {
            input.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        }
        input.extend_from_slice(&bytes);
        let mut frames = Frames::default();
        while let Ok(Some(_)) = frames.next(&mut input) {}
    }

    #[test]
    fn a_damaged_message_is_found_out(at in 0usize..2000, bit in 0u8..8) {
        let mut bytes = BytesMut::new();
        message(&mut bytes, 1, &metadata(), &[7; 2000]);
        let behind_checksum = bytes.len() - 2000 - metadata().encoded_len() - 4;
        let index = behind_checksum + at;
        bytes[index] ^= 1 << bit;
        let frame = Frames::default().next(&mut bytes).unwrap();
        let damaged = matches!(frame, Some(Frame::Message(m)) if m.content.as_ref().is_err_and(|e| e.reason == "damaged"));
        prop_assert!(damaged);
    }
}

fn content_of(metadata: &MessageMetadata, payload: &[u8]) -> Result<Vec<Bytes>, Unfit> {
    let mut bytes = BytesMut::new();
    message(&mut bytes, 1, metadata, payload);
    match Frames::default().next(&mut bytes).unwrap().unwrap() {
        Frame::Message(incoming) => incoming.content,
        Frame::Command(command) => panic!("{command:?}"),
    }
}

fn batch(messages: &[&[u8]]) -> (MessageMetadata, Vec<u8>) {
    let mut payload = Vec::new();
    for message in messages {
        let single = SingleMessageMetadata { payload_size: message.len() as i32, ..SingleMessageMetadata::default() };
        payload.extend_from_slice(&(single.encoded_len() as u32).to_be_bytes());
        single.encode(&mut payload).unwrap();
        payload.extend_from_slice(message);
    }
    (MessageMetadata { num_messages_in_batch: Some(messages.len() as i32), ..metadata() }, payload)
}

#[test]
fn batches_and_compressed_messages_are_read_within_bounds() {
    let (of_two, payload) = batch(&[b"first", b"second"]);
    assert_eq!(content_of(&of_two, &payload).unwrap(), [&b"first"[..], b"second"]);
    assert_eq!(content_of(&of_two, &payload[..payload.len() - 1]).unwrap_err().reason, "damaged");
    let too_many = MessageMetadata { num_messages_in_batch: Some(i32::MAX), ..metadata() };
    assert_eq!(content_of(&too_many, &payload).unwrap_err().reason, "not-as-sent-by-tidegate");
    let plain = vec![b'x'; 10_000];
    let lz4 = lz4::block::compress(&plain, None, false).unwrap();
    let zstd = zstd::bulk::compress(&plain, 3).unwrap();
    for (kind, packed) in [(CompressionType::Lz4, lz4), (CompressionType::Zstd, zstd)] {
        let says =
            |size| MessageMetadata { compression: Some(kind as i32), uncompressed_size: Some(size), ..metadata() };
        assert_eq!(content_of(&says(10_000), &packed).unwrap(), [&plain[..]]);
        for lie in [0, 9_999, 10_001] {
            assert_eq!(content_of(&says(lie), &packed).unwrap_err().reason, "damaged", "{kind:?} {lie}");
        }
        assert_eq!(content_of(&says(u32::MAX), &packed).unwrap_err().reason, "too-large");
    }
}

#[test]
fn what_is_not_sent_by_tidegate_is_named() {
    let chunk = MessageMetadata { num_chunks_from_msg: Some(2), total_chunk_msg_size: Some(100), ..metadata() };
    assert!(content_of(&chunk, b"x").unwrap_err().detail.contains("chunk"));
    let encrypted = MessageMetadata {
        encryption_keys: vec![EncryptionKeys { key: "k".into(), value: vec![1], metadata: Vec::new() }],
        ..metadata()
    };
    assert!(content_of(&encrypted, b"x").unwrap_err().detail.contains("encrypted"));
    let marker = MessageMetadata { marker_type: Some(1), ..metadata() };
    assert!(content_of(&marker, b"x").unwrap().is_empty());
}

#[test]
fn a_large_frame_that_is_no_message_is_another_protocol() {
    let mut bytes = BytesMut::from(&[0x03, 0, 0, 0, 0, 0, 0, 0][..]);
    assert!(Frames::default().next(&mut bytes).is_err());
    assert!(Frames::default().next(&mut BytesMut::from(&b"HTTP/1.1 400 Bad Request"[..])).is_err());
}
