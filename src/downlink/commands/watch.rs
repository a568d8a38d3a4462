//! Who waits for news about which device: one entry per device that somebody listens for, nothing for the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Inner;

/// The entries.
#[derive(Debug, Default)]
pub struct Watchers(Mutex<HashMap<Arc<str>, watch::Sender<()>>>);

impl Watchers {
    /// Wakes whoever waits for news about `device`.
    pub fn tell(&self, device: &str) {
        if let Some(sender) = self.lock().get(device) {
            sender.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().len()
    }
}

/// Tells that something about a device has changed since the last look: subscribe, look, wait, look again.
pub struct Watch {
    inner: Arc<Inner>,
    device: Arc<str>,
    changes: watch::Receiver<()>,
}

impl Watch {
    pub(super) fn new(inner: Arc<Inner>, device: &str) -> Self {
        let mut watchers = inner.watchers.lock();
        let device: Arc<str> = match watchers.get_key_value(device) {
            Some((known, _)) => known.clone(),
            None => device.into(),
        };
        let changes = watchers.entry(device.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        drop(watchers);
        Self { inner, device, changes }
    }

    /// Whose news these are.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Waits for a change since the last one that this returned for. May be dropped at any time.
    pub async fn changed(&mut self) {
        // The sender is kept as long as this lives.
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.inner.watchers.lock();
        if watchers.get(&self.device).is_some_and(|sender| sender.receiver_count() <= 1) {
            watchers.remove(&self.device);
        }
    }
}
