//! Topic filters as a mapping has them: levels may be named. [pure]

/// One level of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Exactly(Box<str>),
    Any,
}

/// A topic filter (MQTT 5.0 §4.7.1) of which `{name}` levels match like `+`. Made once, matched without allocating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    levels: Box<[Level]>,
    /// Ends with `#`: takes the level before it and everything below.
    rest: bool,
}

impl Filter {
    /// Prepares `filter`, which the configuration has checked.
    pub fn new(filter: &str) -> Self {
        let (levels, rest) = match filter.strip_suffix('#') {
            Some(levels) => (levels.strip_suffix('/'), true),
            None => (Some(filter), false),
        };
        let level = |level: &str| match level {
            "+" => Level::Any,
            named if name_of(named).is_some() => Level::Any,
            exactly => Level::Exactly(exactly.into()),
        };
        Self { levels: levels.map(|l| l.split('/').map(level).collect()).unwrap_or_default(), rest }
    }

    /// Whether `topic` matches. (That wildcards do not match `$…`, §4.7.2, is the caller's: no such topic comes here.)
    pub fn matches(&self, topic: &str) -> bool {
        let mut given = topic.split('/');
        for level in &self.levels {
            match (level, given.next()) {
                (_, None) => return false,
                (Level::Any, Some(_)) => {}
                (Level::Exactly(wanted), Some(given)) if **wanted == *given => {}
                (Level::Exactly(_), Some(_)) => return false,
            }
        }
        self.rest || given.next().is_none()
    }
}

/// The name in `{name}`.
pub fn name_of(level: &str) -> Option<&str> {
    level.strip_prefix('{')?.strip_suffix('}')
}

/// At which level, from 0, `filter` has `{name}`.
pub fn level_named(filter: &str, name: &str) -> Option<usize> {
    filter.split('/').position(|level| name_of(level) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// MQTT 5.0 §4.7.1, word for word.
    fn by_definition(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) => true,
            ([], []) => true,
            ([level, filter @ ..], [given, topic @ ..]) => {
                (*level == "+" || level.starts_with('{') || level == given) && by_definition(filter, topic)
            }
            _ => false,
        }
    }

    #[test]
    fn filters_match_as_the_standard_shows() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "a", true),
            ("#", "/", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("plants/{plant}/{device}/t", "plants/7/press/t", true),
            ("plants/{plant}/{device}/t", "plants/7/t", false),
            ("a", "a/", false),
        ] {
            assert_eq!(Filter::new(filter).matches(topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn names_are_found_at_their_level() {
        assert_eq!(level_named("plants/{plant}/{device}/t", "device"), Some(2));
        assert_eq!(level_named("plants/{plant}", "device"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn matches_as_defined(filter in "((|a|b|\\+|\\{n\\})/){0,4}(|a|b|\\+|\\{n\\}|#)", topic in "[ab/]{1,8}") {
            let (levels, given): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
            prop_assert_eq!(Filter::new(&filter).matches(&topic), by_definition(&levels, &given));
        }
    }
}
