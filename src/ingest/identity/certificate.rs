//! The device's name in a client certificate, which TLS has verified against `tls.client_ca_file` before.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::rules::is_name;
use crate::config::edge::CertificateName;

/// Why a certificate names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nameless {
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Damaged,
    /// It is over, or not in force yet.
    #[error("the certificate is not valid now; renew it, or check the clocks")]
    NotNow,
    /// It lacks what names the device.
    #[error("the certificate has no {0} that names the device (identity.certificate_name)")]
    Lacks(&'static str),
}

/// The name in the certificate `der` (DER). A resumed TLS session is not verified again, so the time is checked here.
pub fn name(der: &[u8], which: CertificateName, now_ms: i64) -> Result<String, Nameless> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| Nameless::Damaged)?;
    let validity = certificate.validity();
    let now_s = now_ms / 1000;
    if now_s < validity.not_before.timestamp() || now_s > validity.not_after.timestamp() {
        return Err(Nameless::NotNow);
    }
    let (found, lacks) = match which {
        CertificateName::CommonName => (common_name(&certificate), "common name"),
        // Host names do not tell capitals from small letters (RFC 4343).
        CertificateName::Dns => (alternative(&certificate, dns).map(|name| name.to_ascii_lowercase()), "DNS name"),
        CertificateName::Uri => (alternative(&certificate, uri), "URI"),
    };
    found.filter(|name| is_name(name)).ok_or(Nameless::Lacks(lacks))
}

/// The common name, if there is exactly one: with two, which one the authority has checked is anybody's guess.
fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    names.next().is_none().then_some(name)
}

fn alternative(certificate: &X509Certificate<'_>, of: fn(&GeneralName<'_>) -> Option<String>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(of)
}

fn dns(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None }
}

fn uri(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["Press-7.plant.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "press-7");
        params.subject_alt_names.push(SanType::URI("spiffe://plant/press-7".try_into().unwrap()));
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn each_part_of_a_certificate_can_name_the_device() {
        let der = certificate(|_| {});
        for (which, expected) in [
            (CertificateName::CommonName, "press-7"),
            (CertificateName::Dns, "press-7.plant.example"),
            (CertificateName::Uri, "spiffe://plant/press-7"),
        ] {
            assert_eq!(name(&der, which, NOW_MS).unwrap(), expected);
        }
    }

    #[test]
    fn what_names_nobody_or_is_over_is_refused() {
        let der = certificate(|p| p.distinguished_name.push(DnType::CommonName, "#"));
        assert_eq!(name(&der, CertificateName::CommonName, NOW_MS), Err(Nameless::Lacks("common name")));
        let der = certificate(|p| p.subject_alt_names.clear());
        assert_eq!(name(&der, CertificateName::Dns, NOW_MS), Err(Nameless::Lacks("DNS name")));
        let der = certificate(|p| p.not_after = date_time_ymd(2020, 1, 1));
        assert_eq!(name(&der, CertificateName::Dns, NOW_MS), Err(Nameless::NotNow));
        assert_eq!(name(&der[..50], CertificateName::Dns, NOW_MS), Err(Nameless::Damaged));
    }
}
