//! What a start takes up: what was assigned, what is in use, and the proof of it.

use std::path::Path;
use std::sync::Arc;

use super::{hooks, work};
use crate::config::EdgeConfig;
use crate::config::edge::Model;
use crate::downlink::artefact::Trust;
use crate::downlink::commands::Publisher;
use crate::inference::{self, Inference};
use crate::models::desired::{Desired, RECORD_BYTES_MAX};
use crate::models::manifest::Name;
use crate::models::store::{self, Files, Store, StoreError, disk};
use crate::sys::tasks::Tasks;

/// What the store has proven, for those that score events.
pub(super) struct Known(pub(super) store::Proofs);

impl inference::Proofs for Known {
    fn is_proven(&self, model: &str, version: u64) -> bool {
        Name::parse(model).is_some_and(|name| self.0.has(&(name, version)))
    }

    fn check(&self, model: &str, version: u64, bytes: &[u8]) -> Result<(), String> {
        let name = Name::parse(model).ok_or("its name is none of a model")?;
        self.0.check(&(name, version), bytes).map_err(|e| e.to_string())
    }
}

/// Proves what is in use, so that it can score events, and changes nothing: for a start without what was pushed. Blocks on the
/// disk.
pub fn only_prove(
    tasks: &Tasks,
    config: &EdgeConfig,
    trust: Arc<Trust>,
    inference: &Inference,
) -> Result<(), StoreError> {
    let (mut store, found) = Store::open(&config.node.data_dir, config.models.max_bytes)?;
    found.iter().for_each(|found| tracing::error!("{found}"));
    inference.believe(Arc::new(Known(store.proofs())));
    let proven = tokio::task::spawn_blocking(move || {
        for name in store.names()? {
            let shelf = store.shelf(&name)?;
            for version in shelf.active().current.into_iter().chain(shelf.shadow) {
                if let Err(e) = store.verify(&name, version, &trust) {
                    tracing::error!("{e}");
                }
            }
        }
        Ok::<(), StoreError>(())
    });
    tasks.spawn_contained("proof of models", async move {
        if let Ok(Err(error)) = proven.await {
            tracing::error!(%error, "the models on this disk cannot be looked at");
        }
    });
    Ok(())
}

/// What is in use is on its topic before anybody can subscribe.
pub(super) fn retain(store: &Store<Files>, models: &[Model], publisher: &dyn Publisher) {
    for model in models {
        let (Some(topic), Some(name)) = (&model.topic, Name::parse(&model.name)) else { continue };
        let current = store.shelf(&name).ok().and_then(|shelf| shelf.active().current);
        let retained = hooks::retained(topic, &work::switched(store, &name, current));
        if let Err(reason) = publisher.retain(retained) {
            tracing::error!(model = model.name, topic, reason, "the version in use cannot be retained");
        }
    }
}

/// What was assigned before; nothing, if that cannot be read.
pub(super) fn read(record: &Path) -> Desired {
    let found = disk::if_there(disk::read(&Files, record, RECORD_BYTES_MAX));
    let damaged = |reason: String| {
        let path = record.display();
        tracing::error!(%path, reason, "what was assigned of models is forgotten; those in use stay; assign them again");
        Desired::default()
    };
    match found {
        Ok(None) => Desired::default(),
        Ok(Some(bytes)) => {
            let read = bytes.as_deref().and_then(Desired::decode);
            read.unwrap_or_else(|| damaged("it is not what was written".to_owned()))
        }
        Err(e) => damaged(e.to_string()),
    }
}
