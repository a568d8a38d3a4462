//! Disks that are full or refuse, and too much to hold.

use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::journal::segment::faults;

/// A file system of its own, unmounted at the end.
struct Mount(tempfile::TempDir);

impl Mount {
    /// `None` with the reason on standard error where this user may not mount.
    fn tmpfs(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let out = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tidegate-test"]).arg(dir.path()).output();
        match out {
            Ok(out) if out.status.success() => Some(Self(dir)),
            Ok(out) => {
                eprintln!("SKIPPED: cannot mount a small tmpfs: {}", String::from_utf8_lossy(&out.stderr).trim());
                None
            }
            Err(e) => {
                eprintln!("SKIPPED: cannot run mount: {e}");
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Writes everything alive anew, as often as it takes; how long that took.
async fn recover(journal: &Journal, alive: &[Vec<u8>]) -> Duration {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not recover: {:?}", journal.progress().borrow());
        let due = tokio::time::timeout(Duration::from_secs(10), journal.tidy_due()).await;
        assert_eq!(due, Ok(true));
        let Some(tidy) = journal.tidy(0) else { continue };
        if alive.iter().any(|r| tidy.append(&[r]).is_err()) {
            continue;
        }
        let Ok(position) = tidy.finish() else { continue };
        if journal.durable(position).await.is_ok() {
            return start.elapsed();
        }
    }
}

/// Appends one after the other until one is not taken; those that are durable, and why the last is not.
async fn fill(journal: &Journal) -> (Vec<Vec<u8>>, String) {
    let mut taken = Vec::new();
    loop {
        let record = vec![taken.len() as u8; 10_000];
        let durable = match journal.append(&[&record]) {
            Ok(position) => journal.durable(position).await.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        match durable {
            Ok(()) => taken.push(record),
            Err(e) => return (taken, e),
        }
    }
}

fn vast() -> Settings {
    Settings { durable: true, segment_bytes_max: 1 << 20, total_bytes_max: 64 << 20 }
}

#[tokio::test]
async fn on_a_disk_smaller_than_its_total_it_leaves_the_space_that_a_rewriting_needs() {
    let Some(mount) = Mount::tmpfs(1 << 20) else { return };
    let dir = mount.0.path().join("journal");
    let (journal, _) = open(&dir, vast());
    for _ in 0..10 {
        let (taken, reason) = fill(&journal).await;
        assert!(reason.contains("the disk has"), "{reason}");
        assert!((10..35).contains(&taken.len()), "{}", taken.len());
        recover(&journal, &taken[..10]).await;
    }
    journal.close().await;
    assert_eq!(open(&dir, vast()).1.len(), 10);
}

#[tokio::test]
async fn a_disk_that_others_filled_loses_nothing_and_is_used_again_once_they_leave() {
    let Some(mount) = Mount::tmpfs(2 << 20) else { return };
    let dir = mount.0.path().join("journal");
    let (journal, _) = open(&dir, vast());
    let first = journal.append(&[b"first"]).unwrap();
    journal.durable(first).await.unwrap();
    let hog = mount.0.path().join("hog");
    fs::write(&hog, vec![0; 1_900_000]).unwrap();
    let (taken, reason) = fill(&journal).await;
    assert!(reason.contains("No space left on device"), "{reason}");
    assert!(taken.len() > 3 && journal.durable(first).await.is_ok());
    assert!(matches!(journal.append(&[b"x"]), Err(AppendError::Failing { .. })));
    journal.close().await;
    drop(journal);

    // The start needs no space.
    let (journal, mut alive) = open(&dir, vast());
    assert_eq!(alive[1..=taken.len()], taken, "all that was answered");
    assert!(alive.len() <= taken.len() + 2);
    let late = vec![8; 10_000];
    let refused = match journal.append(&[&late]) {
        Ok(position) => journal.durable(position).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    alive.push(late);
    let tending = recover(&journal, &alive);
    let freeing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fs::remove_file(&hog).unwrap();
        Instant::now()
    };
    let (_, freed) = tokio::join!(tending, freeing);
    assert!(freed.elapsed() < Duration::from_secs(5), "{:?}", freed.elapsed());
    journal.close().await;
    assert_eq!(open(&dir, vast()).1, alive);
}

#[tokio::test]
async fn a_refused_sync_is_told_to_all_who_wait_and_never_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    let good = journal.append(&[b"good"]).unwrap();
    journal.durable(good).await.unwrap();
    faults::refuse(dir.path(), 1, 1); // the write succeeds, the sync does not
    let bad = journal.append(&[b"bad"]).unwrap();
    let (a, b) = tokio::join!(journal.durable(bad), journal.durable(bad));
    let reason = a.unwrap_err().to_string();
    assert!(reason.contains("refuses this Sync"), "{reason}");
    assert_eq!(b.unwrap_err().to_string(), reason);
    assert_eq!(faults::refusals_left(dir.path()), 0);
    journal.durable(good).await.unwrap();
    assert!(matches!(journal.append(&[b"more"]), Err(AppendError::Failing { .. })));

    recover(&journal, &[b"good".to_vec(), b"bad".to_vec(), b"more".to_vec()]).await;
    journal.durable(bad).await.unwrap();
    journal.written(bad).await.unwrap();
    journal.close().await;
    let (_, records) = open(dir.path(), small());
    assert_eq!(records, [&b"good"[..], b"bad", b"more"]);
}

#[tokio::test]
async fn more_than_the_disk_share_is_refused_until_everything_alive_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    let record = vec![1; 10_000];
    let error = loop {
        match journal.append(&[&record]) {
            Ok(position) => journal.durable(position).await.unwrap(),
            Err(e) => break e,
        }
    };
    assert!(matches!(&error, AppendError::OverShare { .. }) && error.to_string().contains("a third of its total"));
    let last = journal.durable_now();
    recover(&journal, std::slice::from_ref(&record)).await;
    assert!(journal.durable_now() > last);
    let position = journal.append(&[&record]).unwrap();
    journal.durable(position).await.unwrap();
}

#[tokio::test]
async fn the_queue_is_bounded_and_a_record_too() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { durable: false, segment_bytes_max: 64 << 20, total_bytes_max: 1 << 30 };
    let (journal, _) = open(dir.path(), settings);
    assert!(matches!(journal.append(&[vec![0; RECORD_BYTES_MAX + 1]]), Err(AppendError::Length { .. })));
    assert!(matches!(journal.append(&[b""]), Err(AppendError::Length { bytes: 0, .. })));
    let position = journal.append(&[vec![0; RECORD_BYTES_MAX]]).unwrap(); // one alone may be larger than the queue
    journal.durable(position).await.unwrap();

    let state = journal.0.shared.lock(); // the thread cannot take anything
    let other = journal.clone();
    let filling = tasks::thread("filler", move || {
        let record = vec![0; 1 << 20];
        let mut taken = 0;
        loop {
            match other.append(&[&record]) {
                Ok(_) => taken += 1,
                Err(e) => return (taken, e),
            }
        }
    });
    drop(state);
    let (_, error) = filling.unwrap().join().unwrap();
    assert!(matches!(&error, AppendError::Full { .. }), "{error}");
    recover(&journal, &[b"alive".to_vec()]).await;
    journal.close().await;
}

#[tokio::test]
async fn a_tidying_that_was_overtaken_by_a_failure_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    journal.0.shared.lock().damaged = true; // due
    let tidy = journal.tidy(0).unwrap();
    faults::refuse(dir.path(), 0, 1);
    let position = tidy.append(&[b"piece"]).unwrap();
    assert!(journal.durable(position).await.is_err());
    assert!(matches!(tidy.append(&[b"piece"]), Err(AppendError::Failing { .. })));
    recover(&journal, &[b"alive".to_vec()]).await;
    assert_eq!(tidy.append(&[b"piece"]), Err(AppendError::Superseded));
    drop(tidy);
    journal.close().await;
    let (_, records) = open(dir.path(), small());
    assert_eq!(records, [b"alive"]);
}

#[tokio::test]
async fn who_waits_for_room_leaves_some_of_the_share_to_who_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    let record = vec![1; 1000];
    let mut taken = 0;
    while journal.has_room() {
        let position = journal.append(&[&record]).unwrap();
        journal.durable(position).await.unwrap();
        taken += 1;
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), journal.room()).await.is_err());
    assert!(journal.progress().borrow().tidy_due, "a tidying makes room again");
    for _ in 0..taken / 4 {
        journal.append(&[&record]).unwrap();
    }
    // The bytes of a tidying are taken from its beginning.
    let expected = journal.share() * 9 / 10;
    let tidy = journal.tidy(expected).unwrap();
    assert!(!journal.has_room());
    tidy.room().await;
    tidy.append(&[&record]).unwrap();
    let finished = tidy.finish().unwrap();
    let ((), done) = tokio::join!(journal.room(), journal.durable(finished));
    done.unwrap();
    assert!(journal.has_room() && journal.trouble().is_none());
}

/// As the broker uses it: half of the share is alive, everybody who can wait does, and somebody tidies.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_back_pressure_no_append_is_ever_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    let alive = (journal.share() / 2 / 1016) as usize;
    let state = Arc::new(Mutex::new(vec![vec![0; 1000]; alive]));
    let set = |journal: &Journal, state: &Mutex<Vec<Vec<u8>>>, key: usize, n: u8| {
        let mut state = state.lock().unwrap();
        state[key] = vec![n; 1000];
        journal.append(&[&state[key]])
    };
    let tidier = async {
        loop {
            journal.tidy_due().await;
            let Some(tidy) = journal.tidy((alive * 1016) as u64) else { continue };
            for key in 0..alive {
                {
                    let state = state.lock().unwrap();
                    tidy.append(&[&state[key]]).unwrap();
                }
                tidy.room().await;
                tokio::task::yield_now().await;
            }
            journal.durable(tidy.finish().unwrap()).await.unwrap();
        }
    };
    let writers = (0..8_usize).map(|writer| {
        let (journal, state) = (journal.clone(), state.clone());
        async move {
            for n in 0..500_usize {
                journal.room().await;
                let position = set(&journal, &state, (writer * 31 + n * 7) % alive, n as u8).unwrap();
                if n % 16 == 0 {
                    journal.durable(position).await.unwrap();
                }
            }
        }
    });
    tokio::select! {
        () = tidier => {}
        _ = futures_util::future::join_all(writers) => {}
    }
    assert_eq!(journal.0.shared.meter.errors.get(), 0);
    assert!(journal.0.shared.meter.tidyings.get() > 10, "{:?}", journal.0.shared.meter.tidyings);
}

#[tokio::test]
async fn trouble_lasts_until_everything_alive_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    faults::refuse(dir.path(), 0, 1);
    let position = journal.append(&[b"bad"]).unwrap();
    assert!(journal.durable(position).await.is_err());
    assert!(journal.trouble().is_some_and(|reason| reason.contains("refuses this")));
    assert_eq!(journal.0.shared.meter.failing.get(), 1);
    assert!(journal.has_room(), "nobody waits for it: the append says why");
    recover(&journal, &[b"alive".to_vec()]).await;
    assert_eq!((journal.trouble(), journal.0.shared.meter.failing.get()), (None, 0));
}
