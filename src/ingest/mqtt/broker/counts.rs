//! What the broker counts, for `$SYS` and for metrics. [pure]

use super::Broker;

/// Gauges of now, and counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // named after what they count
pub struct Counts {
    // Now.
    pub connections: usize,
    pub sessions: usize,
    pub subscriptions: usize,
    pub shared_subscriptions: usize,
    pub retained: usize,
    pub retained_bytes: usize,
    /// Messages that wait in sessions, under way ones included.
    pub queued: usize,
    pub queued_bytes: usize,
    /// Those of them that count against `max_total_bytes`: all of absent clients, of others what is beyond their share.
    pub pot_bytes: usize,
    /// What sessions hold besides messages, and the levels of their filters, beyond what each has for itself.
    pub held_bytes: usize,
    pub held_levels: usize,
    // Since the start.
    /// PUBLISH packets from clients, and their payload bytes.
    pub received: u64,
    pub received_bytes: u64,
    /// PUBLISH packets to clients, and their payload bytes.
    pub sent: u64,
    pub sent_bytes: u64,
    /// Wills published.
    pub wills: u64,
    pub sessions_expired: u64,
    /// Sessions of absent clients that were ended for new ones.
    pub sessions_evicted: u64,
    pub dropped: Dropped,
}

/// Messages that did not reach a subscriber, or were not taken, by reason. Counted once per subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// QoS 0 that a slow client did not take in time.
    pub slow: u64,
    /// QoS 1 and 2 beyond what may wait in the session.
    pub full: u64,
    /// QoS 1 and 2 beyond what may wait in all sessions together: of those that had the most.
    pub total: u64,
    /// Expired before delivery.
    pub expired: u64,
    /// Larger than the client takes.
    pub too_large: u64,
    /// Not allowed to its publisher, or a topic that begins with `$`.
    pub not_allowed: u64,
    /// Not retained, because there are as many retained messages or bytes as may be.
    pub not_retained: u64,
}

impl Broker {
    /// As of now.
    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.connections.len(),
            sessions: self.sessions.len(),
            subscriptions: self.subscriptions.len(),
            shared_subscriptions: self.subscriptions.shared_len(),
            retained: self.retained.len(),
            retained_bytes: self.retained.bytes(),
            queued: self.pot.messages,
            queued_bytes: self.pot.bytes,
            pot_bytes: self.pot.charge,
            held_bytes: self.pot.held.bytes,
            held_levels: self.pot.held.levels,
            ..self.counts
        }
    }
}
