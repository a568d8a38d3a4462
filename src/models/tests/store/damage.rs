//! Disks that alter what they hold, and packs that lie.

use proptest::prelude::*;

use super::*;
use crate::models::store::Found;

fn in_use(family: &[Published], versions: &[u64]) -> (Sim, Store<Sim>) {
    let sim = Sim::new();
    let mut store = sim_store(&sim, ROOMY);
    for version in versions {
        let (proven, _) = fetch(&mut store, family, *version).unwrap();
        store.activate(&proven).unwrap();
    }
    (sim, store)
}

fn restart(sim: &Sim) -> (Store<Sim>, Vec<Found>) {
    Store::start(sim.clone(), Path::new(DIR), ROOMY, None).unwrap()
}

#[test]
fn a_damaged_model_is_found_when_it_is_read_and_only_what_is_bad_is_fetched_again() {
    let family = &FAMILIES[9];
    let (sim, _) = in_use(family, &[1, 2]);
    sim.damage(&version_dir(2).join("model"), 700);
    let (mut store, found) = restart(&sim);
    assert_eq!(found, [], "its size is right: that is all that a start looks at");
    assert!(matches!(store.verify(&name(), 2, &trust()), Err(StoreError::Damaged { .. })));
    assert_eq!(store.rollback(&name(), &trust()).unwrap(), 1);
    let whole = family[1].messages.len();
    let (proven, pieces) = fetch(&mut store, family, 2).unwrap();
    assert!(pieces <= 1 && whole > 1, "{pieces} of {whole}");
    store.activate(&proven).unwrap();
    assert_eq!(sim.look(&version_dir(2).join("model")).unwrap(), family[1].file);
}

#[test]
fn a_damaged_version_in_use_is_not_used_while_it_is_mended() {
    let family = &FAMILIES[9];
    let (sim, _) = in_use(family, &[1, 2]);
    sim.damage(&version_dir(2).join("model"), 5);
    let (mut store, _) = restart(&sim);
    assert!(store.verify(&name(), 2, &trust()).is_err());
    let Some(_) = begin(&mut store, &family[1], &all(family)).unwrap() else { panic!("it is damaged") };
    assert_eq!(sim.look(&store.current_path(&name())).unwrap(), family[0].file);
    // The only one there is.
    let (sim, _) = in_use(family, &[3]);
    sim.damage(&version_dir(3).join("model"), 5);
    let (mut store, _) = restart(&sim);
    assert!(store.verify(&name(), 3, &trust()).is_err());
    drop(begin(&mut store, &family[2], &all(family)).unwrap());
    assert!(sim.look(&store.current_path(&name())).is_err());
    let (proven, _) = fetch(&mut store, family, 3).unwrap();
    store.activate(&proven).unwrap();
}

#[test]
fn a_model_that_is_too_short_at_a_start_gives_way_to_the_one_before() {
    let family = &FAMILIES[9];
    let (sim, _) = in_use(family, &[1, 2]);
    sim.create(&version_dir(2).join("model")).unwrap();
    let (mut store, found) = restart(&sim);
    assert_eq!(found, [Found::Damaged { name: name(), version: 2, now: Some(1) }]);
    assert_eq!(sim.look(&store.current_path(&name())).unwrap(), family[0].file);
    let (proven, _) = fetch(&mut store, family, 2).unwrap();
    store.activate(&proven).unwrap();
}

#[test]
fn a_damaged_record_changes_nothing_that_is_used() {
    let family = &FAMILIES[9];
    let (sim, _) = in_use(family, &[1, 2]);
    sim.damage(&Path::new(DIR).join("anomaly/active"), 25);
    let (mut store, found) = restart(&sim);
    assert_eq!(found, [Found::RecordDamaged { name: name(), now: Some(2) }]);
    assert_eq!(sim.look(&store.current_path(&name())).unwrap(), family[1].file);
    assert!(matches!(store.rollback(&name(), &trust()), Err(StoreError::NothingBefore { .. })));
    assert_eq!(restart(&sim).1, []);
}

#[test]
fn a_version_whose_key_was_revoked_is_not_activated_until_it_is_signed_again() {
    let family = &FAMILIES[9];
    let (sim, _) = in_use(family, &[1]);
    let (mut store, _) = restart(&sim);
    let downlink = Downlink { artefact_keys: vec![key(5).public().to_string()], ..Downlink::default() };
    let other = Trust::new(&downlink).unwrap();
    assert!(matches!(store.verify(&name(), 1, &other), Err(StoreError::Manifest { .. })));
    let again = family[0].signed.manifest().sign(&key(5)).unwrap();
    let signed = Signed::verify(again.encode().as_bytes(), &other).unwrap();
    let begun = store.begin(&signed, &Arc::new(family[0].index.clone()), &all(family)).unwrap();
    assert!(begun.is_none());
    assert!(store.verify(&name(), 1, &other).is_ok());
}

/// All chunks are as the index says, and the index is not of this model.
#[test]
fn an_index_that_lies_is_found_out_and_leaves_nothing() {
    let family = &FAMILIES[9];
    let mut lying = family[0].clone();
    lying.index.entries.swap(0, 1);
    assert_eq!(lying.index.fits(lying.signed.manifest()), Ok(()));
    let sim = Sim::new();
    let mut store = sim_store(&sim, ROOMY);
    assert!(matches!(fetch(&mut store, &[lying], 1), Err(StoreError::NotTheModel { .. })));
    assert_eq!(sim.bytes(), 0);
    assert!(fetch(&mut store, family, 1).is_ok());
}

/// The index says that a chunk is longer than it is: nothing is written beyond its place.
#[test]
fn a_chunk_of_another_length_is_not_written() {
    let family = &FAMILIES[9];
    let mut lying = family[0].clone();
    let (first, second) = (lying.index.entries[0].length, lying.index.entries[1].length);
    (lying.index.entries[0].length, lying.index.entries[1].length) = (first - 1, second + 1);
    let sim = Sim::new();
    let mut store = sim_store(&sim, ROOMY);
    let Some(mut assembling) = begin(&mut store, &lying, &all(family)).unwrap() else { panic!("here") };
    for (pack, place) in lacking(&assembling) {
        assembling.write(&piece(family, pack, place)).unwrap();
    }
    let left = lacking(&assembling);
    assert_eq!(left.len(), 1, "the two stay lacking, in one piece");
    assert_eq!(
        assembling.write(&piece(family, left[0].0, left[0].1)).unwrap(),
        0,
        "so the fetcher sees that it is bad"
    );
}

#[test]
fn names_that_are_no_models_do_not_stop_a_start() {
    let family = &FAMILIES[9];
    let (sim, _) = in_use(family, &[1]);
    for path in
        ["/models/lock", "/models/readme", "/models/anomaly/7", "/models/anomaly/partial-9", "/models/anomaly/x"]
    {
        sim.create(Path::new(path)).unwrap();
    }
    let (mut store, found) = restart(&sim);
    assert_eq!(found, []);
    assert!(store.verify(&name(), 7, &trust()).is_err());
    assert!(fetch(&mut store, family, 2).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::models::tests::cases(500)))]

    /// One bit anywhere: it is found, or it changes nothing; and everything can be had again.
    #[test]
    fn any_damage_is_found_and_mended(
        family in 0_usize..16,
        partial: bool,
        what in prop::sample::select(vec!["model", "index", "manifest"]),
        at: usize,
    ) {
        let family = &FAMILIES[family];
        let (sim, mut store) = in_use(family, &[1, 2]);
        let dir = if partial {
            let Some(mut assembling) = begin(&mut store, &family[2], &all(family)).unwrap() else { panic!("here") };
            if let Some((pack, place)) = lacking(&assembling).first() {
                assembling.write(&piece(family, *pack, *place)).unwrap();
            }
            Path::new(DIR).join("anomaly/partial-3")
        } else {
            version_dir(2)
        };
        sim.damage(&dir.join(if partial && what == "model" { "data" } else { what }), at);
        let (mut store, _) = restart(&sim);
        for version in [2, 3] {
            match store.verify(&name(), version, &trust()) {
                Ok(_) => prop_assert!(sim.look(&version_dir(version).join("model")).unwrap() == family[version as usize - 1].file),
                Err(e) => prop_assert!(!e.to_string().is_empty()),
            }
            let (proven, _) = fetch(&mut store, family, version).unwrap();
            store.activate(&proven).unwrap();
            prop_assert!(sim.look(&store.current_path(&name())).unwrap() == family[version as usize - 1].file);
        }
    }
}
