//! Any kill, power cut or refused call at any change of the disk: a reader sees the whole new model or the old one, and
//! what was committed is not fetched again.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::sim::{Fault, Planted};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Takes so many of the pieces that are lacking, and commits after every so many.
    Fetch {
        version: u64,
        pieces: usize,
        commit_every: usize,
        activate: bool,
    },
    Activate(u64),
    Rollback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Goes,
    Killed,
    PowerCut,
}

/// A step, the fault in it, and how it ends.
type Happening = (Step, (Option<(u64, Fault)>, Ending));

fn step() -> impl Strategy<Value = Step> {
    let version = || 1_u64..=4;
    prop_oneof![
        6 => (version(), prop_oneof![Just(99_usize), 0_usize..6], 1_usize..4, any::<bool>()).prop_map(
            |(version, pieces, commit_every, activate)| Step::Fetch { version, pieces, commit_every, activate }
        ),
        1 => version().prop_map(Step::Activate),
        1 => Just(Step::Rollback),
    ]
}

fn fault() -> impl Strategy<Value = (Option<(u64, Fault)>, Ending)> {
    let fault = prop_oneof![Just(Fault::Stop), Just(Fault::Refuse)];
    let ending = prop_oneof![Just(Ending::Goes), Just(Ending::Killed), Just(Ending::PowerCut)];
    (prop::option::of((0_u64..40, fault)), ending)
}

struct World<'f> {
    sim: Sim,
    store: Store<Sim>,
    family: &'f [Published],
    /// What activation and rollback said is in use.
    used: Option<u64>,
    /// What may be in use, because nobody said whether it is.
    maybe: Vec<u64>,
    /// What was finished.
    whole: BTreeSet<u64>,
    /// Of versions being assembled, what was committed.
    committed: BTreeMap<u64, HashSet<Hash>>,
    luck: u64,
}

impl World<'_> {
    fn luck(&mut self) -> u64 {
        xorshift(&mut self.luck)
    }

    /// A program that uses the model: it knows nothing of the store.
    fn check_reader(&self) {
        let seen = self.sim.look(&Path::new(DIR).join("anomaly/current/model"));
        let may = |version: &u64| seen.as_ref().is_ok_and(|seen| *seen == self.family[*version as usize - 1].file);
        match (&seen, self.used) {
            (Err(_), used) => assert_eq!(used, None, "a model was in use, and none is: {seen:?}"),
            (Ok(_), used) => {
                assert!(used.iter().chain(&self.maybe).any(may), "neither {used:?} nor {:?}, or not whole", self.maybe)
            }
        }
    }

    fn run(&mut self, step: &Step) -> Result<(), StoreError> {
        match step {
            Step::Fetch { version, pieces, commit_every, activate } => {
                let Some(proven) = self.fetch(*version, *pieces, *commit_every)? else { return Ok(()) };
                if *activate { self.activate(&proven) } else { Ok(()) }
            }
            Step::Activate(version) => match self.store.verify(&name(), *version, &trust()) {
                Ok(proven) => self.activate(&proven),
                Err(StoreError::Missing { .. }) => Ok(()),
                Err(e) => Err(e),
            },
            Step::Rollback => {
                let Some(back) = self.store.shelf(&name())?.active().previous else { return Ok(()) };
                self.maybe.push(back);
                assert_eq!(self.store.rollback(&name(), &trust())?, back);
                (self.used, self.maybe) = (Some(back), Vec::new());
                Ok(())
            }
        }
    }

    fn activate(&mut self, proven: &Proven) -> Result<(), StoreError> {
        self.maybe.push(proven.version());
        self.store.activate(proven)?;
        (self.used, self.maybe) = (Some(proven.version()), Vec::new());
        Ok(())
    }

    fn fetch(&mut self, version: u64, pieces: usize, commit_every: usize) -> Result<Option<Proven>, StoreError> {
        let begun = begin(&mut self.store, &self.family[version as usize - 1], &all(self.family));
        self.forget_if_a_sync_was_refused(version);
        let mut assembling = match begun? {
            None => return self.store.verify(&name(), version, &trust()).map(Some),
            Some(assembling) => assembling,
        };
        assert!(!self.whole.contains(&version), "a whole version is begun again");
        let committed = self.committed.entry(version).or_default().clone();
        let mut places = lacking(&assembling);
        for (pack, place) in &places {
            let piece = piece(self.family, *pack, *place);
            assert!(
                piece.chunks().any(|(hash, _)| !committed.contains(&hash)),
                "all of place {place} of pack {pack} was committed, and is to be fetched again"
            );
        }
        let mut written = HashSet::new();
        let mut count = 0;
        while !places.is_empty() && count < pieces {
            let (pack, place) = places.swap_remove(self.luck() as usize % places.len());
            let piece = piece(self.family, pack, place);
            let at = |e| StoreError::Io { path: PathBuf::new(), source: e };
            assert!(assembling.write(&piece).map_err(at)? > 0, "a piece without anything that is lacking");
            written.extend(piece.chunks().map(|(hash, _)| hash));
            count += 1;
            if count % commit_every == 0 {
                let done = assembling.commit().map_err(at);
                self.forget_if_a_sync_was_refused(version);
                done?;
                self.committed.entry(version).or_default().extend(written.drain());
            }
        }
        if !assembling.is_full() {
            assert!(matches!(self.store.finish(assembling), Err(StoreError::Lacking { .. })));
            return Ok(None);
        }
        let finished = self.store.finish(assembling);
        self.forget_if_a_sync_was_refused(version);
        let proven = finished?;
        self.whole.insert(version);
        Ok(Some(proven))
    }

    fn forget_if_a_sync_was_refused(&mut self, version: u64) {
        if self.sim.has_refused_a_sync() {
            self.committed.remove(&version);
        }
    }

    /// The process is gone, and perhaps the power; then everything starts again.
    fn restart(&mut self, power_cut: bool) {
        let mut luck = self.luck();
        self.sim.start(power_cut, &mut || xorshift(&mut luck));
        self.check_reader();
        self.store = Store::start(self.sim.clone(), Path::new(DIR), ROOMY, None).unwrap().0;
        self.check_reader();
        self.used = self.store.shelf(&name()).unwrap().active().current;
        self.maybe.clear();
        self.check_reader();
    }

    fn check_versions(&mut self) {
        let shelf = self.store.shelf(&name()).unwrap();
        assert!(self.whole.iter().all(|version| shelf.versions.contains_key(version)), "{:?}", self.whole);
        for version in shelf.versions.keys() {
            let file = self.sim.look(&shelf.version_dir(*version).join("model")).unwrap();
            assert!(file == self.family[*version as usize - 1].file, "version {version} is not what was published");
        }
    }
}

pub fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 11
}

/// All that happens, and what must be true at each point of it.
fn history(family: usize, steps: &[Happening], luck: u64, planted: Planted) {
    let family = &FAMILIES[family];
    let sim = Sim::new();
    let store = sim_store(&sim, ROOMY);
    sim.plant(planted);
    let (whole, committed) = (BTreeSet::new(), BTreeMap::new());
    let mut world = World { sim, store, family, used: None, maybe: Vec::new(), whole, committed, luck };
    for (step, (fault, ending)) in steps {
        if let Some((changes, fault)) = fault {
            world.sim.fail(*changes, *fault);
        }
        let result = world.run(step);
        let met = fault.is_some() && world.sim.has_failed();
        assert!(result.is_ok() || met, "{step:?} without a fault: {}", result.unwrap_err());
        world.check_reader();
        match (fault, ending) {
            (Some((_, Fault::Stop)), Ending::Goes | Ending::Killed) if met => world.restart(false),
            (_, Ending::Goes) => world.sim.start(false, &mut || 0),
            (_, Ending::Killed) => world.restart(false),
            (_, Ending::PowerCut) => world.restart(true),
        }
        world.check_versions();
    }
    // Everything can still be done.
    for version in 1..=4 {
        let (proven, _) = fetch(&mut world.store, family, version).unwrap();
        world.activate(&proven).unwrap();
        world.check_reader();
    }
    world.restart(true);
    assert_eq!(world.used, Some(4));
    world.check_versions();
    assert_eq!(world.store.rollback(&name(), &trust()).unwrap(), 3);
}

fn histories() -> impl Strategy<Value = (usize, Vec<Happening>, u64)> {
    (0_usize..16, prop::collection::vec((step(), fault()), 1..7), 1_u64..)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::models::tests::cases(300), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_stops_it_a_reader_sees_a_whole_model_and_nothing_committed_is_fetched_again(
        (family, steps, luck) in histories(),
    ) {
        history(family, &steps, luck, Planted::Nothing);
    }
}

/// What the disk does not do for the store, the histories must find, or they prove nothing.
#[test]
fn each_planted_mistake_is_found() {
    for planted in [Planted::NoSync, Planted::NoDirSync, Planted::NoForget] {
        let config = ProptestConfig {
            cases: crate::models::tests::cases(300),
            max_shrink_iters: 0,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let found = runner.run(&histories(), |(family, steps, luck)| {
            history(family, &steps, luck, planted);
            Ok(())
        });
        assert!(found.is_err(), "{planted:?} was not found");
    }
}
