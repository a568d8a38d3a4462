//! A running edge whose configuration changes: what can take effect at once does, without a connection being dropped
//! for it; what cannot is said.

mod gateway;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::config::edge::{Identity, Mqtt};
use crate::config::{Changes, EdgeConfig};
use crate::inference::Inference;
use crate::ingest::bridge::Bridging;
use crate::ingest::http::Settings;
use crate::ingest::identity::{Gate, IdentityError};
use crate::ingest::mqtt::Hub;
use crate::ingest::mqtt::upstream::Upstream;
use crate::ingest::router::{Router, RouterError};
use crate::observe::logs::Logs;
use crate::outbox::{OpenError, Outbox};
use crate::sys::tasks::Tasks;
use crate::uplink::{self, Allowed, Uplink};

/// Why a configuration did not take effect; of what was in effect before a part may not be any more, and the next one is
/// applied as a whole.
#[derive(Debug, thiserror::Error)]
pub enum NotApplied {
    /// A new lane.
    #[error("{0}")]
    Lane(#[from] OpenError),
    /// The lanes.
    #[error("{0}")]
    Router(#[from] RouterError),
    /// `[uplink]`
    #[error("{0}")]
    Uplink(#[from] uplink::StartError),
    /// `[identity]`
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// `log.level`
    #[error("{0}")]
    Log(String),
    /// A panic.
    #[error("{0}")]
    Failed(String),
}

/// The parts that follow the configuration, and the one in effect.
pub struct Live {
    pub outbox: Outbox,
    pub router: Router,
    pub upstream: Upstream,
    pub uplink: Uplink,
    pub bridging: Bridging,
    pub inference: Inference,
    pub gate: Gate,
    pub hub: Hub,
    pub http: Settings,
    pub logs: Logs,
    /// The way in.
    pub tasks: Tasks,
    /// The way up: it is stopped later.
    pub uplink_tasks: Tasks,
    pub config: EdgeConfig,
    /// Where its events may go.
    pub allowed: Allowed,
    /// What is on trial, when a part of it waits: see [`Live::try_out`].
    pub on_trial: Option<EdgeConfig>,
    /// Events that were appended as probes.
    pub probes: Arc<AtomicU64>,
    /// An attempt failed half-way: what is in effect is not `config` alone.
    pub unsure: bool,
}

/// What keeps `config` from being started or applied although it reads well. Looks at the files that it names.
pub fn check(config: &EdgeConfig) -> Result<(), String> {
    Uplink::check(&config.uplink).map_err(|e| e.to_string())?;
    Gate::check(&config.identity).map_err(|e| e.to_string())
}

impl Live {
    /// Starts what runs by itself.
    pub async fn start(&mut self) -> Result<(), NotApplied> {
        self.uplink.set(&self.uplink_tasks, &self.config, self.allowed.clone(), &self.outbox).await?;
        self.inference.set(&self.config).await;
        self.inference.start(&self.tasks);
        self.bridging.set(&self.tasks, &self.config).await;
        Ok(())
    }

    /// Puts `new` on trial. Two parts of it wait, or an event that was accepted meanwhile would be lost when it is undone:
    /// where events go (lanes, mappings) until [`Live::keep`], because a lane may have no topic and a mapping may keep from
    /// the cloud what is for it; and the way up until [`Live::deliver`], because another Pulsar may take events as well as
    /// ours does.
    pub async fn try_out(&mut self, new: EdgeConfig) -> Result<Changes, NotApplied> {
        let changes = Changes::between(&self.config, &new);
        Uplink::check(&new.uplink)?;
        self.open_lanes(&new).await?;
        let EdgeConfig { lanes, mappings, uplink, mqtt, .. } = &self.config;
        let first = EdgeConfig {
            lanes: lanes.clone(),
            mappings: mappings.clone(),
            uplink: uplink.clone(),
            mqtt: Mqtt { unmapped: mqtt.unmapped, ..new.mqtt.clone() },
            ..new.clone()
        };
        self.apply(first, self.allowed.clone()).await?;
        self.on_trial = Some(new);
        Ok(changes)
    }

    /// The way up of what is on trial: the control link has found what assigned it, at these addresses.
    pub async fn deliver(&mut self, allowed: Allowed) -> Result<(), NotApplied> {
        let Some(new) = &self.on_trial else { return Ok(()) };
        self.unsure = true;
        (self.config.uplink, self.allowed) = (new.uplink.clone(), allowed.clone());
        self.uplink.set(&self.uplink_tasks, &self.config, allowed, &self.outbox).await?;
        self.unsure = false;
        Ok(())
    }

    /// What was on trial is kept: the rest of it takes effect.
    pub async fn keep(&mut self) -> Result<(), NotApplied> {
        match self.on_trial.take() {
            Some(new) => self.apply(new, self.allowed.clone()).await.map(drop),
            None => Ok(()),
        }
    }

    /// What runs or is on trial, all of it.
    pub fn wanted(&self) -> &EdgeConfig {
        self.on_trial.as_ref().unwrap_or(&self.config)
    }

    /// Events may go to these of the addresses in effect.
    pub async fn allow(&mut self, allowed: Allowed) -> Result<(), NotApplied> {
        self.allowed = allowed.clone();
        Ok(self.uplink.set(&self.uplink_tasks, &self.config, allowed, &self.outbox).await?)
    }

    /// Puts `new` into effect, all that can be without a restart; events go to the `allowed` ones of its addresses.
    pub async fn apply(&mut self, new: EdgeConfig, allowed: Allowed) -> Result<Changes, NotApplied> {
        self.on_trial = None;
        let mut changes = Changes::between(&self.config, &new);
        if self.unsure {
            changes.all_at_once();
        }
        // What can fail comes first, and leaves nothing behind but a lane that nothing goes to.
        Uplink::check(&new.uplink)?;
        if changes.lanes {
            self.open_lanes(&new).await?;
        }
        if changes.identity {
            self.set_identity(&new).await?;
        }
        self.unsure = true;
        self.set_limits(&changes, &new);
        if changes.lanes {
            self.router.set(&new.lanes, &self.outbox)?;
        }
        if changes.log_level {
            self.logs.set(&new.log).map_err(NotApplied::Log)?;
        }
        if changes.mappings {
            self.upstream.set(&new, &self.router);
        }
        if changes.lanes || changes.uplink || self.allowed != allowed {
            self.allowed = allowed.clone();
            self.uplink.set(&self.uplink_tasks, &new, allowed, &self.outbox).await?;
        }
        if changes.inferences {
            self.inference.set(&new).await;
        }
        if changes.bridges {
            self.bridging.set(&self.tasks, &new).await;
        }
        self.config = self.config.clone().with_changes_of(new);
        self.unsure = false;
        Ok(changes)
    }

    /// All of it, or nothing.
    async fn set_identity(&mut self, new: &EdgeConfig) -> Result<(), NotApplied> {
        let (gate, identity) = (self.gate.clone(), new.identity.clone());
        let set = tokio::task::spawn_blocking(move || gate.set(&identity)).await;
        set.map_err(|e| NotApplied::Failed(format!("reading the files of [identity] failed: {e}")))??;
        // What follows may fail: this has changed nevertheless.
        let audit_bytes = self.config.identity.audit_bytes;
        self.config.identity = Identity { audit_bytes, ..new.identity.clone() };
        Ok(())
    }

    /// `limits` and `budget`.
    fn set_limits(&self, changes: &Changes, new: &EdgeConfig) {
        let new = self.config.clone().with_changes_of(new.clone());
        if changes.limits {
            self.http.set(&new.http);
        }
        if changes.limits || changes.identity {
            self.hub.set(&new);
        }
        if changes.budget {
            self.outbox.set_budget(new.outbox.max_bytes);
        }
    }

    async fn open_lanes(&self, new: &EdgeConfig) -> Result<(), OpenError> {
        let (outbox, names) = (self.outbox.clone(), new.lanes.iter().map(|l| l.name.clone()).collect::<Vec<_>>());
        let opened = tokio::task::spawn_blocking(move || names.iter().try_for_each(|name| outbox.add(name)));
        opened.await.unwrap_or_else(|e| Err(OpenError(format!("opening a lane failed: {e}"))))
    }
}
