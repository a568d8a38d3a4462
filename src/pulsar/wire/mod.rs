//! Pulsar's binary protocol, as far as a gateway speaks it itself: one connection to one broker, frames, finding the
//! broker of a topic. The crate's own client adds public authorities to private ones, has no client certificates and sets
//! no sequence ids; this one does what the uplink and the downlink need of it.

pub mod connection;
pub mod error;
pub mod frame;
pub mod lookup;

pub use connection::{Address, Connection, Connector};
pub use error::LinkError;
