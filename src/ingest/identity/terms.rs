//! What `[identity]` says, as the gate uses it; and whether it still does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::directory::Listed;
use super::jwt::Granted;
use super::quota::Rates;
use super::rules::{Patterns, Rights, Subjects};
use crate::config::edge::{self, IdentityMode};

/// What `[identity]` says.
#[derive(Debug)]
pub struct Terms {
    pub config: edge::Identity,
    /// Who shows no credential is let in.
    pub open: bool,
    pub defaults: Defaults,
    /// Whoever was judged by them is not in any more.
    pub revoked: CancellationToken,
    // Beside the token, whose question takes a lock.
    over: AtomicBool,
}

impl Default for Terms {
    fn default() -> Self {
        Self::of(&edge::Identity::default())
    }
}

impl Terms {
    /// Those of `config`.
    pub fn of(config: &edge::Identity) -> Self {
        let list = |list: &[String]| -> Patterns { list.into() };
        let deny_subscribe = list(&config.deny_subscribe);
        let (publish, subscribe) = (list(&config.publish), list(&config.subscribe));
        let guest = Rights {
            publish: publish.clone(),
            subscribe: subscribe.clone(),
            deny_subscribe: deny_subscribe.clone(),
            subjects: Subjects::Own(Patterns::default()),
        };
        let defaults = Defaults {
            publish,
            subscribe,
            open: Arc::new(Rights::open(deny_subscribe.clone())),
            guest: Arc::new(guest),
            deny_subscribe,
            rates: Rates { events: config.max_events, bytes: config.max_bytes },
        };
        let open = config.mode != Some(IdentityMode::Required);
        Self { config: config.clone(), open, defaults, revoked: CancellationToken::new(), over: AtomicBool::new(false) }
    }

    /// Whether other ones are in force.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Other ones are in force: ends everything that came in by these.
    pub fn revoke(&self) {
        self.over.store(true, Ordering::Release);
        self.revoked.cancel();
    }
}

/// What holds where neither file nor token says otherwise.
#[derive(Debug)]
pub struct Defaults {
    publish: Patterns,
    subscribe: Patterns,
    deny_subscribe: Patterns,
    pub open: Arc<Rights>,
    /// Of who is not in the devices file and whose token says nothing.
    guest: Arc<Rights>,
    pub rates: Rates,
}

impl Defaults {
    /// Of a device of the file.
    pub fn rights_of(&self, listed: &Listed) -> Arc<Rights> {
        let (device, defaults) = (&listed.device, self);
        if device.publish.is_none() && device.subscribe.is_none() && device.speaks_for.is_empty() {
            return defaults.guest.clone();
        }
        Arc::new(Rights {
            publish: device.publish.clone().unwrap_or_else(|| defaults.publish.clone()),
            subscribe: device.subscribe.clone().unwrap_or_else(|| defaults.subscribe.clone()),
            deny_subscribe: defaults.deny_subscribe.clone(),
            subjects: Subjects::Own(device.speaks_for.as_slice().into()),
        })
    }

    /// Of who comes with a token.
    pub fn rights_granted(&self, granted: Granted) -> Arc<Rights> {
        let defaults = self;
        if granted.publish.is_none() && granted.subscribe.is_none() && granted.speaks_for.is_empty() {
            return defaults.guest.clone();
        }
        Arc::new(Rights {
            publish: granted.publish.map_or_else(|| defaults.publish.clone(), Into::into),
            subscribe: granted.subscribe.map_or_else(|| defaults.subscribe.clone(), Into::into),
            deny_subscribe: defaults.deny_subscribe.clone(),
            subjects: Subjects::Own(granted.speaks_for.into()),
        })
    }
}
