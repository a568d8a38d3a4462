//! Why an event has no score: the labels of the metric. [pure]

use super::fields::Unmapped;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Its data makes no row.
    Unmapped(Unmapped),
    /// The model failed on it.
    Model,
    /// The score is NaN or infinite.
    NotFinite,
    /// The score did not come within `latency_max`.
    Late,
    /// Too many events wait for the model.
    Busy,
    /// The model was too slow and is left alone for a while.
    Resting,
    /// There is no model, or it could not be loaded.
    NoModel,
    /// The event has no room for the attributes.
    NoRoom,
}

impl Failure {
    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unmapped(Unmapped::TooLarge) => "too-large",
            Self::Unmapped(Unmapped::NotJson) => "not-json",
            Self::Unmapped(Unmapped::Missing) => "missing-field",
            Self::Unmapped(Unmapped::WrongType) => "wrong-type",
            Self::Unmapped(Unmapped::OutOfRange) => "out-of-range",
            Self::Model => "model",
            Self::NotFinite => "not-finite",
            Self::Late => "late",
            Self::Busy => "busy",
            Self::Resting => "resting",
            Self::NoModel => "no-model",
            Self::NoRoom => "no-room",
        }
    }
}
