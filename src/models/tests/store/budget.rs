//! Room: the oldest that nobody uses goes, what is in use stays, and what does not fit is refused before it is fetched.

use proptest::prelude::*;

use super::*;

fn store(bytes_max: u64) -> (Sim, Store<Sim>) {
    let sim = Sim::new();
    let store = sim_store(&sim, bytes_max);
    (sim, store)
}

/// Bytes that a version takes.
fn bytes(published: &Published) -> u64 {
    (published.file.len() + published.index.encode().len() + published.signed.envelope().encode().len()) as u64
}

fn none() -> BTreeSet<Version> {
    BTreeSet::new()
}

fn install(store: &mut Store<Sim>, family: &[Published], version: u64) -> Result<Proven, StoreError> {
    let Some(mut assembling) = begin(store, &family[version as usize - 1], &none())? else {
        return store.verify(&name(), version, &trust());
    };
    for (pack, place) in lacking(&assembling) {
        assembling.write(&piece(family, pack, place)).unwrap();
    }
    store.finish(assembling)
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_anything_is_written() {
    let family = &FAMILIES[3];
    let (sim, mut store) = store(bytes(&family[0]) - 1);
    let before = sim.bytes();
    let Err(StoreError::NoRoom { needed, staying, .. }) = begin(&mut store, &family[0], &none()) else {
        panic!("it fits")
    };
    assert_eq!((needed, staying, sim.bytes()), (bytes(&family[0]), 0, before));
}

#[test]
fn the_version_in_use_and_the_one_before_stay_and_an_assigned_one_too() {
    let family = &FAMILIES[3];
    let room = bytes(&family[0]) + bytes(&family[1]) + bytes(&family[2]) + 1000;
    let (_, mut store) = store(room);
    for version in [1, 2] {
        let proven = install(&mut store, family, version).unwrap();
        store.activate(&proven).unwrap();
    }
    install(&mut store, family, 3).unwrap();
    let keep = BTreeSet::from([(name(), 3)]);
    assert!(matches!(begin(&mut store, &family[3], &keep), Err(StoreError::NoRoom { .. })));
    let versions = |store: &Store<Sim>| store.shelf(&name()).unwrap().versions.into_keys().collect::<Vec<_>>();
    assert_eq!(versions(&store), [1, 2, 3]);
    let proven = install(&mut store, family, 4).unwrap();
    assert_eq!(versions(&store), [1, 2, 4], "the candidate that nobody wants went");
    store.activate(&proven).unwrap();
    assert_eq!(store.rollback(&name(), &trust()).unwrap(), 2);
    // The one before that is on the disk still, though nothing would have kept it.
    assert_eq!(store.rollback(&name(), &trust()).unwrap(), 1);
    assert!(matches!(store.rollback(&name(), &trust()), Err(StoreError::NothingBefore { .. })));
    let gone = Proven::clone(&proven);
    install(&mut store, family, 1).unwrap();
    store.activate(&gone).unwrap();
}

#[test]
fn a_way_back_that_went_to_make_room_is_none() {
    let family = &FAMILIES[3];
    let (_, mut store) = store(bytes(&family[1]) + bytes(&family[2]) + bytes(&family[3]) + 1000);
    for version in [1, 2, 3] {
        let proven = install(&mut store, family, version).unwrap();
        store.activate(&proven).unwrap();
    }
    install(&mut store, family, 4).unwrap();
    assert!(!store.shelf(&name()).unwrap().versions.contains_key(&1), "it is not kept for its own sake");
    assert_eq!(store.rollback(&name(), &trust()).unwrap(), 2);
    assert_eq!(store.shelf(&name()).unwrap().active().previous, None);
    assert!(matches!(store.rollback(&name(), &trust()), Err(StoreError::NothingBefore { .. })));
}

#[test]
fn what_went_to_make_room_cannot_be_activated() {
    let family = &FAMILIES[3];
    let (_, mut store) = store(bytes(&family[0]).max(bytes(&family[1])) + 200);
    let first = install(&mut store, family, 1).unwrap();
    install(&mut store, family, 2).unwrap();
    assert!(matches!(store.activate(&first), Err(StoreError::Missing { .. })));
}

#[test]
fn two_do_not_assemble_one_version_and_a_half_one_that_nobody_wants_goes() {
    let hashes = |published: &Published| published.index.entries().iter().map(|e| e.hash).collect::<BTreeSet<Hash>>();
    let family = FAMILIES.iter().find(|family| !hashes(&family[0]).is_disjoint(&hashes(&family[2]))).unwrap();
    let (_, mut store) = store(ROOMY);
    let Some(mut first) = begin(&mut store, &family[0], &none()).unwrap() else { panic!("it is here") };
    assert!(matches!(begin(&mut store, &family[0], &none()), Err(StoreError::Busy { .. })));
    for (pack, place) in lacking(&first) {
        first.write(&piece(family, pack, place)).unwrap();
    }
    first.commit().unwrap();
    let committed = hashes(&family[0]);
    // Beside it, while it is assembled.
    drop(begin(&mut store, &family[1], &none()).unwrap());
    assert_eq!(store.shelf(&name()).unwrap().partials.len(), 2);
    drop(first);
    let Some(third) = begin(&mut store, &family[2], &none()).unwrap() else { panic!("it is here") };
    assert_eq!(store.shelf(&name()).unwrap().partials.into_keys().collect::<Vec<_>>(), [3]);
    let wanted = hashes(&family[2]);
    for (pack, place) in lacking(&third) {
        let piece = piece(family, pack, place);
        assert!(piece.chunks().any(|(hash, _)| wanted.contains(&hash) && !committed.contains(&hash)));
    }
}

#[test]
fn a_version_is_never_another_one() {
    let family = &FAMILIES[5];
    let (_, mut store) = store(ROOMY);
    install(&mut store, family, 1).unwrap();
    let other = publish(1, b"another model of the same version", &[]);
    assert!(matches!(begin(&mut store, &other, &none()), Err(StoreError::VersionReused { .. })));
    // An index of another version.
    let wrong = store.begin(&family[1].signed, &Arc::new(family[2].index.clone()), &none());
    assert!(matches!(wrong, Err(StoreError::Index(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::models::tests::cases(1000)))]

    #[test]
    fn the_budget_holds_and_what_is_in_use_stays(
        family in 0_usize..16,
        room in 2000_u64..16_000,
        steps in prop::collection::vec((1_u64..=4, any::<bool>(), any::<bool>()), 1..10),
    ) {
        let family = &FAMILIES[family];
        let (sim, mut store) = store(room);
        for (version, whole, activate) in steps {
            let before = store.shelf(&name()).unwrap().active();
            let done = match whole {
                true => install(&mut store, family, version).map(Some),
                false => begin(&mut store, &family[version as usize - 1], &none()).map(|_| None),
            };
            match done {
                Ok(Some(proven)) if activate => store.activate(&proven).unwrap(),
                Ok(_) => prop_assert_eq!(store.shelf(&name()).unwrap().active(), before),
                Err(StoreError::NoRoom { staying, needed, .. }) => {
                    let in_use = [before.current, before.previous].into_iter().flatten();
                    let in_use: u64 = in_use.map(|version| bytes(&family[version as usize - 1])).sum();
                    prop_assert_eq!(staying, in_use, "only what is in use stays");
                    prop_assert!(staying + needed > room);
                }
                Err(e) => panic!("{e}"),
            }
            let record = 200;
            prop_assert!(sim.bytes() <= room + record, "{} of {room}", sim.bytes());
            let shelf = store.shelf(&name()).unwrap();
            let in_use = [shelf.active().current, shelf.active().previous].into_iter().flatten();
            prop_assert!(in_use.into_iter().all(|version| shelf.versions[&version].sized));
        }
    }
}
