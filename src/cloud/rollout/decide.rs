//! What the controller appends next. [pure]

use super::event::{RolloutId, What};
use super::fold::Rollouts;
use super::plan::OnFailure;
use super::progress::Stage;
use super::waves::Rollout;
use super::{ALL_PPM, DRAFT_MS_MAX, UnixMs};

impl Rollouts {
    /// Decisions that are due, at most one for each roll-out. They count once they are read back.
    pub fn decide(&self, now_ms: UnixMs) -> Vec<What> {
        let one = |(id, rollout): (&RolloutId, &Rollout)| match rollout.stage {
            Stage::Running => decide_one(id, rollout, now_ms),
            _ if draft_ends_ms(rollout) <= now_ms => {
                Some(What::Aborted { rollout: id.clone(), reason: "it was not started within a day".to_owned() })
            }
            _ => None,
        };
        self.active().filter_map(one).collect()
    }

    /// When [`Rollouts::decide`] has something to decide unless an event comes before.
    pub fn next_decision_ms(&self) -> Option<UnixMs> {
        let due = |r: &Rollout| match r.is_past_threshold() || (r.soak_begins() && r.soaked_at_ms().is_none()) {
            true => Some(0),
            false => r.soaked_at_ms().filter(|_| r.may_go_on()),
        };
        let running = self.active().filter(|(_, r)| r.stage == Stage::Running && r.paused.is_none());
        let drafts = self.active().filter(|(_, r)| r.stage == Stage::Draft).map(|(_, r)| draft_ends_ms(r));
        running.filter_map(|(_, r)| due(r)).chain(drafts).min()
    }
}

fn draft_ends_ms(draft: &Rollout) -> UnixMs {
    draft.created_ms.saturating_add(DRAFT_MS_MAX)
}

fn decide_one(id: &RolloutId, rollout: &Rollout, now_ms: UnixMs) -> Option<What> {
    if rollout.is_past_threshold() {
        let progress = rollout.progress();
        let plan = &rollout.plan;
        let share = f64::from(plan.failures_share_max_ppm) / f64::from(ALL_PPM) * 100.0;
        let reason = format!(
            "{} of {} exposed nodes failed; at most {} and {share} % may",
            progress.failed, progress.exposed, plan.failures_max
        );
        return match plan.on_failure {
            OnFailure::Abort => Some(What::Aborted { rollout: id.clone(), reason }),
            OnFailure::Pause if rollout.paused.is_none() => Some(What::Paused { rollout: id.clone(), reason }),
            OnFailure::Pause => None,
        };
    }
    if rollout.soaked_at_ms().is_none() && rollout.soak_begins() {
        return Some(What::Soaking { rollout: id.clone() });
    }
    if !rollout.may_go_on() || rollout.soaked_at_ms()? > now_ms {
        return None;
    }
    Some(match rollout.next_wave() {
        Some((wave, _)) => What::Advanced { rollout: id.clone(), wave },
        None => What::Completed { rollout: id.clone() },
    })
}
