//! The record's bytes.

use proptest::prelude::*;

use super::*;

fn any_failure() -> impl Strategy<Value = Option<Failure>> {
    let failure = (prop::sample::select(&Reason::ALL[..]), "\\PC{0,400}").prop_map(|(r, d)| Failure::new(r, d));
    prop::option::of(failure)
}

fn any_number() -> impl Strategy<Value = Number> {
    (prop_oneof![Just(0), any::<u64>()], any::<u64>()).prop_map(|(epoch, n)| Number::new(epoch, n))
}

fn any_config() -> impl Strategy<Value = Config> {
    let slot = (prop::sample::select(&Slot::ALL[..]), any::<Digest>());
    let place =
        prop::option::of(slot).prop_map(|s| s.map_or(Place::Local, |(slot, digest)| Place::Slot { slot, digest }));
    (any_number(), place).prop_map(|(number, place)| Config { number, place })
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let counts = (any::<u8>(), any::<u8>(), any::<u8>(), any::<u64>());
    (any_config(), any::<bool>(), any::<bool>(), counts, any_failure()).prop_map(
        |(config, waits, grounded, n, failure)| {
            let stage = if waits { Stage::Waiting } else { Stage::OnTrial };
            Candidate { config, stage, starts: n.0, attempts: n.1, turns: n.2, grounded, used_ms: n.3, failure }
        },
    )
}

prop_compose! {
    fn any_record()(
        previous in prop::option::of(any_config()), away in (0..3u64, 0..3u8), committed in any_config(), settled in any_number(), candidate in prop::option::of(any_candidate()),
        reports in prop::collection::vec((any_number(), prop::sample::select(&Outcome::ALL[..]), any_failure()), 0..40),
    ) -> Record {
        let mut record = Record { committed, settled, candidate, previous, away_ms: away.0, looks: away.1, ..Record::default() };
        reports.into_iter().for_each(|(number, outcome, failure)| record.report(number, outcome, failure));
        record
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_record_comes_back_and_any_damage_is_found(record in any_record(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let bytes = record.encode();
        prop_assert!(bytes.len() <= RECORD_BYTES_MAX);
        prop_assert_eq!(Record::decode(&bytes), Ok(record));
        let mut damaged = bytes.clone();
        damaged[at.index(bytes.len())] ^= flip;
        prop_assert_eq!(Record::decode(&damaged), Err(RecordError::Damaged));
        prop_assert!(Record::decode(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Record::decode(&noise).is_err());
        // With a good checksum, as a program with an error might write it.
        for version in [VERSION_1, VERSION_2, VERSION] {
            let mut bytes = [&MAGIC[..], &[version], &noise].concat();
            let crc = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            let _ = Record::decode(&bytes);
        }
    }
}

#[test]
fn a_newer_version_is_named() {
    let mut bytes = Record::default().encode();
    bytes.truncate(bytes.len() - 4);
    bytes[MAGIC.len()] = VERSION + 1;
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(Record::decode(&bytes), Err(RecordError::Version(VERSION + 1)));
}

#[test]
fn too_many_reports_drop_the_oldest_success_and_count_it() {
    let mut record = Record::default();
    let failure = || Some(Failure::new(Reason::NotConnected, ""));
    record.report(1.into(), Outcome::Reverted, failure());
    record.report(2.into(), Outcome::Committed, None);
    (3..20).for_each(|n| record.report(Number::from(n), Outcome::Reverted, failure()));
    let left: Vec<u64> = record.reports.iter().map(|r| r.number.n).collect();
    assert_eq!((left.first(), left.len(), record.reports_dropped), (Some(&4), REPORTS_MAX, 3));
}

#[test]
fn a_detail_is_cut_between_characters() {
    let failure = Failure::new(Reason::Invalid, "€".repeat(100));
    assert_eq!(failure.detail, "€".repeat(85));
}

/// Written by version 1; every later version must read it, and writes the same while it has no epoch.
#[test]
fn the_golden_record_is_read() {
    let mut record = Record {
        committed: Config { number: 7.into(), place: Place::Slot { slot: Slot::B, digest: [0xab; 32] } },
        settled: 9.into(),
        candidate: Some(Candidate {
            config: Config { number: 9.into(), place: Place::Slot { slot: Slot::A, digest: [0xcd; 32] } },
            stage: Stage::Waiting,
            starts: 1,
            attempts: 2,
            turns: 3,
            grounded: true,
            used_ms: 85_000,
            failure: Some(Failure::new(Reason::NotConnected, "dns")),
        }),
        ..Record::default()
    };
    record.report(8.into(), Outcome::Refused, Some(Failure::new(Reason::Invalid, "line 3")));
    let golden = format!(
        "54475452 01 0700000000000000 02 {} 0900000000000000 01 0900000000000000 01 {} 01 01 02 03 01 084c010000000000 \
         01 00 0300 646e73 0200000000000000 0000000000000000 01 0100000000000000 0800000000000000 02 01 07 0600 \
         6c696e652033 01 0100000000000000 0800000000000000 02 01 07 0600 6c696e652033",
        "ab".repeat(32),
        "cd".repeat(32)
    );
    let hex: Vec<u8> = golden.bytes().filter(|b| *b != b' ').collect();
    let mut bytes: Vec<u8> =
        hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(record.encode(), bytes);
    assert_eq!(Record::decode(&bytes), Ok(record));
}
