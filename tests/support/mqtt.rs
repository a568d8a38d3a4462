//! An MQTT client that does what it is told, also what it must not: bytes by hand, so that it shares nothing with what
//! it tests.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing on 127.0.0.1 takes this long, unless it never ends.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A byte stream.
pub trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

/// CONNECT.
#[derive(Clone, Debug)]
pub struct Options {
    pub client: String,
    pub v5: bool,
    pub clean: bool,
    pub keep_alive: u16,
    /// 5.0.
    pub expiry: Option<u32>,
    /// 5.0.
    pub receive_max: Option<u16>,
    /// Topic, payload, quality of service, retain.
    pub will: Option<(String, Vec<u8>, u8, bool)>,
    pub user: Option<String>,
    pub password: Option<Vec<u8>>,
}

impl Options {
    /// 5.0 with a new session that ends with the connection.
    pub fn new(client: &str) -> Self {
        Self {
            client: client.to_owned(),
            v5: true,
            clean: true,
            keep_alive: 0,
            expiry: None,
            receive_max: None,
            will: None,
            user: None,
            password: None,
        }
    }

    /// 3.1.1.
    pub fn v311(client: &str) -> Self {
        Self { v5: false, ..Self::new(client) }
    }

    /// A session that stays.
    pub fn stays(self) -> Self {
        Self { clean: false, expiry: Some(3600), ..self }
    }

    pub fn will(self, topic: &str, payload: &str) -> Self {
        Self { will: Some((topic.to_owned(), payload.as_bytes().to_vec(), 1, false)), ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut body = text("MQTT");
        let (mut flags, mut tail) = (u8::from(self.clean) << 1, text(&self.client));
        if let Some((topic, payload, qos, retain)) = &self.will {
            flags |= 0x04 | qos << 3 | u8::from(*retain) << 5;
            if self.v5 {
                tail.push(0);
            }
            tail.extend(text(topic));
            tail.extend(binary(payload));
        }
        if let Some(user) = &self.user {
            flags |= 0x80;
            tail.extend(text(user));
        }
        if let Some(password) = &self.password {
            flags |= 0x40;
            tail.extend(binary(password));
        }
        body.extend([if self.v5 { 5 } else { 4 }, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.v5 {
            let mut properties = Vec::new();
            if let Some(expiry) = self.expiry {
                properties.push(0x11);
                properties.extend(expiry.to_be_bytes());
            }
            if let Some(receive_max) = self.receive_max {
                properties.push(0x21);
                properties.extend(receive_max.to_be_bytes());
            }
            body.extend(variable(properties.len()));
            body.extend(properties);
        }
        body.extend(tail);
        packet(0x10, &body)
    }
}

/// What the server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Connack { present: bool, reason: u8 },
    Publish { topic: String, payload: Vec<u8>, qos: u8, retain: bool, dup: bool, id: u16 },
    Puback { id: u16, reason: u8, text: String },
    Pubrec { id: u16, reason: u8, text: String },
    Pubrel { id: u16 },
    Pubcomp { id: u16, reason: u8 },
    Suback { id: u16, reasons: Vec<u8> },
    Unsuback { id: u16 },
    Pingresp,
    Disconnect { reason: u8 },
}

impl Reply {
    /// The payload of a PUBLISH.
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Publish { payload, .. } => payload,
            other => panic!("not a message: {other:?}"),
        }
    }
}

/// A connected client.
pub struct Client {
    stream: Box<dyn Bytes>,
    read: Vec<u8>,
    v5: bool,
    next_id: u16,
    /// What CONNACK said.
    pub present: bool,
}

impl Client {
    /// Connects by TCP and gets in.
    pub async fn connect(address: SocketAddr, options: Options) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), options).await
    }

    /// Gets in over any stream.
    pub async fn over(stream: impl Bytes + 'static, options: Options) -> Self {
        let mut client = Self::raw(stream, options.v5);
        client.write(&options.bytes()).await;
        match client.next().await {
            Reply::Connack { present, reason: 0 } => client.present = present,
            other => panic!("not let in: {other:?}"),
        }
        client
    }

    /// Says nothing by itself.
    pub fn raw(stream: impl Bytes + 'static, v5: bool) -> Self {
        Self { stream: Box::new(stream), read: Vec::new(), v5, next_id: 1, present: false }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Writes to a server that may have closed.
    pub async fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends PUBLISH with the next id, which is returned, and does not wait.
    pub async fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) -> u16 {
        let id = self.id();
        let bytes = self.publish_bytes(topic, payload.as_ref(), qos, false, false, id);
        self.write(&bytes).await;
        id
    }

    pub async fn retain(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> u16 {
        let id = self.id();
        let bytes = self.publish_bytes(topic, payload.as_ref(), 1, true, false, id);
        self.write(&bytes).await;
        id
    }

    /// The bytes of a PUBLISH.
    pub fn publish_bytes(&self, topic: &str, payload: &[u8], qos: u8, retain: bool, dup: bool, id: u16) -> Vec<u8> {
        publish_bytes(self.v5, topic, payload, qos, retain, dup, id)
    }

    /// PUBLISH with QoS 1 and its PUBACK, which must be a success.
    pub async fn publish_and_wait(&mut self, topic: &str, payload: impl AsRef<[u8]>) {
        let id = self.publish(topic, payload, 1).await;
        self.puback(id).await;
    }

    /// The next packet must acknowledge `id`.
    pub async fn puback(&mut self, id: u16) {
        match self.next().await {
            Reply::Puback { id: got, reason: 0 | 0x10, .. } if got == id => {}
            other => panic!("not the PUBACK of {id}: {other:?}"),
        }
    }

    pub async fn subscribe(&mut self, filter: &str, qos: u8) {
        let id = self.id();
        let mut body = id.to_be_bytes().to_vec();
        if self.v5 {
            body.push(0);
        }
        body.extend(text(filter));
        body.push(qos);
        self.write(&packet(0x82, &body)).await;
        match self.next().await {
            Reply::Suback { id: got, reasons } if got == id && reasons == [qos] => {}
            other => panic!("not subscribed to {filter}: {other:?}"),
        }
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP (`first` with its flags) without a reason.
    pub async fn answer(&mut self, first: u8, id: u16) {
        self.write(&packet(first, &id.to_be_bytes())).await;
    }

    pub async fn ping(&mut self) {
        self.write(&[0xC0, 0]).await;
        assert_eq!(self.next().await, Reply::Pingresp);
    }

    pub async fn disconnect(mut self) {
        self.write(&[0xE0, 0]).await;
        assert!(self.ends().await);
    }

    /// The next packet.
    pub async fn next(&mut self) -> Reply {
        timeout(PATIENCE, self.read_packet()).await.expect("a packet in time").expect("a packet before the end")
    }

    /// The next packet, or none if the server closes.
    pub async fn next_or_end(&mut self) -> Option<Reply> {
        timeout(PATIENCE, self.read_packet()).await.expect("a packet or the end in time")
    }

    /// The next packet if it comes within `bound`.
    pub async fn within(&mut self, bound: Duration) -> Option<Reply> {
        timeout(bound, self.read_packet()).await.ok().map(|reply| reply.expect("a packet, not the end"))
    }

    /// Whether the server closes without another packet.
    pub async fn ends(&mut self) -> bool {
        timeout(PATIENCE, self.read_packet()).await.expect("an end in time").is_none()
    }

    async fn read_packet(&mut self) -> Option<Reply> {
        loop {
            if let Some((first, body, used)) = split(&self.read) {
                let reply = parse(first, &body, self.v5);
                self.read.drain(..used);
                return Some(reply);
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(n) if n > 0 => {}
                _ => return None,
            }
        }
    }

    fn id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id = if id == u16::MAX { 1 } else { id + 1 };
        id
    }
}

/// The bytes of a PUBLISH without properties.
pub fn publish_bytes(v5: bool, topic: &str, payload: &[u8], qos: u8, retain: bool, dup: bool, id: u16) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    if v5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x30 | u8::from(dup) << 3 | qos << 1 | u8::from(retain), &body)
}

/// A packet with its fixed header.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(variable(body.len()));
    out.extend(body);
    out
}

pub fn text(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

fn variable(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let more = u8::from(n > 0x7F) << 7;
        out.push((n & 0x7F) as u8 | more);
        n >>= 7;
        if more == 0 {
            return out;
        }
    }
}

/// The first whole packet: first byte, body, bytes taken.
pub fn split(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (length, used) = read_variable(bytes.get(1..)?)?;
    let body = bytes.get(1 + used..1 + used + length)?;
    Some((bytes[0], body.to_vec(), 1 + used + length))
}

fn read_variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut n = 0;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        n |= usize::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((n, i + 1));
        }
    }
    None
}

/// What a server's packet says.
pub fn parse(first: u8, body: &[u8], v5: bool) -> Reply {
    let number = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let (reason, text) = (body.get(2).copied().unwrap_or(0), reason_string(body.get(3..).unwrap_or_default()));
    match first >> 4 {
        2 => Reply::Connack { present: body[0] & 1 == 1, reason: body[1] },
        3 => publish(first, body, v5),
        4 => Reply::Puback { id: number(0), reason, text },
        5 => Reply::Pubrec { id: number(0), reason, text },
        6 => Reply::Pubrel { id: number(0) },
        7 => Reply::Pubcomp { id: number(0), reason },
        9 => Reply::Suback { id: number(0), reasons: body[after_properties(body, 2, v5)..].to_vec() },
        11 => Reply::Unsuback { id: number(0) },
        13 => Reply::Pingresp,
        14 => Reply::Disconnect { reason: body.first().copied().unwrap_or(0) },
        other => panic!("packet type {other} from a server"),
    }
}

fn publish(first: u8, body: &[u8], v5: bool) -> Reply {
    let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
    let qos = first >> 1 & 3;
    let id_end = topic_end + if qos > 0 { 2 } else { 0 };
    let id = if qos > 0 { u16::from_be_bytes([body[topic_end], body[topic_end + 1]]) } else { 0 };
    Reply::Publish {
        topic: String::from_utf8(body[2..topic_end].to_vec()).unwrap(),
        payload: body[after_properties(body, id_end, v5)..].to_vec(),
        qos,
        retain: first & 1 == 1,
        dup: first & 8 == 8,
        id,
    }
}

fn after_properties(body: &[u8], at: usize, v5: bool) -> usize {
    if !v5 {
        return at;
    }
    let (length, used) = read_variable(&body[at..]).unwrap();
    at + used + length
}

/// The reason string, if it is the first property.
fn reason_string(properties: &[u8]) -> String {
    match read_variable(properties) {
        Some((length, used)) if length > 3 && properties.get(used) == Some(&0x1F) => {
            String::from_utf8(properties[used + 3..used + length].to_vec()).unwrap()
        }
        _ => String::new(),
    }
}
