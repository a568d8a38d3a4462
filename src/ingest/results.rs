//! How commands ended, on its way into the outbox like any other event.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Router;
use crate::downlink::commands::{NotStored, Upstream};
use crate::event::Event;
use crate::outbox::AppendError;

impl Upstream for Router {
    fn store(&self, event: Event) -> BoxFuture<'_, Result<(), NotStored>> {
        async move {
            let stored = self.table().lane_for(&event.ty).append(vec![event]).await;
            stored.map(drop).map_err(|e| match e {
                AppendError::Full { .. } => NotStored::Full(e.to_string()),
                AppendError::Busy { .. } => NotStored::Busy(e.to_string()),
                AppendError::TooLarge { .. } => NotStored::TooLarge(e.to_string()),
                AppendError::Disk { .. } => NotStored::Disk(e.to_string()),
                AppendError::Closed => NotStored::Closed(e.to_string()),
            })
        }
        .boxed()
    }
}
