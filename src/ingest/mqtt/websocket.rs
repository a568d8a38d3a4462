//! MQTT over WebSocket (MQTT 5.0 §6, 3.1.1 §6): the upgrade, and the bytes in binary frames as a plain stream.
//!
//! Frames and packets have nothing to do with each other: a packet may span frames and a frame hold many packets.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::accept_hdr_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

/// The sub-protocol (MQTT-6.0.0-3).
const PROTOCOL: &str = "mqtt";

/// Kept per connection while it lives. The crate's own 128 KiB would be more than everything else of an idle connection.
const BUFFER_BYTES: usize = 2 << 10;

/// Clients put many small packets into one frame; a frame may be this large even where packets may not.
const FRAME_BYTES_MIN: usize = 64 << 10;

/// A byte stream inside a WebSocket.
pub struct WebSocket<S> {
    socket: WebSocketStream<S>,
    /// The rest of the frame that came last.
    frame: Bytes,
}

/// Upgrades `stream`. A frame, and a message of several, has at most `max_packet` bytes, or [`FRAME_BYTES_MIN`].
/// Errors: a request that is no upgrade, or does not offer the sub-protocol `mqtt`; it has been answered then.
pub async fn accept<S>(stream: S, max_packet: u32) -> io::Result<WebSocket<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let bytes_max = Some((max_packet as usize).max(FRAME_BYTES_MIN));
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(bytes_max)
        .max_frame_size(bytes_max);
    let socket = accept_hdr_async_with_config(stream, agree, Some(config)).await.map_err(io_error)?;
    Ok(WebSocket { socket, frame: Bytes::new() })
}

/// The client must offer `mqtt`, and is told that it was chosen (MQTT-6.0.0-3, MQTT-6.0.0-4).
#[allow(clippy::result_large_err)] // the crate's signature
fn agree(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    if offers.flat_map(|v| v.split(',')).any(|offer| offer.trim() == PROTOCOL) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
        return Ok(response);
    }
    let text = "this is MQTT: offer the WebSocket sub-protocol \"mqtt\" (MQTT 5.0 section 6)\n";
    let mut refusal = ErrorResponse::new(Some(text.to_owned()));
    *refusal.status_mut() = StatusCode::BAD_REQUEST;
    Err(refusal)
}

fn io_error(e: Error) -> io::Error {
    match e {
        Error::Io(e) => e,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.frame.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(frame))) => self.frame = frame,
                // The crate answers pings.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_))) => {
                    let reason = "MQTT is binary (MQTT-6.0.0-1)";
                    let close = CloseFrame { code: CloseCode::Unsupported, reason: reason.into() };
                    let _ = Pin::new(&mut self.socket).start_send(Message::Close(Some(close)));
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a text frame")));
                }
                Some(Err(e)) => return Poll::Ready(Err(io_error(e))),
            }
        }
        let n = self.frame.len().min(buf.remaining());
        buf.put_slice(&self.frame[..n]);
        self.frame.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let socket = &mut self.socket;
        ready!(Pin::new(&mut *socket).poll_ready(cx)).map_err(io_error)?;
        let frame = Message::Binary(Bytes::copy_from_slice(buf));
        Pin::new(socket).start_send(frame).map_err(io_error)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io_error)
    }
}
