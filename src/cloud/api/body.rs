//! A request's body: of bounded size, read in bounded time, and all of them together in bounded memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::http::StatusCode;

use super::answer::Problem;

/// Time for a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of all bodies that are being read or answered: eight of the largest orders. What a body needs in memory may be
/// twice that while it grows.
const ALL_BYTES_MAX: usize = 64 << 20;

/// Room is given in pieces of this size: fewer would need a count of more than 32 bits nowhere, and no body is smaller.
const PIECE: usize = 1 << 10;

/// Room for the bodies of all requests. Clones share it.
#[derive(Clone, Debug)]
pub struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL_BYTES_MAX / PIECE)))
    }
}

/// A whole body, and its room until it is dropped.
#[derive(Debug, Default)]
pub struct Body {
    /// What it holds.
    pub bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// Makes sure of the room for so many bytes in all.
    fn reserve(&mut self, bytes: usize, bodies: &Bodies) -> Result<(), Problem> {
        let has = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(bytes.div_ceil(PIECE).saturating_sub(has)).unwrap_or(u32::MAX);
        if more == 0 {
            return Ok(());
        }
        let full = |_| {
            let text =
                format!("other requests' bodies fill the {ALL_BYTES_MAX} bytes that there are for all; try again");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, text)
        };
        let room = bodies.0.clone().try_acquire_many_owned(more).map_err(full)?;
        match &mut self.room {
            Some(had) => had.merge(room),
            None => self.room = Some(room),
        }
        Ok(())
    }
}

impl Bodies {
    /// Reads a body of at most `bytes_max`; dropped, it gives its room back.
    pub async fn gather<B: Buf>(
        &self,
        body: impl Stream<Item = Result<B, warp::Error>>,
        bytes_max: usize,
    ) -> Result<Body, Problem> {
        let slow = || {
            let text = format!("the body took more than {} s", BODY_TIMEOUT.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, text)
        };
        let whole = self.whole(body, bytes_max);
        tokio::time::timeout(BODY_TIMEOUT, whole).await.unwrap_or_else(|_| Err(slow()))
    }

    async fn whole<B: Buf>(
        &self,
        body: impl Stream<Item = Result<B, warp::Error>>,
        bytes_max: usize,
    ) -> Result<Body, Problem> {
        let (mut body, mut whole) = (std::pin::pin!(body), Body::default());
        while let Some(chunk) = body.next().await {
            let mut chunk =
                chunk.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, format!("the body broke off: {e}")))?;
            let bytes = whole.bytes.len() + chunk.remaining();
            if bytes > bytes_max {
                return Err(too_large(bytes_max));
            }
            whole.reserve(bytes, self)?;
            while chunk.has_remaining() {
                let part = chunk.chunk();
                whole.bytes.extend_from_slice(part);
                let read = part.len();
                chunk.advance(read);
            }
        }
        Ok(whole)
    }
}

/// The refusal of a body that is larger.
pub fn too_large(bytes_max: usize) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {bytes_max} bytes"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;

    use super::*;

    const MIB: usize = 1 << 20;

    fn chunks(n: usize) -> impl Stream<Item = Result<Bytes, warp::Error>> {
        stream::iter((0..n).map(|_| Ok(Bytes::from(vec![b' '; MIB]))))
    }

    fn status(gathered: Result<Body, Problem>) -> u16 {
        gathered.map_or_else(|problem| problem.response().status().as_u16(), |_| 200)
    }

    #[tokio::test]
    async fn all_bodies_together_have_bounded_room_and_give_it_back() {
        let bodies = Bodies::default();
        assert_eq!(status(bodies.gather(chunks(9), 8 * MIB).await), 413);
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(bodies.gather(chunks(8), 8 * MIB).await.unwrap());
        }
        assert_eq!(status(bodies.gather(chunks(1), 8 * MIB).await), 503);
        held.pop();
        assert_eq!(status(bodies.gather(chunks(9), 9 * MIB).await), 503, "what did not fit is given back");
        assert_eq!(bodies.gather(chunks(8), 8 * MIB).await.unwrap().bytes.len(), 8 * MIB);
        drop(held);
        assert_eq!(bodies.0.available_permits(), ALL_BYTES_MAX / PIECE);
    }
}
