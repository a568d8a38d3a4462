//! One loaded model on a thread of its own: events wait in its queue, and a stuck model holds up nothing else.
//!
//! A switch to another version starts another worker; when that is ready it takes the place of this one, which answers what
//! it still has and ends. So each event that was asked about is answered by the one or by the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::breaker::{Asked, Breaker};
use super::engine::{self, Engine};
use super::failure::Failure;
use super::fields::Fields;
use crate::sys::tasks::{panic_message, thread};

/// Most jobs that wait for one model, of one event or of many: a second's worth for a model of a millisecond. What they hold
/// in memory is the events', which have a limit of their own.
const QUEUE_MAX: usize = 1024;

/// Most threads of one configured model: the active one, the candidate, their successors, and some that are stuck.
const WORKERS_MAX: usize = 6;

/// Time to load a model and to run it once.
const LOAD_MAX: Duration = Duration::from_secs(30);

/// Makes the engine, on the worker's thread.
pub type Loader = Box<dyn FnOnce() -> Result<Box<dyn Engine>, String> + Send>;

/// What becomes of an event.
pub type Outcome = Result<f32, Failure>;

/// A model that scores. Its thread ends when nobody has it any more.
pub struct Worker {
    /// Its version.
    pub version: u64,
    queue: SyncSender<Job>,
    breaker: Mutex<Breaker>,
    tally: Mutex<Tally>,
}

/// How a model has done so far, in events that it was asked about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Scored.
    pub scored: u64,
    /// It failed on them, or said NaN or infinity.
    pub failed: u64,
    /// Not in time.
    pub late: u64,
}

/// What a worker needs to know besides its model.
#[derive(Clone)]
pub struct Setup {
    /// The columns.
    pub fields: Fields,
    /// Most rows in one run.
    pub batch_max: usize,
    /// How many threads there are for this configured model.
    pub alive: Arc<AtomicUsize>,
}

/// Counts a thread for as long as it lives.
struct Alive(Arc<AtomicUsize>);

/// Events of one request or packet.
struct Job {
    rows: Vec<Bytes>,
    deadline: Instant,
    outcomes: Arc<Mutex<Vec<Option<Outcome>>>>,
    done: oneshot::Sender<()>,
}

/// Scores that are being made.
pub struct Answer {
    worker: Arc<Worker>,
    asked: Asked,
    count: usize,
    deadline: Instant,
    outcomes: Arc<Mutex<Vec<Option<Outcome>>>>,
    done: oneshot::Receiver<()>,
}

impl Worker {
    /// Loads a model and runs it once on a row of zeros, on a new thread. Dropping the future gives it up: the thread ends
    /// when it notices.
    pub async fn start(version: u64, load: Loader, setup: Setup) -> Result<Arc<Self>, String> {
        let alive = Alive::new(&setup.alive)
            .ok_or("earlier versions of the model hang and do not end; restart the gateway to be rid of them")?;
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let (ready, is_ready) = oneshot::channel();
        let run = move || {
            let _alive = alive;
            let loaded = contained(|| try_out(load()?, setup.fields.columns()));
            let (engine, result) = match loaded {
                Ok(engine) => (Some(engine), Ok(())),
                Err(reason) => (None, Err(reason)),
            };
            let is_awaited = ready.send(result).is_ok();
            if let Some(engine) = engine.filter(|_| is_awaited) {
                serve(engine, &jobs, &setup);
            }
        };
        thread("inference", run).map_err(|e| format!("cannot start a thread: {e}"))?;
        match tokio::time::timeout(LOAD_MAX, is_ready).await {
            Ok(Ok(Ok(()))) => Ok(Arc::new(Self { version, queue, breaker: Mutex::default(), tally: Mutex::default() })),
            Ok(Ok(Err(reason))) => Err(reason),
            Ok(Err(_)) => Err("the thread ended while it loaded the model".to_owned()),
            Err(_) => Err(format!("it was not loaded and run within {} s", LOAD_MAX.as_secs())),
        }
    }

    /// Asks for the scores of events with this data, until `deadline`.
    pub fn ask(self: &Arc<Self>, rows: Vec<Bytes>, now: Instant, deadline: Instant) -> Result<Answer, Failure> {
        let asked = self.breaker().ask(now).ok_or(Failure::Resting)?;
        let count = rows.len();
        let outcomes = Arc::new(Mutex::new(vec![None; count]));
        let (done, is_done) = oneshot::channel();
        let job = Job { rows, deadline, outcomes: outcomes.clone(), done };
        match self.queue.try_send(job) {
            Ok(()) => Ok(Answer { worker: self.clone(), asked, count, deadline, outcomes, done: is_done }),
            // It is stuck, or cannot keep up for the length of its queue.
            Err(TrySendError::Full(_)) => {
                self.breaker().told(asked, false, now);
                Err(Failure::Busy)
            }
            Err(TrySendError::Disconnected(_)) => Err(Failure::Model),
        }
    }

    /// How it has done so far.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, outcomes: &[Outcome]) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in outcomes {
            match outcome {
                Ok(_) => tally.scored += 1,
                Err(Failure::Model | Failure::NotFinite) => tally.failed += 1,
                Err(Failure::Late) => tally.late += 1,
                // That is the event's fault.
                Err(_) => {}
            }
        }
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    /// What there is by the deadline, for each event. `true`: it was too late for some, and the model now rests.
    pub async fn outcomes(self) -> (Vec<Outcome>, bool) {
        // Whatever ends the waiting: what there is says how it went.
        let _ = tokio::time::timeout_at(self.deadline.into(), self.done).await;
        let mut outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner));
        outcomes.resize(self.count, None);
        let late = outcomes.iter().any(Option::is_none);
        let rests = self.worker.breaker().told(self.asked, !late, Instant::now());
        let outcomes: Vec<Outcome> =
            outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(Failure::Late))).collect();
        self.worker.count(&outcomes);
        (outcomes, rests)
    }
}

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Option<Self> {
        let counted = Self(count.clone());
        (count.fetch_add(1, Ordering::AcqRel) < WORKERS_MAX).then_some(counted)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A panic is an error like any other.
fn contained<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(format!("it panicked: {}", panic_message(panic.as_ref()))))
}

/// A model that does not even take zeros is of no use. What it says of them does not matter.
fn try_out(mut engine: Box<dyn Engine>, columns: usize) -> Result<Box<dyn Engine>, String> {
    for count in [1, 2] {
        engine::run(engine.as_mut(), &vec![0.0; columns * count], count)?;
    }
    Ok(engine)
}

fn serve(mut engine: Box<dyn Engine>, jobs: &Receiver<Job>, setup: &Setup) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        let mut rows = batch.iter().map(|job| job.rows.len()).sum::<usize>();
        while rows < setup.batch_max
            && let Ok(next) = jobs.try_recv()
        {
            rows += next.rows.len();
            batch.push(next);
        }
        score(engine.as_mut(), &batch, setup);
        for job in batch {
            // Who does not wait any more has taken what there was.
            let _ = job.done.send(());
        }
    }
}

/// Where a row's outcome belongs.
struct Place<'j> {
    job: &'j Job,
    at: usize,
}

impl Place<'_> {
    fn settle(&self, outcome: Outcome) {
        let mut outcomes = self.job.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = outcomes.get_mut(self.at) {
            *slot = Some(outcome);
        }
    }
}

fn score(engine: &mut dyn Engine, jobs: &[Job], setup: &Setup) {
    let (mut rows, mut places) = (Vec::new(), Vec::new());
    for job in jobs {
        for (at, data) in job.rows.iter().enumerate() {
            if Instant::now() >= job.deadline {
                break;
            }
            let place = Place { job, at };
            match setup.fields.row(data, &mut rows) {
                Ok(()) => places.push(place),
                Err(why) => place.settle(Err(Failure::Unmapped(why))),
            }
            if places.len() == setup.batch_max {
                run(engine, &rows, &places, setup);
                rows.clear();
                places.clear();
            }
        }
    }
    run(engine, &rows, &places, setup);
}

fn run(engine: &mut dyn Engine, rows: &[f32], places: &[Place<'_>], setup: &Setup) {
    if places.is_empty() {
        return;
    }
    match contained(|| engine::run(engine, rows, places.len())) {
        Ok(scores) => {
            for (place, score) in places.iter().zip(scores) {
                place.settle(if score.is_finite() { Ok(score) } else { Err(Failure::NotFinite) });
            }
        }
        Err(reason) if places.len() == 1 => {
            tracing::debug!(reason, "the model failed on an event");
            places.iter().for_each(|place| place.settle(Err(Failure::Model)));
        }
        // One of them may spoil it for the others.
        Err(_) => {
            for (place, row) in places.iter().zip(rows.chunks(setup.fields.columns())) {
                if Instant::now() < place.job.deadline {
                    run(engine, row, std::slice::from_ref(place), setup);
                }
            }
        }
    }
}
