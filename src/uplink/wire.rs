//! Events as Pulsar's messages, alone or in batches, written by hand straight into the output, because a lane writes
//! half a million of them a second.
//!
//! ```text
//! batch's payload:  (metadata size u32 · SingleMessageMetadata · data) per event
//! ```
//! Sizes are big-endian. Field numbers are those of PulsarApi.proto.

use bytes::{BufMut, BytesMut};
use prost::Message as _;
use pulsar::message::proto::{CommandSend, CompressionType};

use super::text;
use crate::config::edge::Compression;
use crate::event::EventRef;
use crate::pulsar::names;
use crate::pulsar::wire::frame::{Sender, message};

const ZSTD_LEVEL: i32 = 3;

/// One event on its way.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Its sequence in the lane.
    pub seq: u64,
    /// It was delivered from a backlog.
    pub late: bool,
    /// `node.incarnation.lane`.
    pub stream: &'a str,
    /// The event.
    pub event: EventRef<'a>,
}

/// Appends an event as it lies in a batch.
pub fn batch_entry(out: &mut BytesMut, outgoing: &Outgoing<'_>) {
    let start = out.len();
    out.reserve(outgoing.event.data.len() + 512);
    out.put_u32(0);
    attributes(out, outgoing, Fields { properties: 1, key: 2, event_time: 5 });
    varint_field(out, 3, outgoing.event.data.len() as u64);
    varint_field(out, 8, outgoing.seq);
    let metadata = (out.len() - start - 4) as u32; // an event's attributes are bounded to some 70 KB
    out[start..start + 4].copy_from_slice(&metadata.to_be_bytes());
    out.extend_from_slice(outgoing.event.data);
}

/// Appends the frame of an event that is sent by itself.
pub fn alone(out: &mut BytesMut, sender: &Sender<'_>, outgoing: &Outgoing<'_>) {
    let send = CommandSend {
        producer_id: sender.producer_id,
        sequence_id: outgoing.seq,
        num_messages: Some(1),
        ..CommandSend::default()
    };
    let metadata = sender.metadata(outgoing.seq);
    message(out, send, |out| {
        let _ = metadata.encode(out);
        attributes(out, outgoing, Fields { properties: 4, key: 6, event_time: 12 });
        outgoing.event.data
    });
}

/// Appends the frame of a batch whose events were written by [`batch_entry`].
pub fn batch(
    out: &mut BytesMut,
    sender: &Sender<'_>,
    (lowest, highest, events): (u64, u64, usize),
    entries: &[u8],
    compression: Compression,
) {
    let count = i32::try_from(events).unwrap_or(i32::MAX); // batch_events is far below
    let send = CommandSend {
        producer_id: sender.producer_id,
        sequence_id: lowest,
        highest_sequence_id: Some(highest),
        num_messages: Some(count),
        ..CommandSend::default()
    };
    let mut metadata = sender.metadata(lowest);
    metadata.highest_sequence_id = Some(highest);
    metadata.num_messages_in_batch = Some(count);
    let compressed = compress(entries, compression);
    if let Some((kind, _)) = &compressed {
        metadata.compression = Some(*kind as i32);
        metadata.uncompressed_size = u32::try_from(entries.len()).ok();
    }
    message(out, send, |out| {
        let _ = metadata.encode(out);
        compressed.as_ref().map_or(entries, |(_, bytes)| bytes)
    });
}

/// Compressed bytes with their kind; `None`: as they are, also when compression gains nothing.
fn compress(entries: &[u8], how: Compression) -> Option<(CompressionType, Vec<u8>)> {
    let (kind, bytes) = match how {
        Compression::None => return None,
        // Pulsar's LZ4 is the bare block; the size goes into the metadata.
        Compression::Lz4 => (CompressionType::Lz4, lz4::block::compress(entries, None, false)),
        Compression::Zstd => (CompressionType::Zstd, zstd::bulk::compress(entries, ZSTD_LEVEL)),
    };
    // Both fail only for want of room in buffers they size themselves.
    bytes.ok().filter(|b| b.len() < entries.len()).map(|b| (kind, b))
}

/// Field numbers of what MessageMetadata and SingleMessageMetadata have in common.
#[derive(Clone, Copy)]
struct Fields {
    properties: u8,
    key: u8,
    event_time: u8,
}

fn attributes(out: &mut BytesMut, o: &Outgoing<'_>, fields: Fields) {
    let e = &o.event;
    let mut put = |key: &str, value: &[u8]| property(out, fields.properties, "", key, value);
    put(names::STREAM, o.stream.as_bytes());
    put(names::SEQ, text::decimal(o.seq).as_bytes());
    if o.late {
        put(names::LATE, b"1");
    }
    put(names::SPECVERSION, b"1.0");
    put(names::ID, e.id.as_bytes());
    put(names::SOURCE, e.source.as_bytes());
    put(names::TYPE, e.ty.as_bytes());
    put(names::TIME, text::rfc3339(e.time).as_bytes());
    for (key, value) in
        [(names::SUBJECT, e.subject), (names::CONTENT_TYPE, e.datacontenttype), (names::DATASCHEMA, e.dataschema)]
    {
        if let Some(value) = value {
            put(key, value.as_bytes());
        }
    }
    for (name, value) in e.extensions() {
        property(out, fields.properties, names::CE_PREFIX, name, value.as_bytes());
    }
    bytes_field(out, fields.key, e.key().as_bytes());
    // Pulsar's event time is unsigned and 0 means none: a clock that stood before 1970 gives none.
    if let Some(ms) = u64::try_from(e.time.unix_ms()).ok().filter(|ms| *ms > 0) {
        varint_field(out, fields.event_time, ms);
    }
}

/// A KeyValue { 1: key, 2: value } as field `number`.
fn property(out: &mut BytesMut, number: u8, prefix: &str, key: &str, value: &[u8]) {
    let key_len = prefix.len() + key.len();
    let size = 1 + varint_len(key_len) + key_len + 1 + varint_len(value.len()) + value.len();
    out.put_u8(number << 3 | 2);
    varint(out, size as u64);
    out.put_u8(1 << 3 | 2);
    varint(out, key_len as u64);
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(key.as_bytes());
    bytes_field(out, 2, value);
}

fn bytes_field(out: &mut BytesMut, number: u8, value: &[u8]) {
    out.put_u8(number << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint_field(out: &mut BytesMut, number: u8, value: u64) {
    out.put_u8(number << 3);
    varint(out, value);
}

fn varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80); // the low seven bits
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_len(value: usize) -> usize {
    (value.max(1).ilog2() / 7 + 1) as usize
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
