//! The least of an MQTT 3.1.1 client that can load a broker: prepared packets out, PUBACKs counted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A broker that answers nothing for so long has failed.
const ANSWER_MAX: Duration = Duration::from_secs(30);

pub struct Client {
    stream: TcpStream,
    next_id: u16,
}

impl Client {
    pub async fn connect(address: SocketAddr, client_id: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        // Clean session, no keep-alive (MQTT 3.1.1 §3.1).
        let mut packet = vec![0x10, (12 + client_id.len()) as u8, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0];
        packet.extend((client_id.len() as u16).to_be_bytes());
        packet.extend(client_id.as_bytes());
        stream.write_all(&packet).await.unwrap();
        let mut connack = [0; 4];
        tokio::time::timeout(ANSWER_MAX, stream.read_exact(&mut connack)).await.expect("CONNACK in time").unwrap();
        assert_eq!(connack, [0x20, 2, 0, 0], "CONNACK");
        Self { stream, next_id: 1 }
    }

    /// A persistent session that subscribes with QoS 1 and goes away.
    pub async fn leave_subscription(address: SocketAddr, filter: &str) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let connect = [0x10, 15, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 3, b's', b'u', b'b'];
        stream.write_all(&connect).await.unwrap();
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await.unwrap();
        let mut subscribe = vec![0x82, (5 + filter.len()) as u8, 0, 1];
        subscribe.extend((filter.len() as u16).to_be_bytes());
        subscribe.extend(filter.as_bytes());
        subscribe.push(1);
        stream.write_all(&subscribe).await.unwrap();
        let mut suback = [0; 5];
        stream.read_exact(&mut suback).await.unwrap();
        assert_eq!(suback[4], 1, "granted QoS");
    }

    /// Keeps `in_flight` publishes under way until `until`; waits for the last of them. How many were acknowledged.
    pub async fn flood(&mut self, topic: &str, bytes: usize, in_flight: u16, until: Instant) -> u64 {
        let mut out = Vec::new();
        let mut acknowledged = 0;
        let mut under_way = 0;
        while Instant::now() < until || under_way > 0 {
            out.clear();
            while under_way < in_flight && Instant::now() < until {
                self.publish(&mut out, topic, bytes);
                under_way += 1;
            }
            self.stream.write_all(&out).await.unwrap();
            let acks = self.acks(under_way).await;
            under_way -= acks;
            acknowledged += u64::from(acks);
        }
        acknowledged
    }

    /// One publish a second from `start` on, each waited for; how long each took since it was sent, and since it was due:
    /// the second has what this process itself was late, and what one late answer did to the publishes after it.
    pub async fn paced(
        &mut self,
        topic: &str,
        bytes: usize,
        start: Instant,
        seconds: u32,
    ) -> Vec<(Duration, Duration)> {
        let mut took = Vec::with_capacity(seconds as usize);
        let mut out = Vec::new();
        for second in 0..seconds {
            let due = start + Duration::from_secs(1) * second;
            tokio::time::sleep_until(due.into()).await;
            out.clear();
            self.publish(&mut out, topic, bytes);
            let begun = Instant::now();
            self.stream.write_all(&out).await.unwrap();
            self.acks(1).await;
            took.push((begun.elapsed(), due.elapsed()));
        }
        took
    }

    fn publish(&mut self, out: &mut Vec<u8>, topic: &str, bytes: usize) {
        out.push(0x32);
        let mut left = 2 + topic.len() + 2 + bytes;
        while left >= 128 {
            out.push((left % 128) as u8 | 128);
            left /= 128;
        }
        out.push(left as u8);
        out.extend((topic.len() as u16).to_be_bytes());
        out.extend(topic.as_bytes());
        out.extend(self.next_id.to_be_bytes());
        out.resize(out.len() + bytes, b'x');
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
    }

    /// Waits for at least one PUBACK and takes as many as are there, at most `most`.
    async fn acks(&mut self, most: u16) -> u16 {
        let mut buffer = [0; 4 * 64];
        let room = buffer.len().min(usize::from(most) * 4);
        let mut have = 0;
        loop {
            let read = tokio::time::timeout(ANSWER_MAX, self.stream.read(&mut buffer[have..room]));
            let read = read.await.expect("an answer in time").unwrap();
            assert!(read > 0, "the broker closed the connection");
            have += read;
            if have.is_multiple_of(4) {
                break;
            }
        }
        assert!(buffer[..have].chunks(4).all(|ack| ack[..2] == [0x40, 2]), "PUBACKs and nothing else");
        (have / 4) as u16
    }
}
