//! Retained messages by topic name, and those that a filter matches. [pure]

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use super::Filter;

/// Stands for the slash in keys.
const LEVEL: &str = "\0";

/// After a topic: before this stands all that is below it, and nothing else.
const AFTER: &str = "\u{1}";

/// The first that no longer begins with `$`.
const AFTER_HIDDEN: &str = "%";

const WILDCARDS: [&str; 2] = ["+", "#"];

/// So many topics are looked at before the tree is searched for a topic further on: a search costs as much.
const NEAR: usize = 8;

/// One value per topic name.
///
/// The keys are topic names with U+0000, which no name contains [MQTT-4.7.3-2], in place of each slash. Nothing sorts
/// before it, so `a` and all below it stand together; as written, `a!` would stand between `a` and `a/b`.
#[derive(Debug)]
pub struct Retained<V> {
    by_levels: BTreeMap<Box<str>, (V, usize)>,
    bytes: usize,
}

impl<V> Retained<V> {
    /// None yet.
    pub fn new() -> Self {
        Self { by_levels: BTreeMap::new(), bytes: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_levels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_levels.is_empty()
    }

    /// The sum of what the values' owner said they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a value in, `bytes` large, and returns the one that was there.
    pub fn set(&mut self, topic: &str, value: V, bytes: usize) -> Option<V> {
        let old = self.by_levels.insert(levels(topic).into(), (value, bytes));
        self.bytes += bytes;
        self.taken(old)
    }

    /// Takes a value out.
    pub fn remove(&mut self, topic: &str) -> Option<V> {
        let old = self.by_levels.remove(levels(topic).as_str());
        self.taken(old)
    }

    fn taken(&mut self, old: Option<(V, usize)>) -> Option<V> {
        old.map(|(value, bytes)| {
            self.bytes -= bytes;
            value
        })
    }

    /// The value of a topic, and its bytes.
    pub fn get(&self, topic: &str) -> Option<(&V, usize)> {
        self.by_levels.get(levels(topic).as_str()).map(|(value, bytes)| (value, *bytes))
    }

    /// All values of topics after this one, in order; from the first without one. What was there at the first call and
    /// stays is seen once, whatever else changes between the calls.
    pub fn after(&self, topic: Option<&str>) -> impl Iterator<Item = &V> {
        let topic = topic.map(levels);
        let from = topic.as_deref().map_or(Unbounded, Excluded);
        self.by_levels.range::<str, _>((from, Unbounded)).map(|(_, (value, _))| value)
    }

    /// The next value whose topic the filter matches, in order, and moves the cursor on to it. Passes over what cannot match:
    /// devices that the filter does not name, the other topics of those that it does. `steps`: so many topics are looked at,
    /// and those that were are taken off; none found although some are left: there are no more. What is there at the first
    /// call and stays is found once, whatever else changes between the calls.
    pub fn next<'a>(&'a self, filter: Filter<'_>, cursor: &mut Cursor, steps: &mut usize) -> Option<&'a V> {
        let pattern: Vec<&str> = filter.pattern().split('/').collect();
        let fixed = pattern.iter().take_while(|level| !WILDCARDS.contains(level)).count();
        let from = pattern[..fixed].join(LEVEL);
        let end = (fixed > 0).then(|| from.clone() + AFTER);

        let mut bound = String::new();
        let start = cursor.0.as_deref().map_or(Included(from.as_str()), Excluded);
        let mut range = self.by_levels.range::<str, _>((start, Unbounded));
        let (mut next, mut last) = (range.next(), None);
        'topics: while let Some((topic, (value, _))) = next {
            if *steps == 0 || end.as_deref().is_some_and(|end| **topic >= *end) {
                break;
            }
            *steps -= 1;
            last = Some(topic);
            match step(&pattern, topic, &mut bound) {
                Step::Match => {
                    cursor.0 = Some(topic.clone());
                    return Some(value);
                }
                Step::Shorter => {}
                Step::Seek => {
                    for _ in 0..NEAR {
                        next = range.next();
                        if next.is_none_or(|(topic, _)| **topic >= *bound) {
                            continue 'topics;
                        }
                    }
                    range = self.by_levels.range::<str, _>((Included(bound.as_str()), Unbounded));
                }
            }
            next = range.next();
        }
        // Also at the end: without a step left nobody has looked whether it is the end.
        if let Some(last) = last {
            cursor.0 = Some(last.clone());
        }
        None
    }
}

/// How far a search has come. Begins with its default.
#[derive(Clone, Debug, Default)]
pub struct Cursor(Option<Box<str>>);

/// What a topic says about where the next one may be that matches.
enum Step {
    Match,
    /// It ends before the pattern does; what matches may be below it.
    Shorter,
    /// Not before `bound`.
    Seek,
}

fn step(pattern: &[&str], topic: &str, bound: &mut String) -> Step {
    bound.clear();
    if topic.starts_with('$') && WILDCARDS.contains(&pattern[0]) {
        bound.push_str(AFTER_HIDDEN);
        return Step::Seek;
    }
    let mut names = topic.split(LEVEL);
    for (i, &level) in pattern.iter().enumerate() {
        if level == "#" {
            return Step::Match;
        }
        let Some(name) = names.next() else { return Step::Shorter };
        let fits = level == "+" || level == name;
        if !fits && level < name {
            // All that is below the levels so far and could match has gone by.
            bound.push_str(AFTER);
            return Step::Seek;
        }
        if i > 0 {
            bound.push_str(LEVEL);
        }
        bound.push_str(if fits { name } else { level });
        if !fits {
            return Step::Seek;
        }
    }
    if names.next().is_none() {
        return Step::Match;
    }
    bound.push_str(AFTER);
    Step::Seek
}

impl<V> Default for Retained<V> {
    fn default() -> Self {
        Self::new()
    }
}

fn levels(topic: &str) -> String {
    topic.replace('/', LEVEL)
}
