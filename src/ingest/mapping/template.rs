//! Texts with `{names}` that a topic and its sender fill in. [pure]

use super::Sender;
use super::filter::level_named;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    /// A level of the topic, from 0.
    Level(usize),
    /// The whole topic, with `.` for `/`.
    Topic,
    Client,
}

/// A template, taken apart once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Box<[Part]>);

impl Template {
    /// Takes `text` apart for topics that `filter` matches. The configuration has checked both; what is no
    /// name of the filter stands for itself.
    pub fn new(text: &str, filter: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, name, after)) = next_name(rest) {
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(match (name, level_named(filter, name)) {
                ("topic", _) => Part::Topic,
                ("client", _) => Part::Client,
                (_, Some(level)) => Part::Level(level),
                (_, None) => Part::Text(format!("{{{name}}}").into()),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Self(parts.into())
    }

    /// The text for one message.
    pub fn fill(&self, topic: &str, sender: Sender<'_>) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Level(level) => out.push_str(topic.split('/').nth(*level).unwrap_or_default()),
                Part::Topic => push_dotted(&mut out, topic),
                Part::Client => out.push_str(sender.client),
            }
        }
        out
    }
}

/// `levels` with `.` for `/`.
pub fn dotted(levels: &str) -> String {
    let mut out = String::new();
    push_dotted(&mut out, levels);
    out
}

fn push_dotted(out: &mut String, levels: &str) {
    out.reserve(levels.len());
    for (i, level) in levels.split('/').enumerate() {
        if i > 0 {
            out.push('.');
        }
        out.push_str(level);
    }
}

/// Text before the first `{name}`, the name, and what follows.
fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in() {
        let sender = Sender { device: "d", client: "c-1" };
        let fill = |text: &str| Template::new(text, "plants/{plant}/+/{device}/#").fill("plants/7/x/press/a/b", sender);
        assert_eq!(fill("{plant}.{device}"), "7.press");
        assert_eq!(fill("t-{topic}!"), "t-plants.7.x.press.a.b!");
        assert_eq!(fill("{client}"), "c-1");
        assert_eq!(fill("plain"), "plain");
        assert_eq!(fill("{other} {"), "{other} {");
        assert_eq!(fill(""), "");
    }
}
