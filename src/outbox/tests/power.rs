//! What a power cut may leave: every acknowledged block, and a mark that lags behind.

use super::*;

/// Removes what was not synced: the seals, and the mark since `last`.
fn cut_power(config: &EdgeConfig, last: Seq, confirmed: Seq) {
    for store in stores(config, "a") {
        let _ = fs::remove_file(store.join("seal"));
    }
    mark::as_after_a_power_cut(&config.node.data_dir.join("outbox/a"), last, confirmed);
}

#[tokio::test]
async fn a_commit_that_went_over_the_end_of_a_store_is_still_there() {
    let (_dir, mut config) = config(&["a"]);
    config.outbox.max_bytes = 16 << 20; // stores of 2 MiB
    let outbox = open(&config);
    let writer = outbox.writer("a").unwrap();
    writer.append(vec![ours("first")]).await.unwrap();
    let durable = writer.append((0..3000).map(|_| ours(vec![7; 1000])).collect()).await.unwrap();
    assert_eq!(durable.last, 3001);
    drop((outbox, writer));
    assert_eq!(stores(&config, "a").len(), 2, "the second commit fills one store and begins another");
    cut_power(&config, 0, 0);

    let outbox = open(&config);
    let mut reader = outbox.reader("a").unwrap();
    assert_eq!(reader.last_durable(), 3001);
    assert_eq!(read_all(&mut reader, 1).await.len(), 3001);
    assert_eq!(outbox.writer("a").unwrap().append(vec![ours("next")]).await.unwrap().first, 3002);
}

#[tokio::test]
async fn without_a_mark_and_without_a_store_no_sequence_is_used_again() {
    let (_dir, config) = config(&["a"]);
    let outbox = open(&config);
    let last = outbox.writer("a").unwrap().append(vec![ours("x"); 10]).await.unwrap().last;
    outbox.reader("a").unwrap().confirm(last);
    drop(outbox);
    // Drained, the store goes soon after the next start; then the mark is damaged.
    for store in stores(&config, "a") {
        fs::remove_dir_all(store).unwrap();
    }
    fs::write(config.node.data_dir.join("outbox/a/mark"), [0xff; 8192]).unwrap();
    let outbox = open(&config);
    let next = outbox.writer("a").unwrap().append(vec![ours("y")]).await.unwrap().first;
    assert!(next > last, "{next} was used before");
}
