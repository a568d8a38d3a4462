//! Events that wait for their scores, and what they are with them.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{OptionFuture, join_all};

use super::failure::Failure;
use super::meters::RoleMeter;
use super::runs::Ran;
use super::scorer::Scorer;
use super::verdict::{self, Score};
use super::worker::{Answer, Outcome, Worker};
use crate::event::Event;

/// Scores that are being made.
#[must_use = "the events are in it"]
pub struct Pending {
    events: Vec<Event>,
    parts: Vec<Part>,
    node: String,
    event_bytes_max: u64,
}

/// Events as they are to be stored, in the order in which they came.
pub struct Scored {
    /// All of them, with or without scores.
    pub events: Vec<Event>,
    /// Events of their own.
    pub alarms: Vec<Alarm>,
}

/// An alarm that is to be stored.
pub struct Alarm {
    /// It.
    pub event: Event,
    scorer: Arc<Scorer>,
}

impl Alarm {
    /// The outbox did not take it.
    pub fn is_lost(&self, reason: &str) {
        self.scorer.meter.alarms_lost.inc();
        tracing::debug!(model = self.scorer.config.model, reason, "an alarm was not stored");
    }
}

/// The events of one scorer.
struct Part {
    scorer: Arc<Scorer>,
    begun: Instant,
    active: Option<Asked>,
    shadow: Option<Asked>,
    /// Places of its events.
    all: Vec<usize>,
}

/// What one version was asked.
struct Asked {
    version: u64,
    /// Places of the events.
    at: Vec<usize>,
    answer: Result<Answer, Failure>,
}

/// What one version said.
struct Said {
    version: u64,
    /// For how long its events were held, in microseconds.
    held_us: u64,
    /// Place and outcome, in the order of the places.
    outcomes: Vec<(usize, Outcome)>,
}

impl Said {
    fn of(this: Option<&Self>, at: usize) -> Option<Ran> {
        let this = this?;
        let found = this.outcomes.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        let (version, held_us) = (this.version, this.held_us);
        this.outcomes.get(found).map(|(_, outcome)| Ran { version, outcome: *outcome, held_us })
    }
}

impl Asked {
    fn ask(worker: &Arc<Worker>, at: Vec<usize>, events: &[Event], begun: Instant, deadline: Instant) -> Self {
        let data = at.iter().filter_map(|at| events.get(*at)).map(|event| event.data.clone()).collect();
        Self { version: worker.version, answer: worker.ask(data, begun, deadline), at }
    }

    async fn said(self, scorer: &Scorer, meter: &RoleMeter, begun: Instant) -> Said {
        let outcomes = match self.answer {
            Err(why) => vec![Err(why); self.at.len()],
            Ok(answer) => {
                let (outcomes, rests) = answer.outcomes().await;
                meter.seconds.observe(begun.elapsed().as_secs_f64());
                if rests {
                    let (model, version) = (&scorer.config.model, self.version);
                    tracing::warn!(
                        model,
                        version,
                        "the model is slower than latency_max; it is left alone for a while"
                    );
                }
                outcomes
            }
        };
        let held_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        Said { version: self.version, held_us, outcomes: self.at.into_iter().zip(outcomes).collect() }
    }
}

impl Pending {
    pub(super) fn begin(events: Vec<Event>, scorers: &[Arc<Scorer>], node: &str, event_bytes_max: u64) -> Self {
        let begun = Instant::now();
        let mut parts: Vec<Part> = Vec::new();
        for (at, event) in events.iter().enumerate() {
            let Some(scorer) = scorers.iter().find(|scorer| scorer.takes(&event.ty)) else { continue };
            match parts.iter_mut().find(|part| Arc::ptr_eq(&part.scorer, scorer)) {
                Some(part) => part.all.push(at),
                None => parts.push(Part { scorer: scorer.clone(), begun, active: None, shadow: None, all: vec![at] }),
            }
        }
        for part in &mut parts {
            part.ask(&events);
        }
        Self { events, parts, node: node.to_owned(), event_bytes_max }
    }

    /// What the events are once they are scored, or the time is over.
    pub async fn finish(self) -> Scored {
        let Self { mut events, parts, node, event_bytes_max } = self;
        let said = join_all(parts.into_iter().map(Part::said)).await;
        let mut alarms = Vec::new();
        for (part, active, shadow) in said {
            for at in part.all {
                let Some(event) = events.get_mut(at) else { continue };
                let scores = (Said::of(active.as_ref(), at), Said::of(shadow.as_ref(), at));
                alarms.extend(mark(&part.scorer, event, scores, (&node, event_bytes_max)));
            }
        }
        Scored { events, alarms }
    }
}

/// A part whose versions were asked.
struct Rest {
    scorer: Arc<Scorer>,
    all: Vec<usize>,
}

impl Part {
    fn ask(&mut self, events: &[Event]) {
        let deadline = self.begun + self.scorer.config.latency_max;
        if let Some(worker) = self.scorer.active() {
            self.active = Some(Asked::ask(&worker, self.all.clone(), events, self.begun, deadline));
        }
        let chosen = |at: &usize| Some((*at, self.scorer.shadow_for(events.get(*at)?)?));
        let (at, workers): (Vec<usize>, Vec<_>) = self.all.iter().filter_map(chosen).unzip();
        if let Some(worker) = workers.last() {
            self.shadow = Some(Asked::ask(worker, at, events, self.begun, deadline));
        }
    }

    async fn said(self) -> (Rest, Option<Said>, Option<Said>) {
        let Self { scorer, begun, active, shadow, all } = self;
        let meter = &scorer.meter;
        let active: OptionFuture<_> = active.map(|asked| asked.said(&scorer, &meter.active, begun)).into();
        let shadow: OptionFuture<_> = shadow.map(|asked| asked.said(&scorer, &meter.shadow, begun)).into();
        let (active, shadow) = tokio::join!(active, shadow);
        (Rest { scorer, all }, active, shadow)
    }
}

type Both = (Option<Ran>, Option<Ran>);

/// Writes what the versions said into the event, counts it, and makes an alarm of it.
fn mark(
    scorer: &Arc<Scorer>,
    event: &mut Event,
    (active, shadow): Both,
    (node, bytes_max): (&str, u64),
) -> Option<Alarm> {
    let (config, meter) = (&scorer.config, &scorer.meter);
    verdict::strip(event);
    let score = |version, score| Score { model: &config.model, version, score };
    let counted = |said: Option<Ran>, role: &RoleMeter| match said.map(|ran| (ran.version, ran.outcome)) {
        Some((version, Ok(number))) => {
            role.scored.inc();
            Some(score(version, number))
        }
        Some((_, Err(why))) => {
            meter.unscored(role, why, 1);
            None
        }
        None => None,
    };
    #[allow(clippy::cast_possible_truncation)] // scores have 32 bits: 0.8 is not above 0.8
    let above = config.alarm_above.map(|above| above as f32);
    scorer.count(active, shadow, above);
    let no_model = Ran { version: 0, outcome: Err(Failure::NoModel), held_us: 0 };
    let active = counted(active.or(Some(no_model)), &meter.active);
    let shadow = counted(shadow, &meter.shadow);
    if (active.is_some() || shadow.is_some()) && !verdict::write(event, active, shadow, bytes_max) {
        meter.unscored(&meter.active, Failure::NoRoom, 1);
    }
    let is_above = |score: Score<'_>| above.is_some_and(|above| score.score > above);
    if let (Some(active), Some(shadow)) = (active, shadow) {
        meter.compared.inc();
        meter.disagreements.inc_by(u64::from(is_above(active) != is_above(shadow)));
    }
    let (score, above) = (active.filter(|score| is_above(*score))?, config.alarm_above?);
    meter.alarms.inc();
    Some(Alarm { event: verdict::alarm(node, &config.alarm_type, event, score, above), scorer: scorer.clone() })
}
