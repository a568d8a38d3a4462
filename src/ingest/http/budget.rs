//! How much memory all bodies together may take. Over it, a request is refused instead of the process killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::gauge::Gauge;

/// The bytes that may be held. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: u64,
    used: AtomicU64,
    shown: Gauge,
}

/// There is not enough left.
#[derive(Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// Others hold it: later there may be.
    Now,
    /// One lease wants more than there is in all.
    Ever,
}

impl Budget {
    /// A budget of `max` bytes; `shown` follows what is used.
    pub fn new(max: u64, shown: Gauge) -> Self {
        Self(Arc::new(Inner { max, used: AtomicU64::new(0), shown }))
    }

    /// A share of nothing yet.
    pub fn lease(&self) -> Lease {
        Lease { budget: self.clone(), held: 0 }
    }

    #[cfg(test)]
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub struct Lease {
    budget: Budget,
    held: u64,
}

impl Lease {
    /// Takes `more` bytes, or nothing.
    pub fn grow(&mut self, more: usize) -> Result<(), Exhausted> {
        let inner = &self.budget.0;
        let more = more as u64;
        let taken = inner.used.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        if taken > inner.max {
            inner.used.fetch_sub(more, Ordering::Relaxed);
            return Err(if self.held.saturating_add(more) > inner.max { Exhausted::Ever } else { Exhausted::Now });
        }
        self.held += more;
        inner.shown.inc_by(i64::try_from(more).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Bytes that it has.
    pub fn held(&self) -> usize {
        usize::try_from(self.held).unwrap_or(usize::MAX)
    }

    /// Has `bytes` then if there is as much; less can always be had.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Exhausted> {
        match bytes.checked_sub(self.held()) {
            Some(more) => self.grow(more),
            None => {
                self.give_back(self.held - bytes as u64);
                Ok(())
            }
        }
    }

    fn give_back(&mut self, bytes: u64) {
        let inner = &self.budget.0;
        self.held -= bytes;
        inner.used.fetch_sub(bytes, Ordering::Relaxed);
        inner.shown.dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_the_limit_holds() {
        let shown = Gauge::default();
        let budget = Budget::new(10, shown.clone());
        let (mut a, mut b) = (budget.lease(), budget.lease());
        assert_eq!(a.grow(6), Ok(()));
        assert_eq!(b.grow(5), Err(Exhausted::Now));
        assert_eq!(a.grow(5), Err(Exhausted::Ever));
        assert_eq!(b.grow(4), Ok(()));
        assert_eq!((budget.used(), shown.get()), (10, 10));
        drop(a);
        assert_eq!(b.grow(6), Ok(()));
        assert_eq!((b.resize(11), b.resize(3), b.held()), (Err(Exhausted::Ever), Ok(()), 3));
        assert_eq!((budget.used(), b.resize(10)), (3, Ok(())));
        drop(b);
        assert_eq!((budget.used(), shown.get()), (0, 0));
    }
}
