//! Who is at work on which version: one assembling at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::models::manifest::Name;

/// A version of a model.
pub type Version = (Name, u64);

/// The versions that are being assembled.
#[derive(Clone, Debug, Default)]
pub struct Busy(Arc<Mutex<BTreeSet<Version>>>);

/// The right to assemble a version; ends when dropped.
#[derive(Debug)]
pub struct Claim {
    busy: Busy,
    version: Version,
}

impl Busy {
    /// `None`: somebody else is at it.
    pub fn claim(&self, version: &Version) -> Option<Claim> {
        let claimed = self.lock().insert(version.clone());
        claimed.then(|| Claim { busy: self.clone(), version: version.clone() })
    }

    /// Whether somebody is at it.
    pub fn has(&self, version: &Version) -> bool {
        self.lock().contains(version)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Version>> {
        // A set is whole between any two calls on it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.version);
    }
}
