//! TLS for what listens: certificate, key, authorities of clients; and new ones in their place without a restart.
//!
//! A connection keeps what it was accepted with. After a change nobody resumes an older session: what a resumed session
//! says of its client was verified by the authorities of before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use rustls::crypto::ring;
use rustls::server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::{RootCertStore, ServerConfig, version};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::Expiry;
use super::tls;
use crate::config::edge::{ClientCertificates, Tls, TlsVersion};
use crate::observe::metrics::Metrics;
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;
use crate::sys::watch::{Look, Looks, Watched};

/// Why TLS cannot be offered with these files.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// No certificate is configured.
    #[error(
        "TLS: no certificate is configured; set tls.certificate_file and tls.key_file (\"tidegate keys server\" makes both)"
    )]
    NotConfigured,
    /// A file cannot be read, or is not what it should be.
    #[error("{key} {}: {reason}", path.display())]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong and the way out.
        reason: String,
    },
    /// Certificate and key are not a pair.
    #[error(
        "tls.key_file {}: is not the key of {}; copy both again, or make a new pair with \"tidegate keys server\"",
        key.display(),
        certificate.display()
    )]
    NoPair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The authorities for clients' certificates are bad.
    #[error("tls.client_ca_file: {0}")]
    Authorities(tls::TlsError),
    /// Rustls refuses the set-up.
    #[error("TLS: {0}")]
    Setup(String),
    /// Signals cannot be listened for.
    #[error("cannot listen for SIGHUP: {0}")]
    Signal(io::Error),
}

/// What new connections are accepted with.
#[derive(Debug)]
struct Current {
    server: Arc<ServerConfig>,
    expiries: Vec<Expiry>,
}

#[derive(Debug)]
struct Shared {
    config: Tls,
    clock: Clock,
    current: RwLock<Arc<Current>>,
    trouble: Mutex<Option<String>>,
}

/// TLS for one listener. Cheap to clone; all share the certificate.
#[derive(Clone, Debug)]
pub struct ServerTls {
    shared: Arc<Shared>,
    protocols: &'static [&'static [u8]],
}

/// TLS on the status page.
#[derive(Clone, Debug, Serialize)]
pub struct TlsStatus {
    /// The files with certificates, and when they end.
    pub certificates: Vec<CertificateStatus>,
    /// Why changed files are not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One file with certificates.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    /// The file.
    pub file: PathBuf,
    /// Its first end, in seconds since 1970.
    pub expires_unix_s: i64,
    /// Whole days until then; negative: over.
    pub days_left: i64,
}

impl ServerTls {
    /// Reads the files of `[tls]`. A certificate that has expired is loud in the log, but no reason to refuse: a gateway
    /// that is restarted in its fourth year, or whose clock is wrong, must still take what comes without TLS.
    pub fn load(config: &Tls, clock: &Clock) -> Result<Self, ServerTlsError> {
        let current = read(config)?;
        for trouble in current.troubles(clock) {
            tracing::error!("TLS: {trouble}; clients will refuse it");
        }
        let shared = Shared {
            config: config.clone(),
            clock: clock.clone(),
            current: RwLock::new(Arc::new(current)),
            trouble: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), protocols: &[] })
    }

    /// The same for a listener that speaks `protocols` (ALPN, RFC 7301). A client that offers others only is refused,
    /// so that nobody's bytes for one protocol are taken for another's; one that offers none is served.
    #[must_use]
    pub fn speaking(&self, protocols: &'static [&'static [u8]]) -> Self {
        Self { shared: self.shared.clone(), protocols }
    }

    /// Looks at the files until `tasks` stops: changed ones are in force for new connections within seconds, bad ones
    /// are not. Registers the certificates' ends in `metrics`.
    pub fn watch(&self, tasks: &Tasks, metrics: &Metrics) -> Result<(), ServerTlsError> {
        let mut looks = Looks::new().map_err(ServerTlsError::Signal)?;
        let gauges = Gauges::new(metrics);
        let mut watcher = Watcher { shared: self.shared.clone(), files: watched(&self.shared.config), gauges, said: 0 };
        // What changed between the first reading and now is found at once.
        watcher.look(Look::Asked);
        let stopping = tasks.stopping().clone();
        tasks.spawn("TLS files", async move {
            loop {
                let look = tokio::select! {
                    look = looks.next() => look,
                    () = stopping.cancelled() => return Ok::<(), tokio::task::JoinError>(()),
                };
                watcher = tokio::task::spawn_blocking(move || {
                    watcher.look(look);
                    watcher
                })
                .await?;
            }
        });
        Ok(())
    }

    /// The handshake, within `timeout`; the second: the client's certificate, verified, if it showed one.
    /// Dropping it closes the connection.
    pub async fn accept<S>(
        &self,
        stream: S,
        timeout: Duration,
    ) -> io::Result<(TlsStream<S>, Option<CertificateDer<'static>>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut server = self.shared.current().server.clone();
        if !self.protocols.is_empty() {
            Arc::make_mut(&mut server).alpn_protocols = self.protocols.iter().map(|p| p.to_vec()).collect();
        }
        let stream = tokio::time::timeout(timeout, TlsAcceptor::from(server).accept(stream))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let leaf = leaf.map(|certificate| certificate.clone().into_owned());
        Ok((stream, leaf))
    }

    /// For the status page.
    pub fn status(&self) -> TlsStatus {
        let now_s = self.shared.clock.unix_ms() / 1000;
        let current = self.shared.current();
        let certificates = current.expiries.iter().map(|expiry| CertificateStatus {
            file: expiry.file.clone(),
            expires_unix_s: expiry.not_after_s,
            days_left: expiry.days_left(now_s),
        });
        let error = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        TlsStatus { certificates: certificates.collect(), error }
    }
}

/// Reads the files of `[tls]` and says what a start with them would not: what has expired.
pub fn check(config: &Tls, clock: &Clock) -> Result<Vec<String>, ServerTlsError> {
    Ok(read(config)?.troubles(clock))
}

impl Shared {
    fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Current {
    fn troubles(&self, clock: &Clock) -> Vec<String> {
        let now_s = clock.unix_ms() / 1000;
        self.expiries.iter().filter_map(|expiry| expiry.trouble(now_s)).collect()
    }
}

fn watched(config: &Tls) -> Watched {
    let files = [&config.certificate_file, &config.key_file, &config.client_ca_file];
    Watched::new(files.into_iter().flatten().cloned())
}

struct Watcher {
    shared: Arc<Shared>,
    files: Watched,
    gauges: Gauges,
    /// The most urgent warning that was given.
    said: usize,
}

impl Watcher {
    fn look(&mut self, look: Look) {
        if self.files.changed() || look == Look::Asked {
            self.load();
        }
        let current = self.shared.current();
        let now_s = self.shared.clock.unix_ms() / 1000;
        let urgency = current.expiries.iter().map(|expiry| expiry.urgency(now_s)).max().unwrap_or(0);
        if urgency > self.said {
            for expiry in current.expiries.iter().filter(|expiry| expiry.urgency(now_s) > self.said) {
                let (file, days) = (expiry.file.display(), expiry.days_left(now_s));
                tracing::warn!(%file, days_left = days, "a certificate ends soon, or has ended; put a new one in its place");
            }
        }
        self.said = urgency;
    }

    fn load(&self) {
        let read = read(&self.shared.config).map_err(|e| e.to_string()).and_then(|new| {
            // What has ended is no better than what is in force, if that has not.
            match (new.troubles(&self.shared.clock), self.shared.current().troubles(&self.shared.clock)) {
                (bad, old) if !bad.is_empty() && old.is_empty() => Err(bad.join("; ")),
                _ => Ok(new),
            }
        });
        let mut trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        self.gauges.bad.set(i64::from(read.is_err()));
        match read {
            Ok(new) => {
                self.gauges.expiry.clear();
                for expiry in &new.expiries {
                    let file = expiry.file.display().to_string();
                    self.gauges.expiry.get_or_create(&FileLabel { file }).set(expiry.not_after_s);
                }
                *trouble = None;
                *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                tracing::info!("TLS: the certificate was read; new connections use it");
            }
            Err(reason) => {
                tracing::error!(reason, "TLS: the changed files are not in force; the certificate stays as it was");
                *trouble = Some(reason);
            }
        }
    }
}

/// Label of a file.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FileLabel {
    file: String,
}

#[derive(Clone, Default)]
struct Gauges {
    expiry: Family<FileLabel, Gauge>,
    bad: Gauge,
}

impl Gauges {
    fn new(metrics: &Metrics) -> Self {
        let new = Self::default();
        let g = new.clone();
        metrics.register(|r| {
            r.register(
                "tls_certificate_expiry_timestamp_seconds",
                "When the first certificate of the file ends, since 1970",
                g.expiry,
            );
            r.register("tls_files_bad", "1 while changed files are not in force because something is wrong", g.bad);
        });
        new
    }
}

fn read(config: &Tls) -> Result<Current, ServerTlsError> {
    let (Some(certificate_file), Some(key_file)) = (&config.certificate_file, &config.key_file) else {
        return Err(ServerTlsError::NotConfigured);
    };
    let chain = chain(certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| ServerTlsError::File {
        key: "tls.key_file",
        path: key_file.clone(),
        reason: format!(
            "holds no private key that is taken: {e}; write an unencrypted PEM block (PKCS#8, PKCS#1 or SEC1)"
        ),
    })?;
    let mut expiries: Vec<Expiry> = Expiry::of(certificate_file, &chain).into_iter().collect();
    let verifier = verifier(config, &mut expiries)?;
    let versions: &[&rustls::SupportedProtocolVersion] = match config.min_version {
        TlsVersion::V12 => &[&version::TLS13, &version::TLS12],
        TlsVersion::V13 => &[&version::TLS13],
    };
    let setup = |e: rustls::Error| ServerTlsError::Setup(e.to_string());
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .map_err(setup)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                ServerTlsError::NoPair { certificate: certificate_file.clone(), key: key_file.clone() }
            }
            other => setup(other),
        })?;
    // Sessions are resumed by tickets that the clients keep, so that ten thousand of them cost no memory here.
    server.ticketer = ring::Ticketer::new().map_err(setup)?;
    Ok(Current { server: Arc::new(server), expiries })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerTlsError> {
    let failed = |reason: String| ServerTlsError::File { key: "tls.certificate_file", path: path.to_owned(), reason };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let chain: Vec<CertificateDer<'static>> = read.map_err(|e| failed(format!("cannot be read: {e}")))?;
    if chain.is_empty() {
        return Err(failed("has no certificate (a PEM block \"BEGIN CERTIFICATE\")".to_owned()));
    }
    Ok(chain)
}

fn verifier(config: &Tls, expiries: &mut Vec<Expiry>) -> Result<Arc<dyn ClientCertVerifier>, ServerTlsError> {
    let (Some(path), wanted) = (&config.client_ca_file, config.client_certificates) else {
        return Ok(Arc::new(NoClientAuth));
    };
    if wanted == ClientCertificates::Off {
        return Ok(Arc::new(NoClientAuth));
    }
    let authorities = tls::authorities(path).map_err(ServerTlsError::Authorities)?;
    expiries.extend(Expiry::of(path, &authorities));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities);
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
    let builder = if wanted == ClientCertificates::Optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|e| ServerTlsError::Setup(e.to_string()))
}
