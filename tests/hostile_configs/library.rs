//! The hostile configurations: what is pushed, and what must become of it.

use tidegate::downlink::artefact::{Assignment, Envelope, Keyring, Kind, Message, SecretKey};

use crate::places::Places;
use crate::support::broker::Broker;
use crate::support::central::{Keys, assignment, document_envelope, in_seconds, key, versioned};

/// What is pushed as `number`.
pub enum Push {
    /// A document, signed and assigned as it should be.
    Document(fn(&Places) -> String),
    /// Any bytes.
    Message(fn(&Maker<'_>) -> String),
    /// Two messages, one right after the other; the second has the next number.
    Two(fn(&Maker<'_>) -> [String; 2]),
}

/// What must become of it, and be reported.
#[derive(Clone, Copy, Debug)]
pub enum Becomes {
    /// It is no offer: `refused` with this code.
    Refused(&'static str),
    /// It is an offer that does not fit this gateway: `invalid`, and these words in the detail.
    Rejected(&'static str),
    /// It is tried, and this is the reason in the end: `committed`, or what it is undone for. More than one where it depends
    /// on how fast this machine is.
    Tried(&'static [&'static str]),
    /// Nothing: it was taken before.
    Nothing,
}

/// One of the library.
pub struct Entry {
    pub name: &'static str,
    pub push: Push,
    pub becomes: Becomes,
    /// It says that messages of devices are not for the cloud, or may come twice: then nobody misses them there.
    pub swallows: bool,
}

/// Makes messages.
pub struct Maker<'m> {
    pub keys: &'m Keys,
    pub node: &'m str,
    /// Its own MQTT listener.
    pub mqtt: std::net::SocketAddr,
    /// Of the assignment.
    pub number: u64,
    /// The message that was committed last.
    pub last: &'m str,
    /// Its number.
    pub last_number: u64,
}

/// Trusted, and revoked.
pub fn retired() -> SecretKey {
    key(7)
}

const HARMLESS: &str = "[uplink]\nbatch_events = 77\n";

impl Maker<'_> {
    fn text(&self) -> String {
        versioned(HARMLESS, self.number)
    }

    fn document(&self, text: &str) -> Envelope {
        document_envelope(text).signed_by(&self.keys.artefact)
    }

    fn assigned(&self, text: &str) -> Assignment {
        assignment(self.node, self.number, Some(text))
    }

    fn sign(&self, assignment: &Assignment) -> Envelope {
        assignment.to_envelope().signed_by(&self.keys.controller)
    }

    /// `text` as it should be pushed, whatever is in it.
    pub fn message(&self, text: &str) -> String {
        with(self.sign(&self.assigned(text)), Some(self.document(text)))
    }

    /// The same, and `change` made to the assignment.
    fn assigning(&self, change: impl FnOnce(&mut Assignment)) -> String {
        let text = self.text();
        let mut assignment = self.assigned(&text);
        change(&mut assignment);
        with(self.sign(&assignment), Some(self.document(&text)))
    }

    /// The same with the envelope of the document given.
    fn enclosing(&self, document: Option<Envelope>) -> String {
        with(self.sign(&self.assigned(&self.text())), document)
    }

    /// The same with the envelope of the assignment given.
    fn assigned_by(&self, sign: impl FnOnce(Envelope) -> Envelope) -> String {
        let text = self.text();
        with(sign(self.assigned(&text).to_envelope()), Some(self.document(&text)))
    }

    /// A document of any bytes.
    fn bytes(&self, bytes: Vec<u8>) -> String {
        let mut assignment = self.assigned("");
        if let Some(document) = &mut assignment.document {
            document.sha256 = tidegate::downlink::artefact::Digest::of(&bytes);
        }
        with(self.sign(&assignment), Some(Envelope::new(Kind::Config, bytes).signed_by(&self.keys.artefact)))
    }
}

fn with(assignment: Envelope, document: Option<Envelope>) -> String {
    Message { keyring: None, assignment, document }.encode()
}

fn uplink(url: &str) -> String {
    format!("[uplink]\npulsar = [\"{url}\"]\n")
}

fn both(one: &Broker, other: &Broker) -> String {
    format!("[uplink]\npulsar = [\"{}\", \"{}\"]\n", one.service_url(), other.service_url())
}

fn tls(url: &str, ca: &std::path::Path) -> String {
    format!("[uplink]\npulsar = [\"{url}\"]\nca_file = {ca:?}\n")
}

const NOT_CONNECTED: Becomes = Becomes::Tried(&["not-connected"]);
const NOT_ACKNOWLEDGED: Becomes = Becomes::Tried(&["not-acknowledged"]);
const COMMITTED: Becomes = Becomes::Tried(&["committed"]);
/// Whichever cluster is looked at first.
const EITHER: Becomes = Becomes::Tried(&["committed", "not-connected"]);

fn document(name: &'static str, text: fn(&Places) -> String, becomes: Becomes) -> Entry {
    Entry { name, push: Push::Document(text), becomes, swallows: false }
}

fn message(name: &'static str, make: fn(&Maker<'_>) -> String, becomes: Becomes) -> Entry {
    Entry { name, push: Push::Message(make), becomes, swallows: false }
}

/// All of them. What takes longest comes first.
pub fn all() -> Vec<Entry> {
    [
        unreachable(),
        credentials(),
        lanes(),
        limits(),
        doors(),
        ways_in(),
        own(),
        texts(),
        signatures(),
        numbers(),
        pairs(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Another Pulsar, or none.
fn unreachable() -> Vec<Entry> {
    vec![
        document("wrong-port", |_| uplink("pulsar://127.0.0.1:9"), NOT_CONNECTED),
        document("black-hole", |p| uplink(&p.black_hole), NOT_CONNECTED),
        document("mute-host", |p| uplink(&p.mute), NOT_CONNECTED),
        document("dead-dns", |_| uplink("pulsar://no-such-host.invalid:6650"), NOT_CONNECTED),
        document("not-pulsar", |p| uplink(&p.broker.admin_url().replace("http", "pulsar")), NOT_CONNECTED),
        document("other-cluster", |p| uplink(&p.other_cluster.service_url()), NOT_CONNECTED),
        document(
            "other-cluster-by-name",
            |p| uplink(&p.other_cluster.service_url()) + "cluster = \"b\"\n",
            NOT_CONNECTED,
        ),
        document("tls-at-plain-port", |p| tls(&p.tls_at_plain_port(), &p.ca()), NOT_CONNECTED),
        document("plain-at-tls-port", |p| uplink(&p.plain_at_tls_port()), NOT_CONNECTED),
        document("no-address", |_| "[uplink]\npulsar = []\n".into(), Becomes::Rejected("could never be reached again")),
        document("no-url", |_| uplink("broker:6650"), Becomes::Rejected("pulsar")),
        document("right-and-other-cluster", |p| both(&p.broker, &p.other_cluster), EITHER),
        document("other-cluster-and-right", |p| both(&p.other_cluster, &p.broker), EITHER),
        document(
            "dead-and-alive",
            |p| format!("[uplink]\npulsar = [\"pulsar://127.0.0.1:9\", \"{}\"]\n", p.broker.service_url()),
            COMMITTED,
        ),
    ]
}

const REFUSED_KEY: Becomes = Becomes::Rejected("is the gateway's own");

/// Certificates and tokens.
fn credentials() -> Vec<Entry> {
    vec![
        document("wrong-ca", |p| tls(&p.broker.tls_url(), &p.file("other/ca.pem")), NOT_CONNECTED),
        document("public-authorities", |p| uplink(&p.broker.tls_url()), NOT_CONNECTED),
        document(
            "certificate-of-another-host",
            |p| tls(&p.broker.tls_url().replace("localhost", "127.0.0.1"), &p.ca()),
            NOT_CONNECTED,
        ),
        document("right-ca", |p| tls(&p.broker.tls_url(), &p.ca()), COMMITTED),
        document(
            "ca-file-missing",
            |p| tls(&p.broker.tls_url(), &p.file("nowhere.pem")),
            Becomes::Rejected("cannot be read"),
        ),
        document(
            "ca-file-empty-of-certificates",
            |p| tls(&p.broker.tls_url(), &p.file("no.pem")),
            Becomes::Rejected("holds no certificate"),
        ),
        document(
            "token-file-missing",
            |p| format!("[uplink]\ntoken_file = {:?}\n", p.file("nowhere.token")),
            NOT_CONNECTED,
        ),
        document(
            "token-file-empty",
            |p| format!("[uplink]\ntoken_file = {:?}\n", p.file("empty.token")),
            NOT_CONNECTED,
        ),
        document("token-garbage", |_| "[uplink]\ntoken = \"not.a.token\"\n".into(), NOT_CONNECTED),
        document("token-expired", |p| format!("[uplink]\ntoken = \"{}\"\n", p.token(-3600)), NOT_CONNECTED),
        document(
            "token-of-another-signer",
            |p| format!("[uplink]\ntoken = \"{}\"\n", p.foreign_token()),
            NOT_CONNECTED,
        ),
        document("token-right", |p| format!("[uplink]\ntoken = \"{}\"\n", p.token(36_000)), COMMITTED),
    ]
}

fn lanes() -> Vec<Entry> {
    vec![
        document("lane-renamed", |_| "[[lane]]\nname = \"renamed\"\n".into(), NOT_ACKNOWLEDGED),
        document(
            "lane-without-topic",
            |_| "[[lane]]\nname = \"nowhere\"\ntypes = [\"read*\"]\n[[lane]]\nname = \"telemetry\"\n".into(),
            NOT_ACKNOWLEDGED,
        ),
        document(
            "lane-for-mqtt-without-topic",
            |_| "[[lane]]\nname = \"nowhere\"\nmqtt = [\"#\"]\n[[lane]]\nname = \"telemetry\"\n".into(),
            NOT_ACKNOWLEDGED,
        ),
        document(
            "lane-split-in-two",
            |_| "[[lane]]\nname = \"alarms\"\ntypes = [\"reading\"]\n[[lane]]\nname = \"telemetry\"\n".into(),
            COMMITTED,
        ),
        document(
            "lanes-beyond-number",
            |_| {
                (0..200).map(|n| format!("[[lane]]\nname = \"l{n}\"\ntypes = [\"t{n}\"]\n")).collect::<String>()
                    + "[[lane]]\nname = \"telemetry\"\n"
            },
            Becomes::Rejected("at most 32"),
        ),
        document(
            "lanes-of-one-name",
            |_| "[[lane]]\nname = \"telemetry\"\ntypes = [\"a\"]\n[[lane]]\nname = \"telemetry\"\n".into(),
            Becomes::Rejected("is the name of an earlier"),
        ),
        document(
            "lanes-that-both-take-everything",
            |_| "[[lane]]\nname = \"telemetry\"\n[[lane]]\nname = \"alarms\"\n".into(),
            Becomes::Rejected("can never match"),
        ),
        document(
            "no-lane-for-the-rest",
            |_| "[[lane]]\nname = \"telemetry\"\ntypes = [\"a\"]\n".into(),
            Becomes::Rejected("no lane takes what the others leave"),
        ),
        document("lane-is-no-table", |_| "lane = 7\n".into(), Becomes::Rejected("lane")),
    ]
}

/// Numbers at their end or beyond it.
fn limits() -> Vec<Entry> {
    vec![
        document("batch-of-one-event", |_| "[uplink]\nbatch_events = 1\n".into(), COMMITTED),
        document("batch-of-a-kibibyte", |_| "[uplink]\nbatch_bytes = \"1KiB\"\n".into(), COMMITTED),
        document(
            "batch-of-one-byte",
            |_| "[uplink]\nbatch_bytes = 1\n".into(),
            Becomes::Rejected("uplink.batch_bytes"),
        ),
        document("window-of-one", |_| "[uplink]\nwindow = 1\n".into(), Becomes::Rejected("uplink.window")),
        document(
            "receipts-within-a-second",
            |_| "[uplink]\nreceipt_timeout = \"1s\"\n".into(),
            Becomes::Tried(&["committed", "not-acknowledged"]),
        ),
        document(
            "receipts-at-once",
            |_| "[uplink]\nreceipt_timeout = \"0s\"\n".into(),
            Becomes::Rejected("uplink.receipt_timeout"),
        ),
        document(
            "connected-within-100-ms",
            |_| "[uplink]\nconnect_timeout = \"100ms\"\n".into(),
            Becomes::Tried(&["committed", "not-connected", "not-acknowledged"]),
        ),
        document("tried-again-after-an-hour", |_| "[uplink]\nretry_max = \"1h\"\n".into(), COMMITTED),
        document("compressed", |_| "[uplink]\ncompression = \"zstd\"\n".into(), COMMITTED),
        document("byte-budget-of-1", |_| "[outbox]\nmax_bytes = 1\n".into(), Becomes::Rejected("outbox.max_bytes")),
        document("events-of-one-byte", |_| "[outbox]\nmax_event = 1\n".into(), Becomes::Rejected("outbox.max_event")),
        document(
            "cluster-renamed",
            |_| "[uplink]\ncluster = \"elsewhere\"\n".into(),
            Becomes::Rejected("arrive twice"),
        ),
        document("level-trace", |_| "[log]\nlevel = \"trace\"\n".into(), COMMITTED),
        document("level-of-nothing", |_| "[log]\nlevel = \"a=b=c\"\n".into(), Becomes::Rejected("log.level")),
        document(
            "overflow",
            |_| "[uplink]\nbatch_events = 18446744073709551616\n".into(),
            Becomes::Rejected("out of range"),
        ),
    ]
}

/// What devices may do, and where it goes.
fn ways_in() -> Vec<Entry> {
    let swallows = |entry| Entry { swallows: true, ..entry };
    vec![
        // QoS 2 is exactly once within a session.
        swallows(document("sessions-end-at-once", |_| "[mqtt]\nsession_expiry_max = \"0s\"\n".into(), COMMITTED)),
        swallows(document(
            "mapping-swallows-everything",
            |_| "[[mapping]]\ntopic = \"#\"\nupstream = false\n".into(),
            COMMITTED,
        )),
        swallows(document("unmapped-stays-here", |_| "[mqtt]\nunmapped = \"local\"\n".into(), COMMITTED)),
        document(
            "mapping-swallows-and-wrong-port",
            |_| uplink("pulsar://127.0.0.1:9") + "[[mapping]]\ntopic = \"#\"\nupstream = false\n",
            NOT_CONNECTED,
        ),
        document(
            "mapping-to-no-lane",
            |_| "[[mapping]]\ntopic = \"#\"\nlane = \"nowhere\"\n".into(),
            Becomes::Rejected("nowhere"),
        ),
        document(
            "bridge-to-nowhere",
            |_| "[[bridge]]\nname = \"old\"\nurl = \"mqtt://127.0.0.1:9\"\ntopics = [\"#\"]\n".into(),
            COMMITTED,
        ),
        document(
            "bridge-to-a-mute-host",
            |p| format!("[[bridge]]\nname = \"old\"\nurl = \"mqtt://{}\"\ntopics = [\"#\"]\n", p.taken),
            COMMITTED,
        ),
        message(
            "bridge-to-itself",
            |m| {
                let url = format!("mqtt://{}", m.mqtt);
                let bridge = format!("[[bridge]]\nname = \"me\"\nurl = \"{url}\"\ntopics = [\"#\"]\nlocal = true\n");
                m.message(&versioned(&bridge, m.number))
            },
            Becomes::Rejected("this gateway's own mqtt.listen"),
        ),
    ]
}

/// Limits and rules of the ways in: devices may be refused by them, and wait; the gateway is not stranded.
fn doors() -> Vec<Entry> {
    // After a kill near the end of the time nobody may have come to be refused.
    const SHUT: Becomes = Becomes::Tried(&["unhealthy", "committed"]);
    const RESTART: Becomes = Becomes::Rejected("without a restart");
    vec![
        document("rate-of-0", |_| "[identity]\nmax_events = 0\ntotal_events = 0\n".into(), COMMITTED),
        document("rate-of-1", |_| "[identity]\nmax_events = 1\ntotal_events = 1\n".into(), COMMITTED),
        document("one-byte-a-second", |_| "[identity]\nmax_bytes = \"1B\"\ntotal_bytes = \"1B\"\n".into(), SHUT),
        document("one-connection", |_| "[identity]\nmax_connections = 1\n".into(), COMMITTED),
        document(
            "refuses-every-device",
            |p| format!("[identity]\nmode = \"required\"\ndevices_file = {:?}\n", p.file("nobody.toml")),
            SHUT,
        ),
        document(
            "refuses-every-topic",
            |_| "[identity]\npublish = []\nsubscribe = []\ndeny_subscribe = [\"#\"]\n".into(),
            COMMITTED,
        ),
        document(
            "devices-file-missing",
            |p| format!("[identity]\nmode = \"required\"\ndevices_file = {:?}\n", p.file("nowhere.toml")),
            Becomes::Rejected("nowhere.toml"),
        ),
        document(
            "key-of-tokens-missing",
            |p| format!("[identity]\nmode = \"required\"\njwt_key_file = {:?}\n", p.file("nowhere.pem")),
            Becomes::Rejected("nowhere.pem"),
        ),
        document("byte-budget-at-its-minimum", |_| "[outbox]\nmax_bytes = \"16MiB\"\n".into(), COMMITTED),
        document(
            "bodies-of-a-kibibyte",
            |_| {
                "[http]\nmax_body = \"1KiB\"\nmax_inflated = \"1KiB\"\nmax_batch = 1\nbody_timeout = \"100ms\"\nheader_timeout = \"100ms\"\n".into()
            },
            COMMITTED,
        ),
        document(
            "sessions-of-one",
            |_| {
                "[mqtt]\nmax_sessions = 1\nmax_subscriptions = 1\nmax_queued = 1\nmax_queued_bytes = \"1KiB\"\nmax_retained = 0\nkeep_alive_max = \"1s\"\n".into()
            },
            COMMITTED,
        ),
        document("events-of-a-kibibyte", |_| "[outbox]\nmax_event = \"1KiB\"\n".into(), RESTART),
        document("forgets-at-once", |_| "[outbox]\ndedup_window = \"0s\"\n".into(), RESTART),
        document("not-on-disk", |_| "[outbox]\ndurability = \"os\"\n".into(), RESTART),
        document("one-message-under-way", |_| "[mqtt]\nreceive_max = 1\n".into(), RESTART),
    ]
}

/// What is the gateway's own.
fn own() -> Vec<Entry> {
    vec![
        document("another-tenant", |_| "[uplink]\ntenant = \"elsewhere\"\n".into(), REFUSED_KEY),
        document("another-node", |_| "[node]\nid = \"elsewhere\"\n".into(), REFUSED_KEY),
        document("another-data-directory", |_| "[node]\ndata_dir = \"/tmp/elsewhere\"\n".into(), REFUSED_KEY),
        document(
            "own-keys-revoked",
            |_| format!("[downlink]\nrevoked = [\"{}\"]\n", key(3).public().id()),
            REFUSED_KEY,
        ),
        document("no-keys-at-all", |_| "[downlink]\ncontroller_keys = []\n".into(), REFUSED_KEY),
        document("confirm-for-ever", |_| "[downlink]\nconfirm = \"1h\"\n".into(), REFUSED_KEY),
        document("health-command", |_| "[downlink]\nhealth_command = [\"/bin/sh\"]\n".into(), REFUSED_KEY),
        document("port-in-use", |p| format!("[http]\nlisten = \"{}\"\n", p.taken), REFUSED_KEY),
        document("mqtt-off", |_| "[mqtt]\nlisten = \"off\"\n".into(), REFUSED_KEY),
    ]
}

const UNREADABLE: &str = "document-unreadable";

/// Documents that are no documents.
fn texts() -> Vec<Entry> {
    vec![
        document("unknown-key", |_| "[uplink]\nretry_mux = \"1s\"\n".into(), Becomes::Rejected("retry_mux")),
        document("unknown-section", |_| "[uplunk]\nretry_max = \"1s\"\n".into(), Becomes::Rejected("uplunk")),
        document("wrong-type", |_| "[uplink]\nbatch_events = \"many\"\n".into(), Becomes::Rejected("batch_events")),
        document("section-is-a-number", |_| "uplink = 7\n".into(), Becomes::Rejected("uplink")),
        document("sets-nothing", |_| String::new(), COMMITTED),
        document(
            "larger-than-a-document",
            |_| format!("# {}\n", "x".repeat(520 * 1024)),
            Becomes::Refused("malformed"),
        ),
        document("syntax-error", |_| "[uplink\npulsar = [".into(), Becomes::Refused(UNREADABLE)),
        document(
            "a-key-twice",
            |_| "[uplink]\nbatch_events = 1\nbatch_events = 2\n".into(),
            Becomes::Refused(UNREADABLE),
        ),
        document("a-section-twice", |_| "[uplink]\n[uplink]\n".into(), Becomes::Refused(UNREADABLE)),
        document(
            "nested-deeply",
            |_| format!("x = {}{}\n", "[".repeat(20_000), "]".repeat(20_000)),
            Becomes::Refused(UNREADABLE),
        ),
        message("empty-document", |m| m.message(""), Becomes::Refused(UNREADABLE)),
        message(
            "not-utf-8",
            |m| m.bytes(format!("# {}\u{0}", m.number).into_bytes().into_iter().chain([0xff]).collect()),
            Becomes::Refused(UNREADABLE),
        ),
        message("not-toml-but-json", |m| m.message("{\"uplink\":{\"pulsar\":[]}}"), Becomes::Refused(UNREADABLE)),
    ]
}

/// What nobody may sign.
fn signatures() -> Vec<Entry> {
    vec![
        message("no-message", |m| format!("assignment {} or so", m.number), Becomes::Refused("no-message")),
        message(
            "message-cut-in-half",
            |m| m.message(&m.text()).split_at(300).0.to_owned(),
            Becomes::Refused("no-message"),
        ),
        message("two-mebibytes", |m| "x".repeat((2 << 20) + m.number as usize), Becomes::Refused("too-large")),
        message(
            "document-by-a-stranger",
            |m| m.enclosing(Some(document_envelope(&m.text()).signed_by(&key(9)))),
            Becomes::Refused("unknown-key"),
        ),
        message(
            "document-by-a-revoked-key",
            |m| m.enclosing(Some(document_envelope(&m.text()).signed_by(&retired()))),
            Becomes::Refused("revoked-key"),
        ),
        message(
            "document-by-the-controller",
            |m| m.enclosing(Some(document_envelope(&m.text()).signed_by(&m.keys.controller))),
            Becomes::Refused("wrong-role"),
        ),
        message("document-unsigned", |m| m.enclosing(Some(document_envelope(&m.text()))), Becomes::Refused("unsigned")),
        message(
            "assignment-by-a-stranger",
            |m| m.assigned_by(|a| a.signed_by(&key(9))),
            Becomes::Refused("unknown-key"),
        ),
        message(
            "assignment-by-the-author",
            |m| m.assigned_by(|a| a.signed_by(&m.keys.artefact)),
            Becomes::Refused("wrong-role"),
        ),
        message("assignment-unsigned", |m| m.assigned_by(|a| a), Becomes::Refused("unsigned")),
        message("altered-after-signing", altered, Becomes::Refused("bad-signature")),
        message(
            "document-in-the-assignment's-place",
            |m| with(m.document(&m.text()), Some(m.document(&m.text()))),
            Becomes::Refused("wrong-type"),
        ),
        message("keyring-by-a-stranger", keyring_by_a_stranger, COMMITTED),
    ]
}

fn altered(m: &Maker<'_>) -> String {
    let assigned = m.assigned(&m.text());
    let mut other = assigned.clone();
    other.reason = "another".to_owned();
    let other: serde_json::Value = serde_json::from_str(&m.sign(&other).encode()).unwrap();
    let mut message: serde_json::Value = serde_json::from_str(&m.message(&m.text())).unwrap();
    message["assignment"]["payload"] = other["payload"].clone();
    message.to_string()
}

/// It would take the controller's key away. The rest of the message is in order.
fn keyring_by_a_stranger(m: &Maker<'_>) -> String {
    let keyring = Keyring {
        version: m.number,
        epoch: 0,
        issued_at: in_seconds(0),
        artefact_keys: Vec::new(),
        controller_keys: Vec::new(),
        revoked: vec![m.keys.controller.public().id()],
    };
    let (assignment, document) = (m.sign(&m.assigned(&m.text())), Some(m.document(&m.text())));
    Message { keyring: Some(keyring.to_envelope().signed_by(&key(9))), assignment, document }.encode()
}

/// What does not belong to this gateway or to this time.
fn numbers() -> Vec<Entry> {
    vec![
        message("for-another-node", |m| m.assigning(|a| a.node = "another".into()), Becomes::Refused("foreign-node")),
        message("taken-before", |m| m.last.to_owned(), Becomes::Nothing),
        message("older", |m| m.assigning(|a| a.number = m.last_number - 1), Becomes::Refused("older")),
        message(
            "number-used-again",
            |m| m.assigning(|a| (a.number, a.reason) = (m.last_number, format!("again, instead of {}", m.number))),
            Becomes::Refused("number-reused"),
        ),
        message(
            "assignment-expired",
            |m| m.assigning(|a| a.expires_at = Some(in_seconds(-60))),
            Becomes::Refused("expired"),
        ),
        message(
            "document-expired",
            |m| m.message(&(m.text() + "expires = \"2020-01-01T00:00:00Z\"\n")),
            Becomes::Refused("expired"),
        ),
        message(
            "digest-of-another-document",
            |m| m.enclosing(Some(m.document(&versioned("[uplink]\nbatch_events = 78\n", m.number)))),
            Becomes::Refused("digest-mismatch"),
        ),
        message("document-missing", |m| m.enclosing(None), Becomes::Refused("document-missing")),
        message(
            "version-of-another-document",
            |m| m.assigning(|a| a.document.as_mut().unwrap().version += 1),
            Becomes::Refused("version-mismatch"),
        ),
        message("back-to-the-own-file", |m| with(m.sign(&assignment(m.node, m.number, None)), None), COMMITTED),
    ]
}

/// Two at once: the second counts.
fn pairs() -> Vec<Entry> {
    let two = |name, push, becomes| Entry { name, push: Push::Two(push), becomes, swallows: false };
    vec![
        two("good-overtaken-by-bad", |m| pair(m, HARMLESS, &uplink("pulsar://127.0.0.1:9")), NOT_CONNECTED),
        two("bad-overtaken-by-good", |m| pair(m, &uplink("pulsar://127.0.0.1:9"), HARMLESS), COMMITTED),
        two(
            "bad-overtaken-by-bad",
            |m| pair(m, "[[lane]]\nname = \"renamed\"\n", "[uplink]\ntoken = \"not.a.token\"\n"),
            NOT_CONNECTED,
        ),
    ]
}

fn pair(m: &Maker<'_>, first: &str, second: &str) -> [String; 2] {
    let next = Maker { number: m.number + 1, ..*m };
    [m.message(&versioned(first, m.number)), next.message(&versioned(second, next.number))]
}
