//! Takes a request's body off the wire: never more than the limits, never longer than the time-out.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

use super::budget::{Exhausted, Lease};
use crate::ingest::refusal::{Kind, Refusal};

/// How much of a body is taken.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes as sent.
    pub max_bytes: u64,
    /// From the first wait to the last byte.
    pub timeout: Duration,
}

/// Reads `body` to its end. What it holds in memory is charged to `lease`.
/// A length that is announced too large is refused before a byte is read (and before "100 Continue" is sent).
pub async fn gather<B>(body: &mut B, bounds: Bounds, lease: &mut Lease) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    if body.size_hint().lower() > bounds.max_bytes {
        return Err(too_large(bounds.max_bytes));
    }
    match tokio::time::timeout(bounds.timeout, read(body, bounds.max_bytes, lease)).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::new(
            Kind::BodyTimeout,
            format!("the body did not arrive within {} s; send less at once", bounds.timeout.as_secs_f32()),
        )),
    }
}

async fn read<B>(body: &mut B, max_bytes: u64, lease: &mut Lease) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let Some(first) = next(body).await? else { return Ok(Bytes::new()) };
    check(first.len() as u64, max_bytes)?;
    lease.grow(first.len()).map_err(memory_full)?;
    // Nearly every body comes in one piece: it is used where hyper has put it, without a copy.
    if body.is_end_stream() {
        return Ok(first);
    }
    let Some(second) = next(body).await? else { return Ok(first) };
    let mut whole = Vec::new();
    append(&mut whole, &first, max_bytes, lease)?;
    append(&mut whole, &second, max_bytes, lease)?;
    while let Some(chunk) = next(body).await? {
        append(&mut whole, &chunk, max_bytes, lease)?;
    }
    Ok(whole.into())
}

fn append(whole: &mut Vec<u8>, chunk: &Bytes, max_bytes: u64, lease: &mut Lease) -> Result<(), Refusal> {
    check((whole.len() + chunk.len()) as u64, max_bytes)?;
    if whole.capacity() - whole.len() < chunk.len() {
        let add = more_room(whole.len(), max_bytes).max(chunk.len());
        lease.grow(add).map_err(memory_full)?;
        whole.reserve_exact(add);
    }
    whole.extend_from_slice(chunk);
    Ok(())
}

/// By how much to enlarge a buffer of `length` bytes: half of it, so that copying stays cheap, in steps that do
/// not take much more of the budget than the body needs, and not beyond what may come.
pub fn more_room(length: usize, max_bytes: u64) -> usize {
    let room = usize::try_from(max_bytes).unwrap_or(usize::MAX).saturating_sub(length).saturating_add(1);
    (length / 2).clamp(ROOM_BYTES_MIN, ROOM_BYTES_MAX).min(room)
}

/// One of hyper's reads.
const ROOM_BYTES_MIN: usize = 16 << 10;

/// Sixteen steps to the largest body there is by default.
const ROOM_BYTES_MAX: usize = 4 << 20;

/// The next piece that holds data; trailers are passed over.
async fn next<B>(body: &mut B) -> Result<Option<Bytes>, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            Refusal::new(
                Kind::MalformedBody,
                format!("the body ended before it was complete, or is framed wrongly: {e}"),
            )
        })?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn check(length: u64, max_bytes: u64) -> Result<(), Refusal> {
    if length > max_bytes { Err(too_large(max_bytes)) } else { Ok(()) }
}

fn too_large(max_bytes: u64) -> Refusal {
    Refusal::new(
        Kind::BodyTooLarge,
        format!("the body has more than {max_bytes} bytes; send several requests, or raise http.max_body"),
    )
}

/// The answer when the budget for bodies is used up: by others, or by this one alone.
pub fn memory_full(exhausted: Exhausted) -> Refusal {
    match exhausted {
        Exhausted::Now => Refusal::new(
            Kind::MemoryFull,
            "the gateway holds as many bodies as http.max_memory allows; nothing was stored, send it again in a moment",
        ),
        Exhausted::Ever => Refusal::new(
            Kind::BodyTooLarge,
            "the request needs more memory than http.max_memory allows for all; send several requests, or raise it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;
    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use prometheus_client::metrics::gauge::Gauge;

    fn bounds(max_bytes: u64) -> Bounds {
        Bounds { max_bytes, timeout: Duration::from_secs(5) }
    }

    fn pieces(
        parts: Vec<Result<&'static [u8], &'static str>>,
    ) -> impl Body<Data = Bytes, Error = &'static str> + Unpin {
        StreamBody::new(stream::iter(parts.into_iter().map(|p| p.map(|b| Frame::data(Bytes::from_static(b))))))
    }

    #[tokio::test]
    async fn pieces_become_one_and_are_charged() {
        let budget = Budget::new(1 << 20, Gauge::default());
        let mut lease = budget.lease();
        let body = gather(&mut pieces(vec![Ok(b"ab"), Ok(b""), Ok(b"cd")]), bounds(4), &mut lease).await;
        assert_eq!(body.unwrap(), "abcd");
        assert!(budget.used() >= 4);
    }

    #[tokio::test]
    async fn every_limit_refuses() {
        let budget = Budget::new(100_000, Gauge::default());
        let kind = |r: Result<Bytes, Refusal>| r.unwrap_err().kind;
        let over = gather(&mut pieces(vec![Ok(b"ab"), Ok(b"cd")]), bounds(3), &mut budget.lease()).await;
        assert_eq!(kind(over), Kind::BodyTooLarge);
        let announced = gather(&mut Full::new(Bytes::from_static(b"abcd")), bounds(3), &mut budget.lease()).await;
        assert_eq!(kind(announced), Kind::BodyTooLarge);
        let cut = gather(&mut pieces(vec![Ok(b"ab"), Err("cut")]), bounds(9), &mut budget.lease()).await;
        assert_eq!(kind(cut), Kind::MalformedBody);
        let big: &'static [u8] = vec![0; 60_000].leak();
        let whole = || pieces(vec![Ok(big), Ok(big)]);
        assert_eq!(kind(gather(&mut whole(), bounds(1 << 20), &mut budget.lease()).await), Kind::BodyTooLarge);
        let mut other = budget.lease();
        other.grow(50_000).unwrap();
        assert_eq!(kind(gather(&mut whole(), bounds(1 << 20), &mut budget.lease()).await), Kind::MemoryFull);
        drop(other);
        assert_eq!(budget.used(), 0, "every lease was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_is_given_up() {
        let budget = Budget::new(100, Gauge::default());
        let mut stuck = StreamBody::new(stream::pending::<Result<Frame<Bytes>, &'static str>>());
        let result = gather(&mut stuck, bounds(9), &mut budget.lease()).await;
        assert_eq!(result.unwrap_err().kind, Kind::BodyTimeout);
    }
}
