//! The far end: consumes every lane's topic, removes duplicates, audits completeness, stores events and shows them.
//!
//! ```text
//! Pulsar ─► consume (one per partition) ─► store (one thread per lane) ─┬─► sinks::files
//!              ▲                              │ audit: known already?   └─► stream ─► api, tail
//!              └── acknowledges entries ◄─────┘ after files and audit are on disk
//! ```
//! Nothing is acknowledged to Pulsar before it is on disk together with what the audit knows of it: after kill -9
//! at any point, what comes again is recognised and not stored twice.
//!
//! One process must consume all partitions of a lane for its audit to be whole. A second process with the same
//! subscription takes a share of the partitions, and each then finds the other's sequences missing.

pub mod api;
pub mod audit;
mod board;
mod client;
mod consume;
pub mod control;
mod intervals;
mod lane;
mod line;
mod meters;
pub mod models;
pub mod policy;
pub mod rollout;
pub mod sinks;
mod store;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::board::LaneBoard;
use self::control::Control;
use self::meters::AllMeters;
use self::models::Models;
use self::stream::Live;
use crate::config::CloudConfig;
use crate::config::cloud::{FilesSink, Sink};
use crate::observe::metrics::Metrics;
use crate::pulsar::names;
use crate::sys::clock::Clock;
use crate::sys::files::{self, DirLock};
use crate::sys::tasks::Tasks;

/// Why the cloud could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not exactly one place to store events.
    #[error("{0} [[sink]] sections are configured; this version stores in exactly one, of kind \"files\"")]
    Sinks(usize),
    /// The directory cannot be used.
    #[error("cannot use directory {} of [[sink]]: {source}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Keys of [control] cannot be used.
    #[error(transparent)]
    Control(#[from] control::SetupError),
    /// The address of Pulsar.
    #[error("[pulsar] service: {0}")]
    Service(#[from] control::wire::TopicError),
    /// Another process uses the directory.
    #[error("another process stores events in {}; stop it, or give this one another directory", _0.display())]
    InUse(PathBuf),
}

/// Starts consuming, storing and answering on `listener`; goes on until `tasks` stops, which loses nothing:
/// consumers stop, stores commit what they have, that is acknowledged, and the connections are closed.
pub fn start(
    tasks: &Tasks,
    config: &CloudConfig,
    listener: api::Listener,
    clock: Clock,
    metrics: &Metrics,
) -> Result<(), StartError> {
    let sink = the_sink(config)?;
    let owner = Arc::new(own(sink)?);
    let control = Control::start(tasks, config, &clock, metrics)?;
    let models = Models::start(tasks, config, control.clone(), &clock, metrics)?;
    let (meters, live) = (AllMeters::new(metrics), Live::default());
    let mut boards = Vec::with_capacity(config.lanes.len());
    for configured in &config.lanes {
        let board = LaneBoard::new(&configured.name, clock.clone());
        boards.push(board.clone());
        let setup = lane::Setup {
            consume: consume::Lane {
                pulsar: config.pulsar.clone(),
                topic: names::lane_topic(&config.pulsar.tenant, &configured.name),
                board,
                meters: meters.of(&configured.name),
                stopping: tasks.stopping().clone(),
                store_failed: CancellationToken::new(),
            },
            files: sink.clone(),
            clock: clock.clone(),
            live: live.clone(),
        };
        let owner = owner.clone();
        tasks.spawn("cloud lane", async move {
            let ended = lane::run(setup).await;
            drop(owner);
            ended
        });
    }
    api::serve(
        tasks,
        listener,
        api::Shared {
            boards: boards.into(),
            live,
            metrics: metrics.clone(),
            stopping: tasks.stopping().clone(),
            control,
            models,
            bodies: Default::default(),
        },
    );
    Ok(())
}

fn the_sink(config: &CloudConfig) -> Result<&FilesSink, StartError> {
    match config.sinks.as_slice() {
        [Sink::Files(files)] => Ok(files),
        others => Err(StartError::Sinks(others.len())),
    }
}

/// Makes the directory and takes the right to be the only one that writes there.
fn own(sink: &FilesSink) -> Result<DirLock, StartError> {
    let failed = |source| StartError::Directory { dir: sink.dir.clone(), source };
    files::create_dir_durable(&sink.dir).map_err(failed)?;
    DirLock::claim(&sink.dir).map_err(failed)?.ok_or_else(|| StartError::InUse(sink.dir.clone()))
}
