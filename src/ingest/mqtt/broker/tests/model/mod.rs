//! The broker against clients that keep to the standard, with crashes, and an oracle that knows what was promised.

mod device;
mod faults;
mod oracle;
mod world;

use faults::{Fault, PLANTED};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use world::{Outcome, World};

use crate::ingest::mqtt::packet::QoS;

/// What a message says: a number of its own, 0 if it says nothing.
pub type Payload = u32;

const TOPICS: [&str; 3] = ["a", "b/c", "s"];
/// Only a shared subscription matches it.
const SHARED_TOPIC: &str = "s";
const FILTERS: [&str; 5] = ["a", "b/c", "+/c", "b/#", "$share/g/s"];

fn number(payload: &[u8]) -> Payload {
    let text = std::str::from_utf8(payload).unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// One thing that happens. Times, lengths and picks are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Op {
    Connect {
        device: usize,
        clean: bool,
        expiry_s: u32,
    },
    Lose {
        device: usize,
    },
    /// The client loses what it keeps of its sending, and begins with packet id 1 again; its session stays.
    Forget {
        device: usize,
    },
    Disconnect {
        device: usize,
        expiry: bool,
    },
    Subscribe {
        device: usize,
        filter: usize,
        qos: QoS,
    },
    Unsubscribe {
        device: usize,
        filter: usize,
    },
    Publish {
        device: usize,
        topic: usize,
        qos: QoS,
        retain: bool,
        empty: bool,
    },
    Server {
        device: usize,
        packets: usize,
    },
    Store {
        device: usize,
        pick: usize,
        count: usize,
        ok: bool,
        tell: bool,
    },
    Take {
        device: usize,
        max_bytes: usize,
    },
    Client {
        device: usize,
        packets: usize,
        lazy: bool,
    },
    Acknowledge {
        device: usize,
        pick: usize,
    },
    Sync {
        part: usize,
    },
    Pass {
        ms: u64,
    },
    Crash {
        part: usize,
        long: bool,
    },
    Tidy {
        max_bytes: usize,
    },
}

/// What is subscribed to at the start, and in most cases published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    /// Each device has another filter.
    Mixed,
    /// All share one.
    Shared,
}

fn op(site: Site) -> impl Strategy<Value = Op> {
    let device = || 0..4_usize;
    let topics = if site == Site::Shared { TOPICS.len() - 1..TOPICS.len() } else { 0..TOPICS.len() };
    let filters = if site == Site::Shared { FILTERS.len() - 1..FILTERS.len() } else { 0..FILTERS.len() };
    let qos =
        || prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce), Just(QoS::ExactlyOnce)];
    prop_oneof![
        10 => (device(), prop::bool::weighted(0.15), prop_oneof![Just(0), Just(5), Just(1_000), Just(1_000)])
            .prop_map(|(device, clean, expiry_s)| Op::Connect { device, clean, expiry_s }),
        3 => device().prop_map(|device| Op::Lose { device }),
        2 => device().prop_map(|device| Op::Forget { device }),
        2 => (device(), prop::bool::weighted(0.2)).prop_map(|(device, expiry)| Op::Disconnect { device, expiry }),
        8 => (device(), filters.clone(), qos()).prop_map(|(device, filter, qos)| Op::Subscribe { device, filter, qos }),
        1 => (device(), filters).prop_map(|(device, filter)| Op::Unsubscribe { device, filter }),
        20 => (device(), topics, qos(), prop::bool::weighted(0.2), prop::bool::weighted(0.3))
            .prop_map(|(device, topic, qos, retain, empty)| Op::Publish { device, topic, qos, retain, empty }),
        25 => (device(), 1..6_usize).prop_map(|(device, packets)| Op::Server { device, packets }),
        15 => (device(), 0..4_usize, 1..4_usize, prop::bool::weighted(0.95), prop::bool::weighted(0.9))
            .prop_map(|(device, pick, count, ok, tell)| Op::Store { device, pick, count, ok, tell }),
        15 => (device(), prop_oneof![Just(1), Just(50), Just(10_000)])
            .prop_map(|(device, max_bytes)| Op::Take { device, max_bytes }),
        25 => (device(), 1..6_usize, prop::bool::weighted(0.2))
            .prop_map(|(device, packets, lazy)| Op::Client { device, packets, lazy }),
        3 => (device(), 0..4_usize).prop_map(|(device, pick)| Op::Acknowledge { device, pick }),
        10 => (1..5_usize).prop_map(|part| Op::Sync { part }),
        2 => prop_oneof![Just(500), Just(3_000), Just(6_000)].prop_map(|ms| Op::Pass { ms }),
        2 => (0..5_usize, any::<bool>()).prop_map(|(part, long)| Op::Crash { part, long }),
        3 => prop_oneof![Just(1), Just(200), Just(100_000)].prop_map(|max_bytes| Op::Tidy { max_bytes }),
    ]
}

fn ops(site: Site) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(site), 1..120)
}

fn run(site: Site, tight: bool, fault: Fault, ops: &[Op]) -> Outcome {
    let mut world = World::new(tight, fault);
    for device in 0..world.devices.len() {
        // So that most ops find somebody to do them.
        world.step(&Op::Connect { device, clean: false, expiry_s: 1_000 })?;
        world.step(&Op::Sync { part: 4 })?;
        world.step(&Op::Client { device, packets: 1, lazy: false })?;
        let filter = if site == Site::Shared { FILTERS.len() - 1 } else { device };
        world.step(&Op::Subscribe { device, filter, qos: QoS::ExactlyOnce })?;
    }
    for op in ops {
        world.step(op)?;
    }
    world.settle()
}

/// More with `TIDEGATE_CASES`.
fn cases() -> u32 {
    std::env::var("TIDEGATE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_promised_is_kept(tight in prop::bool::weighted(0.2), ops in ops(Site::Mixed)) {
        prop_assert_eq!(run(Site::Mixed, tight, Fault::None, &ops), Ok(()));
    }

    #[test]
    fn what_is_promised_to_those_who_share_is_kept(tight in prop::bool::weighted(0.2), ops in ops(Site::Shared)) {
        prop_assert_eq!(run(Site::Shared, tight, Fault::None, &ops), Ok(()));
    }
}

/// It is in the outbox, its connection was taken over before anybody heard of that, and the outbox is busy when it comes again.
#[test]
fn a_message_that_may_be_stored_is_not_refused() {
    let qos = QoS::ExactlyOnce;
    let ops = [
        Op::Publish { device: 0, topic: 0, qos, retain: false, empty: false },
        Op::Server { device: 0, packets: 2 },
        Op::Store { device: 0, pick: 0, count: 1, ok: true, tell: false },
        Op::Connect { device: 0, clean: false, expiry_s: 1_000 },
        Op::Sync { part: 4 },
        Op::Client { device: 0, packets: 1, lazy: false },
        Op::Server { device: 0, packets: 1 },
        Op::Store { device: 0, pick: 0, count: 1, ok: false, tell: true },
    ];
    assert_eq!(run(Site::Mixed, false, Fault::None, &ops), Ok(()));
}

/// It is in the outbox, its client asks for a new session, and the gateway is killed before the answer leaves. Whoever then goes
/// on with what the old session had under way sends a new message; [MQTT-3.1.2-4] has the client forget it too.
#[test]
fn a_kill_before_the_answer_to_a_clean_start_doubles_nothing() {
    let qos = QoS::ExactlyOnce;
    let ops = [
        Op::Publish { device: 0, topic: 0, qos, retain: false, empty: false },
        Op::Server { device: 0, packets: 2 },
        Op::Store { device: 0, pick: 0, count: 1, ok: true, tell: false },
        Op::Connect { device: 0, clean: true, expiry_s: 1_000 },
        Op::Crash { part: 4, long: false },
        Op::Connect { device: 0, clean: false, expiry_s: 1_000 },
    ];
    assert_eq!(run(Site::Mixed, false, Fault::None, &ops), Ok(()));
    let doubled = Err("1 is 2 times in the outbox".to_owned());
    assert_eq!(run(Site::Mixed, false, Fault::KeptAfterCleanStart, &ops), doubled);
}

/// The random cases prove something only if they find mistakes.
#[test]
fn each_planted_mistake_is_found() {
    for fault in PLANTED {
        // Some need 3,000 cases on average: far more than that, so that none is missed by bad luck. It ends at the first that
        // is found.
        let cases = cases() * 20;
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let cases = std::cell::Cell::new(0);
        let site = if fault.is_of_those_who_share() { Site::Shared } else { Site::Mixed };
        let result = TestRunner::new(config).run(&ops(site), |ops| {
            cases.set(cases.get() + 1);
            run(site, false, fault, &ops).map_err(TestCaseError::fail)
        });
        assert!(result.is_err(), "{fault:?} was not found");
        println!("{fault:?}: found by case {}", cases.get());
    }
}
