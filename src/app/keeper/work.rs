//! The trial's files, written in the background: what the loop does meanwhile is the way back from a bad configuration,
//! which must not wait for a slow disk.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::downlink::keeper::Store;
use crate::downlink::trial::{Digest, Input, Number, Record, Slot};
use crate::sys::tasks::Tasks;

/// One record and one slot at a time.
const JOBS_MAX: usize = 4;

/// Something to write.
pub enum Job {
    /// See [`crate::downlink::trial::Action::Persist`].
    Persist { write: u64, record: Box<Record> },
    /// See [`crate::downlink::trial::Action::WriteSlot`].
    WriteSlot { slot: Slot, number: Number, digest: Digest, document: Option<Bytes> },
}

impl Job {
    /// The answer when it cannot be done.
    pub fn failed(&self, why: &str) -> Input {
        match self {
            Self::Persist { write, .. } => Input::NotPersisted { write: *write },
            Self::WriteSlot { number, .. } => Input::SlotNotWritten { number: *number, detail: why.to_owned() },
        }
    }

    fn done(&self) -> Input {
        match self {
            Self::Persist { write, .. } => Input::Persisted { write: *write },
            Self::WriteSlot { number, .. } => Input::SlotWritten { number: *number },
        }
    }

    fn run(&self, store: &Store) -> io::Result<()> {
        match self {
            Self::Persist { record, .. } => store.persist(record),
            Self::WriteSlot { slot, number, digest, document } => {
                let document =
                    document.as_ref().ok_or_else(|| io::Error::other("its document is not held any more"))?;
                store.write_slot(*slot, *number, *digest, document)
            }
        }
    }
}

/// Does jobs in their order until their sender is gone: a record that is being written at a stop is written.
pub fn start(tasks: &Tasks, store: Option<Arc<Store>>, answers: mpsc::Sender<Input>) -> mpsc::Sender<Job> {
    let (jobs, mut queue) = mpsc::channel::<Job>(JOBS_MAX);
    tasks.spawn("pushed configuration's files", async move {
        while let Some(job) = queue.recv().await {
            let Some(store) = store.clone() else {
                let _ = answers.send(job.failed("the gateway was started with --local")).await;
                continue;
            };
            let written = tokio::task::spawn_blocking(move || {
                let written = job.run(&store);
                if let Err(reason) = &written {
                    tracing::error!(%reason, dir = %store.dir().display(), "pushed configuration cannot be stored");
                }
                written.map_or_else(|reason| job.failed(&reason.to_string()), |()| job.done())
            });
            match written.await {
                Ok(answer) => {
                    // Nobody listens any more: the process stops.
                    let _ = answers.send(answer).await;
                }
                Err(panic) => return Err(panic),
            }
        }
        Ok::<(), tokio::task::JoinError>(())
    });
    jobs
}
