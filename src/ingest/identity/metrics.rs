//! What the gate counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::observe::metrics::Metrics;

/// Label of a reason.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reason {
    reason: &'static str,
}

/// Label of a kind of credential.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Credential {
    credential: &'static str,
}

/// Label of a file.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct File {
    file: &'static str,
}

/// The counters; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    admitted: Family<Credential, Counter>,
    refused: Family<Reason, Counter>,
    /// What can be read again.
    refusals: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    file_bad: Family<File, Gauge>,
    pub passwords_hashed: Counter,
    pub audit_lost: Counter,
    pub devices: Gauge,
    pub revoked: Counter,
    pub addresses_failed: Gauge,
}

impl Counters {
    /// Registers everything in `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        let c = new.clone();
        metrics.register(|r| {
            r.register("identity_admitted", "Connections and requests let in, by kind of credential", c.admitted);
            r.register("identity_refused", "Refusals by reason", c.refused);
            r.register(
                "identity_file_bad",
                "1 while a changed file is not in force because something in it is wrong",
                c.file_bad,
            );
            r.register("identity_passwords_hashed", "Passwords checked with Argon2", c.passwords_hashed);
            r.register("identity_audit_lost", "Refusals missing in the log because of the disk", c.audit_lost);
            r.register("identity_devices", "Devices in the devices file", c.devices);
            r.register("identity_revoked", "Devices changed or removed while the gateway ran", c.revoked);
            r.register("identity_addresses_failed", "Addresses with failed attempts", c.addresses_failed);
        });
        // What never occurred shows as 0: alerts need that.
        for file in ["devices", "jwt-key"] {
            new.file_bad(file, false);
        }
        new
    }

    pub fn admitted(&self, credential: &'static str) {
        self.admitted.get_or_create(&Credential { credential }).inc();
    }

    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
        self.turned_away(reason);
    }

    /// Somebody is refused for what others count.
    pub fn turned_away(&self, reason: &'static str) {
        *self.refusals.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// All refusals by reason; there are few reasons.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn file_bad(&self, file: &'static str, bad: bool) {
        self.file_bad.get_or_create(&File { file }).set(i64::from(bad));
    }
}
