//! Looks elsewhere with the control link alone, while what runs has lost its own: the rest goes on as it is.

use super::Keeper;
use super::gateway::Gateway;
use super::probe;
use crate::downlink::trial::{Input, Place};
use crate::pulsar::wire::Address;

/// Where the control link looks.
pub(super) struct Looking {
    /// Those of its addresses at which the assignment was found.
    pub proven: Vec<Address>,
}

impl<G: Gateway> Keeper<G> {
    /// See [`crate::downlink::trial::Action::Look`].
    pub(super) async fn look(&mut self, generation: u64, place: Place) -> Option<Input> {
        let what = probe::name(&place);
        let own = self.settings_of(self.live.wanted());
        if place == self.running.place {
            tracing::info!("nothing was found elsewhere: the control link goes on with {what}");
            self.looking = None;
            self.running.generation = generation;
            self.set_link(own, generation);
            return None;
        }
        let loaded = self.load(self.own.clone(), place).await;
        let settings = loaded.map(|(config, _)| self.settings_of(&config));
        let not_there = |detail: String| Some(Input::NotApplied { generation, detail });
        match settings {
            Err(reason) => not_there(reason),
            Ok(None) => not_there("it names no Pulsar".to_owned()),
            Ok(settings) if settings == own => not_there("it has the same link".to_owned()),
            Ok(settings) => {
                tracing::warn!("the control link has been down for long: it looks where {what} would");
                self.looking = Some(Looking { proven: Vec::new() });
                self.set_link(settings, generation);
                None
            }
        }
    }
}
