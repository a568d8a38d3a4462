//! What edge and cloud share of Pulsar: names of topics, producers and properties; credentials; the admin interface; its binary
//! protocol as a gateway speaks it.

pub mod admin;
pub mod admin_error;
pub mod credentials;
pub mod murmur;
pub mod names;
pub mod provision;
pub mod wire;
