//! How long certificates are still valid, and when to speak of it.

use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use serde::Serialize;

const DAY_S: i64 = 86_400;

/// Days before the end at which a warning is due: time to order one, to be reminded, to act today.
const WARN_DAYS: [i64; 3] = [21, 7, 1];

/// When the first certificate of a file ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expiry {
    /// The file.
    pub file: PathBuf,
    /// From then on none of it is valid, in seconds since 1970.
    pub not_before_s: i64,
    /// Until then all of it is valid, in seconds since 1970.
    pub not_after_s: i64,
}

impl Expiry {
    /// Of the certificates of `file`: the latest begin and the earliest end. `None`: one cannot be read, or there is none.
    pub fn of(file: &Path, certificates: &[CertificateDer<'_>]) -> Option<Self> {
        let mut all = certificates.iter().map(|der| {
            let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
            let validity = certificate.validity();
            Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
        });
        let first = all.next()??;
        let (not_before_s, not_after_s) = all.try_fold(first, |(begin, end), next| {
            let (b, e) = next?;
            Some((begin.max(b), end.min(e)))
        })?;
        Some(Self { file: file.to_owned(), not_before_s, not_after_s })
    }

    /// Whole days left; negative: over for so many.
    pub fn days_left(&self, now_s: i64) -> i64 {
        (self.not_after_s - now_s).div_euclid(DAY_S)
    }

    /// Why it is of no use now, if it is not.
    pub fn trouble(&self, now_s: i64) -> Option<String> {
        let file = self.file.display();
        if now_s > self.not_after_s {
            return Some(format!("{file} has expired {} days ago; renew it", -self.days_left(now_s)));
        }
        (now_s < self.not_before_s).then(|| {
            format!("{file} is not valid yet: it begins in {} h; is this machine's clock right?", {
                (self.not_before_s - now_s) / 3600 + 1
            })
        })
    }

    /// How urgent it is: 0 with time enough, one more for each of [`WARN_DAYS`] that has passed, the most once it is over.
    pub fn urgency(&self, now_s: i64) -> usize {
        let passed = WARN_DAYS.iter().filter(|days| self.not_after_s - now_s <= **days * DAY_S).count();
        passed + usize::from(now_s > self.not_after_s)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(until: (i32, u8, u8)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until.0, until.1, until.2));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn the_first_to_end_counts_and_warnings_come_once_each() {
        let chain = [certificate((2024, 1, 22)), certificate((2024, 1, 11))];
        let expiry = Expiry::of(Path::new("a.pem"), &chain).unwrap();
        assert_eq!(expiry.not_after_s, 1_704_931_200);
        let at = |day: i64| expiry.not_after_s - day * DAY_S;
        assert_eq!((expiry.days_left(at(30)), expiry.days_left(at(-2))), (30, -2));
        let urgencies = [30, 21, 8, 7, 2, 1, 0, -1].map(|day| expiry.urgency(at(day)));
        assert_eq!(urgencies, [0, 1, 1, 2, 2, 3, 3, 4]);
        assert_eq!(expiry.trouble(at(1)), None);
        assert!(expiry.trouble(at(-3)).unwrap().contains("expired 3 days ago"));
        assert!(expiry.trouble(0).unwrap().contains("clock"));
        assert_eq!(Expiry::of(Path::new("a.pem"), &[]), None);
    }
}
