//! Events as they come, for whoever listens now. Nobody is waited for: a listener that is too slow is told how
//! many events it missed, and dropped if it stays slow. Without listeners it costs one look at a counter.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;

/// Events kept for listeners that are behind: with [`LINE_BYTES_MAX`], at most 64 MiB.
const BEHIND_MAX: usize = 1024;

/// Longest line that is passed on whole; of a longer one the data is left out.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// A listener that fell behind this often without ever catching up is dropped.
const LAGS_MAX: u32 = 16;

/// Most bytes put into one write to a listener.
const FRAME_BYTES: usize = 64 << 10;

/// A comment is sent after this long without events, so that both ends notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One event, as listeners get it.
#[derive(Clone, Debug)]
pub struct LiveEvent {
    /// Its lane.
    pub lane: Arc<str>,
    /// Its gateway.
    pub node: Option<Box<str>>,
    /// Its subject.
    pub device: Option<Box<str>>,
    /// Its type.
    pub ty: Option<Box<str>>,
    /// Its line, without the line break.
    pub line: Bytes,
}

/// What a listener wants; an absent part matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// This gateway.
    pub node: Option<String>,
    /// This subject.
    pub device: Option<String>,
    /// This type.
    pub ty: Option<String>,
    /// This lane.
    pub lane: Option<String>,
}

impl Filter {
    fn matches(&self, event: &LiveEvent) -> bool {
        let fits = |wanted: &Option<String>, is: Option<&str>| wanted.as_deref().is_none_or(|w| is == Some(w));
        fits(&self.node, event.node.as_deref())
            && fits(&self.device, event.device.as_deref())
            && fits(&self.ty, event.ty.as_deref())
            && fits(&self.lane, Some(&event.lane))
    }
}

/// The fan-out. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Live(broadcast::Sender<Arc<LiveEvent>>);

impl Default for Live {
    fn default() -> Self {
        Self(broadcast::channel(BEHIND_MAX).0)
    }
}

impl Live {
    /// Whether anybody listens: ask before making an event.
    pub fn wanted(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.0.receiver_count()
    }

    /// Gives `event` to all who listen.
    pub fn send(&self, event: LiveEvent) {
        // An error says that nobody listens any more.
        let _ = self.0.send(Arc::new(event));
    }

    /// The body of a Server-Sent Events answer; ends when `stopping` is cancelled or the listener is too slow.
    pub fn events(
        &self,
        filter: Filter,
        stopping: CancellationToken,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + Sync + 'static + use<> {
        let listener = Listener { from: self.0.subscribe(), filter, lags: 0, greeted: false, stopping };
        futures_util::stream::unfold(listener, |mut listener| async {
            let frame = listener.next_frame().await?;
            Some((Ok(frame), listener))
        })
    }
}

struct Listener {
    from: broadcast::Receiver<Arc<LiveEvent>>,
    filter: Filter,
    lags: u32,
    greeted: bool,
    stopping: CancellationToken,
}

impl Listener {
    /// What to write next; `None`: the end.
    async fn next_frame(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.greeted, true) {
            // The head of the answer leaves with the first bytes: let the listener know at once that it is on.
            return Some(Bytes::from_static(b": listening\n\n"));
        }
        let stopping = self.stopping.clone();
        loop {
            let got = tokio::select! {
                () = stopping.cancelled() => return None,
                got = tokio::time::timeout(KEEP_ALIVE, self.from.recv()) => got,
            };
            let mut frame = BytesMut::new();
            match got {
                Err(_) => return Some(Bytes::from_static(b": still here\n\n")),
                Ok(Err(RecvError::Closed)) => return None,
                Ok(Err(RecvError::Lagged(skipped))) => self.lagged(skipped, &mut frame)?,
                Ok(Ok(event)) => self.add(&event, &mut frame),
            }
            self.drain(&mut frame)?;
            if !frame.is_empty() {
                return Some(frame.freeze());
            }
        }
    }

    /// Adds what else is there, without waiting. `None`: the listener is too slow.
    fn drain(&mut self, frame: &mut BytesMut) -> Option<()> {
        while frame.len() < FRAME_BYTES {
            match self.from.try_recv() {
                Ok(event) => self.add(&event, frame),
                Err(TryRecvError::Lagged(skipped)) => self.lagged(skipped, frame)?,
                Err(TryRecvError::Empty) => {
                    self.lags = 0;
                    break;
                }
                Err(TryRecvError::Closed) => break,
            }
        }
        Some(())
    }

    fn lagged(&mut self, skipped: u64, frame: &mut BytesMut) -> Option<()> {
        self.lags += 1;
        if self.lags > LAGS_MAX {
            tracing::info!("a listener of the live stream stays too slow and is dropped");
            return None;
        }
        frame.extend_from_slice(format!("event: lagged\ndata: {{\"skipped\":{skipped}}}\n\n").as_bytes());
        Some(())
    }

    fn add(&self, event: &LiveEvent, frame: &mut BytesMut) {
        if self.filter.matches(event) {
            frame.extend_from_slice(b"data: ");
            frame.extend_from_slice(&event.line);
            frame.extend_from_slice(b"\n\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;

    use super::*;

    fn event(node: &str, n: usize) -> LiveEvent {
        let line = Bytes::from(format!("{{\"n\":{n}}}"));
        LiveEvent { lane: "telemetry".into(), node: Some(node.into()), device: None, ty: Some("reading".into()), line }
    }

    #[tokio::test]
    async fn a_listener_gets_what_it_asked_for() {
        let live = Live::default();
        assert!(!live.wanted());
        let filter = Filter { node: Some("a".into()), ty: Some("reading".into()), ..Filter::default() };
        let mut events = pin!(live.events(filter, CancellationToken::new()));
        assert!(live.wanted());
        for (i, node) in ["a", "b", "a"].into_iter().enumerate() {
            live.send(event(node, i));
        }
        assert_eq!(events.next().await.unwrap().unwrap(), ": listening\n\n");
        assert_eq!(events.next().await.unwrap().unwrap(), "data: {\"n\":0}\n\ndata: {\"n\":2}\n\n");
        drop(live);
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed_and_dropped_if_it_stays_slow() {
        let live = Live::default();
        let mut events = Box::pin(live.events(Filter::default(), CancellationToken::new()));
        assert_eq!(events.next().await.unwrap().unwrap(), ": listening\n\n");
        for i in 0..BEHIND_MAX + 7 {
            live.send(event("a", i));
        }
        let frame = events.next().await.unwrap().unwrap();
        assert!(frame.starts_with(b"event: lagged\ndata: {\"skipped\":7}\n\ndata: {\"n\":7}\n\n"), "{frame:?}");

        let mut frames = 0;
        let big = Bytes::from(vec![b'x'; FRAME_BYTES]);
        loop {
            for i in 0..BEHIND_MAX * 2 {
                live.send(LiveEvent { line: big.clone(), ..event("a", i) });
            }
            if events.next().await.is_none() {
                break;
            }
            frames += 1;
            assert!(frames <= LAGS_MAX, "never dropped");
        }
        drop(events);
        assert!(!live.wanted());
    }

    #[tokio::test]
    async fn a_listener_ends_with_the_process() {
        let (live, stopping) = (Live::default(), CancellationToken::new());
        let mut events = pin!(live.events(Filter::default(), stopping.clone()));
        assert!(events.next().await.is_some());
        stopping.cancel();
        assert!(events.next().await.is_none());
    }
}
