//! What a bridge needs to connect: read from the configuration and its files at each attempt, so that a replaced password or
//! certificate takes effect by itself.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use rumqttc::{NetworkOptions, TlsConfiguration, Transport, v5};

use super::client::{Options, PACKET_BYTES_MAX};
use super::error::BridgeError;
use crate::config::edge::{Bridge, BridgeVersion};
use crate::security::tls;

/// Time to connect, TLS and CONNACK included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest password (MQTT 3.1.1 §3.1.3.5).
const PASSWORD_BYTES_MAX: u64 = 65_535;

/// Outgoing messages that wait for an answer: none are sent, but 5.0's event loop makes room for 65,536 (10 MB) otherwise.
const OUTGOING_MAX: u16 = 8;

/// Largest packet sent: a SUBSCRIBE of 64 topics of 64 KiB.
const OUTGOING_BYTES_MAX: usize = 5 << 20;

/// Client id of `bridge` unless it names one.
pub fn client_id(bridge: &Bridge, node: &str) -> String {
    bridge.client_id.clone().unwrap_or_else(|| format!("tidegate-{node}-{}", bridge.name))
}

/// Reads the files and puts everything together. Blocks on the disk.
pub fn read(bridge: &Bridge, node: &str) -> Result<Options, BridgeError> {
    let (secure, host, port) = address(&bridge.url);
    let transport = if secure {
        let identity = bridge.certificate_file.as_deref().zip(bridge.key_file.as_deref());
        Transport::tls_with_config(TlsConfiguration::Rustls(tls::client_as(bridge.ca_file.as_deref(), identity)?))
    } else {
        Transport::tcp()
    };
    let password = match (&bridge.password, &bridge.password_file) {
        (_, Some(path)) => Some(password_in(path)?),
        (Some(password), None) => Some(password.reveal().to_owned()),
        (None, None) => None,
    };
    let credentials = bridge.user_name.clone().map(|user| (user, password.unwrap_or_default()));
    let (id, keep_alive) = (client_id(bridge, node), bridge.keep_alive);
    Ok(match bridge.version {
        BridgeVersion::V311 => {
            let mut options = rumqttc::MqttOptions::new(id, host, port);
            options.set_clean_session(false).set_manual_acks(true).set_keep_alive(keep_alive).set_transport(transport);
            options.set_max_packet_size(PACKET_BYTES_MAX as usize, OUTGOING_BYTES_MAX).set_inflight(OUTGOING_MAX);
            if let Some((user, password)) = credentials {
                options.set_credentials(user, password);
            }
            let mut network = NetworkOptions::new();
            network.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
            network.set_tcp_nodelay(true);
            Options::V4(options, network)
        }
        BridgeVersion::V5 => {
            let mut options = v5::MqttOptions::new(id, host, port);
            options.set_clean_start(false).set_manual_acks(true).set_keep_alive(keep_alive).set_transport(transport);
            // Never (§3.1.2.11.2): what the other broker keeps for us may wait for weeks.
            options.set_session_expiry_interval(Some(u32::MAX)).set_receive_maximum(Some(bridge.in_flight));
            options.set_max_packet_size(Some(PACKET_BYTES_MAX)).set_outgoing_inflight_upper_limit(OUTGOING_MAX);
            options.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
            if let Some((user, password)) = credentials {
                options.set_credentials(user, password);
            }
            let mut network = NetworkOptions::new();
            network.set_tcp_nodelay(true);
            options.set_network_options(network);
            Options::V5(options)
        }
    })
}

/// Whether with TLS, host, port. An IPv6 address without its brackets: with them TLS finds no name in it, and without them
/// `lookup_host("::1:1883")` takes what follows the last colon as the port.
fn address(url: &str) -> (bool, &str, u16) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("mqtt", url));
    let (host, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let secure = scheme == "mqtts";
    (secure, host, port.parse().unwrap_or(if secure { 8883 } else { 1883 }))
}

/// The first line's end is not part of the password.
fn password_in(path: &Path) -> Result<String, BridgeError> {
    let failed = |reason: String| BridgeError::Password { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut text = String::new();
    file.take(PASSWORD_BYTES_MAX + 3).read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
    let password = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    match password.len() as u64 {
        0 => Err(failed("it is empty; write the password into it".to_owned())),
        1..=PASSWORD_BYTES_MAX => Ok(password.to_owned()),
        _ => Err(failed(format!("it has more than {PASSWORD_BYTES_MAX} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(address("mqtt://broker:1"), (false, "broker", 1));
        assert_eq!(address("mqtts://[::1]:8883"), (true, "::1", 8883));
    }

    #[test]
    fn a_password_is_the_files_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let written = |text: &str| {
            std::fs::write(&path, text).unwrap();
            password_in(&path).map_err(|e| e.to_string())
        };
        assert_eq!(written("secret\n").unwrap(), "secret");
        assert_eq!(written(" s p \r\n").unwrap(), " s p ");
        assert!(written("\n").unwrap_err().contains("empty"));
        assert!(written(&"x".repeat(65_536)).unwrap_err().contains("65535"));
        std::fs::remove_file(&path).unwrap();
        assert!(password_in(&path).unwrap_err().to_string().contains("password: No such file"));
    }

    #[test]
    fn both_versions_keep_their_session() {
        let bridge = Bridge { name: "old".into(), url: "mqtt://b:1".into(), ..Bridge::default() };
        let Ok(Options::V4(options, _)) = read(&bridge, "n") else { panic!() };
        assert_eq!((options.client_id().as_str(), options.clean_session()), ("tidegate-n-old", false));
        let bridge = Bridge { version: BridgeVersion::V5, client_id: Some("c".into()), ..bridge };
        let Ok(Options::V5(options)) = read(&bridge, "n") else { panic!() };
        assert_eq!((options.client_id().as_str(), options.clean_start()), ("c", false));
        assert_eq!(options.session_expiry_interval(), Some(u32::MAX));
    }
}
