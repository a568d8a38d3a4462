//! Compressed bodies: `Content-Encoding: gzip` and `zstd`, with a cap on what comes out.

use std::io::{self, Read};

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, HeaderMap};

use super::body::{memory_full, more_room};
use super::budget::Lease;
use crate::ingest::refusal::{Kind, Refusal};

/// What is taken, as `Accept-Encoding` says it (RFC 7694).
pub const ACCEPTED: &str = "gzip, zstd";

/// Largest window a zstd frame may ask for: 8 MiB, as RFC 9659 sets it for HTTP. The format allows
/// terabytes and the library 128 MiB: that much memory for a frame of a few bytes.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// Reads `Content-Encoding`; `None`: the body is as it is.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let name = value.to_str().unwrap_or_default().trim();
        let is = |n: &str| name.eq_ignore_ascii_case(n);
        match () {
            () if values.next().is_some() => Err(unsupported("several encodings")),
            () if is("identity") => Ok(None),
            () if is("gzip") || is("x-gzip") => Ok(Some(Self::Gzip)),
            () if is("zstd") => Ok(Some(Self::Zstd)),
            () => Err(unsupported(name)),
        }
    }
}

fn unsupported(name: &str) -> Refusal {
    Refusal::new(
        Kind::UnsupportedEncoding,
        format!("Content-Encoding {name:?} is not taken; send {ACCEPTED}, one of them, or no compression"),
    )
}

/// Decompresses `body`, at most to `max_bytes`. Blocks the thread: hand large bodies to one that may block.
pub fn inflate(encoding: Encoding, body: &Bytes, max_bytes: u64, lease: &mut Lease) -> Result<Bytes, Refusal> {
    let malformed = |e: io::Error| {
        Refusal::new(
            Kind::MalformedBody,
            format!("the body is not the {encoding:?} data that Content-Encoding says: {e}"),
        )
    };
    match encoding {
        // Several members in a row are one body (RFC 1952 §2.2).
        Encoding::Gzip => read_all(flate2::bufread::MultiGzDecoder::new(&body[..]), max_bytes, lease, malformed),
        Encoding::Zstd => {
            let mut frames = zstd::stream::read::Decoder::with_buffer(&body[..]).map_err(malformed)?;
            frames.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(malformed)?;
            read_all(frames, max_bytes, lease, malformed)
        }
    }
}

fn read_all(
    mut from: impl Read,
    max_bytes: u64,
    lease: &mut Lease,
    malformed: impl Fn(io::Error) -> Refusal,
) -> Result<Bytes, Refusal> {
    let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
    let mut out: Vec<u8> = Vec::new();
    let mut filled = 0;
    loop {
        if filled == out.len() {
            // (One byte beyond the limit shows that there is more.)
            let add = more_room(filled, max_bytes);
            lease.grow(add).map_err(memory_full)?;
            out.reserve_exact(add);
            out.resize(filled + add, 0);
        }
        match from.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(malformed(e)),
        }
        if filled > max {
            return Err(Refusal::new(
                Kind::InflatedTooLarge,
                format!(
                    "the body has more than {max} bytes once decompressed; send several requests, or raise http.max_inflated"
                ),
            ));
        }
    }
    out.truncate(filled);
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;
    use hyper::header::HeaderValue;
    use prometheus_client::metrics::gauge::Gauge;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Bytes {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(data).unwrap();
        out.finish().unwrap().into()
    }

    fn zstd(data: &[u8]) -> Bytes {
        zstd::encode_all(data, 3).unwrap().into()
    }

    fn run(encoding: Encoding, body: &Bytes, max: u64) -> Result<Bytes, Kind> {
        let budget = Budget::new(1 << 20, Gauge::default());
        inflate(encoding, body, max, &mut budget.lease()).map_err(|e| e.kind)
    }

    #[test]
    fn what_was_compressed_comes_back_at_exactly_the_limit() {
        for data in [&b"a"[..], &[7; 50_000]] {
            let max = data.len() as u64;
            for (encoding, body) in [(Encoding::Gzip, gzip(data)), (Encoding::Zstd, zstd(data))] {
                assert_eq!(run(encoding, &body, max).unwrap(), data);
                assert_eq!(run(encoding, &body, max - 1), Err(Kind::InflatedTooLarge));
                assert_eq!(run(encoding, &body.slice(..body.len() - 1), max), Err(Kind::MalformedBody));
            }
        }
    }

    #[test]
    fn a_bomb_is_stopped_by_the_limit_and_by_the_memory() {
        for (encoding, bomb) in [(Encoding::Gzip, gzip(&vec![0; 64 << 20])), (Encoding::Zstd, zstd(&vec![0; 64 << 20]))]
        {
            assert!(bomb.len() < 100_000);
            assert_eq!(run(encoding, &bomb, 100_000), Err(Kind::InflatedTooLarge));
            assert_eq!(run(encoding, &bomb, 1 << 30), Err(Kind::BodyTooLarge));
        }
    }

    #[test]
    fn a_frame_that_asks_for_a_huge_window_is_refused() {
        let mut out = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        out.window_log(27).unwrap();
        out.write_all(b"small").unwrap();
        assert_eq!(run(Encoding::Zstd, &out.finish().unwrap().into(), 100), Err(Kind::MalformedBody));
    }

    #[test]
    fn members_in_a_row_are_one_body() {
        let two = Bytes::from([gzip(b"one,"), gzip(b"two")].concat());
        assert_eq!(run(Encoding::Gzip, &two, 100).unwrap(), "one,two");
    }

    #[test]
    fn unknown_encodings_are_named() {
        let of = |v: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(v));
            Encoding::of(&headers)
        };
        assert_eq!(of("GZIP").unwrap(), Some(Encoding::Gzip));
        assert_eq!(of("identity").unwrap(), None);
        assert!(of("br").unwrap_err().detail.contains("\"br\""));
        assert_eq!(of("gzip, gzip").unwrap_err().kind, Kind::UnsupportedEncoding);
    }
}
