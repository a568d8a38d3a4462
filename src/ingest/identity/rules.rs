//! What a device may publish to, subscribe to and speak for: patterns with `{device}` in them. [pure]
//!
//! A topic pattern is a topic filter (MQTT 5.0 §4.7, 3.1.1 §4.7) whose levels may hold `{device}`, the name of the one
//! who asks. The name is compared as text and never as a wildcard.

use std::sync::Arc;

/// What stands for the device's name in a pattern.
const DEVICE: &str = "{device}";

/// Longest name of a device, in bytes: it is in topics, log lines and events.
pub const NAME_BYTES_MAX: usize = 256;

/// Whether `name` can be a device's. No wildcard of topics, nothing that breaks a log line, and no `$` in front:
/// `{device}/#` must never come to mean `$SYS/#`.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('$')
        && !name.contains(|c: char| matches!(c, '+' | '#') || c.is_control())
}

/// A list of patterns, shared by all devices that have the same.
pub type Patterns = Arc<[String]>;

/// What one identity may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Topics it may publish to.
    pub publish: Patterns,
    /// Topics it may subscribe to.
    pub subscribe: Patterns,
    /// Topics that nobody may subscribe to, nor get through a wider filter: [`is_denied`].
    pub deny_subscribe: Patterns,
    /// Subjects of events.
    pub subjects: Subjects,
}

/// Whose events may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subjects {
    /// Everybody's.
    All,
    /// Its own, and those that match a pattern: `*` is any run of characters.
    Own(Patterns),
}

impl Rights {
    /// Open mode: everything, but for the broker's own topics and what is denied to all.
    pub fn open(deny_subscribe: Patterns) -> Self {
        let all = |filters: &[&str]| filters.iter().map(|&f| f.to_owned()).collect();
        // Reading the broker's figures does no harm; publishing to $… is refused by `may_publish` in any case.
        Self { publish: all(&["#"]), subscribe: all(&["#", "$SYS/#"]), deny_subscribe, subjects: Subjects::All }
    }

    /// Whether `name` may publish to `topic`. Topics that begin with `$` are the broker's own (MQTT 5.0 §4.7.2).
    pub fn may_publish(&self, name: &str, topic: &str) -> bool {
        !topic.starts_with('$') && self.publish.iter().any(|pattern| matches(pattern, name, topic))
    }

    /// Whether `name` may subscribe to `filter` (without `$share/group/`): one pattern covers all that it matches, and
    /// that is not denied altogether. A wider filter, such as `#`, is taken, and the broker leaves out what is denied:
    /// one secret topic must not cost everybody the wildcards.
    pub fn may_subscribe(&self, name: &str, filter: &str) -> bool {
        self.subscribe.iter().any(|pattern| covers(pattern, name, filter))
            && !is_hidden(&self.deny_subscribe, name, filter)
    }

    /// Whether `name` may send events of `subject`.
    pub fn may_speak_for(&self, name: &str, subject: &str) -> bool {
        match &self.subjects {
            Subjects::All => true,
            Subjects::Own(others) => subject == name || others.iter().any(|pattern| speaks(pattern, name, subject)),
        }
    }
}

/// Whether the text of a pattern's level is `text`.
fn is_text(level: &str, name: &str, text: &str) -> bool {
    match level {
        DEVICE => text == name,
        _ if level.contains(DEVICE) => level.replace(DEVICE, name) == text,
        _ => level == text,
    }
}

/// A wildcard in front does not stand for `$…` (MQTT 5.0 §4.7.2, MQTT-4.7.2-1).
fn hides_dollar(pattern: &str, topic: &str) -> bool {
    topic.starts_with('$') && pattern.starts_with(['#', '+'])
}

/// Whether `pattern` matches the topic name `topic`.
pub fn matches(pattern: &str, name: &str, topic: &str) -> bool {
    !hides_dollar(pattern, topic) && {
        let mut levels = topic.split('/');
        for wanted in pattern.split('/') {
            match (wanted, levels.next()) {
                // Also the parent level itself (MQTT 5.0 §4.7.1.2).
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (text, Some(level)) if is_text(text, name, level) => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

/// Whether `pattern` matches every topic that `filter` matches.
pub fn covers(pattern: &str, name: &str, filter: &str) -> bool {
    !hides_dollar(pattern, filter) && {
        let mut levels = filter.split('/');
        for wanted in pattern.split('/') {
            match (wanted, levels.next()) {
                ("#", _) => return true,
                // What # or + stands for is not one text.
                (_, None | Some("#")) => return false,
                ("+", Some(_)) => {}
                (_, Some("+")) => return false,
                (text, Some(level)) if is_text(text, name, level) => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

/// Whether all that `filter` matches is kept from `name`.
pub fn is_hidden(deny_subscribe: &[String], name: &str, filter: &str) -> bool {
    deny_subscribe.iter().any(|pattern| covers(pattern, name, filter))
}

/// Whether messages on `topic` are kept from `name`, whatever it subscribes to.
pub fn is_denied(deny_subscribe: &[String], name: &str, topic: &str) -> bool {
    deny_subscribe.iter().any(|pattern| matches(pattern, name, topic))
}

/// Whether the subject pattern matches.
fn speaks(pattern: &str, name: &str, subject: &str) -> bool {
    if pattern.contains(DEVICE) {
        // The name's own stars are no wildcards: each part between the names is matched as it stands.
        let literal: Vec<Piece> = pieces(pattern, name);
        return glob(&literal, subject);
    }
    glob(&pieces(pattern, ""), subject)
}

/// One part of a subject pattern.
#[derive(Clone, Copy)]
enum Piece<'a> {
    Star,
    Text(&'a str),
}

fn pieces<'a>(pattern: &'a str, name: &'a str) -> Vec<Piece<'a>> {
    let mut out = Vec::new();
    for (i, part) in pattern.split(DEVICE).enumerate() {
        if i > 0 {
            out.push(Piece::Text(name));
        }
        for (j, text) in part.split('*').enumerate() {
            if j > 0 {
                out.push(Piece::Star);
            }
            out.push(Piece::Text(text));
        }
    }
    out
}

/// Matches greedily from the left: after a star, the first place where the texts up to the next star fit is as good as
/// any later one.
fn glob(pieces: &[Piece<'_>], subject: &str) -> bool {
    let runs: Vec<String> = pieces
        .split(|piece| matches!(piece, Piece::Star))
        .map(|run| run.iter().map(|piece| if let Piece::Text(text) = piece { *text } else { "" }).collect())
        .collect();
    let [first, middle @ .., last] = &runs[..] else {
        return runs.first().is_some_and(|only| only == subject);
    };
    let Some(mut rest) = subject.strip_prefix(first.as_str()) else { return false };
    for run in middle {
        match rest.find(run.as_str()) {
            Some(at) => rest = &rest[at + run.len()..],
            None => return false,
        }
    }
    rest.ends_with(last.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rights(publish: &[&str], subscribe: &[&str], deny: &[&str], speaks_for: &[&str]) -> Rights {
        let list = |l: &[&str]| -> Patterns { l.iter().map(|&s| s.to_owned()).collect() };
        Rights {
            publish: list(publish),
            subscribe: list(subscribe),
            deny_subscribe: list(deny),
            subjects: Subjects::Own(list(speaks_for)),
        }
    }

    #[test]
    fn a_device_is_kept_to_its_own_topics() {
        let r = rights(&["devices/{device}/#"], &["devices/{device}/#", "site/#"], &[], &[]);
        for topic in ["devices/press-7", "devices/press-7/x/y"] {
            assert!(r.may_publish("press-7", topic), "{topic}");
        }
        for topic in ["devices/press-8/x", "devices", "$SYS/x", "site/x", "devices/press-7x"] {
            assert!(!r.may_publish("press-7", topic), "{topic}");
        }
        for filter in ["devices/press-7/#", "devices/press-7/+/x", "site/+", "site", "site/#"] {
            assert!(r.may_subscribe("press-7", filter), "{filter}");
        }
        for filter in ["#", "+/#", "devices/#", "devices/+/x", "devices/press-8", "$SYS/#", "+/press-7/x"] {
            assert!(!r.may_subscribe("press-7", filter), "{filter}");
        }
    }

    #[test]
    fn a_name_is_never_a_wildcard() {
        for name in ["+", "#", "a+", "$SYS", "", "a\nb", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("press-7") && is_name("spiffe://plant/press 7") && is_name("ä"));
        let r = rights(&["{device}/#"], &["devices/{device}/#"], &[], &[]);
        assert!(!r.may_subscribe("+", "devices/+/x"), "even if such a name came through");
    }

    #[test]
    fn open_mode_keeps_the_brokers_own_topics_and_what_is_denied() {
        let r = Rights::open(["secret/#".to_owned()].into());
        assert!(r.may_publish("", "a/b") && !r.may_publish("", "$SYS/x"));
        assert!(r.may_subscribe("", "$SYS/#") && r.may_subscribe("", "a/+"));
        for filter in ["secret", "secret/x", "secret/+", "secret/+/#", "secret/#", "$other/#"] {
            assert!(!r.may_subscribe("", filter), "{filter}");
        }
        // These reach further; what is denied is left out when messages are handed out.
        for filter in ["#", "+/#", "+/x"] {
            assert!(r.may_subscribe("", filter), "{filter}");
        }
        assert!(is_denied(&r.deny_subscribe, "", "secret/x") && !is_denied(&r.deny_subscribe, "", "a/x"));
        assert!(r.may_speak_for("", "anyone"));
    }

    #[test]
    fn subjects_are_ones_own_and_those_that_match() {
        let r = rights(&[], &[], &[], &["press-7-*", "{device}.*.x", "line*end"]);
        for subject in ["gw", "press-7-a", "press-7-", "gw.1.x", "lineend", "line--end"] {
            assert!(r.may_speak_for("gw", subject), "{subject}");
        }
        for subject in ["press-7", "gw.x", "other.1.x", "line", "", "linexen"] {
            assert!(!r.may_speak_for("gw", subject), "{subject}");
        }
        let starred = rights(&[], &[], &[], &["{device}-a"]);
        assert!(!starred.may_speak_for("x*", "xy-a") && starred.may_speak_for("x*", "x*-a"), "a name is no pattern");
    }

    /// The simplest matcher there is, for one string with stars.
    fn glob_reference(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                glob_reference(&pattern[1..], text) || (!text.is_empty() && glob_reference(pattern, &text[1..]))
            }
            (Some(p), Some(t)) => p == t && glob_reference(&pattern[1..], &text[1..]),
            _ => false,
        }
    }

    /// The standard's words, level by level, without a name.
    fn reference(filter: &[&str], topic: &[&str]) -> bool {
        match (filter.first(), topic.first()) {
            (Some(&"#"), _) => true,
            (None, None) => true,
            (Some(&f), Some(&t)) => (f == "+" || f == t) && reference(&filter[1..], &topic[1..]),
            _ => false,
        }
    }

    fn standard(filter: &str, topic: &str) -> bool {
        if topic.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        reference(&filter.split('/').collect::<Vec<_>>(), &topic.split('/').collect::<Vec<_>>())
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just(""), Just("+"), Just("d"), Just("$s"), Just("{device}")];
        (proptest::collection::vec(level, 1..4), any::<bool>()).prop_map(|(mut levels, rest)| {
            if rest {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    fn topic() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just(""), Just("d"), Just("$s")];
        proptest::collection::vec(level, 1..5).prop_map(|levels| levels.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn matching_is_the_standards(pattern in filter(), topic in topic()) {
            prop_assert_eq!(matches(&pattern, "d", &topic), standard(&pattern.replace("{device}", "d"), &topic));
        }

        /// If a filter is allowed, every topic that it matches is.
        #[test]
        fn covering_is_sound(pattern in filter(), asked in filter(), topic in topic()) {
            let asked = asked.replace("{device}", "b");
            if covers(&pattern, "d", &asked) && standard(&asked, &topic) {
                prop_assert!(matches(&pattern, "d", &topic), "{} covers {} but not {}", pattern, asked, topic);
            }
        }

        /// What is refused for what is denied would never have got a message.
        #[test]
        fn only_a_filter_that_is_denied_altogether_is_refused(
            given in filter(), denied in filter(), asked in filter(), topic in topic(),
        ) {
            let (r, free) = (rights(&[], &[&given], &[&denied], &[]), rights(&[], &[&given], &[], &[]));
            let asked = asked.replace("{device}", "b");
            if r.may_subscribe("d", &asked) {
                prop_assert!(free.may_subscribe("d", &asked));
                prop_assert!(!standard(&asked, &topic) || matches(&given, "d", &topic));
            } else if free.may_subscribe("d", &asked) && standard(&asked, &topic) {
                prop_assert!(is_denied(&r.deny_subscribe, "d", &topic));
            }
        }

        /// A topic's name is a filter too.
        #[test]
        fn a_denied_topic_itself_is_always_refused(denied in filter(), topic in topic()) {
            let r = rights(&[], &["#", "$s/#"], &[&denied], &[]);
            prop_assert_eq!(r.may_subscribe("d", &topic), !is_denied(&r.deny_subscribe, "d", &topic));
        }

        #[test]
        fn subjects_match_like_the_simplest_matcher(pattern in "[ab*]{0,6}", subject in "[ab]{0,8}") {
            let expected = glob_reference(pattern.as_bytes(), subject.as_bytes());
            prop_assert_eq!(speaks(&pattern, "d", &subject), expected, "{} {}", pattern, subject);
        }
    }
}
