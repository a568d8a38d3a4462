//! Compares what devices were promised with what arrived. Knows nothing of Tidegate but event ids.

use std::collections::{BTreeMap, HashMap};

use super::fleet::Ledger;

/// One event as it arrived, in the order of arrival (per device at least).
#[derive(Clone, Debug)]
pub struct Arrival {
    /// CloudEvents id: `<device>-<n>`.
    pub id: String,
    /// CRC32 of the data.
    pub crc: u32,
}

/// The verdict. Everything but `acknowledged`, `delivered` and `uncertain_delivered` must be 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Events a device got a 202 for.
    pub acknowledged: u64,
    /// Of these, how many arrived at least once.
    pub delivered: u64,
    /// Events offered, never answered, that arrived nevertheless (allowed).
    pub uncertain_delivered: u64,
    /// Acknowledged and not arrived.
    pub missing: u64,
    /// Arrivals of an event that had arrived before.
    pub duplicates: u64,
    /// Arrivals of a device's event after a later one of the same device.
    pub order_violations: u64,
    /// Arrivals nobody sent, or with other data than was sent.
    pub altered: u64,
    /// The first few things that are wrong, in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Nothing missing, double, out of order or altered.
    pub fn is_clean(&self) -> bool {
        self.missing + self.duplicates + self.order_violations + self.altered == 0
    }

    fn blame(&mut self, what: String) {
        if self.examples.len() < 10 {
            self.examples.push(what);
        }
    }
}

/// Judges `arrivals` against `ledger`.
pub fn judge(ledger: &Ledger, arrivals: impl IntoIterator<Item = Arrival>) -> Verdict {
    let mut v = Verdict::default();
    let mut seen: HashMap<(String, u64), u64> = HashMap::new();
    let mut latest: BTreeMap<String, u64> = BTreeMap::new();
    for arrival in arrivals {
        let parts = arrival.id.rsplit_once('-').and_then(|(d, n)| Some((d.to_owned(), n.parse::<u64>().ok()?)));
        let expected = parts.as_ref().and_then(|(d, n)| {
            let device = ledger.get(d)?;
            let index = usize::try_from(*n).ok()?.checked_sub(1)?;
            device
                .acknowledged
                .get(index)
                .copied()
                .or_else(|| device.uncertain.filter(|_| index == device.acknowledged.len()))
        });
        let (Some((device, n)), Some(expected)) = (parts, expected) else {
            v.altered += 1;
            v.blame(format!("{} was never sent", arrival.id));
            continue;
        };
        if expected != arrival.crc {
            v.altered += 1;
            v.blame(format!("{} has other data than was sent", arrival.id));
        }
        let times = seen.entry((device.clone(), n)).or_default();
        *times += 1;
        if *times > 1 {
            v.duplicates += 1;
            v.blame(format!("{} arrived {times} times", arrival.id));
            continue;
        }
        let before = latest.entry(device).or_default();
        if n < *before {
            v.order_violations += 1;
            v.blame(format!("{} arrived after number {before}", arrival.id));
        }
        *before = n.max(*before);
    }
    for (device, known) in ledger {
        for n in 1..=known.acknowledged.len() as u64 {
            v.acknowledged += 1;
            if seen.contains_key(&(device.clone(), n)) {
                v.delivered += 1;
            } else {
                v.missing += 1;
                v.blame(format!("{device}-{n} was acknowledged and did not arrive"));
            }
        }
        let next = known.acknowledged.len() as u64 + 1;
        if known.uncertain.is_some() && seen.contains_key(&(device.clone(), next)) {
            v.uncertain_delivered += 1;
        }
    }
    v
}

#[cfg(test)]
mod tests {
    use super::super::fleet::DeviceLedger;
    use super::*;

    fn ledger() -> Ledger {
        let a = DeviceLedger { acknowledged: vec![11, 12, 13], uncertain: Some(14) };
        BTreeMap::from([("a".to_owned(), a)])
    }

    fn arrivals(list: &[(u64, u32)]) -> Vec<Arrival> {
        list.iter().map(|(n, crc)| Arrival { id: format!("a-{n}"), crc: *crc }).collect()
    }

    #[test]
    fn the_oracle_finds_every_kind_of_fault() {
        let clean = judge(&ledger(), arrivals(&[(1, 11), (2, 12), (3, 13)]));
        assert!(clean.is_clean() && clean.delivered == 3);
        assert_eq!(judge(&ledger(), arrivals(&[(1, 11), (2, 12), (3, 13), (4, 14)])).uncertain_delivered, 1);
        assert_eq!(judge(&ledger(), arrivals(&[(1, 11), (3, 13)])).missing, 1);
        assert_eq!(judge(&ledger(), arrivals(&[(1, 11), (1, 11), (2, 12), (3, 13)])).duplicates, 1);
        assert_eq!(judge(&ledger(), arrivals(&[(1, 11), (3, 13), (2, 12)])).order_violations, 1);
        assert_eq!(judge(&ledger(), arrivals(&[(1, 11), (2, 99), (3, 13)])).altered, 1);
        assert_eq!(judge(&ledger(), arrivals(&[(1, 11), (2, 12), (3, 13), (9, 1)])).altered, 1);
    }
}
