//! What Tidegate needs in Pulsar, and how it comes to be there: `desired` from the configuration, `observe` what is,
//! `plan` the difference, `apply` it, and look again until nothing is left to do.
//!
//! What provisioning does to settings that exist:
//! - It adds what is missing and raises what is too weak (shorter retention, fewer partitions, deduplication off).
//! - It leaves alone what is stronger than configured (longer retention, more allowed or replication clusters, other
//!   subscriptions and topics, permissions) and says so in a note. To lower a setting, use Pulsar's own tools.
//! - Fewer partitions than there are is an error before anything is changed: Pulsar cannot take partitions away.
//! - It never deletes anything.
//!
//! Architecture Invariant: `plan` sees only values; whether to change something is decided there and nowhere else.

pub mod apply;
pub mod broker;
pub mod conflict;
pub mod desired;
pub mod observe;
pub mod plan;

pub use apply::{Progress, ProvisionError, Summary, provision};
pub use conflict::Conflict;
pub use desired::Desired;
pub use observe::Observed;
pub use plan::{Plan, Step, plan};
