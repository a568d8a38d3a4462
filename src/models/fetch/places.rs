//! Where in its topic a message of a pack lies, as far as its place tells. [pure]
//!
//! A pack's messages are sent one after the other and alone, so a topic counts them up: entry by entry in a ledger, and
//! from 0 in the next one. Replication gives them other ids, and leaves the order. What this says is a guess: who reads
//! there goes by the place that each message says of itself.

/// Where a message lies: Pulsar's ledger, and the entry in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// The ledger.
    pub ledger: u64,
    /// The entry, from 0.
    pub entry: u64,
}

/// What is known of a topic.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Messages of the pack.
    places: u32,
    /// The topic's last message.
    last: Option<Id>,
    /// A message that was read, and its place.
    read: Option<(u32, Id)>,
}

impl Places {
    /// Of a pack with so many messages.
    pub fn new(places: u32) -> Self {
        Self { places, last: None, read: None }
    }

    /// The topic's last message is this one.
    pub fn ends(&mut self, last: Id) {
        self.last = Some(last);
    }

    /// Whether it is this one, or lies before it.
    pub fn is_end(&self, id: Id) -> bool {
        self.last.is_some_and(|last| last <= id)
    }

    /// A message was read.
    pub fn read(&mut self, place: u32, id: Id) {
        self.read = Some((place, id));
    }

    /// Where the message of `place` should lie; `None`: anywhere. Never behind the last one.
    pub fn guess(&self, place: u32) -> Option<Id> {
        let last = self.last?;
        let from_end = u64::from(self.places.saturating_sub(1).saturating_sub(place));
        if let Some(entry) = last.entry.checked_sub(from_end) {
            return Some(Id { entry, ..last });
        }
        let (read, id) = self.read?;
        let entry = (id.entry + u64::from(place)).checked_sub(u64::from(read))?;
        Some(Id { entry, ..id }.min(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids of a pack whose topic changed its ledger before these places.
    fn topic(places: u32, changes: &[u32]) -> Vec<Id> {
        let (mut next, mut ids) = (Id { ledger: 7, entry: 0 }, Vec::new());
        for place in 0..places {
            if changes.contains(&place) {
                next = Id { ledger: next.ledger + 5, entry: 0 };
            }
            ids.push(next);
            next.entry += 1;
        }
        ids
    }

    #[test]
    fn in_one_ledger_the_end_tells_every_place_and_in_two_a_message_that_was_read_tells_the_rest() {
        for change in 1..10 {
            let ids = topic(10, &[change]);
            let mut known = Places::new(10);
            assert_eq!(known.guess(3), None);
            known.ends(ids[9]);
            let told = |known: &Places, place: u32| known.guess(place) == Some(ids[place as usize]);
            assert!((change..10).all(|place| told(&known, place)) && (0..change).all(|p| known.guess(p).is_none()));
            known.read(0, ids[0]);
            assert!((0..10).all(|place| told(&known, place)), "{change}");
            assert!(known.is_end(ids[9]) && !known.is_end(ids[8]));
        }
    }

    #[test]
    fn a_guess_is_never_behind_the_end() {
        let mut known = Places::new(100);
        known.ends(Id { ledger: 7, entry: 3 });
        known.read(0, Id { ledger: 7, entry: 0 });
        assert!((0..200).all(|place| known.guess(place).is_none_or(|id| id <= Id { ledger: 7, entry: 3 })));
    }
}
