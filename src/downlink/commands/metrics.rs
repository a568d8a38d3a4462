//! What commands count.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::command::Status;
use super::core::Counts;
use crate::observe::metrics::Metrics;

/// Label of an end.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Ended {
    status: &'static str,
}

/// Label of a way to the device.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Way {
    via: &'static str,
}

/// How a command or configuration was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as they say
pub enum Via {
    Stream,
    Poll,
    Mqtt,
}

impl Via {
    const ALL: [Self; 3] = [Self::Stream, Self::Poll, Self::Mqtt];

    fn label(self) -> Way {
        let via = match self {
            Self::Stream => "stream",
            Self::Poll => "poll",
            Self::Mqtt => "mqtt",
        };
        Way { via }
    }
}

/// The counters; clones share them.
#[derive(Clone, Debug)]
pub struct Meters {
    waiting: Gauge,
    unreported: Gauge,
    configs: Gauge,
    bytes: Gauge,
    added: Counter,
    delivered: Family<Way, Counter>,
    ended: Family<Ended, Counter>,
}

impl Meters {
    /// Registers everything in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self {
            waiting: Gauge::default(),
            unreported: Gauge::default(),
            configs: Gauge::default(),
            bytes: Gauge::default(),
            added: Counter::default(),
            delivered: Family::default(),
            ended: Family::default(),
        };
        let m = new.clone();
        metrics.register(|r| {
            r.register("commands_waiting", "Commands that wait for their device's answer", m.waiting);
            r.register("commands_unreported", "Ends of commands that are still to go upstream", m.unreported);
            r.register("commands_configs", "Devices with a configuration", m.configs);
            r.register("commands_held_bytes", "What counts into commands.max_bytes now", m.bytes);
            r.register("commands_added", "Commands taken, repetitions aside", m.added);
            r.register("commands_delivered", "Commands handed out, each time", m.delivered);
            r.register("commands_ended", "Commands that ended, by how", m.ended);
        });
        // What never occurred shows as 0: alerts need that.
        Status::ALL.iter().for_each(|s| drop(new.ended.get_or_create(&Ended { status: s.text() })));
        Via::ALL.iter().for_each(|v| drop(new.delivered.get_or_create(&v.label())));
        new
    }

    pub(super) fn show(&self, counts: &Counts) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.waiting.set(number(counts.waiting));
        self.unreported.set(number(counts.unreported));
        self.configs.set(number(counts.configs));
        self.bytes.set(i64::try_from(counts.bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn added(&self) {
        self.added.inc();
    }

    pub(super) fn ended(&self, status: Status) {
        self.ended.get_or_create(&Ended { status: status.text() }).inc();
    }

    /// A command was handed out.
    pub fn delivered(&self, via: Via) {
        self.delivered.get_or_create(&via.label()).inc();
    }
}
