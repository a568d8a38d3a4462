//! What central operations push: signed, and judged before anything acts on it. [pure]
//!
//! ```text
//! operators' machine                     cloud                              gateway
//! document (TOML) ─ artefact key ─┐
//! keyring (JSON) ── root key ─────┼─► Message { keyring?, assignment, document? } ─► judge ─► Offer or Refusal
//! assignment (JSON) ───────────────── controller key ─┘                          trust, node, accepted, now
//! ```
//!
//! Everything signed is a DSSE envelope ([`envelope`]) whose payload type says what it is and which keys may sign it
//! ([`trust`]): the cloud holds only controller keys, so it can choose among documents but never write one. [`judge`]
//! is the only way from bytes to an [`Offer`]. Time is an argument; `None` while the clock cannot be trusted.

pub mod assignment;
pub mod command;
pub mod counter;
pub mod envelope;
pub mod json;
pub mod keyring;
pub mod keys;
pub mod message;
pub mod model;
pub mod refusal;
pub mod trust;

pub use assignment::{Assignment, Digest, DocumentRef};
pub use command::Command;
pub use counter::{Accepted, Document, Judgement, Offer, Situation, judge};
pub use envelope::{Envelope, EnvelopeError, Kind, Verified};
pub use keyring::Keyring;
pub use keys::{KeyError, KeyId, PublicKey, SecretKey};
pub use message::{MESSAGE_BYTES_MAX, Message};
pub use model::{Mode, ModelAssigned};
pub use refusal::Refusal;
pub use trust::{Role, Trust};

#[cfg(test)]
mod tests;
