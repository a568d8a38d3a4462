//! Stores that were damaged while the gateway was off.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::*;

const EVENTS: u64 = 300;

fn data(i: u64) -> Bytes {
    format!("{i}:{}", "x".repeat(usize::try_from(i * 31 % 900).unwrap_or(0))).into()
}

/// An outbox with [`EVENTS`] events in one store, stopped; `clean`: with everything a clean stop leaves.
async fn stopped(clean: bool) -> (tempfile::TempDir, EdgeConfig) {
    let (dir, config) = config(&["a"]);
    let outbox = open(&config);
    let writer = outbox.writer("a").unwrap();
    for i in 1..=EVENTS {
        writer.append(vec![ours(data(i))]).await.unwrap();
    }
    drop(outbox);
    if !clean {
        fs::remove_file(stores(&config, "a")[0].join("seal")).unwrap();
    }
    (dir, config)
}

/// Opens, reads all, appends one, and checks that what is there is what was written, that the rest is in the
/// ledger, and that no sequence is used again. Returns how many events were lost.
async fn check(config: &EdgeConfig, what: &str) -> u64 {
    let outbox = open(config);
    let first = outbox.writer("a").unwrap().append(vec![ours("next")]).await.unwrap().first;
    assert!(first > EVENTS, "{what}: sequence {first} is used again");
    let mut read = read_all(&mut outbox.reader("a").unwrap(), 1).await;
    assert_eq!(read.pop(), Some((first, Bytes::from("next"))), "{what}");
    for (seq, found) in &read {
        assert_eq!(*found, data(*seq), "{what}");
    }
    let lane = config.node.data_dir.join("outbox/a");
    let lost: u64 = notes::read_ledger(&lane).iter().map(|l| l.last - l.first + 1).sum();
    assert_eq!(read.len() as u64 + lost, first - 1, "{what}: {:?}", notes::read_ledger(&lane));
    assert_eq!(outbox.status()[0].backlog_events, read.len() as u64 + 1, "{what}");
    drop(outbox);
    // The second start finds nothing new.
    let outbox = open(config);
    assert_eq!(read_all(&mut outbox.reader("a").unwrap(), 1).await.len(), read.len() + 1, "{what}, second start");
    let again: u64 = notes::read_ledger(&lane).iter().map(|l| l.last - l.first + 1).sum();
    assert_eq!(again, lost, "{what}, second start");
    EVENTS - read.len() as u64
}

#[tokio::test]
async fn any_flipped_byte_costs_at_most_the_block_it_hits() {
    let mut hit = 0;
    for step in 0..24_u64 {
        let (_dir, config) = stopped(step % 2 == 0).await;
        let path = stores(&config, "a")[0].join("db");
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let at = file.metadata().unwrap().len() * step / 24 + step;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
        let lost = check(&config, &format!("byte {at} flipped")).await;
        assert!(lost <= 1, "byte {at} cost {lost} events");
        hit += lost;
    }
    assert!(hit > 5, "most bytes are events' bytes");
}

#[tokio::test]
async fn a_cut_a_zeroed_and_a_missing_store_are_survived_and_their_numbers_never_used_again() {
    for clean in [true, false] {
        for part in 0..5 {
            let (_dir, config) = stopped(clean).await;
            let path = stores(&config, "a")[0].join("db");
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            let len = file.metadata().unwrap().len();
            file.set_len(len * part / 5).unwrap();
            let lost = check(&config, &format!("cut to {part}/5, clean {clean}")).await;
            assert!(lost > 0);
        }
        let (_dir, config) = stopped(clean).await;
        let path = stores(&config, "a")[0].join("db");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 4096], 20_000).unwrap();
        let lost = check(&config, "a zeroed page").await;
        assert!((1..40).contains(&lost), "{lost}");
        let (_dir, config) = stopped(clean).await;
        fs::remove_dir_all(&stores(&config, "a")[0]).unwrap();
        assert_eq!(check(&config, "the whole store is gone").await, EVENTS);
    }
}

/// After a power cut the mark may be old, so it cannot tell what a damaged store held: the reserve does.
#[tokio::test]
async fn without_a_mark_the_reserve_keeps_numbers_from_being_used_again() {
    for damage in ["cut", "missing", "emptied"] {
        let (_dir, config) = stopped(false).await;
        let store = &stores(&config, "a")[0];
        fs::remove_file(store.with_file_name("mark")).unwrap();
        match damage {
            "cut" => OpenOptions::new().write(true).open(store.join("db")).unwrap().set_len(30_000).unwrap(),
            "emptied" => OpenOptions::new().write(true).open(store.join("db")).unwrap().set_len(0).unwrap(),
            _ => fs::remove_file(store.join("db")).unwrap(),
        }
        check(&config, damage).await;
    }
}

#[tokio::test]
async fn a_store_that_is_damaged_while_it_is_read_is_passed_over_and_entered() {
    let (_dir, config) = stopped(true).await;
    let outbox = open(&config);
    let mut reader = outbox.reader("a").unwrap();
    assert_eq!(reader.read(1, 100).await.unwrap()[0].seq, 1);
    let store = &stores(&config, "a")[0];
    OpenOptions::new().write(true).open(store.join("db")).unwrap().set_len(1000).unwrap();
    assert!(reader.read(200, 300_000).await.is_err(), "its index says there is something");
    outbox.writer("a").unwrap().append(vec![ours("after")]).await.unwrap();
    assert_eq!(reader.read(200, 100).await.unwrap()[0].seq, EVENTS + 1, "the index is made again");
    let lost = notes::read_ledger(&config.node.data_dir.join("outbox/a"));
    assert_eq!((lost[0].first, lost[0].last), (200, EVENTS));
    // What was read before stays unconfirmed; the hole is passed when it is reached.
    reader.confirm(199);
    assert_eq!(reader.first_unconfirmed(), EVENTS + 1);
}

/// Why stores are read without sled: it takes the first message that it cannot read for the end of its log and
/// overwrites what follows.
#[tokio::test]
async fn sled_itself_would_destroy_what_follows_a_flipped_byte() {
    let (_dir, config) = stopped(true).await;
    let store = stores(&config, "a")[0].clone();
    let tag = notes::Identity::open(&config.node.data_dir.join(DIR)).unwrap().tag("a");
    let count = || scan::Index::build(&store, tag).unwrap().heads().count() as u64;
    assert_eq!(count(), EVENTS);
    let file = OpenOptions::new().read(true).write(true).open(store.join("db")).unwrap();
    let at = file.metadata().unwrap().len() / 3;
    file.write_all_at(b"!", at).unwrap();
    assert!(count() >= EVENTS - 1);
    let opened = std::panic::catch_unwind(|| sled::Config::new().path(&store).flush_every_ms(None).open().map(drop));
    assert!(!matches!(opened, Ok(Ok(()))) || count() < EVENTS / 2, "sled mended itself: {} blocks left", count());
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_for_now_is_no_damage() {
    let (_dir, config) = stopped(false).await;
    let db = stores(&config, "a")[0].join("db");
    // Stands for "no permission" and "too many open files", which a test's user may not have: a link to itself.
    fs::rename(&db, db.with_extension("away")).unwrap();
    std::os::unix::fs::symlink(&db, &db).unwrap();
    let error = Outbox::open(&config, &Clock::system(), &Metrics::default()).err().unwrap();
    assert!(error.0.contains("cannot read") && error.0.contains("the store"), "{error}");
    fs::rename(db.with_extension("away"), &db).unwrap();
    assert_eq!(check(&config, "opened again").await, 0);
}
