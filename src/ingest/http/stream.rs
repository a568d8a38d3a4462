//! A connection's bytes, with what hyper lacks: a bound on writing to a peer that does not read, and a close
//! that lets the peer read its refusal.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Longest time without a byte taken by a peer that has an answer coming. Answers are small: only a peer that
/// never reads, or is gone, gets here.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// When a request is refused before its body was read, closing at once makes the kernel send a reset, and the
/// sender, still writing, may never see why. So the rest is read and thrown away for this long …
const LINGER_MAX: Duration = Duration::from_secs(5);

/// … or until this much came: enough for a sender of 100 MB that looks at the answer only afterwards.
const LINGER_BYTES_MAX: usize = 256 << 20;

/// A byte stream, plain or TLS.
pub struct Guarded<S> {
    stream: S,
    /// Set by whoever refuses a request and leaves a part of its body unread.
    unread: Arc<AtomicBool>,
    stall: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
}

struct Linger {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl<S> Guarded<S> {
    pub fn new(stream: S, unread: Arc<AtomicBool>) -> Self {
        Self { stream, unread, stall: None, linger: None }
    }

    /// Passes a write's result on; one that is pending for too long becomes an error.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stall = None;
            return result;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + WRITE_STALL_MAX)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read its answers")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            let result = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.bounded(cx, result))?;
            if !self.unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let this = &mut *self;
        let linger = this.linger.get_or_insert_with(|| Linger {
            until: Box::pin(sleep_until(Instant::now() + LINGER_MAX)),
            bytes_left: LINGER_BYTES_MAX,
        });
        let mut scratch = [0; 16 << 10];
        loop {
            if linger.until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut scratch);
            // tokio's own budget makes this pending now and then, however much the peer sends.
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf));
            let n = buf.filled().len();
            linger.bytes_left = linger.bytes_left.saturating_sub(n);
            if read.is_err() || n == 0 || linger.bytes_left == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_reads_is_given_up() {
        let (ours, _theirs) = duplex(8);
        let mut guarded = Guarded::new(ours, Arc::default());
        let e = guarded.write_all(&[0; 9]).await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not() {
        use tokio::io::AsyncReadExt;
        let (ours, mut theirs) = duplex(1);
        let mut guarded = Guarded::new(ours, Arc::default());
        let reader = async {
            for _ in 0..5 {
                tokio::time::sleep(WRITE_STALL_MAX - Duration::from_secs(1)).await;
                theirs.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(guarded.write_all(&[0; 5]), reader);
        written.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_the_rest_only_if_some_is_unread() {
        for (unread, expected) in [(false, Duration::ZERO), (true, LINGER_MAX)] {
            let (ours, theirs) = duplex(1024);
            let mut guarded = Guarded::new(ours, Arc::new(AtomicBool::new(unread)));
            let begun = Instant::now();
            guarded.shutdown().await.unwrap();
            assert_eq!(begun.elapsed().as_secs(), expected.as_secs());
            drop(theirs);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_with_the_sender() {
        let (ours, mut theirs) = duplex(1024);
        let mut guarded = Guarded::new(ours, Arc::new(AtomicBool::new(true)));
        let sender = async {
            theirs.write_all(&[0; 100_000]).await.unwrap();
            drop(theirs);
        };
        let begun = Instant::now();
        let (closed, ()) = tokio::join!(guarded.shutdown(), sender);
        closed.unwrap();
        assert!(begun.elapsed() < LINGER_MAX);
    }
}
