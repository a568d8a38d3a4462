//! Settings of a broker that no policy of a namespace can mend: read, judged, never changed. [pure]

use serde_json::{Map, Value};

/// Pulsar's default (360 minutes), and what it costs: a gateway away for longer is forgotten, and what it repeats then is
/// stored twice.
const INACTIVITY_MINUTES_LOW: i64 = 360;
/// Pulsar's default: more gateways than this per topic, and the broker forgets some while they are at work.
const PRODUCERS_LOW: i64 = 10_000;

/// What matters here of a broker's settings; `None`: it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broker {
    /// The name of its cluster.
    pub cluster: Option<String>,
    /// How long it remembers a producer that is away, in minutes.
    pub inactivity_minutes: Option<i64>,
    /// How many producers it remembers per topic.
    pub producers_max: Option<i64>,
    /// Seconds after which it drops what nobody has acknowledged.
    pub ttl_seconds: Option<i64>,
    /// Minutes after which it deletes a subscription that nobody uses.
    pub subscription_minutes: Option<i64>,
    /// It drops the oldest of a backlog over its limit.
    pub evicts_backlog: bool,
}

impl Broker {
    /// Picks them from `GET brokers/configuration/runtime`, where every value is a string.
    pub fn read(settings: &Map<String, Value>) -> Self {
        let text = |key: &str| settings.get(key).and_then(Value::as_str);
        let number = |key: &str| text(key).and_then(|t| t.parse::<f64>().ok()).map(|n| n as i64);
        let limited = |key: &str| number(key).is_some_and(|n| n > 0);
        Self {
            cluster: text("clusterName").map(str::to_owned),
            inactivity_minutes: number("brokerDeduplicationProducerInactivityTimeoutMinutes"),
            producers_max: number("brokerDeduplicationMaxNumberOfProducers"),
            ttl_seconds: number("ttlDurationDefaultInSeconds"),
            subscription_minutes: number("subscriptionExpirationTimeMinutes"),
            evicts_backlog: text("backlogQuotaDefaultRetentionPolicy") == Some("consumer_backlog_eviction")
                && (limited("backlogQuotaDefaultLimitBytes") || limited("backlogQuotaDefaultLimitSecond")),
        }
    }

    /// One sentence for each setting that can cost events, with the way out.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(minutes) = self.inactivity_minutes.filter(|&n| n <= INACTIVITY_MINUTES_LOW) {
            all.push(format!(
                "the broker forgets a gateway that is away for {minutes} minutes, and stores what it repeats then twice: \
                 set brokerDeduplicationProducerInactivityTimeoutMinutes=43200 (30 days) in broker.conf"
            ));
        }
        if let Some(producers) = self.producers_max.filter(|&n| n <= PRODUCERS_LOW) {
            all.push(format!(
                "the broker remembers {producers} producers per topic; with more gateways than that it stores repeated \
                 events twice: set brokerDeduplicationMaxNumberOfProducers=30000 in broker.conf"
            ));
        }
        if let Some(seconds) = self.ttl_seconds.filter(|&n| n > 0) {
            all.push(format!(
                "the broker drops events that nobody has consumed after {seconds} s: set ttlDurationDefaultInSeconds=0"
            ));
        }
        if let Some(minutes) = self.subscription_minutes.filter(|&n| n > 0) {
            all.push(format!(
                "the broker deletes the cloud's subscription, and what it has not consumed, when no cloud process runs \
                 for {minutes} minutes: set subscriptionExpirationTimeMinutes=0"
            ));
        }
        if self.evicts_backlog {
            all.push(
                "the broker drops the oldest events of a backlog over its limit: \
                 set backlogQuotaDefaultRetentionPolicy=producer_request_hold"
                    .to_owned(),
            );
        }
        all
    }
}
