//! Which lane an event goes to: the first whose patterns match its type; the last one takes the rest.

use std::sync::{Arc, PoisonError, RwLock};

use crate::config::edge::Lane;
use crate::event::pattern::matches;
use crate::outbox::{Outbox, Writer};

/// Why lanes cannot be routed to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RouterError {
    /// The configuration has no lane at all.
    #[error("no lane is configured; write at least one [[lane]] with a name")]
    NoLane,
    /// The outbox was opened with other lanes.
    #[error("the outbox has no lane {0:?}: it was opened with another configuration")]
    Unknown(String),
}

/// The lanes as they are configured now. All clones see a change. Cheap to clone.
#[derive(Clone)]
pub struct Router(Arc<RwLock<Arc<Table>>>);

impl Router {
    /// Pairs every configured lane with its writer.
    pub fn new(lanes: &[Lane], outbox: &Outbox) -> Result<Self, RouterError> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(Table::new(lanes, outbox)?)))))
    }

    /// From here on these lanes; what was looked up before goes where it was to go.
    pub fn set(&self, lanes: &[Lane], outbox: &Outbox) -> Result<(), RouterError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Table::new(lanes, outbox)?);
        Ok(())
    }

    /// The lanes at this moment: one look for everything that belongs together.
    pub fn table(&self) -> Arc<Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The lanes in the order of the configuration, each with its way in. Never empty.
#[derive(Clone)]
pub struct Table {
    matching: Vec<(Vec<String>, Writer)>,
    rest: Writer,
}

impl Table {
    fn new(lanes: &[Lane], outbox: &Outbox) -> Result<Self, RouterError> {
        let writer = |lane: &Lane| outbox.writer(&lane.name).ok_or_else(|| RouterError::Unknown(lane.name.clone()));
        let (last, earlier) = lanes.split_last().ok_or(RouterError::NoLane)?;
        let matching = earlier.iter().map(|l| Ok((l.types.clone(), writer(l)?))).collect::<Result<_, _>>()?;
        Ok(Self { matching, rest: writer(last)? })
    }

    /// The lane of this name.
    pub fn lane_named(&self, name: &str) -> Option<&Writer> {
        self.matching.iter().map(|(_, writer)| writer).chain([&self.rest]).find(|writer| writer.lane() == name)
    }

    /// The lane for an event of type `ty`, unless its topic or mapping has named one.
    pub fn choose(&self, named: Option<&str>, ty: &str) -> &Writer {
        named.and_then(|name| self.lane_named(name)).unwrap_or_else(|| self.lane_for(ty))
    }

    /// The lane for events of type `ty`.
    pub fn lane_for(&self, ty: &str) -> &Writer {
        self.matching
            .iter()
            .find(|(patterns, _)| patterns.is_empty() || patterns.iter().any(|p| matches(p, ty)))
            .map_or(&self.rest, |(_, writer)| writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EdgeConfig;
    use crate::observe::metrics::Metrics;
    use crate::sys::clock::Clock;

    fn lane(name: &str, types: &[&str]) -> Lane {
        Lane { name: name.into(), types: types.iter().map(|t| (*t).to_owned()).collect(), mqtt: Vec::new() }
    }

    #[test]
    fn the_first_match_wins_and_the_last_lane_takes_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EdgeConfig {
            lanes: vec![lane("alarms", &["*.alarm", "fire"]), lane("rest", &[])],
            ..EdgeConfig::default()
        };
        config.node.data_dir = dir.path().into();
        let outbox = Outbox::open(&config, &Clock::system(), &Metrics::default()).unwrap();
        let shared = Router::new(&config.lanes, &outbox).unwrap();
        let router = shared.table();
        assert_eq!(router.lane_for("motor.alarm").lane(), "alarms");
        assert_eq!(router.lane_for("fire").lane(), "alarms");
        assert_eq!(router.lane_for("firewood").lane(), "rest");
        assert_eq!(router.lane_named("rest").map(Writer::lane), Some("rest"));
        assert!(router.lane_named("other").is_none());
        assert_eq!(router.choose(Some("rest"), "fire").lane(), "rest");
        assert_eq!(router.choose(None, "fire").lane(), "alarms");
        assert_eq!(Router::new(&[], &outbox).err(), Some(RouterError::NoLane));
        let other = Router::new(&[lane("other", &[])], &outbox).err();
        assert_eq!(other, Some(RouterError::Unknown("other".into())));

        let changed = [lane("rest", &["motor.*"]), lane("alarms", &[])];
        shared.clone().set(&changed, &outbox).unwrap();
        assert_eq!(shared.table().lane_for("motor.alarm").lane(), "rest");
        assert_eq!(router.lane_for("motor.alarm").lane(), "alarms", "who has looked keeps what he saw");
        assert!(shared.set(&[lane("other", &[])], &outbox).is_err());
        assert_eq!(shared.table().lane_for("motor.alarm").lane(), "rest", "a mistake changes nothing");
    }
}
