//! Models assigned to a real gateway through a real broker: what is whole, signed and well is used, everything else is
//! refused or undone, and told; a kill at any moment loses nothing that was fetched.

#![allow(clippy::unwrap_used)] // a test

#[path = "../support/mod.rs"]
mod support;

mod damaged;
mod fetching;
mod killing;
mod refusing;
mod reverting;
mod site;
mod using;
