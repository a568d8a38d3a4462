//! A file cut by content: an edit changes the chunks that it touches, not those after it. [pure]
//!
//! FastCDC as of 2020 (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage
//! Systems"). Where it cuts is nobody's business but the cutter's: readers go by the index.

use std::io::{self, Read};

use fastcdc::v2020::StreamCDC;

use super::MODEL_BYTES_MAX;
use super::hash::{Hash, Hasher};

/// How long chunks are, in bytes; even numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Shortest, but for the last one of a file.
    pub min: usize,
    /// As long as most are about.
    pub avg: usize,
    /// Longest.
    pub max: usize,
}

impl Sizes {
    /// Those of packs. Shorter chunks find more that is the same, longer ones need fewer hashes (42 bytes of index each):
    /// at 64 KiB the index is a thousandth of the model.
    pub const STANDARD: Self = Self { min: 16 << 10, avg: 64 << 10, max: 256 << 10 };
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Names and proves it.
    pub hash: Hash,
    /// From the file's beginning, in bytes.
    pub offset: u64,
    /// In bytes, at least 1.
    pub length: u32,
}

/// A file that was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// All of the file, in its order.
    pub chunks: Vec<Chunk>,
    /// Bytes of the file.
    pub size: u64,
    /// Of the whole file.
    pub hash: Hash,
}

/// Reads `file` to its end and cuts it; holds two chunks in memory. Fails as `file` does, and if it has more than
/// [`MODEL_BYTES_MAX`].
pub fn cut(file: impl Read, sizes: Sizes) -> io::Result<Cut> {
    let (mut chunks, mut size, mut whole) = (Vec::new(), 0_u64, Hasher::default());
    for found in StreamCDC::new(file.take(MODEL_BYTES_MAX + 1), sizes.min, sizes.avg, sizes.max) {
        let data = found?.data;
        let too_long = || io::Error::other("a chunk is longer than asked for");
        let length =
            u32::try_from(data.len()).ok().filter(|length| *length as usize <= sizes.max).ok_or_else(too_long)?;
        chunks.push(Chunk { hash: Hash::of(&data), offset: size, length });
        size += u64::from(length);
        whole.update(&data);
    }
    if size > MODEL_BYTES_MAX {
        let message = format!("the model has more than {MODEL_BYTES_MAX} bytes; a larger one cannot be distributed");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(Cut { chunks, size, hash: whole.hash() })
}
