//! Single stories of models.

use super::world::{model, node, rollout, target};
use crate::cloud::rollout::{
    Audience, Author, Event, Gates, ModelSaid, NodeId, NodeReport, Plan, Rollouts, Stage, Verdict, Void, Wave, What,
};
use crate::downlink::artefact::model::{MODELS_MAX, Name};
use crate::downlink::artefact::{Mode, ModelAssigned};

const ACTIVE: u8 = 0;
const SHADOW: u8 = 1;

fn operator(state: &mut Rollouts, what: What) -> Result<Vec<NodeId>, Void> {
    state.apply(&Event { at_ms: 0, by: Author::Operator { name: "ada".into() }, what })
}

fn lead(state: &mut Rollouts, what: What) -> Result<Vec<NodeId>, Void> {
    state.apply(&Event { at_ms: 0, by: Author::Controller { epoch: 1, name: "cloud-a".into() }, what })
}

fn begun() -> Rollouts {
    let mut state = Rollouts::default();
    lead(&mut state, What::Claimed).unwrap();
    state
}

fn at_once() -> Plan {
    Plan { waves: vec![Wave { share_ppm: 1_000_000, soak_ms: 0, approval: false }], ..Plan::default() }
}

/// For all, now and later; exposed to `nodes`.
fn run(state: &mut Rollouts, n: u8, model: Option<ModelAssigned>, nodes: &[NodeId]) -> Result<Vec<NodeId>, Void> {
    let (reason, audience) = (String::new(), Audience { all: true, groups: Vec::new() });
    let target = model.is_none().then(|| target(0, n));
    let (rollout, plan, rollback) = (rollout(n), at_once(), false);
    operator(state, What::Created { rollout: rollout.clone(), target, model, plan, reason, audience, rollback })?;
    operator(state, What::Enrolled { rollout: rollout.clone(), nodes: nodes.to_vec() })?;
    operator(state, What::Started { rollout })
}

fn complete(state: &mut Rollouts, n: u8) {
    operator(state, What::Passed { rollout: rollout(n), wave: 0 }).unwrap();
    lead(state, What::Completed { rollout: rollout(n) }).unwrap();
}

fn give(state: &mut Rollouts, node: &NodeId, model: ModelAssigned) {
    operator(state, What::ModelAssigned { nodes: vec![node.clone()], model, reason: String::new() }).unwrap();
}

/// The node says it of the assignment that it has now; `None`: of its document.
fn says(state: &mut Rollouts, node: &NodeId, model: Option<&ModelAssigned>, verdict: Verdict) {
    let number = state.assignment(node).unwrap().number;
    let mode = |model: &ModelAssigned| (verdict == Verdict::Success).then_some(model.mode);
    let said =
        |model: &ModelAssigned| ModelSaid { name: model.name.clone(), version: model.version, mode: mode(model) };
    let report = NodeReport { node: node.clone(), number, model: model.map(said), verdict, reason: String::new() };
    assert!(state.is_news(&report), "{report:?}");
    lead(state, What::Reported { reports: vec![report.clone()] }).unwrap();
    assert!(!state.is_news(&report));
}

/// Name, version, and mode of each.
fn has(state: &Rollouts, node: &NodeId) -> Vec<(String, u64, Mode)> {
    let assigned = state.assignment(node).map(|assigned| assigned.models).unwrap_or_default();
    assigned.into_iter().map(|m| (m.name.to_string(), m.version, m.mode)).collect()
}

fn press(version: u64, mode: Mode) -> (String, u64, Mode) {
    ("model-0".to_owned(), version, mode)
}

#[test]
fn what_a_node_says_of_its_document_is_no_success_of_the_model() {
    let (mut state, one) = (begun(), node(1));
    give(&mut state, &one, model(0, 0, ACTIVE));
    says(&mut state, &one, Some(&model(0, 0, ACTIVE)), Verdict::Success);
    let shadow = model(0, 1, SHADOW);
    let exposed = run(&mut state, 0, Some(shadow.clone()), std::slice::from_ref(&one)).unwrap();
    assert!(exposed.iter().eq([&one]));
    let succeeded = |state: &Rollouts| state.progress(&rollout(0)).unwrap().succeeded;
    says(&mut state, &one, None, Verdict::Success);
    assert_eq!((succeeded(&state), state.outstanding().count(), state.silent(&rollout(0)).count()), (0, 0, 1));
    // Nor is what it says of the version that is used already, or of the one beside it in another mode.
    let number = state.assignment(&one).unwrap().number;
    for (version, mode) in [(1, Some(Mode::Active)), (2, Some(Mode::Active)), (3, Some(Mode::Shadow)), (1, None)] {
        let said = Some(ModelSaid { name: shadow.name.clone(), version, mode });
        let verdict = if mode.is_some() { Verdict::Success } else { Verdict::Failure };
        let report = NodeReport { node: one.clone(), number, model: said, verdict, reason: String::new() };
        assert!(!state.is_news(&report), "{report:?}");
        lead(&mut state, What::Reported { reports: vec![report] }).unwrap();
    }
    assert_eq!((succeeded(&state), state.progress(&rollout(0)).unwrap().failed), (0, 0));
    says(&mut state, &one, Some(&shadow), Verdict::Success);
    assert_eq!((succeeded(&state), state.silent(&rollout(0)).count()), (1, 0));
}

#[test]
fn an_abort_takes_the_model_back_and_leaves_the_rest() {
    let (mut state, one, two) = (begun(), node(1), node(2));
    operator(&mut state, What::Assigned { nodes: vec![one.clone()], target: Some(target(0, 9)) }).unwrap();
    give(&mut state, &one, model(0, 0, ACTIVE));
    give(&mut state, &one, model(1, 0, ACTIVE));
    says(&mut state, &one, Some(&model(0, 0, ACTIVE)), Verdict::Success);
    let both = [one.clone(), two.clone()];
    let other = ("model-1".to_owned(), 1, Mode::Active);
    for (n, mode) in [(0, SHADOW), (1, ACTIVE)] {
        assert_eq!(run(&mut state, n, Some(model(0, 1, mode)), &both).unwrap().len(), 2);
        says(&mut state, &one, Some(&model(0, 1, mode)), Verdict::Success);
        let aborted = What::Aborted { rollout: rollout(n), reason: String::new() };
        assert_eq!(operator(&mut state, aborted).unwrap().len(), 2);
        assert_eq!(state.progress(&rollout(n)).unwrap().stage, Stage::Aborted { reason: String::new() });
        let mut back = has(&state, &one);
        back.sort();
        assert_eq!(back, [press(1, Mode::Active), other.clone()]);
        assert_eq!(state.assignment(&one).unwrap().target, Some(target(0, 9)));
        // It had none.
        assert_eq!(has(&state, &two), [press(2, Mode::Off)]);
        says(&mut state, &one, Some(&model(0, 0, ACTIVE)), Verdict::Success);
    }
}

#[test]
fn one_that_is_put_back_has_the_shadow_again_that_it_had() {
    let (mut state, one) = (begun(), node(1));
    give(&mut state, &one, model(0, 0, ACTIVE));
    give(&mut state, &one, model(0, 1, SHADOW));
    says(&mut state, &one, Some(&model(0, 1, SHADOW)), Verdict::Success);
    run(&mut state, 0, Some(model(0, 1, ACTIVE)), std::slice::from_ref(&one)).unwrap();
    assert_eq!(has(&state, &one), [press(2, Mode::Active)]);
    operator(&mut state, What::Aborted { rollout: rollout(0), reason: String::new() }).unwrap();
    assert_eq!(has(&state, &one), [press(1, Mode::Active), press(2, Mode::Shadow)]);
}

#[test]
fn what_has_failed_is_not_tried_again_because_of_something_else() {
    let (mut state, one) = (begun(), node(1));
    give(&mut state, &one, model(0, 0, ACTIVE));
    says(&mut state, &one, Some(&model(0, 0, ACTIVE)), Verdict::Success);
    give(&mut state, &one, model(0, 1, ACTIVE));
    says(&mut state, &one, Some(&model(0, 1, ACTIVE)), Verdict::Failure);
    assert_eq!(has(&state, &one), [press(2, Mode::Active)], "until something is assigned");
    operator(&mut state, What::Assigned { nodes: vec![one.clone()], target: None }).unwrap();
    assert_eq!(has(&state, &one), [press(1, Mode::Active)]);
    // One that never ran well leaves nothing: what the node has by itself stays.
    give(&mut state, &one, model(1, 0, ACTIVE));
    says(&mut state, &one, Some(&model(1, 0, ACTIVE)), Verdict::Failure);
    give(&mut state, &one, model(2, 0, ACTIVE));
    assert_eq!(has(&state, &one), [press(1, Mode::Active), ("model-2".to_owned(), 1, Mode::Active)]);
}

#[test]
fn late_joiners_get_what_stands_of_every_kind() {
    let (mut state, one, two) = (begun(), node(1), node(2));
    let all = [
        (0, None),
        (1, Some(model(0, 0, ACTIVE))),
        (2, Some(model(0, 1, SHADOW))),
        (3, Some(model(1, 0, SHADOW))),
        (4, Some(model(1, 0, ACTIVE))),
        (5, Some(model(0, 2, SHADOW))),
    ];
    for (n, model) in all {
        run(&mut state, n, model, std::slice::from_ref(&one)).unwrap();
        complete(&mut state, n);
    }
    let mut joined = Vec::new();
    while let Some(id) = state.to_join(&two, &[]).cloned() {
        assert_eq!(
            lead(&mut state, What::Enrolled { rollout: id.clone(), nodes: vec![two.clone()] }).unwrap().len(),
            1
        );
        assert!(!joined.contains(&id), "{id} twice");
        joined.push(id);
    }
    // The newest of each; a shadow that another version's use has ended does not come back.
    assert_eq!(joined, [rollout(0), rollout(1), rollout(4), rollout(5)]);
    assert_eq!(
        has(&state, &two),
        [press(1, Mode::Active), ("model-1".to_owned(), 1, Mode::Active), press(3, Mode::Shadow)]
    );
    assert_eq!((has(&state, &two), state.to_join(&one, &[])), (has(&state, &one), None));
    // Who was given a version since then has something newer of that kind alone.
    let three = node(3);
    give(&mut state, &three, model(0, 1, ACTIVE));
    assert_eq!(state.to_join(&three, &[]), Some(&rollout(0)));
    let standing = |n: u8| What::Enrolled { rollout: rollout(n), nodes: vec![node(3)] };
    assert_eq!((lead(&mut state, standing(1)).unwrap().len(), lead(&mut state, standing(0)).unwrap().len()), (0, 1));
    assert_eq!(state.to_join(&three, &[]), Some(&rollout(4)));
}

#[test]
fn a_node_with_as_many_models_as_there_may_be_is_passed_over() {
    let (mut state, one) = (begun(), node(1));
    let named = |n: usize| ModelAssigned { name: Name::parse(&format!("m{n}")).unwrap(), ..model(0, 0, ACTIVE) };
    (0..MODELS_MAX).for_each(|n| give(&mut state, &one, named(n)));
    let void = run(&mut state, 0, Some(model(0, 0, ACTIVE)), std::slice::from_ref(&one));
    assert_eq!((void, state.progress(&rollout(0)).unwrap().held), (Err(Void::Empty(rollout(0))), 1));
    // Another version of one that it has takes no more room; one beside it would.
    let next = |mode| ModelAssigned { version: 2, mode, ..named(3) };
    assert!(run(&mut state, 1, Some(next(Mode::Shadow)), std::slice::from_ref(&one)).is_err());
    assert_eq!(run(&mut state, 2, Some(next(Mode::Active)), std::slice::from_ref(&one)).unwrap().len(), 1);
    assert_eq!(has(&state, &one).len(), MODELS_MAX);
}

/// What it goes back to had two uses, and others have come since then.
#[test]
fn one_that_is_put_back_has_no_more_models_than_there_may_be() {
    let (mut state, one) = (begun(), node(1));
    give(&mut state, &one, model(0, 0, ACTIVE));
    give(&mut state, &one, model(0, 1, SHADOW));
    says(&mut state, &one, Some(&model(0, 1, SHADOW)), Verdict::Success);
    give(&mut state, &one, model(0, 2, ACTIVE));
    let named = |n: usize| ModelAssigned { name: Name::parse(&format!("m{n}")).unwrap(), ..model(0, 0, ACTIVE) };
    (1..MODELS_MAX).for_each(|n| give(&mut state, &one, named(n)));
    says(&mut state, &one, Some(&model(0, 2, ACTIVE)), Verdict::Failure);
    for by_abort in [false, true] {
        let mut state = state.clone();
        if by_abort {
            run(&mut state, 0, Some(model(0, 1, ACTIVE)), std::slice::from_ref(&one)).unwrap();
            operator(&mut state, What::Aborted { rollout: rollout(0), reason: String::new() }).unwrap();
        } else {
            operator(&mut state, What::Assigned { nodes: vec![one.clone()], target: None }).unwrap();
        }
        let has = has(&state, &one);
        assert!(has.len() == MODELS_MAX && has.contains(&press(1, Mode::Active)), "{has:?}");
    }
}

#[test]
fn a_roll_out_brings_one_thing_and_has_gates_where_something_is_measured() {
    let mut state = begun();
    let mut create = |target, model, gates| {
        let (rollout, reason, audience, plan) =
            (rollout(0), String::new(), Audience::default(), Plan { gates, ..at_once() });
        operator(&mut state, What::Created { rollout, target, model, plan, reason, audience, rollback: false })
    };
    let alarms = Gates { alarms_share_max_ppm: Some(1), ..Gates::default() };
    let disagreed = Gates { disagreed_share_max_ppm: Some(1), ..Gates::default() };
    let beyond = Gates { errors_share_max_ppm: Some(1_000_001), ..Gates::default() };
    let some = || Some(model(0, 0, ACTIVE));
    for wrong in [
        create(Some(target(0, 1)), some(), Gates::default()),
        create(Some(target(0, 1)), None, alarms),
        create(None, some(), disagreed),
        create(None, some(), beyond),
        create(None, Some(ModelAssigned { version: 0, ..model(0, 0, ACTIVE) }), alarms),
    ] {
        assert!(matches!(wrong, Err(Void::Malformed(_))), "{wrong:?}");
    }
    assert_eq!(create(None, some(), alarms), Ok(Vec::new()));
    assert_eq!(create(None, some(), alarms), Err(Void::Stage(rollout(0))), "the same again");
    assert_eq!(create(None, Some(model(0, 1, ACTIVE)), alarms), Err(Void::Exists(rollout(0))));
}

/// Written by the first version that knew them; every later one must read it.
#[test]
fn the_golden_events_of_models_are_read() {
    let golden = [
        r#"{"at_ms":1,"by":{"operator":{"name":"ada"}},"what":{"created":{"rollout":"r","target":null,"model":{"name":"press","version":7,"digest":"0101010101010101010101010101010101010101010101010101010101010101","mode":"shadow"},"plan":{"waves":[{"share_ppm":1000000,"soak_ms":5,"approval":true}],"failures_max":1,"failures_share_max_ppm":2,"successes_share_min_ppm":3,"on_failure":"abort","gates":{"events_min":50,"disagreed_share_max_ppm":20000}}}}}"#,
        r#"{"at_ms":2,"by":{"controller":{"epoch":1,"name":"cloud-a"}},"what":{"reported":{"reports":[{"node":"press-7","number":3,"model":{"name":"press","version":7,"mode":"shadow"},"verdict":"success"},{"node":"press-8","number":3,"model":{"name":"press","version":7},"verdict":"failure","reason":"alarms"}]}}}"#,
    ];
    for text in golden {
        let event: Event = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), text);
    }
}
