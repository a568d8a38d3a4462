//! Commands.

pub mod command;
pub mod core;
pub mod record;
