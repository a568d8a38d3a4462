//! One control link in this process, and what it hears.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tidegate::downlink::artefact::Digest;
use tidegate::downlink::link::{Heard, Link, Meters, NotSent, Settings, Taken};
use tidegate::downlink::report::{NodeReport, Running, What};
use tidegate::observe::metrics::Metrics;
use tidegate::pulsar::credentials::Credentials;
use tidegate::pulsar::wire::{Address, Connector};
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longer than anything takes on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A link that stops when dropped.
pub struct Node {
    pub link: Link,
    pub heard: mpsc::Receiver<Heard>,
    pub metrics: Metrics,
    pub tasks: Tasks,
    pub name: String,
    /// Messages that came before the link said that it is connected.
    early: VecDeque<Heard>,
}

/// Settings for `node` at the broker of `url`.
pub fn settings(url: &str, tenant: &str, node: &str) -> Settings {
    Settings {
        addresses: vec![Address::parse(url).unwrap()],
        connector: Connector {
            credentials: Credentials::None,
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
        },
        tenant: tenant.to_owned(),
        node: node.to_owned(),
        incarnation: "00ff".to_owned(),
        retry_max: Duration::from_millis(800),
    }
}

/// A report that can be told from others.
pub fn report(node: &str, seq: u64) -> NodeReport {
    NodeReport {
        node: node.to_owned(),
        incarnation: "00ff".to_owned(),
        at_ms: None,
        software: "test".to_owned(),
        groups: Vec::new(),
        committed: Running { epoch: 0, number: seq, sha256: Some(Digest::of(b"document")) },
        trial: None,
        accepted: None,
        what: What::Leaving,
    }
}

impl Node {
    /// Not connected yet.
    pub fn start(name: &str) -> Self {
        let (metrics, tasks) = (Metrics::default(), Tasks::new());
        let (link, heard) = Link::start(&tasks, Clock::system(), Meters::new(&metrics));
        Self { link, heard, metrics, tasks, name: name.to_owned(), early: VecDeque::new() }
    }

    /// Connected as `generation`.
    pub async fn connected(name: &str, url: &str, tenant: &str, generation: u64) -> Self {
        let mut node = Self::start(name);
        node.link.set(Some(settings(url, tenant, name)), generation);
        node.until_connected(generation).await;
        node
    }

    /// The next thing heard, but that there is no message yet.
    pub async fn next(&mut self) -> Heard {
        if let Some(early) = self.early.pop_front() {
            return early;
        }
        loop {
            let next = timeout(PATIENCE, self.heard.recv()).await;
            match next.unwrap_or_else(|_| panic!("{} hears nothing: {:?}", self.name, self.link.status())).unwrap() {
                Heard::Empty { .. } => {}
                heard => return heard,
            }
        }
    }

    /// Passes over everything until it is connected as `generation`, but for that generation's messages.
    pub async fn until_connected(&mut self, generation: u64) {
        let begun = Instant::now();
        let mut early = VecDeque::new();
        loop {
            assert!(begun.elapsed() < PATIENCE, "{} does not connect: {:?}", self.name, self.link.status());
            match self.next().await {
                Heard::Connected { generation: g } if g == generation => break,
                heard @ (Heard::Inbox { generation: g, .. } | Heard::Unfit { generation: g, .. })
                    if g == generation =>
                {
                    early.push_back(heard);
                }
                heard @ Heard::Command { .. } => early.push_back(heard),
                _ => {}
            }
        }
        self.early = early;
    }

    /// The next message of the inbox, whatever else comes before it.
    pub async fn inbox(&mut self) -> String {
        loop {
            if let Heard::Inbox { bytes, .. } = self.next().await {
                return String::from_utf8(bytes.to_vec()).unwrap();
            }
        }
    }

    /// Inbox messages until `wanted` comes; those before it.
    pub async fn inbox_until(&mut self, wanted: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            match self.inbox().await {
                text if text == wanted => return before,
                text => before.push(text),
            }
        }
    }

    /// The next command, whatever else comes before it.
    pub async fn command(&mut self) -> (String, Taken) {
        loop {
            if let Heard::Command { bytes, taken } = self.next().await {
                return (String::from_utf8(bytes.to_vec()).unwrap(), taken);
            }
        }
    }

    /// Nothing comes for a moment, but perhaps the word that the inbox is empty.
    pub async fn quiet(&mut self) {
        assert!(self.early.is_empty(), "{:?}", self.early);
        let others = async {
            loop {
                match self.heard.recv().await {
                    Some(Heard::Empty { .. }) => {}
                    other => break other,
                }
            }
        };
        let heard = timeout(Duration::from_millis(700), others).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// Sends a report, again and again until it is stored. How many attempts failed.
    pub async fn report(&self, seq: u64) -> u32 {
        let report = report(&self.name, seq);
        let sent = async {
            for failed in 0.. {
                match self.link.report(&report).await {
                    Ok(()) => return failed,
                    Err(NotSent::TooLarge(_) | NotSent::Stopped) => unreachable!(),
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
            unreachable!()
        };
        timeout(PATIENCE, sent).await.expect("the report is not stored")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}
