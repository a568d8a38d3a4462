//! How the versions of one model do, in numbers that the gateway tells the cloud. [pure]

use super::failure::Failure;
use super::worker::Outcome;
use crate::downlink::report::{Run, Scores};

/// What one version said of an event.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// Which.
    pub version: u64,
    /// What it said.
    pub outcome: Outcome,
    /// For how long the event was held, in microseconds.
    pub held_us: u64,
}

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs(Scores);

impl Runs {
    /// One event. `above`: the threshold.
    pub fn count(&mut self, active: Option<Ran>, shadow: Option<Ran>, above: Option<f32>) {
        let before = self.pair();
        let scores = &mut self.0;
        let said = [(&mut scores.active, active), (&mut scores.shadow, shadow)].map(|(run, ran)| note(run, ran, above));
        if self.pair() != before {
            (self.0.compared, self.0.disagreed) = (0, 0);
        }
        if let [Some(active), Some(shadow)] = said {
            self.0.compared += 1;
            self.0.disagreed += u64::from(active != shadow);
        }
    }

    /// Of the versions that score now.
    pub fn of(&self, active: Option<u64>, shadow: Option<u64>) -> Scores {
        let run = |run: Option<Run>, version: Option<u64>| {
            let new = Run { version: version?, ..Run::default() };
            Some(run.filter(|run| run.version == new.version).unwrap_or(new))
        };
        let is_pair = self.pair() == (active, shadow);
        let (compared, disagreed) = if is_pair { (self.0.compared, self.0.disagreed) } else { (0, 0) };
        Scores { active: run(self.0.active, active), shadow: run(self.0.shadow, shadow), compared, disagreed }
    }

    fn pair(&self) -> (Option<u64>, Option<u64>) {
        let version = |run: Option<Run>| run.map(|run| run.version);
        (version(self.0.active), version(self.0.shadow))
    }
}

/// Whether its score is above the threshold; `None`: it has none.
fn note(run: &mut Option<Run>, ran: Option<Ran>, above: Option<f32>) -> Option<bool> {
    let Ran { version, outcome, held_us } = ran?;
    let new = Run { version, ..Run::default() };
    let run = run.get_or_insert(new);
    if run.version != version {
        *run = new;
    }
    let is_above = match outcome {
        Ok(score) => {
            let is_above = above.is_some_and(|above| score > above);
            run.scored += 1;
            run.alarms += u64::from(is_above);
            Some(is_above)
        }
        // That is the event's fault, or nobody was asked.
        Err(Failure::Unmapped(_) | Failure::NoModel | Failure::NoRoom) => return None,
        Err(Failure::Model | Failure::NotFinite | Failure::Late | Failure::Busy | Failure::Resting) => {
            run.failed += 1;
            None
        }
    };
    run.held_us = run.held_us.saturating_add(held_us);
    run.held_us_max = run.held_us_max.max(held_us);
    is_above
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Both = (Option<Ran>, Option<Ran>);

    fn ran() -> impl Strategy<Value = Option<Ran>> {
        let outcome = prop_oneof![
            6 => (0..4_u8).prop_map(|score| Ok(f32::from(score))),
            1 => Just(Err(Failure::Late)),
            1 => Just(Err(Failure::NoRoom)),
        ];
        let version = prop_oneof![9 => Just(7_u64), 1 => Just(8_u64)];
        let ran = (version, outcome, 0..1_000_u64);
        prop::option::weighted(0.9, ran.prop_map(|(version, outcome, held_us)| Ran { version, outcome, held_us }))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: crate::sys::histories::cases(1_000), ..ProptestConfig::default() })]

        /// The same, counted at the end over all that came since the version began.
        #[test]
        fn each_version_is_counted_from_when_it_began(events in prop::collection::vec((ran(), ran()), 0..60)) {
            let mut runs = Runs::default();
            events.iter().for_each(|(active, shadow)| runs.count(*active, *shadow, Some(1.0)));
            let since = |ran: fn(&Both) -> Option<Ran>| {
                let version = events.iter().rev().find_map(ran)?.version;
                let is_other = |event: &_| ran(event).is_some_and(|ran| ran.version != version);
                Some((version, events.iter().rposition(is_other).map_or(0, |at| at + 1)))
            };
            let (active, shadow) = (since(|e| e.0), since(|e| e.1));
            let scores = runs.of(active.map(|a| a.0), shadow.map(|s| s.0));
            let of = |all: &[Option<Ran>], test: fn(&Outcome) -> bool| {
                all.iter().flatten().filter(|ran| test(&ran.outcome)).count() as u64
            };
            for (run, since, side) in [(scores.active, active, 0), (scores.shadow, shadow, 1)] {
                let Some((version, since)) = since else { prop_assert_eq!(run, None); continue };
                let all: Vec<_> = events[since..].iter().map(|e| if side == 0 { e.0 } else { e.1 }).collect();
                let run = run.unwrap();
                prop_assert_eq!((run.version, run.scored), (version, of(&all, |o| o.is_ok())));
                prop_assert_eq!(run.alarms, of(&all, |o| o.is_ok_and(|score| score > 1.0)));
                prop_assert_eq!(run.failed, of(&all, |o| matches!(o, Err(Failure::Late))));
                prop_assert!(run.held_us_max <= run.held_us);
            }
            if let (Some((_, a)), Some((_, s))) = (active, shadow) {
                let both = events[a.max(s)..].iter().filter_map(|(a, s)| Some((a.as_ref()?.outcome.ok()?, s.as_ref()?.outcome.ok()?)));
                let both: Vec<_> = both.collect();
                let disagreed = both.iter().filter(|(a, s)| (*a > 1.0) != (*s > 1.0)).count() as u64;
                prop_assert_eq!((scores.compared, scores.disagreed), (both.len() as u64, disagreed));
            }
            prop_assert_eq!(runs.of(None, Some(99)).shadow, Some(Run { version: 99, ..Run::default() }));
        }
    }
}
