//! From a score to what an event says of it: its attributes, and an alarm of its own. [pure]

use bytes::Bytes;
use serde_json::json;

use crate::event::{EXTENSIONS_MAX, Event, record};

/// Attributes of a scored event: which model, as `name@version`, and its score.
pub const MODEL: &str = "tgmodel";
/// See [`MODEL`].
pub const SCORE: &str = "tgscore";
/// The same of the candidate beside it.
pub const SHADOW_MODEL: &str = "tgshadowmodel";
/// See [`SHADOW_MODEL`].
pub const SHADOW_SCORE: &str = "tgshadowscore";

/// All of them: nobody but the gateway sets them where it scores.
const OURS: [&str; 4] = [MODEL, SCORE, SHADOW_MODEL, SHADOW_SCORE];

/// Bytes of an alarm's id: as hard to meet by chance as a UUID.
const ID_BYTES: usize = 16;

/// What a model says of an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score<'a> {
    /// Its name.
    pub model: &'a str,
    /// Its version.
    pub version: u64,
    /// Finite.
    pub score: f32,
}

impl Score<'_> {
    fn name(&self) -> String {
        format!("{}@{}", self.model, self.version)
    }
}

/// Takes away what a sender says in our words.
pub fn strip(event: &mut Event) {
    event.extensions.retain(|(name, _)| !OURS.contains(&name.as_str()));
}

/// Writes the scores into the event. `false`: they do not fit into it, which may have at most `bytes_max` as a record; it is
/// as it was.
pub fn write(event: &mut Event, active: Option<Score<'_>>, shadow: Option<Score<'_>>, bytes_max: u64) -> bool {
    let before = event.extensions.len();
    let named = [(active, MODEL, SCORE), (shadow, SHADOW_MODEL, SHADOW_SCORE)];
    for (score, model_name, score_name) in named {
        let Some(score) = score else { continue };
        event.extensions.push((model_name.to_owned(), score.name()));
        event.extensions.push((score_name.to_owned(), score.score.to_string()));
    }
    let fits = event.extensions.len() <= EXTENSIONS_MAX && record::encoded_len(event) as u64 <= bytes_max;
    if !fits {
        event.extensions.truncate(before);
    }
    fits
}

/// The alarm of a score that is above `above`. Its id is the same whenever the same event is scored by a model of this name:
/// a sender that repeats an event makes no second alarm.
pub fn alarm(node: &str, ty: &str, event: &Event, score: Score<'_>, above: f64) -> Event {
    let mut hash = blake3::Hasher::new();
    for part in [&event.source, &event.id] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let id = hash.finalize().as_bytes().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
    let data = json!({
        "model": score.model, "version": score.version, "score": score.score, "above": above,
        "event": {"source": event.source, "id": event.id, "type": event.ty},
    });
    let mut alarm = Event {
        id,
        id_is_ours: false,
        source: format!("/nodes/{node}/models/{}", score.model),
        ty: ty.to_owned(),
        subject: event.subject.clone(),
        time: event.time,
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: Vec::new(),
        data: Bytes::from(data.to_string()),
    };
    write(&mut alarm, Some(score), None, u64::MAX);
    alarm
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::sample;

    fn score(model: &str, version: u64, score: f32) -> Score<'_> {
        Score { model, version, score }
    }

    #[test]
    fn scores_become_attributes_that_no_sender_can_forge() {
        let mut event = sample("1");
        event.extensions.push((SCORE.to_owned(), "0.0".to_owned()));
        strip(&mut event);
        assert!(write(&mut event, Some(score("a", 3, 0.875)), Some(score("a", 4, -1e-7)), 1 << 20));
        let expected = [("site", "plant-7"), (MODEL, "a@3"), (SCORE, "0.875"), (SHADOW_MODEL, "a@4")];
        let shadow = (SHADOW_SCORE, "-0.0000001");
        let expected: Vec<_> =
            expected.into_iter().chain([shadow]).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        assert_eq!(event.extensions, expected);
        assert_eq!(event.check(), Ok(()));
        let mut huge = sample("1");
        assert!(write(&mut huge, Some(score(&"m".repeat(64), u64::MAX, f32::MIN)), None, 1 << 20));
        assert_eq!(huge.check(), Ok(()));
    }

    #[test]
    fn an_event_without_room_stays_as_it_was() {
        let small = sample("1");
        let bytes = record::encoded_len(&small) as u64;
        let mut event = small.clone();
        assert!(!write(&mut event, Some(score("a", 3, 0.5)), None, bytes + 20));
        assert_eq!(event, small);
        let full = Event { extensions: (0..31).map(|i| (format!("e{i}"), String::new())).collect(), ..sample("1") };
        let mut event = full.clone();
        assert!(!write(&mut event, Some(score("a", 3, 0.5)), None, 1 << 20));
        assert_eq!(event, full);
    }

    #[test]
    fn an_alarm_has_one_id_per_event_whatever_the_version() {
        let of = |event: &Event, version| alarm("press-7", "x.alarm", event, score("a", version, 0.9), 0.8);
        let first = of(&sample("1"), 3);
        assert_eq!(first.check(), Ok(()));
        assert_eq!((first.ty.as_str(), first.key()), ("x.alarm", "dev-1"));
        assert_eq!(first.source, "/nodes/press-7/models/a");
        assert_eq!(of(&sample("1"), 4).id, first.id);
        assert_ne!(of(&sample("2"), 3).id, first.id);
        // "ab" + "c" is not "a" + "bc".
        let named = |source: &str, id: &str| Event { source: source.into(), ..sample(id) };
        assert_ne!(of(&named("ab", "c"), 3).id, of(&named("a", "bc"), 3).id);
        let data: serde_json::Value = serde_json::from_slice(&first.data).unwrap();
        assert_eq!((&data["event"]["id"], &data["version"]), (&json!("1"), &json!(3)));
    }
}
