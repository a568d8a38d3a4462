//! Roll-outs under random histories, with two controllers that die at every step, and at full size.

mod examples;
mod histories;
mod model;
mod models;
mod of_models;
mod size;
mod world;
