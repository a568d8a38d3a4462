//! Where events are stored for good.

pub mod files;
pub mod state;
