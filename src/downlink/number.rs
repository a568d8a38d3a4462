//! What orders the assignments of a node. [pure]

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of an assignment, in the epoch of the keyring that was in force when it was made: whatever was numbered in an
/// epoch is older than all of the next one. A root key raises the epoch, so numbers that a stolen controller key has used up
/// can be left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Number {
    /// The keyring's; not written while it is 0, so that the version before reads it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// Grows with every assignment to the node; 0: there is none yet.
    #[serde(rename = "number")]
    pub n: u64,
}

impl Number {
    /// Number `n` of `epoch`.
    pub const fn new(epoch: u64, n: u64) -> Self {
        Self { epoch, n }
    }

    /// The one before, so that this one may come again; of the first of an epoch none that anything has.
    pub const fn before(self) -> Self {
        Self { n: self.n.saturating_sub(1), ..self }
    }

    /// Whether nothing was ever assigned.
    pub const fn is_none(self) -> bool {
        self.epoch == 0 && self.n == 0
    }
}

/// Of the first epoch, as long as no keyring says otherwise.
impl From<u64> for Number {
    fn from(n: u64) -> Self {
        Self::new(0, n)
    }
}

/// "7", or "7 of epoch 2".
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            0 => write!(f, "{}", self.n),
            epoch => write!(f, "{} of epoch {epoch}", self.n),
        }
    }
}

/// For fields that are not written while they are 0.
#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
pub fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_above_every_number_of_the_one_before_and_epoch_0_is_written_as_before_there_were_any() {
        assert!(Number::new(1, 1) > Number::new(0, u64::MAX) && Number::new(1, 2) > Number::new(1, 1));
        assert!(Number::new(1, 1).before() > Number::new(0, u64::MAX) && Number::default().is_none());
        let text = |number: Number| serde_json::to_string(&number).unwrap();
        assert_eq!(
            (text(7.into()).as_str(), Number::new(2, 7).to_string().as_str()),
            (r#"{"number":7}"#, "7 of epoch 2")
        );
        for number in [Number::from(7), Number::new(2, 7)] {
            assert_eq!(serde_json::from_str::<Number>(&text(number)).unwrap(), number);
        }
    }
}
