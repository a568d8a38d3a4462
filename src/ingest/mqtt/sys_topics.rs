//! What the gateway says of itself under `$SYS`: mosquitto's topics, which dashboards know, and our own. [pure]
//!
//! Names and formats are those of mosquitto(8), "Broker Status", and of `src/sys_tree.c` in mosquitto 2.0: whole
//! numbers as they are, averages with two decimals, uptime as `123 seconds`. Left out is what we do not count (heap) and
//! what mosquitto calls deprecated (`clients/active`, `clients/inactive`), but not `messages/stored`, which many still read.

use std::collections::HashMap;
use std::time::Duration;

const VERSION: &str = concat!("tidegate version ", env!("CARGO_PKG_VERSION"));

/// What is counted, as of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Clients with a connection.
    pub clients_connected: u64,
    /// These, and sessions without one.
    pub clients_total: u64,
    /// Sessions that ended by expiry, since the start.
    pub clients_expired: u64,
    /// Packets of any type from clients, since the start.
    pub messages_received: u64,
    /// Packets of any type to clients, since the start.
    pub messages_sent: u64,
    /// PUBLISH packets from clients, since the start.
    pub publish_received: u64,
    /// PUBLISH packets to clients, since the start.
    pub publish_sent: u64,
    /// Messages that a subscriber did not get, since the start.
    pub publish_dropped: u64,
    /// Bytes of payload in PUBLISH packets from clients, since the start.
    pub publish_bytes_received: u64,
    /// Bytes of payload in PUBLISH packets to clients, since the start.
    pub publish_bytes_sent: u64,
    /// Bytes from clients, since the start.
    pub bytes_received: u64,
    /// Bytes to clients, since the start.
    pub bytes_sent: u64,
    /// Connections that were accepted, since the start.
    pub sockets: u64,
    /// CONNECT packets, since the start.
    pub connects: u64,
    /// Messages that are kept: retained ones and those that wait for a client.
    pub stored_messages: u64,
    /// Bytes of payload in them.
    pub stored_bytes: u64,
    /// Subscriptions, shared ones included.
    pub subscriptions: u64,
    /// Shared subscriptions.
    pub shared_subscriptions: u64,
    /// Retained messages.
    pub retained: u64,
}

/// What is said of a lane.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// Its name.
    pub name: &'a str,
    /// Events on disk that the cloud has not confirmed.
    pub backlog_events: u64,
    /// State of its link, in a word.
    pub link: &'a str,
}

/// A topic below `$SYS/broker/` and where its value is from.
type Source = (&'static str, fn(&Counters) -> u64);

const NUMBERS: [Source; 19] = [
    ("clients/connected", |c| c.clients_connected),
    ("clients/disconnected", |c| c.clients_total.saturating_sub(c.clients_connected)),
    ("clients/total", |c| c.clients_total),
    ("clients/expired", |c| c.clients_expired),
    ("messages/received", |c| c.messages_received),
    ("messages/sent", |c| c.messages_sent),
    ("messages/stored", |c| c.stored_messages),
    ("store/messages/count", |c| c.stored_messages),
    ("store/messages/bytes", |c| c.stored_bytes),
    ("publish/messages/received", |c| c.publish_received),
    ("publish/messages/sent", |c| c.publish_sent),
    ("publish/messages/dropped", |c| c.publish_dropped),
    ("publish/bytes/received", |c| c.publish_bytes_received),
    ("publish/bytes/sent", |c| c.publish_bytes_sent),
    ("bytes/received", |c| c.bytes_received),
    ("bytes/sent", |c| c.bytes_sent),
    ("subscriptions/count", |c| c.subscriptions),
    ("shared_subscriptions/count", |c| c.shared_subscriptions),
    // With the space.
    ("retained messages/count", |c| c.retained),
];

/// Of these there are averages per minute.
const LOADS: [Source; 9] = [
    ("messages/received", |c| c.messages_received),
    ("messages/sent", |c| c.messages_sent),
    ("publish/received", |c| c.publish_received),
    ("publish/sent", |c| c.publish_sent),
    ("publish/dropped", |c| c.publish_dropped),
    ("bytes/received", |c| c.bytes_received),
    ("bytes/sent", |c| c.bytes_sent),
    ("sockets", |c| c.sockets),
    ("connections", |c| c.connects),
];

/// How many per minute, averaged over one, five and fifteen minutes in the way of Unix's load: what is older counts
/// less, by e for each span.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Per minute, in the order of [`Load::SPANS`].
    pub per_minute: [f64; 3],
}

impl Load {
    /// Names and lengths, in seconds.
    pub const SPANS: [(&'static str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

    /// `more` happened in the time that has passed since the last call.
    #[allow(clippy::cast_precision_loss)] // a display with two decimals
    pub fn add(&mut self, more: u64, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let rate = more as f64 * 60.0 / seconds;
        for (average, (_, span)) in self.per_minute.iter_mut().zip(Self::SPANS) {
            *average = rate + (-seconds / span).exp() * (*average - rate);
        }
    }
}

/// The topics, and what was said last on each.
#[derive(Debug, Default)]
pub struct SysTopics {
    said: HashMap<String, String>,
    uptime: Duration,
    counters: Counters,
    clients_maximum: u64,
    loads: [Load; LOADS.len()],
}

impl SysTopics {
    /// Topics and texts that are new or have changed since the last call, to be published with the retain flag.
    /// To be called every ten seconds or so: as with mosquitto, the most clients at a time are those seen by a call.
    pub fn update(&mut self, uptime: Duration, counters: Counters, lanes: &[Lane<'_>]) -> Vec<(String, String)> {
        let elapsed = uptime.saturating_sub(self.uptime);
        for (load, (_, count)) in self.loads.iter_mut().zip(LOADS) {
            load.add(count(&counters).saturating_sub(count(&self.counters)), elapsed);
        }
        (self.uptime, self.counters) = (uptime, counters);
        self.clients_maximum = self.clients_maximum.max(counters.clients_connected);

        let mut all = self.broker();
        for lane in lanes {
            all.push((format!("tidegate/lanes/{}/backlog/events", lane.name), lane.backlog_events.to_string()));
            all.push((format!("tidegate/lanes/{}/link", lane.name), lane.link.to_owned()));
        }
        all.into_iter()
            .map(|(topic, text)| (format!("$SYS/{topic}"), text))
            .filter(|(topic, text)| self.said.insert(topic.clone(), text.clone()).as_ref() != Some(text))
            .collect()
    }

    fn broker(&self) -> Vec<(String, String)> {
        let mut all = vec![
            ("broker/version".to_owned(), VERSION.to_owned()),
            ("broker/uptime".to_owned(), format!("{} seconds", self.uptime.as_secs())),
            ("broker/clients/maximum".to_owned(), self.clients_maximum.to_string()),
        ];
        all.extend(NUMBERS.map(|(topic, number)| (format!("broker/{topic}"), number(&self.counters).to_string())));
        for (load, (topic, _)) in self.loads.iter().zip(LOADS) {
            for (average, (span, _)) in load.per_minute.iter().zip(Load::SPANS) {
                all.push((format!("broker/load/{topic}/{span}"), format!("{average:.2}")));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::event::topic::check_name;

    const S: Duration = Duration::from_secs(1);

    /// Each counter with a value of its own.
    fn sample() -> Counters {
        Counters {
            clients_connected: 3,
            clients_total: 10,
            clients_expired: 4,
            messages_received: 600,
            messages_sent: 1200,
            publish_received: 60,
            publish_sent: 120,
            publish_dropped: 6,
            publish_bytes_received: 11,
            publish_bytes_sent: 12,
            bytes_received: 6000,
            bytes_sent: 12_000,
            sockets: 30,
            connects: 24,
            stored_messages: 13,
            stored_bytes: 14,
            subscriptions: 15,
            shared_subscriptions: 16,
            retained: 17,
        }
    }

    #[test]
    fn names_and_formats_are_mosquittos() {
        let lanes = [Lane { name: "alarms", backlog_events: 5, link: "up" }];
        let said = SysTopics::default().update(60 * S, sample(), &lanes);
        assert!(said.iter().all(|(topic, _)| check_name(topic).is_ok()));
        let count = said.len();
        let said: BTreeMap<String, String> = said.into_iter().collect();
        assert_eq!((count, said.len()), (3 + 19 + 27 + 2, 51), "none twice");
        for (topic, text) in [
            ("broker/version", VERSION),
            ("broker/uptime", "60 seconds"),
            ("broker/clients/connected", "3"),
            ("broker/clients/disconnected", "7"),
            ("broker/clients/total", "10"),
            ("broker/clients/maximum", "3"),
            ("broker/clients/expired", "4"),
            ("broker/messages/received", "600"),
            ("broker/messages/sent", "1200"),
            ("broker/messages/stored", "13"),
            ("broker/store/messages/count", "13"),
            ("broker/store/messages/bytes", "14"),
            ("broker/publish/messages/received", "60"),
            ("broker/publish/messages/sent", "120"),
            ("broker/publish/messages/dropped", "6"),
            ("broker/publish/bytes/received", "11"),
            ("broker/publish/bytes/sent", "12"),
            ("broker/bytes/received", "6000"),
            ("broker/bytes/sent", "12000"),
            ("broker/subscriptions/count", "15"),
            ("broker/shared_subscriptions/count", "16"),
            ("broker/retained messages/count", "17"),
            // After one minute at 600 per minute: 600 · (1 − 1/e), 600 · (1 − e^(−1/5)), 600 · (1 − e^(−1/15)).
            ("broker/load/messages/received/1min", "379.27"),
            ("broker/load/messages/received/5min", "108.76"),
            ("broker/load/messages/received/15min", "38.70"),
            ("broker/load/messages/sent/1min", "758.54"),
            ("broker/load/publish/received/1min", "37.93"),
            ("broker/load/publish/sent/1min", "75.85"),
            ("broker/load/publish/dropped/1min", "3.79"),
            ("broker/load/bytes/received/1min", "3792.72"),
            ("broker/load/bytes/sent/1min", "7585.45"),
            ("broker/load/sockets/1min", "18.96"),
            ("broker/load/connections/1min", "15.17"),
            ("tidegate/lanes/alarms/backlog/events", "5"),
            ("tidegate/lanes/alarms/link", "up"),
        ] {
            assert_eq!(said.get(&format!("$SYS/{topic}")).map(String::as_str), Some(text), "{topic}");
        }
    }

    #[test]
    fn only_what_has_changed_is_said_again() {
        let mut topics = SysTopics::default();
        let lane = |link| [Lane { name: "alarms", backlog_events: 0, link }];
        let quiet = Counters { clients_connected: 2, clients_total: 2, ..Counters::default() };
        assert_eq!(topics.update(Duration::ZERO, quiet, &lane("up")).len(), 51);
        assert_eq!(topics.update(Duration::ZERO, quiet, &lane("up")), []);
        assert_eq!(topics.update(S / 2, quiet, &lane("up")), []);
        let said = |topic: &str, text: &str| (format!("$SYS/{topic}"), text.to_owned());
        assert_eq!(topics.update(S, quiet, &lane("up")), [said("broker/uptime", "1 seconds")]);
        let fewer = Counters { clients_connected: 1, ..quiet };
        assert_eq!(
            topics.update(S, fewer, &lane("down")),
            [
                said("broker/clients/connected", "1"),
                said("broker/clients/disconnected", "1"),
                said("tidegate/lanes/alarms/link", "down"),
            ],
            "not the maximum"
        );
    }

    #[test]
    fn a_load_dies_away_and_is_then_silent() {
        let mut topics = SysTopics::default();
        let busy = Counters { messages_received: 1000, ..Counters::default() };
        topics.update(10 * S, busy, &[]);
        let mut last = BTreeMap::new();
        let mut calls = 0;
        while topics.loads[0].per_minute[2] >= 0.005 {
            calls += 1;
            last.extend(topics.update((10 + 10 * calls) * S, busy, &[]));
        }
        // From 66.3 per minute: 900 s · ln(66.3 / 0.005) = 8543 s.
        assert_eq!(calls, 855);
        for (span, _) in Load::SPANS {
            assert_eq!(last[&format!("$SYS/broker/load/messages/received/{span}")], "0.00");
        }
        assert_eq!(topics.update((20 + 10 * calls) * S, busy, &[]).len(), 1, "uptime");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// At a constant rate the averages depend on how much time has passed, not on how it was cut.
        #[test]
        fn load_does_not_depend_on_how_often_it_is_asked(steps in prop::collection::vec(0_u64..100, 1..50), rate in 0_u64..1000) {
            let mut cut = Load::default();
            for &step in &steps {
                cut.add(rate * step, Duration::from_secs(step));
            }
            let total: u64 = steps.iter().sum();
            let mut whole = Load::default();
            whole.add(rate * total, Duration::from_secs(total));
            for (cut, whole) in cut.per_minute.iter().zip(whole.per_minute) {
                prop_assert!((cut - whole).abs() <= 1e-6 * (1.0 + whole), "{} {}", cut, whole);
                prop_assert!(*cut <= 60.0 * 1000.0 + 1e-6);
            }
        }
    }
}
