//! What a gateway lacks of a version, and in which places of which packs it is to be had. [pure]

use std::collections::{BTreeMap, BTreeSet};

use super::index::{Entry, Index};

/// What is lacking, by the version whose pack carries it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs to read, and which of their messages.
    pub packs: BTreeMap<u64, Wanted>,
    /// Bytes of the chunks that are lacking, before compression, each chunk once.
    pub bytes: u64,
}

/// What is wanted of one pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Messages of the pack, with its head.
    pub places: u32,
    /// The places to be read, from 0; the head is not among them.
    pub lacking: BTreeSet<u32>,
}

impl Plan {
    /// Of the chunks of `index`, of which `has` says which are here, by the number of the entry.
    pub fn of(index: &Index, has: impl Fn(u32) -> bool) -> Self {
        let mut plan = Self::default();
        let mut seen = BTreeSet::new();
        for (number, entry) in (0..).zip(index.entries()) {
            if has(number) || !seen.insert(entry.hash) {
                continue;
            }
            plan.bytes += u64::from(entry.length);
            if let Some((version, places, place)) = place(index, entry) {
                let lacking = BTreeSet::new();
                plan.packs.entry(version).or_insert(Wanted { places, lacking }).lacking.insert(place);
            }
        }
        plan
    }

    /// Messages to be read.
    pub fn messages(&self) -> usize {
        self.packs.values().map(|wanted| wanted.lacking.len()).sum()
    }

    /// Whether something is lacking that this place of this version's pack should bring.
    pub fn wants(&self, pack: u64, place: u32) -> bool {
        self.packs.get(&pack).is_some_and(|wanted| wanted.lacking.contains(&place))
    }

    /// Whether nothing is lacking.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }
}

/// The pack's version, its messages, and the chunk's place among them. An index within its bounds has it.
fn place(index: &Index, entry: &Entry) -> Option<(u64, u32, u32)> {
    let pack = index.pack_of(entry)?;
    let places = pack.heads.checked_add(pack.pieces)?;
    Some((pack.version, places, pack.heads.checked_add(entry.piece)?))
}
