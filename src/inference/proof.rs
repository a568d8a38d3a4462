//! What is known of a version's bytes before they are run. Who looks after the models says it; until then nothing is proven.

use std::sync::{Arc, OnceLock};

/// Says what was proven.
pub trait Proofs: Send + Sync {
    /// Whether this process has read all of the version and found it to be what was signed.
    fn is_proven(&self, model: &str, version: u64) -> bool;

    /// Whether these bytes are that version, and a model that scores. The error says why they are not to be run.
    fn check(&self, model: &str, version: u64, bytes: &[u8]) -> Result<(), String>;
}

/// Whom the scorers believe, once somebody is there.
pub type Believed = Arc<OnceLock<Arc<dyn Proofs>>>;
