//! The end of a connection: what is in flight is finished first, then the client is told why, then it may read that.

use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Connection;
use crate::ingest::mqtt::packet::{Disconnect, Packet, PacketError, Reason, Version};
use crate::ingest::mqtt::transport::Transport;

/// For what is in flight, and for the client to take the answers to it. A commit takes milliseconds.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// Closing while something is unread makes the kernel send a reset, and the client may never see why it was closed. So what
/// comes is read and thrown away for this long …
const LINGER_MAX: Duration = Duration::from_secs(1);

/// … or until this much came.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// A client that cannot be told that its message could not be stored now comes back with it at once. A whole site of them would keep the
/// gateway busy with nothing else.
const REST: Duration = Duration::from_secs(1);

/// Why, and how far.
pub struct End {
    /// When it is over in any case.
    pub until: Instant,
    /// It is not over before.
    rest: Option<Instant>,
    /// What the client is told; `None`: it was told already, or there is nothing to say.
    farewell: Option<Packet>,
}

impl End {
    /// When to look at it again.
    pub fn next(&self) -> Instant {
        self.rest.filter(|rest| *rest > Instant::now()).unwrap_or(self.until)
    }
}

impl Connection {
    /// Begins the end. A client of 5.0 is told the reason if it is an error; the first reason stands.
    pub(super) fn end(&mut self, reason: Reason, why: &str) {
        // MQTT 3.1.1 has no DISCONNECT from the server.
        let told = reason.is_error() && self.decoder.version() == Some(Version::V5);
        let farewell = told.then(|| {
            let reason_string = (self.explains && !why.is_empty()).then(|| why.to_owned());
            Packet::Disconnect(Box::new(Disconnect { reason, session_expiry_s: None, reason_string }))
        });
        if reason.is_error() && self.end.is_none() {
            tracing::debug!(reason = reason.0, why, "connection ends");
        }
        self.begin_end(farewell);
    }

    /// The client sent what the standard forbids.
    pub(super) fn end_for_fault(&mut self, fault: &PacketError) {
        tracing::debug!(%fault, "connection ends");
        self.begin_end(fault.answer_packet().map(|(packet, _)| packet));
    }

    /// The client cannot be reached any more.
    pub(super) fn lost(&mut self) {
        self.gone = true;
        self.output.give_up_held();
        self.begin_end(None);
    }

    fn begin_end(&mut self, farewell: Option<Packet>) {
        if self.end.is_none() {
            self.paused = None;
            self.end = Some(Box::new(End { until: Instant::now() + FINISH_MAX, rest: None, farewell }));
        }
    }

    /// The end that has begun takes [`REST`] at least.
    pub(super) fn rest(&mut self) {
        if let Some(end) = &mut self.end {
            end.rest.get_or_insert_with(|| Instant::now() + REST);
        }
    }

    /// Whether the end is reached. Says the last word when it is time.
    pub(super) fn is_over(&mut self) -> bool {
        let Some(end) = &mut self.end else { return false };
        let late = end.until <= Instant::now();
        let finished =
            self.flights.is_empty() && self.results.is_empty() && (self.gone || self.output.waits_for().is_none());
        let rests = !self.gone && end.rest.is_some_and(|rest| rest > Instant::now());
        if (!finished || rests) && !late {
            return false;
        }
        if let Some(farewell) = end.farewell.take()
            && !self.gone
        {
            // The one error would be a text that is too long, and texts are ours.
            let _ = self.output.at_once(farewell);
        }
        late || self.gone || self.output.is_written()
    }
}

/// Gives the place at the broker back, which publishes the will where there is one, and closes the socket.
#[allow(clippy::boxed_local)] // it is boxed where it comes from
pub async fn close(connection: Box<Connection>) {
    let Connection { seat, mut stream, gone, .. } = *connection;
    drop(seat);
    if !gone {
        let _ = tokio::time::timeout(LINGER_MAX, Box::pin(linger(&mut stream))).await;
    }
}

/// Closes our half and waits for the other.
pub async fn linger(stream: &mut Transport) -> io::Result<()> {
    std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_shutdown(cx)).await?;
    let mut left = LINGER_BYTES_MAX;
    std::future::poll_fn(|cx| {
        let mut scratch = [0; 1 << 10];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
            left = left.saturating_sub(buf.filled().len());
            if buf.filled().is_empty() || left == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    })
    .await
}
