//! The files behind the gate: read at start, and again when they change. A bad file changes nothing but what is said.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use serde::Serialize;

use super::devices_file::{self, DevicesError};
use super::directory::Directory;
use super::gate::{Gate, State};
use super::jwt::{KeyError, Keys};
use super::terms::Terms;
use super::verify::NoRandomness;
use crate::config::edge::Identity;
use crate::sys::tasks::Tasks;
use crate::sys::watch::{Look, Looks, Watched};

/// Why nobody can be let in: the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The devices file is bad.
    #[error(transparent)]
    Devices(#[from] DevicesError),
    /// The key file is bad.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// Signals cannot be listened for.
    #[error("cannot listen for SIGHUP: {0}")]
    Signal(#[from] std::io::Error),
}

/// What is wrong with the files now; the state before is in force.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    devices: Option<String>,
    keys: Option<String>,
}

/// The gate on the status page.
#[derive(Clone, Debug, Serialize)]
pub struct IdentityStatus {
    /// "open" or "required"
    pub mode: &'static str,
    /// Devices in the file.
    pub devices: usize,
    /// Why a changed devices file is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices_file_error: Option<String>,
    /// Why a changed key file is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_key_file_error: Option<String>,
}

pub(super) fn status(gate: &Gate) -> IdentityStatus {
    let trouble = gate.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
    IdentityStatus {
        mode: if gate.is_open() { "open" } else { "required" },
        devices: gate.0.state.read().unwrap_or_else(PoisonError::into_inner).directory.len(),
        devices_file_error: trouble.devices,
        jwt_key_file_error: trouble.keys,
    }
}

/// How each file is before it is read.
pub(super) struct WatchedFiles {
    /// Which files: devices and keys.
    of: [Option<PathBuf>; 2],
    devices: Watched,
    keys: Watched,
}

pub(super) fn watched(config: &Identity) -> WatchedFiles {
    let watch = |file: &Option<PathBuf>| Watched::new(file.clone());
    let of = [config.devices_file.clone(), config.jwt_key_file.clone()];
    WatchedFiles { of, devices: watch(&config.devices_file), keys: watch(&config.jwt_key_file) }
}

/// Reads both files for the first time.
pub(super) fn read(config: &Identity) -> Result<State, IdentityError> {
    let devices = config.devices_file.as_deref().map(devices_file::load).transpose()?;
    let keys = read_keys(config)?.map(Arc::new);
    let (directory, _) = Directory::default().next(devices.unwrap_or_default());
    Ok(State { directory, keys, terms: Arc::new(Terms::of(config)) })
}

fn read_keys(config: &Identity) -> Result<Option<Keys>, KeyError> {
    config.jwt_key_file.as_deref().map(|path| Keys::load(path, config)).transpose()
}

/// Looks at the files, and at what runs out, until `tasks` stops.
pub(super) fn watch(tasks: &Tasks, gate: Gate, files: WatchedFiles) -> Result<(), IdentityError> {
    let mut looks = Looks::new()?;
    let stopping = tasks.stopping().clone();
    tasks.spawn("identity files", async move {
        let mut files = files;
        loop {
            let look = tokio::select! {
                look = looks.next() => look,
                () = stopping.cancelled() => return Ok(()),
            };
            let gate = gate.clone();
            // Reading and hashing a large file takes its time.
            files = tokio::task::spawn_blocking(move || gate.look(files, look)).await?;
        }
        #[allow(unreachable_code)] // says what the task's error is
        Ok::<(), tokio::task::JoinError>(())
    });
    Ok(())
}

impl Gate {
    fn look(&self, mut files: WatchedFiles, look: Look) -> WatchedFiles {
        let state = self.0.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        let config = &state.terms.config;
        let others = [&config.devices_file, &config.jwt_key_file] != files.of.each_ref();
        if others {
            files = watched(config);
        }
        let asked = look == Look::Asked || others;
        // Both are looked at, whatever the first says.
        let (devices, keys) = (files.devices.changed() || asked, files.keys.changed() || asked);
        let devices_changed = devices && self.load_devices(&state);
        let keys_changed = keys && self.load_keys(&state);
        self.0.see_out(devices_changed, keys_changed);
        files
    }

    /// `true`: another state is in force.
    fn load_devices(&self, asked: &State) -> bool {
        let Some(path) = &asked.terms.config.devices_file else { return false };
        let read = devices_file::load(path);
        let mut trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.counters.file_bad("devices", read.is_err());
        let devices = match read {
            Ok(devices) => devices,
            Err(reason) => {
                tracing::error!(%reason, "the devices file is not in force: the devices stay as they were");
                trouble.devices = Some(reason.to_string());
                return false;
            }
        };
        trouble.devices = None;
        drop(trouble);
        let over = {
            let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
            if !Arc::ptr_eq(&state.terms, &asked.terms) {
                // Another file counts by now, and was read.
                return false;
            }
            let (directory, over) = state.directory.next(devices);
            *state = Arc::new(State { directory, keys: state.keys.clone(), terms: state.terms.clone() });
            self.0.counters.devices.set(i64::try_from(state.directory.len()).unwrap_or(i64::MAX));
            over
        };
        // Only now: who is cut off and comes back at once must find the new state.
        for listed in &over {
            listed.revoke();
        }
        self.0.counters.revoked.inc_by(over.len() as u64);
        let devices = self.0.state.read().unwrap_or_else(PoisonError::into_inner).directory.len();
        tracing::info!(devices, changed_or_removed = over.len(), "the devices file was read again");
        true
    }

    /// `true`: other keys are in force.
    fn load_keys(&self, asked: &State) -> bool {
        let Some(path) = &asked.terms.config.jwt_key_file else { return false };
        let read = read_keys(&asked.terms.config);
        let mut trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.counters.file_bad("jwt-key", read.is_err());
        match read {
            Ok(keys) => {
                trouble.keys = None;
                drop(trouble);
                let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
                if !Arc::ptr_eq(&state.terms, &asked.terms) {
                    return false;
                }
                if let (Some(old), Some(new)) = (&state.keys, &keys)
                    && old.same(new)
                {
                    return false;
                }
                let (directory, terms) = (state.directory.clone(), state.terms.clone());
                *state = Arc::new(State { directory, keys: keys.map(Arc::new), terms });
                tracing::info!(file = %path.display(), "the JWT key file was read again");
                true
            }
            Err(reason) => {
                tracing::error!(%reason, "the JWT key file is not in force: the keys stay as they were");
                trouble.keys = Some(reason.to_string());
                false
            }
        }
    }
}
