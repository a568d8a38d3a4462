//! Which of the configured addresses events may be sent to. [pure]

use crate::pulsar::wire::Address;

/// A pushed document may name addresses of more than one cluster, and each of them would take events as well as ours does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// All of them: whoever wrote the gateway's own file says that they are ours.
    #[default]
    All,
    /// Those at which the control link has found what is assigned to this gateway.
    Only(Vec<Address>),
}

impl Allowed {
    /// Whether events may be sent to `url`.
    pub fn has(&self, url: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(addresses) => Address::parse(url).is_ok_and(|address| addresses.contains(&address)),
        }
    }

    /// Whether all that `before` allowed is still allowed.
    pub fn covers(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::All, _) => true,
            (Self::Only(_), Self::All) => false,
            (Self::Only(now), Self::Only(before)) => before.iter().all(|address| now.contains(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        let only = |urls: &[&str]| Allowed::Only(urls.iter().map(|url| Address::parse(url).unwrap()).collect());
        let ours = only(&["pulsar://a", "pulsar+ssl://b:7000"]);
        for (url, allowed) in [
            ("pulsar://a:6650/", true),
            ("pulsar+ssl://b:7000", true),
            ("pulsar+ssl://a", false),
            ("pulsar://b:7000", false),
            ("no url", false),
        ] {
            assert_eq!((ours.has(url), Allowed::All.has(url)), (allowed, true), "{url}");
        }
        assert!(ours.covers(&only(&["pulsar://a"])) && !only(&["pulsar://a"]).covers(&ours));
        assert!(Allowed::All.covers(&ours) && !ours.covers(&Allowed::All) && ours.covers(&Allowed::Only(Vec::new())));
    }
}
