//! What a delivery does besides delivering: finds dead connections, asks the broker what it remembers, ends in order.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use pulsar::message::proto::{BaseCommand, CommandCloseProducer, CommandPing, base_command::Type};

use super::{Delivery, Wire};
use crate::pulsar::wire::connection::REQUEST_TIMEOUT;
use crate::pulsar::wire::{LinkError, frame, lookup};
use crate::uplink::error::LaneError;
use crate::uplink::pump::Answer;
use crate::uplink::resume::Input;

/// A ping goes out when nothing was heard for this long.
const PING_AFTER: Duration = Duration::from_secs(3);

/// The connection is given up when nothing was heard for this long, and for as long as the slowest link needs
/// for the batch that is on its way.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Slowest link on which a full batch must still arrive: 64 kbit/s.
const SLOWEST_BYTES_PER_SECOND: u64 = 8 << 10;

/// At the end: time for receipts that are on their way …
const STOP_RECEIPTS: Duration = Duration::from_secs(2);
/// … and for the brokers to confirm that the producers are closed, so that their names are free.
const STOP_CLOSE: Duration = Duration::from_secs(1);

/// A producer closed and opened again, to learn whether the broker remembers.
pub(super) struct Probe {
    partition: usize,
    request: u64,
    begun: Instant,
}

impl Delivery<'_> {
    /// Step 1 of a probe: close.
    pub(super) fn begin_probe(&mut self) -> Result<(), LaneError> {
        if self.probe.is_none()
            && !self.stopping
            && let Some(partition) = self.core.wants_probe()
        {
            let request = self.close(partition);
            self.probe = Some(Probe { partition, request, begun: Instant::now() });
            self.wires.iter_mut().for_each(Wire::flush);
        }
        Ok(())
    }

    fn close(&mut self, partition: usize) -> u64 {
        self.next_request += 1;
        let close = BaseCommand {
            r#type: Type::CloseProducer as i32,
            close_producer: Some(CommandCloseProducer { producer_id: partition as u64, request_id: self.next_request }),
            ..BaseCommand::default()
        };
        frame::command(&mut self.wires[self.partitions[partition].wire].out, &close);
        self.next_request
    }

    /// Steps 2 and 3 of a probe: open again, and look at L.
    pub(super) fn reply(&mut self, wire: usize, request: u64, answer: BaseCommand) -> Result<(), LaneError> {
        let Some(probe) = self.probe.as_mut().filter(|p| p.request == request) else { return Ok(()) };
        let partition = probe.partition;
        let topic = &self.partitions[partition].topic;
        if answer.success.is_some() {
            self.next_request += 1;
            probe.request = self.next_request;
            let again = lookup::producer(topic, partition as u64, probe.request, &self.lane.producer);
            frame::command(&mut self.wires[wire].out, &again);
            return Ok(());
        }
        let last = lookup::last_sequence(&self.wires[wire].broker, topic, answer)?;
        self.probe = None;
        self.handle(Input::Probed { partition, last })
    }

    /// Pings, time-outs, status.
    pub(super) fn tick(&mut self) -> Result<(), LaneError> {
        let now = Instant::now();
        let limit = self.lane.receipt_timeout;
        for (i, wire) in self.wires.iter_mut().enumerate() {
            let written = wire.pipe.written.load(Ordering::Relaxed);
            if written != wire.written {
                // What the system takes, the other machine has made room for.
                wire.written = written;
                wire.heard = wire.heard.max(now - PING_AFTER.min(now - wire.heard));
            }
            let waits = self.partitions.iter().any(|p| p.wire == i && !p.sent.is_empty());
            if waits && now - self.progress > limit {
                return Err(LaneError::NoReceipt { broker: wire.broker.clone(), limit });
            }
            let on_its_way = if waits { self.lane.batch_bytes.min(self.core.outstanding_bytes() as u64) } else { 0 };
            let silence_max = SILENCE_MAX + Duration::from_millis(on_its_way * 1000 / SLOWEST_BYTES_PER_SECOND);
            let silence = now - wire.heard;
            if silence > silence_max {
                return Err(LinkError::Silent { broker: wire.broker.clone(), silence }.into());
            }
            if silence > PING_AFTER && !wire.pinged {
                wire.pinged = true;
                let ping = CommandPing {};
                let ping = BaseCommand { r#type: Type::Ping as i32, ping: Some(ping), ..BaseCommand::default() };
                frame::command(&mut wire.out, &ping);
            }
        }
        if let Some(probe) = self.probe.as_ref().filter(|p| now - p.begun > REQUEST_TIMEOUT) {
            let broker = self.wires[self.partitions[probe.partition].wire].broker.clone();
            return Err(LinkError::Slow { broker, step: "opening the producer again", limit: REQUEST_TIMEOUT }.into());
        }
        self.lane.in_flight(self.core);
        Ok(())
    }

    /// Waits for what is in flight and closes the producers, each within its bound.
    pub(super) async fn stop(&mut self) {
        self.stopping = true;
        let receipts = async {
            while self.core.awaits_receipts() {
                self.turn().await?;
            }
            Ok::<(), LaneError>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(STOP_RECEIPTS, receipts).await {
            tracing::debug!(lane = self.lane.name, %error, "while stopping");
            return;
        }
        let first = self.next_request + 1;
        (0..self.partitions.len()).for_each(|p| {
            self.close(p);
        });
        self.wires.iter_mut().for_each(Wire::flush);
        let mut open = self.partitions.len();
        let closed = async {
            while open > 0 {
                match self.answers.recv().await {
                    Some((_, Answer::Reply(request, _))) if request >= first => open -= 1,
                    Some(_) => {}
                    None => return,
                }
            }
        };
        let drivers = async { while self.drivers.next().await.is_some() {} };
        tokio::select! {
            () = closed => {}
            () = drivers => {}
            () = tokio::time::sleep(STOP_CLOSE) => {}
        }
    }

    /// One answer, without taking new events.
    async fn turn(&mut self) -> Result<(), LaneError> {
        self.fill()?;
        tokio::select! {
            biased;
            Some(error) = self.drivers.next() => Err(error.into()),
            Some((wire, answer)) = self.answers.recv() => self.take(wire, answer).await,
        }
    }
}
