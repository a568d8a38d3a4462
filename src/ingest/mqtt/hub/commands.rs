//! What waits for devices, retained for those that speak MQTT.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Hub;
use crate::downlink::commands::{Publisher, Retained};
use crate::ingest::mqtt::broker::Reaction;
use crate::ingest::mqtt::broker::record::Message;
use crate::ingest::mqtt::packet::{Properties, QoS};

impl Publisher for Hub {
    /// Not kept on disk: the commands' journal is the truth, and publishes all of it anew at every start.
    fn publish(&self, retained: Retained) -> BoxFuture<'_, Result<(), String>> {
        let message = self.message(retained);
        async move { Hub::publish(self, message, false).await.map_err(|e| e.to_string()) }.boxed()
    }

    fn retain(&self, retained: Retained) -> Result<(), String> {
        let message = self.message(retained);
        let effects = self.own(|broker, _| broker.retain_own(message));
        effects.unkept.map_or(Ok(()), |e| Err(e.to_string()))
    }

    /// Subscribers are not told: an empty message on a command's topic could be taken for a command.
    fn clear(&self, topic: String) -> BoxFuture<'_, Result<(), String>> {
        let topic: Arc<str> = topic.into();
        let effects = self.own(|broker, _| {
            let mut reaction = Reaction::default();
            broker.forget_retained(&topic, &mut reaction);
            reaction
        });
        std::future::ready(effects.unkept.map_or(Ok(()), |e| Err(e.to_string()))).boxed()
    }
}

impl Hub {
    fn message(&self, retained: Retained) -> Message {
        let expires_at = retained.expires_in_ms.map(|ms| self.0.shelf.now().saturating_add(ms));
        let properties =
            Properties { content_type: retained.content_type, user: retained.user, ..Properties::default() };
        Message {
            topic: retained.topic.into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            payload: retained.payload,
            properties: Some(Box::new(properties)),
            expires_at,
        }
    }
}
