//! Who is behind a connection's requests: what each shows is judged once, and again when it changes or is revoked.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};
use rustls_pki_types::CertificateDer;

use crate::ingest::identity::{ConnectionGuard, Denied, Gate, Identity, Presented, Refused, Wait, seconds};
use crate::ingest::refusal::{Kind, Refusal};

/// One connection's sender.
pub struct Caller {
    peer: IpAddr,
    certificate: Option<CertificateDer<'static>>,
    /// Requests of one connection come one after the other: nobody waits for this.
    known: Mutex<Option<Known>>,
}

/// Who showed what last.
struct Known {
    authorization: Option<HeaderValue>,
    identity: Identity,
    _place: ConnectionGuard,
}

impl Caller {
    /// `certificate`: the client's, verified by TLS.
    pub fn new(peer: SocketAddr, certificate: Option<CertificateDer<'static>>) -> Self {
        Self { peer: peer.ip().to_canonical(), certificate, known: Mutex::default() }
    }

    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        self.peer.is_loopback()
    }

    /// Who sends a request with these headers. The refusal is in the log of refusals already.
    pub async fn identify(&self, gate: &Gate, headers: &HeaderMap) -> Result<Identity, Refusal> {
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let authorization = shown.next();
        if shown.next().is_some() {
            return Err(Refusal::new(Kind::BadRequest, "more than one Authorization header; send one"));
        }
        if let Some(identity) = self.known_as(authorization) {
            return Ok(identity);
        }
        let credential = Credential::of(authorization);
        let presented = Presented {
            peer: self.peer,
            certificate: self.certificate.as_deref().filter(|_| authorization.is_none()),
            user: credential.user(),
            secret: credential.secret(),
            bearer: credential.bearer(),
        };
        let identity = gate.identify(presented).await.map_err(|denied| refusal(&denied))?;
        // The place of whoever it was before is free first: it may be the same device with a new token.
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let place = gate.enter(&identity, false).map_err(|denied| refusal(&denied))?;
        let known = Known { authorization: authorization.cloned(), identity: identity.clone(), _place: place };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(identity)
    }

    fn known_as(&self, authorization: Option<&HeaderValue>) -> Option<Identity> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref()?;
        let same = known.authorization.as_ref() == authorization && !known.identity.is_revoked();
        same.then(|| known.identity.clone())
    }

    /// That it is an operator: by role, or on this machine, or in open mode.
    pub async fn operates(&self, gate: &Gate, headers: &HeaderMap, what: &str) -> Result<(), Refusal> {
        if gate.is_open() || self.is_local() {
            return Ok(());
        }
        let identity = self.identify(gate, headers).await?;
        if identity.is_operator() {
            return Ok(());
        }
        gate.refused(&identity, &Refused::Operator(what));
        Err(Refusal::new(Kind::Forbidden, format!("{what} is for operators (role = \"operator\" in the devices file)")))
    }
}

/// What an `Authorization` header says (RFC 9110 §11.6.2).
enum Credential<'a> {
    None,
    Bearer(&'a str),
    Basic(String, Vec<u8>),
    /// A scheme that is not known here, or a header that is damaged: a credential that nothing can be right about.
    Unknown(&'a [u8]),
}

impl<'a> Credential<'a> {
    fn of(header: Option<&'a HeaderValue>) -> Self {
        let Some(header) = header else { return Self::None };
        let unknown = Self::Unknown(header.as_bytes());
        let Some((scheme, rest)) = header.to_str().ok().and_then(|text| text.split_once(' ')) else { return unknown };
        let rest = rest.trim_start_matches(' ');
        // A scheme's letters may be capitals (RFC 9110 §11.1).
        if scheme.eq_ignore_ascii_case("bearer") {
            return Self::Bearer(rest);
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return unknown;
        }
        // The name ends at the first colon (RFC 7617 §2).
        let decoded = STANDARD.decode(rest).ok();
        let split = decoded.as_deref().and_then(|all| Some(all.split_at(all.iter().position(|b| *b == b':')?)));
        match split.and_then(|(user, rest)| Some((std::str::from_utf8(user).ok()?, rest.get(1..)?))) {
            Some((user, secret)) => Self::Basic(user.to_owned(), secret.to_vec()),
            None => unknown,
        }
    }

    fn user(&self) -> Option<&str> {
        if let Self::Basic(user, _) = self { Some(user) } else { None }
    }

    fn secret(&self) -> Option<&[u8]> {
        match self {
            Self::Basic(_, secret) => Some(secret),
            Self::Unknown(header) => Some(header),
            _ => None,
        }
    }

    fn bearer(&self) -> Option<&str> {
        if let Self::Bearer(token) = self { Some(token) } else { None }
    }
}

/// `denied` as an answer.
fn refusal(denied: &Denied) -> Refusal {
    let kind = match denied {
        Denied::NoCredential | Denied::BadCredential | Denied::NotTaken(_) => Kind::Unauthorized,
        Denied::Disabled => Kind::Forbidden,
        Denied::LockedOut { .. } => Kind::LockedOut,
        Denied::TooManyConnections { .. } => Kind::TooManyConnections,
        Denied::Busy { .. } => Kind::TooManyLogins,
    };
    Refusal::new(kind, denied.to_string()).after(denied.wait())
}

/// The identity was revoked while its request was on the way.
pub fn revoked() -> Refusal {
    Refusal::new(Kind::Unauthorized, "the credential was withdrawn or has changed; nothing was stored")
}

/// Somebody sends events of a subject that is not its own.
pub fn wrong_subject(identity: &Identity, subject: &str) -> Refusal {
    Refusal::new(
        Kind::Forbidden,
        format!(
            "{:?} may not send events of subject {subject:?}; its own name is taken if there is none (speaks_for in the \
             devices file allows others)",
            identity.name()
        ),
    )
}

/// A quota is used up.
pub fn over_quota(wait: Wait) -> Refusal {
    let detail = format!("the quota of {} is used up; nothing was stored, wait {} s", wait.limit, seconds(wait.time));
    Refusal::new(Kind::QuotaExceeded, detail).after(Some(wait.time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> (Option<String>, Option<Vec<u8>>, Option<String>) {
        let header = HeaderValue::from_str(header).unwrap();
        let credential = Credential::of(Some(&header));
        let (user, bearer) = (credential.user().map(str::to_owned), credential.bearer().map(str::to_owned));
        (user, credential.secret().map(<[u8]>::to_vec), bearer)
    }

    #[test]
    fn credentials_are_read_as_the_standards_say() {
        assert_eq!(read("Bearer abc"), (None, None, Some("abc".into())));
        assert_eq!(read("bearer  abc"), (None, None, Some("abc".into())));
        let basic = |text: &str| read(&format!("BASIC {}", STANDARD.encode(text)));
        assert_eq!(basic("a:b:c"), (Some("a".into()), Some(b"b:c".to_vec()), None));
        assert_eq!(basic(":x"), (Some(String::new()), Some(b"x".to_vec()), None));
        for odd in ["Digest x=y", "Bearer", "Basic ???", "Basic YQ=="] {
            assert_eq!(read(odd), (None, Some(odd.as_bytes().to_vec()), None), "a secret that is wrong for sure");
        }
    }
}
