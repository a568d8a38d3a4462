//! Disks that are full or refuse.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::*;
use crate::sys::sync_barrier::tests::REFUSED_INODE;

/// A file system of its own, unmounted at the end.
struct Mount(tempfile::TempDir);

impl Mount {
    /// `None` with the reason on standard error where this user may not mount.
    fn tmpfs(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tidegate-test"])
            .arg(dir.path())
            .output();
        match out {
            Ok(out) if out.status.success() => Some(Self(dir)),
            Ok(out) => {
                eprintln!("skipped: cannot mount a small tmpfs: {}", String::from_utf8_lossy(&out.stderr).trim());
                None
            }
            Err(e) => {
                eprintln!("skipped: cannot run mount: {e}");
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

fn batch() -> Vec<Event> {
    (0..100).map(|_| ours(vec![7; 1000])).collect()
}

async fn append_until_refused(writer: &Writer) -> (Seq, AppendError) {
    let mut last = 0;
    for _ in 0..10_000 {
        match writer.append(batch()).await {
            Ok(durable) => last = durable.last,
            Err(e) => return (last, e),
        }
    }
    panic!("the disk never became full");
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_before_it_is_full_and_drains() {
    let Some(mount) = Mount::tmpfs(24 << 20) else { return };
    let (_dir, mut config) = config(&["a"]);
    config.node.data_dir = mount.0.path().join("data");
    config.outbox.max_bytes = 64 << 20; // a sixteenth, 4 MiB, is kept free
    let outbox = open(&config);
    let (writer, mut reader) = (outbox.writer("a").unwrap(), outbox.reader("a").unwrap());
    let (last, error) = append_until_refused(&writer).await;
    assert!(matches!(&error, AppendError::Full { reason, .. } if reason.contains("kept free")), "{error}");
    assert!(last > 10_000 && files::free_bytes(mount.0.path()).unwrap() > 2 << 20);
    assert_eq!(read_all(&mut reader, 1).await.len() as u64, last);
    reader.confirm(last);
    assert!(writer.append(batch()).await.is_ok(), "what was drained makes room at once");
}

#[tokio::test]
async fn a_disk_that_others_filled_loses_nothing_and_the_lane_comes_back_by_itself() {
    let Some(mount) = Mount::tmpfs(32 << 20) else { return };
    let (_dir, mut config) = config(&["a"]);
    config.node.data_dir = mount.0.path().join("data");
    config.outbox.max_bytes = 1 << 30;
    let outbox = Outbox::open(&config, &Clock::system(), &Metrics::default()).unwrap();
    outbox.0.ground.budget.forget_watermark();
    let (writer, mut reader) = (outbox.writer("a").unwrap(), outbox.reader("a").unwrap());
    let hog = mount.0.path().join("hog");
    fs::write(&hog, vec![1; 20 << 20]).unwrap();
    let (last, error) = append_until_refused(&writer).await;
    assert!(matches!(&error, AppendError::Full { .. }), "{error}");
    assert!(last > 1000);
    for _ in 0..3 {
        assert!(writer.append(batch()).await.is_err());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(outbox.status()[0].last, last, "a failed commit is never acknowledged");
    assert_eq!(read_all(&mut reader, 1).await.len() as u64, last, "reading and confirming need no space");
    fs::remove_file(&hog).unwrap();
    let start = Instant::now();
    let durable = loop {
        match writer.append(batch()).await {
            Ok(durable) => break durable,
            Err(_) if start.elapsed() < Duration::from_secs(10) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(e) => panic!("still refusing: {e}"),
        }
    };
    assert_eq!(durable.first, last + 1);
    assert!(outbox.status()[0].refusing.is_none());
    assert_eq!(read_all(&mut reader, 1).await.len() as u64, durable.last);
    drop((outbox, reader, writer));
    let outbox = open(&config);
    let read = read_all(&mut outbox.reader("a").unwrap(), 1).await;
    assert!(read.iter().map(|r| r.0).eq(1..=durable.last), "after a restart");
}

#[tokio::test]
async fn a_start_on_a_full_disk_delivers_what_it_holds() {
    let Some(mount) = Mount::tmpfs(24 << 20) else { return };
    let (_dir, mut config) = config(&["a"]);
    config.node.data_dir = mount.0.path().join("data");
    config.outbox.durability = Durability::Disk;
    let outbox = open(&config);
    let last = outbox.writer("a").unwrap().append(batch()).await.unwrap().last;
    drop(outbox);
    let filler = mount.0.path().join("filler");
    let _ = fs::write(&filler, vec![0; 24 << 20]); // as much as fits
    let outbox = open(&config);
    let (writer, mut reader) = (outbox.writer("a").unwrap(), outbox.reader("a").unwrap());
    assert!(matches!(writer.append(batch()).await, Err(AppendError::Full { .. })));
    assert_eq!(read_all(&mut reader, 1).await.len() as u64, last);
    reader.confirm(last);
    fs::remove_file(filler).unwrap();
    let start = Instant::now();
    while let Err(e) = writer.append(batch()).await {
        assert!(start.elapsed() < Duration::from_secs(10), "still refusing: {e}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(outbox.status()[0].last, 2 * last);
}

#[tokio::test]
async fn a_refused_sync_is_never_acknowledged_and_its_store_never_written_again() {
    let (_dir, mut config) = config(&["a"]);
    config.outbox.durability = Durability::Disk;
    let outbox = open(&config);
    let (writer, mut reader) = (outbox.writer("a").unwrap(), outbox.reader("a").unwrap());
    for i in 1..=20 {
        assert_eq!(writer.append(vec![ours(format!("good {i}"))]).await.unwrap().first, i);
    }
    let store = stores(&config, "a").remove(0);
    let db = store.join(scan::FILE);
    REFUSED_INODE.store(fs::metadata(&db).unwrap().ino(), Ordering::Release);
    let error = writer.append(vec![ours("bad")]).await.unwrap_err();
    assert!(matches!(&error, AppendError::Disk { .. }), "{error}");
    assert!(outbox.status()[0].refusing.is_some());
    let len = fs::metadata(&db).unwrap().len();
    let start = Instant::now();
    let durable = loop {
        match writer.append(vec![ours("after")]).await {
            Ok(durable) => break durable,
            Err(_) if start.elapsed() < Duration::from_secs(10) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(e) => panic!("still refusing: {e}"),
        }
    };
    REFUSED_INODE.store(0, Ordering::Release);
    assert_eq!(durable.first, 21, "the refused event never was");
    assert_eq!(fs::metadata(&db).unwrap().len(), len);
    let live = read_all(&mut reader, 1).await;
    drop((outbox, reader, writer));
    fs::remove_file(store.join("seal")).unwrap(); // as if killed: now the block that was refused is in its file
    let outbox = open(&config);
    let again = read_all(&mut outbox.reader("a").unwrap(), 1).await;
    assert_eq!(live, again);
    assert_eq!((again.len(), &again[19].1[..], &again[20].1[..]), (21, &b"good 20"[..], &b"after"[..]));
}
