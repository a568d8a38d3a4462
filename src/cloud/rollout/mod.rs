//! Roll-outs: something new goes to many gateways in waves, and stops where it fails: a document, or a version of a model.
//!
//! ```text
//! operator                                 controller (one at a time)                       nodes
//!    │ Created, Enrolled…, Started             │ Claimed (epoch), Soaking                     │
//!    │ Approved, Paused, Resumed, Aborted      │ Advanced, Completed, Aborted, Absent         │ reports
//!    ▼                                         ▼ Reported ◄───────────────────────────────────┘
//! ═══╧═════════════════════════════════════════╧═══ one log, `rollouts/config`: its order decides ═════►
//!                      │ read back by every process
//!                      ▼
//!            Rollouts::apply ──► state ──► assignment(node): number, target ──► inbox
//!                                  └─────► decide(now): what the controller appends next
//!
//!                   Started               Advanced                 Advanced          Completed
//!          ┌───────┐       ┌────────────────┐      ┌────────────────┐      ┌───────┐        ┌───────────┐
//!  Created │ Draft ├──────►│ wave 0:  1 %   ├─────►│ wave 1:  10 %  ├─ … ─►│ 100 % ├───────►│ Completed │
//!          └───┬───┘       └───────┬────────┘      └───────┬────────┘      └───┬───┘        └───────────┘
//!              └───────────────────┴── Aborted: every exposed node is put back ┴─► Aborted
//! ```
//!
//! **The log decides.** The state is a fold over it, and nothing else: whoever has read as far has the same. A decision is
//! one event; the fold checks it again (stage, wave, thresholds, soak, approval, epoch) and treats what does not hold as
//! [`Void`]. So a controller may die between any two writes, append twice, or be one of two: the first valid event counts.
//! A controller acts on an event only after it has read it back.
//!
//! **Numbers.** The number of a node's assignment is the place in the log of the event that changed it. It is a function of
//! the log, grows for every node, and never means two things. A new controller sends what [`Rollouts::outstanding`]
//! names; sending again is harmless. A stale controller can only send what the log once said, with a lower number.
//!
//! **A log that is lost**, trimmed, or begun anew counts from 1 again, and nodes refuse what follows as older than what they
//! took. A log begins with [`What::Begun`], so that the beginning of a new one can be told from a rest; a log whose first event
//! is another one (trimmed, or begun by a version before there was this event) is taken as it is, and a process says so when it
//! starts. What counts is what nodes say that they took: above [`Rollouts::index`], an operator raises the numbers
//! ([`What::Raised`]), or a root key the epoch, which stands above them (`downlink::number`).
//!
//! **Fencing.** [`What::Claimed`] takes the lead with a higher epoch. Decisions of any other controller are void from there
//! on. Facts (reports) and operators' orders need no lead.
//!
//! **Waves.** Nodes stand in line by BLAKE3 of the roll-out's id and their own: the same line on every process, another one
//! for every roll-out. A wave exposes the first `ceil(share × members)` of it, at least one. A late joiner takes its
//! place in the line and is exposed at once when the wave allows one more; never is a larger part exposed than the wave's.
//!
//! **Advance** when `max(1, successes_share_min × (exposed − absent))` nodes have succeeded, for `soak_ms` without a break, the
//! next wave is approved where it needs that, and failures are within the threshold. Counts are of the whole roll-out. A
//! node that has succeeded and fails later counts as failed; reports may come twice and in any order. A node that the
//! controller has not seen for long is [`What::Absent`] until it reports; weeks later it finds its assignment in its inbox. An
//! operator may declare a wave passed ([`What::Passed`]) when nodes do not come back.
//!
//! **Stop** when more than `failures_max` nodes, or more than `failures_share_max` of the exposed ones, have failed, or so
//! many that enough cannot succeed any more: aborted with revert, or paused, as the plan says. An operator who resumes
//! accepts the failures so far. Abort puts every exposed node back, under a higher number, to what
//! it ran well before, or was to run and has not spoken of; never to what has failed on it.
//!
//! **Models.** A node's assignment names its document and all its models; each of them has a course of its own ([`course`]): what it
//! is, what the node said of it, and what ran well before. An abort, a report, and what a late joiner lacks are about one of them,
//! and leave the others; a document is decided anew under every number, a model only when it changes. What a node says of a model
//! ([`ModelSaid`]) counts for the version and mode that its course is about: that it has taken the assignment is no success.
//! [`Gates`] judge what nodes measure; the lead appends what they come to as [`What::Reported`], so that success, failure,
//! thresholds and put-back are one machine.
//!
//! **Overlap.** A node is in at most one roll-out that is not over. A second one that enrols it passes it over and counts
//! it ([`Progress::held`]); it can be enrolled again when the first one is over. To supersede a roll-out, abort it first.
//! A roll-out that is completed stands: a node enrolled later gets its target at once, unless it has something newer of its kind.
//!
//! **Room.** A draft takes nobody's place: at most [`DRAFTS_MAX`], for a day. [`ACTIVE_MAX`] roll-outs run at once, and besides
//! them [`ROLLBACKS_MAX`] rollbacks: whatever runs or hangs, what gateways ran before can be given back to them.
//!
//! **Time.** A soak is measured on the clock of the lead alone, from one of its own events to another; what operators' clocks
//! say counts for nothing. When another process takes the lead, what the log shows of the soak until the last word of the one
//! before is added to what the new one measures: no two clocks are ever compared.

mod course;
mod decide;
mod event;
mod fold;
mod gates;
mod node;
mod plan;
mod progress;
mod query;
mod void;
mod waves;

#[cfg(test)]
mod tests;

pub use event::{Audience, Author, Digest, Event, ModelSaid, NodeId, NodeReport, RolloutId, Verdict, What};
pub use fold::Rollouts;
pub use gates::{EVENTS_MIN, Gates, Judged, Measured};
pub use plan::{OnFailure, Plan, PlanError, Wave};
pub use progress::{Progress, Stage};
pub use query::{Assignment, Created};
pub use void::Void;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type UnixMs = u64;

/// Most nodes of one roll-out: what DESIGN §8's fleet is planned for. About 30 MB in memory (`tests/size.rs`).
pub const MEMBERS_MAX: usize = 100_000;

/// Most nodes in all roll-outs together.
pub const NODES_MAX: usize = 400_000;

/// Most roll-outs of a kind that run at once, rollbacks not counted: more than that nobody watches.
pub const ACTIVE_MAX: usize = 8;

/// Most rollbacks that run at once: they have places of their own, so that nothing that is under way keeps gateways from
/// going back. One command makes as many as there are documents to go back to.
pub const ROLLBACKS_MAX: usize = 32;

/// Most drafts; one more ends the oldest.
pub const DRAFTS_MAX: usize = 8;

/// How long a draft waits to be started; the lead ends it then: whoever made it died in the middle, or forgot it.
pub const DRAFT_MS_MAX: UnixMs = 24 * 3_600_000;

/// Most roll-outs that are remembered, more than can be drafts or running; one more forgets the oldest that is over, those
/// that stand for gateways which turn up later at last.
pub const ROLLOUTS_MAX: usize = 64;

/// Most nodes or reports in one event: with the longest names and reasons it fits a message of 1 MiB.
pub const BATCH_MAX: usize = 1_000;

/// Highest index that numbers can be raised to: thirty years of a thousand events a second. What is said to be above it comes
/// from somebody who chose it (the highest number of all would leave no other), and is left behind with an epoch.
pub const RAISED_MAX: u64 = 1 << 40;

/// Longest id of a node or roll-out, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// Most groups that a roll-out is for.
pub const GROUPS_MAX: usize = 64;

/// Longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// Failures whose reasons are kept for operators.
pub const FAILURES_KEPT: usize = 100;

/// A share of nodes, in parts per million.
pub type Ppm = u32;

/// All of them.
pub const ALL_PPM: Ppm = 1_000_000;
