//! Why the admin interface could not do what was asked, in the operator's words: what, why, and the way out. [pure]

use std::io;

use super::credentials::CredentialsError;
use crate::security::tls::TlsError;

/// Longest reason of a server that is repeated in ours.
const REASON_CHARS_MAX: usize = 400;

const UNKNOWN_HOST: &str = "the host name is not known";
const UNKNOWN_HOST_WAY_OUT: &str = "check `admin`, and DNS";

/// What to do about an error; the only input to that decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same request can succeed later.
    Retry,
    /// Somebody has to change a setting first.
    Refuse,
    /// Neither: one of both programs is wrong.
    Fatal,
}

/// Why a request to the admin interface failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The admin URL cannot be one.
    #[error("admin URL {url:?}: {reason}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The authorities to trust cannot be read.
    #[error("{0}; check pulsar.ca_file")]
    Trust(#[from] TlsError),
    /// No token to show.
    #[error("{0}; check pulsar.{key}", key = .0.key())]
    Credentials(#[from] CredentialsError),
    /// No connection, or it broke.
    #[error("{url}: {reason}; {way_out}")]
    Unreachable {
        /// The request's URL.
        url: String,
        /// What happened.
        reason: String,
        /// What to try.
        way_out: &'static str,
    },
    /// TLS did not come about.
    #[error("{url}: {reason}; {way_out}")]
    Tls {
        /// The request's URL.
        url: String,
        /// What happened.
        reason: String,
        /// What to try.
        way_out: &'static str,
    },
    /// Pulsar said no.
    #[error("{url}: HTTP {status}: {reason}; {way_out}")]
    Refused {
        /// The request's URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// Pulsar's own reason.
        reason: String,
        /// What to try.
        way_out: &'static str,
    },
    /// A redirect that is not followed.
    #[error("{url}: redirected {reason}; check the broker's advertised web addresses")]
    Redirect {
        /// The URL that redirected.
        url: String,
        /// Where to, and why it is not followed.
        reason: String,
    },
    /// An answer that Pulsar does not give.
    #[error("{url}: the answer is not what Pulsar's admin interface gives: {reason}; is another program there?")]
    Answer {
        /// The request's URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl AdminError {
    /// A broker that has just started does not know its own cluster yet: HTTP 412 "Clusters do not exist" at a tenant (seen on
    /// 4.0.7). It is gone within seconds, or for good when the name is wrong: worth trying again while somebody waits.
    pub fn may_be_starting(&self) -> bool {
        matches!(self, Self::Refused { status: 412, reason, .. } if reason.contains("Clusters do not exist"))
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } => Class::Retry,
            Self::Refused { status: 408 | 429 | 500..=599, .. } => Class::Retry,
            Self::Answer { .. } => Class::Fatal,
            _ => Class::Refuse,
        }
    }
}

/// An error below HTTP.
pub(super) fn transport(url: &str, error: &ureq::Error) -> AdminError {
    let url = url.to_owned();
    if let Some(tls) = tls_cause(error) {
        return AdminError::Tls { url, reason: tls.to_string(), way_out: tls_way_out(tls) };
    }
    let (reason, way_out) = match error {
        ureq::Error::HostNotFound => (UNKNOWN_HOST.to_owned(), UNKNOWN_HOST_WAY_OUT),
        // What std says when the system's resolver fails; it has no kind of its own.
        ureq::Error::Io(e) if e.to_string().starts_with("failed to lookup address") => {
            (format!("{UNKNOWN_HOST} ({e})"), UNKNOWN_HOST_WAY_OUT)
        }
        ureq::Error::Timeout(which) => (
            format!("no answer in time ({which})"),
            "check that the broker runs and that a firewall lets its web port through",
        ),
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => (
            "connection refused".to_owned(),
            "is Pulsar running, and is `admin` its web port (8080, with TLS 8443), not the service port (6650)?",
        ),
        ureq::Error::Io(e) => (
            e.to_string(),
            "if this port speaks TLS, write https:// in `admin`; if it is the service port (6650), write the web port (8080)",
        ),
        ureq::Error::Protocol(e) => (
            format!("not an HTTP answer ({e})"),
            "if this port speaks TLS, write https:// in `admin`; if it is the service port (6650), write the web port (8080)",
        ),
        e => (e.to_string(), "check `admin`"),
    };
    AdminError::Unreachable { url, reason: clean(&reason), way_out }
}

/// rustls' reason, also where it travels inside an I/O error.
fn tls_cause(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(e) => Some(e),
        ureq::Error::Io(e) => {
            let inner = e.get_ref()?;
            inner
                .downcast_ref::<rustls::Error>()
                .or_else(|| inner.source()?.downcast_ref())
                .or_else(|| tls_cause(inner.downcast_ref::<ureq::Error>()?))
        }
        _ => None,
    }
}

fn tls_way_out(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidMessage(_) => "if this port speaks no TLS, write http:// in `admin`",
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => "set ca_file to the authority that signed it",
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "write a name in `admin` that the certificate carries"
        }
        rustls::Error::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        ) => "renew the broker's certificate, or set this machine's clock",
        _ => "check the broker's certificate and ca_file",
    }
}

/// A refusal: `reason` is Pulsar's own, if it gave one.
pub(super) fn refused(url: &str, status: u16, reason: Option<String>, with_token: bool) -> AdminError {
    let way_out = match (status, with_token, reason.is_some()) {
        (401, false, _) => "the cluster wants a token: set token_file to a superuser's",
        (401, true, false) => "the token is wrong, expired, or signed with another key: make a new one",
        (403, false, _) => "the cluster does not let everybody do this: set token_file to a superuser's token",
        // 4.0.7 answers 401 with a reason when it knows the role well and does not let it.
        (401 | 403, true, _) => "the token's role may not do this: use the token of one of the broker's superUserRoles",
        (404, _, false) => "this is not Pulsar's admin interface: check host, port and path of `admin`",
        (404, ..) => "somebody removed it in the meantime, or `admin` is another cluster's: run it again",
        (408 | 429 | 500..=599, ..) => "this may pass: run it again; otherwise the broker's log has the cause",
        (412, ..) => "check the names in the configuration",
        _ => "the broker's log may say more",
    };
    let reason = clean(&reason.unwrap_or_else(|| "no reason given".to_owned()));
    AdminError::Refused { url: url.to_owned(), status, reason, way_out }
}

/// One line of bounded length without control characters: a server's text ends in terminals and logs.
fn clean(text: &str) -> String {
    let line: String = text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    match line.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
