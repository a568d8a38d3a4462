//! A hundred thousand nodes; `cargo test --lib rollout::tests::size -- --nocapture` shows the figures.

use std::time::{Duration, Instant};

use crate::cloud::rollout::{
    Audience, Author, BATCH_MAX, Event, MEMBERS_MAX, NodeId, NodeReport, Plan, RolloutId, Rollouts, Stage, Verdict,
    What,
};

fn apply(state: &mut Rollouts, now: u64, what: What) -> (Vec<NodeId>, Duration) {
    let by = match what {
        What::Advanced { .. } | What::Completed { .. } | What::Claimed | What::Reported { .. } => {
            Author::Controller { epoch: 1, name: "cloud-a".into() }
        }
        _ => Author::Operator { name: "ada".into() },
    };
    let begun = Instant::now();
    let changed = state.apply(&Event { at_ms: now, by, what }).unwrap();
    (changed, begun.elapsed())
}

/// Resident memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

#[test]
fn a_hundred_thousand_nodes_are_rolled_out_report_by_report() {
    let before = resident();
    let (mut state, id) = (Rollouts::default(), RolloutId::from("autumn"));
    apply(&mut state, 0, What::Claimed);
    apply(
        &mut state,
        0,
        What::Created {
            rollout: id.clone(),
            target: None,
            model: None,
            plan: Plan::default(),
            reason: String::new(),
            audience: Audience::default(),
            rollback: false,
        },
    );
    let names: Vec<NodeId> = (0..=MEMBERS_MAX).map(|n| NodeId::from(format!("gateway-{n:06}"))).collect();
    let mut enrolling = Duration::ZERO;
    for nodes in names.chunks(BATCH_MAX) {
        enrolling += apply(&mut state, 0, What::Enrolled { rollout: id.clone(), nodes: nodes.to_vec() }).1;
    }
    let progress = state.progress(&id).unwrap();
    assert_eq!((progress.members, progress.held), (MEMBERS_MAX, 1), "one more than fits");
    let mut now = 0;
    let (mut exposing, mut reporting, mut slowest, mut reports) = (Vec::new(), Duration::ZERO, Duration::ZERO, 0_u32);
    let (mut exposed, took) = apply(&mut state, now, What::Started { rollout: id.clone() });
    exposing.push((exposed.len(), took));
    loop {
        for node in exposed {
            let number = state.assignment(&node).unwrap().number;
            let report = NodeReport { node, number, model: None, verdict: Verdict::Success, reason: String::new() };
            let took = apply(&mut state, now, What::Reported { reports: vec![report] }).1;
            (reporting, slowest, reports) = (reporting + took, slowest.max(took), reports + 1);
        }
        now += 600_000;
        let what = state.decide(now).remove(0);
        let is_last = matches!(what, What::Completed { .. });
        let memory = resident().saturating_sub(before);
        let (next, took) = apply(&mut state, now, what);
        if is_last {
            println!(
                "100,000 nodes: enrolled in {enrolling:?}; waves {exposing:?}; a report takes {:?}, the slowest {slowest:?}; \
                 completed in {took:?}; {} MB, the test's names included",
                reporting / reports,
                memory >> 20
            );
            break;
        }
        exposing.push((next.len(), took));
        exposed = next;
    }
    assert_eq!(state.progress(&id).unwrap().stage, Stage::Completed);
    assert_eq!(exposing.iter().map(|e| e.0).collect::<Vec<_>>(), [1_000, 9_000, 40_000, 50_000]);
    assert_eq!(state.outstanding().count(), 0);
}
