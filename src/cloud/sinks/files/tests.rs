//! The files of a lane across every kind of sudden end.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;

struct Lane {
    dir: tempfile::TempDir,
    config: FilesSink,
    clock: Clock,
    hand: Arc<AtomicI64>,
}

impl Lane {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = FilesSink { dir: dir.path().to_owned(), ..FilesSink::default() };
        let (clock, hand) = Clock::set_to(1_795_413_600_500); // 2026-11-23T06:00:00.5Z
        Self { dir, config, clock, hand }
    }

    fn open(&self) -> (LaneFiles, Option<Vec<u8>>) {
        LaneFiles::open(&self.config, "lane", &self.clock).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path().join("lane"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n != state::FILE)
            .collect();
        names.sort();
        names
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("lane").join(name)
    }

    /// All files, decompressed, in order.
    fn content(&self) -> String {
        let all = self.names().into_iter().flat_map(|n| zstd::decode_all(File::open(self.path(&n)).unwrap()).unwrap());
        String::from_utf8(all.collect()).unwrap()
    }
}

/// A commit of one line after which the process dies.
fn stored(lane: &Lane, line: &str) {
    let (mut files, _) = lane.open();
    files.write(line.as_bytes()).unwrap();
    files.commit(line.as_bytes()).unwrap();
}

#[test]
fn what_is_committed_is_read_back_with_its_snapshot() {
    let lane = Lane::new();
    assert_eq!(lane.open().1, None);
    stored(&lane, "one\n");
    stored(&lane, "two\n");
    assert_eq!(lane.content(), "one\ntwo\n");
    assert_eq!(lane.open().1.unwrap(), b"two\n");
    assert_eq!(lane.names(), ["2026-11-23T06-00-00Z-000001.ndjson.zst.partial"]);
}

#[test]
fn a_file_cut_anywhere_beyond_its_commit_comes_back_to_it() {
    let lane = Lane::new();
    stored(&lane, "one\n");
    let path = lane.path(&lane.names()[0]);
    let committed = fs::read(&path).unwrap();
    let (mut files, _) = lane.open();
    files.write(&b"never acknowledged\n".repeat(10_000)).unwrap();
    files.end_frame().unwrap();
    let longer = fs::read(&path).unwrap();
    assert!(longer.len() > committed.len() && longer.starts_with(&committed));
    drop(files);
    for length in committed.len()..=longer.len() {
        fs::write(&path, &longer[..length]).unwrap();
        let (_, snapshot) = lane.open();
        assert_eq!(fs::read(&path).unwrap(), committed, "cut at {length}");
        assert_eq!(snapshot.unwrap(), b"one\n");
    }
    stored(&lane, "two\n");
    assert_eq!(lane.content(), "one\ntwo\n");
}

#[test]
fn a_state_from_before_a_commit_takes_the_file_back_with_it() {
    let lane = Lane::new();
    stored(&lane, "one\n");
    let before = fs::read(lane.path(state::FILE)).unwrap();
    stored(&lane, "two\n");
    fs::write(lane.path(state::FILE), before).unwrap();
    assert_eq!(lane.open().1.unwrap(), b"one\n");
    assert_eq!(lane.content(), "one\n");
}

#[test]
fn a_file_without_a_commit_is_removed() {
    let lane = Lane::new();
    let (mut files, _) = lane.open();
    files.write(b"never acknowledged\n").unwrap();
    drop(files);
    assert_eq!(lane.names().len(), 1);
    drop(lane.open());
    assert_eq!(lane.names().len(), 0);
}

#[test]
fn a_full_file_gets_its_name_and_the_next_one_its_number() {
    let mut lane = Lane::new();
    lane.config.rotate_bytes = 1;
    stored(&lane, "one\n");
    assert_eq!(lane.names(), ["2026-11-23T06-00-00Z-000001.ndjson.zst"]);
    lane.hand.fetch_add(3_600_000, Ordering::Relaxed);
    stored(&lane, "two\n");
    assert_eq!(lane.names()[1], "2026-11-23T07-00-00Z-000002.ndjson.zst");
    assert_eq!(lane.content(), "one\ntwo\n");
}

#[test]
fn an_old_file_is_completed_also_when_the_process_was_away() {
    let mut lane = Lane::new();
    lane.config.rotate_after = Duration::from_secs(60);
    stored(&lane, "one\n");
    assert!(lane.names()[0].ends_with(PARTIAL));
    lane.hand.fetch_add(60_000, Ordering::Relaxed);
    let (mut files, snapshot) = lane.open();
    assert!(files.rotate_at().unwrap() <= Instant::now());
    assert!(files.commit(&snapshot.unwrap()).unwrap().rotated);
    assert!(!lane.names()[0].ends_with(PARTIAL));
}

#[test]
fn an_end_between_renaming_and_noting_it_is_repaired() {
    let mut lane = Lane::new();
    lane.config.rotate_bytes = u64::MAX;
    stored(&lane, "one\n");
    let noted = fs::read(lane.path(state::FILE)).unwrap();
    lane.config.rotate_bytes = 1;
    let (mut files, snapshot) = lane.open();
    files.commit(&snapshot.unwrap()).unwrap();
    drop(files);
    fs::write(lane.path(state::FILE), noted).unwrap();
    stored(&lane, "two\n");
    assert_eq!(lane.content(), "one\ntwo\n");
    assert_eq!(lane.names().len(), 2);
}

#[test]
fn numbers_go_on_when_the_state_is_gone() {
    let mut lane = Lane::new();
    lane.config.rotate_bytes = 1;
    stored(&lane, "one\n");
    fs::remove_file(lane.path(state::FILE)).unwrap();
    stored(&lane, "two\n");
    assert!(lane.names()[1].contains("-000002."));
}

#[test]
fn a_damaged_state_stops_the_lane_and_names_the_way_out() {
    let lane = Lane::new();
    stored(&lane, "one\n");
    fs::write(lane.path(state::FILE), b"nonsense").unwrap();
    let error = LaneFiles::open(&lane.config, "lane", &lane.clock).err().unwrap().to_string();
    assert!(error.contains("lane/state is damaged") && error.contains("remove it"), "{error}");
}

#[test]
fn a_file_shorter_than_its_commit_is_set_aside() {
    let lane = Lane::new();
    stored(&lane, "one\n");
    OpenOptions::new().write(true).open(lane.path(&lane.names()[0])).unwrap().set_len(3).unwrap();
    stored(&lane, "two\n");
    let names = lane.names();
    assert!(names[0].ends_with("-000001.ndjson.zst.damaged"), "{names:?}");
    assert!(names[1].contains("-000002."));
}

#[test]
fn a_refusing_disk_is_an_error_and_the_commit_before_stands() {
    let lane = Lane::new();
    stored(&lane, "one\n");
    let (mut files, _) = lane.open();
    // A file opened for reading refuses writes, as a full disk does.
    files.open.as_mut().unwrap().file = File::open(lane.path(&lane.names()[0])).unwrap();
    files.write(b"two\n").unwrap();
    let error = files.commit(b"two\n").unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains("Pulsar keeps"), "{error}");
    assert_eq!(lane.open().1.unwrap(), b"one\n");
    assert_eq!(lane.content(), "one\n");
}

#[test]
fn without_its_state_nothing_that_was_stored_is_removed() {
    let lane = Lane::new();
    stored(&lane, "one\n");
    // What the message about a damaged state file advises.
    fs::remove_file(lane.path(state::FILE)).unwrap();
    let (mut files, snapshot) = lane.open();
    assert_eq!(snapshot, None);
    files.write(b"two\n").unwrap();
    files.commit(b"two").unwrap();
    drop(files);
    assert_eq!(lane.content(), "one\ntwo\n");
    stored(&lane, "three\n");
    assert_eq!(lane.content().len(), "one\ntwo\nthree\n".len(), "nor later");
}
