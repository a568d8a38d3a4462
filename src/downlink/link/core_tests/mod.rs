//! The core against brokers played by the test: histories of faults by the thousand, and the rules one by one.

mod world;

use proptest::prelude::*;
use pulsar::message::proto::{
    CommandAuthChallenge, CommandMessage, CommandSendError, CommandSendReceipt, MessageIdData, ServerError,
};

use super::*;
use crate::downlink::link::{COMMANDS_MAX, REPORTS_MAX};
use world::World;

#[derive(Clone, Debug)]
enum Step {
    Connect(bool),
    Cut(usize),
    Notice,
    Deliver(usize),
    Unload(usize, usize),
    Inbox,
    Command,
    Settle(usize, bool),
    Report,
    Pass(u64),
    Restart(u64),
    Elsewhere,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::bool::weighted(0.8).prop_map(Step::Connect),
        1 => (0usize..3).prop_map(Step::Cut),
        2 => Just(Step::Notice),
        8 => (1usize..20).prop_map(Step::Deliver),
        1 => (0usize..3, 0usize..2).prop_map(|(part, owner)| Step::Unload(part, owner)),
        2 => Just(Step::Inbox),
        4 => Just(Step::Command),
        4 => (0usize..16, prop::bool::weighted(0.7)).prop_map(|(n, taken)| Step::Settle(n, taken)),
        2 => Just(Step::Report),
        4 => prop_oneof![1u64..500, 500u64..12_000, 12_000u64..40_000].prop_map(Step::Pass),
        1 => any::<u64>().prop_map(Step::Restart),
        1 => Just(Step::Elsewhere),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_everything_comes_through_afterwards(
        steps in prop::collection::vec(step(), 0..120),
        seed in any::<u64>(),
    ) {
        let mut world = World::new(seed);
        for step in steps {
            match step {
                Step::Connect(works) => world.connect(works),
                Step::Cut(n) => world.cut_one(n),
                Step::Notice => world.notice(),
                Step::Deliver(n) => world.deliver(n),
                Step::Unload(part, owner) => world.unload(Part::ALL[part], owner),
                Step::Inbox => world.append_inbox(),
                Step::Command => world.append_command(),
                Step::Settle(n, taken) => world.settle(n, taken),
                Step::Report => {
                    world.report();
                }
                Step::Pass(ms) => world.pass(ms),
                Step::Restart(seed) => world.restart(seed),
                Step::Elsewhere => world.tell(Input::Elsewhere),
            }
        }
        world.calm();
    }
}

/// Connected, with everything open.
fn connected() -> World {
    let mut world = World::new(7);
    world.calm();
    world
}

/// What the core does about `input` now.
fn effects(world: &mut World, input: Input) -> Vec<Effect> {
    let mut out = Vec::new();
    world.core.handle(input, world.now, &mut out);
    out
}

fn open(world: &World, part: Part) -> (u64, u64) {
    match world.core.slot(part).state {
        State::Open { wire, id, .. } => (wire, id),
        ref other => panic!("{part:?} is not open: {other:?}"),
    }
}

fn message(consumer_id: u64, entry_id: u64, permits: Option<u32>, content: Result<Vec<Bytes>, Unfit>) -> Box<Incoming> {
    let message_id = MessageIdData { ledger_id: 1, entry_id, ..MessageIdData::default() };
    Box::new(Incoming { to: CommandMessage { consumer_id, message_id, ..CommandMessage::default() }, permits, content })
}

#[test]
fn what_is_at_one_address_says_where_it_was_found_and_the_other_one_is_next() {
    let mut world = connected();
    let here = world.core.slot(Part::Inbox).service.clone().unwrap();
    let (_, reader) = open(&world, Part::Inbox);
    let (wire, _) = open(&world, Part::Inbox);
    let out = effects(&mut world, Input::Message(wire, message(reader, 99, Some(1), Ok(vec!["7".into()]))));
    assert!(out.iter().any(|e| matches!(e, Effect::Inbox(at, _) if *at == here)), "{out:?}");
    let out = effects(&mut world, Input::Elsewhere);
    let told =
        |e: &Effect| matches!(e, Effect::Failed(None, LinkError::NotOurs { broker }) if *broker == here.authority());
    assert!(out.iter().any(told) && !world.core.is_connected(), "{out:?}");
    assert_eq!(out.iter().filter(|e| matches!(e, Effect::Finish(_))).count(), 1);
    let out: Vec<Effect> = (0..100)
        .flat_map(|_| {
            world.now += Duration::from_millis(10);
            effects(&mut world, Input::Time)
        })
        .collect();
    assert!(matches!(&out[..], [Effect::Connect(_, at, None)] if *at != here), "{out:?}");
}

#[test]
fn pings_and_challenges_are_answered_and_a_silent_broker_is_left() {
    let mut world = connected();
    let (wire, _) = open(&world, Part::Inbox);
    let challenge = BaseCommand { auth_challenge: Some(CommandAuthChallenge::default()), ..BaseCommand::default() };
    assert!(
        matches!(effects(&mut world, Input::Command(wire, Box::new(challenge)))[..], [Effect::Token(w)] if w == wire)
    );
    let ping = BaseCommand { ping: Some(Default::default()), ..BaseCommand::default() };
    let out = effects(&mut world, Input::Command(wire, Box::new(ping)));
    assert!(matches!(&out[..], [Effect::Send(_, c)] if c.pong.is_some()));
    world.now += PING_AFTER;
    let out = effects(&mut world, Input::Time);
    assert!(matches!(&out[..], [Effect::Send(_, c)] if c.ping.is_some()), "{out:?}");
    world.now += SILENCE_MAX - PING_AFTER;
    let out = effects(&mut world, Input::Time);
    assert!(matches!(&out[..], [Effect::Drop(_), Effect::Failed(None, LinkError::Silent { .. })]), "{out:?}");
    assert!(!world.core.is_connected());
}

#[test]
fn a_report_is_answered_when_stored_refused_lost_or_too_late() {
    let mut world = connected();
    let sent = world.report();
    assert_eq!(world.told(sent), None);
    world.deliver(10);
    assert_eq!(world.told(sent), Some(Ok(())));
    // Refused: its sender hears the broker's words, and the producer is opened anew.
    let (wire, producer_id) = open(&world, Part::Reports);
    let out = effects(&mut world, Input::Report(100, b"1000".to_vec()));
    let [Effect::Publish(_, _, sequence_id, _)] = out[..] else { panic!("{out:?}") };
    let error = CommandSendError {
        producer_id,
        sequence_id,
        error: ServerError::PersistenceError as i32,
        message: "disk".into(),
    };
    let refusal = BaseCommand { send_error: Some(error), ..BaseCommand::default() };
    let out = effects(&mut world, Input::Command(wire, Box::new(refusal)));
    assert!(matches!(&out[0], Effect::Answer(100, Err(NotSent::Refused(why))) if why.contains("disk")), "{out:?}");
    assert!(out.iter().any(|e| matches!(e, Effect::Send(_, c) if c.close_producer.is_some())), "{out:?}");
    let out = effects(&mut world, Input::Report(101, b"x".to_vec()));
    assert!(matches!(&out[..], [Effect::Answer(101, Err(NotSent::Down(why)))] if why.contains("disk")), "{out:?}");
    // Taken for a repetition (deduplication): not stored, whatever the receipt's name.
    let mut world = connected();
    let (wire, producer_id) = open(&world, Part::Reports);
    let out = effects(&mut world, Input::Report(102, b"1000".to_vec()));
    let [Effect::Publish(_, _, sequence_id, _)] = out[..] else { panic!("{out:?}") };
    let nowhere = MessageIdData { ledger_id: u64::MAX, entry_id: u64::MAX, ..MessageIdData::default() };
    let receipt = CommandSendReceipt { producer_id, sequence_id, message_id: Some(nowhere), highest_sequence_id: None };
    let receipt = BaseCommand { send_receipt: Some(receipt), ..BaseCommand::default() };
    let out = effects(&mut world, Input::Command(wire, Box::new(receipt)));
    assert!(matches!(&out[0], Effect::Answer(102, Err(NotSent::Refused(_)))), "{out:?}");
    // No receipt: not for ever.
    let mut world = connected();
    let lost = world.report();
    world.pass(PING_AFTER.as_millis() as u64);
    let (wire, _) = open(&world, Part::Inbox);
    effects(&mut world, Input::Heard(wire));
    world.pass((RECEIPT_MAX - PING_AFTER).as_millis() as u64);
    assert!(matches!(world.told(lost), Some(Err(NotSent::Down(why))) if why.contains("confirming a report")));
}

#[test]
fn no_more_reports_wait_than_there_is_room_for() {
    let mut world = connected();
    for number in 0..REPORTS_MAX as u64 {
        assert!(matches!(effects(&mut world, Input::Report(1000 + number, Vec::new()))[..], [Effect::Publish(..)]));
    }
    let out = effects(&mut world, Input::Report(2000, Vec::new()));
    assert!(matches!(out[..], [Effect::Answer(2000, Err(NotSent::Busy))]), "{out:?}");
}

#[test]
fn an_unfit_inbox_message_is_passed_over_and_not_fetched_again() {
    let mut world = connected();
    world.append_inbox();
    let (wire, consumer) = open(&world, Part::Inbox);
    let out = effects(&mut world, Input::Message(wire, message(consumer, 0, Some(1), Err(Unfit::too_large(9)))));
    assert!(out.iter().any(|e| matches!(e, Effect::Unfit(Part::Inbox, _))));
    assert!(out.iter().any(|e| matches!(e, Effect::Send(_, c) if c.flow.is_some())), "the next one may come");
    // The brokers have forgotten to send it, and after a cut it is the last message: it is known.
    world.cut_one(0);
    for _ in 0..20 {
        world.notice();
        world.connect(true);
        world.deliver(100);
        world.pass(1000);
    }
    assert!(world.core.is_connected());
    assert_eq!(world.heard, None);
    world.append_inbox();
    world.deliver(10);
    assert_eq!(world.heard, Some(1));
}

#[test]
fn a_command_that_can_never_be_taken_is_acknowledged() {
    let mut world = connected();
    let (wire, consumer) = open(&world, Part::Commands);
    for (content, permits) in
        [(Err(Unfit::too_large(9)), Some(1)), (Ok(Vec::new()), Some(1)), (Err(Unfit::damaged("x")), None)]
    {
        let out = effects(&mut world, Input::Message(wire, message(consumer, 0, permits, content)));
        assert!(matches!(&out[0], Effect::Send(_, c) if c.ack.is_some()), "{out:?}");
        let follows = |e: &Effect| match e {
            Effect::Send(_, c) if permits.is_some() => c.flow.is_some(),
            // Nobody knows how many permits it took: a new consumer begins with all.
            Effect::Send(_, c) => c.close_consumer.is_some(),
            _ => false,
        };
        assert!(out.iter().any(follows), "{out:?}");
    }
    assert!(world.core.is_connected(), "inbox and reports go on");
}

#[test]
fn a_batch_of_commands_is_acknowledged_when_all_of_it_is_taken() {
    let mut world = connected();
    let (wire, consumer) = open(&world, Part::Commands);
    let batch = || Ok(vec![Bytes::from("a"), Bytes::from("b")]);
    let out = effects(&mut world, Input::Message(wire, message(consumer, 5, Some(2), batch())));
    assert!(matches!(out[..], [Effect::Command(_, (1, 5)), Effect::Command(_, (1, 5))]), "{out:?}");
    assert!(effects(&mut world, Input::Settled((1, 5), true)).is_empty());
    let out = effects(&mut world, Input::Settled((1, 5), true));
    let [Effect::Send(_, ack), Effect::Send(_, flow)] = &out[..] else { panic!("{out:?}") };
    assert!(ack.ack.is_some() && flow.flow.as_ref().is_some_and(|f| f.message_permits == 2), "{out:?}");
    // One of them is not taken: all of it comes again, after a while, with its room.
    effects(&mut world, Input::Message(wire, message(consumer, 6, Some(2), batch())));
    effects(&mut world, Input::Settled((1, 6), false));
    assert!(effects(&mut world, Input::Settled((1, 6), true)).is_empty());
    effects(&mut world, Input::Heard(wire));
    world.now += hand::AGAIN_AFTER;
    let out = effects(&mut world, Input::Time);
    let again = |e: &Effect| matches!(e, Effect::Send(_, c) if c.redeliver_unacknowledged_messages.is_some());
    assert!(out.iter().any(again), "{out:?}");
}

#[test]
fn an_acknowledgement_that_comes_after_its_consumer_waits_for_the_repetition() {
    let mut world = connected();
    world.append_command();
    world.deliver(10);
    let (_, before) = open(&world, Part::Commands);
    world.unload(Part::Commands, 0);
    // The new consumer is open, and what it gets is still under way.
    while !matches!(world.core.slot(Part::Commands).state, State::Open { id, .. } if id != before) {
        world.deliver(1);
        world.pass(100);
    }
    world.hands.clear();
    assert!(effects(&mut world, Input::Settled((1, 0), true)).is_empty());
    world.deliver(10);
    assert_eq!(world.hands, [(1, 0)], "the journal knows it, and it can be acknowledged now");
}

#[test]
fn a_broker_that_sends_more_than_it_was_asked_for_is_left() {
    let mut world = connected();
    let (wire, consumer) = open(&world, Part::Commands);
    for entry in 0..COMMANDS_MAX as u64 {
        let out = effects(&mut world, Input::Message(wire, message(consumer, entry, Some(1), Ok(vec![Bytes::new()]))));
        assert!(matches!(out[..], [Effect::Command(..)]));
    }
    let out = effects(&mut world, Input::Message(wire, message(consumer, 99, Some(1), Ok(vec![Bytes::new()]))));
    assert!(out.iter().any(|e| matches!(e, Effect::Failed(Some(Part::Commands), _))), "{out:?}");
}

#[test]
fn the_end_closes_what_is_open_and_answers_who_waits() {
    let mut world = connected();
    world.report();
    let mut out = Vec::new();
    world.core.close(&mut out);
    let count = |of: fn(&Effect) -> bool| out.iter().filter(|e| of(e)).count();
    assert_eq!(count(|e| matches!(e, Effect::Send(_, c) if c.close_consumer.is_some())), 2);
    assert_eq!(count(|e| matches!(e, Effect::Send(_, c) if c.close_producer.is_some())), 1);
    assert_eq!(count(|e| matches!(e, Effect::Finish(_))), 1);
    assert_eq!(count(|e| matches!(e, Effect::Answer(_, Err(_)))), 1);
}
