//! What an inbox message comes to, given what was taken before. [pure]

use std::collections::VecDeque;

use crate::config::edge::Downlink;
use crate::downlink::artefact::{
    Accepted, Digest, Envelope, Judgement, KeyError, KeyId, Offer, Refusal, Role, Situation, Trust, judge,
};
use crate::downlink::number::Number;
use crate::event::time::Timestamp;

/// Refusals that are remembered, so that a message that comes again with every connection is told once.
const TOLD_MAX: usize = 16;

/// Whom this node believes, and what it took before.
#[derive(Debug)]
pub struct Inbox {
    node: String,
    trust: Trust,
    accepted: Accepted,
    told: VecDeque<(Digest, &'static str)>,
}

/// What a message comes to. Nothing of it counts before it is stored: [`Inbox::believe`], [`Inbox::took`].
#[derive(Debug)]
pub struct Reading {
    /// A newer keyring, and whom it lets us believe.
    pub keyring: Option<(Envelope, Trust)>,
    /// What it asks for.
    pub asks: Asks,
    /// What nobody has heard of yet.
    pub refused: Vec<Refusal>,
}

/// What a message asks for.
#[derive(Debug)]
pub enum Asks {
    /// To try this.
    Try(Box<Offer>),
    /// What became of this assignment, which was taken before.
    Again(Number),
    /// Nothing that anybody was allowed to ask for.
    Nothing,
}

impl Asks {
    /// The assignment's number, if it is authentic.
    pub fn number(&self) -> Option<Number> {
        match self {
            Self::Try(offer) => Some(offer.assignment.at()),
            Self::Again(number) => Some(*number),
            Self::Nothing => None,
        }
    }
}

impl Inbox {
    /// For `node`, with the keys of its own file and those of the stored keyring, and what was taken before. A keyring that
    /// does not count any more is the second part.
    pub fn new(
        node: &str,
        own: &Downlink,
        keyring: Option<Envelope>,
        accepted: Accepted,
    ) -> Result<(Self, Option<Refusal>), KeyError> {
        let (trust, refused) = with_keyring(Trust::new(own)?, keyring);
        Ok((Self { node: node.to_owned(), trust, accepted, told: VecDeque::new() }, refused))
    }

    /// The own file has other keys now.
    pub fn set_own(&mut self, own: &Downlink, keyring: Option<Envelope>) -> Result<Option<Refusal>, KeyError> {
        let (trust, refused) = with_keyring(Trust::new(own)?, keyring);
        self.trust = trust;
        Ok(refused)
    }

    /// Whether there is anybody to believe: else the inbox is not read.
    pub fn is_open(&self) -> bool {
        Role::ALL.into_iter().any(|role| self.trust.keys(role).next().is_some())
    }

    /// Whom it believes.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The last assignment that it took.
    pub fn accepted(&self) -> Number {
        self.accepted.at()
    }

    /// Keys in force by what they may sign, for operators.
    pub fn keys(&self) -> Vec<(Role, Vec<KeyId>)> {
        let ids = |role| self.trust.keys(role).map(|key| key.id()).filter(|id| !self.trust.is_revoked(*id)).collect();
        Role::ALL.into_iter().map(|role| (role, ids(role))).collect()
    }

    /// Looks at a message. `settled`: the highest number that the trial knows; one that was taken and is higher was on its
    /// way when the process ended, and is asked for again.
    pub fn read(&mut self, bytes: &[u8], settled: Number, now: Option<Timestamp>) -> Reading {
        let taken = self.accepted;
        let accepted = match taken.at() > settled {
            true => Accepted::new(taken.at().before(), None),
            false => taken,
        };
        let situation = Situation { node: &self.node, trust: &self.trust, accepted, now };
        let Judgement { keyring, state } = judge(bytes, &situation);
        let mut refused = Vec::new();
        let keyring = keyring.and_then(|keyring| keyring.map_err(|refusal| refused.push(refusal)).ok());
        // What was taken before it expired is not refused for coming again afterwards.
        let state = match state {
            Err(Refusal::Expired { what, expires_at, now }) => {
                match judge(bytes, &Situation { now: None, trust: &self.trust, node: &self.node, accepted }).state {
                    Err(replayed @ Refusal::Replayed { .. }) => Err(replayed),
                    _ => Err(Refusal::Expired { what, expires_at, now }),
                }
            }
            state => state,
        };
        let asks = match state {
            Ok(offer) if offer.accepted.at() == taken.at() && offer.accepted != taken => {
                refused.push(Refusal::NumberReused { number: taken.at() });
                Asks::Nothing
            }
            Ok(offer) => Asks::Try(Box::new(offer)),
            Err(Refusal::Replayed { number }) => Asks::Again(number),
            Err(Refusal::NumberReused { number }) if number < taken.at() => {
                refused.push(Refusal::Older { number, accepted: taken.at() });
                Asks::Nothing
            }
            Err(refusal) => {
                refused.push(refusal);
                Asks::Nothing
            }
        };
        refused.retain(|refusal| refusal.is_news() && self.is_news(bytes, refusal.code()));
        Reading { keyring, asks, refused }
    }

    /// Whether nobody has heard yet that `bytes` were refused for `code`; now somebody has.
    pub fn is_news(&mut self, bytes: &[u8], code: &'static str) -> bool {
        let entry = (Digest::of(bytes), code);
        if self.told.contains(&entry) {
            return false;
        }
        if self.told.len() >= TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back(entry);
        true
    }

    /// A keyring is stored.
    pub fn believe(&mut self, trust: Trust) {
        self.trust = trust;
    }

    /// An offer's acceptance is stored.
    pub fn took(&mut self, accepted: Accepted) {
        self.accepted = accepted;
    }
}

/// `own` with a stored keyring, unless it does not count any more.
fn with_keyring(own: Trust, keyring: Option<Envelope>) -> (Trust, Option<Refusal>) {
    match keyring.map(|keyring| own.with_keyring(keyring)) {
        None => (own, None),
        Some(Ok(trust)) => (trust, None),
        Some(Err(refusal)) => (own, Some(refusal)),
    }
}

/// What was taken before, when the file that says so is lost: all that the trial has settled is old, and the last of it may
/// come again.
pub fn accepted_after_loss(settled: Number) -> Accepted {
    Accepted::new(settled.before(), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downlink::artefact::{Assignment, Kind, Message, SecretKey};

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32]).unwrap()
    }

    fn inbox(accepted: Accepted) -> Inbox {
        let own = Downlink { controller_keys: vec![key(1).public().to_string()], ..Downlink::default() };
        Inbox::new("press-7", &own, None, accepted).unwrap().0
    }

    fn message(number: u64, reason: &str, by: u8) -> Vec<u8> {
        let assignment = Assignment {
            node: "press-7".to_owned(),
            epoch: 0,
            number,
            issued_at: Timestamp::from_unix_ms(0),
            expires_at: None,
            document: None,
            models: Vec::new(),
            reason: reason.to_owned(),
            by: String::new(),
        };
        let assignment = assignment.to_envelope().signed_by(&key(by));
        Message { keyring: None, assignment, document: None }.encode().into_bytes()
    }

    fn codes(reading: &Reading) -> Vec<&'static str> {
        reading.refused.iter().map(Refusal::code).collect()
    }

    #[test]
    fn an_assignment_that_was_taken_but_never_tried_is_offered_again_after_a_start() {
        let mut first = inbox(Accepted::default());
        let bytes = message(5, "", 1);
        let Asks::Try(offer) = first.read(&bytes, 0.into(), None).asks else { panic!("not offered") };
        // Taken, and then the power went: the trial knows nothing of it.
        let mut inbox = inbox(offer.accepted);
        assert!(matches!(inbox.read(&bytes, 4.into(), None).asks, Asks::Try(again) if again == offer));
        // Another one of the same number is not it.
        let reading = inbox.read(&message(5, "another", 1), 4.into(), None);
        assert!(matches!(reading.asks, Asks::Nothing));
        assert_eq!(codes(&reading), ["number-reused"]);
        assert_eq!(codes(&inbox.read(&message(4, "", 1), 4.into(), None)), ["older"]);
        // Once it is tried it is known.
        assert!(matches!(inbox.read(&bytes, 5.into(), None).asks, Asks::Again(Number { epoch: 0, n: 5 })));
        assert_eq!(codes(&inbox.read(&bytes, 5.into(), None)), [""; 0]);
    }

    #[test]
    fn a_refused_message_is_told_once_and_the_memory_of_it_is_bounded() {
        let mut inbox = inbox(Accepted::default());
        let stranger = message(5, "", 9);
        assert_eq!(codes(&inbox.read(&stranger, 0.into(), None)), ["unknown-key"]);
        assert_eq!(codes(&inbox.read(&stranger, 0.into(), None)), [""; 0]);
        assert_eq!(codes(&inbox.read(&message(6, "", 9), 0.into(), None)), ["unknown-key"]);
        for n in 0..100 {
            inbox.read(&message(n + 10, "", 9), 0.into(), None);
        }
        assert!(inbox.told.len() <= TOLD_MAX);
        assert_eq!(codes(&inbox.read(&stranger, 0.into(), None)), ["unknown-key"]);
    }

    #[test]
    fn after_the_loss_of_its_file_the_last_assignment_may_come_again_and_no_older_one() {
        let mut inbox = inbox(accepted_after_loss(5.into()));
        assert!(matches!(inbox.read(&message(5, "", 1), 5.into(), None).asks, Asks::Try(_)));
        assert_eq!(inbox.read(&message(4, "", 1), 5.into(), None).asks.number(), None);
        assert_eq!(accepted_after_loss(0.into()), Accepted::default());
    }

    #[test]
    fn without_keys_nobody_is_believed() {
        let (inbox, _) = Inbox::new("press-7", &Downlink::default(), None, Accepted::default()).unwrap();
        assert!(!inbox.is_open());
        assert!(self::inbox(Accepted::default()).is_open());
        assert_eq!(Role::of(Kind::Assignment), Role::Controller);
    }
}
