//! Addresses of Pulsar and of MQTT brokers: service URLs, admin URLs, brokers. [pure]
//!
//! A URL with `user:password@` in it is refused without being repeated.

use super::kinds::{Kind, echo};

/// Pulsar's own default ports.
const SERVICE_PORT: u16 = 6650;
const SERVICE_TLS_PORT: u16 = 6651;
const ADMIN_PORT: u16 = 8080;
const ADMIN_TLS_PORT: u16 = 8443;

/// MQTT's default ports (IANA).
const MQTT_PORT: u16 = 1883;
const MQTT_TLS_PORT: u16 = 8883;

/// `mqtt://host:port` or `mqtts://host:port`; read with its port filled in.
pub(super) struct MqttUrl;

impl Kind for MqttUrl {
    type Value = String;

    fn takes(&self) -> String {
        "a broker's address such as \"mqtt://127.0.0.1:1883\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        let (scheme, rest) = scheme(text, "mqtt")?;
        match scheme {
            "mqtt" => authority(text, rest, MQTT_PORT),
            "mqtts" => authority(text, rest, MQTT_TLS_PORT),
            other => return Err(format!("{} has the scheme {other:?}; write mqtt:// or mqtts://", echo(text))),
        }
        .map(|rest| format!("{scheme}://{rest}"))
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(format!("{value:?}"))
    }
}

/// `pulsar://host:port` or `pulsar+ssl://host:port`; read with its port filled in.
pub(super) struct ServiceUrl;

/// `http://host:port` or `https://host:port`; read with its port filled in.
pub(super) struct AdminUrl;

impl Kind for ServiceUrl {
    type Value = String;

    fn takes(&self) -> String {
        "a service URL such as \"pulsar://127.0.0.1:6650\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        let (scheme, rest) = scheme(text, "pulsar")?;
        match scheme {
            "pulsar" => authority(text, rest, SERVICE_PORT),
            "pulsar+ssl" => authority(text, rest, SERVICE_TLS_PORT),
            "http" | "https" => {
                return Err(format!("{} is the address of an admin interface; write {}", echo(text), self.takes()));
            }
            other => {
                return Err(format!("{} has the scheme {other:?}; write pulsar:// or pulsar+ssl://", echo(text)));
            }
        }
        .map(|rest| format!("{scheme}://{rest}"))
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(format!("{value:?}"))
    }
}

impl Kind for AdminUrl {
    type Value = String;

    fn takes(&self) -> String {
        "an admin URL such as \"http://127.0.0.1:8080\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        let (scheme, rest) = scheme(text, "http")?;
        match scheme {
            "http" => authority(text, rest, ADMIN_PORT),
            "https" => authority(text, rest, ADMIN_TLS_PORT),
            "pulsar" | "pulsar+ssl" => {
                return Err(format!("{} is a service URL; write {}", echo(text), self.takes()));
            }
            other => return Err(format!("{} has the scheme {other:?}; write http:// or https://", echo(text))),
        }
        .map(|rest| format!("{scheme}://{rest}"))
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(format!("{value:?}"))
    }
}

/// `https://host/…/` or `file:///…/`: everything below it.
pub(super) struct SourceUrl;

impl Kind for SourceUrl {
    type Value = String;

    fn takes(&self) -> String {
        "a place such as \"https://models.example/anomaly/\" or \"file:///srv/models/\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        let (scheme, rest) = scheme(text, "https")?;
        let wrong = |why: &str| Err(format!("{} {why}; write {}", echo(text), self.takes()));
        let is_plain = rest.bytes().all(|b| b.is_ascii_graphic() && !b"\\?#\"".contains(&b));
        match (scheme, rest.split_once('/')) {
            _ if !rest.ends_with('/') => wrong("does not end with a slash, so that it would begin other names as well"),
            _ if !is_plain || rest.split('/').any(|part| part == "." || part == "..") => wrong("is no plain path"),
            ("https", Some((host, _))) if is_host(host.split(':').next().unwrap_or_default()) => Ok(text.to_owned()),
            ("file", Some(("", path))) if !path.is_empty() => Ok(text.to_owned()),
            _ => wrong("is no such place"),
        }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(format!("{value:?}"))
    }
}

fn scheme<'t>(text: &'t str, usual: &str) -> Result<(&'t str, &'t str), String> {
    if text.contains('@') {
        return Err(format!("names a user; write {usual}://host:port and give the token as token_file"));
    }
    if text.contains(',') {
        return Err(format!("{} holds several addresses; write one URL for each", echo(text)));
    }
    text.split_once("://").ok_or_else(|| format!("{} has no scheme; write \"{usual}://{text}\"", echo(text)))
}

/// `host:port`, with the port filled in.
fn authority(text: &str, rest: &str, default_port: u16) -> Result<String, String> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if let Some(start) = rest.find(['/', '?', '#']) {
        return Err(format!("{} goes on after the port; leave out {:?}", echo(text), &rest[start..]));
    }
    // The last colon ends the host, unless it is one of a bracketed IPv6 address.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (rest, None),
    };
    if !is_host(host) {
        return Err(format!("{} has no valid host; write a name, an IPv4 address or [IPv6]", echo(text)));
    }
    match port.map_or(Ok(default_port), str::parse) {
        Ok(port) if port > 0 => Ok(format!("{host}:{port}")),
        _ => Err(format!("{} has no valid port; write one from 1 to 65535, such as {default_port}", echo(text))),
    }
}

fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    !host.is_empty()
        && host.len() <= 253 // RFC 1035 §2.3.4
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_of_models_is_a_whole_directory() {
        for text in ["https://models.example/", "https://models.example:8443/a/b/", "file:///srv/models/"] {
            assert_eq!(SourceUrl.text(text).as_deref(), Ok(text));
        }
        for text in [
            "https://models.example",
            "https:///a/",
            "https://u:p@models.example/",
            "https://models.example/../",
            "https://models.example/a?b/",
            "http://models.example/",
            "file:///",
            "file://host/a/",
            "/srv/models/",
        ] {
            assert!(SourceUrl.text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn service_urls_get_their_port() {
        for (text, url) in [
            ("pulsar://127.0.0.1:6650", "pulsar://127.0.0.1:6650"),
            ("pulsar://broker", "pulsar://broker:6650"),
            ("pulsar+ssl://broker.example/", "pulsar+ssl://broker.example:6651"),
            ("pulsar://[::1]", "pulsar://[::1]:6650"),
            ("pulsar://[::1]:7", "pulsar://[::1]:7"),
        ] {
            assert_eq!(ServiceUrl.text(text).as_deref(), Ok(url));
        }
        assert_eq!(AdminUrl.text("https://broker").as_deref(), Ok("https://broker:8443"));
    }

    #[test]
    fn a_wrong_url_is_answered_with_the_right_one() {
        for (text, answer) in [
            ("127.0.0.1:6650", r#""127.0.0.1:6650" has no scheme; write "pulsar://127.0.0.1:6650""#),
            (
                "http://b:8080",
                r#""http://b:8080" is the address of an admin interface; write a service URL such as "pulsar://127.0.0.1:6650""#,
            ),
            ("mqtt://b:1883", r#""mqtt://b:1883" has the scheme "mqtt"; write pulsar:// or pulsar+ssl://"#),
            ("pulsar://", r#""pulsar://" has no valid host; write a name, an IPv4 address or [IPv6]"#),
            ("pulsar://a b:1", r#""pulsar://a b:1" has no valid host; write a name, an IPv4 address or [IPv6]"#),
            ("pulsar://::1:6650", r#""pulsar://::1:6650" has no valid host; write a name, an IPv4 address or [IPv6]"#),
            ("pulsar://b:0", r#""pulsar://b:0" has no valid port; write one from 1 to 65535, such as 6650"#),
            (
                "pulsar+ssl://b:99999",
                r#""pulsar+ssl://b:99999" has no valid port; write one from 1 to 65535, such as 6651"#,
            ),
            ("pulsar://b:6650/x", r#""pulsar://b:6650/x" goes on after the port; leave out "/x""#),
            ("pulsar://a:1,b:2", r#""pulsar://a:1,b:2" holds several addresses; write one URL for each"#),
            ("pulsar://me:s3cret@b:1", "names a user; write pulsar://host:port and give the token as token_file"),
        ] {
            assert_eq!(ServiceUrl.text(text), Err(answer.to_owned()));
        }
    }
}
