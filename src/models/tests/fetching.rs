//! The fetcher against a broker that lands readers anywhere, loses links, and holds packs that are damaged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::sample::Index;

use crate::models::fetch::{AHEAD_MAX, Action, BAD_MAX, Bucket, Content, Event, Fetch, From};
use crate::models::pack::PIECE_BYTES_MAX;
use crate::models::plan::{Plan, Wanted};

/// A message in a topic.
#[derive(Clone, Copy, Debug)]
struct Stored {
    place: u32,
    bytes: u64,
    /// It is what it should be.
    good: bool,
    readable: bool,
}

#[derive(Clone, Debug)]
struct Topics {
    packs: BTreeMap<u64, Vec<Stored>>,
    plan: Plan,
    /// Every pack has every place, and all of it is good.
    sound: bool,
}

fn topics() -> impl Strategy<Value = Topics> {
    let message = (1_u64..PIECE_BYTES_MAX as u64, any::<bool>());
    let fault = (any::<Index>(), 0_u8..4);
    let pack = (prop::collection::vec(message, 2..24), prop::option::weighted(0.15, fault));
    prop::collection::vec(pack, 1..4).prop_map(|packs| {
        let mut topics = Topics { packs: BTreeMap::new(), plan: Plan::default(), sound: true };
        for (version, (messages, fault)) in (1..).zip(packs) {
            let places = messages.len() as u32;
            let stored =
                |(place, (bytes, _)): (u32, &(u64, bool))| Stored { place, bytes: *bytes, good: true, readable: true };
            let mut all: Vec<Stored> = (0..).zip(&messages).map(stored).collect();
            let lacking: BTreeSet<u32> =
                (0..).zip(&messages).skip(1).filter(|(_, (_, l))| *l).map(|(p, _)| p).collect();
            if let Some((at, fault)) = fault {
                let at = at.index(all.len());
                let hurts = lacking.contains(&(at as u32));
                match fault {
                    0 => all[at].good = false,
                    1 => all[at].readable = false,
                    2 => drop(all.remove(at)),
                    _ => all.insert(at, all[at]), // twice: no harm
                }
                topics.sound &= !hurts || fault == 3;
            }
            if !lacking.is_empty() {
                topics.plan.packs.insert(version, Wanted { places, lacking });
            }
            topics.packs.insert(version, all);
        }
        topics
    })
}

/// The broker and the link: what is on its way.
struct Link<'t> {
    topics: &'t Topics,
    now_ms: u64,
    reader: Option<(u64, u64, usize)>,
    on_the_way: VecDeque<Event>,
    /// When each message was asked for, and its bytes: the broker sends it then, a slow link may bunch them later.
    sent: Vec<(u64, u64)>,
    fetched: BTreeMap<(u64, u32), u32>,
    reads: u32,
}

impl Link<'_> {
    fn act(&mut self, action: Action, off: i64) {
        match action {
            Action::Read { epoch, pack, from } => {
                self.reads += 1;
                let all = &self.topics.packs[&pack];
                let at = match from {
                    From::Earliest => 0,
                    From::Place(place) => {
                        let exact = all.iter().position(|m| m.place >= place).unwrap_or(all.len()) as i64;
                        (exact + off).clamp(0, all.len() as i64) as usize
                    }
                };
                self.reader = Some((epoch, pack, at));
            }
            Action::Permit { epoch } => {
                let (reading, pack, at) = self.reader.as_mut().expect("a permit without a reader");
                assert_eq!(*reading, epoch);
                let event = match self.topics.packs[pack].get(*at) {
                    None => Event::End { epoch },
                    Some(message) => {
                        let content = match message.readable {
                            true => Content::Place { place: message.place, filled: message.good },
                            false => Content::Unreadable,
                        };
                        self.sent.push((self.now_ms, message.bytes));
                        *self.fetched.entry((*pack, message.place)).or_default() += 1;
                        Event::Message { epoch, bytes: message.bytes, content }
                    }
                };
                *at += 1;
                self.on_the_way.push_back(event);
            }
            _ => panic!("{action:?} is nothing for a broker"),
        }
    }

    fn deliver(&mut self, fetch: &mut Fetch) {
        let Some(event) = self.on_the_way.pop_front() else { return };
        fetch.handle(event);
    }

    /// Over any time at most the rate, a burst, and `slack`.
    fn check_budget(&self, rate: u64, burst: u64, slack: u64) {
        for (n, (from, _)) in self.sent.iter().enumerate() {
            let mut bytes = 0;
            for (at, more) in &self.sent[n..] {
                bytes += more;
                let most = burst + slack + (at - from) * rate / 1000 + 1;
                assert!(bytes <= most, "{bytes} bytes in {} ms, at most {most}", at - from);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::models::tests::cases(1000)))]

    #[test]
    fn what_is_lacking_comes_within_the_budget_or_a_bad_pack_is_given_up(
        topics in topics(),
        rate in prop_oneof![1000_u64..100_000, 100_000_u64..100_000_000],
        // What else happens while it runs: how far off a reader lands, whether the link is lost, how long nothing comes.
        luck in prop::collection::vec((-3_i64..3, 0_u8..20, 0_u64..300), 1..60),
        perfect: bool,
        // How many may be on their way, as the link changes.
        ahead in prop::collection::vec(1..=AHEAD_MAX, 1..10),
    ) {
        let bucket = Bucket::new(rate, 0);
        let burst = bucket.burst_bytes();
        let mut fetch = Fetch::new(topics.plan.clone(), bucket);
        let (on_the_way, sent, fetched) = (VecDeque::new(), Vec::new(), BTreeMap::new());
        let mut link = Link { topics: &topics, now_ms: 0, reader: None, on_the_way, sent, fetched, reads: 0 };
        let mut ended = None;
        let mut losses = 0;
        for step in 0..20_000 {
            let (off, event, wait) = luck[step % luck.len()];
            let mut allowed = ahead[step % ahead.len()];
            // Now and then it is to end, and goes on after all.
            if event == 19 && !link.on_the_way.is_empty() {
                allowed = 0;
            }
            fetch.allow(allowed);
            if !perfect && event == 0 && losses < 50 {
                losses += 1;
                link.on_the_way.clear();
                link.reader = None;
                fetch.handle(Event::Lost);
            }
            match fetch.poll(link.now_ms) {
                Action::Done => ended = Some(true),
                Action::GiveUp { .. } => ended = Some(false),
                Action::Wait { until_ms: None } => {
                    prop_assert!(!link.on_the_way.is_empty(), "it waits for what will never come: {fetch:?}");
                    link.now_ms += wait;
                    link.deliver(&mut fetch);
                }
                Action::Wait { until_ms: Some(until_ms) } => {
                    prop_assert!(until_ms > link.now_ms);
                    match event % 2 == 0 && !link.on_the_way.is_empty() {
                        true => link.deliver(&mut fetch),
                        false => link.now_ms = until_ms,
                    }
                }
                action => {
                    let asked = matches!(action, Action::Permit { .. });
                    link.act(action, if perfect { 0 } else { off });
                    if perfect && asked {
                        // Nothing is given back here but by a reader that begins anew.
                        prop_assert!(link.on_the_way.len() <= allowed as usize || link.reads > 1);
                    }
                }
            }
            prop_assert!(link.on_the_way.len() <= AHEAD_MAX as usize * (link.reads as usize + 1));
            if ended.is_some() {
                break;
            }
        }
        prop_assert!(ended.is_some(), "it never ends: {fetch:?}");
        if topics.sound {
            prop_assert_eq!(ended, Some(true), "a sound pack was given up: {:?}", fetch);
        }
        if ended == Some(true) {
            prop_assert!(fetch.lacking().is_empty());
            prop_assert!(topics.plan.packs.iter().all(|(pack, w)| w.lacking.iter().all(|p| link.fetched.contains_key(&(*pack, *p)))));
        } else {
            prop_assert!(link.reads <= (topics.packs.len() as u32 + 1) * 24 * (BAD_MAX + 1) + losses);
        }
        // Without lost links nothing is on the way that was given back; a duplicate is fetched with what is around it.
        link.check_budget(rate, burst, if perfect { 0 } else { u64::from(AHEAD_MAX) * PIECE_BYTES_MAX as u64 });
        let whole = topics.packs.iter().all(|(_, all)| (0..).zip(all).all(|(n, m)| m.place == n && m.good && m.readable));
        if perfect && whole && topics.sound {
            let wanted = |(pack, place): &(u64, u32)| topics.plan.wants(*pack, *place);
            prop_assert!(link.fetched.iter().all(|(at, times)| *times == 1 && wanted(at)), "{:?}", link.fetched);
        }
    }
}
