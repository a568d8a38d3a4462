//! Moves bytes between one connection and its lane: frames out, answers in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf as _, Bytes, BytesMut};
use pulsar::message::proto::BaseCommand;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::pulsar::wire::connection::{Io, answered};
use crate::pulsar::wire::{Connection, LinkError, frame};

/// Answers read and not yet looked at; the reader waits when there are more.
pub const ANSWERS_MAX: usize = 1024;

/// What a broker says while events flow.
pub enum Answer {
    /// A unit is stored, or was already.
    Receipt {
        /// The producer's number.
        producer: u64,
        /// The unit's lowest sequence.
        seq: u64,
        /// It was dropped as a duplicate.
        duplicate: bool,
    },
    /// A unit is refused.
    Refused {
        /// The producer's number.
        producer: u64,
        /// The unit's sequence.
        seq: u64,
        /// Pulsar's code.
        code: i32,
        /// Its words.
        message: String,
    },
    /// A producer is closed by the broker.
    Closed {
        /// The producer's number.
        producer: u64,
    },
    /// It wants to know whether we live.
    Ping,
    /// It lives.
    Pong,
    /// It wants to see the token again.
    Challenge,
    /// The answer to a request of ours.
    Reply(u64, Box<BaseCommand>),
}

/// The way to a connection from its lane.
pub struct Pipe {
    /// Frames to write. Not bounded here: every frame counts as in flight before it is put here, so
    /// `uplink.window` bounds them.
    pub frames: mpsc::UnboundedSender<Bytes>,
    /// Bytes that the system has taken.
    pub written: Arc<AtomicU64>,
}

/// A pipe, and the work behind it: to be polled; it ends with the connection.
pub fn start(
    connection: Connection,
    index: usize,
    answers: mpsc::Sender<(usize, Answer)>,
) -> (Pipe, impl Future<Output = LinkError> + Send) {
    let (frames, queue) = mpsc::unbounded_channel();
    let written = Arc::new(AtomicU64::new(0));
    let pipe = Pipe { frames, written: written.clone() };
    let Connection { io, input, broker, .. } = connection;
    let (reader, writer) = tokio::io::split(io);
    let work = async move {
        tokio::select! {
            error = read(reader, input, &broker, index, answers) => error,
            reason = write(writer, queue, &written) => LinkError::Lost { broker: broker.clone(), reason },
        }
    };
    (pipe, work)
}

async fn write(
    mut io: WriteHalf<Box<dyn Io>>,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    written: &AtomicU64,
) -> String {
    while let Some(mut frames) = queue.recv().await {
        while frames.has_remaining() {
            match io.write_buf(&mut frames).await {
                Ok(0) => return "the connection takes no more".to_owned(),
                Ok(n) => written.fetch_add(n as u64, Ordering::Relaxed),
                Err(e) => return e.to_string(),
            };
        }
        // TLS gathers records; plain TCP has nothing to flush.
        if queue.is_empty()
            && let Err(e) = io.flush().await
        {
            return e.to_string();
        }
    }
    "closed by us".to_owned()
}

async fn read(
    mut io: ReadHalf<Box<dyn Io>>,
    mut input: BytesMut,
    broker: &str,
    index: usize,
    answers: mpsc::Sender<(usize, Answer)>,
) -> LinkError {
    let lost = |reason: String| LinkError::Lost { broker: broker.to_owned(), reason };
    loop {
        loop {
            let answer = match frame::next_command(&mut input) {
                Ok(Some(command)) => understood(command),
                Ok(None) => break,
                Err(e) => return LinkError::protocol(broker, e),
            };
            if let Some(answer) = answer
                && answers.send((index, answer)).await.is_err()
            {
                return lost("closed by us".to_owned());
            }
        }
        match io.read_buf(&mut input).await {
            Ok(0) => return lost("closed by the other end".to_owned()),
            Ok(_) => {}
            Err(e) => return lost(e.to_string()),
        }
    }
}

fn understood(command: BaseCommand) -> Option<Answer> {
    if let Some(receipt) = command.send_receipt {
        // The id of something that was not stored: (-1, -1) in Java's signed numbers.
        let duplicate = receipt.message_id.is_some_and(|id| id.ledger_id == u64::MAX && id.entry_id == u64::MAX);
        return Some(Answer::Receipt { producer: receipt.producer_id, seq: receipt.sequence_id, duplicate });
    }
    if let Some(e) = command.send_error {
        let (producer, seq, code) = (e.producer_id, e.sequence_id, e.error);
        return Some(Answer::Refused { producer, seq, code, message: e.message });
    }
    if let Some(closed) = command.close_producer {
        return Some(Answer::Closed { producer: closed.producer_id });
    }
    if command.ping.is_some() {
        return Some(Answer::Ping);
    }
    if command.pong.is_some() {
        return Some(Answer::Pong);
    }
    if command.auth_challenge.is_some() {
        return Some(Answer::Challenge);
    }
    let request = answered(&command)?;
    Some(Answer::Reply(request, Box::new(command)))
}
