//! Logs, metrics and status.

pub mod logs;
pub mod metrics;
pub mod status;
