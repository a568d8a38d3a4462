//! The loop that keeps pushed configuration: gives the trial's machine what happens, and does what it says with the
//! running gateway. It also follows changes of the gateway's own file.

mod apply;
pub mod doors;
pub mod gateway;
mod hear;
mod look;
mod models;
mod probe;
pub mod proven;
mod reopen;
mod tell;
mod work;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::gateway::Gateway;
use super::models::Models;
use crate::config::{ConfigErrors, EdgeConfig, OwnFile};
use crate::downlink::artefact::{Digest, Trust};
use crate::downlink::keeper::meters::Meters;
use crate::downlink::keeper::orders::{Orders, Unfit};
use crate::downlink::keeper::{Begun, Inbox, Status, Store, status};
use crate::downlink::link::{self, Heard, Link, Taken};
use crate::downlink::report::What;
use crate::downlink::trial::{self, Action, Input, Millis, Number, Place, Policy};
use crate::pulsar::wire::Address;
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;

/// Answers of background work that wait for the loop; there is never more than one of each kind under way.
const ANSWERS_MAX: usize = 32;

/// Time to say good-bye to the cloud at an orderly stop.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// Versions of documents that are remembered, for the status page: two slots, what is on its way, and one more.
const VERSIONS_MAX: usize = 4;

/// Reads the gateway's own file once more.
pub type Reread = Box<dyn Fn() -> Result<OwnFile, ConfigErrors> + Send + Sync>;

/// What the keeper is made of.
pub struct Parts<G> {
    /// The running gateway.
    pub live: G,
    /// What the loop starts ends with these; the link may outlive them.
    pub tasks: Tasks,
    /// The gateway's own file.
    pub own: OwnFile,
    /// Reads it once more.
    pub again: Reread,
    /// What runs, and what follows from the record.
    pub begun: Begun,
    /// The files; `None`: nothing pushed is looked at.
    pub store: Option<Arc<Store>>,
    /// Started with --local: so it stays.
    pub local_only: bool,
    /// Whom it believes.
    pub inbox: Inbox,
    /// Who else is told whom it believes.
    pub trust: watch::Sender<Arc<Trust>>,
    /// The models; `None`: they cannot be looked after.
    pub models: Option<Models>,
    /// The way to the cloud.
    pub link: Link,
    /// For the status page.
    pub status: Status,
    /// What is counted.
    pub meters: Meters,
    /// For reports and expiry.
    pub clock: Clock,
    /// Commands of devices.
    pub commands: crate::downlink::commands::Commands,
    /// When the machine's time began.
    pub origin: Instant,
}

/// See the module.
pub struct Keeper<G: Gateway> {
    live: G,
    tasks: Tasks,
    own: OwnFile,
    again: Reread,
    machine: trial::Machine,
    store: Option<Arc<Store>>,
    local_only: bool,
    /// When it is looked again whether there can be files, and the wait before.
    reopen: Option<(Instant, Duration)>,
    inbox: Inbox,
    trust: watch::Sender<Arc<Trust>>,
    models: models::Kept,
    link: Link,
    settings: Option<link::Settings>,
    /// Those of what runs at which the assignment was found.
    proven: Vec<Address>,
    /// What runs has lost its link, which looks elsewhere.
    looking: Option<look::Looking>,
    status: Status,
    meters: Meters,
    clock: Clock,
    origin: Instant,
    running: Running<G>,
    /// Events that were accepted in the last confirm time.
    before: doors::Before,
    connection: Connection,
    /// The newest offer's document, until its slot is written.
    offered: Option<(trial::Digest, Bytes)>,
    versions: VecDeque<(trial::Digest, u64)>,
    /// The inbox message that could not be stored, how it came, and when it is looked at again.
    unread: Option<(Instant, hear::Letter)>,
    /// Decisions from this one on have not been logged.
    next_decision: u64,
    refused: Option<status::Refusal>,
    answers: mpsc::Sender<Input>,
    jobs: mpsc::Sender<work::Job>,
    orders: mpsc::Sender<(Bytes, Taken)>,
    teller: tell::Teller,
}

/// What runs.
struct Running<G: Gateway> {
    place: Place,
    generation: u64,
    /// The assignment's number, if this is a trial.
    trial: Option<Number>,
    /// What receipts count from.
    marks: Option<G::Marks>,
    /// What devices had done when it was put on trial, if they must get in.
    visits: Option<doors::Visits>,
    /// Ends what is asked of it: it runs no more.
    over: CancellationToken,
    /// Ends the last probe.
    probe_over: CancellationToken,
}

/// The control link as it was heard of last.
#[derive(Default)]
struct Connection {
    /// What it is called now.
    generation: u64,
    /// The settings in use came with this one.
    since: u64,
    up: bool,
    /// Newest authentic assignment that was read over this connection.
    seen: Number,
    /// The machine knows that it is up.
    told: bool,
}

/// What the loop listens to.
pub struct Ears {
    answers: mpsc::Receiver<Input>,
    unfit: mpsc::Receiver<Unfit>,
    sent: mpsc::Receiver<tell::Sent>,
    begun: (u64, VecDeque<Action>, VecDeque<Input>),
}

impl<G: Gateway> Keeper<G> {
    /// Starts what works in the background.
    pub fn new(parts: Parts<G>) -> (Self, Ears) {
        let Parts {
            live,
            tasks,
            own,
            again,
            begun,
            store,
            local_only,
            inbox,
            trust,
            models,
            link,
            status,
            meters,
            clock,
            commands,
            origin,
        } = parts;
        let (answers, answered) = mpsc::channel(ANSWERS_MAX);
        let jobs = work::start(&tasks, store.clone(), answers.clone());
        let trusted = trust.subscribe();
        let (unfit, unfits) = mpsc::channel(link::COMMANDS_MAX);
        // The link hands over no more than these before they are taken: this never fills.
        let (orders, ordered) = mpsc::channel(link::COMMANDS_MAX);
        let node = own.alone().node.id.clone();
        let taking = Orders { commands, node, clock: clock.clone(), trust: trusted, unfit };
        tasks.spawn_contained("commands from the cloud", taking.run(ordered, tasks.stopping().clone()));
        let (teller, sent) = tell::Teller::start(&tasks, link.clone());
        status.set_link(link.clone());
        let Begun { machine, place, generation, inputs, actions, decided_from, on_trial, .. } = begun;
        let running = Running::new(place, generation, on_trial.then(|| trial_of(&machine, place)).flatten());
        let mut keeper = Self {
            live,
            tasks,
            own,
            again,
            machine,
            reopen: (store.is_none() && !local_only).then(reopen::first),
            store,
            local_only,
            inbox,
            trust,
            models: models::Kept::new(models),
            link,
            settings: None,
            proven: Vec::new(),
            looking: None,
            status,
            meters,
            clock,
            origin,
            running,
            before: doors::Before::default(),
            connection: Connection::default(),
            offered: None,
            versions: VecDeque::new(),
            unread: None,
            next_decision: decided_from,
            refused: None,
            answers,
            jobs,
            orders,
            teller,
        };
        keeper.proven = keeper.proven_before(keeper.machine.record().committed.place);
        keeper.show();
        let ears = Ears { answers: answered, unfit: unfits, sent, begun: (generation, actions, inputs) };
        (keeper, ears)
    }

    /// Runs until the way in stops; then says good-bye.
    pub async fn run(
        mut self,
        mut hang_up: Signal,
        mut heard: mpsc::Receiver<Heard>,
        mut ears: Ears,
    ) -> Result<(), Infallible> {
        let stopping = self.tasks.stopping().clone();
        let (generation, actions, inputs) = ears.begun;
        let applied = match self.running.trial {
            // The committed one was started.
            Some(_) => {
                let applied = self.apply(generation, self.running.place).await;
                self.mark_doors(true);
                applied
            }
            None => {
                self.prove_from_here().await;
                self.connect(generation);
                Input::Applied { generation }
            }
        };
        self.act(actions).await;
        for input in inputs.into_iter().chain([applied]) {
            self.feed(input).await;
        }
        loop {
            self.show();
            let tick = self.machine.deadline().map(|at| self.origin + Duration::from_millis(at));
            let present = self.teller.next_presence();
            let (unread, sample) = (self.unread.clone(), self.next_sample());
            let reopen = self.reopen.map(|(at, _)| at);
            tokio::select! {
                () = stopping.cancelled() => break,
                Some(input) = ears.answers.recv() => self.feed(input).await,
                Some(heard) = heard.recv() => self.hear(heard).await,
                Some(Unfit { bytes, reason, detail }) = ears.unfit.recv() => self.refuse(&bytes, reason, detail),
                Some(sent) = ears.sent.recv() => self.sent(sent).await,
                () = self.models.changed() => self.tell_models(),
                Some(()) = hang_up.recv() => self.reread().await,
                () = sleep_until(tick.unwrap_or_else(Instant::now)), if tick.is_some() => self.feed(Input::Tick).await,
                () = sleep_until(unread.as_ref().map_or_else(Instant::now, |u| u.0)), if unread.is_some() => {
                    if let Some((_, letter)) = unread {
                        self.read(letter).await;
                    }
                }
                () = sleep_until(sample) => self.sample(),
                () = sleep_until(reopen.unwrap_or_else(Instant::now)), if reopen.is_some() => self.reopen().await,
                () = sleep_until(present.unwrap_or_else(Instant::now)), if present.is_some() => self.present(),
            }
        }
        let report = self.report(What::Leaving);
        let _ = timeout(LEAVE_MAX, self.link.report(&report)).await;
        Ok(())
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.origin.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// Gives the machine an input, and does what follows.
    async fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let before = status::running(self.machine.record());
            let actions = self.machine.handle(self.now(), input);
            self.note_decisions();
            inputs.extend(self.keep().await);
            if status::running(self.machine.record()) != before {
                self.teller.present_soon();
            }
            inputs.extend(self.act(actions.into()).await);
        }
    }

    /// What can be answered at once is.
    async fn act(&mut self, actions: VecDeque<Action>) -> Vec<Input> {
        let mut answers = Vec::new();
        for action in actions {
            match action {
                Action::Persist { write, record } => self.work(work::Job::Persist { write, record }, &mut answers),
                Action::WriteSlot { slot, number, digest } => {
                    let document = self.offered.as_ref().filter(|(of, _)| *of == digest).map(|(_, text)| text.clone());
                    self.work(work::Job::WriteSlot { slot, number, digest, document }, &mut answers);
                }
                Action::Apply { generation, place } => answers.push(self.apply(generation, place).await),
                Action::Look { generation, place } => answers.extend(self.look(generation, place).await),
                Action::Probe { probe } => self.probe(probe),
                Action::CheckHealth { check } => self.check_health(check),
                Action::Report(report) => {
                    let seq = report.seq;
                    let report = self.report(What::from(&report));
                    self.teller.tell(report, tell::Kind::Decided(seq));
                }
            }
        }
        answers
    }

    fn work(&self, job: work::Job, answers: &mut Vec<Input>) {
        // The machine asks for one of each kind at a time: there is room.
        if let Err(e) = self.jobs.try_send(job) {
            answers.push(e.into_inner().failed("the gateway is stopping"));
        }
    }

    fn note_decisions(&mut self) {
        let record = self.machine.record();
        for report in record.reports.iter().filter(|report| report.seq >= self.next_decision) {
            let (number, outcome) =
                (report.number.to_string(), crate::downlink::report::Outcome::from(report.outcome).text());
            let reason = report.failure.as_ref().map_or("", |failure| failure.reason.code());
            self.meters.decided(report.outcome.into(), reason);
            match &report.failure {
                None if report.outcome == trial::Outcome::Committed => {
                    tracing::info!(number, "the pushed configuration is committed");
                }
                failure => {
                    let why = failure.as_ref().map_or(String::new(), ToString::to_string);
                    tracing::warn!(number, outcome, why, "a pushed configuration is not kept");
                }
            }
        }
        self.next_decision = record.next_report;
    }

    /// For the status page and the metrics.
    fn show(&self) {
        let record = self.machine.record();
        self.meters.committed.set(i64::try_from(record.committed.number.n).unwrap_or(i64::MAX));
        self.meters.on_trial.set(i64::from(self.machine.status() != trial::Status::Settled));
        let version = |digest: &trial::Digest| self.versions.iter().find(|(of, _)| of == digest).map(|(_, v)| *v);
        let mut snapshot = status::of(&self.machine, self.now(), &self.inbox, version);
        snapshot.refused = self.refused.clone();
        snapshot.local_only = self.local_only;
        (snapshot.models, snapshot.models_wait_for) = self.models.status();
        snapshot.open &= self.store.is_some();
        self.status.set(snapshot);
    }

    fn remember_version(&mut self, digest: trial::Digest, version: Option<u64>) {
        let Some(version) = version else { return };
        self.versions.retain(|(of, _)| *of != digest);
        if self.versions.len() >= VERSIONS_MAX {
            self.versions.pop_front();
        }
        self.versions.push_back((digest, version));
    }

    /// Something pushed is refused: told once.
    fn refuse(&mut self, bytes: &[u8], reason: &'static str, detail: String) {
        if self.inbox.is_news(bytes, reason) {
            self.tell_refused(reason, detail);
        }
    }

    fn tell_refused(&mut self, reason: &'static str, detail: String) {
        tracing::warn!(reason, detail, "what was pushed is refused");
        self.meters.refused(reason);
        self.refused = Some(status::Refusal { reason: reason.to_owned(), detail: detail.clone() });
        let report = self.report(What::Refused { reason: reason.to_owned(), detail });
        self.teller.tell(report, tell::Kind::Refused);
    }
}

impl<G: Gateway> Running<G> {
    fn new(place: Place, generation: u64, trial: Option<Number>) -> Self {
        let over = CancellationToken::new();
        Self { place, generation, trial, marks: None, visits: None, probe_over: over.child_token(), over }
    }
}

/// The number of the assignment that puts `place` on trial.
fn trial_of(machine: &trial::Machine, place: Place) -> Option<Number> {
    let candidate = machine.record().candidate.as_ref().map(|candidate| candidate.config);
    candidate.filter(|config| config.place == place).map(|config| config.number)
}

/// What the own file says about trials.
pub fn policy(own: &EdgeConfig) -> Policy {
    let downlink = &own.downlink;
    let confirm_ms = Millis::try_from(downlink.confirm.as_millis()).unwrap_or(Millis::MAX);
    let away_ms = Millis::try_from(downlink.lost_after.as_millis()).unwrap_or(Millis::MAX);
    // Whether devices get in is always asked; the operator's own check comes after it.
    Policy { confirm_ms, health: true, away_ms, ..Policy::default() }
}

/// As it is told.
fn sha256(digest: &trial::Digest) -> Digest {
    Digest::from_bytes(*digest)
}
