//! The way up: reads a lane, delivers it to Pulsar once and in order.

mod batch;
mod resume;
