//! The MQTT topics of commands, their results and configurations, and of the gateway's own word on models. [pure]

use super::command::{check_device, check_id};
use crate::config::EdgeConfig;

/// The level of a template that stands for the device.
const DEVICE: &str = "{device}";

/// What is below a command's topic for the device's answer.
const RESULT: &str = "result";

/// Who may publish on a topic, as far as commands are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker<'a> {
    /// It has nothing to do with commands.
    Anybody,
    /// The gateway, for operators: who is there obeys, or sets itself up by, what comes on it.
    Gateway,
    /// The gateway alone: it says there what it has done.
    GatewayAlone,
    /// This device, which answers a command.
    Device(&'a str),
}

/// Templates from `[commands]`, and the topics of `[[model]]`. The configuration's check has seen to it that each has the device as a level.
#[derive(Clone, Debug)]
pub struct Topics {
    commands: String,
    config: String,
    models: Vec<String>,
}

impl Topics {
    /// As configured.
    pub fn new(config: &EdgeConfig) -> Self {
        let models = config.model.iter().filter_map(|model| model.topic.clone()).collect();
        Self { commands: config.commands.topic.clone(), config: config.commands.config_topic.clone(), models }
    }

    /// Where a command is retained.
    pub fn command(&self, device: &str, id: &str) -> String {
        format!("{}/{id}", fill(&self.commands, device))
    }

    /// Where a device's configuration is retained.
    pub fn config(&self, device: &str) -> String {
        fill(&self.config, device)
    }

    /// Device and command that a message on `topic` answers, if it is such a topic.
    pub fn result(&self, topic: &str) -> Option<(String, String)> {
        let (device, rest) = below(&self.commands, topic)?;
        let (id, _) = rest?.split_once('/').filter(|(_, last)| *last == RESULT)?;
        (check_device(device).is_ok() && check_id(id).is_ok()).then(|| (device.to_owned(), id.to_owned()))
    }

    /// Whose word a message on `topic` is.
    pub fn speaker<'a>(&self, topic: &'a str) -> Speaker<'a> {
        if self.models.iter().any(|model| model == topic) {
            return Speaker::GatewayAlone;
        }
        match (below(&self.commands, topic), below(&self.config, topic)) {
            (Some((device, Some(rest))), _) if rest.split_once('/').is_some_and(|(_, last)| last == RESULT) => {
                Speaker::Device(device)
            }
            (Some(_), _) | (None, Some((_, None))) => Speaker::Gateway,
            _ => Speaker::Anybody,
        }
    }
}

/// The device of a topic that begins with `template`, and what is below it.
fn below<'a>(template: &str, topic: &'a str) -> Option<(&'a str, Option<&'a str>)> {
    let (mut device, mut rest) = (None, Some(topic));
    for wanted in template.split('/') {
        let (level, more) = rest?.split_once('/').map_or((rest?, None), |(level, more)| (level, Some(more)));
        let fits = match wanted {
            DEVICE => *device.get_or_insert(level) == level,
            _ => wanted == level,
        };
        if !fits {
            return None;
        }
        rest = more;
    }
    Some((device?, rest))
}

fn fill(template: &str, device: &str) -> String {
    template.split('/').map(|level| if level == DEVICE { device } else { level }).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(template: &str) -> Topics {
        Topics { commands: template.to_owned(), config: "c/{device}".to_owned(), models: vec!["models/m".to_owned()] }
    }

    #[test]
    fn an_answer_finds_its_command() {
        let topics = topics("devices/{device}/commands");
        assert_eq!(topics.command("press 7", "a-1"), "devices/press 7/commands/a-1");
        assert_eq!(topics.config("d"), "c/d");
        let found = |topic: &str| topics.result(topic);
        assert_eq!(found("devices/press 7/commands/a-1/result"), Some(("press 7".into(), "a-1".into())));
        for other in [
            "devices/d/commands/a/results",
            "devices/d/commands/result",
            "devices/d/e/commands/a/result",
            "devices/d/commands/x/a/result",
            "devices//commands/a/result",
            "devices/d/commands//result",
            "devices/d/commands/a b/result",
            "result",
            "",
        ] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn commands_are_the_gateways_word_and_answers_the_devices() {
        let topics = topics("devices/{device}/commands");
        for (topic, speaker) in [
            ("devices/d/commands/1/result", Speaker::Device("d")),
            ("devices/d/commands//result", Speaker::Device("d")),
            ("devices/d/commands/1", Speaker::Gateway),
            ("devices/d/commands", Speaker::Gateway),
            ("devices/d/commands/1/x", Speaker::Gateway),
            ("devices/d/commands/1/result/x", Speaker::Gateway),
            ("devices//commands/1", Speaker::Gateway),
            ("c/d", Speaker::Gateway),
            ("c/d/reported", Speaker::Anybody),
            ("devices/d/commandsx/1", Speaker::Anybody),
            ("devices/d/x/commands/1", Speaker::Anybody),
            ("devices/d", Speaker::Anybody),
            ("models/m", Speaker::GatewayAlone),
            ("models/m/x", Speaker::Anybody),
            ("", Speaker::Anybody),
        ] {
            assert_eq!(topics.speaker(topic), speaker, "{topic}");
        }
    }

    #[test]
    fn a_device_named_twice_is_the_same() {
        let topics = topics("{device}/x/{device}");
        assert_eq!(topics.result("d/x/d/1/result"), Some(("d".into(), "1".into())));
        assert_eq!(topics.result("d/x/e/1/result"), None);
    }
}
