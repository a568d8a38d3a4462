//! What a bridge needs to connect: read from the configuration and its files at each attempt, so that a replaced password or
//! certificate takes effect by itself.

use std::io::Read;
use std::path::Path;

use super::codec::{Codec, Login};
use super::connection::Target;
use super::error::BridgeError;
use crate::config::edge::Bridge;
use crate::security::tls;

/// Longest password (MQTT 3.1.1 §3.1.3.5).
const PASSWORD_BYTES_MAX: u64 = 65_535;

/// Client id of `bridge` unless it names one.
pub fn client_id(bridge: &Bridge, node: &str) -> String {
    bridge.client_id.clone().unwrap_or_else(|| format!("tidegate-{node}-{}", bridge.name))
}

/// Reads the files and puts everything together. Blocks on the disk.
pub fn read(bridge: &Bridge, node: &str) -> Result<Target, BridgeError> {
    let (secure, host, port) = address(&bridge.url);
    let identity = bridge.certificate_file.as_deref().zip(bridge.key_file.as_deref());
    let tls = if secure { Some(tls::client_as(bridge.ca_file.as_deref(), identity)?) } else { None };
    let password = match (&bridge.password, &bridge.password_file) {
        (_, Some(path)) => password_in(path)?,
        (Some(password), None) => password.reveal().to_owned(),
        (None, None) => String::new(),
    };
    let login = Login {
        client_id: client_id(bridge, node),
        // The configuration has the protocol's limit.
        keep_alive_s: u16::try_from(bridge.keep_alive.as_secs()).unwrap_or(u16::MAX),
        credentials: bridge.user_name.clone().map(|user| (user, password)),
        receive_max: bridge.in_flight,
    };
    let (host, codec) = (host.to_owned(), Codec(bridge.version));
    Ok(Target { url: bridge.url.clone(), host, port, tls, codec, login })
}

/// Whether with TLS, host (an IPv6 address without its brackets), port.
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
    fn the_session_has_one_name_for_good() {
        let bridge = Bridge { name: "old".into(), url: "mqtt://b:1".into(), ..Bridge::default() };
        assert_eq!(read(&bridge, "n").unwrap_or_else(|e| panic!("{e}")).login.client_id, "tidegate-n-old");
        let bridge = Bridge { client_id: Some("c".into()), ..bridge };
        assert_eq!(read(&bridge, "n").unwrap_or_else(|e| panic!("{e}")).login.client_id, "c");
    }
}
