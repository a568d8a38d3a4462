//! How many bytes a PUBLISH takes on the wire: a client may take no more than it says (MQTT 5.0 §3.1.2.11.4). [pure]

use crate::ingest::mqtt::packet::{Properties, Publish, QoS, Version};

/// The whole packet, its fixed header included.
pub(super) fn publish(version: Version, publish: &Publish) -> usize {
    let packet_id = if publish.qos == QoS::AtMostOnce { 0 } else { 2 };
    let properties = match version {
        Version::V311 => 0,
        Version::V5 => {
            let length = publish.properties.as_deref().map_or(0, properties);
            variable(length) + length
        }
    };
    let remaining = 2 + publish.topic.len() + packet_id + properties + publish.payload.len();
    1 + variable(remaining) + remaining
}

fn properties(p: &Properties) -> usize {
    p.payload_is_utf8.map_or(0, |_| 2)
        + p.message_expiry_s.map_or(0, |_| 5)
        + p.topic_alias.map_or(0, |_| 3)
        + p.response_topic.as_ref().map_or(0, |t| 3 + t.len())
        + p.correlation_data.as_ref().map_or(0, |d| 3 + d.len())
        + p.user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>()
        + p.subscription_ids.iter().map(|&id| 1 + variable(id as usize)).sum::<usize>()
        + p.content_type.as_ref().map_or(0, |t| 3 + t.len())
}

/// A variable byte integer (MQTT 5.0 §1.5.5).
fn variable(n: usize) -> usize {
    match n {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}
