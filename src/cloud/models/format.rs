//! Whether a file is what its manifest says it is.
//!
//! An ONNX model is one protobuf message, `ModelProto` of onnx.proto3: field 1 is `ir_version`, field 7 the graph. Only its
//! outermost fields are walked through: a file that was cut off, or that is something else, is found out before a gateway
//! fetches it; whether the graph can be run, a gateway finds out.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use crate::models::manifest::Format;

/// `ModelProto.ir_version`.
const IR_VERSION: u64 = 1;

/// `ModelProto.graph`.
const GRAPH: u64 = 7;

/// Most outermost fields: a model has a dozen, and one each for its functions and metadata.
const FIELDS_MAX: usize = 100_000;

/// Why it is not.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It is something else, or not all of it is there.
    #[error("the file is no ONNX model: {0}; publish the model itself, or say that its format is opaque")]
    NotOnnx(&'static str),
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Looks at `file`, of `size` bytes, from its beginning.
pub fn check(format: Format, file: impl Read + Seek, size: u64) -> Result<(), FormatError> {
    match format {
        Format::Opaque => Ok(()),
        Format::Onnx => onnx(file, size),
    }
}

fn onnx(file: impl Read + Seek, size: u64) -> Result<(), FormatError> {
    let wrong = FormatError::NotOnnx;
    let (mut from, mut at, mut has_version, mut has_graph) = (BufReader::new(file), 0, false, false);
    from.seek(SeekFrom::Start(0))?;
    for _ in 0..FIELDS_MAX {
        if at == size {
            return match (has_version, has_graph) {
                (true, true) => Ok(()),
                (false, _) => Err(wrong("it has no ir_version")),
                (true, false) => Err(wrong("it has no graph")),
            };
        }
        let tag = varint(&mut from, &mut at)?;
        let skipped = match (tag & 7, tag >> 3) {
            (_, 0) => return Err(wrong("it is no protobuf message")),
            (0, field) => {
                let value = varint(&mut from, &mut at)?;
                has_version |= field == IR_VERSION && value > 0;
                0
            }
            (1, _) => 8,
            (2, field) => {
                let length = varint(&mut from, &mut at)?;
                has_graph |= field == GRAPH && length > 0;
                length
            }
            (5, _) => 4,
            _ => return Err(wrong("it is no protobuf message")),
        };
        at = at.checked_add(skipped).filter(|end| *end <= size).ok_or(wrong("it ends too early"))?;
        from.seek_relative(i64::try_from(skipped).map_err(|_| wrong("it ends too early"))?)?;
    }
    Err(wrong("it has too many fields"))
}

/// Protobuf's: seven bits a byte, the lowest first.
fn varint(from: &mut impl BufRead, at: &mut u64) -> Result<u64, FormatError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        match from.read_exact(&mut byte) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(FormatError::NotOnnx("it ends too early"));
            }
            read => read?,
        }
        *at += 1;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(value);
        }
    }
    Err(FormatError::NotOnnx("it is no protobuf message"))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn looked(bytes: &[u8]) -> Result<(), FormatError> {
        check(Format::Onnx, Cursor::new(bytes), bytes.len() as u64)
    }

    /// ir_version 8, producer "t", a graph of `graph` bytes.
    fn model(graph: usize) -> Vec<u8> {
        let mut bytes = vec![0x08, 8, 0x12, 1, b't', 0x3a, (graph & 0x7f) as u8 | 0x80, (graph >> 7) as u8];
        bytes.resize(bytes.len() + graph, 7);
        bytes
    }

    #[test]
    fn a_model_is_told_from_a_part_of_it_and_from_something_else() {
        assert!(looked(&model(300)).is_ok());
        for part in 0..model(300).len() {
            assert!(looked(&model(300)[..part]).is_err(), "{part}");
        }
        for other in [&b"PK\x03\x04 a zip"[..], b"\x89PNG\r\n", b"# pickle", b"{\"a\":1}", &[0x08, 8], &[0xff; 40]] {
            assert!(looked(other).is_err(), "{other:?}");
        }
        assert!(check(Format::Opaque, Cursor::new(b"anything"), 8).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = looked(&bytes);
        }
    }
}
