//! One lane: its store and the consumers that feed it. When the store fails, both start over from the last commit;
//! other lanes go on.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::client;
use super::consume;
use super::store::{Chunk, STORING, Store, StoreError};
use super::stream::Live;
use crate::config::cloud::FilesSink;
use crate::sys::backoff::Backoff;
use crate::sys::clock::Clock;
use crate::sys::{random, tasks};

/// Chunks between consumers and store: enough to keep the store busy, few enough to stay at some 10 MB.
const CHUNKS: usize = 8;

/// How often the number of partitions is asked for: it can grow.
const PARTITIONS_EVERY: Duration = Duration::from_secs(60);

/// A store that worked for so long may be tried again at once.
const LONG_LIFE: Duration = Duration::from_secs(60);

/// The part of the status that says whether files can be opened.
const OPENING: &str = "files, opening";

/// Everything a lane needs.
pub struct Setup {
    /// What consumers need.
    pub consume: consume::Lane,
    /// Where events are stored.
    pub files: FilesSink,
    /// Labels files.
    pub clock: Clock,
    /// Who listens.
    pub live: Live,
}

/// Why one life of a lane ended early.
#[derive(Debug, thiserror::Error)]
enum LaneError {
    #[error(transparent)]
    Opening(StoreError),
    #[error(transparent)]
    Storing(StoreError),
    #[error("the store stopped unexpectedly; the log says why")]
    Panicked,
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Runs the lane until the process ends.
pub async fn run(setup: Setup) -> Result<(), std::convert::Infallible> {
    let mut backoff = Backoff::default();
    let stopping = setup.consume.stopping.clone();
    while !stopping.is_cancelled() {
        let begun = Instant::now();
        if let Err(e) = life(&setup).await {
            if begun.elapsed() >= LONG_LIFE {
                backoff.reset();
            }
            setup.consume.meters.sink_failures.inc();
            // A store that opens and then cannot write has not recovered by opening: only a commit shows that.
            let part = if matches!(e, LaneError::Opening(_)) { OPENING } else { STORING };
            setup.consume.board.problem(part, e.to_string());
            let wait = backoff.after_failure(random::bits());
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
    Ok(())
}

/// From opening the store to its end.
async fn life(setup: &Setup) -> Result<(), LaneError> {
    let (chunks, from_consumers) = mpsc::channel(CHUNKS);
    let (opened, is_open) = oneshot::channel();
    let (ended, mut has_ended) = oneshot::channel();
    let open = open_store(setup);
    let runtime = Handle::current();
    let thread = tasks::thread("store", move || match open() {
        Ok(store) => {
            let _ = opened.send(());
            let _ = ended.send(store.run(from_consumers, &runtime).map_err(LaneError::Storing));
        }
        Err(e) => _ = ended.send(Err(LaneError::Opening(e))),
    })?;
    if is_open.await.is_ok() {
        setup.consume.board.solved(OPENING);
        let store_failed = CancellationToken::new();
        let lane = consume::Lane { store_failed: store_failed.clone(), ..setup.consume.clone() };
        let mut consumers = std::pin::pin!(consumers(lane, chunks));
        tokio::select! {
            () = &mut consumers => {}
            result = &mut has_ended => {
                let result = finished(result);
                // A store that ended in order did so because its consumers stop: they still have its last word to send.
                if result.is_err() {
                    store_failed.cancel();
                }
                consumers.await;
                return result;
            }
        }
    }
    drop(thread);
    finished(has_ended.await)
}

fn finished(result: Result<Result<(), LaneError>, oneshot::error::RecvError>) -> Result<(), LaneError> {
    // A thread that says nothing has panicked, and the runtime's hook has printed why.
    result.unwrap_or(Err(LaneError::Panicked))
}

fn open_store(setup: &Setup) -> impl FnOnce() -> Result<Store, StoreError> + Send + use<> {
    let (files, clock, live) = (setup.files.clone(), setup.clock.clone(), setup.live.clone());
    let (board, meters) = (setup.consume.board.clone(), setup.consume.meters.clone());
    move || Store::open(&files, &clock, board, meters, live)
}

/// Consumes all partitions of the topic, once it is there.
async fn consumers(lane: consume::Lane, chunks: mpsc::Sender<Chunk>) {
    let mut chunks = Some(chunks);
    let mut running = FuturesUnordered::new();
    let mut known = 0;
    let mut backoff = Backoff::default();
    let (stopping, store_failed) = (lane.stopping.clone(), lane.store_failed.clone());
    let mut ask = std::pin::pin!(ask_after(lane.clone(), Duration::ZERO));
    loop {
        tokio::select! {
            () = stopping.cancelled(), if chunks.is_some() => chunks = None,
            () = store_failed.cancelled() => chunks = None,
            Some(()) = running.next() => {}
            answer = &mut ask, if chunks.is_some() => {
                let wait = match answer {
                    Ok(partitions) => {
                        lane.board.solved("topic");
                        lane.board.partitions(partitions);
                        let Some(chunks) = &chunks else { continue };
                        for index in known..partitions {
                            running.push(consume::partition(lane.clone(), index, chunks.clone()));
                        }
                        known = known.max(partitions);
                        backoff.reset();
                        PARTITIONS_EVERY
                    }
                    // Partitions that are being consumed go on without this answer.
                    Err(problem) => {
                        if known == 0 {
                            lane.board.problem("topic", problem);
                        }
                        backoff.after_failure(random::bits())
                    }
                };
                ask.set(ask_after(lane.clone(), wait));
            }
        }
        if chunks.is_none() && running.is_empty() {
            return;
        }
    }
}

/// Waits, then asks how many partitions the lane's topic has.
async fn ask_after(lane: consume::Lane, wait: Duration) -> Result<u32, String> {
    tokio::time::sleep(wait).await;
    let client = client::connect(&lane.pulsar).await.map_err(|e| format!("{e}; trying again"))?;
    let answer = client.lookup_partitioned_topic_number(&lane.topic).await;
    // Subscribing to a topic that is not there could create it, without partitions, and provisioning would then fail.
    match answer {
        Ok(0) => Err(format!("topic {} does not exist, or has no partitions: run `tidegate provision`", lane.topic)),
        Ok(partitions) => Ok(partitions),
        Err(e) => {
            Err(format!("cannot look up topic {}: {e}; if it was never made, run `tidegate provision`", lane.topic))
        }
    }
}
