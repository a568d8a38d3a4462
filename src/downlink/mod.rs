//! The way back: what is addressed to devices, kept on this gateway until the device has taken it; and what central
//! operations push to the gateway itself.

pub mod artefact;
pub mod commands;
