//! An honest client beside the hostile ones.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::support::mqtt::{Client, Options, Reply};

/// Longest wait for one exchange. Generous: the machine is shared, and the hostile clients keep it busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Publishes to itself.
pub struct Bystander {
    client: Client,
    count: u64,
    pub longest: Duration,
}

impl Bystander {
    pub async fn connect(address: SocketAddr) -> Self {
        let mut client = Client::connect(address, Options::new("honest")).await;
        client.subscribe("honest/#", 1).await;
        Self { client, count: 0, longest: Duration::ZERO }
    }

    /// One message with QoS 1 and one with QoS 2 are acknowledged and come back, each once.
    pub async fn exchange(&mut self) {
        let begun = Instant::now();
        timeout(PATIENCE, self.round()).await.expect("an honest client is not served");
        self.longest = self.longest.max(begun.elapsed());
    }

    async fn round(&mut self) {
        self.count += 1;
        let once = self.client.publish("honest/1", format!("{}", self.count), 1).await;
        let twice = self.client.publish("honest/2", format!("{}", self.count), 2).await;
        let (mut acknowledged, mut completed, mut came) = (false, false, Vec::new());
        while !(acknowledged && completed && came.len() == 2) {
            match self.client.next().await {
                Reply::Puback { id, reason: 0, .. } if id == once => acknowledged = true,
                Reply::Pubrec { id, reason: 0, .. } if id == twice => self.client.answer(0x62, id).await,
                Reply::Pubcomp { id, reason: 0 } if id == twice => completed = true,
                Reply::Publish { topic, payload, id, .. } => {
                    assert_eq!(payload, self.count.to_string().as_bytes(), "on {topic}");
                    came.push(topic);
                    self.client.answer(0x40, id).await;
                }
                other => panic!("{other:?}"),
            }
        }
        came.sort();
        assert_eq!(came, ["honest/1", "honest/2"]);
    }
}
