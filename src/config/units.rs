//! Sizes and durations as people write them: "2GiB", "100kB", "30s", "10min". [pure]
//!
//! A unit that could mean two things ("2G", "5m") is refused with both readings, never guessed.

use std::fmt::Write as _;
use std::time::Duration;

/// Bytes per unit. Binary and decimal units are told apart by the `i`, as IEC 80000-13 names them.
const SIZES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Milliseconds per unit.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// What people write instead of our units.
const TIME_ALIASES: [(&str, &str); 20] = [
    ("milliseconds", "ms"),
    ("millisecond", "ms"),
    ("millis", "ms"),
    ("msec", "ms"),
    ("seconds", "s"),
    ("second", "s"),
    ("secs", "s"),
    ("sec", "s"),
    ("S", "s"),
    ("minutes", "min"),
    ("minute", "min"),
    ("mins", "min"),
    ("m", "min"),
    ("hours", "h"),
    ("hour", "h"),
    ("hrs", "h"),
    ("hr", "h"),
    ("H", "h"),
    ("days", "d"),
    ("day", "d"),
];

/// Most digits after the point: enough for any size in steps of a byte that a person would write.
const FRACTION_DIGITS_MAX: usize = 6;

/// Reads "64KiB", "1.5GB" or "4096". The error says what is wrong and what to write instead.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text).ok_or_else(|| format!("{text:?} is no size; write one such as \"64MiB\""))?;
    if unit.is_empty() {
        return scale(number, 1)
            .ok_or_else(|| format!("{text:?} is no whole number of bytes; write it with a unit, such as \"64MiB\""));
    }
    match SIZES.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => scale(number, *factor)
            .ok_or_else(|| format!("{text:?} is no whole number of bytes, or too large; write a smaller unit")),
        None => Err(wrong_size_unit(text, number, unit)),
    }
}

fn wrong_size_unit(text: &str, number: &str, unit: &str) -> String {
    let lower = unit.to_ascii_lowercase();
    if let Some((name, _)) = SIZES.iter().find(|(name, _)| name.to_ascii_lowercase() == lower && *name != "KB")
        && !unit.ends_with('b')
    {
        return format!("{text:?} has the unknown unit {unit:?}; write \"{number}{name}\"");
    }
    let prefix = lower.trim_end_matches("its").trim_end_matches("it").trim_end_matches(['b', 'i']).to_ascii_uppercase();
    if !matches!(prefix.as_str(), "K" | "M" | "G" | "T") {
        return format!("{text:?} has the unknown unit {unit:?}; write B, kB, MB, GB, TB or KiB, MiB, GiB, TiB");
    }
    let decimal = if prefix == "K" { "kB".to_owned() } else { format!("{prefix}B") };
    format!(
        "{text:?} has the unknown unit {unit:?}; write \"{number}{prefix}iB\" (steps of 1024) or \"{number}{decimal}\" (steps of 1000)"
    )
}

/// Reads "500ms", "30s", "10min", "1h", "7d", also "1h 30min". The error says what to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    let mut previous = u64::MAX;
    if rest.is_empty() {
        return Err(format!("{text:?} is no duration; write one such as \"30s\""));
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| c.is_alphabetic())
            .and_then(|start| rest[start..].find(|c: char| !c.is_alphabetic()).map(|length| start + length))
            .unwrap_or(rest.len());
        let (part, tail) = rest.split_at(end);
        let (number, unit) =
            split(part).ok_or_else(|| format!("{text:?} is no duration; write one such as \"30s\""))?;
        let factor = time_unit(text, number, unit)?;
        if factor >= previous {
            return Err(format!(
                "{text:?} names its units out of order; write the largest first, such as \"1h 30min\""
            ));
        }
        previous = factor;
        total = scale(number, factor)
            .and_then(|ms| total.checked_add(ms))
            .ok_or_else(|| format!("{text:?} is no whole number of milliseconds, or too long; write a smaller unit"))?;
        rest = tail.trim_start();
    }
    Ok(Duration::from_millis(total))
}

fn time_unit(text: &str, number: &str, unit: &str) -> Result<u64, String> {
    if let Some((_, factor)) = TIMES.iter().find(|(name, _)| *name == unit) {
        return Ok(*factor);
    }
    if unit.is_empty() {
        return Err(format!("{text:?} has no unit; write \"{number}s\" for seconds (or ms, min, h, d)"));
    }
    match TIME_ALIASES.iter().find(|(alias, _)| *alias == unit) {
        Some((_, name)) => Err(format!("{text:?} has the unknown unit {unit:?}; write \"{number}{name}\"")),
        None => Err(format!("{text:?} has the unknown unit {unit:?}; write ms, s, min, h or d")),
    }
}

/// The shortest way to write `bytes` exactly; of two equally short ones the binary.
pub fn format_size(bytes: u64) -> String {
    shortest(bytes, SIZES.iter().filter(|(name, _)| *name != "KB")).unwrap_or_else(|| format!("{bytes}B"))
}

/// The shortest way to write `time` exactly, in whole milliseconds.
pub fn format_duration(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    if let Some((name, factor)) = TIMES.iter().find(|(_, factor)| ms.is_multiple_of(*factor)) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{}{name}", ms / factor);
    }
    text
}

fn shortest<'a>(value: u64, units: impl Iterator<Item = &'a (&'a str, u64)>) -> Option<String> {
    units
        .filter(|(_, factor)| value.is_multiple_of(*factor) && (value > 0 || *factor == 1))
        .map(|(name, factor)| format!("{}{name}", value / factor))
        .min_by_key(String::len)
}

/// A number and the letters after it.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let well_formed = number.starts_with(|c: char| c.is_ascii_digit())
        && number.ends_with(|c: char| c.is_ascii_digit())
        && number.matches('.').count() <= 1
        && unit.chars().all(char::is_alphabetic);
    well_formed.then_some((number, unit))
}

/// `number` × `factor` when that is whole and fits.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return Some(whole);
    }
    if fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let power = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor);
    if !parts.is_multiple_of(power) {
        return None;
    }
    whole.checked_add(u64::try_from(parts / power).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("2GiB", 2 << 30),
            ("64KiB", 64 << 10),
            ("64 KiB", 64 << 10),
            ("512MB", 512_000_000),
            ("100kB", 100_000),
            ("100KB", 100_000),
            ("1.5GiB", 3 << 29),
            ("0.5kB", 500),
            ("4096", 4096),
            ("0B", 0),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_wrong_size_is_answered_with_the_right_one() {
        for (text, answer) in [
            ("2G", r#""2G" has the unknown unit "G"; write "2GiB" (steps of 1024) or "2GB" (steps of 1000)"#),
            ("8k", r#""8k" has the unknown unit "k"; write "8KiB" (steps of 1024) or "8kB" (steps of 1000)"#),
            ("10Mb", r#""10Mb" has the unknown unit "Mb"; write "10MiB" (steps of 1024) or "10MB" (steps of 1000)"#),
            (
                "10Mbit",
                r#""10Mbit" has the unknown unit "Mbit"; write "10MiB" (steps of 1024) or "10MB" (steps of 1000)"#,
            ),
            ("10miB", r#""10miB" has the unknown unit "miB"; write "10MiB""#),
            (
                "3 parsecs",
                r#""3 parsecs" has the unknown unit "parsecs"; write B, kB, MB, GB, TB or KiB, MiB, GiB, TiB"#,
            ),
            ("", r#""" is no size; write one such as "64MiB""#),
            ("-1MiB", r#""-1MiB" is no size; write one such as "64MiB""#),
            ("1.", r#""1." is no size; write one such as "64MiB""#),
            ("1.5", r#""1.5" is no whole number of bytes; write it with a unit, such as "64MiB""#),
            ("99999999TiB", r#""99999999TiB" is no whole number of bytes, or too large; write a smaller unit"#),
        ] {
            assert_eq!(parse_size(text), Err(answer.to_owned()), "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("10min", 600_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("1.5h", 5_400_000),
            ("1h 30min", 5_400_000),
            ("1h30min", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn a_wrong_duration_is_answered_with_the_right_one() {
        for (text, answer) in [
            ("30", r#""30" has no unit; write "30s" for seconds (or ms, min, h, d)"#),
            ("5m", r#""5m" has the unknown unit "m"; write "5min""#),
            ("30 secs", r#""30 secs" has the unknown unit "secs"; write "30s""#),
            ("2w", r#""2w" has the unknown unit "w"; write ms, s, min, h or d"#),
            ("soon", r#""soon" is no duration; write one such as "30s""#),
            ("", r#""" is no duration; write one such as "30s""#),
            ("30min 1h", r#""30min 1h" names its units out of order; write the largest first, such as "1h 30min""#),
            ("0.5ms", r#""0.5ms" is no whole number of milliseconds, or too long; write a smaller unit"#),
            (
                "999999999999999d",
                r#""999999999999999d" is no whole number of milliseconds, or too long; write a smaller unit"#,
            ),
        ] {
            assert_eq!(parse_duration(text), Err(answer.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_size_survives_being_written_and_read(bytes in prop_oneof![any::<u64>(), 0_u64..10_000, (0_u64..1 << 20).prop_map(|n| n << 20)]) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn a_duration_survives_being_written_and_read(ms in prop_oneof![any::<u64>(), 0_u64..100_000, (0_u64..1 << 20).prop_map(|n| n * 1000)]) {
            let time = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(time)), Ok(time));
        }

        #[test]
        fn any_text_is_answered_without_a_panic(text in "\\PC{0,20}") {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
