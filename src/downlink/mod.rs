//! The way back: what is addressed to devices, kept on this gateway until the device has taken it; and the trial of a
//! configuration that the cloud has assigned to the gateway itself.

pub mod commands;
pub mod trial;
