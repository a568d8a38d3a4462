//! The control topics on Pulsar's own protocol: reading one from its beginning, writing with a receipt, the lead, and many
//! inboxes at once.
//!
//! Not through the `pulsar` crate (6.9.1): its reader begins at the earliest message again when it reconnects by itself, its
//! exclusive producer reconnects by itself, so a lead would be lost without a word, and a producer of it costs a task and
//! several round trips, with tens of thousands of inboxes.

mod bulk;
mod channel;
mod inbox;
mod lead;
mod reader;
mod topic;
mod writer;

pub use bulk::Bulk;
pub use inbox::{Inboxes, NotSent, Outgoing};
pub use lead::{Held, Lead};
pub use reader::{Entry, Heard, Place, fetch, follow, read_all};
pub use topic::{Cluster, TopicError};
pub use writer::{NotWritten, Writer};
