//! What an operator writes: sections, defaults, validation with file and line, units.

pub mod cloud;
pub mod edge;

pub use cloud::CloudConfig;
pub use edge::EdgeConfig;
