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
    /// The one before that: where a rollback leads after the gateway has gone back by itself. Nothing keeps it on the disk.
    pub before: Option<u64>,
}

impl Active {
    /// With `version` in use.
    pub fn with(self, version: u64) -> Self {
        match self.current {
            Some(current) if current == version => self,
            current => Self { current: Some(version), previous: current, before: self.previous }.tidy(),
        }
    }

    /// One back. What was left is not the way back: it was left for a reason.
    pub fn back(self) -> Option<Self> {
        self.previous.map(|previous| Self { current: Some(previous), previous: self.before, before: None })
    }

    /// Without the versions that are not there any more: whom `there` does not know.
    pub fn restricted(self, there: impl Fn(u64) -> bool) -> Self {
        let mut left =
            [self.current, self.previous, self.before].into_iter().flatten().filter(|version| there(*version));
        Self { current: left.next(), previous: left.next(), before: left.next() }
    }

    /// Whether it names `version` as one that must stay on the disk.
    pub fn names(self, version: u64) -> bool {
        self.current == Some(version) || self.previous == Some(version)
    }

    /// Each version once.
    fn tidy(self) -> Self {
        let before = self.before.filter(|_| self.before != self.current && self.before != self.previous);
        Self { before, ..self }
    }

    /// As bytes: one line; 0 stands for none. The second form only where the first has no room.
    pub fn encode(self) -> Vec<u8> {
        let (current, previous) = (self.current.unwrap_or(0), self.previous.unwrap_or(0));
        let line = match self.before {
            None => format!("tidegate-model 1 current={current} previous={previous}"),
            Some(before) => format!("tidegate-model 2 current={current} previous={previous} before={before}"),
        };
        let crc = crc32fast::hash(line.as_bytes());
        format!("{line} crc={crc:08x}\n").into_bytes()
    }

    /// Reads bytes; `None`: they are not what was written.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut fields = text.trim_end().split(' ').skip(1);
        let has_before = fields.next()? == "2";
        let mut version = |name: &str| fields.next()?.strip_prefix(name)?.parse::<u64>().ok();
        let (current, previous) = (version("current=")?, version("previous=")?);
        let before = if has_before { version("before=")? } else { 0 };
        let some = |version| if version == 0 { None } else { Some(version) };
        let read = Self { current: some(current), previous: some(previous), before: some(before) };
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
            before in prop::option::of(1_u64..),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
            noise in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let active = Active { current, previous, before };
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
        assert_eq!(two, Active { current: Some(2), previous: Some(1), before: None });
        let one = two.back().unwrap();
        assert_eq!((one.current, one.back()), (Some(1), None));
        assert_eq!(one.with(2), two);
        assert_eq!(two.restricted(|version| version == 1), one);
        assert_eq!(two.restricted(|_| false), Active::default());
        // A version that was taken back leaves the way back that there was before it.
        let three = two.with(3);
        assert_eq!((three.back(), three.back().and_then(Active::back)), (Some(two), Some(one)));
        assert_eq!(
            three.restricted(|version| version != 2),
            Active { current: Some(3), previous: Some(1), before: None }
        );
        // Each version once, and only those that can be needed stay.
        assert_eq!(one.with(2).with(1), Active { current: Some(1), previous: Some(2), before: None });
        assert!(three.names(3) && three.names(2) && !three.names(1));
        let written = b"tidegate-model 1 current=2 previous=1 crc=";
        assert!(two.encode().starts_with(written), "a gateway of the version before reads it");
    }
}
