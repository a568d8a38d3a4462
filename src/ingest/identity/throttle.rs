//! Who guesses waits: failed attempts per address, and a wait that doubles. [pure]
//!
//! IPv6 addresses are counted by their /64: that is what one host or one home gets, and it may use all of it.

use core::net::{IpAddr, Ipv6Addr};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Most addresses remembered. At some 100 bytes each that is 6 MB; whoever has more of them loses the oldest.
pub const ADDRESSES_MAX: usize = 65_536;

/// First wait.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// What is counted as one source.
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[derive(Clone, Copy, Debug)]
struct Record {
    failures: u32,
    /// Whose name was given; `None`: different ones.
    whose: Option<u64>,
    until: Duration,
    /// When it was last changed, and a number that makes that unique.
    age: (Duration, u64),
}

/// Failures by address. Time is counted from any fixed moment.
#[derive(Debug)]
pub struct Throttle {
    after: u32,
    wait_max: Duration,
    capacity: usize,
    records: HashMap<IpAddr, Record>,
    /// By age, oldest first.
    order: BTreeMap<(Duration, u64), IpAddr>,
    next: u64,
}

impl Throttle {
    /// After `after` failures an address waits a second, with each further one twice as long, at most `wait_max`.
    pub fn new(after: u32, wait_max: Duration) -> Self {
        Self::bounded(after, wait_max, ADDRESSES_MAX)
    }

    fn bounded(after: u32, wait_max: Duration, capacity: usize) -> Self {
        let (records, order) = (HashMap::new(), BTreeMap::new());
        Self { after: after.max(1), wait_max, capacity, records, order, next: 0 }
    }

    /// How long `address` must still wait; `None`: it may try.
    pub fn wait(&self, address: IpAddr, now: Duration) -> Option<Duration> {
        let left = self.records.get(&source(address))?.until.saturating_sub(now);
        (!left.is_zero()).then_some(left)
    }

    /// Counts a failure to come in as `whose`, and says how long the address must wait now.
    pub fn failed(&mut self, address: IpAddr, whose: u64, now: Duration) -> Option<Duration> {
        let source = source(address);
        let earlier = self.forget(source);
        // Whoever was quiet for as long as the longest wait starts anew: a typing error of yesterday is forgotten.
        let earlier = earlier.filter(|r| now.saturating_sub(r.until.max(r.age.0)) < self.wait_max);
        let failures = earlier.map_or(1, |r| r.failures.saturating_add(1));
        let wait = match failures.checked_sub(self.after) {
            None => Duration::ZERO,
            Some(more) => WAIT_MIN.saturating_mul(1_u32.checked_shl(more).unwrap_or(u32::MAX)).min(self.wait_max),
        };
        let until = earlier.map_or(Duration::ZERO, |r| r.until).max(now.saturating_add(wait));
        if self.records.len() >= self.capacity
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.records.remove(&oldest);
        }
        self.next += 1;
        let age = (now, self.next);
        let whose = earlier.map_or(Some(whose), |r| r.whose.filter(|other| *other == whose));
        self.records.insert(source, Record { failures, whose, until, age });
        self.order.insert(age, source);
        self.wait(address, now)
    }

    /// A success as `whose` forgives the failures before if all of them were of the same: who has one right password must
    /// not be able to guess another's with it.
    pub fn succeeded(&mut self, address: IpAddr, whose: u64) {
        let source = source(address);
        if self.records.get(&source).is_some_and(|record| record.whose == Some(whose)) {
            self.forget(source);
        }
    }

    /// Addresses that must wait or have failed.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    fn forget(&mut self, source: IpAddr) -> Option<Record> {
        let record = self.records.remove(&source)?;
        self.order.remove(&record.age);
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whose name is given where that does not matter.
    const ME: u64 = 7;

    fn v4(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_double_up_to_the_longest_and_success_forgives() {
        let mut t = Throttle::new(3, s(10));
        assert_eq!((t.failed(v4(1), ME, s(0)), t.failed(v4(1), ME, s(0)), t.wait(v4(1), s(0))), (None, None, None));
        let mut now = s(0);
        for expected in [1, 2, 4, 8, 10, 10] {
            assert_eq!(t.failed(v4(1), ME, now), Some(s(expected)));
            assert_eq!(t.wait(v4(2), now), None, "only the one");
            now += s(expected);
            assert_eq!(t.wait(v4(1), now), None);
        }
        t.succeeded(v4(1), ME);
        assert_eq!((t.failed(v4(1), ME, now), t.len()), (None, 1));
    }

    #[test]
    fn one_right_password_does_not_help_to_guess_another() {
        let mut t = Throttle::new(3, s(10));
        t.failed(v4(1), 1, s(0));
        t.succeeded(v4(1), 2);
        t.failed(v4(1), 1, s(0));
        t.succeeded(v4(1), 2);
        assert_eq!(t.failed(v4(1), 1, s(0)), Some(s(1)));
        t.succeeded(v4(1), 1);
        assert_eq!(t.len(), 0, "its own forgives");
        t.failed(v4(1), 1, s(0));
        t.failed(v4(1), 2, s(0));
        t.succeeded(v4(1), 2);
        t.succeeded(v4(1), 1);
        assert_eq!(t.failed(v4(1), 3, s(0)), Some(s(1)), "different names: nobody's own");
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut t = Throttle::new(2, s(10));
        t.failed(v4(1), ME, s(0));
        assert_eq!(t.failed(v4(1), ME, s(10)), None);
        assert_eq!(t.failed(v4(1), ME, s(11)), Some(s(1)));
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_mapped_ipv4_address_is_ipv4() {
        let at = |text: &str| source(text.parse().unwrap());
        assert_eq!(at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff::9"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(at("::ffff:10.0.0.1"), v4(1));
    }

    #[test]
    fn the_table_is_bounded_and_loses_the_oldest() {
        let mut t = Throttle::bounded(1, s(300), 2);
        for n in 1..=3 {
            t.failed(v4(n), ME, s(u64::from(n)));
        }
        assert_eq!(t.len(), 2);
        assert_eq!(t.wait(v4(1), s(3)), None);
        assert!(t.wait(v4(3), s(3)).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        /// However it is called: bounded, in step with itself, and never more tries than the waits allow.
        #[test]
        fn guesses_are_few(
            steps in proptest::collection::vec((0_u8..4, 0_u64..4, any::<bool>(), 0_u64..3), 1..200),
        ) {
            let (after, most) = (3, s(16));
            let mut t = Throttle::bounded(after, most, 3);
            let mut now = Duration::ZERO;
            // Only the newest survive, so one address alone is watched against a model: (failures, until, last, names).
            type Model = (u32, Duration, Duration, Vec<u64>);
            let mut model: HashMap<u8, Model> = HashMap::new();
            for (who, pause, good, name) in steps {
                now += s(pause);
                let who = who % 3;
                let expected = model.get(&who).map(|m| m.1.saturating_sub(now)).filter(|w| !w.is_zero());
                prop_assert_eq!(t.wait(v4(who), now), expected);
                if good {
                    t.succeeded(v4(who), name);
                    if model.get(&who).is_some_and(|m| m.3.iter().all(|n| *n == name)) {
                        model.remove(&who);
                    }
                } else {
                    let old = model.get(&who).cloned().filter(|m| now.saturating_sub(m.1.max(m.2)) < most);
                    let failures = old.as_ref().map_or(1, |m| m.0 + 1);
                    let wait = if failures < after { s(0) } else { s(1 << (failures - after).min(20)).min(most) };
                    let until = old.as_ref().map_or(s(0), |m| m.1).max(now + wait);
                    t.failed(v4(who), name, now);
                    let mut names = old.map_or(Vec::new(), |m| m.3);
                    names.push(name);
                    model.insert(who, (failures, until, now, names));
                }
                prop_assert!(t.len() <= 3 && t.len() == t.order.len());
            }
        }
    }
}
