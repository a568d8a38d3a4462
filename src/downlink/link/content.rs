//! An entry of a topic as the messages in it: alone or in a batch, compressed or not, within bounds. The cloud sends each
//! message alone and as it is; other tools may not. [pure]

use std::io::Read as _;

use bytes::Bytes;
use prost::Message as _;
use pulsar::message::proto::{CompressionType, MessageMetadata, SingleMessageMetadata};

use super::MESSAGE_BYTES_MAX;
use super::frames::take_sized;

/// Most messages in a batch (the Java client's default).
const BATCH_MAX: u32 = 1000;

/// Why a message cannot be handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// A code for machines.
    pub reason: &'static str,
    /// For people.
    pub detail: String,
}

impl Unfit {
    /// More bytes than are taken.
    pub fn too_large(bytes: usize) -> Self {
        let detail = format!("it has {bytes} bytes; at most {MESSAGE_BYTES_MAX} are taken");
        Self { reason: "too-large", detail }
    }

    /// Not what was sent.
    pub fn damaged(why: &str) -> Self {
        Self { reason: "damaged", detail: why.to_owned() }
    }

    fn foreign(why: &str) -> Self {
        Self { reason: "not-as-sent-by-tidegate", detail: why.to_owned() }
    }
}

/// How many messages the entry holds, and so how many permits the broker counts for it.
pub fn messages(metadata: &MessageMetadata) -> u32 {
    metadata.num_messages_in_batch.and_then(|n| u32::try_from(n).ok()).unwrap_or(1).max(1)
}

/// The messages of an entry; none for Pulsar's own markers.
pub fn read(metadata: &MessageMetadata, payload: Bytes) -> Result<Vec<Bytes>, Unfit> {
    if metadata.marker_type.is_some() {
        return Ok(Vec::new());
    }
    if metadata.num_chunks_from_msg.unwrap_or(1) > 1 {
        let total = metadata.total_chunk_msg_size.and_then(|n| usize::try_from(n).ok());
        return Err(match total.filter(|n| *n > MESSAGE_BYTES_MAX) {
            Some(bytes) => Unfit::too_large(bytes),
            None => Unfit::foreign("it was sent in chunks; switch chunking off at its producer"),
        });
    }
    if !metadata.encryption_keys.is_empty() {
        return Err(Unfit::foreign("it is encrypted; switch encryption off at its producer"));
    }
    let payload = decompress(metadata, payload)?;
    if payload.len() > MESSAGE_BYTES_MAX {
        return Err(Unfit::too_large(payload.len()));
    }
    // Also a batch of one says so; without the field the payload is the message.
    match metadata.num_messages_in_batch {
        None => Ok(vec![payload]),
        Some(_) => batch(messages(metadata), payload),
    }
}

fn decompress(metadata: &MessageMetadata, payload: Bytes) -> Result<Bytes, Unfit> {
    let size = metadata.uncompressed_size.unwrap_or(0) as usize;
    if metadata.compression() != CompressionType::None && size > MESSAGE_BYTES_MAX {
        return Err(Unfit::too_large(size));
    }
    let failed = |e: std::io::Error| Unfit::damaged(&format!("it cannot be decompressed: {e}"));
    let plain = match metadata.compression() {
        CompressionType::None => return Ok(payload),
        // Pulsar's LZ4 is the bare block; the size stands in the metadata.
        CompressionType::Lz4 => {
            let size = i32::try_from(size).unwrap_or(i32::MAX); // at most a megabyte
            lz4::block::decompress(&payload, Some(size)).map_err(failed)?
        }
        CompressionType::Zstd => zstd::bulk::decompress(&payload, size).map_err(failed)?,
        CompressionType::Zlib => {
            let mut plain = Vec::with_capacity(size);
            let bound = size as u64 + 1;
            flate2::read::ZlibDecoder::new(&payload[..]).take(bound).read_to_end(&mut plain).map_err(failed)?;
            plain
        }
        CompressionType::Snappy => {
            return Err(Unfit::foreign("it is compressed with Snappy; use none, LZ4, Zlib or Zstd at its producer"));
        }
    };
    if plain.len() != size {
        return Err(Unfit::damaged("its size after decompression is not what it says"));
    }
    Ok(plain.into())
}

/// (metadata size · metadata · data) for each message.
fn batch(count: u32, mut payload: Bytes) -> Result<Vec<Bytes>, Unfit> {
    if count > BATCH_MAX {
        return Err(Unfit::foreign(&format!("it is a batch of {count} messages; at most {BATCH_MAX} are taken")));
    }
    let mut found = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let damaged = || Unfit::damaged("its batch ends before its messages do");
        let metadata = take_sized(&mut payload).ok_or_else(damaged)?;
        let metadata = SingleMessageMetadata::decode(metadata).map_err(|e| Unfit::damaged(&e.to_string()))?;
        let size = usize::try_from(metadata.payload_size).ok().filter(|n| *n <= payload.len()).ok_or_else(damaged)?;
        let data = payload.split_to(size);
        if !metadata.compacted_out.unwrap_or(false) {
            found.push(data);
        }
    }
    Ok(found)
}
