//! What has been taken from the other broker and not acknowledged to it: what is new, what comes again, and which
//! acknowledgement is next. [pure]
//!
//! A packet id belongs to one message until its sender has our acknowledgement (MQTT 3.1.1 §2.3.1, §4.3). So a message that
//! comes again with DUP after the connection was lost, under the id of one that was never acknowledged, is that
//! message: it is stored once. Where the acknowledgement had left (QoS 1) nobody knows whether it arrived and the id is
//! free for another message: what comes again then is stored again. Losing one of two equal messages would be
//! worse than having one twice.

use std::collections::{HashMap, VecDeque};

/// Quality of service and packet id of a message that wants an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Packet id.
    pub packet_id: u16,
    /// QoS 2, not 1.
    pub exactly_once: bool,
}

/// Names a message within this process.
pub type Ticket = u64;

/// What to do with a message that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Store it, then call [`Window::stored`].
    New(Ticket),
    /// It was taken before; its acknowledgement follows when it is stored.
    Again,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    handle: Handle,
    ticket: Ticket,
    digest: u64,
    stored: bool,
}

/// The messages of one session at the other broker.
#[derive(Debug, Default)]
pub struct Window {
    last: Ticket,
    /// In the order of their arrival on this connection, which is that of the acknowledgements (§4.6).
    open: VecDeque<Entry>,
    /// From earlier connections, never acknowledged.
    earlier: HashMap<u16, Entry>,
    /// QoS 2: acknowledged with PUBREC, and PUBREL has not come. At most one for each packet id.
    received: HashMap<u16, u64>,
}

impl Window {
    /// A connection begins. Without the session the other broker knows nothing of what we had from it.
    pub fn connected(&mut self, session_present: bool) {
        if session_present {
            self.earlier.extend(self.open.drain(..).map(|entry| (entry.handle.packet_id, entry)));
        } else {
            self.open.clear();
            self.earlier.clear();
            self.received.clear();
        }
    }

    /// A message came. `digest` tells messages apart that a broker gives the same id by mistake.
    pub fn arrived(&mut self, handle: Handle, dup: bool, digest: u64) -> Arrival {
        let id = handle.packet_id;
        let before = self.earlier.remove(&id).filter(|entry| dup && entry.digest == digest);
        if let Some(entry) = before {
            self.open.push_back(Entry { handle, ..entry });
            return Arrival::Again;
        }
        let received = self.received.remove(&id).is_some_and(|had| dup && had == digest);
        if received && handle.exactly_once {
            let ticket = self.ticket();
            self.open.push_back(Entry { handle, ticket, digest, stored: true });
            return Arrival::Again;
        }
        // Some brokers repeat on the same connection what takes long (allowed before 3.1.1).
        if dup && self.open.iter().any(|e| e.handle.packet_id == id && e.digest == digest) {
            return Arrival::Again;
        }
        let ticket = self.ticket();
        self.open.push_back(Entry { handle, ticket, digest, stored: false });
        Arrival::New(ticket)
    }

    /// A name for a message that wants no acknowledgement.
    pub fn ticket(&mut self) -> Ticket {
        self.last += 1;
        self.last
    }

    /// The message is on disk, or will never be.
    pub fn stored(&mut self, ticket: Ticket) {
        // The oldest are stored first: it is near the front.
        let entry = self.open.iter_mut().chain(self.earlier.values_mut()).find(|entry| entry.ticket == ticket);
        if let Some(entry) = entry {
            entry.stored = true;
        }
    }

    /// What is to be acknowledged next.
    pub fn next_ack(&self) -> Option<Handle> {
        self.open.front().filter(|entry| entry.stored).map(|entry| entry.handle)
    }

    /// That acknowledgement has left.
    pub fn acked(&mut self) {
        if let Some(entry) = self.open.pop_front()
            && entry.handle.exactly_once
        {
            self.received.insert(entry.handle.packet_id, entry.digest);
        }
    }

    /// PUBREL came: the packet id is free for another message.
    pub fn released(&mut self, packet_id: u16) {
        self.received.remove(&packet_id);
    }

    /// Messages of this connection not acknowledged. (Of QoS 2, those that wait for PUBREL do not count: it comes on the
    /// same way as further messages, and who stops reading never sees it.)
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Messages not acknowledged.
    pub fn len(&self) -> usize {
        self.open.len() + self.earlier.len()
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
