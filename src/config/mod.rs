//! What an operator writes: sections, defaults, validation with file and line, units.
//!
//! [`edge`] and [`cloud`] hold one table of keys each, and everything follows from it: the structs,
//! their reading (`reader`, by the `kinds` of values), the environment variables, `config/*.toml`
//! (`generate`). Rules between keys are in `edge_rules`, `device_rules`, `cloud_rules` and `rules`.

mod changes;
pub mod cloud;
mod cloud_rules;
mod device_rules;
mod devices;
pub mod diff;
mod document;
pub mod edge;
mod edge_rules;
pub mod env;
pub mod generate;
pub mod inference;
pub mod key_text;
mod kinds;
pub mod log;
pub mod mode;
pub mod models;
mod names;
pub mod overlay;
mod own_file;
pub mod problem;
mod reader;
mod rules;
pub mod secret;
mod suggest;
mod table;
pub mod units;
mod urls;

pub use changes::Changes;
pub use cloud::CloudConfig;
pub use edge::EdgeConfig;
pub use env::Env;
pub use mode::Mode;
pub use own_file::OwnFile;
pub use problem::{ConfigErrors, Warning};

#[cfg(test)]
mod tests;
