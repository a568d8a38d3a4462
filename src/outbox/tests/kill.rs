//! kill -9 of a process that appends, at random moments.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

/// Set for the child process only: where its data lies.
const CHILD_DIR: &str = "TIDEGATE_TEST_KILL_DIR";
const ROUNDS: u64 = 40;
const WRITERS: u64 = 8;

/// A repeatable sequence of random-looking numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn child_config(dir: &Path) -> EdgeConfig {
    let mut config = EdgeConfig::default();
    config.node.data_dir = dir.to_owned();
    config.lanes[0].name = "a".to_owned();
    // Small stores, so that kills meet the change from one to the next; in memory no limit is near.
    config.outbox.max_bytes = 1 << 30;
    config
}

/// What event `index` of batch `count` of `writer` says; a few are too large for one value.
fn content(round: u64, writer: u64, count: u64, index: u64) -> Bytes {
    let mut dice = Dice(round ^ (writer << 40) ^ (count << 8) ^ index);
    dice.roll(2);
    let len = if dice.roll(50) == 0 { 20_000 + dice.roll(60_000) } else { dice.roll(400) };
    let mut text = format!("{round} {writer} {count} {index} ");
    text.extend((0..len).map(|i| char::from(b'a' + u8::try_from(i % 26).unwrap_or(0))));
    text.into()
}

/// The child: not a test of its own. Appends for ever and says so on standard output, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child process of kill_9_loses_nothing"]
async fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let (dir, round) = dir.rsplit_once('#').unwrap();
    let round: u64 = round.parse().unwrap();
    let outbox = open(&child_config(Path::new(dir)));
    let say = |line: String| std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    let tasks = tasks::Tasks::new();
    for w in 0..WRITERS {
        let writer = outbox.writer("a").unwrap();
        tasks.spawn("writer", async move {
            let mut dice = Dice(round * 100 + w);
            for count in 0.. {
                let events = 1 + dice.roll(6);
                let batch = (0..events).map(|i| ours(content(round, w, count, i))).collect();
                let durable = writer.append(batch).await?;
                say(format!("\nA {w} {count} {events} {}\n", durable.first));
            }
            Ok::<_, AppendError>(())
        });
    }
    let mut reader = outbox.reader("a").unwrap();
    let mut next = reader.first_unconfirmed();
    loop {
        let read = reader.read(next, 50_000).await.unwrap();
        next = read.last().unwrap().seq + 1;
        // Lags behind, so that most events are still there to be checked.
        if let Some(through) = next.checked_sub(2000) {
            say(format!("\nC {through}\n"));
            reader.confirm(through);
        }
    }
}

/// Runs the child for about `life`, kills it, and returns what it said.
fn run_child(dir: &Path, round: u64, life: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "outbox::tests::kill::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, format!("{}#{round}", dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let lines = tasks::thread("child-output", move || {
        out.lines().map_while(Result::ok).filter(|l| l.starts_with("A ") || l.starts_with("C ")).collect()
    })
    .unwrap();
    std::thread::sleep(life);
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    lines.join().unwrap()
}

#[tokio::test]
async fn kill_9_loses_nothing_and_leaves_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let seed = u64::from_str_radix(&crate::sys::random::hex16(), 16).unwrap();
    let mut dice = Dice(seed);
    let mut acknowledged: BTreeMap<Seq, Bytes> = BTreeMap::new();
    let mut confirmed = 0;
    for round in 0..ROUNDS {
        let life = Duration::from_millis(60 + dice.roll(350));
        for line in run_child(dir.path(), round, life) {
            let fields: Vec<u64> = line.split(' ').skip(1).map_while(|f| f.parse().ok()).collect();
            match fields[..] {
                [through] => confirmed = confirmed.max(through),
                [w, count, events, first] => {
                    for i in 0..events {
                        let before = acknowledged.insert(first + i, content(round, w, count, i));
                        assert!(before.is_none(), "seed {seed}: sequence {} was given twice", first + i);
                    }
                }
                _ => panic!("seed {seed}: {line}"),
            }
        }
        if round % 3 != 2 && round + 1 != ROUNDS {
            continue; // let the child itself meet what the kill left
        }
        let outbox = open(&child_config(dir.path()));
        let mut reader = outbox.reader("a").unwrap();
        let from = reader.first_unconfirmed();
        assert!(from <= confirmed + 1, "seed {seed}: the cursor is at {from}, the child confirmed {confirmed}");
        let stored = read_all(&mut reader, from).await;
        let last = acknowledged.keys().next_back().copied().unwrap_or(0);
        assert!(reader.last_durable() >= last, "seed {seed}: {last} was acknowledged");
        assert!(stored.iter().map(|s| s.0).eq(from..=reader.last_durable()), "seed {seed}: there is a gap");
        for (seq, data) in &stored {
            assert!(acknowledged.get(seq).is_none_or(|a| a == data), "seed {seed}: event {seq} is not what was sent");
        }
        assert!(notes::read_ledger(&dir.path().join("outbox/a")).is_empty(), "seed {seed}");
        acknowledged.retain(|seq, _| *seq >= from);
    }
    assert!(confirmed > 0 && acknowledged.len() > 100, "the children did something");
}
