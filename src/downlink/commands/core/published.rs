//! What subscribers by MQTT were given: told again at every start, an absent session would get one more copy each time. [pure]

use std::sync::Arc;

use super::Core;
use crate::downlink::commands::record::Record;

impl Core {
    /// Whether a command that waits was published.
    pub fn is_published(&self, device: &str, id: &str) -> bool {
        let known = || {
            let device = self.devices.get(device)?;
            Some(device.published.contains(device.ids.get(id)?))
        };
        known().unwrap_or(false)
    }

    /// A command is published now. `None`: it does not wait any more, or was before.
    pub fn published(&mut self, device: &Arc<str>, id: &Arc<str>) -> Option<Record> {
        let entry = self.devices.get_mut(device)?;
        let seq = *entry.ids.get(id).filter(|seq| entry.waiting.contains_key(seq))?;
        entry.published.insert(seq).then(|| Record::Published { device: device.clone(), id: id.clone() })
    }

    /// Whether a device's configuration was published as it is.
    pub fn is_config_published(&self, device: &str) -> bool {
        self.devices.get(device).is_some_and(|d| d.config.is_some() && d.config_published)
    }

    /// This version of a device's configuration is published now. `None`: it is another one meanwhile, or was before.
    pub fn config_published(&mut self, device: &Arc<str>, version: u64) -> Option<Record> {
        let entry = self.devices.get_mut(device)?;
        entry.config.as_ref().filter(|config| config.version == version)?;
        let before = std::mem::replace(&mut entry.config_published, true);
        (!before).then(|| Record::ConfigPublished { device: device.clone(), version })
    }
}
