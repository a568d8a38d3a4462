//! Pushes each entry of the library to real gateways, kills them meanwhile, and asks afterwards whether anything is left of
//! it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate::downlink::report::{NodeReport, What};

use crate::library::{Becomes, Entry, Maker, Push, retired};
use crate::places::Places;
use crate::site::{self, Counts, Devices, Promised, Steps};
use crate::support::central::{Central, PATIENCE, versioned};
use crate::support::random::Random;
use crate::support::tried::Node;
use crate::support::witness::Witness;

/// When a gateway is killed after a push.
#[derive(Clone, Copy, Debug)]
pub enum Kill {
    /// When so many files of the trial have changed.
    AtStep(u32),
    /// After so long.
    After(Duration),
    /// When it has reported what became of it.
    AtTheEnd,
    /// Not at all.
    Never,
}

/// What a campaign came to.
#[derive(Debug, Default)]
pub struct Figures {
    pub pushes: u64,
    pub kills: u64,
    /// Most steps that an entry took.
    pub steps_max: u32,
    /// No good configuration could be pushed afterwards.
    pub stranded: Vec<String>,
    /// Nobody was told, or something else.
    pub unreported: Vec<String>,
    pub longest_verdict: (Duration, String),
    pub longest_return: (Duration, String),
    pub counts: Counts,
}

/// What all gateways of a campaign share.
pub struct Campaign {
    pub places: Places,
    pub central: Central,
    pub tenant: String,
    pub confirm: Duration,
    pub figures: Mutex<Figures>,
}

/// A gateway, and what was pushed to it.
pub struct Worker {
    campaign: Arc<Campaign>,
    node: Node,
    number: u64,
    /// The message that was committed last, and its number.
    last: (u64, String),
    random: Random,
}

/// What one push came to.
struct Outcome {
    killed: bool,
    /// What was reported: as wanted, or not.
    result: Option<Result<(), String>>,
    /// Until it was reported.
    took: Duration,
    /// Until a good configuration was committed after it.
    back: Duration,
    steps: u32,
    reachable: bool,
}

/// An entry, and the kills to try with it.
pub type Work = (Entry, Kills);

/// Which kills.
pub enum Kills {
    /// One, at a random moment.
    Random,
    /// One at each step; two at random moments; one at the end; and none.
    Every,
}

impl Campaign {
    /// Runs `work` on so many gateways, and counts.
    pub async fn run(self: &Arc<Self>, work: Vec<Work>, gateways: usize, random: &mut Random) {
        let (mut usual, mut swallowing) = (VecDeque::new(), VecDeque::new());
        for item in work {
            if item.0.swallows {
                swallowing.push_back(item)
            } else {
                usual.push_back(item)
            };
        }
        let (usual, swallowing) = (Arc::new(Mutex::new(usual)), Arc::new(Mutex::new(swallowing)));
        let mut running = Vec::new();
        for n in 0..gateways {
            let (queue, swallows) = if n == 0 { (swallowing.clone(), true) } else { (usual.clone(), false) };
            let (campaign, seed) = (self.clone(), random.below(u64::MAX));
            running.push(tokio::spawn(async move { campaign.gateway(n, seed, &queue, swallows).await }));
        }
        let mut promised = Vec::new();
        for gateway in running {
            promised.push(gateway.await.unwrap());
        }
        self.count(promised).await;
    }

    /// One gateway's life. What its devices were promised.
    async fn gateway(
        self: Arc<Self>,
        n: usize,
        seed: u64,
        queue: &Mutex<VecDeque<Work>>,
        swallows: bool,
    ) -> (String, Promised, bool) {
        let name = name_of(n);
        let trusted = self.central.keys.trusted(&format!("{}ms", self.confirm.as_millis()));
        let own = site::own_file(&trusted, &retired(), &self.places.broker.service_url(), &self.tenant);
        let (started, called) = (own, name.clone());
        let node = tokio::task::spawn_blocking(move || Node::start(site::binary(), &called, &started)).await.unwrap();
        let devices = Devices::start(&node, seed);
        let last = (0, String::new());
        let mut worker = Worker { campaign: self, node, number: 0, last, random: Random::seeded(seed) };
        assert!(worker.push_good("the first").await, "{name} takes no configuration at all\n{}", worker.node.alive());
        assert!(worker.push_good("the second").await, "{name} takes no second one\n{}", worker.node.alive());
        loop {
            let next = queue.lock().unwrap().pop_front();
            let Some((entry, kills)) = next else { break };
            worker.attack(&entry, &kills).await;
        }
        let promised = devices.stop().await;
        worker.drained().await;
        (name, promised, swallows)
    }

    async fn count(&self, promised: Vec<(String, Promised, bool)>) {
        let expected: u64 =
            promised.iter().map(|(_, promised, swallows)| if *swallows { 0 } else { promised.len() }).sum();
        let (url, dir, tenant) = (self.places.broker.service_url(), self.places.dir().to_owned(), self.tenant.clone());
        let seen = tokio::task::spawn_blocking(move || {
            let witness = |lane: &str| {
                let topic = format!("persistent://{tenant}/telemetry/{lane}");
                Witness::start(&url, &topic, &dir.join(lane))
            };
            let (telemetry, alarms) = (witness("telemetry"), witness("alarms"));
            let mut seen = alarms.settle(0, PATIENCE);
            let rest = expected.saturating_sub(seen.len() as u64);
            seen.extend(telemetry.settle(rest, PATIENCE));
            seen
        });
        let seen = seen.await.unwrap();
        let mut figures = self.figures.lock().unwrap();
        for (name, promised, swallows) in promised {
            let counts = promised.judge(&name, &seen, swallows);
            println!("{name}: {counts:?}");
            let all = &mut figures.counts;
            all.acknowledged += counts.acknowledged;
            all.lost += counts.lost;
            all.duplicates += counts.duplicates;
            all.altered += counts.altered;
            all.gaps += counts.gaps;
        }
    }
}

/// Name of gateway `n`.
pub fn name_of(n: usize) -> String {
    format!("press-{n}")
}

impl Worker {
    async fn attack(&mut self, entry: &Entry, kills: &Kills) {
        match kills {
            Kills::Random => {
                let kill = self.random_kill();
                self.round(entry, kill, true).await;
            }
            Kills::Every => {
                for step in 1.. {
                    // The last one is one step too many.
                    if !self.round(entry, Kill::AtStep(step), false).await || step > 20 {
                        break;
                    }
                }
                for kill in [self.random_moment(), self.random_moment(), Kill::AtTheEnd, Kill::Never] {
                    self.round(entry, kill, false).await;
                }
            }
        }
    }

    fn random_kill(&mut self) -> Kill {
        match self.random.below(10) {
            0..6 => Kill::AtStep(1 + self.random.below(8) as u32),
            6..9 => self.random_moment(),
            _ => Kill::AtTheEnd,
        }
    }

    fn random_moment(&mut self) -> Kill {
        // Half of them while it is stored, half while it runs.
        let most = if self.random.below(2) == 0 { 200 } else { self.campaign.confirm.as_millis() as u64 * 5 / 4 };
        Kill::After(Duration::from_millis(self.random.below(most)))
    }

    /// Pushes `entry` and kills; `at_last`: at the end, if it was decided before. Whether the kill came.
    async fn round(&mut self, entry: &Entry, kill: Kill, at_last: bool) -> bool {
        let what = format!("{} {kill:?} on {}", entry.name, self.node.name);
        let (numbers, messages) = self.messages(entry);
        let heard = self.campaign.central.reports(&self.node.name).len();
        let begun = Instant::now();
        let mut steps = Steps::of(&self.node);
        for message in messages {
            self.campaign.central.send(&self.node.name, message).await;
        }
        let number = *numbers.last().unwrap();
        let verdict = |reports: &[NodeReport]| verdict(entry.becomes, number, &reports[heard..]);
        let (mut killed, mut result) = (false, None);
        let at_last = at_last || matches!(kill, Kill::AtTheEnd);
        while result.is_none() || (!killed && at_last) {
            result = verdict(&self.campaign.central.reports(&self.node.name));
            let is_due = match kill {
                Kill::AtStep(n) => steps.look() >= n,
                Kill::After(time) => begun.elapsed() >= time,
                Kill::AtTheEnd | Kill::Never => false,
            };
            if !killed && (is_due && result.is_none() || at_last && result.is_some()) {
                killed = true;
                self.restart().await;
            }
            if matches!(entry.becomes, Becomes::Nothing) && begun.elapsed() > self.campaign.confirm {
                break;
            }
            if begun.elapsed() > PATIENCE {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = begun.elapsed();
        let reachable = self.push_good(&what).await;
        if matches!(entry.becomes, Becomes::Nothing) {
            result = verdict(&self.campaign.central.reports(&self.node.name)).or(Some(Ok(())));
        }
        let outcome = Outcome { killed, result, took, back: begun.elapsed(), steps: steps.count, reachable };
        self.account(what, entry, outcome, heard);
        killed
    }

    fn account(&self, what: String, entry: &Entry, outcome: Outcome, heard: usize) {
        let Outcome { killed, result, took, back, steps, reachable } = outcome;
        let expected = matches!(result, Some(Ok(())));
        let mut figures = self.campaign.figures.lock().unwrap();
        figures.pushes += 1;
        figures.kills += u64::from(killed);
        figures.steps_max = figures.steps_max.max(steps);
        if !expected {
            let reports = self.campaign.central.reports(&self.node.name);
            let said: Vec<&What> =
                reports[heard..].iter().map(|r| &r.what).filter(|w| !matches!(w, What::Present { .. })).collect();
            let log = self.node.process.log_tail();
            println!("{what}: {result:?} after {took:?}; wanted {:?}; reported {said:?}\n{log}\n", entry.becomes);
            figures.unreported.push(format!("{what}: {result:?}"));
        }
        if !reachable {
            println!("{what}: stranded\n{}", self.node.process.log_tail());
            figures.stranded.push(what.clone());
        }
        println!(
            "{what}: {} after {:.1} s, {steps} steps, reachable after {:.1} s",
            if expected { "as it should" } else { "NOT" },
            took.as_secs_f32(),
            back.as_secs_f32()
        );
        if took > figures.longest_verdict.0 {
            figures.longest_verdict = (took, what.clone());
        }
        if back > figures.longest_return.0 {
            figures.longest_return = (back, what);
        }
    }

    /// Numbers and messages of `entry` as they are now.
    fn messages(&mut self, entry: &Entry) -> (Vec<u64>, Vec<String>) {
        let (campaign, number) = (self.campaign.clone(), self.number + 1);
        let maker = Maker {
            keys: &campaign.central.keys,
            node: &self.node.name,
            mqtt: self.node.mqtt,
            number,
            last: &self.last.1,
            last_number: self.last.0,
        };
        let messages = match entry.push {
            Push::Document(text) => vec![maker.message(&versioned(&text(&campaign.places), number))],
            Push::Message(make) => vec![make(&maker)],
            Push::Two(make) => make(&maker).to_vec(),
        };
        self.number += messages.len() as u64;
        ((number..).take(messages.len()).collect(), messages)
    }

    /// A document that is all right must be committed, and be what a start would find.
    async fn push_good(&mut self, why: &str) -> bool {
        self.number += 1;
        let number = self.number;
        let message = self.campaign.central.message(
            &self.node.name,
            number,
            Some(&format!("# after {why}\n[uplink]\nbatch_events = {}\n", 500 + number % 100)),
        );
        let message = message.encode();
        self.campaign.central.send(&self.node.name, message.clone()).await;
        self.last = (number, message);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let decided = self.campaign.central.decided(&self.node.name, number);
            if let Some(decided) = decided {
                let record = self.node.record();
                let is_good = record.committed.number == number.into() && record.candidate.is_none();
                if decided.reason.is_empty() && is_good {
                    return true;
                }
                println!("{why}: then {decided:?}, {record:?}");
                return false;
            }
            if let Some(code) = self.node.process.exited() {
                println!("{why}: ended with code {code}");
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    async fn restart(&mut self) {
        tokio::task::block_in_place(|| {
            self.node.process.kill9();
            self.node.process.restart();
        });
    }

    /// Everything that it has is in Pulsar.
    async fn drained(&mut self) {
        let begun = Instant::now();
        loop {
            let status = self.node.process.get("/v1/status").unwrap_or_default();
            let waits = |lane: &serde_json::Value| lane["backlog_events"].as_u64().unwrap_or(1);
            let left: Option<u64> = status["lanes"].as_array().map(|lanes| lanes.iter().map(waits).sum());
            if left == Some(0) {
                return;
            }
            if begun.elapsed() > PATIENCE {
                println!(
                    "{} keeps {left:?} events: {}\n{}",
                    self.node.name,
                    status["lanes"],
                    self.node.process.log_tail()
                );
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What `reports` say of `number`: as wanted, or not; `None`: nothing yet.
fn verdict(wanted: Becomes, number: u64, reports: &[NodeReport]) -> Option<Result<(), String>> {
    reports.iter().find_map(|report| match &report.what {
        What::Refused { reason, .. } => match wanted {
            Becomes::Refused(code) if code == reason => Some(Ok(())),
            // Of the first of two, or of a keyring beside what is in order.
            Becomes::Tried(_) => None,
            _ => Some(Err(format!("refused as {reason}"))),
        },
        What::Decided { number: of, outcome, reason, detail, .. } if *of == number => {
            let told = if reason.is_empty() { outcome.text() } else { reason };
            let is_right = match wanted {
                Becomes::Rejected(words) => told == "invalid" && detail.contains(words),
                Becomes::Tried(any) => any.contains(&told) && (told == "committed") == detail.is_empty(),
                Becomes::Refused(_) | Becomes::Nothing => false,
            };
            Some(if is_right { Ok(()) } else { Err(format!("{told}: {detail}")) })
        }
        _ => None,
    })
}
