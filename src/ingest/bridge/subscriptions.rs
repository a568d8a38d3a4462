//! What the other broker has been asked for, noted on disk, so that it is asked once.
//!
//! In MQTT 3.1.1 every SUBSCRIBE brings all retained messages again (§3.8.4), whether the subscription was there or not. While
//! the other broker has our session (session present) and the note says that the same topics were granted, nothing is
//! subscribed. A topic that is new is subscribed alone, and one that is gone is unsubscribed. (5.0 could say "only for
//! new subscriptions"; that is asked for as well, but one way for both is simpler.)
//!
//! Retained messages that come nevertheless, because the session was lost, are stored once within `outbox.dedup_window` as
//! long as they do not change: their event id is made of topic and content. See `run`.

use std::path::{Path, PathBuf};

use crate::sys::files;

/// First line of a note.
const HEAD: &str = "tidegate bridge subscriptions 1";

/// The note of one bridge.
#[derive(Debug)]
pub struct Note {
    path: PathBuf,
    /// Whose session, where, with which QoS: under another one nothing is subscribed.
    session: String,
}

/// What to send.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For one SUBSCRIBE.
    pub subscribe: Vec<String>,
    /// One UNSUBSCRIBE each.
    pub unsubscribe: Vec<String>,
    /// Subscribed already.
    pub kept: Vec<String>,
}

impl Note {
    /// The note in `dir` of the session that `client_id` has at `url`.
    pub fn new(dir: &Path, bridge: &str, client_id: &str, url: &str, qos: u8) -> Self {
        Self { path: dir.join(bridge), session: format!("{url} {qos} {client_id}") }
    }

    /// What must be sent so that `wanted` is subscribed. Blocks on the disk.
    pub fn plan(&self, session_present: bool, wanted: &[String]) -> Plan {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let mut lines = text.lines();
        let same = session_present && lines.next() == Some(HEAD) && lines.next() == Some(&self.session);
        let had: Vec<&str> = if same { lines.collect() } else { Vec::new() };
        let (kept, subscribe) = wanted.iter().cloned().partition(|topic| had.contains(&topic.as_str()));
        let gone = had.iter().filter(|topic| !wanted.iter().any(|w| w == *topic));
        Plan { subscribe, unsubscribe: gone.map(|&topic| topic.to_owned()).collect(), kept }
    }

    /// Whether anything was ever subscribed in this session. Blocks on the disk for a moment.
    pub fn exists(&self) -> bool {
        std::fs::read_to_string(&self.path).is_ok_and(|text| text.lines().nth(1) == Some(&self.session))
    }

    /// Notes that `topics` are subscribed. Blocks on the disk.
    pub fn write(&self, topics: &[String]) -> std::io::Result<()> {
        if let Some(dir) = self.path.parent() {
            files::create_dir_durable(dir)?;
        }
        let lines: Vec<&str> = [HEAD, &self.session].into_iter().chain(topics.iter().map(String::as_str)).collect();
        files::replace(&self.path, (lines.join("\n") + "\n").as_bytes())
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(topics: &[&str]) -> Vec<String> {
        topics.iter().map(|&t| t.to_owned()).collect()
    }

    #[test]
    fn only_what_is_new_is_subscribed_while_the_session_lives() {
        let dir = tempfile::tempdir().unwrap();
        let note = |qos| Note::new(&dir.path().join("bridges"), "old", "c", "mqtt://b:1", qos);
        let all = Plan { subscribe: topics(&["a", "b/#"]), ..Plan::default() };
        assert_eq!(note(1).plan(true, &topics(&["a", "b/#"])), all);
        note(1).write(&topics(&["a", "b/#"])).unwrap();
        let plan = Plan { kept: topics(&["a", "b/#"]), ..Plan::default() };
        assert_eq!(note(1).plan(true, &topics(&["a", "b/#"])), plan);
        assert_eq!(note(1).plan(false, &topics(&["a", "b/#"])), all);
        assert_eq!(note(2).plan(true, &topics(&["a", "b/#"])), all);
        let plan = Plan { subscribe: topics(&["c"]), unsubscribe: topics(&["b/#"]), kept: topics(&["a"]) };
        assert_eq!(note(1).plan(true, &topics(&["a", "c"])), plan);
    }
}
