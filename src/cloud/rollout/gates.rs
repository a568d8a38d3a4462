//! What a node's measurements of a model must be: the gates of a roll-out. [pure]
//!
//! All of it is measured on one node, since the version began to score there. A share is taken of all events, but of no fewer
//! than [`Gates::events_min`]: a gate does not fall because the first of a few events was a bad one, and it falls as soon as no
//! better ones could make up for it.

use serde::{Deserialize, Serialize};

use super::{ALL_PPM, Ppm};
use crate::downlink::artefact::Mode;

/// Events that a version must have scored on a node when the plan does not say: at fewer a share of 1 % says nothing.
pub const EVENTS_MIN: u64 = 100;

/// Bounds, all of them optional. Without any a node has succeeded when it says that it uses the version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gates {
    /// Least events that the version has scored; without it [`EVENTS_MIN`] if any of the next four is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_min: Option<u64>,
    /// Most events on which it failed, of those that it was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors_share_max_ppm: Option<Ppm>,
    /// Most events with a score above the threshold, of those that it has scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarms_share_max_ppm: Option<Ppm>,
    /// Most events of which one version alone has a score above the threshold, of those that both have scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreed_share_max_ppm: Option<Ppm>,
    /// Longest mean time for which an event was held for its score, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_mean_max_us: Option<u64>,
    /// Most bytes by which what waits in the outbox has grown since the version was put to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog_growth_max_bytes: Option<u64>,
}

/// What a node has measured of a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Events that it has scored.
    pub scored: u64,
    /// Events on which it failed.
    pub failed: u64,
    /// Of those that it has scored, above the threshold.
    pub alarms: u64,
    /// Events that both versions have scored.
    pub compared: u64,
    /// Of these, above the threshold by one alone.
    pub disagreed: u64,
    /// For how long events were held for their scores, in microseconds, all together.
    pub held_us: u64,
    /// Bytes by which what waits in the outbox has grown.
    pub backlog_growth: u64,
}

/// What a gate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It has not scored enough events.
    Waits,
    /// All is within bounds.
    Passed,
    /// It is past a bound; in words.
    Failed(String),
}

impl Gates {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn shares(&self) -> impl Iterator<Item = Ppm> {
        [self.errors_share_max_ppm, self.alarms_share_max_ppm, self.disagreed_share_max_ppm].into_iter().flatten()
    }

    /// Whether what a roll-out brings can be measured; the error is a sentence.
    pub(super) fn check(&self, mode: Option<Mode>) -> Result<(), &'static str> {
        match mode {
            _ if self.is_empty() => Ok(()),
            None => Err("gates are measured on models: a roll-out of a document has none"),
            Some(Mode::Off) => {
                Err("gates are measured on a version that scores: a roll-out that takes one away has none")
            }
            Some(Mode::Active) if self.disagreed_share_max_ppm.is_some() => {
                Err("only a version that runs beside another one can disagree with it: roll it out as a shadow first")
            }
            Some(_) => Ok(()),
        }
    }

    /// Least events.
    pub fn events_min(&self) -> u64 {
        let is_scored = self.shares().next().is_some() || self.held_mean_max_us.is_some();
        self.events_min.unwrap_or(if is_scored { EVENTS_MIN } else { 0 })
    }

    /// Whether a node that has measured this has succeeded.
    pub fn judge(&self, m: &Measured) -> Judged {
        let (min, asked) = (self.events_min(), m.scored.saturating_add(m.failed));
        if let Some(max) = self.backlog_growth_max_bytes.filter(|max| m.backlog_growth > *max) {
            return Judged::Failed(format!(
                "backlog: it has grown by {} bytes, the gate is {}",
                thousands(m.backlog_growth),
                thousands(max)
            ));
        }
        let shares = [
            ("errors", "events", m.failed, asked, self.errors_share_max_ppm),
            ("alarms", "events", m.alarms, m.scored, self.alarms_share_max_ppm),
            ("disagreement", "events scored by both", m.disagreed, m.compared, self.disagreed_share_max_ppm),
        ];
        for (what, of, count, all, max) in shares {
            let Some(max) = max else { continue };
            if u128::from(count) * u128::from(ALL_PPM) > u128::from(max) * u128::from(all.max(min)) {
                let (share, max) = (percent(count, all), percent(max.into(), ALL_PPM.into()));
                return Judged::Failed(format!("{what}: {share} % of {} {of}, the gate is {max} %", thousands(all)));
            }
        }
        if let Some(max) = self.held_mean_max_us.filter(|_| asked > 0 && asked >= min)
            && u128::from(m.held_us) > u128::from(max) * u128::from(asked)
        {
            return Judged::Failed(format!(
                "time: events were held for {} µs on average of {}, the gate is {} µs",
                thousands(m.held_us / asked),
                thousands(asked),
                thousands(max)
            ));
        }
        let is_compared = self.disagreed_share_max_ppm.is_none() || m.compared >= min;
        if m.scored >= min && is_compared { Judged::Passed } else { Judged::Waits }
    }
}

/// With one digit after the point at most.
fn percent(count: u64, all: u64) -> String {
    let share = (count as f64 / all.max(1) as f64 * 1_000.0).round() / 10.0;
    if share == 0.0 && count > 0 { format!("{}", count as f64 / all.max(1) as f64 * 100.0) } else { format!("{share}") }
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let grouped = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
    grouped.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::histories::cases;

    fn counts() -> impl Strategy<Value = Measured> {
        let n = || prop_oneof![4 => 0..400_u64, 1 => any::<u64>()];
        (n(), n(), n(), n(), n(), n(), n()).prop_map(
            |(scored, failed, alarms, compared, disagreed, held_us, growth)| {
                let (alarms, disagreed) = (alarms.min(scored), disagreed.min(compared));
                Measured { scored, failed, alarms, compared, disagreed, held_us, backlog_growth: growth }
            },
        )
    }

    fn gates() -> impl Strategy<Value = Gates> {
        let share = || prop::option::of(0..=ALL_PPM);
        let n = || prop::option::of(0..400_u64);
        (n(), share(), share(), share(), n(), n()).prop_map(|(events, errors, alarms, disagreed, held, backlog)| {
            Gates {
                events_min: events,
                errors_share_max_ppm: errors,
                alarms_share_max_ppm: alarms,
                disagreed_share_max_ppm: disagreed,
                held_mean_max_us: held,
                backlog_growth_max_bytes: backlog,
            }
        })
    }

    /// Whether the bound is kept when so many more events come and all of them are good.
    fn can_be_kept(count: u64, all: u64, max: Option<Ppm>, min: u64) -> bool {
        let all = if all < min { min } else { all };
        max.is_none_or(|max| u128::from(count) * 1_000_000 <= u128::from(max) * u128::from(all))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(4_000), ..ProptestConfig::default() })]

        #[test]
        fn a_gate_falls_when_its_bound_cannot_be_kept_and_opens_when_enough_events_were_scored(
            gates in gates(), m in counts(),
        ) {
            let (min, asked) = (gates.events_min(), m.scored.saturating_add(m.failed));
            let kept = can_be_kept(m.failed, asked, gates.errors_share_max_ppm, min)
                && can_be_kept(m.alarms, m.scored, gates.alarms_share_max_ppm, min)
                && can_be_kept(m.disagreed, m.compared, gates.disagreed_share_max_ppm, min)
                && gates.backlog_growth_max_bytes.is_none_or(|max| m.backlog_growth <= max)
                && gates.held_mean_max_us.is_none_or(|max| asked < min || asked == 0 || m.held_us.div_ceil(asked) <= max);
            let enough = m.scored >= min && (gates.disagreed_share_max_ppm.is_none() || m.compared >= min);
            let judged = gates.judge(&m);
            prop_assert_eq!(matches!(judged, Judged::Failed(_)), !kept, "{:?}", judged);
            prop_assert_eq!(judged == Judged::Passed, kept && enough);
            // The log takes its words.
            if let Judged::Failed(words) = judged {
                prop_assert!(words.len() <= crate::cloud::rollout::REASON_BYTES_MAX && words.contains("the gate is"));
            }
        }

        #[test]
        fn what_is_worse_opens_no_gate(gates in gates(), m in counts(), more in 0..1_000_u64) {
            let worse = [
                Measured { alarms: m.alarms.saturating_add(more).min(m.scored), ..m },
                Measured { disagreed: m.disagreed.saturating_add(more).min(m.compared), ..m },
                Measured { held_us: m.held_us.saturating_add(more), ..m },
                Measured { backlog_growth: m.backlog_growth.saturating_add(more), ..m },
            ];
            if matches!(gates.judge(&m), Judged::Failed(_)) {
                for worse in worse {
                    prop_assert!(matches!(gates.judge(&worse), Judged::Failed(_)), "{:?}", worse);
                }
            }
        }
    }

    #[test]
    fn it_says_what_fell_and_why() {
        let gates = Gates { alarms_share_max_ppm: Some(50_000), ..Gates::default() };
        let measured = |scored, alarms| Measured { scored, alarms, ..Measured::default() };
        let words = "alarms: 12.4 % of 1,034 events, the gate is 5 %".to_owned();
        assert_eq!(gates.judge(&measured(1_034, 128)), Judged::Failed(words));
        // Of the first hundred five may be alarms; with the sixth no better ones make up for it.
        assert_eq!(gates.judge(&measured(7, 5)), Judged::Waits);
        assert!(matches!(gates.judge(&measured(7, 6)), Judged::Failed(_)));
        assert_eq!(gates.judge(&measured(100, 5)), Judged::Passed);
        let backlog = Gates { backlog_growth_max_bytes: Some(1 << 20), ..Gates::default() };
        assert_eq!(backlog.judge(&Measured::default()), Judged::Passed, "of what does not score as well");
        let grown = Measured { backlog_growth: 1 << 21, ..Measured::default() };
        let words = "backlog: it has grown by 2,097,152 bytes, the gate is 1,048,576".to_owned();
        assert_eq!(backlog.judge(&grown), Judged::Failed(words));
        for (gates, mode, is_right) in [
            (backlog, Some(Mode::Active), true),
            (backlog, None, false),
            (backlog, Some(Mode::Off), false),
            (Gates::default(), None, true),
            (Gates { disagreed_share_max_ppm: Some(1), ..Gates::default() }, Some(Mode::Active), false),
            (Gates { disagreed_share_max_ppm: Some(1), ..Gates::default() }, Some(Mode::Shadow), true),
        ] {
            assert_eq!(gates.check(mode).is_ok(), is_right, "{gates:?} {mode:?}");
        }
    }
}
