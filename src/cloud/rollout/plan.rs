//! How a roll-out goes. [pure]

use serde::{Deserialize, Serialize};

use super::gates::Gates;
use super::{ALL_PPM, Ppm};

/// Most waves.
pub const WAVES_MAX: usize = 16;

/// Longest soak of a wave: 30 days.
pub const SOAK_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// Part of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// Of all members, those of earlier waves included.
    pub share_ppm: Ppm,
    /// How long enough nodes must have succeeded before the next wave.
    pub soak_ms: u64,
    /// Whether an operator must approve before this wave begins.
    pub approval: bool,
}

/// What happens past the failure threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Every exposed node is put back.
    Abort,
    /// Nothing more is exposed until an operator resumes or aborts.
    Pause,
}

/// Waves and thresholds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// In order; the last one is all.
    pub waves: Vec<Wave>,
    /// Most failed nodes.
    pub failures_max: u32,
    /// Most failed nodes as a share of the exposed ones.
    pub failures_share_max_ppm: Ppm,
    /// Least succeeded nodes as a share of the exposed ones that are not absent; one at least.
    pub successes_share_min_ppm: Ppm,
    /// Past either.
    pub on_failure: OnFailure,
    /// A wave waits until every exposed node that is not absent has answered, whatever share has succeeded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wait_for_all: bool,
    /// What a node's measurements must be for it to have succeeded; of a model that scores alone.
    #[serde(default, skip_serializing_if = "Gates::is_empty")]
    pub gates: Gates,
}

impl Default for Plan {
    /// 1 %, 10 %, 50 %, 100 %, ten minutes each; at most 5 % and 100 nodes may fail, 90 % must succeed.
    fn default() -> Self {
        let wave = |share_ppm| Wave { share_ppm, soak_ms: 600_000, approval: false };
        Self {
            waves: [10_000, 100_000, 500_000, ALL_PPM].map(wave).to_vec(),
            failures_max: 100,
            failures_share_max_ppm: 50_000,
            successes_share_min_ppm: 900_000,
            on_failure: OnFailure::Abort,
            wait_for_all: false,
            gates: Gates::default(),
        }
    }
}

/// Why a plan is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// None, or too many.
    #[error("a roll-out has 1 to {WAVES_MAX} waves, not {0}")]
    Waves(usize),
    /// A wave that is not larger than the one before.
    #[error("wave {0} must be larger than the one before it")]
    Order(usize),
    /// The last wave leaves nodes out.
    #[error("the last wave must be all nodes (share_ppm = {ALL_PPM})")]
    Last,
    /// A share above all.
    #[error("a share is at most {ALL_PPM} ppm, not {0}")]
    Share(Ppm),
    /// Too long.
    #[error("a wave soaks for at most {SOAK_MS_MAX} ms, not {0}")]
    Soak(u64),
}

impl Plan {
    /// Whether it can be followed.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.waves.is_empty() || self.waves.len() > WAVES_MAX {
            return Err(PlanError::Waves(self.waves.len()));
        }
        for share in [self.failures_share_max_ppm, self.successes_share_min_ppm].into_iter().chain(self.gates.shares())
        {
            if share > ALL_PPM {
                return Err(PlanError::Share(share));
            }
        }
        let mut before = 0;
        for (i, wave) in self.waves.iter().enumerate() {
            if wave.share_ppm <= before {
                return Err(PlanError::Order(i));
            }
            if wave.soak_ms > SOAK_MS_MAX {
                return Err(PlanError::Soak(wave.soak_ms));
            }
            before = wave.share_ppm;
        }
        if before == ALL_PPM { Ok(()) } else { Err(PlanError::Last) }
    }
}

/// `share` of `n`, rounded up.
pub(super) fn share_of(share: Ppm, n: usize) -> usize {
    let whole = u64::try_from(n).unwrap_or(u64::MAX).saturating_mul(share.into());
    usize::try_from(whole.div_ceil(ALL_PPM.into())).unwrap_or(usize::MAX)
}
