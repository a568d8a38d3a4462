//! Single stories.

use super::world::{node, rollout, target};
use crate::cloud::rollout::{
    ACTIVE_MAX, Audience, Author, BATCH_MAX, DRAFT_MS_MAX, DRAFTS_MAX, Event, NodeId, NodeReport, OnFailure, Plan,
    PlanError, Progress, RAISED_MAX, ROLLBACKS_MAX, ROLLOUTS_MAX, Rollouts, Stage, Verdict, Void, Wave, What,
};

const MINUTE: u64 = 60_000;

fn at(now: u64, state: &mut Rollouts, by: Author, what: What) -> Result<usize, Void> {
    state.apply(&Event { at_ms: now, by, what }).map(|changed| changed.len())
}

fn operator(state: &mut Rollouts, what: What) -> Result<usize, Void> {
    at(0, state, Author::Operator { name: "ada".into() }, what)
}

fn lead(state: &mut Rollouts, now: u64, what: What) -> Result<usize, Void> {
    at(now, state, Author::Controller { epoch: 1, name: "cloud-a".into() }, what)
}

/// A draft of the default plan with so many nodes.
fn draft(nodes: u8, plan: Plan) -> Rollouts {
    let mut state = Rollouts::default();
    lead(&mut state, 0, What::Claimed).unwrap();
    operator(
        &mut state,
        What::Created {
            rollout: rollout(0),
            target: Some(target(0, 1)),
            model: None,
            plan,
            reason: String::new(),
            audience: Audience::default(),
            rollback: false,
        },
    )
    .unwrap();
    let nodes = (0..nodes).map(node).collect();
    operator(&mut state, What::Enrolled { rollout: rollout(0), nodes }).unwrap();
    state
}

fn start(state: &mut Rollouts) -> usize {
    operator(state, What::Started { rollout: rollout(0) }).unwrap()
}

fn progress(state: &Rollouts) -> Progress {
    state.progress(&rollout(0)).unwrap()
}

/// So many of those that have not spoken speak.
fn report(state: &mut Rollouts, now: u64, most: usize, verdict: Verdict) {
    let reports: Vec<NodeReport> = state
        .outstanding()
        .take(most)
        .map(|n| {
            let number = state.assignment(n).unwrap().number;
            NodeReport { node: n.clone(), number, model: None, verdict, reason: "unhealthy".into() }
        })
        .collect();
    lead(state, now, What::Reported { reports }).unwrap();
}

#[test]
fn waves_follow_one_another_when_enough_have_succeeded_for_long_enough() {
    let mut state = draft(200, Plan::default());
    let mut sizes = vec![start(&mut state)];
    for wave in 1..4 {
        let now = wave as u64 * 20 * MINUTE;
        assert_eq!(state.decide(now), []);
        report(&mut state, now, usize::MAX, Verdict::Success);
        assert_eq!(state.decide(now + 10 * MINUTE - 1), []);
        assert_eq!(state.next_decision_ms(), Some(now + 10 * MINUTE));
        let next = What::Advanced { rollout: rollout(0), wave };
        assert_eq!(state.decide(now + 10 * MINUTE).first(), Some(&next));
        assert_eq!(lead(&mut state, now + MINUTE, next.clone()), Err(Void::NotYet(rollout(0))));
        sizes.push(lead(&mut state, now + 10 * MINUTE, next).unwrap());
    }
    assert_eq!(sizes, [2, 18, 80, 100]);
    report(&mut state, 100 * MINUTE, usize::MAX, Verdict::Success);
    assert_eq!(state.decide(110 * MINUTE), [What::Completed { rollout: rollout(0) }]);
}

#[test]
fn the_line_is_the_same_for_ever_and_another_one_for_every_roll_out() {
    let first = |n: u8| {
        let mut state = Rollouts::default();
        operator(
            &mut state,
            What::Created {
                rollout: rollout(n),
                target: None,
                model: None,
                plan: Plan::default(),
                reason: String::new(),
                audience: Audience::default(),
                rollback: false,
            },
        )
        .unwrap();
        let nodes = (0..100).map(node).collect();
        operator(&mut state, What::Enrolled { rollout: rollout(n), nodes }).unwrap();
        operator(&mut state, What::Started { rollout: rollout(n) }).unwrap();
        state.outstanding().next().unwrap().clone()
    };
    let lines: Vec<String> = (0..3).map(|n| first(n).to_string()).collect();
    assert_eq!(lines, LINES);
}

/// Written by the first version; nodes must not change places in the middle of a roll-out.
const LINES: [&str; 3] = ["gateway-42", "gateway-72", "gateway-28"];

#[test]
fn a_failure_past_the_threshold_puts_the_exposed_nodes_back_under_a_higher_number() {
    let mut state = draft(200, Plan::default());
    assert_eq!(start(&mut state), 2);
    let exposed: Vec<_> = state.outstanding().cloned().collect();
    let before = state.assignment(&exposed[0]).unwrap();
    report(&mut state, MINUTE, 1, Verdict::Failure);
    let decided = state.decide(MINUTE);
    let [What::Aborted { reason, .. }] = &decided[..] else { panic!("{decided:?}") };
    assert_eq!(reason, "1 of 2 exposed nodes failed; at most 100 and 5 % may");
    assert_eq!(lead(&mut state, MINUTE, decided[0].clone()), Ok(2));
    let after = state.assignment(&exposed[0]).unwrap();
    assert!(after.number > before.number && after.target.is_none());
    assert_eq!(progress(&state).failures, [(exposed[0].clone(), "unhealthy".to_owned())]);
    assert!(state.outstanding().eq(&exposed));
}

#[test]
fn a_plan_may_pause_at_failures_and_an_operator_may_accept_them() {
    let all = Wave { share_ppm: 1_000_000, soak_ms: 0, approval: false };
    let plan =
        Plan { waves: vec![all], successes_share_min_ppm: 500_000, on_failure: OnFailure::Pause, ..Plan::default() };
    let mut state = draft(10, plan);
    assert_eq!(start(&mut state), 10);
    report(&mut state, 0, 1, Verdict::Failure);
    let decided = state.decide(0).remove(0);
    assert!(matches!(decided, What::Paused { .. }));
    lead(&mut state, 0, decided).unwrap();
    report(&mut state, 0, 9, Verdict::Success);
    assert_eq!(state.decide(MINUTE), []);
    operator(&mut state, What::Resumed { rollout: rollout(0) }).unwrap();
    assert_eq!(state.decide(MINUTE), [What::Completed { rollout: rollout(0) }]);
}

#[test]
fn a_wave_that_needs_approval_waits_for_it() {
    let mut plan = Plan::default();
    plan.waves[1].approval = true;
    let mut state = draft(100, plan);
    start(&mut state);
    report(&mut state, 0, 1, Verdict::Success);
    assert_eq!((state.decide(60 * MINUTE), progress(&state).waits_for_approval), (vec![], true));
    operator(&mut state, What::Approved { rollout: rollout(0), wave: 1 }).unwrap();
    assert_eq!(state.decide(60 * MINUTE), [What::Advanced { rollout: rollout(0), wave: 1 }]);
}

#[test]
fn nodes_that_are_away_hold_nobody_up_once_they_are_known_to_be_and_count_when_they_return() {
    let all = Wave { share_ppm: 1_000_000, soak_ms: 0, approval: false };
    let mut state = draft(10, Plan { waves: vec![all], ..Plan::default() });
    start(&mut state);
    report(&mut state, 0, 8, Verdict::Success);
    assert_eq!((progress(&state).needed, state.decide(MINUTE)), (9, vec![]));
    let nodes: Vec<_> = state.silent(&rollout(0)).cloned().collect();
    lead(&mut state, 0, What::Absent { rollout: rollout(0), nodes }).unwrap();
    assert_eq!((progress(&state).absent, progress(&state).needed), (2, 8));
    assert_eq!(state.decide(MINUTE), [What::Completed { rollout: rollout(0) }]);
    report(&mut state, 0, 1, Verdict::Success);
    assert_eq!((progress(&state).absent, progress(&state).succeeded), (1, 9));
    lead(&mut state, MINUTE, What::Completed { rollout: rollout(0) }).unwrap();
    // The last one, weeks later, has its assignment still.
    assert_eq!(state.outstanding().count(), 1);
    report(&mut state, 1_000_000 * MINUTE, 1, Verdict::Success);
    assert_eq!(state.outstanding().count(), 0);
}

#[test]
fn a_late_joiner_joins_the_wave_and_what_is_completed_stands() {
    let half = |share_ppm| Wave { share_ppm, soak_ms: 0, approval: false };
    let mut state = draft(10, Plan { waves: vec![half(500_000), half(1_000_000)], ..Plan::default() });
    assert_eq!(start(&mut state), 5);
    let join = |state: &mut Rollouts, n| {
        let nodes = vec![node(n)];
        operator(state, What::Enrolled { rollout: rollout(0), nodes })
    };
    assert_eq!((join(&mut state, 100), join(&mut state, 101)), (Ok(1), Ok(0)), "ceil(11 / 2) = 6 = 12 / 2");
    report(&mut state, 0, 100, Verdict::Success);
    assert_eq!(lead(&mut state, 0, What::Advanced { rollout: rollout(0), wave: 1 }), Ok(6));
    assert_eq!(join(&mut state, 102), Ok(1));
    report(&mut state, 0, 100, Verdict::Success);
    lead(&mut state, 0, What::Completed { rollout: rollout(0) }).unwrap();
    assert_eq!((join(&mut state, 103), join(&mut state, 103)), (Ok(1), Ok(0)));
    assert_eq!(state.assignment(&node(103)).unwrap().target, Some(target(0, 1)));
}

#[test]
fn a_node_is_in_one_roll_out_at_a_time() {
    let mut state = draft(10, Plan::default());
    let second = What::Created {
        rollout: rollout(1),
        target: Some(target(0, 2)),
        model: None,
        plan: Plan::default(),
        reason: String::new(),
        audience: Audience::default(),
        rollback: false,
    };
    operator(&mut state, second).unwrap();
    let enrol = What::Enrolled { rollout: rollout(1), nodes: (5..15).map(node).collect() };
    operator(&mut state, enrol.clone()).unwrap();
    let counts = |s: &Rollouts| s.progress(&rollout(1)).map(|p| (p.members, p.held));
    assert_eq!(counts(&state), Some((5, 5)));
    assert_eq!(operator(&mut state, What::Assigned { nodes: vec![node(0), node(77)], target: None }), Ok(1));
    operator(&mut state, What::Aborted { rollout: rollout(0), reason: String::new() }).unwrap();
    operator(&mut state, enrol).unwrap();
    assert_eq!(counts(&state), Some((10, 5)));
}

#[test]
fn of_two_controllers_with_the_same_epoch_one_has_the_lead() {
    let mut state = draft(10, Plan::default());
    start(&mut state);
    let claim =
        |state: &mut Rollouts, name: &str, what| at(0, state, Author::Controller { epoch: 2, name: name.into() }, what);
    assert_eq!(claim(&mut state, "cloud-b", What::Claimed), Ok(0));
    assert!(matches!(claim(&mut state, "cloud-c", What::Claimed), Err(Void::Fenced { .. })));
    let abort = || What::Aborted { rollout: rollout(0), reason: String::new() };
    assert!(matches!(claim(&mut state, "cloud-c", abort()), Err(Void::Fenced { .. })));
    assert!(matches!(lead(&mut state, 0, abort()), Err(Void::Fenced { .. })));
    assert_eq!(claim(&mut state, "cloud-b", abort()), Ok(1));
    let approve = What::Approved { rollout: rollout(0), wave: 1 };
    assert_eq!(claim(&mut state, "cloud-b", approve), Err(Void::Author));
}

#[test]
fn limits_are_kept() {
    let mut state = Rollouts::default();
    let create = |n: u8| What::Created {
        rollout: rollout(n),
        target: None,
        model: None,
        plan: Plan::default(),
        reason: String::new(),
        audience: Audience::default(),
        rollback: false,
    };
    for n in 0..=DRAFTS_MAX as u8 {
        operator(&mut state, create(n)).unwrap();
    }
    let ended = Stage::Aborted { reason: "it was the oldest of too many drafts".to_owned() };
    assert_eq!(state.progress(&rollout(0)).unwrap().stage, ended);
    assert_eq!(state.progress(&rollout(1)).unwrap().stage, Stage::Draft);
    let mut state = Rollouts::default();
    for n in 0..=ROLLOUTS_MAX as u8 {
        operator(&mut state, create(n)).unwrap();
        operator(&mut state, What::Aborted { rollout: rollout(n), reason: String::new() }).unwrap();
    }
    assert_eq!((state.ids().count(), state.progress(&rollout(0))), (ROLLOUTS_MAX, None));
    let nodes: Vec<_> = (0..=BATCH_MAX).map(|n| format!("n{n}").as_str().into()).collect();
    let too_many = operator(&mut state, What::Departed { nodes });
    assert!(matches!(too_many, Err(Void::Malformed(_))));
    assert!(matches!(operator(&mut state, What::Departed { nodes: vec!["".into()] }), Err(Void::Malformed(_))));
    let reason = "x".repeat(513);
    assert!(matches!(operator(&mut state, What::Aborted { rollout: rollout(1), reason }), Err(Void::Malformed(_))));
}

/// A roll-out to one node, begun.
fn run(state: &mut Rollouts, n: u8, rollback: bool) -> Result<usize, Void> {
    let (reason, audience) = (String::new(), Audience::default());
    let target = (!rollback).then(|| target(0, 1));
    let created =
        What::Created { rollout: rollout(n), target, model: None, plan: Plan::default(), reason, audience, rollback };
    operator(state, created)?;
    operator(state, What::Enrolled { rollout: rollout(n), nodes: vec![node(n)] })?;
    operator(state, What::Started { rollout: rollout(n) })
}

#[test]
fn a_rollback_has_a_place_whatever_runs_and_however_many_drafts_were_left() {
    let mut state = Rollouts::default();
    for n in 0..ACTIVE_MAX as u8 {
        assert_eq!(run(&mut state, n, false), Ok(1));
    }
    for n in 10..30 {
        assert_eq!(run(&mut state, n, false), Err(Void::TooMany(ACTIVE_MAX)));
    }
    for n in 30..30 + ROLLBACKS_MAX as u8 {
        assert_eq!((state.expect_room(true), run(&mut state, n, true)), (Ok(()), Ok(1)));
    }
    assert_eq!(state.expect_room(true), Err(Void::TooMany(ROLLBACKS_MAX)));
    operator(&mut state, What::Aborted { rollout: rollout(0), reason: String::new() }).unwrap();
    assert_eq!(run(&mut state, 100, false), Ok(1));
}

#[test]
fn a_draft_that_nobody_starts_is_ended_after_a_day_and_nobody_joins_it() {
    let mut state = Rollouts::default();
    lead(&mut state, MINUTE, What::Claimed).unwrap();
    let audience = Audience { all: true, groups: Vec::new() };
    let (reason, plan) = (String::new(), Plan::default());
    let created =
        What::Created { rollout: rollout(0), target: None, model: None, plan, reason, audience, rollback: false };
    operator(&mut state, created).unwrap();
    assert_eq!((state.to_join(&node(1), &[]), state.has_audience()), (None, false));
    assert_eq!(state.decide(MINUTE + DRAFT_MS_MAX - 1), []);
    assert_eq!(state.next_decision_ms(), Some(MINUTE + DRAFT_MS_MAX));
    let decided = state.decide(MINUTE + DRAFT_MS_MAX).remove(0);
    assert!(matches!(decided, What::Aborted { .. }));
    assert_eq!(lead(&mut state, MINUTE + DRAFT_MS_MAX, decided), Ok(0));
}

/// The lead had nothing to say for a week, or nobody had led yet.
#[test]
fn a_draft_has_its_day_however_long_the_lead_has_said_nothing() {
    let week = 7 * DRAFT_MS_MAX;
    let created = |state: &mut Rollouts, at_ms| {
        let (audience, plan) = (Audience { all: true, groups: Vec::new() }, Plan::default());
        let reason = String::new();
        let what =
            What::Created { rollout: rollout(0), target: None, model: None, plan, reason, audience, rollback: false };
        at(at_ms, state, Author::Operator { name: "anna".into() }, what).unwrap();
    };
    let mut state = Rollouts::default();
    lead(&mut state, MINUTE, What::Claimed).unwrap();
    created(&mut state, week);
    assert_eq!((state.decide(week), state.decide(week + DRAFT_MS_MAX).len()), (vec![], 1));
    let mut state = Rollouts::default();
    created(&mut state, MINUTE);
    lead(&mut state, week, What::Claimed).unwrap();
    assert_eq!((state.decide(week), state.decide(week + DRAFT_MS_MAX).len()), (vec![], 1));
}

#[test]
fn what_stands_for_those_that_come_later_is_remembered_longest() {
    let mut state = Rollouts::default();
    lead(&mut state, 0, What::Claimed).unwrap();
    let audience = Audience { all: true, groups: Vec::new() };
    let (reason, plan) = (String::new(), Plan::default());
    let created =
        What::Created { rollout: rollout(0), target: None, model: None, plan, reason, audience, rollback: false };
    operator(&mut state, created).unwrap();
    operator(&mut state, What::Enrolled { rollout: rollout(0), nodes: vec![node(0)] }).unwrap();
    operator(&mut state, What::Started { rollout: rollout(0) }).unwrap();
    for wave in 0..4 {
        operator(&mut state, What::Passed { rollout: rollout(0), wave }).unwrap();
        let decided = state.decide(0).remove(0);
        lead(&mut state, 0, decided).unwrap();
    }
    for n in 1..=(2 * ROLLOUTS_MAX) as u8 {
        run(&mut state, n, false).unwrap();
        operator(&mut state, What::Aborted { rollout: rollout(n), reason: String::new() }).unwrap();
    }
    assert_eq!((state.to_join(&node(200), &[]), state.ids().count()), (Some(&rollout(0)), ROLLOUTS_MAX));
}

/// One node says this of its assignment.
fn says(state: &mut Rollouts, number: u64, verdict: Verdict) {
    let report = NodeReport { node: node(1), number, model: None, verdict, reason: String::new() };
    assert!(state.is_news(&report), "{number} {verdict:?}");
    lead(state, 0, What::Reported { reports: vec![report.clone()] }).unwrap();
    assert!(!state.is_news(&report));
}

#[test]
fn an_abort_puts_back_what_the_node_ran_well_and_not_what_failed_there() {
    let mut state = Rollouts::default();
    lead(&mut state, 0, What::Claimed).unwrap();
    let assign = |state: &mut Rollouts, n: u8| {
        operator(state, What::Assigned { nodes: vec![node(1)], target: Some(target(0, n)) }).unwrap();
        state.assignment(&node(1)).unwrap().number
    };
    let push_and_abort = |state: &mut Rollouts, n: u8| {
        let (reason, audience, plan) = (String::new(), Audience::default(), Plan::default());
        let target = Some(target(0, 100 + n));
        let created =
            What::Created { rollout: rollout(n), target, model: None, plan, reason, audience, rollback: false };
        operator(state, created).unwrap();
        operator(state, What::Enrolled { rollout: rollout(n), nodes: vec![node(1)] }).unwrap();
        operator(state, What::Started { rollout: rollout(n) }).unwrap();
        operator(state, What::Aborted { rollout: rollout(n), reason: String::new() }).unwrap();
        state.assignment(&node(1)).unwrap().target
    };
    let number = assign(&mut state, 1);
    says(&mut state, number, Verdict::Success);
    let number = assign(&mut state, 2);
    says(&mut state, number, Verdict::Failure);
    assert_eq!(push_and_abort(&mut state, 1), Some(target(0, 1)), "2 failed there");
    // It is put back and aborted again before it could say anything: the first roll-out's document does not come back.
    assert_eq!(push_and_abort(&mut state, 2), Some(target(0, 1)));
    // What it was to run and has not spoken of stands: it was away.
    let number = assign(&mut state, 3);
    assert_eq!(push_and_abort(&mut state, 3), Some(target(0, 3)));
    says(&mut state, number, Verdict::Success);
    assert_eq!(push_and_abort(&mut state, 4), Some(target(0, 3)));
    // What ran well and fails later is nothing to go back to, nor what is told late to have failed.
    let number = state.assignment(&node(1)).unwrap().number;
    says(&mut state, number, Verdict::Success);
    let number = assign(&mut state, 4);
    let last = assign(&mut state, 5);
    says(&mut state, number, Verdict::Failure);
    says(&mut state, last, Verdict::Success);
    says(&mut state, last, Verdict::Failure);
    assert_eq!(push_and_abort(&mut state, 5), Some(target(0, 3)));
}

#[test]
fn numbers_go_on_above_what_nodes_remember_of_a_log_that_was_lost() {
    let mut state = Rollouts::default();
    operator(&mut state, What::Begun { id: "after the fire".into() }).unwrap();
    assert_eq!(operator(&mut state, What::Begun { id: "again".into() }), Err(Void::Begun));
    assert_eq!(state.log(), Some("after the fire"));
    let (one, two) = (node(1), node(2));
    operator(&mut state, What::Assigned { nodes: vec![one.clone(), two.clone()], target: None }).unwrap();
    let report =
        NodeReport { node: two.clone(), number: 3, model: None, verdict: Verdict::Success, reason: String::new() };
    operator(&mut state, What::Reported { reports: vec![report] }).unwrap();
    let number = |state: &Rollouts, of: &NodeId| state.assignment(of).unwrap().number;
    // What was not spoken of is refused as older: it goes out again under a new number. What was is decided.
    assert_eq!(operator(&mut state, What::Raised { index: 5_000 }), Ok(1));
    assert_eq!((number(&state, &one), number(&state, &two), state.index()), (5_001, 3, 5_001));
    operator(&mut state, What::Assigned { nodes: vec![two.clone()], target: None }).unwrap();
    assert_eq!(number(&state, &two), 5_002);
    // The log is past what a node took, its assignment is not.
    assert_eq!(operator(&mut state, What::Raised { index: 5_001 }), Ok(1));
    assert_eq!((number(&state, &one), number(&state, &two), state.index()), (5_003, 5_002, 5_003));
    let too_far = operator(&mut state, What::Raised { index: RAISED_MAX + 1 }).unwrap_err();
    assert!(too_far.to_string().contains("keyring of a higher epoch"), "{too_far}");
}

/// The log of a version before has no beginning, and begins as it did.
#[test]
fn a_log_that_does_not_begin_with_its_beginning_is_taken_and_says_so() {
    let mut state = Rollouts::default();
    operator(&mut state, What::Assigned { nodes: vec![node(1)], target: None }).unwrap();
    assert_eq!(operator(&mut state, What::Begun { id: "late".into() }), Err(Void::Begun));
    assert_eq!((state.log(), state.assignment(&node(1)).unwrap().number), (None, 1));
}

#[test]
fn a_plan_that_cannot_be_followed_is_refused() {
    let with = |change: fn(&mut Plan)| {
        let mut plan = Plan::default();
        change(&mut plan);
        plan.check()
    };
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(with(|p| p.waves.clear()), Err(PlanError::Waves(0)));
    assert_eq!(with(|p| p.waves.swap(0, 1)), Err(PlanError::Order(1)));
    assert_eq!(with(|p| p.waves.truncate(3)), Err(PlanError::Last));
    assert_eq!(with(|p| p.successes_share_min_ppm = 1_000_001), Err(PlanError::Share(1_000_001)));
    assert_eq!(with(|p| p.waves[0].soak_ms = u64::MAX), Err(PlanError::Soak(u64::MAX)));
}

/// Written by the first version; every later one must read it.
#[test]
fn the_golden_events_are_read() {
    let golden = [
        r#"{"at_ms":1,"by":{"controller":{"epoch":1,"name":"cloud-a"}},"what":"claimed"}"#,
        r#"{"at_ms":2,"by":{"operator":{"name":"ada"}},"what":{"created":{"rollout":"r","target":"0101010101010101010101010101010101010101010101010101010101010101","plan":{"waves":[{"share_ppm":1000000,"soak_ms":5,"approval":true}],"failures_max":1,"failures_share_max_ppm":2,"successes_share_min_ppm":3,"on_failure":"abort"}}}}"#,
        r#"{"at_ms":3,"by":{"operator":{"name":"ada"}},"what":{"enrolled":{"rollout":"r","nodes":["press-7"]}}}"#,
        r#"{"at_ms":4,"by":{"controller":{"epoch":1,"name":"cloud-a"}},"what":{"reported":{"reports":[{"node":"press-7","number":3,"verdict":"failure","reason":"unhealthy"}]}}}"#,
        r#"{"at_ms":5,"by":{"operator":{"name":"ada"}},"what":{"advanced":{"rollout":"r","wave":1}}}"#,
        r#"{"at_ms":6,"by":{"operator":{"name":"ada"}},"what":{"assigned":{"nodes":["press-7"],"target":null}}}"#,
    ];
    let since_then = [
        r#"{"at_ms":7,"by":{"controller":{"epoch":1,"name":"cloud-a"}},"what":{"soaking":{"rollout":"r"}}}"#,
        r#"{"at_ms":8,"by":{"operator":{"name":"ada"}},"what":{"created":{"rollout":"r","target":null,"plan":{"waves":[{"share_ppm":1000000,"soak_ms":5,"approval":true}],"failures_max":1,"failures_share_max_ppm":2,"successes_share_min_ppm":3,"on_failure":"abort"},"rollback":true}}}"#,
    ];
    for text in golden.into_iter().chain(since_then) {
        let event: Event = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), text);
    }
    assert!(serde_json::from_str::<Event>(&golden[1].replace("01010101", "xx010101")).is_err());
}

#[test]
fn a_failure_outweighs_a_success_in_any_order_and_other_numbers_do_not_count() {
    for order in [[Verdict::Success, Verdict::Failure], [Verdict::Failure, Verdict::Success]] {
        let mut state = draft(10, Plan::default());
        assert_eq!(start(&mut state), 1);
        let node = state.outstanding().next().unwrap().clone();
        let number = state.assignment(&node).unwrap().number;
        let say = |state: &mut Rollouts, number, verdict| {
            let report = NodeReport { node: node.clone(), number, model: None, verdict, reason: String::new() };
            lead(state, 0, What::Reported { reports: vec![report] }).unwrap()
        };
        assert_eq!(say(&mut state, number - 1, Verdict::Failure), 1, "it is sent the newer one again");
        assert_eq!(say(&mut state, number + 1, Verdict::Failure), 0);
        assert_eq!((progress(&state).succeeded, progress(&state).failed), (0, 0));
        assert_eq!(order.map(|verdict| say(&mut state, number, verdict)), [0, 0]);
        assert_eq!((progress(&state).succeeded, progress(&state).failed), (0, 1));
    }
}
