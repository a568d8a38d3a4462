//! The shell: what is answered is on disk, what waits is seen, and nothing is lost by dropping a future.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::command::Status;
use super::*;
use crate::journal::Meters;

/// Takes events, or refuses them.
#[derive(Default)]
struct Sink {
    events: Mutex<Vec<Event>>,
    refuse: AtomicBool,
    hang: AtomicBool,
    asked: AtomicUsize,
}

impl Upstream for Sink {
    fn store(&self, event: Event) -> BoxFuture<'_, Result<(), NotStored>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.refuse.load(Ordering::SeqCst) {
                return Err(NotStored::Full("no room".into()));
            }
            {
                let mut events = self.events.lock().unwrap();
                if !events.iter().any(|e| (&e.source, &e.id) == (&event.source, &event.id)) {
                    events.push(event);
                }
            }
            if self.hang.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

impl Sink {
    fn ids(&self) -> Vec<String> {
        self.events.lock().unwrap().iter().map(|e| e.id.clone()).collect()
    }
}

struct Site {
    dir: tempfile::TempDir,
    config: EdgeConfig,
    sink: Arc<Sink>,
    commands: Option<Commands>,
}

impl Site {
    fn new(change: impl FnOnce(&mut EdgeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EdgeConfig::default();
        config.node.data_dir = dir.path().into();
        config.node.id = "press-7".into();
        change(&mut config);
        let mut site = Self { dir, config, sink: Arc::default(), commands: None };
        site.open();
        site
    }

    fn open(&mut self) {
        let metrics = Metrics::default();
        let meter = Meters::new(&metrics).of("commands");
        let open = Commands::open(&self.config, &Clock::system(), &metrics, meter, self.sink.clone());
        self.commands = Some(open.unwrap());
    }

    fn now(&self) -> &Commands {
        self.commands.as_ref().unwrap()
    }

    /// Ends without a word to the journal, and starts again.
    async fn again(&mut self) {
        self.commands = None;
        for _ in 0..200 {
            // The journal's thread lets go of the directory a moment later.
            let metrics = Metrics::default();
            let meter = Meters::new(&metrics).of("commands");
            match Commands::open(&self.config, &Clock::system(), &metrics, meter, self.sink.clone()) {
                Ok(commands) => return self.commands = Some(commands),
                Err(OpenError::Journal(JournalOpenError::InUse { .. })) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(e) => panic!("{e}"),
            }
        }
        panic!("{:?} stays in use", self.dir);
    }
}

fn request(device: &str, id: &str) -> Request {
    Request {
        device: device.into(),
        id: Some(id.into()),
        name: "open".into(),
        content_type: Some("application/json".into()),
        payload: Bytes::from_static(b"{\"valve\":3}"),
        expires_in: None,
    }
}

async fn waiting(commands: &Commands, device: &str) -> Vec<String> {
    commands.waiting(device, 0, 1 << 20).await.unwrap().iter().map(|c| c.id.to_string()).collect()
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let mut site = Site::new(|_| {});
    for id in ["b", "a"] {
        assert!(matches!(site.now().add(request("d", id)).await.unwrap(), Added::New(_)));
    }
    site.now().configure("d", None, Bytes::from_static(b"x")).await.unwrap();
    let answered = site.now().answer("d", "b", &Outcome::plain(Status::Failed)).await.unwrap();
    assert_eq!(answered, Answered::Now(Outcome::plain(Status::Failed)));
    site.again().await;
    assert_eq!(waiting(site.now(), "d").await, ["a"]);
    assert!(matches!(site.now().add(request("d", "a")).await.unwrap(), Added::Repeated(State::Waiting(_))));
    let before = site.now().answer("d", "b", &Outcome::plain(Status::Done)).await.unwrap();
    assert!(matches!(before, Answered::Before(c) if c.outcome.status == Status::Failed));
    assert_eq!(site.now().config("d").await.unwrap().unwrap().payload, "x");
    assert_eq!(site.sink.ids(), ["b:failed"]);
    let event = site.sink.events.lock().unwrap().remove(0);
    assert_eq!((event.ty.as_str(), event.subject.as_deref()), ("tidegate.command.result", Some("d")));
    assert_eq!(event.extensions[0], ("commandid".to_owned(), "b".to_owned()));
}

#[tokio::test]
async fn a_command_is_not_over_before_its_result_is_stored() {
    let site = Site::new(|_| {});
    site.now().add(request("d", "a")).await.unwrap();
    site.sink.refuse.store(true, Ordering::SeqCst);
    let e = site.now().answer("d", "a", &Outcome::plain(Status::Done)).await.unwrap_err();
    assert!(matches!(e, CommandError::NotStored(NotStored::Full(_))), "{e}");
    assert_eq!(waiting(site.now(), "d").await, ["a"]);
    // The device drops the request while its result is being stored: repeating it settles it, with one event.
    site.sink.refuse.store(false, Ordering::SeqCst);
    site.sink.hang.store(true, Ordering::SeqCst);
    let commands = site.now().clone();
    let failed = Outcome::plain(Status::Failed);
    let dropped = tokio::time::timeout(Duration::from_millis(50), commands.answer("d", "a", &failed)).await;
    assert!(dropped.is_err());
    assert_eq!(waiting(site.now(), "d").await, ["a"]);
    site.sink.hang.store(false, Ordering::SeqCst);
    let answered = site.now().answer("d", "a", &Outcome::plain(Status::Done)).await.unwrap();
    assert_eq!(answered, Answered::Now(failed), "what may be stored already is what counts");
    assert_eq!(site.sink.ids(), ["a:failed"]);
    assert!(matches!(
        site.now().answer("d", "x", &Outcome::plain(Status::Done)).await,
        Err(CommandError::Unknown { .. })
    ));
}

#[tokio::test]
async fn who_waits_is_woken_and_leaves_nothing_behind() {
    let site = Site::new(|_| {});
    let mut watch = site.now().subscribe("d");
    let mut other = site.now().subscribe("e");
    let second = site.now().subscribe("d");
    assert_eq!(site.now().0.watchers.len(), 2);
    site.now().add(request("d", "a")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), watch.changed()).await.is_err(), "told once");
    assert!(tokio::time::timeout(Duration::from_millis(20), other.changed()).await.is_err(), "of its device only");
    drop(watch);
    assert_eq!(site.now().0.watchers.len(), 2);
    drop((second, other));
    assert_eq!(site.now().0.watchers.len(), 0);
}

#[tokio::test]
async fn what_expires_or_is_cancelled_is_reported_however_long_that_takes() {
    let mut site = Site::new(|_| {});
    site.sink.refuse.store(true, Ordering::SeqCst);
    let short = Request { expires_in: Some(Duration::from_millis(80)), ..request("d", "short") };
    site.now().add(short).await.unwrap();
    site.now().add(request("d", "long")).await.unwrap();
    let tasks = Tasks::new();
    site.now().start(&tasks);
    let cancelled = site.now().cancel("d", "long").await.unwrap();
    assert!(matches!(cancelled, Some(State::Closed(c)) if c.outcome.status == Status::Cancelled));
    for _ in 0..200 {
        if site.now().counts().unreported == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(site.now().counts().unreported, 2);
    assert!(site.sink.asked.load(Ordering::SeqCst) > 0);
    assert!(tasks.stop(Duration::from_secs(5)).await);
    // Not reported yet, and not forgotten.
    site.again().await;
    assert_eq!(site.now().counts().unreported, 2);
    site.sink.refuse.store(false, Ordering::SeqCst);
    let tasks = Tasks::new();
    site.now().start(&tasks);
    for _ in 0..200 {
        if site.now().counts().unreported == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut ids = site.sink.ids();
    ids.sort();
    assert_eq!(ids, ["long:cancelled", "short:expired"]);
    assert!(tasks.stop(Duration::from_secs(5)).await);
    assert!(tasks.failure().is_none());
}

#[tokio::test]
async fn the_journal_stays_within_its_bounds_however_much_passes_through() {
    let mut site = Site::new(|c| c.commands.max_bytes = 64 << 10);
    let tasks = Tasks::new();
    site.now().start(&tasks);
    site.now().add(request("stays", "a")).await.unwrap();
    for n in 0..1500 {
        let mut add = request("d", &n.to_string());
        add.payload = vec![b'x'; 1000].into();
        loop {
            match site.now().add(add.clone()).await {
                Ok(_) => break,
                // The journal was full for a moment: it asks for a rewriting, and then goes on.
                Err(CommandError::Unwritten(_) | CommandError::NotDurable(_)) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(e) => panic!("{e}"),
            }
        }
        loop {
            match site.now().answer("d", &n.to_string(), &Outcome::plain(Status::Done)).await {
                Ok(_) => break,
                Err(CommandError::Unwritten(_) | CommandError::NotDurable(_)) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(e) => panic!("{e}"),
            }
        }
    }
    let on_disk: u64 =
        std::fs::read_dir(site.dir.path().join(DIR)).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(on_disk <= (64 << 10) * DISK_FACTOR, "{on_disk} bytes of journal");
    assert!(tasks.stop(Duration::from_secs(5)).await);
    site.again().await;
    assert_eq!(waiting(site.now(), "stays").await, ["a"]);
    assert_eq!(waiting(site.now(), "d").await, [""; 0]);
}

/// Remembers what is retained.
#[derive(Default)]
struct Shelf {
    retained: Mutex<std::collections::BTreeMap<String, Retained>>,
    fail: AtomicBool,
}

impl Publisher for Shelf {
    fn publish(&self, message: Retained) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            if self.fail.swap(false, Ordering::SeqCst) {
                return Err("full".into());
            }
            assert!(!message.payload.is_empty());
            self.retained.lock().unwrap().insert(message.topic.clone(), message);
            Ok(())
        })
    }

    fn retain(&self, message: Retained) -> Result<(), String> {
        self.retained.lock().unwrap().insert(message.topic.clone(), message);
        Ok(())
    }

    fn clear(&self, topic: String) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.retained.lock().unwrap().remove(&topic);
            Ok(())
        })
    }
}

impl Shelf {
    async fn becomes(&self, topics: &[&str]) {
        for _ in 0..300 {
            if self.retained.lock().unwrap().keys().eq(topics.iter()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{topics:?} are not what is retained: {:?}", self.retained.lock().unwrap());
    }
}

#[tokio::test]
async fn what_waits_is_retained_and_cleared_when_it_is_over() {
    let site = Site::new(|_| {});
    site.now().add(request("d", "early")).await.unwrap();
    let (shelf, tasks) = (Arc::new(Shelf::default()), Tasks::new());
    shelf.fail.store(true, Ordering::SeqCst);
    site.now().publish_to(&tasks, shelf.clone());
    shelf.becomes(&["devices/d/commands/early"]).await;
    let empty = Request { payload: Bytes::new(), ..request("d", "late") };
    site.now().add(empty).await.unwrap();
    site.now().configure("d", Some("text/plain".into()), Bytes::from_static(b"fast")).await.unwrap();
    shelf.becomes(&["devices/d/commands/early", "devices/d/commands/late", "devices/d/config"]).await;
    {
        let retained = shelf.retained.lock().unwrap();
        let early = &retained["devices/d/commands/early"];
        assert_eq!(early.payload, "{\"valve\":3}");
        assert_eq!(early.content_type.as_deref(), Some("application/json"));
        assert_eq!(early.user[1], ("name".to_owned(), "open".to_owned()));
        assert!(early.expires_in_ms.unwrap() > 6 * 86_400_000);
        assert_eq!(retained["devices/d/config"].payload, "fast");
    }
    site.now().answer("d", "early", &Outcome::plain(Status::Done)).await.unwrap();
    site.now().cancel("d", "late").await.unwrap();
    assert!(site.now().unconfigure("d").await.unwrap());
    shelf.becomes(&[]).await;
    assert!(tasks.stop(Duration::from_secs(5)).await);
    assert!(tasks.failure().is_none());
}
