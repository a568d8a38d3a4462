//! What it does on a good day.

use std::time::Duration;

use super::*;
use crate::journal::segment::faults;

#[tokio::test]
async fn what_was_appended_comes_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for start in 0..4u8 {
        let (journal, records) = open(dir.path(), small());
        assert_eq!(records, (0..start * 3).map(|i| vec![i]).collect::<Vec<_>>());
        let records: Vec<Vec<u8>> = (start * 3..start * 3 + 3).map(|i| vec![i]).collect();
        let position = journal.append(&records).unwrap();
        journal.written(position).await.unwrap();
        journal.durable(position).await.unwrap();
        assert!(journal.durable_now() >= position);
        journal.close().await;
        assert_eq!(journal.append(&[b"late"]), Err(AppendError::Closed));
    }
}

#[tokio::test]
async fn a_tidying_leaves_what_is_alive_and_what_came_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    let record = vec![b'x'; 1000];
    let mut position = Position::default();
    while !journal.progress().borrow().tidy_due {
        position = journal.append(&[&record]).unwrap();
        journal.written(position).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(journal.tidy_due().await);
    let tidy = journal.tidy(0).unwrap();
    assert!(journal.tidy(0).is_none(), "one at a time");
    tidy.append(&[b"alive 1"]).unwrap();
    journal.append(&[b"meanwhile"]).unwrap();
    tidy.append(&[b"alive 2"]).unwrap();
    let finished = tidy.finish().unwrap();
    journal.durable(position).await.unwrap();
    journal.durable(finished).await.unwrap();
    let on_disk: u64 = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(on_disk < 400, "{on_disk}");
    assert!(journal.tidy(0).is_none());
    journal.close().await;
    let (_, records) = open(dir.path(), small());
    assert_eq!(records, [&b"alive 1"[..], b"meanwhile", b"alive 2"]);
}

#[tokio::test]
async fn a_directory_has_one_owner_until_the_thread_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    let again = Journal::open(dir.path(), small(), meter(), |_| {});
    assert!(matches!(again, Err(OpenError::InUse { .. })));
    journal.close().await;
    open(dir.path(), small());
}

#[tokio::test]
async fn what_nobody_waits_for_is_synced_within_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    let position = journal.append(&[b"record"]).unwrap();
    let start = std::time::Instant::now();
    let mut progress = journal.progress();
    progress.wait_for(|p| p.durable >= position).await.unwrap();
    let took = start.elapsed().as_millis();
    assert!((500..3000).contains(&took), "{took} ms");
}

#[tokio::test]
async fn an_idle_journal_sleeps_also_while_somebody_tidies_slowly() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    let looks = |journal: &Journal| journal.0.shared.lock().looks;
    let position = journal.append(&[b"record"]).unwrap();
    journal.durable(position).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1300)).await; // a note is written after a second
    let before = looks(&journal);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(looks(&journal), before);

    faults::refuse(dir.path(), 0, 1);
    let position = journal.append(&[b"record"]).unwrap();
    assert!(journal.durable(position).await.is_err());
    assert!(journal.tidy_due().await);
    let tidy = journal.tidy(0).unwrap();
    let position = tidy.append(&[b"record"]).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = looks(&journal);
    assert!(tokio::time::timeout(Duration::from_millis(1500), journal.written(position)).await.is_err());
    assert_eq!(looks(&journal), before);
    journal.durable(tidy.finish().unwrap()).await.unwrap();
}

#[tokio::test]
async fn waiting_can_be_given_up_and_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), small());
    for _ in 0..100 {
        let position = journal.append(&[b"record"]).unwrap();
        drop(tokio::time::timeout(Duration::ZERO, journal.durable(position)).await);
        drop(tokio::time::timeout(Duration::from_micros(50), journal.durable(position)).await);
        journal.durable(position).await.unwrap();
    }
}

#[tokio::test]
async fn its_numbers_are_in_the_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::default();
    let journal = Journal::open(dir.path(), small(), Meters::new(&metrics).of("mqtt"), |_| {}).unwrap();
    let position = journal.append(&[[7; 100]]).unwrap();
    journal.durable(position).await.unwrap();
    journal.close().await;
    let text = metrics.text().unwrap();
    for line in [
        "tidegate_journal_written_bytes_total{journal=\"mqtt\"} 116",
        "tidegate_journal_sync_seconds_count{journal=\"mqtt\"} 1",
        "tidegate_journal_disk_bytes{journal=\"mqtt\"} 196", // and the note of the end,
        "tidegate_journal_tidyings_total{journal=\"mqtt\"} 0",
        "tidegate_journal_errors_total{journal=\"mqtt\"} 0",
        "tidegate_journal_failing{journal=\"mqtt\"} 0",
        "tidegate_journal_damaged_total{journal=\"mqtt\"} 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
