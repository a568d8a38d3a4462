//! The one place that spawns: tasks have names, panics become errors, a failed task stops the
//! process in order, and the end is waited for, within a bound.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a task that should run as long as the process ended early.
#[derive(Debug, thiserror::Error)]
#[error("task {name} failed: {reason}")]
pub struct TaskError {
    /// The task's name, as given to [`Tasks::spawn`].
    pub name: &'static str,
    /// The error or panic message.
    pub reason: String,
}

/// A group of tasks that live and end together. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stop: CancellationToken,
    tracker: TaskTracker,
    failure: Mutex<Option<TaskError>>,
    whole: Option<Tasks>,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// A part of this group that can be stopped alone. It stops with the whole, and a failure of it is the whole's.
    pub fn part(&self) -> Self {
        let stop = self.0.stop.child_token();
        Self(Arc::new(Inner { stop, whole: Some(self.clone()), ..Inner::default() }))
    }

    /// Cancelled when the group is asked to stop, or when a task of it fails.
    pub fn stopping(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Runs `work` until it ends by itself; it should end soon after [`Tasks::stopping`].
    /// An error or a panic of it stops the whole group.
    #[allow(clippy::disallowed_methods)]
    pub fn spawn<E: std::fmt::Display>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let group = self.clone();
        tokio::spawn(self.track(async move {
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(Ok(())) => tracing::debug!(task = name, "ended"),
                Ok(Err(e)) => group.fail(name, e.to_string()),
                Err(panic) => group.fail(name, panic_message(panic.as_ref())),
            }
        }));
    }

    /// Runs `work` for one connection or request: a panic of it is logged and ends nothing else.
    #[allow(clippy::disallowed_methods)]
    pub fn spawn_contained(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.track(async move {
            if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
                tracing::error!(task = name, reason = panic_message(panic.as_ref()), "panicked; only this one ends");
            }
        }));
    }

    /// Who waits for the whole waits for its parts as well.
    fn track(&self, work: impl Future<Output = ()> + Send + 'static) -> BoxFuture<'static, ()> {
        let mut tracked = self.0.tracker.track_future(work).boxed();
        let mut whole = self.0.whole.as_ref();
        while let Some(group) = whole {
            tracked = group.0.tracker.track_future(tracked).boxed();
            whole = group.0.whole.as_ref();
        }
        tracked
    }

    /// Asks all tasks to stop and waits for them, at most `bound`. `false`: some still ran then.
    pub async fn stop(&self, bound: Duration) -> bool {
        self.0.stop.cancel();
        self.0.tracker.close();
        tokio::time::timeout(bound, self.0.tracker.wait()).await.is_ok()
    }

    /// The first failure, if a task failed. Taken once.
    pub fn failure(&self) -> Option<TaskError> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, name: &'static str, reason: String) {
        if self.0.whole.is_none() {
            tracing::error!(task = name, reason, "failed; stopping");
        }
        self.0.stop.cancel();
        if let Some(whole) = &self.0.whole {
            return whole.fail(name, reason);
        }
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(TaskError { name, reason });
    }
}

/// Starts a named thread for blocking work. Its caller joins it; a panic of it is that join's error.
#[allow(clippy::disallowed_methods)]
pub fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// The text of a panic's payload.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_stops_the_group_and_is_reported_by_name() {
        let tasks = Tasks::new();
        tasks.spawn("breaks", async {
            if true {
                panic!("reason");
            }
            Ok::<(), String>(())
        });
        tasks.stopping().cancelled().await;
        assert!(tasks.stop(Duration::from_secs(5)).await);
        assert_eq!(tasks.failure().unwrap().to_string(), "task breaks failed: reason");
    }

    #[tokio::test]
    async fn a_contained_panic_ends_nothing_else() {
        let tasks = Tasks::new();
        tasks.spawn_contained("one request", async { panic!("only here") });
        tokio::task::yield_now().await;
        assert!(!tasks.stopping().is_cancelled());
        assert!(tasks.stop(Duration::from_secs(5)).await);
        assert!(tasks.failure().is_none());
    }

    #[tokio::test]
    async fn a_part_stops_alone_or_with_the_whole_and_its_failure_is_the_wholes() {
        let sleeps = |tasks: &Tasks| {
            let stop = tasks.stopping().clone();
            tasks.spawn("sleeps", async move {
                stop.cancelled().await;
                Ok::<(), String>(())
            });
        };
        let whole = Tasks::new();
        let (one, other) = (whole.part(), whole.part());
        sleeps(&one);
        sleeps(&other);
        assert!(one.stop(Duration::from_secs(5)).await);
        assert!(!whole.stopping().is_cancelled() && !other.stopping().is_cancelled());
        let pending = whole.part();
        pending.spawn("hangs", std::future::pending::<Result<(), String>>());
        assert!(!whole.stop(Duration::from_millis(10)).await, "the whole waits for its parts");

        let whole = Tasks::new();
        let part = whole.part();
        part.spawn("breaks", async { Err::<(), _>("reason") });
        whole.stopping().cancelled().await;
        assert_eq!(whole.failure().unwrap().to_string(), "task breaks failed: reason");
    }

    #[tokio::test]
    async fn stopping_is_bounded() {
        let tasks = Tasks::new();
        tasks.spawn("sleeps", async {
            std::future::pending::<()>().await;
            Ok::<(), String>(())
        });
        assert!(!tasks.stop(Duration::from_millis(10)).await);
    }
}
