//! A device's commands as Server-Sent Events (WHATWG HTML §9.2): each one as it comes, until either side ends it.
//!
//! `id` is the command's id. With `Last-Event-ID` the stream goes on after that command; without, or if it is not known any
//! more, it begins with everything that waits: a device that lost its memory must leave the header out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio_util::sync::CancellationToken;

use super::take::fresh;
use super::{Place, Shared, in_time, json};
use crate::downlink::commands::{Commands, Via, Watch};
use crate::ingest::http::problem::Answer;
use crate::ingest::identity::Identity;
use crate::ingest::refusal::Refusal;

/// The header with which a client that connects again says what it saw last.
pub const LAST_EVENT_ID: &str = "last-event-id";

/// A comment is sent after this long without a command, so that both ends notice a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The head of the answer leaves with the first bytes: let the device know at once that it is on, and when to come back.
const GREETING: &[u8] = b"retry: 2000\n: listening\n\n";

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Listener {
    commands: Commands,
    watch: Watch,
    after: u64,
    greeted: bool,
    stopping: CancellationToken,
    /// Whose right to listen it is.
    identity: Identity,
    _place: Place,
}

/// Begins the stream after `place`.
pub fn open(shared: &Arc<Shared>, who: &Identity, device: &str, place: u64) -> Result<Answer, Refusal> {
    let commands = shared.gateway.commands.clone();
    let listener = Listener {
        _place: Place::take(shared)?,
        watch: commands.subscribe(device),
        commands,
        after: place,
        greeted: false,
        stopping: shared.stopping.child_token(),
        identity: who.clone(),
    };
    let body = UnsyncBoxBody::new(StreamBody::new(frames(listener)));
    let mut response = fresh(Response::new(Either::Right(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

fn frames(listener: Listener) -> impl Stream<Item = Result<Frame<Bytes>, Failure>> + Send {
    futures_util::stream::unfold(listener, |mut listener| async {
        let frame = listener.next().await?;
        Some((Ok(Frame::data(frame)), listener))
    })
}

impl Listener {
    /// What to write next; `None`: the end, after which the device connects again.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(Bytes::from_static(GREETING));
        }
        loop {
            if self.stopping.is_cancelled() || self.identity.is_revoked() {
                return None;
            }
            // One at a time: the next is fetched when the device has taken this one off the wire.
            let next = self.commands.waiting(self.watch.device(), self.after, 1);
            if let Some(command) = in_time(next).await.ok()?.first() {
                self.after = command.seq;
                self.commands.delivered(Via::Stream);
                return Some(event(&command.id, &json::waiting(&|at| self.commands.show(at), command)));
            }
            tokio::select! {
                biased;
                () = self.identity.revoked().cancelled() => return None,
                () = self.stopping.cancelled() => return None,
                () = tokio::time::sleep(HEARTBEAT) => return Some(Bytes::from_static(b": still here\n\n")),
                () = self.watch.changed() => {}
            }
        }
    }
}

/// Line breaks in JSON are only ever between its parts, where a space means the same.
fn event(id: &str, json: &[u8]) -> Bytes {
    let mut out = format!("id: {id}\nevent: command\ndata: ").into_bytes();
    out.extend(json.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }));
    out.extend_from_slice(b"\n\n");
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_of_data() {
        assert_eq!(event("a", b"{\"x\":\r\n1}"), "id: a\nevent: command\ndata: {\"x\":  1}\n\n");
    }
}
