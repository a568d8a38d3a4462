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
        async move {
            let expires_at = retained.expires_in_ms.map(|ms| self.0.shelf.now().saturating_add(ms));
            let properties =
                Properties { content_type: retained.content_type, user: retained.user, ..Properties::default() };
            let message = Message {
                topic: retained.topic.into(),
                qos: QoS::AtLeastOnce,
                retain: true,
                payload: retained.payload,
                properties: Some(Box::new(properties)),
                expires_at,
            };
            Hub::publish(self, message, false).await.map_err(|e| e.to_string())
        }
        .boxed()
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
