//! Random histories, and every crash of every history.

use proptest::prelude::*;

use super::world::{DiskFault, Document, Kind, World, document_of};
use super::{nth, place_of};
use crate::downlink::trial::{Input, Millis, Outcome, Place, Policy, Reason, Record, Status};
use crate::sys::histories::{cases, count, played};

const HOUR: Millis = 3_600_000;

#[derive(Clone, Debug)]
enum Step {
    /// A number relative to the newest: -2 to 3; the local file alone, or a document.
    Offer(i8, Option<Document>),
    Reject(i8),
    Act(u8),
    Answer(u8),
    Run(Millis),
    /// Nothing is done for so long.
    Stall(Millis),
    Link(bool),
    Broker(u8),
    Disk(DiskFault),
    /// An answer never comes.
    Lose(u8),
    Crash,
}

fn document() -> impl Strategy<Value = Document> {
    let kind = prop_oneof![2 => Just(Kind::Good), 3 => prop::sample::select(&Kind::ALL[..])];
    (kind, prop_oneof![4 => Just(0u8), 1 => Just(1u8)], 0..3u8).prop_map(|(kind, broker, variant)| Document {
        kind,
        broker,
        variant,
    })
}

fn offer() -> impl Strategy<Value = Step> {
    (-2..4i8, prop::option::weighted(0.9, document())).prop_map(|(n, d)| Step::Offer(n, d))
}

/// Time as it matters here: moments, parts of a confirm time, hours.
fn time() -> impl Strategy<Value = Millis> {
    prop_oneof![0..1_000u64, 1_000..20_000u64, 20_000..150_000u64, 100_000..2 * HOUR]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fault =
        prop_oneof![2 => Just(DiskFault::None), 1 => Just(DiskFault::Refuses), 1 => Just(DiskFault::WritesAndRefuses)];
    let step = prop_oneof![
        6 => offer(),
        1 => (-2..4i8).prop_map(Step::Reject),
        6 => (1..4u8).prop_map(Step::Act),
        6 => any::<u8>().prop_map(Step::Answer),
        6 => time().prop_map(Step::Run),
        1 => time().prop_map(Step::Stall),
        3 => any::<bool>().prop_map(Step::Link),
        1 => (0..2u8).prop_map(Step::Broker),
        1 => fault.prop_map(Step::Disk),
        1 => any::<u8>().prop_map(Step::Lose),
        3 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..40)
}

/// Links and restarts alone, and a shell that works; the broker stays where it is.
fn plain_steps() -> impl Strategy<Value = Vec<Step>> {
    let offer = offer().prop_map(|step| match step {
        Step::Offer(n, Some(document)) => Step::Offer(n, Some(Document { broker: 0, ..document })),
        other => other,
    });
    let step = prop_oneof![
        4 => offer,
        8 => time().prop_map(Step::Run),
        4 => any::<bool>().prop_map(Step::Link),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..30)
}

fn play(world: &mut World, step: &Step) {
    let number = |world: &World, n: i8| world.newest_offer.saturating_add_signed(n.into()).max(1);
    match *step {
        Step::Offer(n, document) => world.offer(number(world, n), document),
        Step::Reject(n) => {
            let number = number(world, n);
            world.newest_offer = world.newest_offer.max(number);
            world.reject(number);
        }
        Step::Act(n) => (0..n).for_each(|_| world.act()),
        Step::Answer(n) => {
            world.connect();
            world.answer(n.into());
        }
        Step::Run(ms) => world.run(ms),
        Step::Stall(ms) => {
            world.now += ms;
            world.give(Input::Tick);
        }
        Step::Link(up) => {
            world.link = up;
            if !up {
                world.oracle.link_went_down();
            }
        }
        Step::Broker(n) => world.broker = n,
        Step::Disk(fault) => world.fault = fault,
        Step::Lose(n) => {
            if !world.answers.is_empty() {
                let lost = usize::from(n) % world.answers.len();
                // What is done to the disk is always answered, and so is what the shell itself sees.
                if matches!(world.answers[lost], Input::ProbeAcknowledged { .. } | Input::ReportAcknowledged { .. }) {
                    world.answers.remove(lost);
                }
            }
        }
        Step::Crash => world.crash(),
    }
}

/// The link, the disk and the shell work from now on; the broker stays where it is.
fn ends_well(world: &mut World) {
    (world.link, world.fault) = (true, DiskFault::None);
    // Two looks elsewhere, however many were in vain before.
    world.run(60 * HOUR);
    let record = world.machine.record().clone();
    let decided = |r: &Record| (r.committed, r.settled, r.candidate.is_some(), r.reports.clone());
    assert_eq!(decided(&world.disk.record()), decided(&record), "what is decided is on disk");
    let committed = record.committed.place;
    assert!(world.disk.holds(&committed), "the committed one is there");
    assert_eq!(document_of(&committed).kind, Kind::Good);
    assert!(
        world.reachable(&committed) || !world.reachable(&Place::Local),
        "{committed:?} is kept, and the own file would reach Pulsar"
    );
    if let Some(candidate) = &record.candidate {
        // Neither reaches Pulsar: they take turns.
        assert!(!world.reachable(&committed), "{candidate:?} waits although the committed one is connected");
        let place = candidate.config.place;
        let works = document_of(&place).kind == Kind::Good && world.reachable(&place);
        assert!(!works, "a good document is not tried");
        assert_ne!(world.machine.status(), Status::Settled);
        return;
    }
    assert_eq!(world.machine.status(), Status::Settled);
    assert_eq!(world.machine.running(), committed);
    if world.reachable(&committed) {
        assert!(record.reports.is_empty(), "all reports are acknowledged");
        world.oracle.all_was_told(record.reports_dropped);
    }
    assert_eq!(place_of(record.settled), world.newest_offer, "the newest assignment is decided");
}

fn policy() -> Policy {
    Policy { health: true, ..Policy::default() }
}

fn run_all(steps: &[Step], just: bool, crash_at: Option<(usize, bool)>) -> World {
    played();
    let mut world = World::new(policy());
    (world.oracle.is_just, world.crash_at) = (just, crash_at);
    steps.iter().for_each(|step| play(&mut world, step));
    ends_well(&mut world);
    world
}

/// `PROPTEST_CASES=100000 cargo test --lib histories -- --nocapture` is the long run (docs/fleet.md).
const CASES: u32 = 3000;

#[test]
fn whatever_happens_a_proven_configuration_is_committed_and_runs() {
    count("trial, whatever happens", cases(CASES), whatever_happens);
}

#[test]
fn a_good_document_is_not_blamed_for_a_link_that_was_down_before() {
    count("trial, links fail", cases(CASES), links_fail);
}

#[test]
fn every_crash_of_every_history_ends_well() {
    count("trial, every crash", cases(CASES / 10), every_crash);
}

#[test]
fn in_calm_each_good_document_is_committed_and_each_bad_one_reverted_for_its_reason() {
    count("trial, in calm", cases(CASES / 10), in_calm);
}

#[test]
fn damage_leaves_a_configuration_that_runs_and_a_report() {
    count("trial, damage", cases(CASES / 10), damage);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(CASES), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    fn whatever_happens(steps in steps()) {
        run_all(&steps, false, None);
    }

    fn links_fail(steps in plain_steps()) {
        run_all(&steps, true, None);
    }
}

proptest! {
    // Each history is played again for every durable step in it, before and after that step: a tenth of them is many.
    #![proptest_config(ProptestConfig { cases: cases(CASES) / 10, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    fn every_crash(steps in prop::collection::vec(prop_oneof![
        3 => offer(), 4 => time().prop_map(Step::Run), 1 => any::<bool>().prop_map(Step::Link),
        1 => Just(Step::Crash), 2 => any::<u8>().prop_map(Step::Answer), 2 => (1..4u8).prop_map(Step::Act),
    ], 1..16)) {
        let without = run_all(&steps, false, None);
        for step in 0..without.durable_steps {
            for after in [false, true] {
                run_all(&steps, false, Some((step, after)));
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(CASES / 10), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// The simplest of models: one after the other, with a link and a disk that work.
    fn in_calm(documents in prop::collection::vec(document(), 1..8)) {
        played();
        let mut world = World::new(policy());
        let mut committed = Place::Local.digest();
        for (number, document) in (1..).zip(documents) {
            world.run(1_000);
            world.offer(number, Some(document));
            world.run(10 * 60_000);
            let reached = document.broker == 0;
            let expected = match document.kind {
                _ if committed == Some(document.digest()) => None,
                Kind::NotApplied | Kind::Hangs => Some(Reason::NotApplied),
                Kind::Crashes => Some(Reason::TooManyStarts),
                Kind::NotConnected => Some(Reason::NotConnected),
                _ if !reached => Some(Reason::NotConnected),
                Kind::NotAcknowledged => Some(Reason::NotAcknowledged),
                Kind::Unhealthy => Some(Reason::Unhealthy),
                Kind::Good => None,
            };
            if expected.is_none() {
                committed = Some(document.digest());
            }
            let report = world.oracle.seen.values().find(|r| r.number == nth(number)).expect("a report");
            prop_assert_eq!(report.failure.as_ref().map(|f| f.reason), expected, "{:?}", report);
            let outcome = if expected.is_some() { Outcome::Reverted } else { Outcome::Committed };
            prop_assert_eq!(report.outcome, outcome);
            prop_assert_eq!(world.machine.record().committed.place.digest(), committed);
            prop_assert_eq!(world.machine.running().digest(), committed);
        }
    }

    /// Beyond what a disk may do at a cut: the record or a slot is altered or gone.
    fn damage(
        steps in steps(), what in 0..4usize, at in any::<prop::sample::Index>(), then in steps(),
    ) {
        played();
        let mut world = World::new(policy());
        steps.iter().for_each(|step| play(&mut world, step));
        let disk = &mut world.disk;
        match (what, &mut disk.record) {
            (0, record) => *record = None,
            (1, Some(record)) => *at.get_mut(record) ^= 0x10,
            (n, _) => disk.slots[n % 2] = None,
        }
        let lost = match disk.found().record {
            Ok(Some(record)) => !disk.holds(&record.committed.place),
            Ok(None) => disk.slots != [None, None],
            Err(_) => true,
        };
        world.oracle.damaged();
        world.crash();
        if lost {
            prop_assert_eq!(world.machine.record().committed.place, Place::Local);
        }
        then.iter().for_each(|step| play(&mut world, step));
        ends_well(&mut world);
        let record = world.machine.record();
        let told = world.oracle.seen.values().chain(&record.reports).any(|r| r.outcome == Outcome::Fallback);
        prop_assert!(told || !lost || record.reports_dropped > 0);
    }
}
