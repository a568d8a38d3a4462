//! What was heard and is not fetched yet: of states, inbox messages and refusals the newest alone. [pure]

use std::collections::VecDeque;

use bytes::Bytes;

use super::content::Unfit;
use super::{Heard, Taken};
use crate::pulsar::wire::Address;

/// At most one of each, and the commands that the core counts.
#[derive(Debug, Default)]
pub struct Pending {
    /// Connected, or why not.
    state: Option<Result<(), String>>,
    /// Where it was found; without bytes it is empty.
    inbox: Option<(Address, Option<Bytes>)>,
    unfit: Option<Unfit>,
    commands: VecDeque<(Bytes, Taken)>,
}

impl Pending {
    /// The link is connected, or why it is not.
    pub fn state(&mut self, state: Result<(), String>) {
        self.state = Some(state);
    }

    /// A newer inbox message, or that there is none.
    pub fn inbox(&mut self, at: Address, bytes: Option<Bytes>) {
        (self.inbox, self.unfit) = (Some((at, bytes)), None);
    }

    /// A message that cannot be handed over.
    pub fn unfit(&mut self, unfit: Unfit) {
        self.unfit = Some(unfit);
    }

    /// One more command.
    pub fn command(&mut self, bytes: Bytes, taken: Taken) {
        self.commands.push_back((bytes, taken));
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.state.is_none() && self.inbox.is_none() && self.unfit.is_none() && self.commands.is_empty()
    }

    /// The next to be told.
    pub fn next(&mut self, generation: u64) -> Option<Heard> {
        if let Some(state) = self.state.take() {
            return Some(match state {
                Ok(()) => Heard::Connected { generation },
                Err(why) => Heard::Disconnected { generation, why },
            });
        }
        match self.inbox.take() {
            Some((at, Some(bytes))) => return Some(Heard::Inbox { generation, at, bytes }),
            Some((at, None)) => return Some(Heard::Empty { generation, at }),
            None => {}
        }
        if let Some(Unfit { reason, detail }) = self.unfit.take() {
            return Some(Heard::Unfit { generation, reason, detail });
        }
        let (bytes, taken) = self.commands.pop_front()?;
        // Without this a burst would leave its room behind for ever.
        if self.commands.is_empty() {
            self.commands = VecDeque::new();
        }
        Some(Heard::Command { bytes, taken })
    }
}
