//! Everything alive as records, in pieces: what the journal needs to drop what lies before. [pure]

use std::sync::Arc;

use super::Core;
use crate::downlink::commands::record::Record;

/// Where the next piece begins: after this device's configuration (0) or command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TidyCursor(Arc<str>, u64);

impl Core {
    /// The records of what comes after `from` in the order of devices, about `bytes_max` of them but at least one; `None` as
    /// cursor: that was all. What changes between two pieces is written by itself.
    pub fn tidy(&self, from: Option<&TidyCursor>, bytes_max: usize) -> (Vec<Record>, Option<TidyCursor>) {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let start: Arc<str> = from.map_or_else(|| "".into(), |c| c.0.clone());
        for (name, device) in self.devices.range(start..) {
            // Places begin at 1; 0 stands for the configuration.
            let from = from.filter(|c| c.0 == *name).map(|c| c.1 + 1).unwrap_or(0);
            let config = device.config.as_ref().filter(|_| from == 0).map(|c| (0, c.cost(), Record::Config(c.clone())));
            let waiting = device.waiting.range(from..).map(|(seq, c)| (*seq, c.cost(), Record::Added(c.clone())));
            let closed = device.closed.range(from..).map(|(seq, c)| (*seq, c.cost(), Record::Closed(c.clone())));
            let mut all: Vec<_> = config.into_iter().chain(waiting).chain(closed).collect();
            all.sort_unstable_by_key(|(seq, _, _)| *seq);
            for (seq, cost, record) in all {
                let published = match &record {
                    Record::Added(c) if device.published.contains(&seq) => {
                        Some(Record::Published { device: c.device.clone(), id: c.id.clone() })
                    }
                    Record::Config(c) if device.config_published => {
                        Some(Record::ConfigPublished { device: c.device.clone(), version: c.version })
                    }
                    _ => None,
                };
                records.push(record);
                records.extend(published);
                bytes += cost;
                if bytes >= bytes_max as u64 {
                    return (records, Some(TidyCursor(name.clone(), seq)));
                }
            }
        }
        (records, None)
    }
}
