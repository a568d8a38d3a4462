//! MQTT topic names and topic filters as text: which are valid, what matches what (MQTT 5.0 §4.7, 3.1.1 §4.7). [pure]

use std::fmt;

/// Longest topic name or filter, in bytes of UTF-8: a length field has 16 bits (MQTT 5.0 §1.5.4, §4.7.3).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Most levels of a topic name or filter. The standard has no limit but the length, that is 65,536 levels. A tree of
/// filters is walked with a stack frame per level, and what a client subscribes to costs a node per level: 128 keep
/// that below 64 KiB of stack and are many times what anybody uses (mosquitto takes 200).
pub const TOPIC_LEVELS_MAX: usize = 128;

/// Where shared subscriptions begin (MQTT 5.0 §4.8.2).
const SHARE: &str = "$share/";

/// Why a text is no topic name or no topic filter. To be read after its subject: "topic filter "a/#/b": …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// [MQTT-4.7.3-1].
    #[error("it is empty; write at least one character")]
    Empty,
    /// [MQTT-4.7.3-3].
    #[error("it has {0} bytes; at most {TOPIC_BYTES_MAX} are possible")]
    TooLong(usize),
    /// [MQTT-4.7.3-2].
    #[error("it has the character U+0000 in it; leave it out")]
    Nul,
    /// Our limit.
    #[error("it has {0} levels; at most {TOPIC_LEVELS_MAX} are taken")]
    TooManyLevels(usize),
    /// [MQTT-4.7.0-1].
    #[error("a topic name has no + or #; these are for filters")]
    WildcardInName,
    /// [MQTT-4.7.1-1].
    #[error("# stands alone and only at the end, as in \"a/#\"")]
    MultiLevel,
    /// [MQTT-4.7.1-2].
    #[error("+ stands alone between slashes, as in \"a/+/b\"")]
    SingleLevel,
    /// [MQTT-4.8.2-1], [MQTT-4.8.2-2].
    #[error("a shared subscription is written $share/group/filter; neither is empty, and the group has no + or #")]
    Share,
}

/// Checks a topic name.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    if name.bytes().any(|b| matches!(b, b'+' | b'#')) {
        return Err(TopicError::WildcardInName);
    }
    check_text(name)
}

/// What holds for names and filters alike.
fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong(text.len()));
    }
    let (mut levels, mut nul) = (1, false);
    for byte in text.bytes() {
        levels += usize::from(byte == b'/');
        nul |= byte == 0;
    }
    if nul {
        return Err(TopicError::Nul);
    }
    if levels > TOPIC_LEVELS_MAX {
        return Err(TopicError::TooManyLevels(levels));
    }
    Ok(())
}

/// A valid topic filter, with or without `$share/group/` before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filter<'a> {
    group: Option<&'a str>,
    pattern: &'a str,
}

impl<'a> Filter<'a> {
    /// Checks a filter as it comes in SUBSCRIBE and UNSUBSCRIBE. `$share/…` means the same in 3.1.1, which does not
    /// know it: its clients have come to expect it of brokers.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        if text.len() > TOPIC_BYTES_MAX {
            return Err(TopicError::TooLong(text.len()));
        }
        let Some(shared) = text.strip_prefix(SHARE) else {
            check_pattern(text)?;
            return Ok(Self { group: None, pattern: text });
        };
        match shared.split_once('/') {
            Some((group, pattern)) if !group.is_empty() && !group.contains(['+', '#', '\0']) && !pattern.is_empty() => {
                check_pattern(pattern)?;
                Ok(Self { group: Some(group), pattern })
            }
            _ => Err(TopicError::Share),
        }
    }

    /// The group that shares the subscription.
    pub fn group(self) -> Option<&'a str> {
        self.group
    }

    /// What is matched, without `$share/group/`.
    pub fn pattern(self) -> &'a str {
        self.pattern
    }

    /// How many levels it has, without the share.
    pub fn levels(self) -> usize {
        self.pattern.split('/').count()
    }
}

impl fmt::Display for Filter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(group) = self.group {
            write!(f, "{SHARE}{group}/")?;
        }
        f.write_str(self.pattern)
    }
}

fn check_pattern(pattern: &str) -> Result<(), TopicError> {
    check_text(pattern)?;
    let mut levels = pattern.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(TopicError::MultiLevel);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::SingleLevel);
        }
    }
    Ok(())
}

/// A wildcard in the first level does not match what the server keeps for itself [MQTT-4.7.2-1].
pub(crate) fn hidden(pattern: &str, topic: &str) -> bool {
    topic.starts_with('$') && pattern.starts_with(['+', '#'])
}

/// Whether a pattern, that is a valid filter without `$share/group/`, matches a topic name (MQTT 5.0 §4.7).
pub fn matches(pattern: &str, topic: &str) -> bool {
    if hidden(pattern, topic) {
        return false;
    }
    let mut topic = topic.split('/');
    for level in pattern.split('/') {
        // Also where the topic has just ended: a/# matches its parent a (§4.7.1.2).
        if level == "#" {
            return true;
        }
        match topic.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

/// Whether every topic that the pattern `inner` matches is matched by the pattern `outer`: who may read `outer` may
/// read `inner`.
pub fn covers(outer: &str, inner: &str) -> bool {
    if hidden(outer, inner) {
        return false;
    }
    // The same in other words, because no topic has no levels or is empty.
    let inner = match inner {
        "#" => "+/#",
        "/#" => "/+/#",
        other => other,
    };
    let mut inner = inner.split('/');
    for level in outer.split('/') {
        if level == "#" {
            return true;
        }
        match inner.next() {
            Some("#") => return false,
            Some(narrower) if level == "+" || level == narrower => {}
            _ => return false,
        }
    }
    inner.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    #[test]
    fn the_standards_examples() {
        // MQTT 5.0 §4.7.1.2
        let player = "sport/tennis/player1";
        for (pattern, topics) in [
            (
                "sport/tennis/player1/#",
                &[player, "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"][..],
            ),
            ("sport/#", &["sport", player]),
            ("#", &["sport", player, "/"]),
            // §4.7.1.3
            ("sport/tennis/+", &[player, "sport/tennis/player2", "sport/tennis/"]),
            ("sport/+", &["sport/"]),
            ("+/tennis/#", &[player, "sport/tennis"]),
            ("+/+", &["/finance"]),
            ("/+", &["/finance"]),
            // §4.7.2
            ("$SYS/#", &["$SYS/", "$SYS/broker", "$SYS"]),
            ("$SYS/monitor/+", &["$SYS/monitor/Clients"]),
            // §4.7.3
            ("ACCOUNTS", &["ACCOUNTS"]),
            ("Accounts payable", &["Accounts payable"]),
        ] {
            assert_eq!(Filter::parse(pattern).map(Filter::pattern), Ok(pattern));
            for topic in topics {
                assert_eq!(check_name(topic), Ok(()));
                assert!(matches(pattern, topic), "{pattern} {topic}");
            }
        }
        for (pattern, topics) in [
            ("sport/tennis/+", &["sport/tennis/player1/ranking", "sport/tennis"][..]),
            ("sport/+", &["sport"]),
            ("+", &["/finance", "$SYS"]),
            ("#", &["$SYS/broker"]),
            ("+/monitor/Clients", &["$SYS/monitor/Clients"]),
            ("ACCOUNTS", &["Accounts"]),
            ("/finance", &["finance", "/finance/"]),
        ] {
            for topic in topics {
                assert!(!matches(pattern, topic), "{pattern} {topic}");
            }
        }
        for wrong in ["sport/tennis#", "sport/tennis/#/ranking"] {
            assert_eq!(Filter::parse(wrong), Err(TopicError::MultiLevel), "{wrong}");
        }
        assert_eq!(Filter::parse("sport+"), Err(TopicError::SingleLevel));
        // §4.8.2
        let shared = Filter::parse("$share/consumer1//finance").map(|f| (f.group(), f.pattern()));
        assert_eq!(shared, Ok((Some("consumer1"), "/finance")));
        let shared = Filter::parse("$share/consumer1/sport/tennis/+").map(|f| (f.group(), f.pattern()));
        assert_eq!(shared, Ok((Some("consumer1"), "sport/tennis/+")));
    }

    #[test]
    fn wrong_texts_are_refused_for_their_reason() {
        use TopicError::*;
        let levels = |n: usize| vec!["a"; n].join("/");
        let long = "a".repeat(TOPIC_BYTES_MAX + 1);
        for (text, filter, name) in [
            ("", Err(Empty), Err(Empty)),
            ("a\0b", Err(Nul), Err(Nul)),
            (&long, Err(TooLong(65_536)), Err(TooLong(65_536))),
            (&long[1..], Ok(()), Ok(())),
            (&levels(128), Ok(()), Ok(())),
            (&levels(129), Err(TooManyLevels(129)), Err(TooManyLevels(129))),
            (&"/".repeat(TOPIC_BYTES_MAX), Err(TooManyLevels(65_536)), Err(TooManyLevels(65_536))),
            ("a/+", Ok(()), Err(WildcardInName)),
            ("a/#", Ok(()), Err(WildcardInName)),
            ("a+", Err(SingleLevel), Err(WildcardInName)),
            ("++", Err(SingleLevel), Err(WildcardInName)),
            ("##", Err(MultiLevel), Err(WildcardInName)),
            ("#/", Err(MultiLevel), Err(WildcardInName)),
            ("/", Ok(()), Ok(())),
            ("a//b", Ok(()), Ok(())),
            ("$share", Ok(()), Ok(())),
            ("$share/", Err(Share), Ok(())),
            ("$share/g", Err(Share), Ok(())),
            ("$share/g/", Err(Share), Ok(())),
            ("$share//a", Err(Share), Ok(())),
            ("$share/+/a", Err(Share), Err(WildcardInName)),
            ("$share/g#/a", Err(Share), Err(WildcardInName)),
            ("$share/g\0/a", Err(Share), Err(Nul)),
            ("$share/g/a/#/b", Err(MultiLevel), Err(WildcardInName)),
            ("$share/g/#", Ok(()), Err(WildcardInName)),
            ("$SHARE/g", Ok(()), Ok(())),
        ] {
            let start: String = text.chars().take(40).collect();
            assert_eq!(Filter::parse(text).map(drop), filter, "filter {start:?}");
            assert_eq!(check_name(text), name, "name {start:?}");
        }
        // The limit is one of the whole filter, and one of the pattern's levels.
        assert_eq!(Filter::parse(&format!("$share/g/{}", &long[8..])), Err(TooLong(65_537)));
        assert!(Filter::parse(&format!("$share/g/{}", levels(128))).is_ok());
    }

    /// Level by level, as the standard says it.
    fn reference(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            (["#"], _) => true,
            (["+", pattern @ ..], [_, topic @ ..]) => reference(pattern, topic),
            ([level, pattern @ ..], [name, topic @ ..]) => level == name && reference(pattern, topic),
            (pattern, topic) => pattern.is_empty() && topic.is_empty(),
        }
    }

    fn reference_matches(pattern: &str, topic: &str) -> bool {
        let (pattern, topic): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), topic.split('/').collect());
        !(topic[0].starts_with('$') && ["+", "#"].contains(&pattern[0])) && reference(&pattern, &topic)
    }

    fn joined(levels: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
        prop::collection::vec(select(levels), 1..=most).prop_map(|levels| levels.join("/"))
    }

    /// All texts of up to `most` levels over these.
    fn all(levels: &[&str], most: usize) -> Vec<String> {
        let mut texts: Vec<String> = levels.iter().map(|&level| level.to_owned()).collect();
        let mut start = 0;
        for _ in 1..most {
            let end = texts.len();
            for i in start..end {
                texts.extend(levels.iter().map(|level| format!("{}/{level}", texts[i])).collect::<Vec<_>>());
            }
            start = end;
        }
        texts.retain(|text| !text.is_empty());
        texts
    }

    /// Every pair of filters of up to three levels, against every topic of one level more, with a level ("z") that
    /// stands for all other names.
    #[test]
    fn a_filter_covers_another_if_it_matches_all_its_topics() {
        let topics = all(&["a", "", "$SYS", "z"], 4);
        let mut filters = all(&["a", "", "$SYS", "+", "#"], 3);
        filters.retain(|filter| Filter::parse(filter).is_ok());
        let matched = |filter: &String| topics.iter().map(|topic| reference_matches(filter, topic)).collect::<Vec<_>>();
        let matched: Vec<Vec<bool>> = filters.iter().map(matched).collect();
        let mut covered = 0;
        for (outer, by_outer) in filters.iter().zip(&matched) {
            for (inner, by_inner) in filters.iter().zip(&matched) {
                let all = by_inner.iter().zip(by_outer).all(|(inner, outer)| *outer || !inner);
                assert_eq!(covers(outer, inner), all, "{outer} {inner}");
                covered += usize::from(all);
            }
        }
        assert_eq!((filters.len(), topics.len(), covered), (104, 339, 827), "nothing was left out");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn matches_as_the_standard_says(
            text in joined(&["a", "b", "", "$SYS", "$", "+", "#", "a+"], 5),
            topic in joined(&["a", "b", "", "$SYS", "$"], 5),
        ) {
            let levels: Vec<_> = text.split('/').collect();
            let valid = !text.is_empty() && !levels.contains(&"a+") && levels.iter().rev().skip(1).all(|&l| l != "#");
            prop_assert_eq!(Filter::parse(&text).is_ok(), valid);
            if valid {
                prop_assert_eq!(matches(&text, &topic), reference_matches(&text, &topic));
            }
        }
    }
}
