//! Authorities of a test's own, and what they sign.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Writes an authority and a certificate of it for `names` to `dir`: the files of the certificate, of its key, of the
/// authority, as a broker wants them.
pub fn certificates(dir: &Path, names: &[&str]) -> [PathBuf; 3] {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    // OpenSSL takes a certificate for self-signed whose subject is its issuer's.
    authority.distinguished_name.push(DnType::CommonName, "test authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let files = ["cert.pem", "key.pem", "ca.pem"].map(|f| dir.join(f));
    for (file, content) in files.iter().zip([certificate.pem(), key.serialize_pem(), authority.as_ref().pem()]) {
        std::fs::write(file, content).unwrap();
    }
    files
}
