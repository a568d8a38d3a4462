//! The core against a simple model, with crashes at any point of what was written.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::journal::time_line::Reading;

const LIMITS: Limits = Limits { waiting_max: 3, bytes_max: 8000, payload_bytes_max: 1000 };

fn new(device: &str, id: &str, name: &str, bytes: usize) -> New {
    New {
        device: device.into(),
        id: id.into(),
        name: name.into(),
        content_type: None,
        payload: vec![b'x'; bytes].into(),
        expires_in: 1000,
    }
}

fn ids(core: &Core, now: Millis, device: &str, after: u64) -> Vec<String> {
    core.waiting(now, device, after).map(|c| c.id.to_string()).collect()
}

fn answer(core: &mut Core, now: Millis, device: &str, id: &str, status: Status) -> Claim {
    let claim = core.claim(device, id, &Outcome::plain(status));
    if let Claim::Report(subject, outcome) = &claim {
        core.end(now, subject, outcome);
        core.release(subject, false);
    }
    claim
}

#[test]
fn a_repetition_is_the_first_and_another_content_is_a_conflict() {
    let mut core = Core::new(LIMITS);
    let (added, record) = core.add(5, new("d", "a", "open", 1)).unwrap();
    let Added::New(first) = added else { panic!("{added:?}") };
    assert_eq!(record, Some(Record::Added(first.clone())));
    let later = New { expires_in: 7, ..new("d", "a", "open", 1) };
    assert_eq!(core.add(6, later).unwrap(), (Added::Repeated(State::Waiting(first)), None));
    assert!(matches!(core.add(6, new("d", "a", "open", 2)), Err(Refused::Conflict { .. })));
    assert!(matches!(core.add(6, new("e", "a", "open", 2)), Ok((Added::New(_), _))), "ids belong to a device");
    answer(&mut core, 7, "d", "a", Status::Failed);
    let (repeated, _) = core.add(8, new("d", "a", "open", 1)).unwrap();
    assert!(matches!(repeated, Added::Repeated(State::Closed(c)) if c.outcome.status == Status::Failed));
    assert!(matches!(core.add(8, new("d", "a", "shut", 1)), Err(Refused::Conflict { .. })));
}

#[test]
fn every_limit_refuses_and_what_is_over_makes_room() {
    let mut core = Core::new(LIMITS);
    assert!(matches!(core.add(0, new("d", "a", "n", 1001)), Err(Refused::TooLarge { bytes: 1001, max: 1000 })));
    for id in ["a", "b", "c"] {
        core.add(0, new("d", id, "n", 1000)).unwrap();
    }
    assert!(matches!(core.add(0, new("d", "e", "n", 1)), Err(Refused::DeviceFull { waiting: 3, max: 3, .. })));
    for device in ["e", "f", "g"] {
        core.add(0, new(device, "a", "n", 1000)).unwrap();
    }
    assert!(matches!(core.add(0, new("h", "a", "n", 1000)), Err(Refused::Full { max: 8000, .. })));
    assert!(matches!(core.configure(0, "h".into(), None, vec![0; 1000].into()), Err(Refused::Full { .. })));
    answer(&mut core, 1, "d", "a", Status::Done);
    core.add(2, new("h", "a", "n", 260)).unwrap();
    // Only by forgetting "d"'s "a" is there room.
    assert!(core.state("d", "a").is_some());
    core.configure(2, "h".into(), None, vec![0; 900].into()).unwrap();
    assert_eq!(core.state("d", "a"), None);
    assert!(core.counts().bytes <= LIMITS.bytes_max);
}

#[test]
fn an_order_per_device_and_a_place_to_go_on_from() {
    let mut core = Core::new(LIMITS);
    for (device, id) in [("d", "z"), ("e", "m"), ("d", "a"), ("d", "k")] {
        core.add(0, new(device, id, "n", 1)).unwrap();
    }
    assert_eq!(ids(&core, 1, "d", 0), ["z", "a", "k"]);
    assert_eq!(ids(&core, 1, "d", core.place("d", "z")), ["a", "k"]);
    answer(&mut core, 1, "d", "a", Status::Done);
    assert_eq!(ids(&core, 1, "d", core.place("d", "a")), ["k"], "an answered one is still a place");
    assert_eq!(ids(&core, 1, "d", core.place("d", "other")), ["z", "k"], "an unknown one is the beginning");
    assert_eq!(ids(&core, 1000, "d", 0), [""; 0], "expired, though not ended yet");
}

#[test]
fn the_first_answer_counts_however_many_come_at_once() {
    let mut core = Core::new(LIMITS);
    core.add(0, new("d", "a", "n", 1)).unwrap();
    let Claim::Report(subject, first) = core.claim("d", "a", &Outcome::plain(Status::Done)) else { panic!() };
    let Claim::Report(_, second) = core.claim("d", "a", &Outcome::plain(Status::Failed)) else { panic!() };
    assert_eq!((first.status, second.status), (Status::Done, Status::Done));
    assert!(core.tick(5000).is_empty(), "its answer is on the way");
    assert!(core.end(5001, &subject, &first).is_some());
    core.release(&subject, false);
    assert!(core.end(5002, &subject, &second).is_none());
    core.release(&subject, false);
    let Claim::Closed(closed) = core.claim("d", "a", &Outcome::plain(Status::Failed)) else { panic!() };
    assert_eq!((closed.outcome.status, closed.reported), (Status::Done, true));
}

#[test]
fn an_answer_that_was_not_stored_is_forgotten_unless_there_is_doubt() {
    let mut core = Core::new(LIMITS);
    core.add(0, new("d", "a", "n", 1)).unwrap();
    for (doubtful, expected) in [(false, Status::Failed), (true, Status::Done)] {
        let Claim::Report(subject, _) = core.claim("d", "a", &Outcome::plain(Status::Done)) else { panic!() };
        core.release(&subject, doubtful);
        let Claim::Report(subject, outcome) = core.claim("d", "a", &Outcome::plain(Status::Failed)) else { panic!() };
        assert_eq!(outcome.status, expected);
        core.release(&subject, false);
    }
}

#[test]
fn an_answer_after_the_end_counts_when_the_gateway_had_ended_it() {
    let mut core = Core::new(LIMITS);
    for id in ["a", "b"] {
        core.add(0, new("d", id, "n", 1)).unwrap();
    }
    core.cancel(1, "d", "a").unwrap();
    assert_eq!(core.cancel(1, "d", "a"), None);
    assert_eq!(core.tick(1000).len(), 1);
    assert_eq!(core.unreported(9).len(), 2);
    assert!(matches!(answer(&mut core, 2000, "d", "a", Status::Done), Claim::Report(..)));
    assert_eq!(core.unreported(9).iter().map(|c| &*c.id).collect::<Vec<_>>(), ["b"]);
    let b = core.unreported(1).remove(0);
    assert!(core.reported(&b).is_some());
    assert!(core.reported(&b).is_none());
    assert_eq!(answer(&mut core, 2000, "d", "nothing", Status::Done), Claim::Unknown);
}

#[test]
fn what_is_over_is_forgotten_by_age_and_number() {
    let limits = Limits { bytes_max: u64::MAX, ..LIMITS };
    let mut core = Core::new(limits);
    for n in 0..REMEMBERED_MAX + 5 {
        core.add(1, new("d", &n.to_string(), "n", 0)).unwrap();
        answer(&mut core, 1, "d", &n.to_string(), Status::Done);
    }
    core.tick(2);
    assert_eq!(core.counts().closed, REMEMBERED_MAX);
    assert_eq!(core.state("d", "4"), None);
    assert_eq!(core.next_deadline(), Some(1 + REMEMBERED_MS));
    core.tick(1 + REMEMBERED_MS);
    assert_eq!(core.counts(), Counts::default());
}

#[test]
fn what_was_published_is_known_after_a_restart_and_a_tidying() {
    let mut core = Core::new(LIMITS);
    let mut records = Vec::new();
    for id in ["a", "b", "c"] {
        records.extend(core.add(1, new("d", id, "open", 1)).unwrap().1);
    }
    let device: Arc<str> = "d".into();
    for id in ["a", "b"] {
        records.extend(core.published(&device, &id.into()));
    }
    assert_eq!(core.published(&device, &"a".into()), None, "once");
    records.extend(core.configure(1, device.clone(), None, Bytes::from_static(b"1")).unwrap().1);
    assert_eq!(core.config_published(&device, 2), None, "another version");
    records.extend(core.config_published(&device, 1));
    records.extend(core.cancel(2, "d", "b"));
    let (tidied, _) = core.tidy(None, usize::MAX);
    for records in [records.clone(), [records, tidied.clone()].concat(), tidied] {
        let mut again = Core::new(LIMITS);
        records.into_iter().for_each(|record| again.restore(record));
        assert_eq!(["a", "b", "c"].map(|id| again.is_published("d", id)), [true, false, false]);
        assert!(again.is_config_published("d"));
        again.configure(3, device.clone(), None, Bytes::from_static(b"2")).unwrap();
        assert!(!again.is_config_published("d"), "another one");
    }
}

#[test]
fn the_newest_configuration_wins_and_its_tag_changes_with_it() {
    let mut core = Core::new(LIMITS);
    let set = |core: &mut Core, text: &'static str| {
        core.configure(1, "d".into(), Some("text/plain".into()), Bytes::from_static(text.as_bytes())).unwrap()
    };
    let (first, record) = set(&mut core, "a");
    assert!(record.is_some());
    assert_eq!(set(&mut core, "a"), (first.clone(), None));
    let (second, _) = set(&mut core, "b");
    assert_eq!((first.version, second.version), (1, 2));
    assert_ne!(first.tag(), second.tag());
    assert_eq!(core.config("d"), Some(second));
    assert!(core.unconfigure("d").is_some());
    assert!(core.unconfigure("d").is_none());
    assert_eq!(core.counts(), Counts::default());
    // The version begins again; the tag tells other content apart nevertheless.
    assert_ne!(set(&mut core, "c").0.tag(), first.tag());
}

#[derive(Clone, Debug)]
enum Step {
    Add {
        device: u8,
        id: u8,
        name: u8,
        bytes: usize,
        expires_in: u64,
    },
    Answer {
        device: u8,
        id: u8,
        status: Status,
    },
    /// Stored upstream, then the process dies before the command is ended.
    AnswerLost {
        device: u8,
        id: u8,
    },
    Cancel {
        device: u8,
        id: u8,
    },
    Configure {
        device: u8,
        bytes: usize,
    },
    Unconfigure {
        device: u8,
    },
    Tick,
    Report,
    Pass(u64),
    /// kill -9 or a power cut: the last so many records that nobody waited for are lost.
    Crash {
        lost: usize,
    },
    /// In pieces, with something done after each; `finish`: what was before the first goes.
    Tidy {
        bytes_max: usize,
        between: Vec<Step>,
        finish: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let tidy = (1..1500_usize, proptest::collection::vec(change(), 0..8), any::<bool>());
    prop_oneof![
        20 => change(),
        2 => (0..4_usize).prop_map(|lost| Step::Crash { lost }),
        1 => tidy.prop_map(|(bytes_max, between, finish)| Step::Tidy { bytes_max, between, finish }),
    ]
}

fn change() -> impl Strategy<Value = Step> {
    let (device, id) = (0..3_u8, 0..5_u8);
    let status = prop_oneof![Just(Status::Done), Just(Status::Failed), Just(Status::Rejected)];
    prop_oneof![
        6 => (device.clone(), id.clone(), 0..2_u8, 0..900_usize, 1..60_u64)
            .prop_map(|(device, id, name, bytes, expires_in)| Step::Add { device, id, name, bytes, expires_in }),
        4 => (device.clone(), id.clone(), status).prop_map(|(device, id, status)| Step::Answer { device, id, status }),
        1 => (device.clone(), id.clone()).prop_map(|(device, id)| Step::AnswerLost { device, id }),
        1 => (device.clone(), id).prop_map(|(device, id)| Step::Cancel { device, id }),
        2 => (device.clone(), 0..900_usize).prop_map(|(device, bytes)| Step::Configure { device, bytes }),
        1 => device.prop_map(|device| Step::Unconfigure { device }),
        2 => Just(Step::Tick),
        2 => Just(Step::Report),
        2 => (1..40_u64).prop_map(Step::Pass),
    ]
}

/// What must be so, kept as simply as can be.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    /// (device, id) → (name, bytes, expires, order)
    waiting: BTreeMap<(String, String), (String, usize, u64, usize)>,
    closed: BTreeMap<(String, String), (Status, bool)>,
    configs: BTreeMap<String, (u64, usize)>,
}

impl Model {
    fn list(&self, device: &str, now: u64) -> Vec<String> {
        let mut mine: Vec<_> =
            self.waiting.iter().filter(|((d, _), (_, _, expires, _))| d == device && *expires > now).collect();
        mine.sort_by_key(|(_, (_, _, _, order))| *order);
        mine.into_iter().map(|((_, id), _)| id.clone()).collect()
    }
}

/// The core, the model, and every state the model was in since the last one that is surely on disk.
struct Run {
    core: Core,
    model: Model,
    /// Records written, each with the model after it.
    written: Vec<(Record, Model)>,
    now: u64,
    order: usize,
    /// So many of the records cannot be lost.
    durable: usize,
}

impl Run {
    fn new() -> Self {
        Self { core: Core::new(LIMITS), model: Model::default(), written: Vec::new(), now: 100, order: 0, durable: 0 }
    }

    fn wrote(&mut self, record: Record) {
        // Through the bytes, as the journal has it.
        let record = Record::decode(&record.encode()).unwrap();
        self.written.push((record, self.model.clone()));
    }

    fn add(&mut self, device: &str, id: &str, name: &str, bytes: usize, expires_in: u64) {
        let key = (device.to_owned(), id.to_owned());
        let result = self.core.add(self.now, New { expires_in, ..new(device, id, name, bytes) });
        if let Some((known_name, known_bytes, ..)) = self.model.waiting.get(&key) {
            let same = known_name == name && *known_bytes == bytes;
            assert_eq!(matches!(result, Ok((Added::Repeated(State::Waiting(_)), None))), same, "{result:?}");
            assert_eq!(matches!(result, Err(Refused::Conflict { .. })), !same, "{result:?}");
            return;
        }
        let waiting = self.model.waiting.keys().filter(|(d, _)| d == device).count();
        match result {
            Ok((Added::New(command), Some(record))) => {
                assert!(waiting < LIMITS.waiting_max);
                assert_eq!(command.expires, self.now + expires_in);
                self.order += 1;
                self.model.closed.remove(&key);
                self.model.waiting.insert(key, (name.into(), bytes, command.expires, self.order));
                self.wrote(record);
            }
            Ok((Added::Repeated(State::Closed(closed)), None)) => {
                assert_eq!(self.model.closed[&key].0, closed.outcome.status);
            }
            Err(Refused::Conflict { .. }) => assert!(self.model.closed.contains_key(&key)),
            Err(Refused::DeviceFull { .. }) => assert_eq!(waiting, LIMITS.waiting_max),
            Err(Refused::Full { bytes: held, .. }) => assert!(held + bytes as u64 + 300 > LIMITS.bytes_max),
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, device: &str, id: &str, status: Status, lost: bool) {
        let key = (device.to_owned(), id.to_owned());
        match self.core.claim(device, id, &Outcome::plain(status)) {
            Claim::Unknown => assert!(!self.model.waiting.contains_key(&key)),
            Claim::Closed(closed) => assert_eq!(self.model.closed[&key].0, closed.outcome.status),
            Claim::Report(subject, outcome) => {
                if lost {
                    self.core.release(&subject, true);
                    return;
                }
                let record = self.core.end(self.now, &subject, &outcome).unwrap();
                self.core.release(&subject, false);
                self.model.waiting.remove(&key);
                self.model.closed.insert(key, (outcome.status, true));
                self.wrote(record);
            }
        }
    }

    fn ended(&mut self, record: Record) {
        let Record::Ended { device, id, outcome, reported, .. } = &record else { panic!("{record:?}") };
        let key = (device.to_string(), id.to_string());
        let (_, _, expires, _) = self.model.waiting.remove(&key).unwrap();
        assert!(outcome.status == Status::Cancelled || expires <= self.now);
        self.model.closed.insert(key, (outcome.status, *reported));
        self.wrote(record);
    }

    fn configure(&mut self, device: &str, bytes: usize) {
        let before = self.model.configs.get(device).copied();
        match self.core.configure(self.now, device.into(), None, vec![1; bytes].into()) {
            Ok((config, None)) => assert_eq!(before, Some((config.version, bytes))),
            Ok((config, Some(record))) => {
                assert_eq!(config.version, before.map_or(1, |b| b.0 + 1));
                self.model.configs.insert(device.to_owned(), (config.version, bytes));
                self.wrote(record);
            }
            Err(Refused::Full { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }

    fn report(&mut self) {
        for closed in self.core.unreported(2) {
            let record = self.core.reported(&closed).unwrap();
            self.model.closed.get_mut(&(closed.device.to_string(), closed.id.to_string())).unwrap().1 = true;
            self.wrote(record);
        }
    }

    /// What is not surely on disk may be there or not, but a beginning of it always.
    fn crash(&mut self, lost: usize) {
        self.written.truncate(self.written.len().saturating_sub(lost).max(self.durable));
        self.core = Core::new(LIMITS);
        for (record, _) in &self.written {
            self.core.restore(record.clone());
        }
        self.core.restored(self.now);
        self.model = self.written.last().map(|(_, model)| model.clone()).unwrap_or_default();
    }

    fn tidy(&mut self, bytes_max: usize, between: &[Step], finish: bool) {
        let begin = self.written.len();
        let mut between = between.iter();
        let mut cursor = None;
        loop {
            let (records, next) = self.core.tidy(cursor.as_ref(), bytes_max);
            assert!(next.is_none() || !records.is_empty());
            records.into_iter().for_each(|record| self.wrote(record));
            cursor = next;
            if cursor.is_none() {
                break;
            }
            between.next().into_iter().for_each(|step| self.step(step));
        }
        if finish {
            // A crash must find nothing where nothing is alive, not what was before.
            self.wrote(Record::Time(Reading { line_ms: self.now, wall_ms: 0 }));
            self.written.drain(..begin);
            self.durable = self.written.len();
            let mut again = Core::new(LIMITS);
            self.written.iter().for_each(|(record, _)| again.restore(record.clone()));
            again.restored(self.now);
            // What is over may come back; it was forgotten for its place, and nothing depends on it.
            let alive = |c: Counts| (c.waiting, c.unreported, c.configs);
            assert_eq!(alive(again.counts()), alive(self.core.counts()));
        }
    }

    fn check(&self) {
        for device in ["d0", "d1", "d2"] {
            assert_eq!(ids(&self.core, self.now, device, 0), self.model.list(device, self.now));
            assert_eq!(
                self.core.config(device).map(|c| (c.version, c.payload.len())),
                self.model.configs.get(device).copied()
            );
        }
        let counts = self.core.counts();
        assert_eq!(counts.waiting, self.model.waiting.len());
        let unreported: BTreeSet<_> =
            self.model.closed.iter().filter(|(_, (_, reported))| !reported).map(|(key, _)| key.clone()).collect();
        assert_eq!(counts.unreported, unreported.len());
        for (device, id) in unreported {
            assert!(matches!(self.core.state(&device, &id), Some(State::Closed(c)) if !c.reported));
        }
        let costs = |d: &Device| {
            d.waiting.values().map(|c| c.cost()).sum::<u64>()
                + d.closed.values().map(|c| c.cost()).sum::<u64>()
                + d.config.as_ref().map_or(0, |c| c.cost())
        };
        assert_eq!(counts.bytes, self.core.devices.values().map(costs).sum::<u64>());
        assert!(self.core.devices.values().all(|d| !d.is_empty()));
        assert_eq!(self.core.remembered.len() + self.core.unreported.len(), counts.closed);
    }

    fn step(&mut self, step: &Step) {
        let name = |device: u8| format!("d{device}");
        match *step {
            Step::Add { device, id, name: command, bytes, expires_in } => {
                self.add(&name(device), &id.to_string(), &format!("n{command}"), bytes, expires_in);
            }
            Step::Answer { device, id, status } => self.answer(&name(device), &id.to_string(), status, false),
            Step::AnswerLost { device, id } => self.answer(&name(device), &id.to_string(), Status::Done, true),
            Step::Cancel { device, id } => {
                if let Some(record) = self.core.cancel(self.now, &name(device), &id.to_string()) {
                    self.ended(record);
                }
            }
            Step::Configure { device, bytes } => self.configure(&name(device), bytes),
            Step::Unconfigure { device } => {
                if let Some(record) = self.core.unconfigure(&name(device)) {
                    self.model.configs.remove(&name(device)).unwrap();
                    self.wrote(record);
                }
            }
            Step::Tick => {
                let records = self.core.tick(self.now);
                records.into_iter().for_each(|record| self.ended(record));
                assert!(self.model.waiting.values().all(|(_, _, expires, _)| *expires > self.now));
            }
            Step::Report => self.report(),
            Step::Pass(ms) => self.now += ms,
            Step::Crash { lost } => self.crash(lost),
            Step::Tidy { bytes_max, ref between, finish } => self.tidy(bytes_max, between, finish),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_core_does_what_the_model_does_across_crashes(steps in proptest::collection::vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
    }
}
