//! The link's open connections: what is to be written goes out, what comes in is cut into frames. One task reads and
//! writes all of them, and an idle one holds no buffer beyond a few kilobytes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use pulsar::message::proto::BaseCommand;
use tokio::io::AsyncWrite as _;
use tokio_util::io::poll_read_buf;

use super::frames::{Frame, Frames};
use crate::pulsar::wire::connection::Io;
use crate::pulsar::wire::{Connection, LinkError, frame};

/// A connection that is given up has this long to send its last words, and the broker to hear them.
pub const FINISH_MAX: Duration = Duration::from_secs(1);

/// Nothing is read from a broker that leaves this much unread of ours: all reports at once, and what answers them.
const OUTPUT_BYTES_MAX: usize = 2 << 20;

/// Buffers that grew for a message are given back when they are larger than this.
const BUFFER_KEPT_BYTES: usize = 4 << 10;

/// What came of a connection.
pub enum Event {
    /// Bytes.
    Heard,
    /// A frame.
    Frame(Frame),
    /// It is over.
    Lost(LinkError),
}

struct Wire {
    id: u64,
    broker: String,
    io: Box<dyn Io>,
    frames: Frames,
    input: BytesMut,
    output: BytesMut,
    /// TLS gathers records: what was written is not all on its way yet.
    unflushed: bool,
    /// Given up: until when it may last, and whether our side is closed.
    finishing: Option<(Instant, bool)>,
}

/// All connections that are up.
#[derive(Default)]
pub struct Wires(Vec<Wire>);

impl Wires {
    /// Takes over a connection.
    pub fn add(&mut self, id: u64, connection: Connection) {
        let Connection { io, input, broker, .. } = connection;
        let (frames, output) = (Frames::default(), BytesMut::new());
        self.0.push(Wire { id, broker, io, frames, input, output, unflushed: false, finishing: None });
    }

    /// Forgets one.
    pub fn remove(&mut self, id: u64) {
        self.0.retain(|w| w.id != id);
    }

    /// Forgets one when it has sent what it has.
    pub fn finish(&mut self, id: u64, now: Instant) {
        if let Some(wire) = self.0.iter_mut().find(|w| w.id == id) {
            wire.finishing = Some((now + FINISH_MAX, false));
        }
    }

    /// Sends a command; for a connection that is gone, nothing.
    pub fn send(&mut self, id: u64, command: &BaseCommand) {
        self.write(id, |out| frame::command(out, command));
    }

    /// Lets `write` append to what is sent.
    pub fn write(&mut self, id: u64, write: impl FnOnce(&mut BytesMut)) {
        if let Some(wire) = self.0.iter_mut().find(|w| w.id == id) {
            write(&mut wire.output);
        }
    }

    /// When [`Wires::expire`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.iter().filter_map(|w| w.finishing.map(|(until, _)| until)).min()
    }

    /// Forgets those that have had their time.
    pub fn expire(&mut self, now: Instant) {
        self.0.retain(|w| w.finishing.is_none_or(|(until, _)| until > now));
    }

    /// Waits for those that are given up.
    pub async fn finished(&mut self) {
        std::future::poll_fn(|cx| {
            self.poll_finishing(cx);
            if self.0.iter().any(|w| w.finishing.is_some()) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Writes, reads, and says what came first.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(u64, Event)> {
        self.poll_finishing(cx);
        for wire in self.0.iter_mut().filter(|w| w.finishing.is_none()) {
            if let Poll::Ready(event) = wire.poll(cx) {
                let id = wire.id;
                if matches!(event, Event::Lost(_)) {
                    self.remove(id);
                }
                return Poll::Ready((id, event));
            }
        }
        Poll::Pending
    }

    fn poll_finishing(&mut self, cx: &mut Context<'_>) {
        self.0.retain_mut(|wire| wire.finishing.is_none() || wire.poll_finishing(cx).is_pending());
    }
}

impl Wire {
    fn lost(&self, reason: impl ToString) -> Event {
        Event::Lost(LinkError::Lost { broker: self.broker.clone(), reason: reason.to_string() })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(Err(e)) = self.poll_write(cx) {
            return Poll::Ready(self.lost(e));
        }
        if self.output.len() > OUTPUT_BYTES_MAX {
            return Poll::Pending;
        }
        match self.frames.next(&mut self.input) {
            Ok(Some(frame)) => return Poll::Ready(Event::Frame(frame)),
            Ok(None) => {}
            Err(e) => return Poll::Ready(Event::Lost(LinkError::protocol(&self.broker, e))),
        }
        if self.input.is_empty() && self.input.capacity() > BUFFER_KEPT_BYTES {
            self.input = BytesMut::new();
        }
        self.input.reserve(self.frames.room(&self.input));
        match ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input)) {
            Ok(0) => Poll::Ready(self.lost("closed by the other end")),
            Ok(_) => Poll::Ready(Event::Heard),
            Err(e) => Poll::Ready(self.lost(e)),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
            self.unflushed = true;
        }
        if self.output.capacity() > BUFFER_KEPT_BYTES {
            self.output = BytesMut::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the rest, closes our side, and waits for the other: then the broker has done what it was told.
    fn poll_finishing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((until, closed)) = self.finishing else { return Poll::Ready(()) };
        if !closed {
            if ready!(self.poll_write(cx)).is_err() || ready!(Pin::new(&mut self.io).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            self.finishing = Some((until, true));
        }
        loop {
            self.input.clear();
            self.input.reserve(BUFFER_KEPT_BYTES);
            if ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input)).unwrap_or(0) == 0 {
                return Poll::Ready(());
            }
        }
    }
}
