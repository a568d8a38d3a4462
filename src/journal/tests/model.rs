//! Against a model: whatever happens in whatever order, what comes back after a crash is the state after some number of
//! changes, and at least all those whose durability was answered. Nothing is invented, nothing comes twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::journal::frame::HEADER_LEN;
use crate::journal::segment::{self, faults};

const KEYS: u8 = 6;

/// What a change sets its key to; `None`: removed. Numbers are not used twice.
type Change = (u8, Option<u32>);
type Alive = BTreeMap<u8, u32>;

/// Of 65,536.
type Part = u16;

/// As good as all of them.
const ALL: Part = Part::MAX;

fn part_of(part: Part, whole: usize) -> usize {
    whole * usize::from(part) / 65_536
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(u8, bool)>, usize),
    Durable,
    Written,
    /// Everything alive is written anew, with changes between the pieces; finished or given up.
    Tidy(Vec<(u8, bool)>, bool),
    /// Closed and opened.
    Restart,
    /// kill -9 and a power cut: of what was not synced, this much is left, and maybe a byte of it is wrong.
    Kill(Part, Option<(Part, u8)>),
    /// After so many calls the disk refuses so many.
    Refuse(u32, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changes = || prop::collection::vec((0..KEYS, prop::bool::weighted(0.8)), 1..5);
    let size = prop_oneof![8 => 1..50usize, 1 => 10_000..30_000usize];
    let flip = prop::option::of((any::<Part>(), 1..=255u8));
    let step = prop_oneof![
        10 => (changes(), size).prop_map(|(c, s)| Step::Append(c, s)),
        4 => Just(Step::Durable),
        3 => Just(Step::Written),
        3 => (changes(), prop::bool::weighted(0.8)).prop_map(|(c, f)| Step::Tidy(c, f)),
        1 => Just(Step::Restart),
        3 => (any::<Part>(), flip).prop_map(|(i, f)| Step::Kill(i, f)),
        1 => Just(Step::Kill(ALL, None)),
        1 => (0..6u32, 1..4u32).prop_map(|(g, b)| Step::Refuse(g, b)),
    ];
    prop::collection::vec(step, 1..60)
}

fn record(key: u8, value: Option<u32>, size: usize) -> Vec<u8> {
    let mut out = vec![key];
    out.extend(value.unwrap_or(0).to_le_bytes());
    out.extend((0..size as u32).map(|i| (i.wrapping_mul(31) ^ value.unwrap_or(7)) as u8));
    out
}

/// `None`: nobody wrote this.
fn read(bytes: &[u8]) -> Option<Change> {
    let (head, _) = bytes.split_at_checked(5)?;
    let value = Some(u32::from_le_bytes(head[1..].try_into().ok()?)).filter(|v| *v > 0);
    (record(head[0], value, bytes.len() - 5) == bytes).then_some((head[0], value))
}

fn fold(changes: &[Change]) -> Alive {
    let mut alive = Alive::new();
    for (key, value) in changes {
        match value {
            Some(value) => drop(alive.insert(*key, *value)),
            None => drop(alive.remove(key)),
        }
    }
    alive
}

struct Run {
    dir: PathBuf,
    settings: Settings,
    journal: Journal,
    changes: Vec<Change>,
    /// So many of them were answered.
    answered: usize,
    /// So many were said to be written.
    written: usize,
    /// The last append that was taken, and how many changes there were after it.
    last: (Position, usize),
    next: u32,
    /// The header of a segment in the making was torn: that cannot be told from damage.
    torn_header: bool,
}

impl Run {
    fn append(&mut self, changes: &[(u8, bool)], size: usize) {
        let mut records = Vec::new();
        for (key, set) in changes {
            self.next += 1;
            let value = set.then_some(self.next);
            self.changes.push((*key, value));
            records.push(record(*key, value, size));
        }
        if let Ok(position) = self.journal.append(&records) {
            self.last = (position, self.changes.len());
        }
    }

    /// While nobody tidies a journal that fails, waiting ends with its reason.
    async fn wait_durable(&mut self) {
        let (position, changes) = self.last;
        if self.journal.durable(position).await.is_ok() {
            self.answered = self.answered.max(changes);
        }
    }

    /// One attempt; `true`: everything alive is durable in new segments.
    async fn tidy(&mut self, meanwhile: &[(u8, bool)], finish: bool) -> bool {
        self.journal.0.shared.lock().damaged = true; // due at any time
        let Some(tidy) = self.journal.tidy(0) else { return false };
        for key in 0..KEYS {
            if let Some(value) = fold(&self.changes).get(&key)
                && tidy.append(&[record(key, Some(*value), 9)]).is_err()
            {
                return false;
            }
            if let Some(change) = meanwhile.get(usize::from(key)) {
                self.append(&[*change], 5);
            }
        }
        if !finish {
            return false;
        }
        let changes = self.changes.len();
        let Ok(position) = tidy.finish() else { return false };
        self.last = (position, changes);
        let done = self.journal.durable(position).await.is_ok();
        self.torn_header &= !done;
        self.answered = if done { self.answered.max(changes) } else { self.answered };
        done
    }

    /// Ends the thread as a crash does, and takes from the disk what was not synced.
    async fn kill(&mut self, cut: Part, flip: Option<(Part, u8)>) {
        {
            let mut state = self.journal.0.shared.lock();
            state.killed = true;
        }
        self.journal.close().await;
        let (numbers, _) = segment::list(&self.dir).unwrap();
        for number in numbers {
            let path = self.dir.join(segment::name(number));
            let bytes = fs::read(&path).unwrap();
            let synced = faults::synced_len(&path) as usize;
            let mut left = bytes[..synced + part_of(cut, bytes.len() - synced + 1)].to_vec();
            if let Some((place, flip)) = flip
                && left.len() > synced
            {
                let at = synced + part_of(place, left.len() - synced);
                left[at] ^= flip;
                self.torn_header |= at < HEADER_LEN && left.len() > HEADER_LEN;
            }
            fs::write(&path, left).unwrap();
        }
    }

    /// `kept`: so many changes must be there.
    async fn reopen(&mut self, kept: usize) -> Result<(), TestCaseError> {
        self.journal.close().await;
        faults::refuse(&self.dir, 0, 0);
        let mut restored = Vec::new();
        let mut foreign = 0;
        self.journal = Journal::open(&self.dir, self.settings.clone(), meter(), |bytes| match read(bytes) {
            Some(change) => restored.push(change),
            None => foreign += 1,
        })
        .unwrap();
        prop_assert_eq!(foreign, 0, "nothing is invented");
        prop_assert!(self.torn_header || !self.journal.0.shared.lock().damaged, "a torn end is not damage");
        let alive = fold(&restored);
        let fits = (kept..=self.changes.len()).rev().find(|n| fold(&self.changes[..*n]) == alive);
        prop_assert!(
            fits.is_some(),
            "after {kept} of {} changes were answered, the state is {alive:?}, and should be {:?} or a later one",
            self.changes.len(),
            fold(&self.changes[..kept])
        );
        self.changes.truncate(fits.unwrap_or(0));
        self.written = 0;
        self.last = (Position::default(), 0);
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append(changes, size) => self.append(changes, *size),
            Step::Durable => self.wait_durable().await,
            Step::Written => {
                if self.journal.written(self.last.0).await.is_ok() {
                    self.written = self.written.max(self.last.1);
                }
            }
            Step::Tidy(meanwhile, finish) => drop(self.tidy(meanwhile, *finish).await),
            Step::Restart => {
                self.journal.close().await;
                if self.journal.durable(self.last.0).await.is_ok() {
                    self.answered = self.answered.max(self.last.1);
                }
                self.reopen(self.answered).await?;
            }
            Step::Kill(cut, flip) => {
                self.kill(*cut, *flip).await;
                // Without a power cut the kernel has it.
                let kept = if (*cut, *flip) == (ALL, None) { self.written } else { 0 };
                self.reopen(kept.max(self.answered)).await?;
            }
            Step::Refuse(good, bad) => faults::refuse(&self.dir, *good, *bad),
        }
        let on_disk: u64 =
            fs::read_dir(&self.dir).unwrap().flatten().map(|e| e.metadata().map_or(0, |m| m.len())).sum();
        prop_assert!(on_disk <= self.settings.total_bytes_max + 64 * HEADERS, "{on_disk} bytes on disk");
        Ok(())
    }

    /// With a disk that works again it takes and answers, and all changes come back.
    async fn ends_well(&mut self) -> Result<(), TestCaseError> {
        faults::refuse(&self.dir, 0, 0);
        let start = Instant::now();
        while !self.tidy(&[], true).await {
            prop_assert!(start.elapsed().as_secs() < 10, "it does not recover");
            tokio::task::yield_now().await;
        }
        self.append(&[(0, true)], 10);
        prop_assert_eq!(self.journal.durable(self.last.0).await, Ok(()));
        self.answered = self.changes.len();
        self.kill(if self.settings.durable { 0 } else { ALL }, None).await;
        self.reopen(self.answered).await
    }
}

/// Headers come on top of what is counted before it is appended.
const HEADERS: u64 = 64;

fn play(steps: &[Step], settings: Settings) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let memory = Path::new("/dev/shm"); // the test says what is synced, so the disk need not
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    runtime.block_on(async {
        let (journal, _) = open(dir.path(), settings.clone());
        let (dir, last) = (dir.path().to_owned(), (Position::default(), 0));
        let mut run = Run {
            dir,
            settings,
            journal,
            changes: Vec::new(),
            answered: 0,
            written: 0,
            last,
            next: 0,
            torn_header: false,
        };
        for step in steps {
            run.step(step).await?;
        }
        run.ends_well().await
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(400), max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_crash_leaves_a_state_that_was_and_holds_all_that_was_answered(steps in steps()) {
        play(&steps, small())?;
    }

    /// Nothing is synced but at a tidying: what was answered is with the kernel.
    #[test]
    fn without_syncs_every_kill_does_too(steps in steps()) {
        let without_power_cuts: Vec<Step> =
            steps.into_iter().map(|s| if matches!(s, Step::Kill(..)) { Step::Kill(ALL, None) } else { s }).collect();
        play(&without_power_cuts, Settings { durable: false, ..small() })?;
    }
}

/// `PROPTEST_CASES=20000 cargo test --lib journal` for a night.
fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}
