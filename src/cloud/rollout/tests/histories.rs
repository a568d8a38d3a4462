//! Random histories with two controllers.

use proptest::prelude::*;

use super::world::{World, model, model_works, node, rollout, target, works};
use crate::cloud::rollout::{ALL_PPM, Gates, OnFailure, Plan, Rollouts, Stage, Wave, What};
use crate::downlink::artefact::Mode;
use crate::sys::histories::{cases, count, played};

const ROLLOUTS: u8 = 3;
const NODES: u8 = 14;

#[derive(Clone, Debug)]
enum Step {
    Create(u8, u8, Plan),
    /// Of a version of a model in a mode.
    CreateModel(u8, (u8, u8, u8), Plan),
    /// A node fails by what it measures.
    Gate(usize, u8),
    Enrol(u8, u8, u8),
    Start(u8),
    Approve(u8, usize),
    Pass(u8, usize),
    Pause(u8),
    Resume(u8),
    Abort(u8),
    Depart(u8),
    Assign(u8, u8),
    /// A version of a model in a mode.
    Model(u8, (u8, u8, u8)),
    Raise(u8),
    Read(usize, usize),
    Claim(usize),
    Decide(usize, bool),
    Absent(usize),
    Resend(usize),
    Die(usize),
    Report(usize, usize, bool),
    Lose(usize),
    Deliver(u8),
    Online(u8, bool),
    Time(u64),
    Skew(usize, i64),
}

fn plan() -> impl Strategy<Value = Plan> {
    let wave = |(share_ppm, soak_ms, approval)| Wave { share_ppm, soak_ms, approval };
    let waves = prop::collection::btree_map(1..ALL_PPM, (0..100_000u64, prop::bool::weighted(0.2)), 0..4);
    let fails = prop_oneof![Just(OnFailure::Abort), Just(OnFailure::Pause)];
    (waves, 0..100_000u64, 0..5u32, (0..=ALL_PPM, 0..=ALL_PPM), fails, any::<bool>()).prop_map(
        move |(
            waves,
            soak,
            failures_max,
            (failures_share_max_ppm, successes_share_min_ppm),
            on_failure,
            wait_for_all,
        )| {
            let mut waves: Vec<Wave> = waves.into_iter().map(|(s, (t, a))| wave((s, t, a))).collect();
            waves.push(wave((ALL_PPM, soak, false)));
            let gates = Gates::default();
            Plan {
                waves,
                failures_max,
                failures_share_max_ppm,
                successes_share_min_ppm,
                on_failure,
                wait_for_all,
                gates,
            }
        },
    )
}

/// Wrong by up to a minute, or by up to a year.
fn skew() -> impl Strategy<Value = i64> {
    prop_oneof![-60_000..60_000i64, -31_536_000_000..31_536_000_000i64]
}

fn step() -> impl Strategy<Value = Step> {
    let (r, n, c) = (0..ROLLOUTS, 0..NODES, 0..2usize);
    let (r2, n2, c2) = (r.clone(), n.clone(), c.clone());
    let operators = prop_oneof![
        3 => (r.clone(), 0..5u8, plan()).prop_map(|(r, t, p)| Step::Create(r, t, p)),
        3 => (r.clone(), (0..2u8, 0..3u8, 0..3u8), plan()).prop_map(|(r, m, p)| Step::CreateModel(r, m, p)),
        4 => (r.clone(), n.clone(), 1..NODES).prop_map(|(r, a, b)| Step::Enrol(r, a, b)),
        5 => r.clone().prop_map(Step::Start),
        2 => (r.clone(), 0..4usize).prop_map(|(r, w)| Step::Approve(r, w)),
        1 => (r.clone(), 0..4usize).prop_map(|(r, w)| Step::Pass(r, w)),
        1 => r.clone().prop_map(Step::Pause),
        2 => r.clone().prop_map(Step::Resume),
        1 => r2.prop_map(Step::Abort),
        1 => n.clone().prop_map(Step::Depart),
        1 => (n.clone(), 0..3u8).prop_map(|(n, t)| Step::Assign(n, t)),
        2 => (n.clone(), (0..2u8, 0..3u8, 0..3u8)).prop_map(|(n, m)| Step::Model(n, m)),
        1 => (0..20u8).prop_map(Step::Raise),
    ];
    let controllers = prop_oneof![
        6 => (c.clone(), 1..12usize).prop_map(|(c, k)| Step::Read(c, k)),
        2 => c.clone().prop_map(Step::Claim),
        6 => (c.clone(), prop::bool::weighted(0.2)).prop_map(|(c, r)| Step::Decide(c, r)),
        1 => c.clone().prop_map(Step::Absent),
        3 => c.clone().prop_map(Step::Resend),
        1 => (c.clone(), n.clone()).prop_map(|(c, n)| Step::Gate(c, n)),
        1 => c2.prop_map(Step::Die),
        6 => (c, any::<usize>(), any::<bool>()).prop_map(|(c, w, a)| Step::Report(c, w, a)),
    ];
    let world = prop_oneof![
        1 => any::<usize>().prop_map(Step::Lose),
        8 => n2.prop_map(Step::Deliver),
        2 => (n, any::<bool>()).prop_map(|(n, o)| Step::Online(n, o)),
        4 => (0..200_000u64).prop_map(Step::Time),
        1 => (0..3usize, skew()).prop_map(|(c, ms)| Step::Skew(c, ms)),
    ];
    prop_oneof![2 => operators, 4 => controllers, 3 => world]
}

fn play(world: &mut World, step: &Step) {
    let id = |r: &u8| rollout(*r);
    let reason = || "as the test says".to_owned();
    match step {
        // Failing on all nodes, on some, on none.
        Step::Create(r, t, plan) => {
            world.create(*r, (*t > 0).then(|| target([0, 0, 0, 3, 8][usize::from(*t)], *t)), plan.clone())
        }
        Step::Enrol(r, first, count) => world.enrol(*r, (*first..first.saturating_add(*count)).filter(|n| *n < NODES)),
        Step::Start(r) => world.operator(What::Started { rollout: id(r) }),
        Step::Approve(r, wave) => world.operator(What::Approved { rollout: id(r), wave: *wave }),
        Step::Pass(r, wave) => world.operator(What::Passed { rollout: id(r), wave: *wave }),
        Step::Pause(r) => world.operator(What::Paused { rollout: id(r), reason: reason() }),
        Step::Resume(r) => world.operator(What::Resumed { rollout: id(r) }),
        Step::Abort(r) => world.operator(What::Aborted { rollout: id(r), reason: reason() }),
        Step::Depart(n) => world.operator(What::Departed { nodes: vec![node(*n)] }),
        Step::Assign(n, t) => {
            let nodes = world.install(std::iter::once(*n));
            world.operator(What::Assigned { nodes, target: (*t > 0).then(|| target(0, 100 + t)) });
        }
        Step::CreateModel(r, (m, v, mode), plan) => world.create_of(*r, None, Some(model(*m, *v, *mode)), plan.clone()),
        Step::Gate(c, n) => world.gate(*c, &node(*n)),
        Step::Model(n, (m, v, mode)) => {
            let nodes = world.install(std::iter::once(*n));
            world.operator(What::ModelAssigned { nodes, model: model(*m, *v, *mode), reason: reason() });
        }
        Step::Raise(by) => {
            world.operator(What::Raised { index: (world.truth.index() + u64::from(*by)).saturating_sub(5) })
        }
        Step::Read(c, most) => world.read(*c, *most),
        Step::Claim(c) => world.claim(*c),
        Step::Decide(c, rogue) => world.decide(*c, *rogue),
        Step::Absent(c) => world.absent(*c),
        Step::Resend(c) => world.resend(*c),
        Step::Die(c) => world.die(*c),
        Step::Report(c, which, acknowledged) => world.take_report(*c, *which, *acknowledged),
        Step::Lose(which) => world.lose_report(*which),
        Step::Deliver(n) => world.deliver(&node(*n)),
        Step::Online(n, online) => {
            if let Some(gateway) = world.gateways.get_mut(&node(*n)) {
                gateway.online = *online;
            }
        }
        Step::Time(ms) => world.now += ms,
        // A controller measures with a clock that runs on; another life of it may find another one.
        Step::Skew(clock, ms) => {
            if *clock > 0 {
                world.die(*clock - 1);
            }
            world.skews[*clock] = *ms;
        }
    }
}

/// Operators do their part: what waits for them is approved, what is paused is aborted.
fn ends(world: &mut World) {
    for r in 0..ROLLOUTS {
        (0..5).for_each(|wave| world.operator(What::Approved { rollout: rollout(r), wave }));
        if world.truth.progress(&rollout(r)).is_some_and(|p| p.paused.is_some()) {
            world.operator(What::Aborted { rollout: rollout(r), reason: "paused".into() });
        }
    }
    world.ends_well();
    for r in 0..ROLLOUTS {
        let Some(progress) = world.truth.progress(&rollout(r)) else { continue };
        if progress.paused.is_some() {
            world.operator(What::Aborted { rollout: rollout(r), reason: "paused".into() });
        }
    }
    world.ends_well();
}

fn counts(state: &Rollouts) -> Vec<impl PartialEq + std::fmt::Debug + use<>> {
    let progress = (0..ROLLOUTS).filter_map(|r| state.progress(&rollout(r)));
    progress.map(|p| (p.stage, p.paused, p.wave, p.members, p.exposed, p.succeeded, p.failed, p.absent)).collect()
}

fn all_is_where_it_should_be(world: &World) {
    assert_eq!(world.truth.outstanding().count(), 0, "every node has reported on its assignment");
    for name in world.model.nodes() {
        let assignment = world.truth.assignment(name).unwrap();
        let gateway = world.gateways.get(name).cloned().unwrap_or_default();
        assert_eq!(gateway.number, assignment.number, "{name}");
        assert!(gateway.running == assignment.target || !works(assignment.target, name), "{name}");
        for assigned in assignment.models.iter().filter(|assigned| model_works(assigned, name)) {
            let has = |mode| gateway.models.get(&(assigned.name.clone(), mode)).copied();
            let expected = (assigned.mode != Mode::Off).then_some(assigned.version);
            let mode = if assigned.mode == Mode::Off { Mode::Active } else { assigned.mode };
            assert_eq!(has(mode), expected, "{name}: {assigned:?}");
            let is_beside = assignment.models.iter().any(|m| m.name == assigned.name && m.mode == Mode::Shadow);
            assert!(is_beside || has(Mode::Shadow).is_none(), "{name}: {assigned:?} alone");
        }
    }
}

/// `PROPTEST_CASES=100000 cargo test --lib histories -- --nocapture` is the long run (docs/fleet.md).
const CASES: u32 = 1500;

#[test]
fn whatever_happens_waves_hold_numbers_grow_and_it_ends() {
    count("roll-out, whatever happens", cases(CASES), whatever_happens);
}

#[test]
fn a_roll_out_ends_although_every_decision_is_the_last_of_its_controller() {
    count("roll-out, controllers die", cases(CASES), controllers_die);
}

#[test]
fn a_wave_ends_when_it_has_soaked_whatever_the_clocks_show() {
    count("roll-out, clocks are wrong", cases(CASES), clocks_are_wrong);
}

#[test]
fn a_bad_push_stops_in_its_first_wave() {
    count("roll-out, a bad push", cases(CASES), a_bad_push);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(CASES), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// The model checks every event; see there.
    fn whatever_happens(steps in prop::collection::vec(step(), 1..120)) {
        played();
        let mut world = World::default();
        steps.iter().for_each(|step| play(&mut world, step));
        ends(&mut world);
        all_is_where_it_should_be(&world);
        for r in 0..ROLLOUTS {
            let Some(progress) = world.truth.progress(&rollout(r)) else { continue };
            // A draft is the operator's to start; one whose only nodes have departed, or whose failures were
            // accepted by resuming, is the operator's to end.
            let left = progress.exposed == 0 || progress.failed > 0;
            prop_assert!(progress.stage != Stage::Running || left, "{:?}", progress);
        }
        // Whoever reads the log has the same; what is appended twice changes nothing.
        let mut reader = Rollouts::default();
        let looked_at = 1 + world.log.len() / 20;
        for (i, event) in world.log.iter().enumerate() {
            let _ = reader.apply(event);
            if i % looked_at != 0 {
                continue;
            }
            let mut again = reader.clone();
            let changed = again.apply(event).unwrap_or_default();
            if !matches!(event.what, What::Assigned { .. } | What::ModelAssigned { .. }) {
                prop_assert!(changed.iter().all(|n| again.assignment(n) == reader.assignment(n)), "{:?}", event);
                prop_assert_eq!(counts(&again), counts(&reader), "{:?}", event);
            }
        }
        prop_assert_eq!(counts(&reader), counts(&world.truth));
    }

    /// A controller dies after every write of it, and another one goes on.
    fn controllers_die(
        plan in plan(), nodes in 1..25u8, failing in 0..3u8, offline in prop::collection::btree_set(0..25u8, 0..5),
    ) {
        played();
        let mut world = World::default();
        world.create(0, Some(target(failing, 1)), plan.clone());
        world.enrol(0, 0..nodes);
        world.operator(What::Started { rollout: rollout(0) });
        (0..5).for_each(|wave| world.operator(What::Approved { rollout: rollout(0), wave }));
        for n in offline {
            world.gateways.entry(node(n)).and_modify(|g| g.online = false);
        }
        for life in 0..14 {
            let c = life % 2;
            world.die(c);
            world.read(c, usize::MAX);
            world.claim(c);
            world.read(c, usize::MAX);
            world.resend(c);
            (0..nodes).for_each(|n| world.deliver(&node(n)));
            for _ in 0..nodes * 2 {
                world.take_report(c, 0, true);
            }
            world.read(c, usize::MAX);
            world.absent(c);
            world.now += 1_000_000;
            world.read(c, usize::MAX);
            world.decide(c, false);
            // The one before it has not noticed anything, and tries as well.
            world.decide(1 - c, true);
        }
        let progress = world.truth.progress(&rollout(0)).unwrap();
        let paused = plan.on_failure == OnFailure::Pause && progress.paused.is_some();
        // All of a wave may be away, and nobody has succeeded then.
        let nobody = progress.succeeded == 0 && progress.absent > 0;
        prop_assert!(!progress.stage.is_active() || paused || nobody, "{:?}", progress);
        ends(&mut world);
        all_is_where_it_should_be(&world);
        prop_assert!(!world.truth.progress(&rollout(0)).unwrap().stage.is_active());
    }

    /// One lead measures the soak alone; when another follows, what was not in the log is measured again.
    fn clocks_are_wrong(
        skews in prop::array::uniform3(skew()), soak_ms in 0..100_000u64, part in 0..=100u64, resumed in any::<bool>(),
    ) {
        let wave = |share_ppm| Wave { share_ppm, soak_ms, approval: false };
        played();
        let mut world = World::default();
        world.skews = skews;
        world.create(0, Some(target(0, 1)), Plan { waves: vec![wave(500_000), wave(ALL_PPM)], ..Plan::default() });
        world.enrol(0, 0..4);
        world.operator(What::Started { rollout: rollout(0) });
        world.claim(0);
        world.read(0, usize::MAX);
        world.resend(0);
        (0..4).for_each(|n| world.deliver(&node(n)));
        // One of the two speaks; the other departs, and enough have succeeded by an operator's word, on his clock.
        world.take_report(0, 0, true);
        match resumed {
            true => (0..4).map(node).filter(|n| world.truth.is_outstanding(n)).collect::<Vec<_>>().into_iter()
                .for_each(|n| world.operator(What::Departed { nodes: vec![n] })),
            false => world.take_report(0, 0, true),
        }
        let tick = |world: &mut World, c| { world.read(c, usize::MAX); world.decide(c, false); world.read(c, usize::MAX); };
        tick(&mut world, 0);
        world.now += soak_ms * part / 100;
        tick(&mut world, 0);
        let advanced = |world: &World| world.truth.progress(&rollout(0)).unwrap().wave == 1;
        prop_assert_eq!(advanced(&world), soak_ms * part / 100 == soak_ms);
        if !advanced(&world) {
            // The first one is gone; the second begins where the log ends.
            world.read(1, usize::MAX);
            world.claim(1);
            tick(&mut world, 1);
            world.now += soak_ms;
            tick(&mut world, 1);
            prop_assert!(advanced(&world));
        }
    }

    /// Something that works nowhere.
    fn a_bad_push(
        plan in plan(), nodes in 1..40u8, steps in prop::collection::vec(step(), 0..60), mode in prop::option::of(0..2u8),
    ) {
        played();
        let mut world = World::default();
        let share = plan.waves[0].share_ppm;
        match mode {
            None => world.create(0, Some(target(8, 1)), plan),
            Some(mode) => world.create_of(0, None, Some(model(0, 2, mode)), plan),
        }
        world.enrol(0, 0..nodes);
        world.operator(What::Started { rollout: rollout(0) });
        let most = (usize::from(nodes) * share as usize).div_ceil(ALL_PPM as usize).max(1);
        for step in &steps {
            // Nobody declares it passed, and nobody joins or leaves.
            if !matches!(step, Step::Pass(0, _) | Step::Enrol(..) | Step::Depart(_) | Step::Create(..) | Step::CreateModel(..)) {
                play(&mut world, step);
            }
            prop_assert!(world.model.exposed(&rollout(0)) <= most);
        }
        ends(&mut world);
        all_is_where_it_should_be(&world);
        let progress = world.truth.progress(&rollout(0)).unwrap();
        prop_assert!(progress.exposed <= most, "{:?}", progress);
        prop_assert!(matches!(progress.stage, Stage::Aborted { .. }) || progress.failed > 0, "{:?}", progress);
        // Nobody runs it.
        prop_assert!(world.gateways.values().all(|g| g.running != Some(target(8, 1))));
        prop_assert!(world.gateways.values().all(|g| g.models.values().all(|version| *version != 3)));
    }
}
