//! An instant as CloudEvents writes it (RFC 3339), to the nanosecond, in UTC. [pure]

use chrono::{DateTime, SecondsFormat};

/// Nanoseconds since 1970-01-01T00:00:00Z: years 1678 to 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From whole milliseconds since 1970; saturates at the ends of the range.
    pub fn from_unix_ms(ms: i64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// From nanoseconds since 1970.
    pub fn from_unix_ns(ns: i64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since 1970.
    pub fn unix_ns(self) -> i64 {
        self.0
    }

    /// Milliseconds since 1970, rounded down.
    pub fn unix_ms(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Reads RFC 3339, any offset. The error is a sentence for the sender.
    pub fn parse(text: &str) -> Result<Self, String> {
        let time = DateTime::parse_from_rfc3339(text)
            .map_err(|e| format!("time {text:?} is not an RFC 3339 time such as 2026-01-31T12:00:00Z: {e}"))?;
        time.timestamp_nanos_opt().map(Self).ok_or_else(|| format!("time {text:?} is outside the years 1678 to 2262"))
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = DateTime::from_timestamp_nanos(self.0);
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_become_utc() {
        let t = Timestamp::parse("2026-01-31T12:00:00.25+02:00").unwrap();
        assert_eq!(t.to_string(), "2026-01-31T10:00:00.250Z");
        assert_eq!(Timestamp::from_unix_ms(-1).unix_ms(), -1);
        assert!(Timestamp::parse("yesterday").unwrap_err().contains("yesterday"));
        assert!(Timestamp::parse("0001-01-01T00:00:00Z").unwrap_err().contains("1678"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ns in any::<i64>()) {
            let t = Timestamp::from_unix_ns(ns);
            prop_assert_eq!(Timestamp::parse(&t.to_string()), Ok(t));
        }
    }
}
