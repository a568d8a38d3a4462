//! The trial of a configuration: a new one must prove itself, or it is undone, whenever the process or the power ends.
//!
//! Two slots hold documents, one small record says which of them is *committed* and which is on *trial*, and the local
//! file needs neither. What runs at the start follows from the record alone.
//!
//! ```text
//!                        offered, number newer than all before
//!            ┌──────┐     WriteSlot, the one not committed      ┌─────────┐
//!            │ Idle ├──────────────────────────────────────────►│ Writing │
//!            └▲───▲─┘          not written: refused             └────┬────┘
//!             │   └──────────────────────────────────────────────────┤ written: Persist(on trial)
//!   durable   │                                                 ┌────▼──────┐        ┌──────────┐  process started:
//!  ┌──────────┴─┐   proven: Persist(committed)   ┌───────┐◄─────┤ Beginning │        │ Counting │◄─Persist(starts + 1)
//!  │ Committing │◄───────────────────────────────┤ Trial │ Apply└────▲──────┘        └────┬─────┘
//!  └────────────┘                                └─┬──┬──┘◄──────────│────────────────────┘ durable: Apply
//!             not applied, unhealthy, 4th start:   │  │ not connected or not acknowledged in time:
//!             Persist(reverted), Apply(committed)  │  │ Persist(waiting), Apply(committed)
//!            ┌──────┐◄─────────────────────────────┘  │              │ Persist(on trial)
//!            │ Idle │        the committed one     ┌──▼───────┐      │      ┌─────────┐  the committed one is
//!            └──────┘◄─────────────────────────────┤ Watching ├──────│─────►│ Waiting │  proven, or time to try
//!                      is proven: it was not the   └──────────┘ not proven  └────┬────┘
//!                      link: Persist(reverted)                │      └───────────┴── superseded by a newer one: Idle
//! ```
//!
//! **Proof.** Applied, connected to Pulsar with it, one probe event acknowledged, and the health command (if there is one)
//! successful, all within the confirm time. The same is asked when nothing the uplink needs has changed: a byte budget
//! of 1 stops the uplink without touching an address, and a connection that stayed is reported as [`Input::Connected`]
//! with the new generation and proves itself by its first acknowledged probe. A document that equals the committed one
//! changes nothing: its number is committed at once.
//!
//! **Whose fault is a dead link?** A configuration that did not reach Pulsar in time is taken back, and then the
//! committed one is asked for the same proof. Only when it gives it within the control time, and the trial began with a
//! connection and without a restart since ("grounded"; after a power cut a modem may take longer than the confirm time), is the
//! new one to blame. Otherwise nothing is known: it waits until the committed one reaches Pulsar, and is tried again, at most
//! [`ATTEMPTS_MAX`] grounded times. While neither reaches Pulsar they take turns, at growing intervals and without end: the
//! one that is committed may be the one whose broker has been switched off. A link that ends just when a trial begins
//! and returns in the control time can still make a good document look bad; it is reported as reverted, and runs when it is
//! assigned anew.
//!
//! **Time** is an argument in milliseconds that only grows within a process; the wall clock plays no part. The time a trial
//! has used is in the record, so that restarts do not prolong it. A step of more than [`STEP_MS_MAX`] counts as
//! that: while the process was stopped nobody could connect.
//!
//! **Order.** An effect that must follow a durable decision waits for [`Input::Persisted`]: loading what is on trial, writing
//! a slot, sending a report. The way back waits for nothing: [`Action::Apply`] of the committed one leaves together with the
//! record that says so. When a record cannot be written nobody knows which one is on disk; it is written again until
//! that succeeds, and no slot is touched before.
//!
//! **Afterwards** the committed document may stop reaching Pulsar for good: [`away`].
//!
//! **Reports** are kept in the record until acknowledged, and are sent again at every connection and now and then. The last
//! one is kept beyond that, and told again when the same assignment comes again: after a start, or because the cloud
//! sends it again to a node that it has not heard of.

mod away;
mod machine;
mod proof;
pub mod record;
mod settle;
pub mod slots;
mod start;

#[cfg(test)]
mod tests;

pub use super::number::Number;
pub use machine::{Machine, Status};
pub use record::{Candidate, Config, Digest, Failure, Outcome, Place, Reason, Record, Report, Slot, Stage};
pub use start::{Found, Stored};

/// Milliseconds on a clock that only grows within a process.
pub type Millis = u64;

/// Most starts of the process that load a document on trial: two may be chance, a crash loop is none.
pub const STARTS_MAX: u8 = 3;

/// Most trials that begin with a connection before a document is given back as [`Reason::LinkUnsteady`].
pub const ATTEMPTS_MAX: u8 = 3;

/// Largest time that one step counts as.
pub const STEP_MS_MAX: Millis = 5_000;

/// A probe that is not answered is followed by another after this.
pub const PROBE_AGAIN_MS: Millis = 10_000;

/// A health command that failed runs again after this: services take time to start.
pub const HEALTH_AGAIN_MS: Millis = 5_000;

/// A report that is not acknowledged is sent again after this.
pub const REPORT_AGAIN_MS: Millis = 30_000;

/// First wait before a record is written again, or a configuration applied again; doubles up to [`RETRY_MS_MAX`].
pub const RETRY_MS_FIRST: Millis = 1_000;

/// Longest such wait: a full disk that got room, a port that got free is found within this.
pub const RETRY_MS_MAX: Millis = 60_000;

/// While neither configuration reaches Pulsar, first time between two trials; doubles up to [`TURN_MS_MAX`].
pub const TURN_MS_FIRST: Millis = 10 * 60_000;

/// Longest time between two such trials: two small writes an hour do no harm to an SD card.
pub const TURN_MS_MAX: Millis = 60 * 60_000;

/// What an operator may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a configuration on trial has to prove itself.
    pub confirm_ms: Millis,
    /// How long the committed one then has to show that it was not the link.
    pub control_ms: Millis,
    /// Whether a health command must succeed.
    pub health: bool,
    /// How long a committed document may be without a link before other settings are looked at, the first time.
    pub away_ms: Millis,
}

impl Default for Policy {
    /// Reachable again within 120 s of any push: 85 s of trial and 35 s for the way back, in which a live link
    /// reconnects in 6 s (DESIGN §6) and the uplink's back-off is 10 s at most.
    fn default() -> Self {
        Self { confirm_ms: 85_000, control_ms: 35_000, health: false, away_ms: 3_600_000 }
    }
}

/// What the cloud assigned: authentic, for this node, and not expired (`downlink::artefact` has seen to that).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Grows with every assignment to this node.
    pub number: Number,
    /// The document; `None`: the local file alone.
    pub digest: Option<Digest>,
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// An assignment whose document has arrived and is valid together with the local file. The shell keeps the newest
    /// document's bytes until the slot is written.
    Offered(Assigned),
    /// An authentic assignment whose document is not valid here. A forged one is none, and must not use up its number.
    Rejected {
        /// The assignment's number.
        number: Number,
        /// What is wrong with it.
        detail: String,
    },
    /// [`Action::WriteSlot`] is done, and durable.
    SlotWritten {
        /// The assignment's number.
        number: Number,
    },
    /// [`Action::WriteSlot`] failed.
    SlotNotWritten {
        /// The assignment's number.
        number: Number,
        /// Why.
        detail: String,
    },
    /// [`Action::Persist`] is done, and durable.
    Persisted {
        /// Which.
        write: u64,
    },
    /// [`Action::Persist`] failed; the record on disk may be this one or the one before.
    NotPersisted {
        /// Which.
        write: u64,
    },
    /// [`Action::Apply`] is done; connections may still be on their way.
    Applied {
        /// Which.
        generation: u64,
    },
    /// [`Action::Apply`] failed; nothing or a part of it runs.
    NotApplied {
        /// Which.
        generation: u64,
        /// Why.
        detail: String,
    },
    /// Pulsar is connected with what [`Action::Apply`] named, or still connected when nothing made it reconnect.
    Connected {
        /// Which.
        generation: u64,
    },
    /// It is not any more, or an attempt failed.
    Disconnected {
        /// Which.
        generation: u64,
        /// Why.
        detail: String,
    },
    /// Pulsar acknowledged a probe event.
    ProbeAcknowledged {
        /// Which.
        probe: u64,
    },
    /// Pulsar refused it.
    ProbeRefused {
        /// Which.
        probe: u64,
        /// Why.
        detail: String,
    },
    /// The health command succeeded.
    Healthy {
        /// Which.
        check: u64,
    },
    /// It failed, or took too long.
    Unhealthy {
        /// Which.
        check: u64,
        /// Why.
        detail: String,
    },
    /// Pulsar acknowledged a report.
    ReportAcknowledged {
        /// Which.
        seq: u64,
    },
    /// Time has passed; see [`Machine::deadline`].
    Tick,
}

/// What the shell does, in this order, and answers with an [`Input`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the document into the slot, durably. One at a time.
    WriteSlot {
        /// Where.
        slot: Slot,
        /// The assignment's number.
        number: Number,
        /// Which document.
        digest: Digest,
    },
    /// Replace the record on disk, durably. One at a time.
    Persist {
        /// Which.
        write: u64,
        /// With what.
        record: Box<Record>,
    },
    /// Run this configuration instead of the one before, which is over even if this fails.
    Apply {
        /// Grows; what is answered to an earlier one counts no more.
        generation: u64,
        /// Which.
        place: Place,
    },
    /// Let the control link alone use the settings of `place`, and say so as [`Input::Connected`] once it has reached the
    /// cluster that assigns; [`Input::NotApplied`]: they cannot be had, or are what is used already. With the place that runs:
    /// the link is its own again, in this generation.
    Look {
        /// Which.
        generation: u64,
        /// Whose settings.
        place: Place,
    },
    /// Send a probe event.
    Probe {
        /// Which.
        probe: u64,
    },
    /// Run the health command.
    CheckHealth {
        /// Which.
        check: u64,
    },
    /// Send a report.
    Report(Report),
}
