//! The trees against lists of filters and topics, with every filter tried on every topic.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;

use super::filter::{Filter, matches};
use super::retained::{Cursor, Retained};
use super::subscriptions::{Match, Subscriptions};

type Key = u8;
type Found = Vec<(Option<String>, Vec<(Key, u32)>)>;

fn filter(text: &str) -> Filter<'_> {
    Filter::parse(text).unwrap()
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&["a", "b", "", "a!", "a\u{1}", "%", "$SYS", "$"][..]), 1..=4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |topic| !topic.is_empty())
}

fn pattern() -> impl Strategy<Value = String> {
    let level =
        prop_oneof![3 => select(&["a", "b", ""][..]), 1 => select(&["a!", "%", "$SYS", "$"][..]), 2 => Just("+")];
    (prop::collection::vec(level, 0..=4), any::<bool>())
        .prop_map(|(mut levels, all_below)| {
            if all_below || levels.is_empty() {
                levels.push("#");
            }
            levels.join("/")
        })
        .prop_filter("not empty", |pattern| !pattern.is_empty())
}

fn filter_text() -> impl Strategy<Value = String> {
    (prop_oneof![2 => Just(""), 1 => select(&["$share/g/", "$share/h/"][..])], pattern())
        .prop_map(|(share, pattern)| format!("{share}{pattern}"))
}

#[derive(Clone, Debug)]
enum Step {
    Insert(String, Key, u32),
    Remove(String, Key),
    /// Of the subscription at this place in the list, so that it is there.
    RemoveKnown(prop::sample::Index),
    RemoveAll(Key),
    Match(String),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0_u8..5;
    let step = prop_oneof![
        6 => (filter_text(), key.clone(), any::<u32>()).prop_map(|(f, k, v)| Step::Insert(f, k, v)),
        1 => (filter_text(), key.clone()).prop_map(|(f, k)| Step::Remove(f, k)),
        3 => any::<prop::sample::Index>().prop_map(Step::RemoveKnown),
        1 => key.prop_map(Step::RemoveAll),
        6 => topic().prop_map(Step::Match),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the list says: members of each filter that matches, in order.
fn expected(list: &BTreeMap<(String, Key), u32>, topic: &str) -> Found {
    let mut found: BTreeMap<&str, Vec<(Key, u32)>> = BTreeMap::new();
    for ((text, key), value) in list {
        if matches(filter(text).pattern(), topic) {
            found.entry(text).or_default().push((*key, *value));
        }
    }
    let mut found: Found =
        found.into_iter().map(|(text, members)| (filter(text).group().map(str::to_owned), members)).collect();
    found.sort();
    found
}

fn found(tree: &Subscriptions<Key, u32>, topic: &str) -> Found {
    let mut found = Found::new();
    tree.matches(topic, |matched| {
        found.push(match matched {
            Match::Each(members) => (None, members.to_vec()),
            Match::OneOf { filter: text, members } => {
                let group = filter(text).group().map(str::to_owned);
                let known = tree.group(filter(text)).map(|group| (group.filter(), group.members()));
                assert_eq!(known, Some((text, members)));
                (group, members.to_vec())
            }
        });
    });
    found.sort();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn subscriptions_are_found_like_in_a_list(steps in steps()) {
        let mut tree = Subscriptions::new();
        let mut list: BTreeMap<(String, Key), u32> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(text, key, value) => {
                    prop_assert_eq!(tree.insert(filter(&text), key, value), list.insert((text, key), value));
                }
                Step::Remove(text, key) => {
                    prop_assert_eq!(tree.remove(filter(&text), key), list.remove(&(text, key)));
                }
                Step::RemoveKnown(at) if !list.is_empty() => {
                    let (text, key) = at.get(&list.keys().cloned().collect::<Vec<_>>()).clone();
                    prop_assert_eq!(tree.remove(filter(&text), key), list.remove(&(text, key)));
                }
                Step::RemoveKnown(_) => {}
                Step::RemoveAll(key) => {
                    let (own, others) = list.into_iter().partition(|((_, owner), _)| *owner == key);
                    list = others;
                    let own: BTreeMap<(String, Key), u32> = own;
                    tree.remove_all(own.keys().map(|(text, _)| filter(text)), key);
                }
                Step::Match(topic) => prop_assert_eq!(found(&tree, &topic), expected(&list, &topic), "{}", topic),
            }
            prop_assert_eq!(tree.len(), list.len());
            prop_assert_eq!(tree.shared_len(), list.keys().filter(|(text, _)| text.starts_with("$share/")).count());
        }
        for (text, key) in list.keys() {
            prop_assert!(tree.remove(filter(text), *key).is_some());
        }
        prop_assert!(tree.has_no_nodes(), "empty nodes are removed");
    }

    #[test]
    fn retained_messages_are_found_like_in_a_list(
        changes in prop::collection::vec((topic(), prop::option::weighted(0.8, 0_usize..1000)), 0..80),
        patterns in prop::collection::vec(pattern(), 1..10),
        steps_max in 1_usize..20,
    ) {
        let mut retained = Retained::new();
        let mut list: BTreeMap<String, usize> = BTreeMap::new();
        for (topic, change) in changes {
            let old = match change {
                Some(bytes) => {
                    let old = list.insert(topic.clone(), bytes);
                    prop_assert_eq!(retained.set(&topic, (topic.clone(), bytes), bytes), old.map(|b| (topic.clone(), b)));
                    continue;
                }
                None => list.remove(&topic),
            };
            prop_assert_eq!(retained.remove(&topic), old.map(|bytes| (topic, bytes)));
        }
        prop_assert_eq!((retained.len(), retained.bytes()), (list.len(), list.values().sum()));
        // In the order of their levels.
        let mut all: Vec<&String> = list.keys().collect();
        all.sort_by(|a, b| a.split('/').cmp(b.split('/')));
        for pattern in patterns {
            let (mut seen, mut cursor, mut steps) = (Vec::new(), Cursor::default(), steps_max);
            loop {
                match retained.next(filter(&pattern), &mut cursor, &mut steps) {
                    Some((topic, _)) => seen.push(topic),
                    None if steps > 0 => break,
                    None => steps = steps_max,
                }
            }
            let wanted: Vec<&String> = all.iter().copied().filter(|topic| matches(&pattern, topic)).collect();
            prop_assert_eq!(seen, wanted, "{}", pattern);
        }
        // All of them in pieces, the first two of what follows each time.
        let mut pieces: Vec<&String> = Vec::new();
        loop {
            let piece: Vec<_> = retained.after(pieces.last().map(|t| t.as_str())).take(2).map(|(topic, _)| topic).collect();
            if piece.is_empty() {
                break;
            }
            pieces.extend(piece);
        }
        prop_assert_eq!(pieces, all);
    }
}
