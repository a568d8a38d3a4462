//! Tests of documents over a gateway's own file.

use proptest::prelude::*;

use super::super::edge::{self, Downlink};
use super::super::key_text::show_public_key;
use super::super::table::Section as _;
use super::*;
use crate::config::devices::Mqtt;
use crate::config::edge::Http;

/// A gateway's own file with all that a document must not touch.
fn own() -> String {
    let key = |n: u8| show_public_key(&[n; 32]);
    format!(
        "[node]\nid = \"press-7\"\ndata_dir = \"/data\"\ngroups = [\"plant-7\"]\n\
         [http]\nlisten = \"127.0.0.1:8001\"\nmax_batch = 77\n\
         [mqtt]\nlisten = \"127.0.0.1:8002\"\nws_listen = \"127.0.0.1:8003\"\n\
         [uplink]\npulsar = [\"pulsar://own\"]\ntenant = \"own\"\ntoken_file = \"/token\"\nwindow = \"8MiB\"\n\
         [downlink]\nroots = [\"{}\"]\nartefact_keys = [\"{}\"]\ncontroller_keys = [\"{}\"]\nrevoked = [\"0123456789abcdef\"]\n\
         [log]\nformat = \"json\"\n[[lane]]\nname = \"own\"\n",
        key(2),
        key(3),
        key(4)
    )
}

fn over_in(text: &str, env: &Env) -> Result<Overlaid, Vec<String>> {
    let base = Document::new("edge.toml", own());
    read(base, Pushed { name: "pushed.toml", text }, env, CheckedOn::Elsewhere)
        .map_err(|errors| errors.problems().iter().map(ToString::to_string).collect())
}

fn over(text: &str) -> Result<Overlaid, Vec<String>> {
    over_in(text, &Env::empty())
}

#[test]
fn what_a_document_names_is_replaced_and_the_rest_stays() {
    let overlaid = over(
        "[http]\nmax_body = \"8MiB\"\n[uplink]\npulsar = [\"pulsar+ssl://new\"]\ntoken = \"abc\"\n[log]\nlevel = \"warn\"\n\
         [[lane]]\nname = \"alarms\"\ntypes = [\"*.alarm\"]\n[[lane]]\nname = \"rest\"\n[document]\nversion = 12\nexpires = 2027-01-31T12:00:00+01:00\n",
    )
    .unwrap();
    let config = overlaid.config;
    assert_eq!((config.http.max_body, config.http.max_batch), (8 << 20, 77));
    assert_eq!(
        (config.uplink.pulsar.as_slice(), config.uplink.window),
        (["pulsar+ssl://new:6651".to_owned()].as_slice(), 8 << 20)
    );
    // One of two that exclude each other takes the place of the other.
    assert_eq!(
        (config.uplink.token.map(|t| t.reveal().to_owned()).as_deref(), config.uplink.token_file),
        (Some("abc"), None)
    );
    assert_eq!(config.lanes.iter().map(|lane| lane.name.as_str()).collect::<Vec<_>>(), ["alarms", "rest"]);
    assert_eq!(config.log.level, "warn");
    assert_eq!(overlaid.header.version, Some(12));
    assert_eq!(overlaid.header.expires.map(|time| time.to_string()).as_deref(), Some("2027-01-31T11:00:00Z"));
    let sets: Vec<&str> = overlaid.sets.iter().map(String::as_str).collect();
    assert_eq!(sets, ["http.max_body", "lane", "log.level", "uplink.pulsar", "uplink.token"]);
    // Nothing: the gateway's own file.
    let nothing = over("").unwrap();
    let (alone, _) = EdgeConfig::read(&Document::new("edge.toml", own()), &Env::empty()).unwrap();
    assert_eq!(nothing.config.effective(), alone.effective());
}

#[test]
fn what_is_the_gateways_own_is_refused_with_its_line() {
    let own = "is the gateway's own: a pushed document cannot set it; take it out, or change it in the gateway's file";
    for (text, place) in [
        ("[node]\nid = \"x\"", "pushed.toml:1:2: node"),
        ("node.data_dir = \"x\"", "pushed.toml:1:1: node"),
        ("[[node]]", "pushed.toml:1:3: node"),
        ("downlink = 1", "pushed.toml:1:1: downlink"),
        ("[downlink]\nroots = []", "pushed.toml:1:2: downlink"),
        ("[http]\nmax_batch = 1\nlisten = \"0.0.0.0:1\"", "pushed.toml:3:1: http.listen"),
        ("[http]\n\"listen\" = \"0.0.0.0:1\"", "pushed.toml:2:1: http.listen"),
        ("[http]\ntls_listen = \"0.0.0.0:1\"", "pushed.toml:2:1: http.tls_listen"),
        ("[mqtt]\nlisten = \"off\"", "pushed.toml:2:1: mqtt.listen"),
        ("mqtt = { wss_listen = \"off\" }", "pushed.toml:1:10: mqtt.wss_listen"),
        ("[uplink]\ntenant = \"x\"", "pushed.toml:2:1: uplink.tenant"),
        ("[log]\nformat = \"human\"", "pushed.toml:2:1: log.format"),
    ] {
        assert_eq!(over(text).unwrap_err(), [format!("{place}: {own}")], "{text}");
    }
}

#[test]
fn mistakes_in_a_document_have_its_line_and_those_in_the_file_theirs() {
    for (text, error) in [
        ("[http]\n\nmax_bach = 1", "pushed.toml:3:1: http.max_bach: there is no such key; did you mean \"max_batch\"?"),
        ("[uplnk]\n", "pushed.toml:1:2: uplnk: there is no such section; did you mean [uplink]?"),
        ("[pulsar]\n", "pushed.toml:1:2: pulsar: belongs in cloud.toml; take it out of this file"),
        (
            "x = 1",
            "pushed.toml:1:1: x: stands outside of all sections; put it below one of [node], [http], [mqtt], [tls], [identity], [mapping], [bridge], [inference], [commands], [outbox], [lane], [uplink], [downlink], [models], [model], [log]",
        ),
        (
            "[uplink]\nwindow = \"1KiB\"",
            "pushed.toml:2:10: uplink.window: 1KiB is out of range; write a size from 64KiB to 1GiB",
        ),
        (
            "[uplink]\npulsar = []",
            "pushed.toml:2:10: uplink.pulsar: is empty: the gateway could never be reached again; name at least one address",
        ),
        ("http = 1", "pushed.toml:1:8: http: is a section; write [http] and its keys below"),
        (
            "[lane]\nname = \"a\"",
            "pushed.toml:1:1: lane: can be there several times; write [[lane]] with double brackets",
        ),
        (
            "[[lane]]\nname = \"a\"\ntypes = [\"x\"]",
            "pushed.toml:3:9: lane.types: no lane takes what the others leave; add a last [[lane]] with a name and without types",
        ),
        (
            "[document]\nversion = 0",
            "pushed.toml:2:11: document.version: 0 is out of range; write a whole number from 1 to 9007199254740991",
        ),
        (
            "[document]\nversoin = 1",
            "pushed.toml:2:1: document.versoin: there is no such key; did you mean \"version\"?",
        ),
        (
            "[document]\nexpires = \"soon\"",
            "pushed.toml:2:11: document.expires: \"soon\" is no time; write a time with its offset such as 2027-01-31T12:00:00Z",
        ),
        (
            "[log]\nlevel = ",
            "pushed.toml:2:9: is no valid TOML: the value after = is missing\n  |\n2 | level = \n  |         ^",
        ),
    ] {
        assert_eq!(over(text).unwrap_err(), [error], "{text}");
    }
    let base = Document::new("edge.toml", "[http]\nmax_bach = 1\n[document]\nversion = 1".to_owned());
    let errors =
        read(base, Pushed { name: "p", text: "[log]\nlevl = 1" }, &Env::empty(), CheckedOn::Elsewhere).unwrap_err();
    let places: Vec<String> = errors.problems().iter().map(|p| format!("{} {}", p.place, p.key)).collect();
    assert_eq!(places, ["edge.toml:2:1 http.max_bach", "edge.toml:3:2 document", "p:2:1 log.levl"]);
    let huge = "#".repeat(DOCUMENT_BYTES_MAX + 1);
    assert!(over(&huge).unwrap_err()[0].starts_with("pushed.toml: has 524289 bytes; a document has at most 524288"));
    assert!(over(&huge[1..]).is_ok());
}

#[test]
fn a_variable_of_the_gateway_wins_and_that_is_said() {
    let env = Env::of([("TIDEGATE_UPLINK_WINDOW", "2MiB"), ("TIDEGATE_DOCUMENT_VERSION", "99")]);
    let overlaid = over_in("[uplink]\nwindow = \"16MiB\"\n[document]\nversion = 1", &env).unwrap();
    assert_eq!((overlaid.config.uplink.window, overlaid.header.version), (2 << 20, Some(1)));
    let warnings: Vec<String> = overlaid.warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings.iter().any(|w| w
            == "pushed.toml:2:10: uplink.window: has no effect here: TIDEGATE_UPLINK_WINDOW is set on this gateway, and a variable wins"),
        "{warnings:?}"
    );
}

/// Files named in a document are the gateway's: they are looked at there and nowhere else.
#[test]
fn files_are_looked_at_on_the_gateway_only() {
    let document =
        Pushed { name: "p", text: "[uplink]\npulsar = [\"pulsar+ssl://a\"]\nca_file = \"/nowhere/ca.pem\"\n" };
    assert!(check_alone(document).is_ok());
    let base = || Document::new("edge.toml", own());
    assert!(read(base(), document, &Env::empty(), CheckedOn::Elsewhere).is_ok());
    let errors = read(base(), document, &Env::empty(), CheckedOn::Gateway).unwrap_err();
    assert!(errors.to_string().starts_with("p:3:11: uplink.ca_file: /nowhere/ca.pem cannot be read"), "{errors}");
}

/// A rule between a key of the document and one that it leaves out to the gateway cannot be judged without the gateway.
#[test]
fn what_the_gateway_may_say_is_no_mistake_of_the_document() {
    let alone = |text| check_alone(Pushed { name: "p", text });
    let warnings = |text| -> Vec<String> { alone(text).unwrap().warnings.iter().map(ToString::to_string).collect() };
    let says = "unless the gateway's own file says otherwise: ";
    for (text, warning) in [
        ("[tls]\ncertificate_file = \"/c\"", "p:2:20: tls.certificate_file: "),
        ("[uplink]\nwindow = \"64KiB\"", "p:2:10: uplink.window: "),
        ("[[mapping]]\ntopic = \"a\"\nlane = \"own\"", "p:3:8: mapping.lane: "),
    ] {
        let found = warnings(text);
        assert!(!found.is_empty() && found.iter().all(|w| w.starts_with(&format!("{warning}{says}"))), "{found:?}");
    }
    let lanes = "[[mapping]]\ntopic = \"a\"\nlane = \"own\"\n[[lane]]\nname = \"other\"";
    assert!(alone(lanes).unwrap_err().to_string().starts_with("p:3:8: mapping.lane: there is no lane"));
    assert!(alone("[[lane]]\nname = \"a\"\n[[lane]]\nname = \"a\"").is_err());
}

#[test]
fn every_section_and_every_address_has_its_rule() {
    assert_eq!(
        RULES.iter().map(|(section, _)| *section).collect::<BTreeSet<_>>(),
        edge::SECTIONS.into_iter().collect()
    );
    let keys =
        [("http", Http::keys()), ("mqtt", Mqtt::keys()), ("uplink", edge::Uplink::keys()), ("log", edge::Log::keys())];
    for (section, keys) in &keys {
        let (_, rule) = RULES.iter().find(|(of, _)| of == section).unwrap();
        for key in keys.iter().filter(|key| key.name.ends_with("listen")) {
            assert!(!rule.allows(key.name), "{section}.{}", key.name);
        }
        let (Rule::Except(named) | Rule::Only(named)) = rule else { panic!("{section}") };
        assert!(named.iter().all(|name| keys.iter().any(|key| key.name == *name)), "{section} {named:?}");
    }
}

/// What a document can say: right, wrong and forbidden, on one line.
fn said() -> impl Strategy<Value = String> {
    let right = prop::sample::select(vec![
        "http.max_batch = 5",
        "mqtt.max_connections = 9",
        "outbox.max_bytes = \"16MiB\"",
        "uplink.pulsar = [\"pulsar://b\"]",
        "uplink.token = \"t\"",
        "uplink.token_file = \"/t\"",
        "uplink.window = \"16MiB\"",
        "uplink.cluster = \"west\"",
        "lane = [{ name = \"a\" }]",
        "lane = []",
        "mapping = [{ topic = \"a/#\" }]",
        "bridge = [{ name = \"b\", url = \"mqtt://b\" }]",
        "log.level = \"debug\"",
        "tls.min_version = \"1.3\"",
        "identity.mode = \"required\"",
        "commands.max_waiting = 5",
        "document.version = 3",
    ]);
    let forbidden = prop::sample::select(vec![
        "node.id = \"evil\"",
        "node = []",
        "node.data_dir = \"/evil\"",
        "node.groups = []",
        "http.listen = \"1.2.3.4:5\"",
        "http.tls_listen = \"off\"",
        "\"http\".'listen' = \"1.2.3.4:5\"",
        "mqtt.listen = \"off\"",
        "mqtt.ws_listen = \"off\"",
        "downlink.roots = []",
        "downlink.revoked = []",
        "downlink = {}",
        "uplink.tenant = \"evil\"",
        "log.format = \"human\"",
    ]);
    let wild = "[a-z]{1,8}(\\.[a-z_]{1,8})? = (1|\"[a-z]{0,5}\"|\\[\\]|\\{\\}|true)";
    prop_oneof![6 => right.prop_map(str::to_owned), 1 => forbidden.prop_map(str::to_owned), 1 => wild]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever a document says: it is refused with its own lines, or the gateway stays who it is, where it listens, and
    /// whom it trusts.
    #[test]
    fn a_document_never_takes_the_way_to_receive_configuration(lines in prop::collection::vec(said(), 0..8)) {
        let text = lines.join("\n");
        match over(&text) {
            Err(errors) => prop_assert!(errors.iter().all(|error| error.starts_with("pushed.toml:")), "{:?}", errors),
            Ok(Overlaid { config, .. }) => {
                let (own, _) = EdgeConfig::read(&Document::new("edge.toml", own()), &Env::empty()).unwrap();
                prop_assert_eq!(config.node.values(), own.node.values());
                prop_assert_eq!(Downlink::values(&config.downlink), own.downlink.values());
                let listen = |config: &EdgeConfig| {
                    let (http, mqtt) = (&config.http, &config.mqtt);
                    (http.listen, http.tls_listen, mqtt.listen, mqtt.tls_listen, mqtt.ws_listen, mqtt.wss_listen)
                };
                prop_assert_eq!(listen(&config), listen(&own));
                prop_assert!(!config.uplink.pulsar.is_empty() && config.uplink.tenant == "own");
                let forbidden = |word: &&str| text.contains(*word);
                prop_assert!(!["evil", "listen", "downlink", "node"].iter().any(forbidden), "{}", text);
            }
        }
    }

    /// A damaged document is refused in words.
    #[test]
    fn a_damaged_document_is_refused_in_words(cut in any::<prop::sample::Index>(), length in 0_usize..30, put in "[\\[\\]{}=\"'#.,\\n\\\\a-zA-Z0-9ü ]{0,12}") {
        let text = "[http]\nmax_body = \"8MiB\"\n[uplink]\npulsar = [\"pulsar+ssl://new\"]\n[[lane]]\nname = \"a\"\n[document]\nversion = 1\n";
        let cut = cut.index(text.len());
        let end = (cut + length).min(text.len());
        if let Err(errors) = over(&format!("{}{put}{}", &text[..cut], &text[end..])) {
            prop_assert!(!errors.is_empty() && errors.iter().all(|e| e.starts_with("pushed.toml:")), "{:?}", errors);
        }
    }
}
