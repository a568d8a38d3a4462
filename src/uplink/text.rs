//! Numbers and times as text without an allocation: every event carries some. [pure]

use crate::event::Timestamp;

/// Longest text: `-2262-04-11T23:47:16.854775807Z` has 30 bytes, a u64 has 20.
const LENGTH_MAX: usize = 32;

/// A short ASCII text on the stack.
#[derive(Clone, Copy)]
pub struct Short {
    bytes: [u8; LENGTH_MAX],
    len: usize,
}

impl Short {
    const fn new() -> Self {
        Self { bytes: [0; LENGTH_MAX], len: 0 }
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    /// Appends `value` with leading zeros to `width`.
    fn digits(&mut self, mut value: u64, width: usize) {
        for i in (self.len..self.len + width).rev() {
            self.bytes[i] = b'0' + (value % 10) as u8; // a digit
            value /= 10;
        }
        self.len += width;
    }
}

/// `value` in decimal.
pub fn decimal(value: u64) -> Short {
    let mut text = Short::new();
    text.digits(value, value.checked_ilog10().unwrap_or(0) as usize + 1);
    text
}

/// `time` in RFC 3339, as its `Display` writes it (a test compares them).
pub fn rfc3339(time: Timestamp) -> Short {
    let ns = time.unix_ns();
    let (seconds, fraction) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000).unsigned_abs());
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400).unsigned_abs());
    let (year, month, day) = civil(days);
    let mut text = Short::new();
    text.digits(year, 4); // a Timestamp lies in the years 1677 to 2262
    for (separator, value) in
        [(b'-', month), (b'-', day), (b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)]
    {
        text.push(separator);
        text.digits(value, 2);
    }
    if fraction > 0 {
        text.push(b'.');
        match fraction {
            f if f % 1_000_000 == 0 => text.digits(f / 1_000_000, 3),
            f if f % 1_000 == 0 => text.digits(f / 1_000, 6),
            f => text.digits(f, 9),
        }
    }
    text.push(b'Z');
    text
}

/// Year, month and day of the proleptic Gregorian calendar, from days since 1970-01-01.
/// Years begin in March here, so that the leap day is the last of its year.
fn civil(days: i64) -> (u64, u64, u64) {
    let days = (days + 719_468).unsigned_abs(); // since 0000-03-01; never negative for a Timestamp
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn same(time: Timestamp) {
        assert_eq!(std::str::from_utf8(rfc3339(time).as_bytes()).unwrap(), time.to_string());
    }

    #[test]
    fn the_ends_and_the_round_ones() {
        for ns in [i64::MIN, i64::MAX, 0, -1, 1, 1_000, 1_000_000, 1_000_000_000, 951_782_400_000_000_000] {
            same(Timestamp::from_unix_ns(ns));
        }
        for n in [0, 9, 10, u64::MAX] {
            assert_eq!(decimal(n).as_bytes(), n.to_string().as_bytes());
        }
    }

    proptest! {
        #[test]
        fn times_are_written_as_display_writes_them(ns in any::<i64>(), unit in 0u32..4) {
            let step = 1000i64.pow(unit);
            same(Timestamp::from_unix_ns(ns / step * step));
        }

        #[test]
        fn numbers_are_written_as_display_writes_them(n in any::<u64>(), shift in 0u32..64) {
            let n = n >> shift;
            let text = n.to_string();
            prop_assert!(decimal(n).as_bytes() == text.as_bytes());
        }
    }
}
