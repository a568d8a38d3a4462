//! The way in: a request or packet becomes events, the events go to the outbox, and only its receipt is answered.
//!
//! Architecture invariant: nothing here knows Pulsar or the uplink; a gateway without a cloud answers the same.

pub mod accept;
pub mod bridge;
pub mod decode;
pub mod http;
pub mod identity;
pub mod mapping;
pub mod mqtt;
pub mod refusal;
mod results;
pub mod router;
pub mod scoring;

pub use router::{Router, RouterError};
