//! Whose sessions there are, and which of them goes for a new one when there are as many as may be. [pure]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::record::Millis;
use super::session::Slot;
use super::{Broker, Notice, Reaction};

/// It is said this often at most that sessions were ended for new ones.
const TELL_AFTER_MS: Millis = 60_000;

/// Sessions by identity.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Owners {
    of: HashMap<Arc<str>, Sessions>,
    /// Those that have an absent session, by the number of all of theirs.
    ranked: BTreeSet<(usize, Arc<str>)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Sessions {
    all: usize,
    /// The longest absent first.
    absent: BTreeSet<(Millis, Slot)>,
}

impl Owners {
    /// A session began, with a connection or with none so far.
    pub fn began(&mut self, owner: &Arc<str>) {
        self.change(owner, |sessions| sessions.all += 1);
    }

    /// A session is over, which was absent since then or has a connection.
    pub fn ended(&mut self, owner: &Arc<str>, slot: Slot, absent_since: Option<Millis>) {
        self.change(owner, |sessions| {
            sessions.all = sessions.all.saturating_sub(1);
            absent_since.map(|since| sessions.absent.remove(&(since, slot)));
        });
    }

    /// A session lost its connection or got one, or it is known better since when it has none.
    pub fn moved(&mut self, owner: &Arc<str>, slot: Slot, old: Option<Millis>, new: Option<Millis>) {
        self.change(owner, |sessions| {
            old.map(|since| sessions.absent.remove(&(since, slot)));
            sessions.absent.extend(new.map(|since| (since, slot)));
        });
    }

    /// Whose turn it is to go for a new session of `newcomer`: the longest absent of who has the most sessions. Who would
    /// have as many with the new one makes room for it himself.
    pub fn next(&self, newcomer: &str) -> Option<Slot> {
        let (most, owner) = self.ranked.last()?;
        let own = self.of.get(newcomer).filter(|own| !own.absent.is_empty() && own.all + 1 >= *most);
        own.or_else(|| self.of.get(owner))?.absent.first().map(|&(_, slot)| slot)
    }

    fn change(&mut self, owner: &Arc<str>, change: impl FnOnce(&mut Sessions)) {
        let sessions = self.of.entry(owner.clone()).or_default();
        let before = (!sessions.absent.is_empty()).then_some(sessions.all);
        change(sessions);
        let after = (!sessions.absent.is_empty()).then_some(sessions.all);
        if sessions.all == 0 {
            self.of.remove(owner);
        }
        if before != after {
            before.map(|all| self.ranked.remove(&(all, owner.clone())));
            self.ranked.extend(after.map(|all| (all, owner.clone())));
        }
    }
}

impl Broker {
    /// Whether a new session of `owner` finds a place; an absent one may have to go for it.
    pub(super) fn has_place(&self, owner: &str) -> bool {
        self.sessions.len() < self.limits.max_sessions || self.owners.next(owner).is_some()
    }

    /// Makes a place for a new session of `owner`. What is connected stays: only who is away can be told later.
    pub(super) fn make_place(&mut self, now: Millis, owner: &str, reaction: &mut Reaction) {
        if self.sessions.len() < self.limits.max_sessions {
            return;
        }
        let Some(slot) = self.owners.next(owner) else { return };
        let Some(session) = self.sessions.get(slot) else { return };
        let (client_id, owner) = (session.client_id.clone(), session.owner.clone());
        self.end_session(now, slot, reaction);
        self.counts.sessions_evicted += 1;
        self.untold_evictions += 1;
        if self.evictions_told.is_none_or(|at| at + TELL_AFTER_MS <= now) {
            self.evictions_told = Some(now);
            let sessions = std::mem::take(&mut self.untold_evictions);
            reaction.notices.push(Notice::SessionEnded { client_id, owner, sessions });
        }
    }

    /// Notes since when a session has no connection; `None`: it has one.
    pub(super) fn set_absent(&mut self, slot: Slot, since: Option<Millis>) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let old = std::mem::replace(&mut session.absent_since, since);
        if old != since {
            self.owners.moved(&session.owner, slot, old, since);
        }
    }

    /// Whether what is noted is so.
    #[cfg(test)]
    pub(super) fn owners_are_known(&self) -> bool {
        let mut owners = Owners::default();
        for (slot, session) in self.sessions.from(0) {
            owners.began(&session.owner);
            owners.moved(&session.owner, slot, None, session.absent_since);
            if session.connected() == session.absent_since.is_some() {
                return false;
            }
        }
        owners == self.owners
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list. A step: of whom, since when absent, what happens.
        #[test]
        fn the_longest_absent_of_who_has_most_goes_first(
            steps in prop::collection::vec((0..4_usize, prop::option::of(0..50_u64), 0..5_u8), 1..80)
        ) {
            let names: [Arc<str>; 4] = ["", "a", "b", "c"].map(Into::into);
            let mut owners = Owners::default();
            let mut list: Vec<(Slot, usize, Option<Millis>)> = Vec::new();
            for (slot, (who, since, what)) in (0..).zip(steps) {
                match what {
                    0..=2 => {
                        owners.began(&names[who]);
                        owners.moved(&names[who], slot, None, since);
                        list.push((slot, who, since));
                    }
                    _ if list.is_empty() => {}
                    3 => {
                        let (slot, who, since) = list.swap_remove(slot as usize % list.len());
                        owners.ended(&names[who], slot, since);
                    }
                    _ => {
                        let at = slot as usize % list.len();
                        let (slot, who, old) = &mut list[at];
                        owners.moved(&names[*who], *slot, *old, since);
                        *old = since;
                    }
                }
                let count = |who: usize| list.iter().filter(|(_, w, _)| *w == who).count();
                let oldest = |who| list.iter().filter(|(_, w, _)| *w == who).filter_map(|(slot, _, at)| Some(((*at)?, *slot))).min();
                let most = (0..4).filter(|&w| oldest(w).is_some()).map(count).max();
                for (newcomer, name) in names.iter().enumerate() {
                    let goes = owners.next(name);
                    let may: Vec<_> = (0..4).filter(|&w| Some(count(w)) == most).filter_map(|w| Some(oldest(w)?.1)).collect();
                    let own = oldest(newcomer).filter(|_| Some(count(newcomer) + 1) >= most).map(|(_, slot)| slot);
                    match own {
                        Some(own) => prop_assert_eq!(goes, Some(own)),
                        None => prop_assert!(goes.map_or(may.is_empty(), |slot| may.contains(&slot)), "{:?} {:?}", goes, may),
                    }
                }
            }
        }
    }
}
