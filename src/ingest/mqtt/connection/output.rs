//! What goes to the client: packets that may leave, and answers that wait for the disk, in order.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::ingest::http::budget::{Budget, Lease};
use crate::ingest::mqtt::metrics::{Counters, Tally};
use crate::ingest::mqtt::packet::{EncodeError, Packet, Version, encode_up_to};
use crate::ingest::mqtt::transport::Transport;
use crate::journal::Position;

/// Bytes that may wait for each client's socket. With more, nothing more is read from it, and nothing taken for it but with a share
/// of what all connections have for that.
pub const FREE_BYTES: usize = 8 << 10;

/// The same for those with a share: enough to keep a connection of 100 Mbit/s and 5 ms busy.
pub const BYTES_MAX: usize = 64 << 10;

/// The same where it is others' queues that have to become shorter.
const LATER: Duration = Duration::from_secs(1);

/// The largest packet that `mqtt.max_packet` allows.
const PACKET_BYTES_MAX: usize = 16 << 20;

/// After this time it is tried again whether there is room for more.
const STARVED: Duration = Duration::from_millis(100);

/// A peer that has a share must have taken what waits for it after this time, and a second more for each KiB of it: others need it.
const TAKEN_AFTER: Duration = Duration::from_secs(60);
const TAKEN_BYTES_PER_S: usize = 1 << 10;

/// Longest time in which a peer takes not one byte of what waits for it. As the HTTP way in has it.
pub const STALL_MAX: Duration = Duration::from_secs(30);

/// Packets are counted as sent together, up to so many bytes: less than a kernel's buffer, and a count takes 72.
const COUNTED_BYTES: usize = 4 << 10;

/// See the module.
pub struct Output {
    version: Version,
    /// Largest packet that the client takes.
    packet_max: u32,
    ready: BytesMut,
    /// What is in `ready`.
    counts: Counts,
    held: VecDeque<Held>,
    held_bytes: usize,
    unflushed: bool,
    /// Since when the peer has taken nothing.
    stalled: Option<Instant>,
    /// For what waits beyond [`FREE_BYTES`], and when that has to be gone.
    lease: Lease,
    taken_by: Option<Instant>,
    /// What the next message costs, for which there was no room.
    needs: Option<usize>,
    /// When it is tried again.
    starved: Option<Instant>,
}

/// What may be taken for a client now.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// About so much.
    pub bytes: usize,
    /// And nothing larger than this.
    pub largest: usize,
}

/// Encoded packets that may leave once everything up to `after` is on disk.
struct Held {
    after: Position,
    bytes: BytesMut,
    counts: Counts,
}

/// How many packets there are in a run of bytes, and what is left of the bytes; in order.
#[derive(Debug, Default)]
struct Counts(VecDeque<(usize, Tally)>);

impl Counts {
    fn push(&mut self, packet: &Packet, bytes: usize) {
        match self.0.back_mut() {
            Some((before, tally)) if *before + bytes <= COUNTED_BYTES => {
                *before += bytes;
                tally.add(packet);
            }
            _ => {
                let mut tally = Tally::default();
                tally.add(packet);
                self.0.push_back((bytes, tally));
            }
        }
    }

    /// So many bytes have gone.
    fn gone(&mut self, mut bytes: usize, counters: &Counters) {
        while let Some((left, tally)) = self.0.front_mut() {
            if bytes < *left {
                *left -= bytes;
                return;
            }
            bytes -= *left;
            counters.packets_out(tally);
            self.0.pop_front();
        }
    }
}

impl Output {
    /// `going`: what all connections have for what waits for their sockets.
    pub fn new(version: Version, packet_max: u32, going: &Budget) -> Self {
        Self {
            version,
            packet_max,
            ready: BytesMut::new(),
            counts: Counts::default(),
            held: VecDeque::new(),
            held_bytes: 0,
            unflushed: false,
            stalled: None,
            lease: going.lease(),
            taken_by: None,
            needs: None,
            starved: None,
        }
    }

    fn bytes(&self) -> usize {
        self.ready.len() + self.held_bytes
    }

    /// Takes the share for a turn of deliveries, or for one message where [`Output::settle`] was told what it needs. `None`: there
    /// is no room at present.
    pub fn make_room(&mut self) -> Option<Room> {
        let room = self.room();
        self.starved = if room.is_none() { Some(Instant::now() + STARVED) } else { None };
        room
    }

    fn room(&mut self) -> Option<Room> {
        let bytes = self.bytes();
        if let Some(needs) = self.needs {
            // What a message costs is more than its packet has, by far where it has many properties.
            self.lease.resize((bytes + needs.min(PACKET_BYTES_MAX)).saturating_sub(FREE_BYTES)).ok()?;
            return Some(Room { bytes: needs, largest: needs });
        }
        // What is taken ends with the first packet that goes beyond it.
        if self.lease.resize(2 * BYTES_MAX).is_ok() {
            return Some(Room { bytes: BYTES_MAX.saturating_sub(bytes), largest: BYTES_MAX });
        }
        let free = FREE_BYTES.saturating_sub(bytes);
        (free > 0).then_some(Room { bytes: free, largest: free })
    }

    /// When more may be taken for the client again, if there was no room.
    pub fn starved(&self) -> Option<Instant> {
        self.starved.filter(|again| *again > Instant::now())
    }

    /// There is no room for what is next, elsewhere.
    pub fn wait(&mut self) {
        self.starved = Some(Instant::now() + LATER);
    }

    /// Whether there was no room, a moment ago.
    pub fn is_starved(&self) -> bool {
        self.starved().is_some()
    }

    /// Keeps of the share what is needed now. `needs`: what the next message costs, which alone is too large for what was taken.
    pub fn settle(&mut self, needs: Option<usize>) {
        self.needs = needs;
        let beyond = self.bytes().saturating_sub(FREE_BYTES);
        // It has more than that, or it is a few answers.
        let _ = self.lease.resize(beyond);
        let seconds = (beyond / TAKEN_BYTES_PER_S) as u64;
        self.taken_by = (beyond > 0).then(|| Instant::now() + TAKEN_AFTER + Duration::from_secs(seconds));
    }

    /// A packet that promises nothing, such as PINGRESP: it overtakes what waits for the disk.
    pub fn at_once(&mut self, mut packet: Packet) -> Result<(), EncodeError> {
        let before = self.ready.len();
        encode_up_to(&mut packet, self.version, self.packet_max, &mut self.ready)?;
        self.counts.push(&packet, self.ready.len() - before);
        Ok(())
    }

    /// Packets that leave after all earlier ones; `after`: not before this is on disk.
    pub fn in_order(&mut self, packets: &mut [Packet], after: Option<Position>) -> Result<(), EncodeError> {
        if let Some(after) = after
            && self.held.back().is_none_or(|last| last.after < after)
        {
            self.held.push_back(Held { after, bytes: BytesMut::new(), counts: Counts::default() });
        }
        let waits = !self.held.is_empty();
        // What has nothing to wait for still waits for its turn.
        let (to, counts) = match self.held.back_mut() {
            Some(last) => (&mut last.bytes, &mut last.counts),
            None => (&mut self.ready, &mut self.counts),
        };
        let before = to.len();
        for packet in packets {
            let at = to.len();
            encode_up_to(packet, self.version, self.packet_max, to)?;
            counts.push(packet, to.len() - at);
        }
        if waits {
            self.held_bytes += to.len() - before;
        }
        Ok(())
    }

    /// Lets go what waited for what is on disk now.
    pub fn release(&mut self, durable: Position) {
        while self.held.front().is_some_and(|h| h.after <= durable)
            && let Some(held) = self.held.pop_front()
        {
            self.held_bytes -= held.bytes.len();
            self.counts.0.extend(held.counts.0);
            if self.ready.is_empty() {
                self.ready = held.bytes;
            } else {
                self.ready.extend_from_slice(&held.bytes);
            }
        }
    }

    /// What must be on disk before the next answer may leave.
    pub fn waits_for(&self) -> Option<Position> {
        self.held.front().map(|h| h.after)
    }

    /// Gives up what waits for the disk.
    pub fn give_up_held(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    /// Whether there is room for more.
    pub fn has_room(&self) -> bool {
        let most = if self.lease.held() > 0 { BYTES_MAX } else { FREE_BYTES };
        self.bytes() < most
    }

    /// Whether bytes wait for the socket.
    pub fn is_written(&self) -> bool {
        self.ready.is_empty() && !self.unflushed
    }

    /// When the peer is given up for not reading.
    pub fn deadline(&self) -> Option<Instant> {
        // While answers wait for the disk it is not the peer's fault.
        let taken_by = self.taken_by.filter(|_| self.held.is_empty());
        self.stalled.map(|since| since + STALL_MAX).into_iter().chain(taken_by).min()
    }

    /// Writes what may leave. Ready: all of it is with the kernel.
    pub fn poll_write(
        &mut self,
        stream: &mut Transport,
        cx: &mut Context<'_>,
        counters: &Counters,
    ) -> Poll<io::Result<()>> {
        while !self.ready.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, &self.ready) else {
                self.stalled.get_or_insert_with(Instant::now);
                return Poll::Pending;
            };
            let n = written?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            counters.bytes_out(n);
            self.counts.gone(n, counters);
            self.ready.advance(n);
            self.stalled = None;
            self.unflushed = true;
        }
        // An idle connection holds no buffer.
        (self.ready, self.counts) = (BytesMut::new(), Counts::default());
        if self.held_bytes == 0 && self.taken_by.take().is_some() {
            let _ = self.lease.resize(0);
        }
        if self.unflushed {
            let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx) else {
                self.stalled.get_or_insert_with(Instant::now);
                return Poll::Pending;
            };
            flushed?;
            (self.unflushed, self.stalled) = (false, None);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker;
    use prometheus_client::metrics::gauge::Gauge;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::advance;

    use super::*;
    use crate::ingest::mqtt::packet::{Ack, Disconnect, PacketId, Reason};
    use crate::journal::{Journal, Meters, Settings};
    use crate::observe::metrics::Metrics;

    fn puback(id: u16) -> Packet {
        let packet_id = PacketId::new(id).unwrap();
        Packet::Puback(Ack { packet_id, reason: Reason::SUCCESS, reason_string: None })
    }

    fn counters() -> Counters {
        Counters::new(&Metrics::default())
    }

    async fn pair() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Transport::Tcp(listener.accept().await.unwrap().0), client)
    }

    fn positions() -> [Position; 2] {
        let dir = tempfile::tempdir().unwrap();
        let meter = Meters::new(&Metrics::default()).of("test");
        let journal = Journal::open(dir.path(), Settings::default(), meter, |_| {}).unwrap();
        [journal.append(&[b"1"]).unwrap(), journal.append(&[b"2"]).unwrap()]
    }

    #[tokio::test]
    async fn answers_wait_for_the_disk_in_order_and_a_ping_for_nobody() {
        let ([first, second], counters) = (positions(), counters());
        let mut output = Output::new(Version::V311, u32::MAX, &going());
        let mut answer = |id, after| output.in_order(&mut [puback(id)], after).unwrap();
        answer(1, None);
        answer(2, Some(first));
        answer(3, None);
        answer(4, Some(second));
        output.at_once(Packet::Pingresp).unwrap();
        assert_eq!(&output.ready[..], [0x40, 2, 0, 1, 0xD0, 0]);
        assert_eq!(output.waits_for(), Some(first));
        output.release(first);
        assert_eq!(&output.ready[6..], [0x40, 2, 0, 2, 0x40, 2, 0, 3]);
        assert_eq!(output.waits_for(), Some(second));
        output.release(second);
        assert_eq!((output.ready.len(), output.waits_for(), output.held_bytes), (18, None, 0));
        let (mut server, mut client) = pair().await;
        std::future::poll_fn(|cx| output.poll_write(&mut server, cx, &counters)).await.unwrap();
        assert!(output.is_written());
        assert_eq!(output.ready.capacity(), 0, "an idle connection holds no buffer");
        let mut got = [0; 18];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(got[14..], [0x40, 2, 0, 4]);
        assert_eq!(counters.totals().packets_out, 5);
    }

    /// What promises something that is not on disk is not sent, and not counted as sent.
    #[tokio::test]
    async fn what_is_given_up_is_not_counted() {
        let ([first, second], counters) = (positions(), counters());
        let mut output = Output::new(Version::V311, u32::MAX, &going());
        output.in_order(&mut [puback(1), puback(2)], Some(first)).unwrap();
        output.in_order(&mut vec![puback(3); 3_000], Some(second)).unwrap();
        output.release(first);
        output.give_up_held();
        let (mut server, _client) = pair().await;
        std::future::poll_fn(|cx| output.poll_write(&mut server, cx, &counters)).await.unwrap();
        assert_eq!((counters.totals().packets_out, counters.totals().bytes_out), (2, 8));
        // Counted as they go.
        output.in_order(&mut vec![puback(3); 3_000], None).unwrap();
        assert_eq!(output.counts.0.len(), 3);
        output.counts.gone(1_025 * 4, &counters);
        assert_eq!(counters.totals().packets_out, 2 + 1_024);
        output.counts.gone(1_975 * 4, &counters);
        assert_eq!((counters.totals().packets_out, output.counts.0.len()), (3_002, 0));
    }

    #[test]
    fn what_waits_is_bounded_also_behind_the_disk() {
        let [first, _] = positions();
        let mut output = Output::new(Version::V311, u32::MAX, &going());
        while output.has_room() {
            output.in_order(&mut [puback(1)], Some(first)).unwrap();
        }
        assert_eq!(output.held_bytes, FREE_BYTES);
    }

    #[tokio::test]
    async fn who_does_not_read_has_little_when_others_have_the_rest() {
        let (budget, counters) = (Budget::new(200_000, Gauge::default()), counters());
        let output = || Output::new(Version::V311, u32::MAX, &budget);
        let (mut a, mut b) = (output(), output());
        let room = a.make_room().unwrap();
        assert_eq!((room.bytes, room.largest), (BYTES_MAX, BYTES_MAX));
        a.ready.resize(100_000, 0);
        a.settle(None);
        assert_eq!(budget.used(), 100_000 - FREE_BYTES as u64);
        assert!(!a.has_room() && a.deadline().is_some());
        let room = b.make_room().unwrap();
        assert_eq!((room.bytes, room.largest), (FREE_BYTES, FREE_BYTES));
        b.settle(Some(150_000));
        assert!(b.make_room().is_none() && b.is_starved());
        b.settle(Some(100_000));
        assert_eq!(b.make_room().map(|room| room.largest), Some(100_000));
        assert!(!b.is_starved());
        b.settle(None);
        assert_eq!(budget.used(), 100_000 - FREE_BYTES as u64, "it took nothing");
        let (mut server, mut client) = pair().await;
        let mut got = vec![0; 100_000];
        let written = std::future::poll_fn(|cx| a.poll_write(&mut server, cx, &counters));
        let (written, read) = tokio::join!(written, client.read_exact(&mut got));
        written.unwrap();
        read.unwrap();
        assert_eq!((budget.used(), a.deadline()), (0, None));
    }

    fn going() -> Budget {
        Budget::new(1 << 20, Gauge::default())
    }

    #[test]
    fn a_reason_string_gives_way_where_the_client_takes_little() {
        let mut output = Output::new(Version::V5, 10, &going());
        let reason_string = Some("a long explanation".to_owned());
        let farewell = Disconnect { reason: Reason::UNSPECIFIED, session_expiry_s: None, reason_string };
        output.at_once(Packet::Disconnect(Box::new(farewell))).unwrap();
        assert_eq!(&output.ready[..], [0xE0, 1, 0x80]);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_gets_a_deadline_and_loses_it_by_reading() {
        let counters = counters();
        let (mut server, mut client) = pair().await;
        let mut output = Output::new(Version::V311, u32::MAX, &going());
        // More than the kernel buffers.
        output.ready.resize(64 << 20, 0);
        tokio::time::pause();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        assert!(output.poll_write(&mut server, &mut cx, &counters).is_pending());
        let deadline = output.deadline().expect("a deadline");
        advance(STALL_MAX / 2).await;
        assert!(output.poll_write(&mut server, &mut cx, &counters).is_pending());
        assert_eq!(output.deadline(), Some(deadline), "it took nothing meanwhile");
        tokio::time::resume();
        let mut some = vec![0; 8 << 20];
        tokio::select! {
            _ = std::future::poll_fn(|cx| output.poll_write(&mut server, cx, &counters)) => {}
            read = client.read_exact(&mut some) => drop(read.unwrap()),
        }
        assert_ne!(output.deadline(), Some(deadline));
    }
}
