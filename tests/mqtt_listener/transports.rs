//! WebSocket and TLS.

use futures_util::{SinkExt, StreamExt};
use tidegate::ingest::mqtt::transport::Kind;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::harness::Gate;
use crate::support::eventually;
use crate::support::mqtt::{Options, PATIENCE, publish_bytes};

async fn upgrade(gate: &Gate, offer: Option<&'static str>) -> Result<WebSocketStream<TcpStream>, Error> {
    let address = gate.address(Kind::Ws);
    let stream = TcpStream::connect(address).await.unwrap();
    let mut request = format!("ws://{address}/any/path").into_client_request().unwrap();
    if let Some(offer) = offer {
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(offer));
    }
    let (socket, response) = client_async(request, stream).await?;
    assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
    Ok(socket)
}

async fn bytes(socket: &mut WebSocketStream<TcpStream>, n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < n {
        out.extend(socket.next().await.unwrap().unwrap().into_data());
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_and_frames_have_nothing_to_do_with_each_other() {
    let gate = Gate::start(|_| {});
    let mut socket = upgrade(&gate, Some("other, mqtt")).await.unwrap();
    let connect = Options::v311("a").bytes();
    // One packet in many frames, with a ping between.
    for byte in &connect {
        socket.send(Message::Binary(vec![*byte].into())).await.unwrap();
        socket.send(Message::Ping(Vec::new().into())).await.unwrap();
    }
    assert_eq!(bytes(&mut socket, 4).await, [0x20, 2, 0, 0]);
    // Two packets and a half in one frame.
    socket.send(Message::Binary(vec![0xC0, 0, 0xC0, 0, 0xC0].into())).await.unwrap();
    assert_eq!(bytes(&mut socket, 4).await, [0xD0, 0, 0xD0, 0]);
    socket.send(Message::Binary(vec![0].into())).await.unwrap();
    assert_eq!(bytes(&mut socket, 2).await, [0xD0, 0]);
    // A large one.
    let mut publish = vec![0x32, 0x84, 0xB8, 0x02, 0, 1, b't', 0, 5];
    publish.resize(4 + 39_940, b'x');
    publish[1..4].copy_from_slice(&[0x84, 0xB8, 0x02]);
    socket.send(Message::Binary(publish.into())).await.unwrap();
    assert_eq!(bytes(&mut socket, 4).await, [0x40, 2, 0, 5]);
    assert_eq!(gate.last("telemetry"), 1);
    socket.send(Message::Binary(vec![0xE0, 0].into())).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        assert!(message.is_close() || message.is_pong(), "{message:?}");
    }
}

/// A frame is not gathered: what of it has come is part of a packet, and counted like any other.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_frame_is_counted_and_one_may_be_larger_than_a_packet() {
    let gate = Gate::start(|c| c.mqtt.max_packet = 200_000);
    let mut socket = upgrade(&gate, Some("mqtt")).await.unwrap();
    socket.send(Message::Binary(Options::v311("a").bytes().into())).await.unwrap();
    assert_eq!(bytes(&mut socket, 4).await, [0x20, 2, 0, 0]);
    let publish = publish_bytes(false, "devices/d/r", &[b'x'; 150_000], 1, false, false, 5);
    // Ten of them in one frame; a mask of zeros changes nothing.
    let mut frame = vec![0x82, 0x80 | 127];
    frame.extend((publish.len() as u64 * 10).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(&publish[..100_000]);
    let memory = || gate.metric("tidegate_mqtt_memory_bytes");
    socket.get_mut().write_all(&frame).await.unwrap();
    eventually("half of it is counted", PATIENCE, memory, |held| *held >= 100_000.0).await;
    socket.get_mut().write_all(&publish[100_000..]).await.unwrap();
    for _ in 1..10 {
        assert_eq!(bytes(&mut socket, 4).await, [0x40, 2, 0, 5]);
        socket.get_mut().write_all(&publish).await.unwrap();
    }
    assert_eq!(bytes(&mut socket, 4).await, [0x40, 2, 0, 5]);
    eventually("nothing is left of it", PATIENCE, memory, |held| *held == 0.0).await;
    assert_eq!(gate.last("telemetry"), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_sub_protocol_there_is_no_upgrade() {
    let gate = Gate::start(|_| {});
    for offer in [None, Some("mqttx"), Some("graphql")] {
        match upgrade(&gate, offer).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), StatusCode::BAD_REQUEST),
            other => panic!("{offer:?}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_frame_ends_the_connection() {
    let gate = Gate::start(|_| {});
    let mut socket = upgrade(&gate, Some("mqtt")).await.unwrap();
    socket.send(Message::Binary(Options::v311("a").bytes().into())).await.unwrap();
    assert_eq!(bytes(&mut socket, 4).await, [0x20, 2, 0, 0]);
    socket.send(Message::Text("hello".into())).await.unwrap();
    match socket.next().await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Unsupported),
        other => panic!("{other:?}"),
    }
}
