//! The machine: clock, randomness, files, tasks and shutdown. Uses nothing else of ours.

pub mod backoff;
pub mod clock;
pub mod files;
#[cfg(test)]
pub mod histories;
pub mod limits;
pub mod random;
pub mod sync_barrier;
pub mod tasks;
pub mod watch;
