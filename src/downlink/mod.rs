//! The way back: what is addressed to devices, kept on this gateway until the device has taken it; and what central
//! operations push to the gateway itself: signed artefacts, and the trial of a configuration before it is kept.

pub mod artefact;
pub mod commands;
pub mod keeper;
pub mod link;
pub mod number;
pub mod report;
pub mod trial;
