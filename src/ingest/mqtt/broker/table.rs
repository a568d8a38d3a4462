//! Sessions by slot: a small number that subscriptions and maps hold instead of a name. [pure]

use super::session::{Session, Slot};

/// A slot is used again after its session has ended.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Box<Session>>>,
    free: Vec<Slot>,
}

impl Table {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// `None`: more than four thousand million.
    pub fn insert(&mut self, session: Box<Session>) -> Option<Slot> {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(session);
            return Some(slot);
        }
        let slot = Slot::try_from(self.slots.len()).ok()?;
        self.slots.push(Some(session));
        Some(slot)
    }

    pub fn get(&self, slot: Slot) -> Option<&Session> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Session> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    pub fn remove(&mut self, slot: Slot) -> Option<Box<Session>> {
        let session = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(session)
    }

    /// From a slot on, in order.
    pub fn from(&self, slot: Slot) -> impl Iterator<Item = (Slot, &Session)> {
        (slot..).zip(self.slots.iter().skip(slot as usize)).filter_map(|(slot, s)| Some((slot, s.as_deref()?)))
    }
}
