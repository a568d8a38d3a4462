//! Topic names and filters (MQTT 5.0 §4.7, 3.1.1 §4.7), and the trees that match one against many of the other. [pure]

pub mod retained;
pub mod subscriptions;
#[cfg(test)]
mod tests;

pub use crate::event::topic as filter;
pub use filter::Filter;
