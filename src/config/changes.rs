//! What a new configuration changes of the one in effect, and what of it can take effect at once. [pure]

use super::edge::{EdgeConfig, Http, Identity, Log, Mqtt, Outbox};
use super::table::{self, Section};

/// What differs, by what has to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Lanes, or what they take.
    pub lanes: bool,
    /// How messages are mapped to events; also with every change of the lanes.
    pub mappings: bool,
    /// Bridges.
    pub bridges: bool,
    /// Models that score events.
    pub inferences: bool,
    /// Where events go, and how.
    pub uplink: bool,
    /// Limits of the ways in that no client was told.
    pub limits: bool,
    /// Who may come in; whoever is in has to come again.
    pub identity: bool,
    /// Disk space of the outbox.
    pub budget: bool,
    /// Whom configuration is taken from, and how it is tried.
    pub downlink: bool,
    /// How much is logged.
    pub log_level: bool,
    /// What takes effect at the next start only: `section.key = value`. Secrets are hidden.
    pub at_restart: Vec<String>,
}

impl Changes {
    /// From `now` to `new`.
    pub fn between(now: &EdgeConfig, new: &EdgeConfig) -> Self {
        let lanes = now.lanes != new.lanes;
        let mut at_restart = Vec::new();
        // What takes effect at once counts as if it were so already.
        let hot = now.clone().with_changes_of(new.clone());
        later(&hot.node, &new.node, &mut at_restart);
        later(&hot.http, &new.http, &mut at_restart);
        later(&hot.mqtt, &new.mqtt, &mut at_restart);
        later(&hot.tls, &new.tls, &mut at_restart);
        later(&hot.identity, &new.identity, &mut at_restart);
        later(&hot.commands, &new.commands, &mut at_restart);
        later(&hot.outbox, &new.outbox, &mut at_restart);
        later(&hot.models, &new.models, &mut at_restart);
        at_restart.extend((now.model != new.model).then(|| "[[model]]".to_owned()));
        later(&hot.log, &new.log, &mut at_restart);
        let unmapped = now.mqtt.unmapped != hot.mqtt.unmapped;
        Self {
            lanes,
            mappings: lanes || now.mappings != new.mappings || unmapped,
            bridges: now.bridges != new.bridges,
            inferences: now.inferences != new.inferences,
            uplink: now.uplink != new.uplink,
            limits: now.http != hot.http || now.mqtt != Mqtt { unmapped: now.mqtt.unmapped, ..hot.mqtt.clone() },
            identity: now.identity != hot.identity,
            budget: now.outbox != hot.outbox,
            downlink: now.downlink != new.downlink,
            log_level: now.log.level != new.log.level,
            at_restart,
        }
    }

    /// All that can take effect at once is to be put into effect, whatever differs; but for `identity`, which costs
    /// connections.
    pub fn all_at_once(&mut self) {
        let at_restart = std::mem::take(&mut self.at_restart);
        *self = Self { at_restart, identity: self.identity, ..Self::everything() };
    }

    fn everything() -> Self {
        Self {
            lanes: true,
            mappings: true,
            bridges: true,
            inferences: true,
            uplink: true,
            limits: true,
            identity: true,
            budget: true,
            downlink: true,
            log_level: true,
            at_restart: Vec::new(),
        }
    }

    /// Names of what takes effect at once.
    pub fn at_once(&self) -> Vec<&'static str> {
        let all = [
            (self.lanes, "lane"),
            (self.mappings && !self.lanes, "mapping"),
            (self.bridges, "bridge"),
            (self.inferences, "inference"),
            (self.uplink, "uplink"),
            (self.limits, "limits"),
            (self.identity, "identity"),
            (self.budget, "outbox.max_bytes"),
            (self.downlink, "downlink"),
            (self.log_level, "log.level"),
        ];
        all.into_iter().filter(|(changed, _)| *changed).map(|(_, name)| name).collect()
    }
}

impl EdgeConfig {
    /// This configuration with what can take effect at once of `new`.
    #[must_use]
    pub fn with_changes_of(self, new: Self) -> Self {
        let mqtt = Mqtt {
            unmapped: new.mqtt.unmapped,
            keep_alive_max: new.mqtt.keep_alive_max,
            session_expiry_max: new.mqtt.session_expiry_max,
            max_sessions: new.mqtt.max_sessions,
            max_subscriptions: new.mqtt.max_subscriptions,
            max_queued: new.mqtt.max_queued,
            max_queued_bytes: new.mqtt.max_queued_bytes,
            max_retained: new.mqtt.max_retained,
            ..self.mqtt
        };
        let http = Http {
            header_timeout: new.http.header_timeout,
            body_timeout: new.http.body_timeout,
            max_body: new.http.max_body,
            max_inflated: new.http.max_inflated,
            max_batch: new.http.max_batch,
            ..self.http
        };
        let identity = Identity { audit_bytes: self.identity.audit_bytes, ..new.identity };
        let outbox = Outbox { max_bytes: new.outbox.max_bytes, ..self.outbox };
        let log = Log { level: new.log.level, ..self.log };
        let Self { lanes, mappings, bridges, inferences, uplink, downlink, .. } = new;
        Self { lanes, mappings, bridges, inferences, uplink, downlink, mqtt, http, identity, outbox, log, ..self }
    }
}

fn later<S: Section + PartialEq>(now: &S, new: &S, lines: &mut Vec<String>) {
    if now == new {
        return;
    }
    let changed = table::changes(new, now);
    let only_secrets = changed.is_empty();
    lines.extend(changed);
    lines.extend(only_secrets.then(|| format!("a secret of {}", S::NAME)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::edge::Lane;

    #[test]
    fn what_differs_is_told_by_what_has_to_be_done() {
        let now = EdgeConfig::default();
        assert_eq!(Changes::between(&now, &now), Changes::default());

        let mut new = now.clone();
        new.lanes.insert(0, Lane { name: "alarms".into(), types: vec!["*.alarm".into()], mqtt: Vec::new() });
        new.uplink.batch_events += 1;
        new.downlink.revoked.push("0123456789abcdef".into());
        new.log.level = "debug".into();
        let changes = Changes::between(&now, &new);
        assert_eq!(changes.at_once(), ["lane", "uplink", "downlink", "log.level"]);
        assert!(changes.mappings, "a topic may name a lane");
        assert!(changes.at_restart.is_empty());

        let mut new = now.clone();
        new.http.max_connections = 5;
        new.http.max_batch = 5;
        new.mqtt.receive_max = 7;
        new.mqtt.unmapped = crate::config::edge::Unmapped::Local;
        let changes = Changes::between(&now, &new);
        assert_eq!(changes.at_once(), ["mapping", "limits"]);
        assert_eq!(changes.at_restart, ["http.max_connections = 5", "mqtt.receive_max = 7"]);

        let mut new = now.clone();
        new.identity.max_events = 5;
        new.identity.audit_bytes += 1;
        new.outbox.max_bytes += 1;
        let changes = Changes::between(&now, &new);
        assert_eq!(changes.at_once(), ["identity", "outbox.max_bytes"]);
        assert_eq!(changes.at_restart.len(), 1, "{:?}", changes.at_restart);
    }
}
