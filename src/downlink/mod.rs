//! The way back: what is addressed to devices, kept on this gateway until the device has taken it.

pub mod commands;
