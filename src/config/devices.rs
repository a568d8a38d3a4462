//! The sections of `edge.toml` about devices: `[mqtt]`, `[tls]`, `[identity]`, `[[mapping]]`, `[[bridge]]`, `[commands]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::kinds::{Address, Choice, Count, FilePath, Flag, List, Optional, OrOff, SecretText, Size, Text, Time};
use super::names::{LANE_NAME, TopicFilter};
use super::secret::Secret;
use super::table::{key, section};
use super::urls::MqttUrl;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

section! {
    /// `[mqtt]`: the MQTT way in (3.1.1 and 5.0), and the site's own messaging.
    "mqtt" => Mqtt {
        /// Address and port for plain TCP, or "off".
        listen: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 1883))), key(OrOff(Address));
        /// Address and port for TLS, with the certificate of `[tls]`.
        tls_listen: Option<SocketAddr> = None, key(OrOff(Address)).default_note("\"off\"").example("\"0.0.0.0:8883\"");
        /// Address and port for WebSocket, on any path.
        ws_listen: Option<SocketAddr> = None, key(OrOff(Address)).default_note("\"off\"").example("\"127.0.0.1:9001\"");
        /// Address and port for WebSocket over TLS.
        wss_listen: Option<SocketAddr> = None, key(OrOff(Address)).default_note("\"off\"").example("\"0.0.0.0:9443\"");
        /// Most connections at once, over all of these; further ones wait in the kernel's queue.
        max_connections: usize = 10_240, key(Count(1, 1_000_000));
        /// Time for TLS, the WebSocket upgrade and CONNECT to arrive.
        connect_timeout: Duration = Duration::from_secs(10), key(Time(Duration::from_millis(100), DAY));
        /// Longest keep-alive; a client that asks for more, or for none, is told to use this (5.0).
        keep_alive_max: Duration = Duration::from_secs(600), key(Time(SECOND, Duration::from_secs(65_535)));
        /// Largest packet, in bytes.
        max_packet: u64 = MIB, key(Size(KIB, 16 * MIB));
        /// Most messages with QoS 1 and 2 that a client may have under way to us.
        receive_max: u16 = 100, key(Count(1, 65_535));
        /// Most topic aliases per client and direction.
        topic_alias_max: u16 = 16, key(Count(0, 65_535));
        /// Longest time that a session outlives its connection.
        session_expiry_max: Duration = Duration::from_secs(7 * 86_400), key(Time(Duration::ZERO, DAY * 3650));
        /// Most sessions, with and without a connection. For one more the longest absent of the identity with the most ends.
        max_sessions: usize = 20_480, key(Count(1, 1_000_000));
        /// Most subscriptions per session.
        max_subscriptions: usize = 100, key(Count(1, 100_000));
        /// Most messages that wait in one session.
        max_queued: usize = 1000, key(Count(1, 65_535));
        /// Most bytes that wait in one session.
        max_queued_bytes: u64 = MIB, key(Size(KIB, GIB));
        /// Most bytes that wait in all sessions together, beyond 8 KiB for each connection. On disk sessions take up to four times
        /// this, those 8 KiB, `max_retained_bytes`, 1 KiB for each of `max_sessions`, and 16 MiB; `tidegate check` says how much that is.
        max_total_bytes: u64 = 64 * MIB, key(Size(64 * KIB, 64 * GIB));
        /// Most retained messages.
        max_retained: usize = 10_000, key(Count(0, 10_000_000));
        /// Most bytes of retained messages.
        max_retained_bytes: u64 = 16 * MIB, key(Size(0, 64 * GIB));
        /// What happens to a message on a topic that no `[[mapping]]` and no lane's `mqtt` names: "upstream" or "local".
        unmapped: Unmapped = Unmapped::Upstream,
            key(Choice(&[("upstream", Unmapped::Upstream), ("local", Unmapped::Local)]));
        /// Topic on which events that came by HTTP are published to local subscribers; {device} and {type} are filled in.
        http_topic: Option<String> = None, key(Optional(Text(1024))).example("\"http/{device}/{type}\"");
        /// How often the $SYS topics are published; 0: never.
        sys_interval: Duration = Duration::from_secs(10), key(Time(Duration::ZERO, DAY));
    }
}

/// What a client with a connection may have waiting whatever the others do. Some fifty small messages, or a command.
pub const CONNECTION_BYTES: u64 = 8 * KIB;

/// What a session may have besides messages that wait, whatever the others do: its names, two or three filters, a small will.
pub const SESSION_BYTES: u64 = KIB;

/// What all sessions may have beyond that: more filters, large wills, exchanges of QoS 2 that are not released, topic aliases.
pub const SESSIONS_BYTES: u64 = 16 * MIB;

/// Disk space of the MQTT journal for each byte that is alive, at most: it must fit into a third of it, and leave a quarter of that
/// for what changes while it is written anew.
const DISK_FACTOR: u64 = 4;

impl Mqtt {
    /// Most bytes of what the MQTT way in keeps over a restart.
    pub fn alive_bytes_max(&self) -> u64 {
        let connections = CONNECTION_BYTES.saturating_mul(self.max_connections as u64);
        let sessions = SESSION_BYTES.saturating_mul(self.max_sessions as u64).saturating_add(SESSIONS_BYTES);
        // One message that is larger than the rest gets through.
        let queues = self.max_total_bytes.max(self.max_packet);
        let parts = [queues, self.max_retained_bytes, connections, sessions];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// Most bytes that it takes on disk.
    pub fn disk_bytes_max(&self) -> u64 {
        self.alive_bytes_max().saturating_mul(DISK_FACTOR)
    }
}

/// Where messages go that no mapping names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmapped {
    /// To Pulsar.
    Upstream,
    /// To local subscribers only.
    Local,
}

section! {
    /// `[tls]`: the certificate that devices see. Replaced files take effect within seconds, without a restart.
    "tls" => Tls {
        /// PEM file with the certificate and those between it and its authority. `tidegate keys` makes a first one.
        certificate_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/tls/server.pem\"");
        /// PEM file with its private key.
        key_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/tls/server.key\"");
        /// PEM file with the authorities that devices' certificates come from.
        client_ca_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/tls/devices-ca.pem\"");
        /// Whether devices show a certificate: "off", "optional", "required".
        client_certificates: ClientCertificates = ClientCertificates::Off,
            key(Choice(&[
                ("off", ClientCertificates::Off),
                ("optional", ClientCertificates::Optional),
                ("required", ClientCertificates::Required),
            ]));
        /// Oldest version that is spoken.
        min_version: TlsVersion = TlsVersion::V12, key(Choice(&[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)]));
    }
}

/// Whether devices show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in the configuration
pub enum ClientCertificates {
    Off,
    Optional,
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in the configuration
pub enum TlsVersion {
    V12,
    V13,
}

section! {
    /// `[identity]`: who may come in, by HTTP and MQTT alike, and what each may do.
    "identity" => Identity {
        /// "open": everybody may do what `publish` and `subscribe` allow, for a closed network; "required": only who is known.
        /// Must be set when anything listens on an address that other machines reach.
        mode: Option<IdentityMode> = None,
            key(Optional(Choice(&[("open", IdentityMode::Open), ("required", IdentityMode::Required)])))
                .default_note("\"open\" while everything listens on this machine only").example("\"required\"");
        /// File with the devices: names, hashed tokens and passwords, certificates, rights. Read again when it changes.
        /// `tidegate devices` writes it.
        devices_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/devices.toml\"");
        /// PEM file with the public key that JSON web tokens are signed with (RS256, ES256, EdDSA).
        jwt_key_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/jwt.pem\"");
        /// Issuer that a token must name.
        jwt_issuer: Option<String> = None, key(Optional(Text(1024))).example("\"https://id.example.com\"");
        /// Audience that a token must name.
        jwt_audience: Option<String> = None, key(Optional(Text(1024))).example("\"tidegate\"");
        /// Claim that names the device.
        jwt_claim: String = "sub".into(), key(Text(64));
        /// What of a client certificate names the device: its first DNS name, its first URI, or the common name.
        certificate_name: CertificateName = CertificateName::CommonName,
            key(Choice(&[
                ("common-name", CertificateName::CommonName),
                ("dns", CertificateName::Dns),
                ("uri", CertificateName::Uri),
            ]));
        /// Topics a device may publish to unless the devices file says otherwise; {device} is its name. In open mode: "#".
        /// Topics of commands and configurations are the gateway's and operators' in any case.
        publish: Vec<String> = vec!["devices/{device}/#".into()], key(List(TopicFilter, 64));
        /// Topics a device may subscribe to unless the devices file says otherwise. In open mode: "#".
        subscribe: Vec<String> = vec!["devices/{device}/#".into(), "site/#".into()], key(List(TopicFilter, 64));
        /// Topics that nobody may subscribe to, also in open mode. Wider filters are taken and get nothing from these.
        deny_subscribe: Vec<String> = Vec::new(), key(List(TopicFilter, 64)).example("[\"secret/#\"]");
        /// Most connections of one device at once, HTTP and MQTT together.
        max_connections: usize = 16, key(Count(1, 1_000_000));
        /// Most events a second of one device; 0: no limit. Beyond it: 429 by HTTP; by MQTT the gateway reads no faster, and
        /// tells clients of 5.0 (0x97) what would wait for more than 2 s.
        max_events: u64 = 0, key(Count(0, 10_000_000));
        /// Most bytes a second of one device; 0: no limit.
        max_bytes: u64 = 0, key(Size(0, 64 * GIB));
        /// Most events a second of all devices together; 0: no limit.
        total_events: u64 = 0, key(Count(0, 10_000_000));
        /// Most bytes a second of all devices together; 0: no limit.
        total_bytes: u64 = 0, key(Size(0, 64 * GIB));
        /// Failed attempts of one address after which it must wait; each further one doubles the wait, up to `lockout_max`.
        lockout_after: u32 = 5, key(Count(1, 1000));
        /// Longest wait of an address after failed attempts.
        lockout_max: Duration = Duration::from_secs(300), key(Time(SECOND, DAY));
        /// Most disk space for the log of refusals (node.data_dir/audit), in bytes.
        audit_bytes: u64 = 4 * MIB, key(Size(64 * KIB, GIB));
    }
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityMode {
    /// Everybody.
    Open,
    /// Only who shows a credential.
    Required,
}

/// Which part of a certificate names the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in the configuration
pub enum CertificateName {
    CommonName,
    Dns,
    Uri,
}

section! {
    /// `[[mapping]]`: what becomes of messages on some topics, from MQTT and bridges alike. The first that matches a topic counts.
    "mapping" => Mapping {
        /// Topic filter; a level may be named, such as {device}: it matches like +, and the name can be used below.
        topic: String = "#".into(), key(TopicFilter).required().example("\"plants/{plant}/{device}/telemetry\"");
        /// false: for local subscribers only.
        upstream: bool = true, key(Flag);
        /// Lane; by default the one whose `mqtt` or `types` match.
        lane: Option<String> = None, key(Optional(LANE_NAME)).example("\"telemetry\"");
        /// Type of the event; {names} of the topic are filled in, {topic} is all of it with "." for "/", {client} the client id
        /// or the bridge's name.
        r#type: Option<String> = None, key(Optional(Text(1024))).default_note("mqtt.message").example("\"telemetry\"");
        /// Subject of the event, which keeps events in order; by default {device} if the topic names it, else the
        /// device that sent it, else the topic.
        subject: Option<String> = None, key(Optional(Text(1024))).example("\"{plant}.{device}\"");
        /// Content type of the payload where the message (5.0) does not name one.
        content_type: Option<String> = None, key(Optional(Text(256))).example("\"application/json\"");
        /// "data": the payload is the event's data; "cloudevents": it is a CloudEvent in JSON, as the content type
        /// application/cloudevents+json says anyway.
        payload: Payload = Payload::Data, key(Choice(&[("data", Payload::Data), ("cloudevents", Payload::CloudEvents)]));
    }
}

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The event's data.
    Data,
    /// A structured CloudEvent.
    CloudEvents,
}

section! {
    /// `[[bridge]]`: an existing MQTT broker whose messages are taken like those of our own clients.
    "bridge" => Bridge {
        /// 1 to 32 lower-case letters, digits, `-`.
        name: String = "bridge".into(), key(LANE_NAME).required().example("\"old-broker\"");
        /// `mqtt://host:port` or `mqtts://host:port`.
        url: String = "mqtt://127.0.0.1:1883".into(), key(MqttUrl).required().example("\"mqtt://192.168.1.5:1883\"");
        /// Topics to subscribe to there.
        topics: Vec<String> = vec!["#".into()], key(List(TopicFilter, 64));
        /// Highest quality of service of the subscriptions. With 2 nothing comes twice while this gateway runs; after a
        /// power cut or a kill some may, as with 1.
        qos: u8 = 1, key(Count(1, 2));
        /// Protocol version.
        version: BridgeVersion = BridgeVersion::V311,
            key(Choice(&[("3.1.1", BridgeVersion::V311), ("5.0", BridgeVersion::V5)]));
        /// Client id there; must not change, or what that broker keeps for us is lost.
        client_id: Option<String> = None, key(Optional(Text(256))).default_note("tidegate-{node.id}-{name}").example("\"tidegate-press-7\"");
        /// User name.
        user_name: Option<String> = None, key(Optional(Text(1024))).example("\"tidegate\"");
        /// Password. Prefer `password_file`.
        password: Option<Secret> = None, key(Optional(SecretText)).example("\"…\"");
        /// File with the password; read at every connect.
        password_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/bridge-password\"");
        /// PEM file with the authorities to trust for `mqtts://`, instead of the public ones.
        ca_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/bridge-ca.pem\"");
        /// PEM file with our certificate for that broker.
        certificate_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/bridge.pem\"");
        /// PEM file with its private key.
        key_file: Option<PathBuf> = None, key(Optional(FilePath)).example("\"/etc/tidegate/bridge.key\"");
        /// Keep-alive.
        keep_alive: Duration = Duration::from_secs(30), key(Time(Duration::from_secs(5), Duration::from_secs(65_535)));
        /// Most messages taken and not yet on disk.
        in_flight: u16 = 100, key(Count(1, 65_535));
        /// Also publish what comes from there to our own subscribers. If that broker has a bridge to us that speaks 5.0, set
        /// `version` to 5.0 as well, or messages go round.
        local: bool = false, key(Flag);
    }
}

/// Protocol version of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in the configuration
pub enum BridgeVersion {
    V311,
    V5,
}

section! {
    /// `[commands]`: commands and configuration for devices, which wait here until the device takes them.
    "commands" => Commands {
        /// Topic of a device's commands; below it one topic per command.
        topic: String = "devices/{device}/commands".into(), key(TopicFilter);
        /// Topic on which a device's configuration is retained.
        config_topic: String = "devices/{device}/config".into(), key(TopicFilter);
        /// Most commands that wait for one device.
        max_waiting: usize = 100, key(Count(1, 10_000));
        /// Most bytes that wait for all devices together. On disk (node.data_dir/commands) up to six times as much.
        max_bytes: u64 = 16 * MIB, key(Size(64 * KIB, GIB));
        /// Largest command, in bytes.
        max_command: u64 = 64 * KIB, key(Size(KIB, 4 * MIB));
        /// How long a command waits unless it says otherwise.
        expiry: Duration = Duration::from_secs(7 * 86_400), key(Time(SECOND, DAY * 3650));
        /// Longest wait of a long poll.
        max_wait: Duration = Duration::from_secs(60), key(Time(SECOND, Duration::from_secs(3600)));
    }
}
