//! MQTT over WebSocket (MQTT 5.0 §6, 3.1.1 §6): the upgrade, and the bytes in binary frames as a plain stream.
//!
//! Frames and packets have nothing to do with each other: a packet may span frames and a frame hold many packets. So frames are
//! taken apart as they come and are never gathered. The crate that does the upgrade would gather whole messages, outside of what
//! is counted, keep the largest frame's buffer for as long as the connection lives, and queue pongs for a peer that does not read
//! (tungstenite 0.30, read in its source).

mod frames;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{Request, create_response, write_response};
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, StatusCode};

use frames::{Reader, Small};

/// The sub-protocol (MQTT-6.0.0-3).
const PROTOCOL: &str = "mqtt";

/// Most bytes of the request that asks for the upgrade: browsers send cookies.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Most payload of a frame to the client: few clients can take a message piece by piece, and what is begun is to be ended.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// A byte stream inside a WebSocket.
pub struct WebSocket<S> {
    stream: S,
    reader: Reader,
    /// What came behind the request.
    early: Vec<u8>,
    /// Goes out before all else.
    out: Small,
    /// What is left of the payload of the frame that has begun.
    frame_left: usize,
    /// A control frame that waits for the end of that. A later one takes its place.
    answer: Option<Small>,
    closing: bool,
}

/// Upgrades `stream`. Errors: a request that is no upgrade, or does not offer the sub-protocol `mqtt`; the latter has been answered.
pub async fn accept<S>(mut stream: S) -> io::Result<WebSocket<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    let (used, request) = loop {
        if let Some(parsed) = Request::try_parse(&head).map_err(io_error)? {
            break parsed;
        }
        if head.len() >= REQUEST_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request for an upgrade is too long"));
        }
        let room = REQUEST_BYTES_MAX - head.len();
        if (&mut stream).take(room as u64).read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let mut response = create_response(&request).map_err(io_error)?;
    let mut answer = Vec::new();
    if !offers(&request) {
        let text = "this is MQTT: offer the WebSocket sub-protocol \"mqtt\" (MQTT 5.0 section 6)\n";
        let mut refusal = Response::new(());
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        refusal.headers_mut().insert("content-length", text.len().into());
        write_response(&mut answer, &refusal).map_err(io_error)?;
        answer.extend_from_slice(text.as_bytes());
        stream.write_all(&answer).await?;
        stream.flush().await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the sub-protocol mqtt is not offered"));
    }
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    write_response(&mut answer, &response).map_err(io_error)?;
    stream.write_all(&answer).await?;
    stream.flush().await?;
    let early = head.split_off(used);
    let (reader, out) = (Reader::default(), Small::EMPTY);
    Ok(WebSocket { stream, reader, early, out, frame_left: 0, answer: None, closing: false })
}

/// The client must offer `mqtt`, and is told that it was chosen (MQTT-6.0.0-3, MQTT-6.0.0-4).
fn offers(request: &Request) -> bool {
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    offers.flat_map(|v| v.split(',')).any(|offer| offer.trim() == PROTOCOL)
}

fn io_error(e: Error) -> io::Error {
    match e {
        Error::Io(e) => e,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Takes what was read apart: what of it from `start` is payload stays in `buf`. `true`: the peer has closed.
    fn take_apart(&mut self, buf: &mut ReadBuf<'_>, start: usize, cx: &mut Context<'_>) -> io::Result<bool> {
        let fed = self.reader.feed(&mut buf.filled_mut()[start..]).map_err(|fault| {
            (self.answer, self.closing) = (Some(Small::refusal(fault)), true);
            io::Error::new(io::ErrorKind::InvalidData, fault)
        });
        let fed = match fed {
            Ok(fed) => fed,
            Err(fault) => {
                buf.set_filled(start);
                let _ = self.poll_answer(cx);
                return Err(fault);
            }
        };
        buf.set_filled(start + fed.payload);
        if let Some(answer) = fed.answer {
            self.answer = Some(answer);
            self.closing |= fed.closed;
        }
        if self.answer.is_some()
            && let Poll::Ready(Err(e)) = self.poll_answer(cx)
        {
            return Err(e);
        }
        Ok(fed.closed)
    }

    /// Writes the control frame that waits, if no other frame has begun.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        if self.frame_left == 0
            && let Some(answer) = self.answer.take()
        {
            self.out = answer;
            ready!(self.poll_out(cx))?;
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what goes before all else.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.left().is_empty() && self.frame_left == 0 {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, self.out.left()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.answer.is_some()
            && let Poll::Ready(Err(e)) = this.poll_answer(cx)
        {
            return Poll::Ready(Err(e));
        }
        let start = buf.filled().len();
        loop {
            if this.early.is_empty() {
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            } else {
                let n = this.early.len().min(buf.remaining());
                buf.put_slice(&this.early[..n]);
                this.early = this.early.split_off(n);
            }
            if buf.filled().len() == start {
                return Poll::Ready(Ok(()));
            }
            let closed = this.take_apart(buf, start, cx)?;
            if closed || buf.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    /// Once a part of `buf` was announced in a frame, the next calls must go on with it: a frame cannot be taken back.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.frame_left == 0 {
            ready!(this.poll_answer(cx))?;
            if buf.is_empty() {
                return Poll::Ready(Ok(0));
            }
            this.frame_left = buf.len().min(FRAME_BYTES_MAX);
            this.out = Small::header(this.frame_left);
        }
        loop {
            let payload = &buf[..buf.len().min(this.frame_left)];
            let slices = [IoSlice::new(this.out.left()), IoSlice::new(payload)];
            let slices = if this.out.left().is_empty() { &slices[1..] } else { &slices };
            let n = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_payload = n.saturating_sub(this.out.left().len());
            this.out.advance(n);
            this.frame_left -= of_payload;
            if of_payload > 0 {
                return Poll::Ready(Ok(of_payload));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // In the middle of a frame there is nothing to say.
        if !std::mem::replace(&mut self.closing, true) {
            self.answer = Some(Small::goodbye());
        }
        ready!(self.poll_answer(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
