//! An uplink with an outbox in this process, fed by the test.

use std::time::Duration;

use futures_util::FutureExt;
use tidegate::config::edge::EdgeConfig;
use tidegate::event::{Event, Timestamp};
use tidegate::observe::metrics::Metrics;
use tidegate::observe::status::{LinkStatus, Links};
use tidegate::outbox::Outbox;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;
use tidegate::uplink::{Allowed, Uplink};

/// A running uplink.
pub struct Edge {
    pub tasks: Tasks,
    pub outbox: Outbox,
    pub links: Links,
    pub metrics: Metrics,
    pub appended: u64,
    pub dir: tempfile::TempDir,
}

impl Edge {
    /// Starts an uplink for the configuration's lanes.
    pub fn start(mut config: EdgeConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        config.node.data_dir = dir.path().to_owned();
        let (clock, metrics, links, tasks) = (Clock::system(), Metrics::default(), Links::default(), Tasks::new());
        let outbox = Outbox::open(&config, &clock, &metrics).unwrap();
        let mut edge = Self { tasks, outbox, links, metrics, appended: 0, dir };
        edge.connect(&config);
        edge
    }

    /// Starts the uplink on the same outbox (again, after [`Edge::disconnect`]).
    pub fn connect(&mut self, config: &EdgeConfig) {
        self.tasks = Tasks::new();
        // A registry takes a name once.
        self.metrics = Metrics::default();
        let mut uplink = Uplink::new(self.links.clone(), Clock::system(), &self.metrics);
        uplink
            .set(&self.tasks, config, Allowed::All, &self.outbox)
            .now_or_never()
            .expect("there is nothing to wait for")
            .unwrap();
    }

    /// Stops the uplink in order.
    pub async fn disconnect(&self) {
        assert!(self.tasks.stop(Duration::from_secs(5)).await, "the uplink did not end in time");
        assert!(self.tasks.failure().is_none());
    }

    /// Appends `n` events of `keys` devices to the lane "telemetry".
    pub async fn append(&mut self, n: u64, keys: u64, size: usize) {
        let writer = self.outbox.writer("telemetry").unwrap();
        let end = self.appended + n;
        while self.appended < end {
            let batch = (end - self.appended).min(500);
            let events = (1..=batch).map(|i| event(self.appended + i, keys, size)).collect();
            self.appended = writer.append(events).await.unwrap().last;
        }
    }

    pub fn confirmed(&self) -> u64 {
        self.outbox.status()[0].confirmed
    }

    pub fn link(&self) -> LinkStatus {
        self.links.snapshot().remove("telemetry").unwrap_or_default()
    }

    /// Value of a counter of the lane.
    pub fn counter(&self, name: &str) -> u64 {
        let text = self.metrics.text().unwrap();
        let start = format!("tidegate_uplink_{name}_total{{lane=\"telemetry\"}} ");
        text.lines().find_map(|l| l.strip_prefix(&start)).map_or(0, |v| v.parse().unwrap())
    }
}

/// Event number `n`, which becomes sequence `n`.
pub fn event(n: u64, keys: u64, size: usize) -> Event {
    let mut data = format!("{{\"n\":{n},\"x\":\"").into_bytes();
    data.resize(size.max(data.len() + 2) - 2, b'x');
    data.extend_from_slice(b"\"}");
    Event {
        id: format!("e-{n}"),
        id_is_ours: false,
        source: "urn:test".to_owned(),
        ty: "reading".to_owned(),
        subject: Some(format!("dev-{}", n % keys)),
        time: Timestamp::from_unix_ms(1_700_000_000_000 + n as i64),
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: vec![("site".to_owned(), "plant-7".to_owned())],
        data: data.into(),
    }
}

/// A configuration with the lane "telemetry" towards `url`, in a tenant of its own.
pub fn config(url: &str, tenant: &str) -> EdgeConfig {
    let mut config = EdgeConfig::default();
    config.node.id = "test-node".to_owned();
    config.uplink.pulsar = vec![url.to_owned()];
    config.uplink.tenant = tenant.to_owned();
    config
}
