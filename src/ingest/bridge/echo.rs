//! Messages that go round between brokers: what came by a bridge is marked when it is published here, and dropped when it comes
//! back; where marks get lost (MQTT 3.1.1 has no user properties) what comes again and again is noticed. [pure]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use crate::ingest::mqtt::broker::record::Message;

/// User property with the name of the node that published it.
pub const VIA: &str = "tidegate-via";

/// So often the same message may come within [`SPAN`] and be a sensor that says "on" ten times a second. One that goes round
/// comes a thousand times.
const TIMES_MAX: u32 = 100;

/// See [`TIMES_MAX`].
const SPAN: Duration = Duration::from_secs(10);

/// Most different messages that are counted in one span: those that go round are among the first that come in some span.
const COUNTED_MAX: usize = 1024;

/// Marks a message that is published here.
pub fn mark(message: &mut Message, node: &str) {
    message.properties.get_or_insert_default().user.push((VIA.to_owned(), node.to_owned()));
}

/// Whether we have published it.
pub fn is_ours(message: &Message, node: &str) -> bool {
    let user = message.properties.iter().flat_map(|properties| &properties.user);
    user.into_iter().any(|(name, value)| name == VIA && value == node)
}

/// How often the same messages came lately.
#[derive(Debug, Default)]
pub struct Rounds {
    since: Duration,
    times: HashMap<u64, u32>,
    told: bool,
}

impl Rounds {
    /// A message came, at a time of the steady clock. `true`: this one has come suspiciously often. Once in each span.
    pub fn came(&mut self, digest: u64, now: Duration) -> bool {
        if now.saturating_sub(self.since) >= SPAN {
            (self.since, self.told) = (now, false);
            self.times.clear();
        }
        let room = self.times.len() < COUNTED_MAX;
        let times = match self.times.entry(digest) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if room => new.insert(0),
            Entry::Vacant(_) => return false,
        };
        *times = times.saturating_add(1);
        *times > TIMES_MAX && !std::mem::replace(&mut self.told, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::mqtt::packet::QoS;

    #[test]
    fn only_our_own_mark_counts() {
        let (topic, payload, qos) = ("t".into(), "x".into(), QoS::AtLeastOnce);
        let mut message = Message { topic, qos, retain: false, payload, properties: None, expires_at: None };
        assert!(!is_ours(&message, "edge"));
        mark(&mut message, "other");
        assert!(!is_ours(&message, "edge"));
        mark(&mut message, "edge");
        assert!(is_ours(&message, "edge") && is_ours(&message, "other"));
    }

    #[test]
    fn what_goes_round_is_noticed_once_in_each_span_and_what_is_counted_is_bounded() {
        let mut rounds = Rounds::default();
        let ms = Duration::from_millis;
        // Ten a second may be.
        assert!((0..1_000).all(|n| !rounds.came(1, ms(n * 100))));
        let at = ms(200_000);
        let noticed: Vec<_> = (0..300).filter(|_| rounds.came(2, at)).collect();
        assert_eq!(noticed, [100]);
        assert!((0..5_000).all(|n| !rounds.came(n, at)) && rounds.times.len() <= COUNTED_MAX);
        assert_eq!((0..300).filter(|_| rounds.came(2, at + SPAN)).count(), 1);
    }
}
