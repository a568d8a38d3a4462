//! Clients that are slow, half, or too large: each is ended in time, or holds only what it may.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::gateway::{CONNECT_TIMEOUT, Gateway};
use crate::support::mqtt::{Client, Options, Reply, packet, text};
use crate::support::mqtt_mutator::frame;

const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// An end that was due is expected within this beyond its time, on a busy machine.
const LATE_MAX: Duration = Duration::from_secs(15);

/// Sends a byte a second, and returns when the server closes.
async fn drip(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: Vec<u8>) {
    let mut scratch = [0; 256];
    for byte in bytes.chunks(1) {
        if stream.write_all(byte).await.is_err() {
            return;
        }
        let second = Duration::from_secs(1);
        if let Ok(read) = timeout(second, stream.read(&mut scratch)).await
            && read.map_or(0, |n| n) == 0
        {
            return;
        }
    }
    while stream.read(&mut scratch).await.is_ok_and(|n| n > 0) {}
}

async fn tcp(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_connect_in_time_is_ended() {
    let gateway = Gateway::start();
    let (plain, tls, ws) = (gateway.tcp, gateway.tls, gateway.ws);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&gateway.authority).unwrap()).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let (longest, _) = gateway
        .under(async move {
            let connect = Options::new("slow").bytes();
            let half = connect[..connect.len() / 2].to_vec();
            let slow = |n: usize| {
                let (connect, half, connector) = (connect.clone(), half.clone(), connector.clone());
                async move {
                    let begun = Instant::now();
                    match n % 8 {
                        0 => drip(tcp(plain).await, connect).await,
                        1 => {
                            let mut stream = tcp(plain).await;
                            stream.write_all(&half).await.unwrap();
                            drip(stream, Vec::new()).await;
                        }
                        2 => drip(tcp(plain).await, Vec::new()).await,
                        // Half a ClientHello, by and by.
                        3 => drip(tcp(tls).await, b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03".to_vec()).await,
                        4 => {
                            let name = ServerName::try_from("localhost").unwrap();
                            let stream = connector.connect(name, tcp(tls).await).await.unwrap();
                            drip(stream, half).await;
                        }
                        5 => drip(tcp(ws).await, UPGRADE.to_vec()).await,
                        6 => {
                            let mut stream = tcp(ws).await;
                            stream.write_all(UPGRADE).await.unwrap();
                            drip(stream, frame(0x82, &half, true)).await;
                        }
                        // Pings and empty fragments for ever, and never a CONNECT.
                        _ => {
                            let mut stream = tcp(ws).await;
                            stream.write_all(UPGRADE).await.unwrap();
                            let mut flood = frame(0x02, b"", true);
                            flood.extend([frame(0x89, b"", true), frame(0x00, b"", true)].concat().repeat(50));
                            let mut scratch = vec![0; 4096];
                            loop {
                                let end = Duration::from_millis(50);
                                let read = timeout(end, stream.read(&mut scratch)).await;
                                if read.is_ok_and(|read| read.map_or(0, |n| n) == 0)
                                    || stream.write_all(&flood).await.is_err()
                                {
                                    break;
                                }
                            }
                        }
                    }
                    begun.elapsed()
                }
            };
            let all = futures_util::future::join_all((0..320).map(slow)).await;
            all.into_iter().max().unwrap()
        })
        .await;
    assert!(longest < CONNECT_TIMEOUT + LATE_MAX, "one was served for {longest:?}");
}

/// What waits for their sockets is bounded over all of them, and who reads gets his.
#[tokio::test(flavor = "multi_thread")]
async fn many_that_ask_for_a_large_message_and_never_read_it() {
    const READERS: usize = 3;
    let gateway = Gateway::start();
    let tcp = gateway.tcp;
    let mut publisher = Client::connect(tcp, Options::new("publisher")).await;
    // More than the kernel takes for a client that does not read.
    for topic in ["flood/1", "flood/2", "flood/3", "flood/4"] {
        let id = publisher.retain(topic, &vec![b'x'; 1_000_000]).await;
        publisher.puback(id).await;
    }
    publisher.disconnect().await;
    let (read, _) = gateway
        .under(async move {
            let mut mute = Vec::new();
            for n in 0..300 {
                // With a small window the kernel takes little of it.
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(4096).unwrap();
                let stream = socket.connect(tcp).await.unwrap();
                let mut client = Client::over(stream, Options::new(&format!("mute-{n}"))).await;
                client.write(&packet(0x82, &[&[0, 9, 0][..], &text("flood/#"), &[0]].concat())).await;
                mute.push(client);
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            let mut read = 0;
            for n in 0..READERS {
                let mut reader = Client::connect(tcp, Options::new(&format!("reader-{n}"))).await;
                reader.subscribe("flood/small", 0).await;
                reader.publish_and_wait("flood/small", "small").await;
                read += usize::from(reader.next().await.payload() == b"small");
            }
            // A third of them goes: there is room again.
            mute.truncate(200);
            read
        })
        .await;
    assert_eq!(read, READERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_message_ends_with_the_keep_alive_and_one_that_is_too_large_at_once() {
    let gateway = Gateway::start();
    let plain = gateway.tcp;
    let ((), _) = gateway
        .under(async move {
            let half = |n: usize| async move {
                let options = Options { keep_alive: 1, ..Options::new(&format!("half-{n}")) };
                let mut client = Client::connect(plain, options).await;
                let publish = packet(0x32, &[0; 1000]);
                client.write(&publish[..n % 900 + 1]).await;
                assert_eq!(client.next().await, Reply::Disconnect { reason: 0x8D }, "keep alive timeout");
                assert!(client.ends().await);
            };
            futures_util::future::join_all((0..200).map(half)).await;
            for n in 0..50 {
                let mut client = Client::connect(plain, Options::new(&format!("large-{n}"))).await;
                // 200 MB are announced.
                client.write(&[0x32, 0x80, 0xC2, 0xAF, 0x5F, 0, 1, b'x']).await;
                assert_eq!(client.next().await, Reply::Disconnect { reason: 0x95 }, "packet too large");
                assert!(client.ends().await);
            }
        })
        .await;
}

/// 150 times 900 KB are more than the 32 MiB that the beginnings of large packets may take in all; found when the messages of
/// honest clients had the same 64 MiB, and were refused.
#[tokio::test(flavor = "multi_thread")]
async fn the_beginnings_of_many_large_messages_stay_within_the_memory_for_all() {
    let gateway = Gateway::start();
    let plain = gateway.tcp;
    let (busy, _) = gateway
        .under(async move {
            let mut publish = packet(0x30, &[b"\0\x07flood/x\0", &vec![1; 1_000_000][..]].concat());
            publish.truncate(900_000);
            let (mut clients, mut busy) = (Vec::new(), 0);
            for n in 0..150 {
                let mut client = Client::connect(plain, Options::new(&format!("large-{n}"))).await;
                let (half, rest) = publish.split_at(450_000);
                client.write(half).await;
                clients.push((client, rest.to_vec()));
                tokio::task::yield_now().await;
            }
            for (client, rest) in &mut clients {
                // It may be closed already.
                let _ = client.try_write(rest).await;
            }
            // Told that the server is busy, or closed; the others are waited for.
            let refused = clients.iter_mut().map(|(client, _)| timeout(Duration::from_secs(2), client.ends()));
            busy += futures_util::future::join_all(refused).await.iter().filter(|end| end.is_ok()).count();
            busy
        })
        .await;
    println!("{busy} were refused");
    assert!(busy > 0, "the limit was not reached");
}

/// Every beginning of a whole conversation, over TCP and WebSocket, cut by a close and by a reset.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_at_any_byte_leaves_nothing() {
    let gateway = Gateway::start();
    let (plain, ws) = (gateway.tcp, gateway.ws);
    let (cuts, _) = gateway
        .under(async move {
            let will = |v5| Options { v5, ..Options::new("goes").stays().will("flood/will", "gone") };
            let mut cuts = 0;
            for v5 in [true, false] {
                let mut bytes = will(v5).bytes();
                let client = Client::raw(tcp(plain).await, v5);
                bytes.extend(packet(0x82, if v5 { b"\0\x01\0\0\x07flood/#\x02" } else { b"\0\x01\0\x07flood/#\x02" }));
                for qos in 0..3 {
                    bytes.extend(client.publish_bytes("flood/x", b"1", qos, qos == 1, false, 2 + u16::from(qos)));
                }
                bytes.extend([packet(0x62, b"\0\x04"), packet(0xC0, b""), packet(0xE0, b"")].concat());
                let over_ws = [UPGRADE, &frame(0x82, &bytes, true)].concat();
                for (address, bytes) in [(plain, bytes), (ws, over_ws)] {
                    for end in 0..=bytes.len() {
                        let mut stream = tcp(address).await;
                        let _ = stream.write_all(&bytes[..end]).await;
                        if end % 2 == 0 {
                            // Unread answers make it a reset.
                            tokio::task::yield_now().await;
                        } else {
                            let _ = stream.shutdown().await;
                            let mut scratch = [0; 256];
                            while stream.read(&mut scratch).await.is_ok_and(|n| n > 0) {}
                        }
                        cuts += 1;
                    }
                }
            }
            cuts
        })
        .await;
    println!("{cuts} cuts");
    assert!(cuts > 500);
}
