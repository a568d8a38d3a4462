//! Models, the cloud's side end to end: a real cloud and a real broker; what is in the packs is read back and put together.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod assigning;
mod killing;
mod publishing;
mod refusing;
mod rollouts;
mod site;
mod updates;
mod whole;
