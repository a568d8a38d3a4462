//! Numbers that gateways have taken, beside those that the log of roll-outs gives: who is ahead refuses what is assigned to it
//! as older. [pure]
//!
//! A gateway is ahead when the log was lost, trimmed or begun anew, when it comes from another cloud, or when somebody had a
//! controller key. Reports can be forged, so nothing is raised because of one: an operator is told, and decides.

use serde::Serialize;

use super::state::{State, artefact};
use crate::cloud::rollout::{NodeId, RAISED_MAX};
use crate::downlink::number::Number;

/// A report may be read some moments before the event that it speaks of: two topics, two connections.
const SETTLED_MS: u64 = 3_000;

/// How a gateway is ahead of this cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ahead {
    /// Of the log: raising the numbers helps.
    Log,
    /// Of every log: no event has such a number, so only a higher epoch helps.
    AnyLog,
    /// Of the newest keyring here.
    Keyring,
}

/// All that are ahead in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// How.
    pub how: Ahead,
    /// How many gateways.
    pub nodes: usize,
    /// The highest number that one of them took.
    pub highest: Number,
    /// That one.
    pub node: NodeId,
}

impl State {
    /// How this gateway is ahead, and the number that it took.
    pub fn ahead(&self, node: &NodeId, now_ms: u64) -> Option<(Ahead, Number)> {
        let seen = self.fleet.get(node)?;
        // Versions before this one tell what they run or decided only, which is not above what they took.
        let (taken, since) = seen.accepted.unwrap_or_else(|| (seen.number(), seen.heard_ms));
        let (epoch, index) = (self.documents.trust().epoch(), self.rollouts.index());
        if taken.epoch < epoch || now_ms.saturating_sub(since) < SETTLED_MS {
            return None;
        }
        if taken.epoch > epoch {
            return Some((Ahead::Keyring, taken));
        }
        let refuses = || {
            let assigned = self.rollouts.assignment(node).filter(|_| self.rollouts.is_outstanding(node));
            assigned.is_some_and(|assigned| {
                let number = Number::new(epoch, assigned.number);
                taken > number || seen.has_other(number, assigned.target.map(artefact))
            })
        };
        let how = if taken.n > RAISED_MAX { Ahead::AnyLog } else { Ahead::Log };
        (taken.n > index || refuses()).then_some((how, taken))
    }

    /// All that are ahead, by how.
    pub fn all_ahead(&self, now_ms: u64) -> Vec<Group> {
        self.groups(self.fleet.after(None).map(|(node, _)| node), now_ms)
    }

    /// How these are ahead, for operators.
    pub fn explain_all<'n>(&self, nodes: impl Iterator<Item = &'n NodeId>, now_ms: u64) -> Vec<String> {
        self.groups(nodes, now_ms).iter().map(|group| self.explain(group)).collect()
    }

    fn groups<'n>(&self, nodes: impl Iterator<Item = &'n NodeId>, now_ms: u64) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for node in nodes {
            let Some((how, taken)) = self.ahead(node, now_ms) else { continue };
            match groups.iter_mut().find(|group| group.how == how) {
                Some(group) => {
                    group.nodes += 1;
                    if taken > group.highest {
                        (group.highest, group.node) = (taken, node.clone());
                    }
                }
                None => groups.push(Group { how, nodes: 1, highest: taken, node: node.clone() }),
            }
        }
        groups.sort_by_key(|group| group.how);
        groups
    }

    /// For operators: what is so, and the way out.
    pub fn explain(&self, group: &Group) -> String {
        let Group { how, nodes, highest, node } = group;
        let (epoch, index) = (self.documents.trust().epoch(), self.rollouts.index());
        let who = match nodes {
            1 => format!("gateway {node} says that it has"),
            more => format!("{more} gateways, such as {node}, say that they have"),
        };
        match how {
            Ahead::Log => format!(
                "{who} taken assignments up to {highest}, and the log of roll-outs is at {index}: what is assigned below that is \
                 refused as older. The log was lost, trimmed or begun anew, or they come from another cloud; if you know that \
                 to be so: tidegate rollout raise --to {}",
                highest.n
            ),
            Ahead::AnyLog => format!(
                "{who} taken assignment {highest}, which no log gets to: the report is forged, or somebody has had a controller \
                 key. Raising numbers does not help. Look at the gateway's status page; if it is so, make a new controller key, and \
                 a keyring that revokes the old one: tidegate config keyring --epoch {} (--help tells how)",
                epoch.saturating_add(1)
            ),
            Ahead::Keyring => format!(
                "{who} taken assignment {highest}, and the newest keyring here is of epoch {epoch}: what it assigns is refused. \
                 Give this cloud the newest keyring (tidegate config keyring --push), of epoch {} or a higher one",
                highest.epoch
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::control::documents::{Origin, Position};
    use crate::cloud::control::fleet::Log;
    use crate::cloud::rollout::{Author, Digest, Event, What};
    use crate::config::edge::Downlink;
    use crate::downlink::artefact::{Keyring, SecretKey, Trust};
    use crate::event::Timestamp;

    struct Site(State);

    impl Site {
        fn new() -> Self {
            let root = SecretKey::from_seed(&[9; 32]).unwrap();
            let own = Downlink { roots: vec![root.public().to_string()], ..Downlink::default() };
            Self(State::new(Trust::new(&own).unwrap()))
        }

        fn event(&mut self, what: What) {
            let event = Event { at_ms: 1, by: Author::Operator { name: "ada".into() }, what };
            self.0.log(Some(&serde_json::to_vec(&event).unwrap())).result.unwrap();
        }

        fn says(&mut self, node: &str, accepted: &str, committed: u64) {
            let text = format!(
                r#"{{"node":"{node}","incarnation":"0","software":"1","committed":{{"number":{committed}}},{accepted}"what":"leaving"}}"#
            );
            self.0.fleet.apply(serde_json::from_str(&text).unwrap(), 0, Log::default()).unwrap();
        }

        fn keyring(&mut self, version: u64, epoch: u64) {
            let root = SecretKey::from_seed(&[9; 32]).unwrap();
            let keyring = Keyring {
                version,
                epoch,
                issued_at: Timestamp::from_unix_ms(0),
                artefact_keys: vec![],
                controller_keys: vec![],
                revoked: vec![],
            };
            let text = keyring.to_envelope().signed_by(&root).encode();
            let origin = Origin { place: Position { ledger: 0, entry: version }, by: String::new(), at_ms: 0 };
            self.0.document(Some(text.as_bytes()), origin).unwrap();
        }

        fn found(&self) -> Vec<(Ahead, usize, u64, String)> {
            let groups = self.0.all_ahead(SETTLED_MS).into_iter();
            groups.map(|g| (g.how, g.nodes, g.highest.n, g.node.to_string())).collect()
        }
    }

    #[test]
    fn who_has_taken_numbers_that_the_log_has_not_given_is_ahead_and_an_epoch_leaves_them_behind() {
        let mut site = Site::new();
        let node = |name: &str| NodeId::from(name);
        site.event(What::Assigned { nodes: vec![node("a")], target: None });
        site.says("a", r#""accepted":{"number":1},"#, 1);
        site.says("b", r#""accepted":{"number":7},"#, 0);
        site.says("c", "", 6);
        assert!(
            site.0.all_ahead(SETTLED_MS - 1).is_empty(),
            "it may have been read before the event that it speaks of"
        );
        assert_eq!(site.found(), [(Ahead::Log, 2, 7, "b".to_owned())]);
        let text = site.0.explain(&site.0.all_ahead(SETTLED_MS)[0]);
        assert!(text.contains("2 gateways, such as b") && text.contains("tidegate rollout raise --to 7"), "{text}");
        site.event(What::Raised { index: 7 });
        assert_eq!(site.found(), []);

        // The log has passed the number, the gateway's assignment has not.
        let mut site = Site::new();
        site.event(What::Assigned { nodes: vec![node("b")], target: None });
        (0..9).for_each(|_| site.event(What::Raised { index: 0 }));
        site.says("b", r#""accepted":{"number":7},"#, 0);
        assert_eq!(site.found(), [(Ahead::Log, 1, 7, "b".to_owned())]);
        site.event(What::Raised { index: 7 });
        assert_eq!(site.found(), []);

        // It has taken the very number, for something else.
        let mut site = Site::new();
        site.event(What::Assigned { nodes: vec![node("b")], target: Some(Digest([7; 32])) });
        site.says("b", r#""accepted":{"number":1},"#, 1);
        assert_eq!(site.found(), [(Ahead::Log, 1, 1, "b".to_owned())]);
        site.event(What::Raised { index: 1 });
        assert_eq!(site.found(), []);

        // What no log gets to is not suggested.
        site.says("d", r#""accepted":{"number":9007199254740991},"#, 0);
        assert_eq!(site.found(), [(Ahead::AnyLog, 1, 9_007_199_254_740_991, "d".to_owned())]);
        let text = site.0.explain(&site.0.all_ahead(SETTLED_MS)[0]);
        assert!(text.contains("--epoch 1") && !text.contains("rollout raise"), "{text}");
        site.keyring(1, 1);
        assert_eq!(site.found(), []);

        // The other way round: the documents were lost, and the keyring with them.
        site.says("e", r#""accepted":{"epoch":2,"number":1},"#, 0);
        assert_eq!(site.found(), [(Ahead::Keyring, 1, 1, "e".to_owned())]);
        site.keyring(2, 2);
        assert_eq!(site.found(), []);
    }
}
