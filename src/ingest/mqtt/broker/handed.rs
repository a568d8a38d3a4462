//! Messages with QoS 1 that local subscribers have although they could not be stored: they come again. [pure]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::ingest::mqtt::packet::PacketId;

/// Most messages that are remembered; then the oldest go, and subscribers get one twice. Two megabytes or so.
const HANDED_MAX: usize = 20_000;

/// By client, for its session may end with the connection and the message comes again all the same.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// The digest, and when it was noted.
    of: HashMap<(Arc<str>, PacketId), (u64, u64)>,
    order: VecDeque<(u64, (Arc<str>, PacketId))>,
    notes: u64,
}

impl Handed {
    pub fn note(&mut self, client_id: &Arc<str>, packet_id: PacketId, digest: u64) {
        let key = (client_id.clone(), packet_id);
        self.notes += 1;
        self.of.insert(key.clone(), (digest, self.notes));
        self.order.push_back((self.notes, key));
        while self.order.len() > HANDED_MAX {
            let Some((note, key)) = self.order.pop_front() else { break };
            if self.of.get(&key).is_some_and(|(_, last)| *last == note) {
                self.of.remove(&key);
            }
        }
    }

    /// Whether this is one of them, which comes again; it is forgotten.
    pub fn take(&mut self, client_id: &Arc<str>, packet_id: PacketId, digest: u64) -> bool {
        if self.of.is_empty() {
            return false;
        }
        self.of.remove(&(client_id.clone(), packet_id)).is_some_and(|(known, _)| known == digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_once_and_the_oldest_are_forgotten() {
        let mut handed = Handed::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let id = |n| PacketId::new(n).unwrap();
        handed.note(&a, id(1), 7);
        assert!(!handed.take(&b, id(1), 7) && !handed.take(&a, id(2), 7));
        assert!(handed.take(&a, id(1), 7) && !handed.take(&a, id(1), 7));
        handed.note(&a, id(1), 7);
        assert!(!handed.take(&a, id(1), 8), "another message under its id");
        handed.note(&a, id(1), 7);
        for n in 0..HANDED_MAX {
            handed.note(&b, id((n % 60_000 + 1) as u16), 1);
            if n == HANDED_MAX / 2 {
                handed.note(&b, id(1), 2);
            }
        }
        assert!(!handed.take(&a, id(1), 7));
        assert!(handed.take(&b, id(1), 2), "noted again, later");
        assert!(handed.of.len() <= HANDED_MAX && handed.order.len() == HANDED_MAX);
    }
}
