//! One client: one task that chooses what is next and applies it. It never waits while it holds the broker's lock, and holds
//! no buffer while it is idle.
//!
//! ```text
//! socket ─► reading ─► broker (one lock per read) ─► flights ─► outbox ─► broker ─► output ─► socket
//!                                                                 journal ───────────┘ (answers wait for both)
//! ```

mod answers;
mod ending;
mod flights;
mod opening;
mod output;
mod reading;
mod results;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Shared;
use super::hub::Seat;
use super::packet::{Decoder, PacketId, Reason};
use super::signal::Said;
use super::transport::{Kind, Transport};
use super::upstream::Origin;
use crate::ingest::http::budget::Lease;
use crate::ingest::identity::{ConnectionGuard, Identity};
use crate::journal::{JournalError, Position};
use ending::End;
use flights::{Flights, Landed};
use output::Output;
use reading::Paused;
use results::{Results, Settled};

/// Serves one client until either side ends it.
pub async fn serve(shared: Arc<Shared>, kind: Kind, stream: TcpStream, peer: SocketAddr) {
    let _open = shared.counters.open(kind);
    // Boxed, so that what only the beginning needs does not stay for as long as the client does.
    if let Some(connection) = Box::pin(opening::open(shared, kind, stream, peer)).await {
        connection.run().await;
    }
}

struct Connection {
    shared: Arc<Shared>,
    seat: Seat,
    stream: Transport,
    decoder: Decoder,
    /// The client wants reason strings.
    explains: bool,
    identity: Identity,
    _guard: ConnectionGuard,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
    origin: Origin,
    /// Longest silence of the client.
    silence_max: Option<Duration>,
    /// When the client was heard last.
    heard: Instant,
    /// The beginning of a packet.
    input: BytesMut,
    input_lease: Option<Lease>,
    /// When that packet began, or it was we who did not listen.
    packet_since: Option<Instant>,
    paused: Option<Box<Paused>>,
    /// There are more whole packets in `input`, perhaps.
    undecoded: bool,
    flights: Flights,
    results: Results,
    output: Output,
    /// Answers promise what the journal has up to here.
    promised: Option<Position>,
    durable: Option<Durable>,
    /// The journal has more to write than it should: what makes records waits.
    room: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Why messages were refused, for their answers.
    refused: Vec<(PacketId, String)>,
    /// The broker may have something for the client.
    wanting: bool,
    /// Something was delivered after what was last taken in.
    delivered: bool,
    timer: Pin<Box<Sleep>>,
    end: Option<Box<End>>,
    /// Nothing more can be written to the client.
    gone: bool,
}

type Durable = Pin<Box<dyn Future<Output = Result<(), JournalError>> + Send>>;

/// What is next.
enum Input {
    Said(Said),
    Revoked,
    Landed(Landed),
    Settled(Settled),
    Durable(Result<(), JournalError>),
    Written(io::Result<()>),
    Deliver,
    Turn,
    Read(io::Result<usize>),
    Timer,
}

impl Connection {
    async fn run(mut self: Box<Self>) {
        while !self.is_over() {
            let input = std::future::poll_fn(|cx| self.choose(cx)).await;
            self.apply(input);
            if self.paused.is_some() || self.undecoded || self.wanting && !self.output.is_starved() {
                // It had its turn.
                tokio::task::yield_now().await;
            }
        }
        ending::close(self).await;
    }

    /// Only chooses: whatever is not chosen is still there the next time.
    fn choose(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        if let Poll::Ready(said) = self.seat.signal().poll(cx) {
            return Poll::Ready(Input::Said(said));
        }
        if self.end.is_none() && self.revoked.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Input::Revoked);
        }
        if let Poll::Ready(landed) = self.flights.poll(cx, self.seat.journal()) {
            return Poll::Ready(Input::Landed(landed));
        }
        if let Poll::Ready(settled) = self.results.poll(cx) {
            return Poll::Ready(Input::Settled(settled));
        }
        if let Poll::Ready(result) = self.poll_durable(cx) {
            return Poll::Ready(Input::Durable(result));
        }
        if !self.gone && !self.output.is_written() {
            let written = self.output.poll_write(&mut self.stream, cx, &self.shared.counters);
            if let Poll::Ready(written) = written {
                return Poll::Ready(Input::Written(written));
            }
        }
        // By turns with what the client says: while messages keep coming its acknowledgements would stay unread, and messages
        // that it has long taken would fill its queue until others are dropped.
        let deliver = self.wanting && !self.output.is_starved() && self.end.is_none() && self.output.has_room();
        if deliver && !self.delivered {
            return Poll::Ready(Input::Deliver);
        }
        if let Some(room) = &mut self.room
            && room.as_mut().poll(cx).is_ready()
        {
            self.room = None;
        }
        if self.may_go_on() {
            return Poll::Ready(Input::Turn);
        }
        if self.may_read()
            && let Poll::Ready(read) = reading::poll_read(&mut self.stream, cx, &mut self.input)
        {
            return Poll::Ready(Input::Read(read));
        }
        if deliver {
            return Poll::Ready(Input::Deliver);
        }
        if let Some(deadline) = self.deadline()
            && deadline < self.timer.deadline()
        {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx).map(|()| Input::Timer)
    }

    fn poll_durable(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), JournalError>> {
        let Some(position) = self.output.waits_for() else { return Poll::Pending };
        let wait = self.durable.get_or_insert_with(|| {
            let journal = self.seat.journal().clone();
            Box::pin(async move { journal.durable(position).await })
        });
        let result = wait.as_mut().poll(cx);
        if result.is_ready() {
            self.durable = None;
        }
        result
    }

    /// Back-pressure: while what was read is not taken in, nothing more is read.
    fn may_read(&self) -> bool {
        self.end.is_none() && self.paused.is_none() && !self.undecoded && self.has_room()
    }

    /// Whether what was read can be taken in further.
    fn may_go_on(&self) -> bool {
        let due = self.paused.as_ref().map_or(self.undecoded, |paused| paused.until <= Instant::now());
        due && self.end.is_none() && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.room.is_none() && self.flights.has_room() && self.results.has_room() && self.output.has_room()
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Said(Said { wake, end }) => {
                self.wanting |= wake;
                if let Some(reason) = end {
                    self.end(reason, "");
                }
            }
            Input::Revoked => self.end(Reason::ADMINISTRATIVE_ACTION, "the credential or its rights were changed"),
            Input::Landed(landed) => self.landed(landed),
            Input::Settled(settled) => self.settled(settled),
            Input::Durable(Ok(())) => self.output.release(self.seat.journal().durable_now()),
            // What was promised is not on disk, and nobody knows when it will be.
            Input::Durable(Err(e)) => {
                self.output.give_up_held();
                self.end(Reason::IMPLEMENTATION_SPECIFIC, &e.to_string());
            }
            Input::Written(Ok(())) => {}
            Input::Written(Err(_)) => self.lost(),
            Input::Deliver => self.deliver(),
            Input::Turn => {
                self.delivered = false;
                self.resume();
            }
            Input::Read(read) => {
                self.delivered = false;
                self.read(read);
            }
            Input::Timer => self.timer(),
        }
    }

    fn deliver(&mut self) {
        self.delivered = true;
        let Some(room) = self.output.make_room() else { return };
        let ((), effects) = self.seat.turn(|turn| turn.take(room.bytes, room.largest));
        let needs = effects.needs.filter(|_| effects.replies.is_empty());
        let later = effects.later && effects.replies.is_empty();
        self.wanting = !effects.replies.is_empty() || needs.is_some() || later;
        self.take_effect(effects);
        self.output.settle(needs);
        if later {
            self.output.wait();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let silence = self.silence_max.filter(|_| self.end.is_none()).map(|max| self.heard + max);
        let all = [
            silence,
            self.packet_due().filter(|_| self.end.is_none()),
            self.output.deadline(),
            self.flights.deadline(),
            self.output.starved(),
            self.paused.as_ref().map(|paused| paused.until).filter(|until| *until > Instant::now()),
            self.end.as_ref().map(|end| end.next()),
        ];
        all.into_iter().flatten().min()
    }

    fn timer(&mut self) {
        let now = Instant::now();
        // Until there is a deadline again that is nearer.
        self.timer.as_mut().reset(now + TIMER_IDLE);
        if self.output.deadline().is_some_and(|at| at <= now) {
            tracing::debug!("connection cut: the client does not read");
            return self.lost();
        }
        if self.packet_due().is_some_and(|due| due <= now) {
            if self.may_read() {
                return self.end(Reason::QUOTA_EXCEEDED, "a packet came too slowly");
            }
            self.packet_since = Some(now);
        }
        if let Some(max) = self.silence_max
            && self.heard + max <= now
        {
            if self.may_read() {
                self.end(Reason::KEEP_ALIVE_TIMEOUT, "nothing was heard for one and a half keep-alives");
            } else {
                // It is we who do not listen.
                self.heard = now;
            }
        }
    }
}

/// Where the timer stands while there is nothing to wait for.
const TIMER_IDLE: Duration = Duration::from_secs(86_400);
