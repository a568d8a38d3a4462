//! A gateway's MQTT way in, in this process.

use std::net::SocketAddr;
use std::sync::Arc;

use tempfile::TempDir;
use tidegate::config::EdgeConfig;
use tidegate::downlink::commands::Commands;
use tidegate::event::{Event, record};
use tidegate::inference::Inference;
use tidegate::ingest::Router;
use tidegate::ingest::identity::Gate as Identities;
use tidegate::ingest::mqtt::transport::Kind;
use tidegate::ingest::mqtt::upstream::Upstream;
use tidegate::ingest::mqtt::{Hub, Listener, Surroundings};
use tidegate::journal::Meters;
use tidegate::observe::metrics::Metrics;
use tidegate::observe::status::Links;
use tidegate::outbox::Outbox;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;

use crate::support::mqtt::{Client, Options};

pub struct Gate {
    pub tasks: Tasks,
    pub hub: Hub,
    pub outbox: Outbox,
    pub metrics: Metrics,
    addresses: Vec<(Kind, SocketAddr)>,
    _dir: TempDir,
}

impl Gate {
    /// With the defaults, but for what `change` changes. Needs a runtime.
    pub fn start(change: impl FnOnce(&mut EdgeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EdgeConfig::default();
        config.node.id = "press-7".into();
        config.node.data_dir = dir.path().into();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        (config.mqtt.listen, config.mqtt.ws_listen) = (Some(free), Some(free));
        change(&mut config);
        let (clock, metrics, links, tasks) = (Clock::system(), Metrics::default(), Links::default(), Tasks::new());
        let listener = Listener::bind(&config.mqtt, 0).unwrap();
        let outbox = Outbox::open(&config, &clock, &metrics).unwrap();
        let (journals, router) = (Meters::new(&metrics), Router::new(&config.lanes, &outbox).unwrap());
        let hub = Hub::open(&config, &clock, &journals).unwrap();
        let results = Arc::new(router.clone());
        let commands = Commands::open(&config, &clock, &metrics, journals.of("commands"), results).unwrap();
        commands.publish_to(&tasks, Arc::new(hub.clone()));
        let addresses = listener.local_addrs().collect();
        let around = Surroundings {
            config: &config,
            hub: hub.clone(),
            upstream: Upstream::new(&config, &router, clock, Inference::new(&config, &metrics)),
            commands,
            outbox: outbox.clone(),
            links,
            gate: Identities::open(),
            tls: None,
        };
        listener.start(&tasks, around, &metrics);
        Self { tasks, hub, outbox, metrics, addresses, _dir: dir }
    }

    pub fn address(&self, kind: Kind) -> SocketAddr {
        self.addresses.iter().find(|(k, _)| *k == kind).unwrap().1
    }

    pub async fn connect(&self, options: Options) -> Client {
        Client::connect(self.address(Kind::Tcp), options).await
    }

    /// The last sequence on disk.
    pub fn last(&self, lane: &str) -> u64 {
        self.outbox.status().into_iter().find(|s| s.lane == lane).unwrap().last
    }

    /// Everything in a lane.
    pub async fn stored(&self, lane: &str) -> Vec<Event> {
        let last = self.last(lane);
        let mut events = Vec::new();
        let mut reader = self.outbox.reader(lane).unwrap();
        while (events.len() as u64) < last {
            for stored in reader.read(events.len() as u64 + 1, 1 << 20).await.unwrap() {
                events.push(record::decode(&stored.record).unwrap().0.to_event());
            }
        }
        events
    }

    /// The value of a metric's line, by the line's beginning.
    pub fn metric(&self, line: &str) -> f64 {
        let text = self.metrics.text().unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no line {line:?} in\n{text}"))
    }
}
