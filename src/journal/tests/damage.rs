//! Bytes that changed, files that are gone: the start goes on, loses what was hit and nothing else, and says so.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::journal::frame::{self, End, HEADER_LEN, Header};
use crate::journal::segment;

#[derive(Clone, Debug)]
enum Harm {
    Flip(u8),
    Zero(usize),
    Cut,
    Empty,
    Remove,
    Noise(Vec<u8>),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => (1..=255u8).prop_map(Harm::Flip),
        1 => (1..5000usize).prop_map(Harm::Zero),
        1 => Just(Harm::Cut),
        1 => Just(Harm::Empty),
        1 => Just(Harm::Remove),
        1 => prop::collection::vec(any::<u8>(), 0..500).prop_map(Harm::Noise),
    ]
}

fn roomy() -> Settings {
    Settings { total_bytes_max: (12 * 64) << 10, ..small() }
}

fn record(n: u32) -> Vec<u8> {
    let len = if n.is_multiple_of(4) { 9_000 } else { n % 50 };
    n.to_le_bytes().into_iter().chain((0..len).map(|i| (n ^ i) as u8)).collect()
}

/// Records per segment, of a journal that was closed in order.
async fn fill(dir: &Path) -> Vec<(u64, Vec<u32>)> {
    for start in 0..2 {
        let (journal, _) = open(dir, roomy());
        for n in start * 40..start * 40 + 40 {
            let position = journal.append(&[record(n)]).unwrap();
            if n % 5 == 0 {
                journal.durable(position).await.unwrap();
            }
        }
        journal.close().await;
    }
    let (numbers, _) = segment::list(dir).unwrap();
    let held = numbers.into_iter().map(|number| {
        let bytes = fs::read(dir.join(segment::name(number))).unwrap();
        let found = frame::scan(&bytes, &Header::decode(&bytes).unwrap(), End::File);
        (number, found.records.iter().map(|r| number_of(&bytes[r.clone()]).unwrap()).collect())
    });
    let held: Vec<(u64, Vec<u32>)> = held.collect();
    assert!(held.len() > 3 && held.iter().flat_map(|h| &h.1).copied().eq(0..80), "{held:?}");
    held
}

/// `None`: nobody wrote this.
fn number_of(bytes: &[u8]) -> Option<u32> {
    let n = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    (record(n) == bytes).then_some(n)
}

/// Does harm to one file; `true`: one byte of one frame changed.
fn hurt(path: &Path, harm: &Harm, place: prop::sample::Index) -> bool {
    let mut bytes = fs::read(path).unwrap();
    let at = place.index(bytes.len());
    match harm {
        Harm::Flip(bits) => bytes[at] ^= bits,
        Harm::Zero(len) => bytes.iter_mut().skip(at).take(*len).for_each(|b| *b = 0),
        Harm::Cut => bytes.truncate(at),
        Harm::Empty => bytes.clear(),
        Harm::Remove => {
            fs::remove_file(path).unwrap();
            return false;
        }
        Harm::Noise(noise) => bytes.splice(at.., noise.iter().copied()).for_each(drop),
    }
    fs::write(path, bytes).unwrap();
    matches!(harm, Harm::Flip(_)) && at >= HEADER_LEN
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn harm_to_one_segment_costs_at_most_its_records(
        harm in harm(), which in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "." }).unwrap();
        runtime.block_on(async {
            let held = fill(dir.path()).await;
            let (hit, of_it) = &held[which.index(held.len())];
            let one_byte = hurt(&dir.path().join(segment::name(*hit)), &harm, place);

            let (journal, found) = open(dir.path(), roomy());
            let found: Option<Vec<u32>> = found.iter().map(|r| number_of(r)).collect();
            prop_assert!(found.is_some(), "a record that nobody wrote");
            let found = found.unwrap_or_default();
            prop_assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
            let lost: Vec<u32> = (0..80).filter(|n| !found.contains(n)).collect();
            prop_assert!(lost.iter().all(|n| of_it.contains(n)), "{lost:?} of {held:?}");
            // A note is hit, or a record.
            prop_assert!(!one_byte || lost.len() <= 1, "{lost:?}");
            prop_assert!(lost.is_empty() || journal.progress().borrow().tidy_due || journal.tidy_due().await);

            // What is left is written anew; the harm stays for people to look at, and is not found again.
            if let Some(tidy) = journal.tidy(0) {
                for n in &found {
                    tidy.append(&[record(*n)]).unwrap();
                }
                journal.durable(tidy.finish().unwrap()).await.unwrap();
            }
            journal.append(&[record(100)]).unwrap();
            journal.close().await;
            let (journal, again) = open(dir.path(), roomy());
            let again: Vec<u32> = again.iter().map(|r| number_of(r).unwrap()).collect();
            let expected: Vec<u32> = found.iter().copied().chain([100]).collect();
            prop_assert_eq!(again, expected);
            prop_assert!(!journal.0.shared.lock().damaged);
            journal.close().await;
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn damaged_segments_are_set_aside_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let (journal, _) = open(dir.path(), roomy());
        let position = journal.append(&[record(round), record(round + 10)]).unwrap();
        journal.durable(position).await.unwrap();
        journal.close().await;
        let newest = *segment::list(dir.path()).unwrap().0.last().unwrap();
        let path = dir.path().join(segment::name(newest));
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEADER_LEN + frame::FRAME_LEN] ^= 1;
        fs::write(&path, bytes).unwrap();

        let (journal, _) = open(dir.path(), roomy());
        assert!(journal.tidy_due().await);
        let tidy = journal.tidy(0).unwrap();
        journal.durable(tidy.finish().unwrap()).await.unwrap();
        journal.close().await;
    }
    assert_eq!(segment::list(dir.path()).unwrap().1.len(), 2);
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let path = dir.path().join(segment::name(2));
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let before = segment::list(dir.path()).unwrap();
    let opened = Journal::open(dir.path(), roomy(), meter(), |_| {});
    assert!(matches!(&opened, Err(OpenError::Version { version: 2, .. })), "{opened:?}");
    assert_eq!(segment::list(dir.path()).unwrap(), before);
}
