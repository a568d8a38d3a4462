//! Real files: the same as on the disk in memory, and kill -9 at any moment.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

#[test]
fn models_on_real_files_are_fetched_used_and_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let family = &FAMILIES[2];
    let (mut store, found) = Store::open(dir.path(), ROOMY).unwrap();
    assert_eq!(found, []);
    assert!(matches!(Store::open(dir.path(), ROOMY), Err(StoreError::InUse(_))));
    let current = dir.path().join("models/anomaly/current/model");
    assert_eq!(store.current_path(&name()), current);
    for version in [1, 2, 4] {
        let (proven, pieces) = fetch(&mut store, family, version).unwrap();
        assert!(pieces < family.iter().take(version as usize).map(|p| p.messages.len()).sum());
        store.activate(&proven).unwrap();
        assert_eq!(fs::read(&current).unwrap(), family[version as usize - 1].file);
    }
    drop(store);
    let (mut store, found) = Store::open(dir.path(), ROOMY).unwrap();
    assert_eq!(found, []);
    assert_eq!(store.rollback(&name(), &trust()).unwrap(), 2);
    assert_eq!(fs::read(&current).unwrap(), family[1].file);
    let names: Vec<_> =
        fs::read_dir(dir.path().join("models/anomaly")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "three versions, the record and the link: {names:?}");
}

const CHILD_DIR: &str = "TIDEGATE_TEST_MODELS_DIR";
const ROUNDS: u64 = 60;

fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes()).unwrap();
}

/// The child: not a test of its own. Fetches and activates one version after the other, until it is killed.
#[test]
#[ignore = "the child process of kill_9_at_any_moment_leaves_a_whole_model"]
fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let family = &FAMILIES[7];
    let (mut store, _) = Store::open(Path::new(&dir), ROOMY).unwrap();
    for round in 0..100_000 {
        for version in 1..=4 {
            let begun = begin(&mut store, &family[version as usize - 1], &all(family)).unwrap();
            let Some(mut assembling) = begun else {
                let proven = store.verify(&name(), version, &trust()).unwrap();
                store.activate(&proven).unwrap();
                say(&format!("A {version}"));
                continue;
            };
            for (pack, place) in lacking(&assembling) {
                say(&format!("F {version} {pack} {place}"));
                assembling.write(&piece(family, pack, place)).unwrap();
                assembling.commit().unwrap();
                say(&format!("C {version} {pack} {place}"));
            }
            let proven = store.finish(assembling).unwrap();
            store.activate(&proven).unwrap();
            say(&format!("A {version}"));
        }
        if round == 0 {
            say("all");
        }
    }
}

/// What it said until it was killed.
fn run_child(dir: &Path, life: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "models::tests::store::files::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told = |line: &String| ["F ", "C ", "A "].iter().any(|start| line.starts_with(start));
    let mut said: Vec<String> = out.by_ref().find(told).into_iter().collect();
    std::thread::sleep(life);
    child.kill().unwrap(); // SIGKILL
    let mut lines: Vec<String> = out.collect();
    lines.pop(); // the last one may be cut
    said.extend(lines.into_iter().filter(told));
    child.wait().unwrap();
    said
}

#[test]
fn kill_9_at_any_moment_leaves_a_whole_model() {
    let dir = tempfile::tempdir().unwrap();
    let family = &FAMILIES[7];
    let current = dir.path().join("models/anomaly/current/model");
    let (mut activated, mut fetched, mut committed, mut again) = (0, 0, BTreeSet::new(), 0);
    for round in 0..ROUNDS {
        if round % 6 == 0 {
            // From the beginning.
            let _ = fs::remove_dir_all(dir.path().join("models"));
            committed.clear();
            activated = 0;
        }
        for line in run_child(dir.path(), Duration::from_micros(round * 997 % 20_000)) {
            match line.split_once(' ').unwrap() {
                ("A", version) => activated = version.parse().unwrap(),
                ("C", place) => drop(committed.insert(place.to_owned())),
                (_, place) => {
                    fetched += 1;
                    again += usize::from(committed.contains(place));
                }
            }
        }
        let seen = fs::read(&current).ok();
        let whole = |seen: &Vec<u8>| family.iter().any(|published| published.file == *seen);
        assert!(seen.as_ref().map_or(activated == 0, whole), "round {round}, after {activated}");
    }
    assert_eq!(again, 0, "of {fetched} pieces fetched, committed ones were fetched again");
    // On a machine that is busy they do little.
    assert!(fetched > 0, "the children did nothing");
}
