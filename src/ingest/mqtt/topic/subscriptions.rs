//! The tree of subscriptions: who gets a message, by its topic. [pure]
//!
//! One node per level of a filter. To match a topic, only nodes are visited whose path matches the topic's
//! beginning, each once, without allocating; the tree is no deeper than `TOPIC_LEVELS_MAX`.

use std::collections::HashMap;
use std::sync::Arc;

use super::Filter;

/// The subscriptions of all clients. `K` names the subscriber, `V` are the options of one subscription.
#[derive(Debug)]
pub struct Subscriptions<K, V> {
    root: Node<K, V>,
    all: usize,
    shared: usize,
}

/// Those whose filter matches; in a fixed order, so that a run can be repeated.
#[derive(Debug, PartialEq, Eq)]
pub enum Match<'a, K, V> {
    /// Subscribers with the same filter: each gets the message. One with several filters that match appears several times.
    Each(&'a [(K, V)]),
    /// A shared subscription (MQTT 5.0 §4.8.2): one of its members gets the message. Never empty.
    OneOf {
        /// The whole filter, which names the group: the same name with another pattern is another group.
        filter: &'a Arc<str>,
        /// Who shares it, in the order of `K`.
        members: &'a [(K, V)],
    },
}

/// What begins with the same levels.
#[derive(Debug)]
struct Node<K, V> {
    here: Option<Box<Slot<K, V>>>,
    below: Option<Box<Below<K, V>>>,
}

/// Filters that go on below a node. Most nodes are leaves and have none.
#[derive(Debug)]
struct Below<K, V> {
    /// Names come from clients: the standard's keyed hash resists those that are made to collide.
    named: HashMap<Box<str>, Node<K, V>>,
    plus: Option<Box<Node<K, V>>>,
    hash: Option<Box<Slot<K, V>>>,
}

/// Subscriptions with the same pattern.
#[derive(Debug)]
struct Slot<K, V> {
    each: Members<K, V>,
    /// Sorted by name.
    groups: Vec<Group<K, V>>,
}

/// Those who share a subscription.
#[derive(Debug)]
pub struct Group<K, V> {
    name: Box<str>,
    filter: Arc<str>,
    members: Members<K, V>,
}

impl<K, V> Group<K, V> {
    /// The whole filter.
    pub fn filter(&self) -> &Arc<str> {
        &self.filter
    }

    /// In the order of `K`. Never empty.
    pub fn members(&self) -> &[(K, V)] {
        &self.members.0
    }
}

/// Sorted by key: small, and a message to ten thousand walks along memory.
#[derive(Debug)]
struct Members<K, V>(Vec<(K, V)>);

impl<K: Copy + Ord, V> Subscriptions<K, V> {
    /// None yet.
    pub fn new() -> Self {
        Self { root: Node::empty(), all: 0, shared: 0 }
    }

    /// How many there are, shared ones included.
    pub fn len(&self) -> usize {
        self.all
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all == 0
    }

    /// How many of them are shared.
    pub fn shared_len(&self) -> usize {
        self.shared
    }

    /// Adds one; the same filter again replaces the options and returns the old ones [MQTT-3.8.4-3].
    pub fn insert(&mut self, filter: Filter<'_>, key: K, value: V) -> Option<V> {
        let old = self.root.slot(filter.pattern()).members(filter).insert(key, value);
        if old.is_none() {
            self.all += 1;
            self.shared += usize::from(filter.group().is_some());
        }
        old
    }

    /// Takes one away.
    pub fn remove(&mut self, filter: Filter<'_>, key: K) -> Option<V> {
        let old = self.root.remove(Some(filter.pattern()), filter.group(), key)?;
        self.all -= 1;
        self.shared -= usize::from(filter.group().is_some());
        Some(old)
    }

    /// Takes all of a subscriber away, who must know its filters: the tree is not searched.
    pub fn remove_all<'a>(&mut self, filters: impl IntoIterator<Item = Filter<'a>>, key: K) {
        for filter in filters {
            self.remove(filter, key);
        }
    }

    /// Those who share a subscription; `None`: nobody.
    pub fn group(&self, filter: Filter<'_>) -> Option<&Group<K, V>> {
        let (name, slot) = (filter.group()?, self.root.find(filter.pattern())?);
        let at = slot.groups.binary_search_by(|group| (*group.name).cmp(name)).ok()?;
        slot.groups.get(at)
    }

    /// Visits all whose filter matches a topic name.
    pub fn matches<'a>(&'a self, topic: &str, mut visit: impl FnMut(Match<'a, K, V>)) {
        let Some(below) = &self.root.below else { return };
        if topic.starts_with('$') {
            // No wildcard in the first level matches it [MQTT-4.7.2-1].
            let (level, rest) = first(topic);
            if let Some(node) = below.named.get(level) {
                node.matches(rest, &mut visit);
            }
        } else {
            self.root.matches(Some(topic), &mut visit);
        }
    }

    #[cfg(test)]
    pub(super) fn has_no_nodes(&self) -> bool {
        self.root.is_empty()
    }
}

impl<K: Copy + Ord, V> Default for Subscriptions<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// The first level, and what follows its slash.
fn first(topic: &str) -> (&str, Option<&str>) {
    match topic.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (topic, None),
    }
}

impl<K: Copy + Ord, V> Node<K, V> {
    fn empty() -> Self {
        Self { here: None, below: None }
    }

    fn is_empty(&self) -> bool {
        self.here.is_none() && self.below.is_none()
    }

    /// The slot of a pattern, made if need be.
    fn slot(&mut self, pattern: &str) -> &mut Slot<K, V> {
        let mut node = self;
        for level in pattern.split('/') {
            let below = node.below.get_or_insert_with(Box::default);
            node = match level {
                "#" => return below.hash.get_or_insert_with(Box::default),
                "+" => below.plus.get_or_insert_with(|| Box::new(Node::empty())),
                _ => below.named.entry(level.into()).or_insert_with(Node::empty),
            };
        }
        node.here.get_or_insert_with(Box::default)
    }

    fn find(&self, pattern: &str) -> Option<&Slot<K, V>> {
        let mut node = self;
        for level in pattern.split('/') {
            let below = node.below.as_deref()?;
            node = match level {
                "#" => return below.hash.as_deref(),
                "+" => below.plus.as_deref()?,
                _ => below.named.get(level)?,
            };
        }
        node.here.as_deref()
    }

    /// Removes below here, and on the way back every node that is empty now.
    fn remove(&mut self, rest: Option<&str>, group: Option<&str>, key: K) -> Option<V> {
        let Some(rest) = rest else { return Slot::remove(&mut self.here, group, key) };
        let below = self.below.as_mut()?;
        let (level, rest) = first(rest);
        let old = match level {
            "#" => Slot::remove(&mut below.hash, group, key)?,
            "+" => {
                let node = below.plus.as_mut()?;
                let old = node.remove(rest, group, key)?;
                if node.is_empty() {
                    below.plus = None;
                }
                old
            }
            _ => {
                let node = below.named.get_mut(level)?;
                let old = node.remove(rest, group, key)?;
                if node.is_empty() {
                    below.named.remove(level);
                    if below.named.len() < below.named.capacity() / 4 {
                        below.named.shrink_to(below.named.len() * 2);
                    }
                }
                old
            }
        };
        if below.named.is_empty() && below.plus.is_none() && below.hash.is_none() {
            self.below = None;
        }
        Some(old)
    }

    /// `rest`: the levels of the topic that follow; none: it ends here.
    fn matches<'a>(&'a self, mut rest: Option<&str>, visit: &mut impl FnMut(Match<'a, K, V>)) {
        let mut node = self;
        loop {
            let below = node.below.as_deref();
            // Also where the topic ends: a/# matches a.
            if let Some(slot) = below.and_then(|below| below.hash.as_deref()) {
                slot.visit(visit);
            }
            let Some(levels) = rest else {
                if let Some(slot) = &node.here {
                    slot.visit(visit);
                }
                return;
            };
            let Some(below) = below else { return };
            let (level, next) = first(levels);
            if let Some(plus) = &below.plus {
                plus.matches(next, visit);
            }
            match below.named.get(level) {
                Some(named) => (node, rest) = (named, next),
                None => return,
            }
        }
    }
}

impl<K, V> Default for Below<K, V> {
    fn default() -> Self {
        Self { named: HashMap::new(), plus: None, hash: None }
    }
}

impl<K, V> Default for Slot<K, V> {
    fn default() -> Self {
        Self { each: Members(Vec::new()), groups: Vec::new() }
    }
}

impl<K: Copy + Ord, V> Slot<K, V> {
    fn members(&mut self, filter: Filter<'_>) -> &mut Members<K, V> {
        let Some(name) = filter.group() else { return &mut self.each };
        let at = match self.groups.binary_search_by(|group| (*group.name).cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                let filter = filter.to_string().into();
                self.groups.insert(at, Group { name: name.into(), filter, members: Members(Vec::new()) });
                at
            }
        };
        &mut self.groups[at].members
    }

    fn remove(slot: &mut Option<Box<Self>>, group: Option<&str>, key: K) -> Option<V> {
        let this = slot.as_mut()?;
        let old = match group {
            None => this.each.remove(key)?,
            Some(name) => {
                let at = this.groups.binary_search_by(|group| (*group.name).cmp(name)).ok()?;
                let members = &mut this.groups[at].members;
                let old = members.remove(key)?;
                if members.0.is_empty() {
                    this.groups.remove(at);
                }
                old
            }
        };
        if this.each.0.is_empty() && this.groups.is_empty() {
            *slot = None;
        }
        Some(old)
    }

    fn visit<'a>(&'a self, visit: &mut impl FnMut(Match<'a, K, V>)) {
        if !self.each.0.is_empty() {
            visit(Match::Each(&self.each.0));
        }
        for Group { filter, members, .. } in &self.groups {
            visit(Match::OneOf { filter, members: &members.0 });
        }
    }
}

impl<K: Copy + Ord, V> Members<K, V> {
    fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.0.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                if self.0.is_empty() {
                    // Most filters have one subscriber; a vector would start with room for four.
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    fn remove(&mut self, key: K) -> Option<V> {
        let at = self.0.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        let (_, old) = self.0.remove(at);
        if self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() * 2);
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;
    use crate::event::topic::TOPIC_LEVELS_MAX;

    /// As large as QoS, flags and a subscription identifier.
    type Options = (Option<u32>, u8, u8);

    fn filter(text: &str) -> Filter<'_> {
        Filter::parse(text).unwrap()
    }

    fn keys(tree: &Subscriptions<u64, char>, topic: &str) -> Vec<(Option<String>, Vec<u64>)> {
        let mut found = Vec::new();
        tree.matches(topic, |matched| {
            let (group, members) = match matched {
                Match::Each(members) => (None, members),
                Match::OneOf { filter, members } => {
                    (Filter::parse(filter).unwrap().group().map(str::to_owned), members)
                }
            };
            found.push((group, members.iter().map(|(key, _)| *key).collect()));
        });
        found
    }

    #[test]
    fn a_group_is_a_name_and_a_filter() {
        let mut tree = Subscriptions::new();
        for (key, text) in
            [(2, "$share/g/a/+"), (1, "$share/g/a/+"), (1, "$share/g/a/b"), (1, "$share/h/a/b"), (3, "a/b")]
        {
            assert_eq!(tree.insert(filter(text), key, 'x'), None);
        }
        let group = |name: &str, keys: &[u64]| (Some(name.to_owned()), keys.to_vec());
        assert_eq!(keys(&tree, "a/b"), [group("g", &[1, 2]), (None, vec![3]), group("g", &[1]), group("h", &[1])]);
        assert_eq!(tree.insert(filter("$share/g/a/+"), 2, 'y'), Some('x'), "replaced");
        assert_eq!((tree.len(), tree.shared_len()), (5, 4));
        assert_eq!(tree.remove(filter("$share/g/a/b"), 2), None, "not a member of this one");
        assert_eq!(tree.remove(filter("a/+"), 2), None, "not without the group");
        assert_eq!(tree.remove(filter("$share/g/a/+"), 2), Some('y'));
        assert_eq!(keys(&tree, "a/c"), [group("g", &[1])]);
    }

    /// Threads have 2 MiB. Built for tests, where frames are largest, it runs in 64 KiB and not in 48.
    #[test]
    fn the_deepest_filter_needs_little_stack() {
        let work = || {
            let text = vec!["+"; TOPIC_LEVELS_MAX].join("/");
            let mut tree = Subscriptions::new();
            tree.insert(filter(&text), 1, 'x');
            assert_eq!(keys(&tree, &text.replace('+', "a")), [(None, vec![1])]);
            // A topic that is deeper than any filter.
            assert_eq!(keys(&tree, &"a/".repeat(60_000)), []);
            assert_eq!(tree.remove(filter(&text), 1), Some('x'));
            assert!(tree.has_no_nodes());
            tree.insert(filter(&text), 1, 'x');
            drop(tree);
        };
        std::thread::Builder::new().stack_size(128 << 10).spawn(work).unwrap().join().unwrap();
    }

    #[test]
    fn ten_thousand_clients_with_two_filters_each_take_five_megabytes() {
        let mut tree: Subscriptions<u64, Options> = Subscriptions::new();
        let filters = |i: u64| [format!("devices/dev-{i:05}/commands"), format!("devices/dev-{i:05}/config/#")];
        for client in 0..10_000 {
            for text in filters(client) {
                tree.insert(filter(&text), client, (None, 1, 0));
            }
        }
        let full = tree.root.heap_bytes();
        assert!(full < 5_500_000, "{full}");
        for client in 1..10_000 {
            tree.remove_all(filters(client).iter().map(|text| filter(text)), client);
        }
        let left = tree.root.heap_bytes();
        assert_eq!(tree.len(), 2);
        assert!(left < 2_000, "{left}: nothing is kept for those who have gone");
    }

    /// What was asked of the allocator. For the test above a counting allocator gave the same figure, 4,970,971 bytes.
    impl<K, V> Node<K, V> {
        fn heap_bytes(&self) -> usize {
            let here = self.here.as_ref().map_or(0, |slot| slot.heap_bytes());
            let Some(below) = &self.below else { return here };
            let mut bytes = here + size_of::<Below<K, V>>();
            if below.named.capacity() > 0 {
                // A power of two, an eighth of it free; a control byte for each and 16 more.
                let buckets = (below.named.capacity() * 8 / 7).next_power_of_two();
                bytes += buckets * (size_of::<(Box<str>, Self)>() + 1) + 16;
            }
            bytes += below.named.iter().map(|(name, node)| name.len() + node.heap_bytes()).sum::<usize>();
            bytes += below.plus.as_ref().map_or(0, |node| size_of::<Self>() + node.heap_bytes());
            bytes + below.hash.as_ref().map_or(0, |slot| slot.heap_bytes())
        }
    }

    impl<K, V> Slot<K, V> {
        fn heap_bytes(&self) -> usize {
            let groups =
                self.groups.iter().map(|g| g.name.len() + g.filter.len() + g.members.heap_bytes()).sum::<usize>();
            let list = self.groups.capacity() * size_of::<Group<K, V>>();
            size_of::<Self>() + self.each.heap_bytes() + list + groups
        }
    }

    impl<K, V> Members<K, V> {
        fn heap_bytes(&self) -> usize {
            self.0.capacity() * size_of::<(K, V)>()
        }
    }
}
