//! Real files: damage is found, and kill -9 at any moment leaves a configuration that can be loaded.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;

use super::{nth, place_of};
use crate::downlink::trial::slots::{DOCUMENT_BYTES_MAX, SlotError, Slots};
use crate::downlink::trial::{
    Action, Assigned, Digest, Found, Input, Machine, Number, Place, Policy, Record, Slot, Status,
};

fn document(number: u64) -> (Digest, Vec<u8>) {
    let mut digest = [7; 32];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    // Of different lengths, so that the end of a longer one would be seen.
    (digest, format!("number = {number}\n").repeat(1 + (number % 97) as usize * 40).into_bytes())
}

#[test]
fn an_empty_directory_is_a_gateway_without_documents() {
    let dir = tempfile::tempdir().unwrap();
    let slots = Slots::open(&dir.path().join("config")).unwrap();
    assert_eq!(slots.find().unwrap(), Found { record: Ok(None), slots: [None, None] });
    assert!(matches!(slots.read(Slot::A, &[0; 32]), Err(SlotError::Io { .. })));
}

#[test]
fn what_is_written_is_read_until_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let slots = Slots::open(dir.path()).unwrap();
    let ((one, text), (two, other)) = (document(3), document(4));
    slots.write(Slot::A, 3.into(), one, &text).unwrap();
    assert_eq!(slots.find().unwrap().record, Ok(Some(Record::default())), "a slot without a record is a loss");
    slots.write(Slot::B, Number::new(1, 4), two, &other).unwrap();
    // What a cut left.
    fs::write(dir.path().join("slot-a.new"), b"half of").unwrap();
    assert_eq!(slots.read(Slot::A, &one).unwrap(), text);
    assert!(matches!(slots.read(Slot::A, &two), Err(SlotError::Other(_))));
    slots.write(Slot::A, Number::new(2, 5), two, &other).unwrap();
    let found = slots.find().unwrap().slots.map(|stored| stored.map(|stored| stored.number));
    assert_eq!(found, [Some(Number::new(2, 5)), Some(Number::new(1, 4))]);
    let record = Record { settled: Number::new(2, 5), ..Record::default() };
    slots.persist(&record).unwrap();
    assert_eq!(slots.find().unwrap().record, Ok(Some(record)));
}

#[test]
fn a_document_over_the_limit_is_neither_written_nor_read() {
    let dir = tempfile::tempdir().unwrap();
    let slots = Slots::open(dir.path()).unwrap();
    let largest = vec![b'#'; DOCUMENT_BYTES_MAX];
    slots.write(Slot::A, Number::new(u64::MAX, u64::MAX), [1; 32], &largest).unwrap();
    assert_eq!(slots.read(Slot::A, &[1; 32]).unwrap(), largest);
    assert!(slots.write(Slot::A, 1.into(), [1; 32], &[&largest[..], b"#"].concat()).is_err());
    fs::write(dir.path().join("slot-b"), vec![b'x'; 4 * DOCUMENT_BYTES_MAX]).unwrap();
    assert!(matches!(slots.read(Slot::B, &[1; 32]), Err(SlotError::Damaged(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_slot_with_any_byte_altered_or_missing_is_damaged(at in any::<prop::sample::Index>(), flip in 1..=255u8, noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::open(dir.path()).unwrap();
        let (digest, text) = document(12);
        slots.write(Slot::B, nth(12), digest, &text[..100]).unwrap();
        let path = dir.path().join("slot-b");
        let whole = fs::read(&path).unwrap();
        let mut altered = whole.clone();
        *at.get_mut(&mut altered) ^= flip;
        for bytes in [&altered[..], &whole[..at.index(whole.len())], &noise] {
            fs::write(&path, bytes).unwrap();
            prop_assert!(matches!(slots.read(Slot::B, &digest), Err(SlotError::Damaged(_))));
        }
    }
}

const CHILD_DIR: &str = "TIDEGATE_TEST_TRIAL_DIR";
const ROUNDS: u64 = 60;

/// Every third document cannot be applied.
fn works(number: u64) -> bool {
    !number.is_multiple_of(3)
}

fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes()).unwrap();
}

/// The child: not a test of its own. Tries one document after the other on real files, until it is killed.
#[test]
#[ignore = "the child process of kill_9_at_any_moment_leaves_what_can_be_loaded"]
fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let slots = Slots::open(Path::new(&dir)).unwrap();
    let (mut machine, mut actions) = Machine::start(Policy::default(), &slots.find().unwrap(), 0);
    for _ in 0..1_000_000 {
        if actions.is_empty() {
            assert_eq!(machine.status(), Status::Settled);
            let (committed, settled) =
                (place_of(machine.record().committed.number), place_of(machine.record().settled));
            say(&format!("C {committed} {settled}"));
            let digest = Some(document(settled + 1).0);
            actions = machine.handle(0, Input::Offered(Assigned { number: nth(settled + 1), digest }));
        }
        for action in std::mem::take(&mut actions) {
            for input in answer(&slots, action) {
                actions.extend(machine.handle(0, input));
            }
        }
    }
}

fn answer(slots: &Slots, action: Action) -> Vec<Input> {
    match action {
        Action::WriteSlot { slot, number, digest } => {
            slots.write(slot, number, digest, &document(place_of(number)).1).unwrap();
            vec![Input::SlotWritten { number }]
        }
        Action::Persist { write, record } => {
            slots.persist(&record).unwrap();
            vec![Input::Persisted { write }]
        }
        Action::Apply { generation, place: Place::Slot { slot, digest } } => {
            let number = u64::from_le_bytes(digest[..8].try_into().unwrap());
            assert_eq!(slots.read(slot, &digest).unwrap(), document(number).1);
            if !works(number) {
                return vec![Input::NotApplied { generation, detail: "not this one".into() }];
            }
            vec![Input::Applied { generation }, Input::Connected { generation }]
        }
        Action::Apply { generation, place: Place::Local } => {
            vec![Input::Applied { generation }, Input::Connected { generation }]
        }
        Action::Probe { probe } => vec![Input::ProbeAcknowledged { probe }],
        Action::CheckHealth { check } => vec![Input::Healthy { check }],
        Action::Report(report) => vec![Input::ReportAcknowledged { seq: report.seq }],
        // The committed one has its link, or nothing has been lost for so long.
        Action::Look { .. } => Vec::new(),
    }
}

/// What it said was committed, and decided.
fn run_child(dir: &Path, life: Duration) -> Vec<(u64, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "downlink::trial::tests::disk::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut said: Vec<String> = out.by_ref().find(|l| l.starts_with("C ")).into_iter().collect();
    std::thread::sleep(life);
    child.kill().unwrap(); // SIGKILL
    said.extend(out);
    child.wait().unwrap();
    // The last line may be cut.
    let ended = said.len().saturating_sub(1);
    let settled = said.iter().take(ended).filter_map(|l| l.strip_prefix("C "));
    settled.filter_map(|l| l.split_once(' ')).map(|(c, s)| (c.parse().unwrap(), s.parse().unwrap())).collect()
}

#[test]
fn kill_9_at_any_moment_leaves_what_can_be_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let slots = Slots::open(dir.path()).unwrap();
    let (mut committed, mut settled, mut trials) = (0, 0, 0);
    for round in 0..ROUNDS {
        for (c, s) in run_child(dir.path(), Duration::from_micros(round * 997 % 30_000)) {
            (committed, settled) = (committed.max(c), settled.max(s));
        }
        let found = slots.find().unwrap();
        let record = found.record.clone().unwrap().unwrap_or_default();
        trials += u64::from(record.candidate.is_some());
        let is = (place_of(record.committed.number), place_of(record.settled));
        assert!(is.0 == 0 || works(is.0));
        assert!(is.0 >= committed && is.1 >= settled, "round {round}: {record:?}");
        let (_, actions) = Machine::start(Policy::default(), &found, 0);
        // Counted before it is loaded, or loaded.
        for action in &actions {
            if let Action::Apply { place: Place::Slot { slot, digest }, .. } = action {
                assert!(slots.read(*slot, digest).is_ok(), "round {round}: {action:?}");
            }
        }
        assert!(!actions.is_empty());
        let told: Vec<Number> = record.reports.iter().map(|r| r.number).collect();
        assert!(told.iter().all(|n| *n <= record.settled), "{told:?}");
    }
    assert!(settled > 0 && trials > 0, "the children did something: {settled}, killed in a trial: {trials}");
}
