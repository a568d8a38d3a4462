//! The resume rule against a model of the broker. The model knows what was verified on a 4.0.7 broker: only the
//! lowest id of a batch is compared, with the highest pushed; what fails the comparison is dropped and
//! acknowledged when stored, and refused when its write is still open; a failed write takes all later ones
//! with it and sets "pushed" back; L is the highest pushed.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

use super::*;

/// Deliberate mistakes; the test below must find each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Batches from F on, and a dropped batch counts as stored.
    Straddle,
    /// What lies at or below L counts as stored.
    TrustLast,
    /// The cursor moves when the event is sent.
    ConfirmBeforeReceipt,
    /// After a disruption the lane goes on where it was.
    NoResend,
    /// A refused event that was overtaken counts as stored once the broker takes it for a duplicate.
    ForgetRefusal,
}

const PARTITIONS: usize = 3;
const LIMITS: Limits = Limits { batch_events: 4, batch_bytes: 60, window: 200 };

#[derive(Clone, Debug)]
enum Step {
    /// Events are accepted: their partition, their size, and how many sequences are given up before each.
    Accept(Vec<(usize, usize, u64)>),
    Send,
    Receive(usize),
    Persist(usize),
    /// All open writes of one partition fail.
    FailWrites(usize),
    /// The broker refuses what comes next (a limit, a checksum) and goes on with what follows.
    Refuse(usize),
    Deliver(usize),
    Cut,
    Connect,
    /// Kill -9 of the broker: this many open writes per partition had reached the disk.
    KillBroker(usize),
    /// Kill -9 of the edge: its cursor is as old as the last `Sync`.
    KillEdge,
    /// The cursor reaches the disk.
    Sync,
    /// The broker forgets the producer after it was away for long.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let p = 0..PARTITIONS;
    prop_oneof![
        6 => prop::collection::vec((p.clone(), 1usize..50, prop_oneof![9 => Just(0u64), 1 => 1u64..4]), 1..12)
            .prop_map(Step::Accept),
        8 => Just(Step::Send),
        16 => p.clone().prop_map(Step::Receive),
        14 => p.clone().prop_map(Step::Persist),
        1 => p.clone().prop_map(Step::FailWrites),
        14 => p.prop_map(Step::Deliver),
        2 => Just(Step::Cut),
        5 => Just(Step::Connect),
        1 => (0usize..5).prop_map(Step::KillBroker),
        1 => Just(Step::KillEdge),
        2 => Just(Step::Sync),
    ]
}

#[derive(Clone, Debug)]
struct Sent {
    lowest: Seq,
    events: Vec<Seq>,
    /// A receipt goes to the connection it was sent on, or nowhere.
    connection: u64,
}

enum Answer {
    Stored(Seq),
    Duplicate(Seq),
    Error,
    Refused(Seq),
}

#[derive(Default)]
struct Topic {
    pushed: Seq,
    persisted: Seq,
    open_writes: VecDeque<Sent>,
    log: Vec<Seq>,
    to_broker: VecDeque<Sent>,
    to_edge: VecDeque<Answer>,
    connection: u64,
}

impl Topic {
    fn receive(&mut self) {
        let Some(sent) = self.to_broker.pop_front() else { return };
        if sent.lowest > self.pushed {
            self.pushed = *sent.events.last().unwrap();
            self.open_writes.push_back(sent);
        } else if sent.lowest <= self.persisted {
            self.to_edge.push_back(Answer::Duplicate(sent.lowest));
        } else {
            self.to_edge.push_back(Answer::Error);
        }
    }

    fn refuse(&mut self) {
        if let Some(highest) = self.to_broker.pop_front().and_then(|sent| sent.events.last().copied()) {
            self.to_edge.push_back(Answer::Refused(highest));
        }
    }

    fn persist(&mut self) {
        let Some(sent) = self.open_writes.pop_front() else { return };
        self.persisted = *sent.events.last().unwrap();
        self.log.extend(&sent.events);
        if sent.connection == self.connection {
            self.to_edge.push_back(Answer::Stored(sent.lowest));
        }
    }

    fn fail_writes(&mut self) {
        self.open_writes.clear();
        self.pushed = self.persisted;
    }

    fn send(&mut self, events: Vec<Seq>) {
        self.to_broker.push_back(Sent { lowest: events[0], events, connection: self.connection });
    }

    fn disconnect(&mut self) {
        self.connection += 1;
        self.to_broker.clear();
        self.to_edge.clear();
    }
}

struct World {
    /// The outbox: sequence, partition, bytes.
    events: Vec<(Seq, usize, usize)>,
    last: Seq,
    cursor: Seq,
    durable_cursor: Seq,
    core: Resume,
    /// Next sequence to read.
    next: Seq,
    connected: bool,
    batches: Vec<Vec<Seq>>,
    topics: Vec<Topic>,
    forgot: bool,
    bug: Option<Bug>,
}

impl World {
    fn new(bug: Option<Bug>) -> Self {
        let mut core = Resume::new(0, LIMITS);
        core.bug = bug;
        Self {
            events: Vec::new(),
            last: 0,
            cursor: 0,
            durable_cursor: 0,
            core,
            next: 1,
            connected: false,
            batches: vec![Vec::new(); PARTITIONS],
            topics: (0..PARTITIONS).map(|_| Topic::default()).collect(),
            forgot: false,
            bug,
        }
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Accept(events) => {
                for (partition, bytes, gap) in events {
                    self.last += 1 + gap;
                    self.events.push((self.last, partition, bytes));
                }
            }
            Step::Send => self.send()?,
            Step::Receive(p) => self.topics[p].receive(),
            Step::Persist(p) => self.topics[p].persist(),
            Step::Refuse(p) => {
                self.topics[p].refuse();
                // What was sent behind it gets to the broker before the edge hears of it.
                (0..3).for_each(|_| self.topics[p].receive());
                while !self.topics[p].to_edge.is_empty() {
                    self.deliver(p)?;
                }
            }
            Step::FailWrites(p) => {
                self.topics[p].fail_writes();
                self.cut();
            }
            Step::Deliver(p) => self.deliver(p)?,
            Step::Cut => self.cut(),
            Step::Connect => self.connect()?,
            Step::KillBroker(reached) => {
                for topic in &mut self.topics {
                    (0..reached).for_each(|_| topic.persist());
                    topic.fail_writes();
                }
                self.cut();
            }
            Step::KillEdge => {
                self.cut();
                self.cursor = self.durable_cursor;
                self.core = Resume::new(self.cursor, LIMITS);
                self.core.bug = self.bug;
            }
            Step::Sync => self.durable_cursor = self.cursor,
            Step::Forget => {
                self.cut();
                for topic in &mut self.topics {
                    while !topic.open_writes.is_empty() {
                        topic.persist();
                    }
                    (topic.pushed, topic.persisted) = (0, 0);
                }
                self.forgot = true;
            }
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), TestCaseError> {
        if self.connected {
            return Ok(());
        }
        let last: Vec<_> = self.topics.iter().map(|t| Some(t.pushed).filter(|l| *l > 0)).collect();
        let mut effects = Vec::new();
        self.topics.iter_mut().for_each(Topic::disconnect);
        self.core.handle(Input::Opened { last: &last, last_durable: self.last }, &mut effects);
        self.next = self.core.next();
        self.connected = true;
        self.apply(effects)
    }

    fn cut(&mut self) {
        self.connected = false;
        self.topics.iter_mut().for_each(Topic::disconnect);
        self.batches.iter_mut().for_each(Vec::clear);
        self.core.handle(Input::Lost, &mut Vec::new());
    }

    fn send(&mut self) -> Result<(), TestCaseError> {
        if !self.connected {
            return Ok(());
        }
        let start = self.events.partition_point(|e| e.0 < self.next);
        for (seq, partition, bytes) in self.events.clone().split_off(start) {
            if !self.core.has_room(bytes) {
                break;
            }
            self.next = seq + 1;
            let mut effects = Vec::new();
            self.core.handle(Input::Event { seq, partition, bytes }, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Append { partition } => self.batches[partition].push(seq),
                    other => self.apply(vec![other])?,
                }
            }
            prop_assert!(self.core.outstanding_bytes() <= LIMITS.window.max(bytes));
        }
        let mut effects = Vec::new();
        self.core.handle(Input::Flush, &mut effects);
        self.apply(effects)
    }

    fn deliver(&mut self, p: usize) -> Result<(), TestCaseError> {
        let (seq, duplicate) = match self.topics[p].to_edge.pop_front() {
            None => return Ok(()),
            Some(Answer::Error) => {
                self.cut();
                return Ok(());
            }
            Some(Answer::Refused(seq)) => {
                self.core.handle(Input::Refused { partition: p, seq }, &mut Vec::new());
                self.cut();
                return Ok(());
            }
            Some(Answer::Stored(seq)) => (seq, false),
            Some(Answer::Duplicate(seq)) => (seq, true),
        };
        let mut effects = Vec::new();
        self.core.handle(Input::Receipt { partition: p, seq, duplicate }, &mut effects);
        self.apply(effects)?;
        if let Some(p) = self.core.wants_probe() {
            let last = Some(self.topics[p].pushed).filter(|l| *l > 0);
            let mut effects = Vec::new();
            self.core.handle(Input::Probed { partition: p, last }, &mut effects);
            prop_assert_eq!(effects, vec![Effect::Remembered]);
        }
        Ok(())
    }

    fn apply(&mut self, effects: Vec<Effect>) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Alone { partition, seq } => self.topics[partition].send(vec![seq]),
                Effect::Append { .. } => unreachable!("applied where the event is known"),
                Effect::Cut { partition, batch } => {
                    let events = std::mem::take(&mut self.batches[partition]);
                    prop_assert_eq!(batch.events, events.len());
                    prop_assert!(batch.events <= LIMITS.batch_events);
                    prop_assert_eq!(batch.lowest, events[0]);
                    self.topics[partition].send(events);
                }
                Effect::Confirm { through } => {
                    prop_assert!(through > self.cursor || self.bug.is_some(), "the cursor never goes back");
                    let missing = self.missing(through);
                    prop_assert!(missing.is_empty(), "{:?} confirmed and not stored", missing);
                    self.cursor = self.cursor.max(through);
                }
                Effect::Restart(_) => {
                    self.cut();
                    return Ok(());
                }
                Effect::Remembered => {}
                Effect::NotRemembered => prop_assert!(self.forgot, "false alarm"),
            }
        }
        Ok(())
    }

    fn missing(&self, through: Seq) -> Vec<Seq> {
        let stored = |seq: Seq, p: usize| self.topics[p].log.contains(&seq);
        self.events.iter().filter(|(seq, p, _)| *seq <= through && !stored(*seq, *p)).map(|e| e.0).collect()
    }

    /// All is well from now on: everything arrives within a bound, once and in order.
    fn settle(mut self) -> Result<(), TestCaseError> {
        for _ in 0..50 + 4 * self.events.len() {
            if self.cursor == self.last {
                break;
            }
            self.connect()?;
            self.send()?;
            for p in 0..PARTITIONS {
                for _ in 0..8 {
                    self.topics[p].receive();
                    self.topics[p].persist();
                }
                for _ in 0..8 {
                    self.deliver(p)?;
                }
            }
        }
        prop_assert_eq!(self.cursor, self.last, "not everything was confirmed");
        prop_assert_eq!(self.missing(self.last), Vec::<Seq>::new());
        for topic in &self.topics {
            let in_order = topic.log.windows(2).all(|w| w[0] < w[1]);
            prop_assert!(in_order || self.forgot, "twice or out of order: {:?}", topic.log);
        }
        Ok(())
    }
}

fn run(steps: Vec<Step>, bug: Option<Bug>) -> Result<(), TestCaseError> {
    let mut world = World::new(bug);
    for step in steps {
        world.take(step)?;
    }
    world.settle()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..200)
}

type Refusals = std::collections::BTreeMap<usize, usize>;

fn run_with_refusals(steps: Vec<Step>, refusals: Refusals, bug: Option<Bug>) -> Result<(), TestCaseError> {
    let mut world = World::new(bug);
    for (i, step) in steps.into_iter().filter(|s| !matches!(s, Step::KillEdge)).enumerate() {
        if let Some(p) = refusals.get(&i) {
            world.take(Step::Refuse(*p))?;
        }
        world.take(step)?;
    }
    Ok(())
}

fn refusals() -> impl Strategy<Value = Refusals> {
    prop::collection::btree_map(0usize..200, 0..PARTITIONS, 1..6)
}

proptest! {
    #![proptest_config(Config { cases: 3000, ..Config::default() })]

    #[test]
    fn every_event_arrives_once_and_in_order_whatever_happens(steps in steps()) {
        run(steps, None)?;
    }

    /// It may stop the lane, it must not lose: [`World::apply`] compares every confirmation with what is stored.
    /// Only where the refusal reaches the edge: one that is lost with its connection, or with the edge's memory,
    /// cannot be told from a duplicate afterwards (the issue on dead letters has to end this).
    #[test]
    fn what_was_refused_is_never_confirmed_as_a_duplicate(steps in steps(), refusals in refusals()) {
        run_with_refusals(steps, refusals, None)?;
    }

    #[test]
    fn a_forgetful_broker_costs_duplicates_and_no_event(mut steps in steps(), at in any::<prop::sample::Index>()) {
        let at = at.index(steps.len() + 1);
        steps.insert(at, Step::Forget);
        run(steps, None)?;
    }
}

#[test]
fn each_planted_bug_is_found() {
    for bug in [Bug::Straddle, Bug::TrustLast, Bug::ConfirmBeforeReceipt, Bug::NoResend] {
        let config = Config { cases: 3000, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let outcome = TestRunner::new(config).run(&steps(), |steps| run(steps, Some(bug)));
        assert!(matches!(outcome, Err(TestError::Fail(..))), "{bug:?} was not found");
    }
    let config = Config { cases: 3000, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let outcome = TestRunner::new(config)
        .run(&(steps(), refusals()), |(steps, at)| run_with_refusals(steps, at, Some(Bug::ForgetRefusal)));
    assert!(matches!(outcome, Err(TestError::Fail(..))), "a forgotten refusal was not found");
}

/// What one input leads to.
fn after(core: &mut Resume, input: Input<'_>) -> Vec<Effect> {
    let mut effects = Vec::new();
    core.handle(input, &mut effects);
    effects
}

#[test]
fn up_to_l_alone_and_beyond_it_in_batches() {
    let mut core = Resume::new(4, LIMITS);
    after(&mut core, Input::Opened { last: &[Some(6)], last_durable: 9 });
    assert_eq!(core.next(), 5);
    let mut seen = Vec::new();
    for seq in 5..=9 {
        core.handle(Input::Event { seq, partition: 0, bytes: 10 }, &mut seen);
    }
    let append = Effect::Append { partition: 0 };
    let alone = |seq| Effect::Alone { partition: 0, seq };
    assert_eq!(seen, [alone(5), alone(6), append.clone(), append.clone(), append]);
    assert_eq!(after(&mut core, Input::Flush), [], "two units wait already");
    after(&mut core, Input::Receipt { partition: 0, seq: 5, duplicate: true });
    let batch = Open { lowest: 7, highest: 9, events: 3, bytes: 30 };
    assert_eq!(after(&mut core, Input::Flush), [Effect::Cut { partition: 0, batch }]);
}

#[test]
fn a_dropped_batch_is_never_taken_for_stored() {
    let mut core = Resume::new(0, LIMITS);
    after(&mut core, Input::Opened { last: &[None], last_durable: 9 });
    for seq in 1..=2 {
        after(&mut core, Input::Event { seq, partition: 0, bytes: 10 });
    }
    after(&mut core, Input::Flush);
    let doubt = Doubt::BatchDropped { partition: 0, lowest: 1, highest: 2 };
    let answer = Input::Receipt { partition: 0, seq: 1, duplicate: true };
    assert_eq!(after(&mut core, answer), [Effect::Restart(doubt)]);
    assert_eq!(core.next(), 1);
}

#[test]
fn a_broker_that_knows_more_than_the_outbox_gets_nothing() {
    let mut core = Resume::new(4, LIMITS);
    let opened = Input::Opened { last: &[Some(3), Some(12)], last_durable: 11 };
    let doubt = Doubt::AheadOfOutbox { last: 12, last_durable: 11 };
    assert_eq!(after(&mut core, opened), [Effect::Restart(doubt)]);
}

#[test]
fn a_broker_that_remembers_nothing_is_noticed_by_one_probe() {
    let mut core = Resume::new(0, LIMITS);
    after(&mut core, Input::Opened { last: &[None, None], last_durable: 9 });
    after(&mut core, Input::Event { seq: 1, partition: 1, bytes: 10 });
    after(&mut core, Input::Flush);
    assert_eq!(core.wants_probe(), None);
    let stored = Input::Receipt { partition: 1, seq: 1, duplicate: false };
    assert_eq!(after(&mut core, stored), [Effect::Confirm { through: 1 }]);
    assert!(!core.has_room(1), "the probe comes first");
    assert_eq!(core.wants_probe(), Some(1));
    let answer = Input::Probed { partition: 1, last: None };
    assert_eq!(after(&mut core, answer), [Effect::NotRemembered]);
    assert!(core.has_room(1));
    assert_eq!(core.wants_probe(), None);
}

#[test]
fn an_answer_that_fits_nothing_is_a_doubt() {
    let mut core = Resume::new(0, LIMITS);
    after(&mut core, Input::Opened { last: &[None], last_durable: 9 });
    let stray = Input::Receipt { partition: 0, seq: 3, duplicate: false };
    assert!(matches!(after(&mut core, stray)[..], [Effect::Restart(Doubt::Unexpected { got: 3, expected: 0, .. })]));
    let nowhere = Input::Receipt { partition: 7, seq: 3, duplicate: false };
    assert!(matches!(after(&mut core, nowhere)[..], [Effect::Restart(Doubt::Unexpected { .. })]));
}
