//! What a TLS client of ours trusts: the authorities in a file, and then nobody else, or the public ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why no TLS client can be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read as PEM.
    #[error("CA file {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: rustls_pki_types::pem::Error,
    },
    /// A certificate in the file cannot be trusted.
    #[error("CA file {}: certificate {number}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        reason: rustls::Error,
    },
    /// The file is PEM and has no certificate.
    #[error("CA file {} has no certificate (a PEM block \"BEGIN CERTIFICATE\")", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Our own certificate or its key cannot be read as PEM.
    #[error("{}: {reason}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: rustls_pki_types::pem::Error,
    },
    /// Rustls refuses the set-up.
    #[error("TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// A client that trusts the authorities in `ca_file` and nobody else; without a file, the public ones.
/// Reads the file: call it at each connect, so that a replaced file takes effect.
pub fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    client_as(ca_file, None)
}

/// The same, showing a certificate: its file (with those between it and its authority) and its key's.
pub fn client_as(ca_file: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca_file {
        Some(path) => private_roots(path)?.1,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let Some((certificate, key)) = identity else { return Ok(Arc::new(config.with_no_client_auth())) };
    let failed = |path: &Path, reason| TlsError::Identity { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| failed(certificate, e))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| failed(key, e))?;
    Ok(Arc::new(config.with_client_auth_cert(chain, private)?))
}

/// The authorities in `ca_file`, each of them one that rustls can trust. At least one.
pub fn authorities(ca_file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    private_roots(ca_file).map(|(certificates, _)| certificates)
}

fn private_roots(path: &Path) -> Result<(Vec<CertificateDer<'static>>, RootCertStore), TlsError> {
    let failed = |reason| TlsError::Read { path: path.to_owned(), reason };
    let (mut certificates, mut roots) = (Vec::new(), RootCertStore::empty());
    for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
        let certificate = certificate.map_err(failed)?;
        let number = certificates.len() + 1;
        roots.add(certificate.clone()).map_err(|reason| TlsError::Certificate {
            path: path.to_owned(),
            number,
            reason,
        })?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned() });
    }
    Ok((certificates, roots))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_authority_is_read_and_a_wrong_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(client(Some(&path)).unwrap_err().to_string().contains("ca.pem"));
        std::fs::write(&path, "not PEM").unwrap();
        assert!(client(Some(&path)).unwrap_err().to_string().contains("BEGIN CERTIFICATE"));
        let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&path, authority.cert.pem()).unwrap();
        assert_eq!(authorities(&path).unwrap(), [authority.cert.der().clone()]);
        client(Some(&path)).unwrap();
        client(None).unwrap();
    }
}
