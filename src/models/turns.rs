//! Which assigned version is worked on next, so that one that cannot be had now, or takes long, holds up no other. [pure]
//!
//! What is half decided comes first and alone: it must not stay so. Of those that are to be fetched each has its own time
//! before which it is not tried again, and of those that may be tried it is the turn of the one that had it longest ago.

use std::collections::BTreeMap;

use super::desired::{Desired, Step, Wanted};
use super::store::Version;
use crate::downlink::artefact::Mode;

/// What is remembered of the versions that are worked on.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    of: BTreeMap<Version, Turn>,
    begun: u64,
}

#[derive(Clone, Debug, Default)]
struct Turn {
    /// Times in a row that its pack was not what it should be.
    failed: u32,
    not_before_ms: u64,
    /// Grows with every turn of any version; 0: it had none yet.
    begun: u64,
    /// Why it waits.
    waits_for: Option<String>,
}

impl Turns {
    /// What may be begun at `now_ms`; without a link nothing that is to be fetched.
    pub fn next<'d>(&self, desired: &'d Desired, now_ms: u64, has_link: bool) -> Option<&'d Wanted> {
        let needs_link = |wanted: &Wanted| wanted.step == Step::Fetch && wanted.assigned.mode != Mode::Off;
        let may = |wanted: &&Wanted| self.not_before_ms(wanted) <= now_ms && (has_link || !needs_link(wanted));
        if let Some(deciding) = desired.deciding() {
            return Some(deciding).filter(may);
        }
        let waiting = desired.wanted().iter().filter(|wanted| wanted.step == Step::Fetch).filter(may);
        waiting.min_by_key(|wanted| self.turn(wanted).map_or(0, |turn| turn.begun))
    }

    /// When something may be begun that may not be at `now_ms`.
    pub fn due_ms(&self, desired: &Desired, now_ms: u64) -> Option<u64> {
        let deciding = desired.deciding().into_iter();
        let waiting = desired.wanted().iter().filter(|wanted| wanted.step == Step::Fetch);
        let times = deciding.chain(waiting).map(|wanted| self.not_before_ms(wanted));
        times.filter(|at_ms| *at_ms > now_ms).min()
    }

    /// Whether another one than `version` waits for its turn: what is under way should give way now and then.
    pub fn others(&self, desired: &Desired, version: &Version, now_ms: u64) -> bool {
        let is_other = |wanted: &&Wanted| wanted.version() != *version && wanted.step == Step::Fetch;
        desired.wanted().iter().filter(is_other).any(|wanted| self.not_before_ms(wanted) <= now_ms)
    }

    /// It is begun.
    pub fn begin(&mut self, desired: &Desired, version: &Version) {
        self.of.retain(|version, _| desired.wanted().iter().any(|wanted| wanted.version() == *version));
        self.begun += 1;
        self.of.entry(version.clone()).or_default().begun = self.begun;
    }

    /// Its pack was not what it should be; how often in a row that is.
    pub fn failed(&mut self, version: &Version) -> u32 {
        let turn = self.of.entry(version.clone()).or_default();
        turn.failed = turn.failed.saturating_add(1);
        turn.failed
    }

    /// Not again before this time, and why.
    pub fn wait(&mut self, version: &Version, not_before_ms: u64, why: String) {
        let turn = self.of.entry(version.clone()).or_default();
        (turn.not_before_ms, turn.waits_for) = (not_before_ms, Some(why));
    }

    /// A step of it has come to its end.
    pub fn ended(&mut self, version: &Version) {
        self.of.remove(version);
    }

    /// Whatever waits may be tried now: something was assigned.
    pub fn hurry(&mut self) {
        self.of.values_mut().for_each(|turn| turn.not_before_ms = 0);
    }

    /// Why something that is still wanted waits, the one with the lowest name first.
    pub fn waits_for(&self, desired: &Desired, now_ms: u64) -> Option<&str> {
        let waiting = desired.wanted().iter().filter(|wanted| self.not_before_ms(wanted) > now_ms);
        let first = waiting.filter_map(|wanted| self.turn(wanted)).next();
        first.and_then(|turn| turn.waits_for.as_deref())
    }

    fn turn(&self, wanted: &Wanted) -> Option<&Turn> {
        self.of.get(&wanted.version())
    }

    fn not_before_ms(&self, wanted: &Wanted) -> u64 {
        self.turn(wanted).map_or(0, |turn| turn.not_before_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::downlink::artefact::{Digest, ModelAssigned};
    use crate::downlink::report::ModelOutcome;
    use crate::models::manifest::Name;

    /// A wait after a try that was in vain, as the loop has it.
    const WAIT_MS: u64 = 10_000;
    /// What is under way gives way after this.
    const SLICE_MS: u64 = 60_000;

    fn models(count: usize, modes: &[u8]) -> Vec<ModelAssigned> {
        let of = |n: usize| ModelAssigned {
            name: Name::parse(&format!("m{n}")).unwrap(),
            version: 1,
            digest: Digest::of(b""),
            mode: [Mode::Active, Mode::Shadow, Mode::Off][usize::from(modes[n % modes.len()] % 3)],
        };
        (0..count).map(of).collect()
    }

    /// Does one step of `wanted`, for which `takes_ms` of fetching are left; how long that took.
    fn step(desired: &mut Desired, turns: &mut Turns, wanted: &Wanted, takes_ms: &mut u64, now_ms: u64) -> u64 {
        let version = wanted.version();
        turns.begin(desired, &version);
        match (&wanted.step, wanted.assigned.mode) {
            (Step::Fetch, Mode::Active | Mode::Shadow) => {
                let slice = if turns.others(desired, &version, now_ms) { SLICE_MS } else { u64::MAX };
                let took = (*takes_ms).min(slice);
                *takes_ms -= took;
                if *takes_ms > 0 {
                    return took; // it gave way
                }
                match wanted.assigned.mode {
                    Mode::Active => desired.fetched(wanted),
                    _ => desired.done(wanted),
                }
                turns.ended(&version);
                took
            }
            _ => {
                desired.done(wanted);
                turns.ended(&version);
                1
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::models::tests::cases(2_000)))]

        /// Those that cannot be had now are tried again and again; every other one is done as soon as if those were not
        /// there, but for their tries, and within two slices of each one before it.
        #[test]
        fn what_cannot_be_had_or_takes_long_holds_up_no_other(
            modes in prop::collection::vec(0_u8..3, 1..6),
            takes_ms in prop::collection::vec(1_u64..200_000, 6),
            never in prop::collection::btree_set(0_usize..6, 0..3),
            try_ms in 1_u64..5_000,
        ) {
            let all = models(6, &modes);
            let mut desired = Desired::default();
            desired.assign(1.into(), &all, |_| false);
            let (mut turns, mut left, mut now_ms, mut tries) = (Turns::default(), takes_ms.clone(), 0, vec![0_u32; 6]);
            let can = |n: usize| all[n].mode == Mode::Off || !never.contains(&n);
            let is_done = |desired: &Desired, n: usize| {
                desired.wanted().iter().any(|wanted| wanted.assigned == all[n] && wanted.step == Step::Done)
            };
            let mut done_at = [None; 6];
            for _ in 0..10_000 {
                let Some(wanted) = turns.next(&desired, now_ms, true).cloned() else {
                    let Some(due_ms) = turns.due_ms(&desired, now_ms) else { break };
                    prop_assert!(due_ms > now_ms && turns.waits_for(&desired, now_ms) == Some("no pack"));
                    if (0..6).all(|n| !can(n) || is_done(&desired, n)) && tries.iter().sum::<u32>() > 50 {
                        break;
                    }
                    now_ms = due_ms;
                    continue;
                };
                let n = all.iter().position(|model| *model == wanted.assigned).unwrap();
                if can(n) {
                    now_ms += step(&mut desired, &mut turns, &wanted, &mut left[n], now_ms);
                } else {
                    let version = wanted.version();
                    turns.begin(&desired, &version);
                    tries[n] += 1;
                    now_ms += try_ms;
                    prop_assert_eq!(turns.failed(&version), tries[n]);
                    turns.wait(&version, now_ms + WAIT_MS, "no pack".to_owned());
                }
                for (n, done_at) in done_at.iter_mut().enumerate() {
                    if done_at.is_none() && is_done(&desired, n) {
                        *done_at = Some(now_ms);
                    }
                }
            }
            // Between two of its turns each other one has at most one: of a slice, or of a try.
            for n in (0..6).filter(|n| can(*n)) {
                let (turns_of, others) = (takes_ms[n] / SLICE_MS + 2, 6);
                let most = takes_ms[n] + turns_of * others * (SLICE_MS + try_ms) + others * 10;
                prop_assert!(done_at[n].is_some_and(|at| at <= most), "{n} was done at {:?}, not by {most}", done_at[n]);
            }
            for n in (0..6).filter(|n| !can(*n)) {
                prop_assert!(tries[n] > 0 && !is_done(&desired, n));
                // No more often than its wait allows.
                prop_assert!(u64::from(tries[n] - 1) * (WAIT_MS + try_ms) <= now_ms);
            }
            prop_assert!(desired.reports().all(|told| told.outcome != ModelOutcome::Refused));
        }
    }

    #[test]
    fn what_is_half_decided_comes_first_and_alone_and_what_was_assigned_anew_need_not_wait() {
        let mut desired = Desired::default();
        desired.assign(1.into(), &models(2, &[0, 2]), |_| false);
        let mut turns = Turns::default();
        assert_eq!(
            turns.next(&desired, 0, false).map(|wanted| wanted.assigned.mode),
            Some(Mode::Off),
            "without a link"
        );
        let first = turns.next(&desired, 0, true).unwrap().clone();
        desired.fetched(&first);
        let trial = turns.next(&desired, 0, true).unwrap().clone();
        assert_eq!((&trial.assigned, &trial.step), (&first.assigned, &Step::Trial));
        turns.wait(&trial.version(), 10, "the disk".to_owned());
        assert!(turns.next(&desired, 9, true).is_none() && turns.due_ms(&desired, 9) == Some(10));
        assert_eq!(turns.next(&desired, 10, true), Some(&trial));
        turns.hurry();
        assert_eq!((turns.next(&desired, 0, true), turns.waits_for(&desired, 0)), (Some(&trial), None));
    }
}
