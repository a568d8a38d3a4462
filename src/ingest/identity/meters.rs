//! Who has used how much: the quotas of all devices, in a table that does not grow with the names that were ever seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::quota::{Meter, Rates, Wait, admit};

/// Entries beyond which those that hold nothing are thrown out. The others are as many as there are connections.
const SWEEP_AT: usize = 65_536;

/// One device's quota. All of its connections share it.
pub type Shared = Arc<Mutex<Meter>>;

/// All quotas.
#[derive(Debug)]
pub struct Meters {
    started: Instant,
    total: Mutex<Option<Meter>>,
    by_name: Mutex<HashMap<Arc<str>, Shared>>,
}

impl Meters {
    /// Nobody has used anything.
    pub fn new(total: Rates) -> Self {
        let total = total.any().then(|| Meter::new(total, Duration::ZERO));
        Self { started: Instant::now(), total: Mutex::new(total), by_name: Mutex::default() }
    }

    /// From here on another limit for all together, which have used nothing of it.
    pub fn set_total(&self, total: Rates) {
        let now = self.now();
        *self.total() = total.any().then(|| Meter::new(total, now));
    }

    fn total(&self) -> std::sync::MutexGuard<'_, Option<Meter>> {
        self.total.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The quota of `name`, as far as it is used up, with these limits.
    pub fn of(&self, name: &Arc<str>, rates: Rates) -> Shared {
        let now = self.now();
        let mut table = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = table.get(name) {
            meter.lock().unwrap_or_else(PoisonError::into_inner).set(rates, now);
            return meter.clone();
        }
        if table.len() >= SWEEP_AT {
            sweep(&mut table, now);
        }
        let meter = Arc::new(Mutex::new(Meter::new(rates, now)));
        table.insert(name.clone(), meter.clone());
        meter
    }

    /// Takes from the quota of one and of all, or from neither.
    pub fn admit(&self, meter: &Shared, events: usize, bytes: usize) -> Result<(), Wait> {
        let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = self.total();
        admit(&mut meter, total.as_mut(), self.now(), events as u64, bytes as u64)
    }

    /// Whether there is a limit on all together.
    pub fn limits_all(&self) -> bool {
        self.total().is_some()
    }
}

/// Throws out what nobody holds and what has nothing to remember; if that is too little, what nobody holds.
fn sweep(table: &mut HashMap<Arc<str>, Shared>, now: Duration) {
    let held = |meter: &Shared| Arc::strong_count(meter) > 1;
    table.retain(|_, m| held(m) || !m.lock().unwrap_or_else(PoisonError::into_inner).is_idle(now));
    if table.len() >= SWEEP_AT {
        table.retain(|_, m| held(m));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_comes_back_finds_its_quota_as_it_left_it() {
        let meters = Meters::new(Rates::default());
        let (name, rates) = (Arc::from("a"), Rates { events: 1, bytes: 0 });
        // An hour's debt, so that no slow machine refills it.
        meters.admit(&meters.of(&name, rates), 3600, 0).unwrap();
        assert!(meters.admit(&meters.of(&name, rates), 1, 0).is_err());
        assert!(meters.admit(&meters.of(&"b".into(), rates), 1, 0).is_ok());
    }

    #[test]
    fn names_seen_once_are_not_kept_for_ever() {
        let meters = Meters::new(Rates::default());
        let held: Vec<Shared> = (0..100).map(|n| meters.of(&format!("held-{n}").into(), Rates::default())).collect();
        for n in 0..SWEEP_AT * 2 {
            meters.of(&n.to_string().into(), Rates::default());
        }
        let table = meters.by_name.lock().unwrap();
        assert!(table.len() <= SWEEP_AT && table.contains_key("held-7"), "{} {}", table.len(), held.len());
    }
}
