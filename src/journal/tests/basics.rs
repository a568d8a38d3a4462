//! What it does on a good day.

use super::*;

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
    let tidy = journal.tidy().unwrap();
    assert!(journal.tidy().is_none(), "one at a time");
    tidy.append(&[b"alive 1"]).unwrap();
    journal.append(&[b"meanwhile"]).unwrap();
    tidy.append(&[b"alive 2"]).unwrap();
    let finished = tidy.finish().unwrap();
    journal.durable(position).await.unwrap();
    journal.durable(finished).await.unwrap();
    let on_disk: u64 = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(on_disk < 400, "{on_disk}");
    assert!(journal.tidy().is_none());
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
