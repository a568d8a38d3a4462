//! The MQTT topics of commands, their results and configurations. [pure]

use super::command::{check_device, check_id};
use crate::config::edge;

/// The level of a template that stands for the device.
const DEVICE: &str = "{device}";

/// What is below a command's topic for the device's answer.
const RESULT: &str = "result";

/// Templates from `[commands]`. The configuration's check has seen to it that each has the device as a level.
#[derive(Clone, Debug)]
pub struct Topics {
    commands: String,
    config: String,
}

impl Topics {
    /// As configured.
    pub fn new(config: &edge::Commands) -> Self {
        Self { commands: config.topic.clone(), config: config.config_topic.clone() }
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
        let (command, last) = topic.rsplit_once('/')?;
        let (prefix, id) = command.rsplit_once('/').filter(|_| last == RESULT)?;
        let mut device = None;
        let mut levels = prefix.split('/');
        for wanted in self.commands.split('/') {
            let level = levels.next()?;
            let fits = match wanted {
                DEVICE => *device.get_or_insert(level) == level,
                _ => wanted == level,
            };
            if !fits {
                return None;
            }
        }
        let device = device.filter(|d| levels.next().is_none() && check_device(d).is_ok() && check_id(id).is_ok())?;
        Some((device.to_owned(), id.to_owned()))
    }
}

fn fill(template: &str, device: &str) -> String {
    template.split('/').map(|level| if level == DEVICE { device } else { level }).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(template: &str) -> Topics {
        Topics { commands: template.to_owned(), config: "c/{device}".to_owned() }
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
    fn a_device_named_twice_is_the_same() {
        let topics = topics("{device}/x/{device}");
        assert_eq!(topics.result("d/x/d/1/result"), Some(("d".into(), "1".into())));
        assert_eq!(topics.result("d/x/e/1/result"), None);
    }
}
