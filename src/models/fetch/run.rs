//! Fetches one version of a model: its head, then what is lacking of its chunks, piece by piece onto the disk. A lost link
//! is waited for; dropped at any moment, the next run goes on with what the disk has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pulsar::message::proto::ServerError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::pace::Pace;
use super::places::{Id, Places};
use super::reader::{Message, Reader};
use super::{Action, Bucket, Content, Event, Fetch, From, RESERVE_BYTES};
use crate::downlink::artefact::{ModelAssigned, Trust};
use crate::downlink::link::Settings;
use crate::downlink::report::Fetching;
use crate::models::index::Index;
use crate::models::manifest::{Format, Signed};
use crate::models::pack::{self, Body, Head, HeadReader};
use crate::models::store::{Assembling, Files, Proven, Store, StoreError, Version};
use crate::pulsar::names;
use crate::pulsar::wire::LinkError;
use crate::sys::backoff::Backoff;
use crate::sys::random;

/// What was written is made durable after this at the latest: what a power cut costs on a fast link. On a slow one each
/// piece is durable before the next one is asked for. A kill costs nothing of what was written.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// After this a fetch gives way, if others wait: going on costs a connection and reading again what is on disk.
pub const SLICE: Duration = Duration::from_secs(60);

/// What is written and not durable, at most.
const UNCOMMITTED_BYTES_MAX: u64 = 4 << 20;

/// The store, used by one at a time, off the threads that must not wait for a disk.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Store<Files>>>);

impl Shared {
    /// Shares it.
    pub fn new(store: Store<Files>) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    /// Does something with it, to its end also when this is dropped.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store<Files>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failed> {
        let store = Arc::clone(&self.0);
        let done = move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner));
        blocking(done).await?.map_err(Failed::from)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failed> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Failed::Later { detail: e.to_string() })
}

/// Why a version is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It must not be used, and will not be.
    Refused {
        /// A code for machines.
        reason: &'static str,
        /// For people.
        detail: String,
    },
    /// Its pack is not what it should be. It may still be on its way to this cluster.
    Pack {
        /// A code for machines.
        reason: &'static str,
        /// For people.
        detail: String,
    },
    /// This machine cannot now.
    Later {
        /// For people.
        detail: String,
    },
    /// It goes on another time: others wait. Why it had not come further, if something kept it.
    GaveWay {
        /// For people; may be empty.
        detail: String,
    },
}

impl Failed {
    /// For people.
    pub fn detail(&self) -> &str {
        let (Self::Refused { detail, .. }
        | Self::Pack { detail, .. }
        | Self::Later { detail }
        | Self::GaveWay { detail }) = self;
        detail
    }

    fn pack(reason: &'static str, detail: impl ToString) -> Self {
        Self::Pack { reason, detail: detail.to_string() }
    }
}

impl std::convert::From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        let detail = error.to_string();
        let refused = |reason| Self::Refused { reason, detail: detail.clone() };
        match &error {
            StoreError::Manifest { source, .. } => refused(source.code()),
            StoreError::VersionReused { .. } => refused("version-reused"),
            StoreError::NoRoom { .. } => refused("no-room"),
            StoreError::NotTheModel { .. } => refused("not-the-model"),
            StoreError::NothingBefore { .. } => refused("nothing-before"),
            StoreError::Index(_) => Self::pack("pack-damaged", &detail),
            StoreError::Io { .. }
            | StoreError::InUse(_)
            | StoreError::Busy { .. }
            | StoreError::Lacking { .. }
            | StoreError::Missing { .. }
            | StoreError::Damaged { .. } => Self::Later { detail },
        }
    }
}

/// How far it is, for whoever looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Which version, and how much of it is here.
    pub fetching: Option<(Version, Fetching)>,
    /// Why it does not go on, in words.
    pub waits_for: Option<String>,
}

/// What is to be fetched, and how.
pub struct Job {
    /// Where to.
    pub store: Shared,
    /// Where from.
    pub link: Settings,
    /// What.
    pub assigned: ModelAssigned,
    /// Who may have signed it.
    pub trust: Arc<Trust>,
    /// The versions that are assigned, of all models.
    pub keep: BTreeSet<Version>,
    /// What it must be, if that matters here.
    pub format: Option<Format>,
    /// Bytes per second, and a second's at once.
    pub rate: u64,
    /// How far it is.
    pub progress: watch::Sender<Progress>,
    /// Others wait: it gives way to them after [`SLICE`].
    pub others: watch::Receiver<bool>,
}

/// Fetches it, unless it is here; whole and proven then. Waits for a link as long as it takes, or until others wait.
pub async fn fetch(job: &Job) -> Result<Proven, Failed> {
    let mut run = Run { job, origin: Instant::now(), backoff: Backoff::default() };
    let mut bucket = Bucket::new(job.rate, 0);
    let (name, version) = (job.assigned.name.clone(), job.assigned.version);
    run.show(0, 0);
    let here = blocking({
        let (store, name) = (job.store.clone(), name.clone());
        move || store.0.lock().unwrap_or_else(PoisonError::into_inner).head(&name, version)
    });
    let (signed, index) = match here.await?.map(|head| run.check(head)) {
        Some(Ok(checked)) => checked,
        // What lies on the disk may be of another manifest, or damaged.
        None | Some(Err(_)) => {
            let head = run.head(&mut bucket).await?;
            run.check(head)?
        }
    };
    let (of_bytes, keep, index) = (signed.manifest().size, job.keep.clone(), Arc::new(index));
    let begun = job.store.with(move |store| store.begin(&signed, &index, &keep)).await?;
    let Some(assembling) = begun else {
        let trust = Arc::clone(&job.trust);
        return job.store.with(move |store| store.verify(&name, version, &trust)).await;
    };
    let assembling = run.pieces(assembling, bucket, of_bytes).await?;
    job.store.with(move |store| store.finish(assembling)).await
}

struct Run<'j> {
    job: &'j Job,
    origin: Instant,
    backoff: Backoff,
}

/// A reader on a pack.
struct Reading {
    pack: u64,
    epoch: u64,
    reader: Reader,
    /// It has given the topic's last message.
    ended: bool,
    /// Of each message on its way: when it was asked for, and whether alone.
    asked: VecDeque<(Instant, bool)>,
    /// When the message before was done with.
    done: Instant,
}

impl Reading {
    fn permit(&mut self) {
        self.asked.push_back((Instant::now(), self.asked.is_empty()));
        self.reader.permit();
    }

    /// A message was written.
    fn done_with(&mut self, content: Content, id: Id, places: &mut Places) {
        if let Content::Place { place, .. } = content {
            places.read(place, id);
        }
        self.ended |= places.is_end(id);
        self.done = Instant::now();
    }

    /// Notes how long a message of `bytes` was waited for.
    fn came(&mut self, pace: &mut Pace, bytes: u64) {
        if let Some((asked, alone)) = self.asked.pop_front() {
            pace.came(bytes, asked.max(self.done).elapsed(), alone);
        }
    }
}

impl Run<'_> {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether it has been at it long enough, with others waiting.
    fn gives_way(&self) -> bool {
        self.origin.elapsed() >= SLICE && *self.job.others.borrow()
    }

    fn topic(&self, pack: u64) -> String {
        names::pack_topic(&self.job.link.tenant, self.job.assigned.name.as_str(), pack)
    }

    fn show(&self, bytes: u64, of_bytes: u64) {
        let (name, version) = (self.job.assigned.name.clone(), self.job.assigned.version);
        let fetching = Some(((name, version), Fetching { version, bytes, of_bytes }));
        self.job.progress.send_replace(Progress { fetching, waits_for: None });
    }

    /// The link is lost, or there is none: after a while it is tried again. A topic that is not there is no broken link.
    async fn wait(&mut self, error: LinkError) -> Result<(), Failed> {
        if let LinkError::Refused { code: ServerError::TopicNotFound, .. } = error {
            return Err(Failed::pack("pack-missing", error));
        }
        let text = error.to_string();
        if self.job.progress.borrow().waits_for.as_ref() != Some(&text) {
            let (name, version) = (&self.job.assigned.name, self.job.assigned.version);
            tracing::info!(%name, version, "fetching a model: {text}; trying again");
        }
        self.job.progress.send_modify(|progress| progress.waits_for = Some(text.clone()));
        if self.gives_way() {
            return Err(Failed::GaveWay { detail: text });
        }
        sleep(self.backoff.after_failure(random::bits())).await;
        Ok(())
    }

    async fn lost(&mut self, fetch: &mut Fetch, error: LinkError) -> Result<(), Failed> {
        fetch.handle(Event::Lost);
        self.wait(error).await
    }

    /// Whether it is what was assigned, signed by who may.
    fn check(&self, head: Head) -> Result<(Signed, Index), Failed> {
        let signed = Signed::verify(&head.manifest, &self.job.trust)
            .map_err(|e| Failed::Refused { reason: e.code(), detail: e.to_string() })?;
        let (manifest, assigned) = (signed.manifest(), &self.job.assigned);
        if (&manifest.name, manifest.version, signed.digest()) != (&assigned.name, assigned.version, assigned.digest) {
            let detail = format!(
                "the pack of version {} of {} has the manifest {} of version {} of {}, and {} is assigned; assign what was published",
                assigned.version,
                assigned.name,
                signed.digest(),
                manifest.version,
                manifest.name,
                assigned.digest
            );
            return Err(Failed::Refused { reason: "digest-mismatch", detail });
        }
        if self.job.format.is_some_and(|format| format != manifest.format) {
            let (name, version) = (&manifest.name, manifest.version);
            let detail = format!(
                "version {version} of {name} is signed as opaque, and an [[inference]] of this gateway names it; publish it as \
                 onnx, or take it out of [[inference]]"
            );
            return Err(Failed::Refused { reason: "not-onnx", detail });
        }
        head.index.fits(manifest).map_err(|e| Failed::pack("pack-damaged", e))?;
        Ok((signed, head.index))
    }

    async fn head(&mut self, bucket: &mut Bucket) -> Result<Head, Failed> {
        loop {
            match self.try_head(bucket).await {
                Ok(head) => return head,
                Err(error) => self.wait(error).await?,
            }
        }
    }

    async fn try_head(&mut self, bucket: &mut Bucket) -> Result<Result<Head, Failed>, LinkError> {
        let topic = self.topic(self.job.assigned.version);
        let mut reader = Reader::connect(&self.job.link, &topic).await?;
        let Some(last) = reader.begin(None).await? else { return Ok(Err(missing(&topic))) };
        let mut parts = HeadReader::default();
        loop {
            while let Err(until_ms) = bucket.hold(RESERVE_BYTES, self.now_ms()) {
                // Nothing else is held: there is a time.
                sleep_until(self.origin + Duration::from_millis(until_ms.unwrap_or_default())).await;
            }
            reader.permit();
            let message = reader.next().await;
            let bytes = message.as_ref().ok().and_then(|message| message.bytes.as_ref());
            bucket.settle(RESERVE_BYTES, bytes.map_or(0, |bytes| bytes.len() as u64));
            let message = message?;
            let whole = match message.bytes.as_deref().map(pack::decode) {
                Some(Ok(pack::Message { place, body: Body::Head(part), .. })) if place >= parts.next() => {
                    parts.push(place, part)
                }
                // One that was sent twice.
                Some(Ok(pack::Message { body: Body::Head(_), .. })) => Ok(None),
                Some(Ok(_)) | None => Err(pack::PackError::Damaged("its head is not where it should be")),
                Some(Err(e)) => Err(e),
            };
            match whole {
                Ok(Some(head)) => return Ok(Ok(head)),
                Ok(None) if message.id >= last => {
                    return Ok(Err(Failed::pack("pack-incomplete", format!("{topic} ends within its head"))));
                }
                Ok(None) => self.backoff.reset(),
                Err(e) => return Ok(Err(Failed::pack("pack-damaged", format!("{topic}: {e}")))),
            }
        }
    }

    /// Fetches what is lacking.
    async fn pieces(
        &mut self,
        mut assembling: Assembling<Files>,
        bucket: Bucket,
        of_bytes: u64,
    ) -> Result<Assembling<Files>, Failed> {
        let plan = assembling.plan();
        self.show(of_bytes.saturating_sub(plan.bytes), of_bytes);
        let known = plan.packs.iter().map(|(pack, wanted)| (*pack, Places::new(wanted.places)));
        let mut known: BTreeMap<u64, Places> = known.collect();
        let mut fetch = Fetch::new(plan, bucket);
        let (mut reading, mut committed, mut pace) = (None::<Reading>, Instant::now(), Pace::default());
        loop {
            fetch.allow(if self.gives_way() { 0 } else { pace.ahead() });
            if self.gives_way() && reading.as_ref().is_none_or(|reading| reading.asked.is_empty()) {
                return Err(Failed::GaveWay { detail: String::new() });
            }
            match (fetch.poll(self.now_ms()), &mut reading) {
                (Action::Done, _) => return Ok(assembling),
                (Action::GiveUp { pack }, _) => {
                    let detail = format!("{} does not have what the index says, or has it damaged", self.topic(pack));
                    return Err(Failed::pack("pack-damaged", detail));
                }
                (Action::Read { epoch, pack, from }, before) => {
                    let places = known.entry(pack).or_insert_with(|| Places::new(0));
                    match self.read(before.take(), (pack, epoch), from, places).await {
                        Ok(begun) => {
                            let begun = begun.ok_or_else(|| missing(&self.topic(pack)))?;
                            pace.answered(begun.reader.round_trip());
                            *before = Some(begun);
                        }
                        Err(error) => {
                            self.lost(&mut fetch, error).await?;
                        }
                    }
                }
                (Action::Permit { epoch }, Some(reading)) => {
                    if !reading.ended {
                        reading.permit();
                    } else {
                        fetch.handle(Event::End { epoch });
                    }
                }
                (Action::Wait { until_ms }, Some(of)) => match next(&mut of.reader, self.until(until_ms)).await {
                    None => {}
                    Some(Err(error)) => {
                        reading = None;
                        self.lost(&mut fetch, error).await?;
                    }
                    Some(Ok(message)) => {
                        let (pack, epoch, id) = (of.pack, of.epoch, message.id);
                        let bytes = message.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                        of.came(&mut pace, bytes);
                        let commit = pace.ahead() == 1 || committed.elapsed() >= COMMIT_EVERY;
                        let taken = blocking(move || take(assembling, pack, &message, commit)).await?;
                        let (going_on, content, lacking) = taken?;
                        assembling = going_on;
                        if commit {
                            committed = Instant::now();
                        }
                        let places = known.entry(pack).or_insert_with(|| Places::new(0));
                        of.done_with(content, id, places);
                        fetch.handle(Event::Message { epoch, bytes, content });
                        if of.ended {
                            fetch.handle(Event::End { epoch });
                        }
                        self.backoff.reset();
                        self.show(of_bytes.saturating_sub(lacking), of_bytes);
                    }
                },
                // Neither comes without a reader; a new one would be asked for.
                (Action::Permit { .. } | Action::Wait { .. }, None) => fetch.handle(Event::Lost),
            }
        }
    }

    fn until(&self, until_ms: Option<u64>) -> Option<Instant> {
        until_ms.map(|until_ms| self.origin + Duration::from_millis(until_ms))
    }

    /// Begins to read a pack, on the connection before if that is the pack's; `None`: the topic is empty.
    async fn read(
        &self,
        before: Option<Reading>,
        (pack, epoch): (u64, u64),
        from: From,
        places: &mut Places,
    ) -> Result<Option<Reading>, LinkError> {
        let (mut reader, mut at_first) = match before.filter(|reading| reading.pack == pack) {
            Some(reading) => (reading.reader, false),
            None => (Reader::connect(&self.job.link, &self.topic(pack)).await?, true),
        };
        let guess = |places: &Places| match from {
            From::Place(place) => places.guess(place),
            From::Earliest => None,
        };
        loop {
            let at = guess(places);
            let Some(last) = reader.begin(at).await? else { return Ok(None) };
            places.ends(last);
            // What the first one begins with is told by the end, which nobody knew.
            if !std::mem::take(&mut at_first) || guess(places) == at {
                let (asked, done) = (VecDeque::new(), Instant::now());
                return Ok(Some(Reading { pack, epoch, reader, ended: false, asked, done }));
            }
        }
    }
}

fn missing(topic: &str) -> Failed {
    Failed::pack("pack-missing", format!("{topic} is empty; publish the version again"))
}

/// The next message, unless the time comes first.
async fn next(reader: &mut Reader, until: Option<Instant>) -> Option<Result<Message, LinkError>> {
    match until {
        Some(until) => timeout_at(until, reader.next()).await.ok(),
        None => Some(reader.next().await),
    }
}

type Taken = (Assembling<Files>, Content, u64);

/// Writes what a message brings, and says how many bytes are lacking then.
fn take(mut assembling: Assembling<Files>, pack: u64, message: &Message, commit: bool) -> Result<Taken, Failed> {
    let failed = |e: std::io::Error| Failed::Later { detail: format!("a model cannot be written: {e}") };
    let mut content = match message.bytes.as_deref().map(pack::decode) {
        Some(Ok(pack::Message { place, body: Body::Piece(piece), .. })) => {
            assembling.write(&piece).map_err(failed)?;
            Content::Place { place, filled: false }
        }
        Some(Ok(pack::Message { place, body: Body::Head(_), .. })) => Content::Place { place, filled: false },
        Some(Err(_)) | None => Content::Unreadable,
    };
    if commit || assembling.uncommitted() >= UNCOMMITTED_BYTES_MAX {
        assembling.commit().map_err(failed)?;
    }
    let plan = assembling.plan();
    if let Content::Place { place, filled } = &mut content {
        *filled = !plan.wants(pack, *place);
    }
    Ok((assembling, content, plan.bytes))
}
