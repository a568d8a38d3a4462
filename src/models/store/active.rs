//! The record of which version a gateway uses, and which one before. [pure]

/// Largest record, in bytes.
pub const ACTIVE_BYTES_MAX: usize = 160;

/// Which version is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Active {
    /// The one that `current` leads to.
    pub current: Option<u64>,
    /// The one that a rollback leads to.
    pub previous: Option<u64>,
}

impl Active {
    /// With `version` in use.
    pub fn with(self, version: u64) -> Self {
        match self.current {
            Some(current) if current == version => self,
            current => Self { current: Some(version), previous: current },
        }
    }

    /// One back. What was left is not the way back: it was left for a reason.
    pub fn back(self) -> Option<Self> {
        self.previous.map(|previous| Self { current: Some(previous), previous: None })
    }

    /// Without the versions that are not there any more: whom `there` does not know.
    pub fn restricted(self, there: impl Fn(u64) -> bool) -> Self {
        let previous = self.previous.filter(|version| there(*version));
        match self.current.filter(|version| there(*version)) {
            Some(current) => Self { current: Some(current), previous },
            None => Self { current: previous, previous: None },
        }
    }

    /// Whether it names `version`.
    pub fn names(self, version: u64) -> bool {
        self.current == Some(version) || self.previous == Some(version)
    }

    /// As bytes: one line; 0 stands for none.
    pub fn encode(self) -> Vec<u8> {
        let (current, previous) = (self.current.unwrap_or(0), self.previous.unwrap_or(0));
        let line = format!("tidegate-model 1 current={current} previous={previous}");
        let crc = crc32fast::hash(line.as_bytes());
        format!("{line} crc={crc:08x}\n").into_bytes()
    }

    /// Reads bytes; `None`: they are not what was written.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut fields = text.trim_end().split(' ').skip(2);
        let mut version = |name: &str| fields.next()?.strip_prefix(name)?.parse::<u64>().ok();
        let (current, previous) = (version("current=")?, version("previous=")?);
        let some = |version| if version == 0 { None } else { Some(version) };
        let read = Self { current: some(current), previous: some(previous) };
        (read.encode() == bytes).then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::models::tests::cases(2_000)))]

        #[test]
        fn a_record_is_read_as_written_and_a_damaged_one_is_not(
            current in prop::option::of(1_u64..),
            previous in prop::option::of(1_u64..),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
            noise in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let active = Active { current, previous };
            let mut bytes = active.encode();
            prop_assert!(bytes.len() <= ACTIVE_BYTES_MAX);
            prop_assert_eq!(Active::decode(&bytes), Some(active));
            prop_assert_eq!(Active::decode(&bytes[..at.index(bytes.len())]), None);
            prop_assert_eq!(Active::decode(&noise), None);
            *at.get_mut(&mut bytes) ^= flip;
            prop_assert_eq!(Active::decode(&bytes), None);
        }
    }

    #[test]
    fn going_back_does_not_go_forth_again() {
        let two = Active::default().with(1).with(2).with(2);
        assert_eq!(two, Active { current: Some(2), previous: Some(1) });
        let one = two.back().unwrap();
        assert_eq!((one.current, one.back()), (Some(1), None));
        assert_eq!(one.with(2), two);
        assert_eq!(two.restricted(|version| version == 1), one);
        assert_eq!(two.restricted(|_| false), Active::default());
    }
}
