//! All devices of the file, found by name, token or certificate; and what a new file changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::devices_file::Device;
use super::verify;

/// A device of the file, for as long as nothing about it changes.
#[derive(Debug)]
pub struct Listed {
    /// As in the file.
    pub device: Device,
    revoked: CancellationToken,
    // Beside the token: asking that takes a lock that all connections of the device share.
    over: AtomicBool,
}

impl Listed {
    fn new(device: Device) -> Arc<Self> {
        Arc::new(Self { device, revoked: CancellationToken::new(), over: AtomicBool::new(false) })
    }

    /// Cancelled when the device is changed, disabled or taken out.
    pub fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }

    /// Whether it was.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Ends everything that came in by this entry.
    pub fn revoke(&self) {
        self.over.store(true, Ordering::Release);
        self.revoked.cancel();
    }
}

/// One state of the file. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Directory(Arc<Index>);

#[derive(Debug, Default)]
struct Index {
    by_name: HashMap<Box<str>, Arc<Listed>>,
    by_token: HashMap<[u8; 32], Arc<Listed>>,
    by_certificate: HashMap<Box<str>, Arc<Listed>>,
}

impl Directory {
    /// The state that follows `self`: what has not changed stays the same entry. The second: the entries that are over,
    /// for the caller to revoke once the new state is in force.
    pub fn next(&self, devices: Vec<Device>) -> (Self, Vec<Arc<Listed>>) {
        let mut next = Index {
            by_name: HashMap::with_capacity(devices.len()),
            by_token: HashMap::with_capacity(devices.len()),
            by_certificate: HashMap::new(),
        };
        for device in devices {
            let kept = self.0.by_name.get(device.name.as_str()).filter(|old| old.device == device).cloned();
            let listed = kept.unwrap_or_else(|| Listed::new(device));
            for token in &listed.device.tokens {
                next.by_token.insert(*token, listed.clone());
            }
            if let Some(name) = &listed.device.certificate {
                next.by_certificate.insert(name.as_str().into(), listed.clone());
            }
            next.by_name.insert(listed.device.name.as_str().into(), listed);
        }
        let is_over =
            |old: &&Arc<Listed>| !next.by_name.get(old.device.name.as_str()).is_some_and(|new| Arc::ptr_eq(new, old));
        let over = self.0.by_name.values().filter(is_over).cloned().collect();
        (Self(Arc::new(next)), over)
    }

    /// The device of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Listed>> {
        self.0.by_name.get(name)
    }

    /// The device that `token` belongs to. (The table's own comparison stops at the first difference, but between
    /// hashes: nobody can choose one that is close to another.)
    pub fn with_token(&self, token: &[u8]) -> Option<&Arc<Listed>> {
        let hash = verify::token_hash(token);
        let listed = self.0.by_token.get(&hash)?;
        listed.device.tokens.iter().any(|kept| verify::same(kept, &hash)).then_some(listed)
    }

    /// The device whose certificate bears `name`.
    pub fn with_certificate(&self, name: &str) -> Option<&Arc<Listed>> {
        let by_device_name = || self.0.by_name.get(name).filter(|listed| listed.device.certificate.is_none());
        self.0.by_certificate.get(name).or_else(by_device_name)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Listed>> {
        self.0.by_name.values()
    }

    /// Devices in the file.
    pub fn len(&self) -> usize {
        self.0.by_name.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, token: &str) -> Device {
        Device { name: name.into(), tokens: vec![verify::token_hash(token.as_bytes())], ..Device::default() }
    }

    #[test]
    fn what_does_not_change_stays_and_the_rest_is_over() {
        let (first, over) = Directory::default().next(vec![device("a", "1"), device("b", "2"), device("c", "3")]);
        assert!(over.is_empty());
        let disabled = Device { disabled: true, ..device("b", "2") };
        let (second, over) = first.next(vec![device("a", "1"), disabled, device("d", "4")]);
        let mut names: Vec<&str> = over.iter().map(|l| l.device.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["b", "c"]);
        assert!(Arc::ptr_eq(first.named("a").unwrap(), second.named("a").unwrap()));
        assert!(second.named("c").is_none() && second.with_token(b"3").is_none());
        assert_eq!(second.with_token(b"4").unwrap().device.name, "d");
        assert_eq!(second.len(), 3);
    }

    #[test]
    fn a_certificate_belongs_to_one_device() {
        let named = Device { certificate: Some("a.example".into()), ..device("a", "1") };
        let (directory, _) = Directory::default().next(vec![named, device("b", "2")]);
        assert_eq!(directory.with_certificate("a.example").unwrap().device.name, "a");
        assert!(directory.with_certificate("a").is_none(), "its certificate has another name");
        assert_eq!(directory.with_certificate("b").unwrap().device.name, "b");
    }
}
