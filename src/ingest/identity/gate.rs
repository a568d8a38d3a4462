//! The gate: judges what a sender shows, and lets it in with a name and rights or says why not.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::audit::{Audit, Entry};
use super::certificate;
use super::devices_file::Role;
use super::directory::{Directory, Listed};
use super::jwt::{self, Claims, Granted, Keys};
use super::meters::Meters;
use super::metrics::Counters;
use super::quota::Rates;
use super::reload::{self, IdentityError, IdentityStatus};
use super::terms::Terms;
use super::throttle::Throttle;
use super::verify::{self, Known, NoRandomness};
use super::{ConnectionGuard, Denied, Identity, Inner, Presented, Refused};
use crate::config::EdgeConfig;
use crate::config::edge;
use crate::downlink::commands::Topics;
use crate::observe::metrics::Metrics;
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;

/// Passwords hashed at once: each takes 7 MiB and a core.
const HASHING_MAX: usize = 2;

/// Logins that wait for that. At 30 ms each the last one waits for 8 s; clients give up soon after.
const WAITING_MAX: usize = 512;

/// When a login that found that queue full may come again.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// How often somebody is judged anew because the files have changed meanwhile; then it shall come again.
const ROUNDS_MAX: usize = 3;

/// Identities that are not in the devices file, beyond which those that are gone are looked for early.
const GUESTS_SWEEP_AT: usize = 8192;

/// The gate. One per process, shared by all ways in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate(pub(super) Arc<Shared>);

/// What all clones share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) state: RwLock<Arc<State>>,
    pub(super) counters: Counters,
    pub(super) trouble: Mutex<reload::Trouble>,
    topics: Arc<Topics>,
    started: Instant,
    throttle: Mutex<Throttle>,
    hasher: RandomState,
    known: Known,
    hashing: Arc<Semaphore>,
    waiting: AtomicUsize,
    meters: Arc<Meters>,
    guests: Mutex<Guests>,
    audit: Audit,
}

/// What the files say, and how they are read.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) directory: Directory,
    pub(super) keys: Option<Arc<Keys>>,
    pub(super) terms: Arc<Terms>,
}

/// Identities that no entry of the devices file stands behind.
#[derive(Debug, Default)]
struct Guests {
    all: Vec<Guest>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Guest {
    identity: Weak<Inner>,
    by_token: bool,
    /// ms since 1970
    expires_ms: Option<i64>,
    /// Under which the devices file would know it.
    listed_as: Arc<str>,
}

/// Who somebody turned out to be.
enum Who {
    Anonymous,
    Device { listed: Arc<Listed>, credential: &'static str, expires_ms: Option<i64> },
    Guest { name: String, granted: Granted, credential: &'static str, expires_ms: Option<i64> },
}

impl Who {
    fn credential(&self) -> &'static str {
        match self {
            Self::Anonymous => "none",
            Self::Device { credential, .. } | Self::Guest { credential, .. } => credential,
        }
    }
}

/// A refusal, with the device if it is known.
struct No {
    denied: Denied,
    device: Option<Arc<Listed>>,
}

impl From<Denied> for No {
    fn from(denied: Denied) -> Self {
        Self { denied, device: None }
    }
}

impl Gate {
    /// Reads the files that `config` names and watches them until `tasks` stops. Runs within a runtime.
    pub fn start(tasks: &Tasks, config: &EdgeConfig, clock: Clock, metrics: &Metrics) -> Result<Self, IdentityError> {
        let counters = Counters::new(metrics);
        let watched = reload::watched(&config.identity);
        let state = reload::read(&config.identity)?;
        counters.devices.set(i64::try_from(state.directory.len()).unwrap_or(i64::MAX));
        let dir = config.node.data_dir.join("audit");
        let lost = counters.audit_lost.clone();
        let audit = Audit::start(tasks, dir, config.identity.audit_bytes, clock.clone(), lost);
        let gate = Self::new(config, clock, counters, state, audit)?;
        reload::watch(tasks, gate.clone(), watched)?;
        Ok(gate)
    }

    /// For tests: everybody may do everything, and nothing is written down.
    pub fn open() -> Self {
        let gate =
            Self::new(&EdgeConfig::default(), Clock::system(), Counters::default(), State::default(), Audit::none());
        gate.expect("a system that tests run on has randomness")
    }

    fn new(
        config: &EdgeConfig,
        clock: Clock,
        counters: Counters,
        state: State,
        audit: Audit,
    ) -> Result<Self, NoRandomness> {
        let topics = Arc::new(Topics::new(config));
        let config = &config.identity;
        Ok(Self(Arc::new(Shared {
            clock,
            state: RwLock::new(Arc::new(state)),
            counters,
            trouble: Mutex::default(),
            topics,
            started: Instant::now(),
            hasher: RandomState::new(),
            throttle: Mutex::new(Throttle::new(config.lockout_after, config.lockout_max)),
            known: Known::new()?,
            hashing: Arc::new(Semaphore::new(HASHING_MAX)),
            waiting: AtomicUsize::new(0),
            meters: Arc::new(Meters::new(Rates { events: config.total_events, bytes: config.total_bytes })),
            guests: Mutex::default(),
            audit,
        })))
    }

    /// Whether who shows no credential is let in.
    pub fn is_open(&self) -> bool {
        self.state().terms.open
    }

    /// What keeps `config` from being used: looks at the files that it names. Blocks.
    pub fn check(config: &edge::Identity) -> Result<(), IdentityError> {
        reload::read(config).map(drop)
    }

    /// From here on `config`, but for its log of refusals. Whoever is in was judged by the one before, and has to come
    /// again. Reads files: not for async code.
    pub fn set(&self, config: &edge::Identity) -> Result<(), IdentityError> {
        let state = reload::read(config)?;
        let shared = &*self.0;
        shared.counters.devices.set(i64::try_from(state.directory.len()).unwrap_or(i64::MAX));
        let throttle = Throttle::new(config.lockout_after, config.lockout_max);
        *shared.throttle.lock().unwrap_or_else(PoisonError::into_inner) = throttle;
        shared.meters.set_total(Rates { events: config.total_events, bytes: config.total_bytes });
        *shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = reload::Trouble::default();
        let before = {
            let mut now = shared.state.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, Arc::new(state))
        };
        // Only now: who is cut off and comes back at once must find the new state.
        before.terms.revoke();
        before.directory.all().for_each(|listed| listed.revoke());
        tracing::info!("[identity] has changed: who is connected has to come again");
        Ok(())
    }

    /// For the status page.
    pub fn status(&self) -> IdentityStatus {
        reload::status(self)
    }

    fn state(&self) -> Arc<State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Judges what a sender shows. A refusal is in the log and counted when this returns.
    /// May take as long as a queue of passwords; dropping it is harmless, and the attempt counts all the same.
    pub async fn identify(&self, presented: Presented<'_>) -> Result<Identity, Denied> {
        let presented = Presented { peer: presented.peer.to_canonical(), ..presented };
        let mut rounds = 0;
        let (state, judged) = loop {
            let state = self.state();
            let who = match self.judge(&state, &presented).await {
                Ok(who) => who,
                Err(no) => break (state, Err(no)),
            };
            let credential = who.credential();
            let identity = self.identity(&state, who, &presented);
            // The files may have changed meanwhile: then it is judged by the new ones, or at last comes again.
            let settled = Arc::ptr_eq(&state, &self.state());
            if settled || rounds == ROUNDS_MAX {
                if !settled && !identity.name().is_empty() {
                    identity.revoke();
                }
                break (state, Ok((credential, identity)));
            }
            rounds += 1;
        };
        match judged {
            Ok((credential, identity)) => {
                self.0.counters.admitted(credential);
                Ok(identity)
            }
            Err(No { denied, device }) => {
                self.0.counters.refused(denied.reason());
                let device = device.as_ref().map(|listed| listed.device.name.as_str());
                let unknown = presented.user.filter(|user| device.is_none() && state.directory.named(user).is_none());
                let claimed = presented.user.filter(|_| unknown.is_none());
                let what = matches!(denied, Denied::NotTaken(_)).then(|| denied.to_string());
                self.0.audit.note(&Entry {
                    reason: denied.reason(),
                    source: Some(presented.peer),
                    device: device.or(claimed),
                    unknown,
                    what: what.as_deref(),
                });
                Err(denied)
            }
        }
    }

    /// Counts a connection of `identity`, for as long as the guard lives. HTTP and MQTT count together; the anonymous
    /// of open mode are not counted here, for all of them have one name. `instead`: it takes the place of another one of
    /// its own, which is about to end: a device whose old connection hangs must be able to come back.
    pub fn enter(&self, identity: &Identity, instead: bool) -> Result<ConnectionGuard, Denied> {
        let (Some(max), Some(meter)) = (identity.0.connections_max, &identity.0.meter) else {
            return Ok(ConnectionGuard(None));
        };
        if meter.lock().unwrap_or_else(PoisonError::into_inner).enter(max.saturating_add(usize::from(instead))) {
            return Ok(ConnectionGuard(Some(meter.clone())));
        }
        let denied = Denied::TooManyConnections { max };
        self.note(identity, denied.reason(), None);
        Err(denied)
    }

    /// Somebody was refused whom nobody here has judged.
    pub fn turned_away(&self, reason: &'static str) {
        self.0.counters.turned_away(reason);
    }

    /// Refusals since the start, by reason.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.0.counters.refusals()
    }

    /// Writes down that somebody who is in was refused something.
    pub fn refused(&self, identity: &Identity, what: &Refused<'_>) {
        let quota;
        let text = match what {
            Refused::Publish(text)
            | Refused::Subscribe(text)
            | Refused::Subject(text)
            | Refused::Operator(text)
            | Refused::Session(text)
            | Refused::Event(text) => text,
            Refused::Quota(wait) => {
                quota = wait.limit.to_string();
                quota.as_str()
            }
        };
        self.note(identity, what.reason(), Some(text));
    }

    fn note(&self, identity: &Identity, reason: &'static str, what: Option<&str>) {
        self.0.counters.refused(reason);
        let device = Some(identity.name()).filter(|name| !name.is_empty());
        self.0.audit.note(&Entry { reason, source: Some(identity.0.peer), device, unknown: None, what });
    }

    async fn judge(&self, state: &State, presented: &Presented<'_>) -> Result<Who, No> {
        let secret = presented.bearer.map(str::as_bytes).or(presented.secret).filter(|secret| !secret.is_empty());
        let who = match (secret, presented.certificate) {
            (Some(secret), _) => self.secret(state, presented, secret).await?,
            (None, Some(der)) => self.certificate(state, der)?,
            (None, None) if state.terms.open => Who::Anonymous,
            (None, None) => return Err(Denied::NoCredential.into()),
        };
        match who {
            Who::Device { listed, .. } if listed.device.disabled => {
                Err(No { denied: Denied::Disabled, device: Some(listed) })
            }
            who => Ok(who),
        }
    }

    async fn secret(&self, state: &State, presented: &Presented<'_>, secret: &[u8]) -> Result<Who, No> {
        if secret.len() > verify::SECRET_BYTES_MAX {
            return Err(self.wrong(presented, Denied::BadCredential));
        }
        // Also while the address is locked out: nobody can guess 256 bits, and one device with a wrong password must
        // not keep out those that share its address.
        if let Some(listed) = state.directory.with_token(secret) {
            return Ok(Who::Device { listed: listed.clone(), credential: "token", expires_ms: None });
        }
        let text = std::str::from_utf8(secret).ok().filter(|text| jwt::has_shape(text));
        if let (Some(keys), Some(token)) = (&state.keys, text) {
            self.not_locked_out(presented)?;
            return match keys.verify(token, self.0.clock.unix_ms()) {
                Ok(claims) => Ok(bearer_of(state, claims)),
                Err(rejected @ jwt::Rejected::Signature) => {
                    Err(self.wrong(presented, Denied::NotTaken(rejected.to_string())))
                }
                // Rightly signed: a device whose token has run out does not guess.
                Err(rejected) => Err(Denied::NotTaken(rejected.to_string()).into()),
            };
        }
        match presented.user.filter(|user| presented.bearer.is_none() && !user.is_empty()) {
            Some(user) => self.password(state, presented, user, secret).await,
            None if state.terms.open => Ok(Who::Anonymous),
            None => {
                self.not_locked_out(presented)?;
                Err(self.wrong(presented, Denied::BadCredential))
            }
        }
    }

    async fn password(&self, state: &State, presented: &Presented<'_>, user: &str, secret: &[u8]) -> Result<Who, No> {
        let listed = state.directory.named(user);
        if listed.is_none() && state.terms.open {
            return Ok(Who::Anonymous);
        }
        self.not_locked_out(presented)?;
        let stored = listed.and_then(|listed| listed.device.password.as_deref());
        let right = match stored {
            Some(stored) if self.0.known.has(stored, secret) => true,
            _ => self.hash(presented, stored, secret).await?,
        };
        match listed.filter(|_| right) {
            Some(listed) => {
                let mut throttle = self.0.throttle.lock().unwrap_or_else(PoisonError::into_inner);
                throttle.succeeded(presented.peer, self.0.whose(presented));
                Ok(Who::Device { listed: listed.clone(), credential: "password", expires_ms: None })
            }
            None => Err(No { denied: Denied::BadCredential, device: listed.cloned() }),
        }
    }

    /// Whether the password is right, by Argon2, on a thread that may block. A failure is counted there, so that
    /// hanging up before the answer does not help.
    async fn hash(&self, presented: &Presented<'_>, stored: Option<&str>, secret: &[u8]) -> Result<bool, Denied> {
        let turn = {
            let _waiting = Waiting::enter(&self.0.waiting).ok_or(Denied::Busy { wait: BUSY_WAIT })?;
            self.0.hashing.clone().acquire_owned().await.map_err(|_| Denied::Busy { wait: BUSY_WAIT })?
        };
        // Others of this address may have failed while this one waited.
        self.not_locked_out(presented)?;
        let (shared, peer, whose) = (self.0.clone(), presented.peer, self.0.whose(presented));
        let (stored, secret) = (stored.map(str::to_owned), secret.to_vec());
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            shared.counters.passwords_hashed.inc();
            // A longer one takes as long and is wrong.
            let fits = secret.len() <= verify::PASSWORD_BYTES_MAX;
            let secret = &secret[..secret.len().min(verify::PASSWORD_BYTES_MAX)];
            let right = verify::password_is(secret, stored.as_deref()) && fits;
            match stored.filter(|_| right) {
                Some(stored) => shared.known.add(&stored, secret),
                None => shared.failed(peer, whose),
            }
            right
        });
        Ok(done.await.unwrap_or(false))
    }

    fn certificate(&self, state: &State, der: &[u8]) -> Result<Who, No> {
        let name = certificate::name(der, state.terms.config.certificate_name, self.0.clock.unix_ms())
            .map_err(|nameless| Denied::NotTaken(nameless.to_string()))?;
        let (credential, expires_ms) = ("certificate", None);
        if let Some(listed) = state.directory.with_certificate(&name) {
            return Ok(Who::Device { listed: listed.clone(), credential, expires_ms });
        }
        if state.directory.named(&name).is_some() {
            // That device has another certificate.
            return Err(Denied::BadCredential.into());
        }
        // Who signs certificates says who is known; to shut one out, list it as disabled.
        Ok(Who::Guest { name, granted: Granted::default(), credential, expires_ms })
    }

    fn not_locked_out(&self, presented: &Presented<'_>) -> Result<(), Denied> {
        let throttle = self.0.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        match throttle.wait(presented.peer, self.0.started.elapsed()) {
            Some(wait) => Err(Denied::LockedOut { wait }),
            None => Ok(()),
        }
    }

    fn wrong(&self, presented: &Presented<'_>, denied: Denied) -> No {
        self.0.failed(presented.peer, self.0.whose(presented));
        denied.into()
    }

    fn identity(&self, state: &State, who: Who, presented: &Presented<'_>) -> Identity {
        let (shared, terms) = (&self.0, &state.terms);
        let (open, defaults) = (terms.open, &terms.defaults);
        let open_rights = || defaults.open.clone();
        let mut made = Inner {
            name: Arc::from(""),
            peer: presented.peer,
            rights: open_rights(),
            topics: shared.topics.clone(),
            operator: open,
            listed: None,
            terms: terms.clone(),
            revoked: terms.revoked.child_token(),
            over: AtomicBool::new(false),
            meter: None,
            meters: shared.meters.clone(),
            metered: false,
            connections_max: None,
        };
        let mut rates = defaults.rates;
        let mut guest = None;
        match who {
            Who::Anonymous => {
                // Nobody has a name of their own, so each address has a quota. No device's name has a control character.
                if rates.any() || shared.meters.limits_all() {
                    made.meter = Some(shared.meters.of(&format!("\0{}", presented.peer).into(), rates));
                    made.metered = true;
                }
                return Identity(Arc::new(made));
            }
            Who::Device { listed, expires_ms, .. } => {
                made.name = listed.device.name.as_str().into();
                rates = listed.device.rates(rates);
                if !open {
                    made.rights = defaults.rights_of(&listed);
                    made.operator = listed.device.role == Role::Operator;
                }
                made.revoked = listed.revoked().child_token();
                guest = expires_ms.map(|expires| (true, Some(expires)));
                made.listed = Some(listed);
            }
            Who::Guest { name, granted, credential, expires_ms } => {
                made.name = name.into();
                if !open {
                    made.operator = granted.role == Role::Operator;
                    made.rights = defaults.rights_granted(granted);
                }
                guest = guest.or(Some((credential == "jwt", expires_ms)));
            }
        }
        made.meter = Some(shared.meters.of(&made.name, rates));
        made.metered = rates.any() || shared.meters.limits_all();
        made.connections_max = Some(terms.config.max_connections);
        let identity = Identity(Arc::new(made));
        if let Some((by_token, expires_ms)) = guest {
            let listed_as = identity.shared_name();
            shared.host(Guest { identity: Arc::downgrade(&identity.0), by_token, expires_ms, listed_as });
        }
        identity
    }
}

/// Whose token it is: a device of the file, with the rights that the file gives, or one that only the issuer knows.
fn bearer_of(state: &State, claims: Claims) -> Who {
    let (credential, expires_ms) = ("jwt", Some(claims.expires_ms));
    match state.directory.named(&claims.name) {
        Some(listed) => Who::Device { listed: listed.clone(), credential, expires_ms },
        None => Who::Guest { name: claims.name, granted: claims.rights, credential, expires_ms },
    }
}

impl Shared {
    /// Tells user names apart, for the throttle; nobody outside can find two that are the same to it.
    fn whose(&self, presented: &Presented<'_>) -> u64 {
        self.hasher.hash_one(presented.user)
    }

    fn failed(&self, peer: std::net::IpAddr, whose: u64) {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.failed(peer, whose, self.started.elapsed());
    }

    fn host(&self, guest: Guest) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if guests.all.len() >= guests.sweep_at.max(GUESTS_SWEEP_AT) {
            guests.all.retain(|guest| guest.identity.strong_count() > 0);
            guests.sweep_at = guests.all.len() * 2;
        }
        guests.all.push(guest);
    }

    /// Ends the identities whose token has run out, and after a change of the files those that would be judged
    /// otherwise now: whom the devices file knows now, and after a change of keys everybody with a token.
    pub(super) fn see_out(&self, files_changed: bool, keys_changed: bool) {
        let now_ms = self.clock.unix_ms();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.all.retain(|guest| {
            let Some(inner) = guest.identity.upgrade() else { return false };
            let listed_now = || {
                let directory = &state.directory;
                directory.named(&guest.listed_as).is_some() || directory.with_certificate(&guest.listed_as).is_some()
            };
            let over = guest.expires_ms.is_some_and(|at| now_ms >= at)
                || (keys_changed && guest.by_token)
                || (files_changed && inner.listed.is_none() && listed_now());
            if over {
                Identity(inner).revoke();
            }
            !over
        });
        let failed = self.throttle.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.counters.addresses_failed.set(i64::try_from(failed).unwrap_or(i64::MAX));
    }
}

/// One that waits for its password to be hashed.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::AcqRel) < WAITING_MAX).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
