//! Stories that the random histories tell too seldom, or whose way matters and not only the end.

use super::place_of;
use super::world::{DiskFault, Document, Kind, World};
use crate::downlink::trial::{
    Action, Config, Found, Input, Machine, Outcome, Place, Policy, Reason, Record, Slot, Status, Stored,
};

const MINUTE: u64 = 60_000;

fn document(kind: Kind, broker: u8) -> Option<Document> {
    Some(Document { kind, broker, variant: 1 })
}

fn good() -> Option<Document> {
    document(Kind::Good, 0)
}

fn outcomes(world: &World) -> Vec<(u64, Outcome, Option<Reason>)> {
    let told = world.oracle.seen.values();
    told.map(|r| (place_of(r.number), r.outcome, r.failure.as_ref().map(|f| f.reason))).collect()
}

fn world() -> World {
    let mut world = World::new(Policy::default());
    world.run(1000);
    world
}

#[test]
fn a_gateway_that_a_push_cut_off_is_reachable_again_within_120_seconds() {
    let mut world = world();
    world.offer(1, document(Kind::NotConnected, 0));
    world.run(120_000);
    assert_eq!(outcomes(&world), [(1, Outcome::Reverted, Some(Reason::NotConnected))]);
    assert_eq!((world.machine.running(), world.machine.status()), (Place::Local, Status::Settled));
}

#[test]
fn a_link_that_dies_in_the_trial_and_comes_back_an_hour_later_costs_the_good_document_nothing() {
    let mut world = world();
    world.offer(1, good());
    world.link = false;
    world.run(60 * MINUTE);
    assert_eq!((outcomes(&world), world.machine.status() == Status::Settled), (vec![], false));
    world.link = true;
    world.run(5 * MINUTE);
    assert_eq!(outcomes(&world), [(1, Outcome::Committed, None)]);
}

#[test]
fn a_bad_document_that_was_first_tried_without_a_link_is_reverted_after_one_trial_with_it() {
    let mut world = World::new(Policy::default());
    world.link = false;
    world.offer(1, document(Kind::NotConnected, 0));
    world.run(30 * MINUTE);
    world.link = true;
    world.run(30 * MINUTE);
    assert_eq!(outcomes(&world), [(1, Outcome::Reverted, Some(Reason::NotConnected))]);
}

#[test]
fn when_the_committed_broker_is_gone_the_new_one_is_found_although_the_link_was_down_in_the_trial() {
    let mut world = world();
    world.offer(1, document(Kind::Good, 1));
    world.link = false;
    world.run(10 * MINUTE);
    (world.link, world.broker) = (true, 1);
    world.run(90 * MINUTE);
    assert_eq!(outcomes(&world), [(1, Outcome::Committed, None)]);
}

#[test]
fn a_link_that_dies_in_every_trial_ends_in_link_unsteady_after_three() {
    let mut world = world();
    world.offer(1, good());
    for _ in 0..3 {
        world.link = false;
        world.run(3 * MINUTE);
        assert_eq!(outcomes(&world), []);
        world.link = true;
        // Until the committed one has a probe acknowledged and the next trial begins.
        for _ in 0..100 {
            if world.machine.running() == Place::Local {
                world.connect();
                world.answer(0);
                world.act();
            }
        }
    }
    world.run(MINUTE);
    assert_eq!(outcomes(&world), [(1, Outcome::Reverted, Some(Reason::LinkUnsteady))]);
    // Assigned anew.
    world.offer(2, good());
    world.run(MINUTE);
    assert_eq!(outcomes(&world).last(), Some(&(2, Outcome::Committed, None)));
}

#[test]
fn a_document_that_ends_the_process_is_loaded_by_three_starts() {
    let mut world = world();
    world.offer(1, document(Kind::Crashes, 0));
    world.run(MINUTE);
    assert_eq!(world.oracle.crashes, 4, "once when it was applied, and by three starts");
    assert_eq!(outcomes(&world), [(1, Outcome::Reverted, Some(Reason::TooManyStarts))]);
    world.offer(1, document(Kind::Crashes, 0));
    world.run(MINUTE);
    assert_eq!(world.oracle.crashes, 4, "the same assignment is not tried again");
}

#[test]
fn a_process_that_was_stopped_for_an_hour_has_not_used_its_time() {
    let mut world = world();
    world.offer(1, good());
    while world.machine.running() == Place::Local {
        world.act();
        world.answer(0);
    }
    world.now += 60 * MINUTE;
    world.run(10_000);
    assert_eq!(outcomes(&world), [(1, Outcome::Committed, None)]);
}

#[test]
fn a_disk_that_cannot_be_written_keeps_the_committed_one_and_says_so_later() {
    let mut world = world();
    world.fault = DiskFault::Refuses;
    world.offer(1, good());
    world.run(10 * MINUTE);
    assert_eq!((world.machine.running(), outcomes(&world)), (Place::Local, vec![]));
    world.fault = DiskFault::None;
    world.run(2 * MINUTE);
    assert_eq!(outcomes(&world), [(1, Outcome::Refused, Some(Reason::NotStored))]);
}

#[test]
fn the_local_file_can_be_assigned_and_is_tried_like_a_document() {
    let mut world = world();
    world.offer(1, good());
    world.run(MINUTE);
    world.offer(2, None);
    world.run(MINUTE);
    assert_eq!(outcomes(&world).last(), Some(&(2, Outcome::Committed, None)));
    assert_eq!((world.machine.running(), place_of(world.machine.record().committed.number)), (Place::Local, 2));
}

#[test]
fn a_newer_document_ends_the_wait_of_one_whose_trial_nobody_could_judge() {
    let mut world = World::new(Policy::default());
    world.link = false;
    world.offer(1, good());
    world.run(5 * MINUTE);
    world.offer(2, Some(Document { variant: 2, ..good().unwrap() }));
    world.link = true;
    world.run(5 * MINUTE);
    let superseded = (1, Outcome::Superseded, Some(Reason::NotConnected));
    assert_eq!(outcomes(&world), [superseded, (2, Outcome::Committed, None)]);
}

#[test]
fn the_cloud_that_lost_a_report_gets_it_again_by_assigning_the_same_again() {
    let mut world = world();
    world.offer(1, document(Kind::NotConnected, 0));
    world.run(3 * MINUTE);
    let told = std::mem::take(&mut world.oracle.seen);
    world.crash();
    world.run(MINUTE);
    assert!(!told.is_empty() && world.oracle.seen == told);
}

#[test]
fn a_link_that_comes_back_in_the_control_time_of_a_trial_without_one_blames_nobody() {
    let mut world = World::new(Policy::default());
    world.link = false;
    world.offer(1, good());
    world.run(90_000);
    world.link = true;
    world.run(5 * MINUTE);
    assert_eq!(outcomes(&world), [(1, Outcome::Committed, None)]);
}

#[test]
fn a_modem_that_takes_longer_than_the_confirm_time_after_a_power_cut_blames_nobody() {
    let mut world = world();
    world.offer(1, good());
    while world.machine.running() == Place::Local {
        world.act();
        world.answer(0);
    }
    world.link = false;
    world.crash();
    world.run(95_000);
    world.link = true;
    world.run(5 * MINUTE);
    assert_eq!(outcomes(&world), [(1, Outcome::Committed, None)]);
}

#[test]
fn a_restart_gives_a_trial_no_new_time() {
    let mut world = world();
    world.offer(1, document(Kind::NotConnected, 0));
    world.run(60_000);
    world.crash();
    let trials = |world: &World| world.machine.record().candidate.as_ref().map(|c| c.attempts);
    world.run(10_000);
    assert_eq!(trials(&world), Some(1));
    // Over after 85 s in all; the restart makes it a trial that proves nothing, and the next one begins.
    world.run(35_000);
    assert_eq!(trials(&world), Some(2));
}

#[test]
fn an_answer_to_a_probe_of_the_configuration_before_proves_nothing() {
    let mut world = World::new(Policy::default());
    world.link = false;
    world.offer(1, document(Kind::NotAcknowledged, 0));
    world.run(5 * MINUTE);
    world.link = true;
    world.connect();
    world.answer(0);
    world.act();
    let late = world.answers.pop().unwrap();
    assert!(matches!(late, Input::ProbeAcknowledged { .. }));
    world.link = false;
    for _ in 0..240 {
        if world.machine.running() == Place::Local {
            world.run(10_000);
        }
    }
    assert_ne!(world.machine.running(), Place::Local);
    world.link = true;
    world.run(1000);
    world.give(late);
    world.run(60 * MINUTE);
    assert_eq!(outcomes(&world), [(1, Outcome::Reverted, Some(Reason::NotAcknowledged))]);
}

#[test]
fn a_committed_document_that_cannot_be_applied_leaves_the_local_file_until_it_can() {
    let digest = [5; 32];
    let place = Place::Slot { slot: Slot::A, digest };
    let record = Record { committed: Config { number: 3.into(), place }, settled: 3.into(), ..Record::default() };
    let found = Found { record: Ok(Some(record)), slots: [Some(Stored { number: 3.into(), digest }), None] };
    let (mut machine, actions) = Machine::start(Policy::default(), &found, 0);
    assert_eq!(actions, [Action::Apply { generation: 1, place }]);
    let in_use = || "port 1883 is in use".to_owned();
    let actions = machine.handle(0, Input::NotApplied { generation: 1, detail: in_use() });
    assert!(actions.contains(&Action::Apply { generation: 2, place: Place::Local }), "{actions:?}");
    let failure = machine.record().reports[0].failure.clone().unwrap();
    assert_eq!((failure.reason, failure.detail), (Reason::NotApplied, in_use()));
    machine.handle(0, Input::Applied { generation: 2 });
    let retry = machine.deadline().unwrap();
    let actions = machine.handle(retry, Input::Tick);
    assert!(actions.contains(&Action::Apply { generation: 3, place }), "{actions:?}");
    machine.handle(retry, Input::Applied { generation: 3 });
    assert_eq!(machine.running(), place);
    let outcomes: Vec<Outcome> = machine.record().reports.iter().map(|report| report.outcome).collect();
    assert_eq!(outcomes, [Outcome::Fallback, Outcome::Committed], "the fallback is not the last word");
}

fn committed_at_broker_1() -> World {
    let mut world = world();
    world.offer(1, good());
    world.run(MINUTE);
    world.broker = 1;
    world.offer(2, document(Kind::Good, 1));
    world.run(90 * MINUTE);
    assert_eq!(outcomes(&world).last(), Some(&(2, Outcome::Committed, None)));
    world
}

#[test]
fn a_document_whose_address_dies_is_taken_back_for_the_one_before_it() {
    let mut world = committed_at_broker_1();
    world.broker = 0;
    world.run(30 * MINUTE);
    assert_eq!(place_of(world.machine.record().committed.number), 2, "it may come back");
    world.run(35 * MINUTE);
    let record = world.machine.record();
    assert_eq!((place_of(record.committed.number), world.machine.running()), (1, record.committed.place));
    assert_eq!(outcomes(&world).last(), Some(&(2, Outcome::Fallback, Some(Reason::LinkLost))));
    // A start changes nothing about it, nor that the address is there again.
    world.crash();
    world.broker = 1;
    world.run(30 * MINUTE);
    world.broker = 0;
    world.run(5 * MINUTE);
    assert_eq!(place_of(world.machine.record().committed.number), 1);
    // It can be assigned anew.
    (world.broker, world.link) = (1, true);
    world.run(65 * MINUTE);
    assert_eq!(place_of(world.machine.record().committed.number), 2, "what was taken back is looked at like any other");
}

#[test]
fn the_time_without_a_link_is_remembered_and_looks_that_find_nothing_are_ever_rarer() {
    let mut world = committed_at_broker_1();
    world.link = false;
    for _ in 0..5 {
        world.run(15 * MINUTE);
        world.crash();
    }
    assert_eq!(world.machine.record().looks, 1, "an hour in all");
    world.run(7 * 24 * 60 * MINUTE);
    let looks = world.machine.record().looks;
    assert!((8..=12).contains(&looks), "{looks} looks in a week: after 1, 2, 4, 8, 16 hours and then each day");
    // However rare they are: the own file's broker is found.
    (world.link, world.broker) = (true, 0);
    world.run(25 * 60 * MINUTE);
    assert_eq!(place_of(world.machine.record().committed.number), 1);
    assert_eq!(world.machine.record().looks, 0);
}

#[test]
fn a_new_assignment_that_is_found_elsewhere_is_tried_from_there() {
    let mut world = committed_at_broker_1();
    world.broker = 0;
    world.run(65 * MINUTE);
    world.offer(3, Some(Document { variant: 2, ..good().unwrap() }));
    world.run(MINUTE);
    assert_eq!(outcomes(&world).last(), Some(&(3, Outcome::Committed, None)));
}
