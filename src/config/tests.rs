//! What an operator sees: whole files with their exact messages.

use super::document::Document;
use super::{CloudConfig, EdgeConfig, Env};

fn edge_in(text: &str, env: &Env) -> Result<(EdgeConfig, Vec<String>), Vec<String>> {
    match EdgeConfig::read(&Document::new("edge.toml", text.to_owned()), env) {
        Ok((config, warnings)) => Ok((config, warnings.iter().map(ToString::to_string).collect())),
        Err(errors) => Err(errors.problems().iter().map(ToString::to_string).collect()),
    }
}

fn edge(text: &str) -> Result<(EdgeConfig, Vec<String>), Vec<String>> {
    edge_in(text, &Env::empty().on_host("press-7"))
}

fn cloud(text: &str) -> Result<(CloudConfig, Vec<String>), Vec<String>> {
    match CloudConfig::read(&Document::new("cloud.toml", text.to_owned()), &Env::empty()) {
        Ok((config, warnings)) => Ok((config, warnings.iter().map(ToString::to_string).collect())),
        Err(errors) => Err(errors.problems().iter().map(ToString::to_string).collect()),
    }
}

/// Each bad file with exactly its errors.
const BAD_EDGE: &[(&str, &[&str])] = &[
    // Unknown things.
    (
        "[http]\nlistne = \"127.0.0.1:1\"",
        &["edge.toml:2:1: http.listne: there is no such key; did you mean \"listen\"?"],
    ),
    ("[log]\nfile = \"x\"", &["edge.toml:2:1: log.file: there is no such key; [log] has format, level"]),
    ("[uplnk]\ntenant = \"a\"", &["edge.toml:1:2: uplnk: there is no such section; did you mean [uplink]?"]),
    ("[pulsar]\nservice = \"a\"", &["edge.toml:1:2: pulsar: belongs in cloud.toml; take it out of this file"]),
    (
        "tenant = \"a\"",
        &[
            "edge.toml:1:1: tenant: stands outside of all sections; put it below one of [node], [http], [mqtt], [tls], [identity], [mapping], [bridge], [inference], [commands], [outbox], [lane], [uplink], [downlink], [models], [model], [log]",
        ],
    ),
    // Wrong shapes.
    ("[[http]]\nmax_batch = 1", &["edge.toml:1:1: http: is there only once; write [http] with single brackets"]),
    ("http = 1", &["edge.toml:1:8: http: is a section; write [http] and its keys below"]),
    ("[lane]\nname = \"a\"", &["edge.toml:1:1: lane: can be there several times; write [[lane]] with double brackets"]),
    ("lane = [1]", &["edge.toml:1:9: lane: holds something that is no table; write [[lane]] and its keys below"]),
    // Wrong types and values.
    (
        "[http]\nlisten = 8800",
        &["edge.toml:2:10: http.listen: is an integer; write an address and port such as \"127.0.0.1:8800\""],
    ),
    (
        "[http]\nlisten = \":8800\"",
        &["edge.toml:2:10: http.listen: \":8800\" is no address and port; write \"0.0.0.0:8800\" to listen everywhere"],
    ),
    (
        "[http]\nlisten = \"localhost:80\"",
        &["edge.toml:2:10: http.listen: \"localhost:80\" is no address and port; write \"127.0.0.1:80\""],
    ),
    (
        "[http]\nmax_batch = \"10\"",
        &["edge.toml:2:13: http.max_batch: is a string; write a whole number from 1 to 1000000, without quotes"],
    ),
    (
        "[http]\nmax_batch = -0x5",
        &[
            "edge.toml:2:13: is no valid TOML: integers with a radix cannot be signed\n  |\n2 | max_batch = -0x5\n  |             ^",
        ],
    ),
    (
        "[http]\nmax_batch = 0",
        &["edge.toml:2:13: http.max_batch: 0 is out of range; write a whole number from 1 to 1000000"],
    ),
    (
        "[http]\nheader_timeout = 10",
        &["edge.toml:2:18: http.header_timeout: \"10\" has no unit; write \"10s\" for seconds (or ms, min, h, d)"],
    ),
    (
        "[http]\nheader_timeout = \"2h\"",
        &["edge.toml:2:18: http.header_timeout: 2h is out of range; write a duration from 100ms to 1h"],
    ),
    (
        "[outbox]\nmax_bytes = \"1MB\"\ndurability = \"dsik\"",
        &[
            "edge.toml:2:13: outbox.max_bytes: 1MB is out of range; write a size from 16MiB to 64TiB",
            "edge.toml:3:14: outbox.durability: \"dsik\" is unknown; did you mean \"disk\"?",
        ],
    ),
    (
        "[outbox]\nmax_bytes = -1\nmax_event = 2.5\ndedup_window = \"5m\"",
        &[
            "edge.toml:2:13: outbox.max_bytes: -1 is no number of bytes; write a size such as \"64MiB\"",
            "edge.toml:3:13: outbox.max_event: is a number with a point; write a size such as \"64MiB\"",
            "edge.toml:4:16: outbox.dedup_window: \"5m\" has the unknown unit \"m\"; write \"5min\"",
        ],
    ),
    (
        "[node]\nid = \"press.7\"\ndata_dir = \"~/data\"",
        &[
            "edge.toml:2:6: node.id: \"press.7\" is no valid name; write 1 to 64 letters, digits, - or _ (no dots)",
            "edge.toml:3:12: node.data_dir: \"~/data\" starts with ~, which only a shell understands; write the full path",
        ],
    ),
    (
        "[uplink]\npulsar = [\"pulsar://a\", \"b:6650\", 3]",
        &[
            "edge.toml:2:25: uplink.pulsar: \"b:6650\" has no scheme; write \"pulsar://b:6650\"",
            "edge.toml:2:35: uplink.pulsar: is an integer; write a service URL such as \"pulsar://127.0.0.1:6650\"",
        ],
    ),
    (
        "[uplink]\npulsar = \"pulsar://a\"",
        &[
            "edge.toml:2:10: uplink.pulsar: is a string; write a list in [ ], each item a service URL such as \"pulsar://127.0.0.1:6650\"",
        ],
    ),
    ("[log]\nlevel = \"inof\"", &["edge.toml:2:9: log.level: \"inof\" is no level; did you mean \"info\"?"]),
    (
        "[mqtt]\nlisten = 1883",
        &[
            "edge.toml:2:10: mqtt.listen: is an integer; write an address and port such as \"127.0.0.1:8800\", or \"off\"",
        ],
    ),
    // Lanes.
    (
        "[[lane]]\ntypes = [\"a\"]",
        &["edge.toml:1:1: lane.name: is missing; write 1 to 32 lower-case letters, digits or -, in quotes"],
    ),
    (
        "[[lane]]\nname = \"a\"\ntypes = [\"a\"]",
        &[
            "edge.toml:3:9: lane.types: no lane takes what the others leave; add a last [[lane]] with a name and without types",
        ],
    ),
    (
        "[[lane]]\nname = \"a\"\n[[lane]]\nname = \"b\"\ntypes = [\"x\"]",
        &[
            "edge.toml:5:9: lane.types: can never match: the earlier lane \"a\" takes all of it; move this [[lane]] before that one",
        ],
    ),
    (
        "[[lane]]\nname = \"a\"\ntypes = [\"*.x\"]\n[[lane]]\nname = \"b\"\ntypes = [\"y*.x\"]\n[[lane]]\nname = \"c\"",
        &[
            "edge.toml:6:9: lane.types: can never match: the earlier lane \"a\" takes all of it; move this [[lane]] before that one",
        ],
    ),
    (
        "[[lane]]\nname = \"a\"\ntypes = [\"x\"]\n[[lane]]\nname = \"a\"",
        &["edge.toml:5:8: lane.name: \"a\" is the name of an earlier [[lane]]; choose another"],
    ),
    (
        "[[lane]]\nname = \"Alarms\"\n[[lane]]\nname = \"a-dead\"\n[[lane]]\nname = \"telemetry\"",
        &[
            "edge.toml:2:8: lane.name: \"Alarms\" is no valid name; write 1 to 32 lower-case letters, digits or -",
            "edge.toml:4:8: lane.name: \"a-dead\" ends with -dead, which is the lane's dead-letter topic; choose another name",
        ],
    ),
    (
        "[[lane]]\nname = \"a\"\nmqtt = [\"a/#/b\", \"$share/g/a\"]\npriority = 10\non_full = \"drop\"",
        &[
            "edge.toml:3:9: lane.mqtt: \"a/#/b\" is no topic filter: # stands alone and only at the end, as in \"a/#\"; write an MQTT topic filter such as \"devices/+/alarm\"",
            "edge.toml:3:18: lane.mqtt: \"$share/g/a\" is no topic filter: shared subscriptions are not taken here; write an MQTT topic filter such as \"devices/+/alarm\"",
            "edge.toml:4:12: lane.priority: 10 is out of range; write a whole number from 1 to 9",
            "edge.toml:5:11: lane.on_full: \"drop\" is unknown; write \"refuse\" or \"drop-oldest\" or \"thin\"",
        ],
    ),
    // Between keys.
    (
        "[mqtt]\nlisten = \"0.0.0.0:8800\"",
        &["edge.toml:2:10: mqtt.listen: wants the same port as http.listen (127.0.0.1:8800); choose another"],
    ),
    (
        "[http]\nmax_body = \"128MiB\"",
        &[
            "edge.toml:2:12: http.max_body: 128MiB is more than http.max_inflated (64MiB): such a body could not be taken even uncompressed; make this smaller or change that",
            "edge.toml:2:12: http.max_body: 128MiB is more than http.max_memory (64MiB): such a body could never be taken; make this smaller or change that",
        ],
    ),
    (
        "[uplink]\nwindow = \"64KiB\"",
        &[
            "edge.toml:2:10: uplink.window: 64KiB is less than outbox.max_event (1MiB): such an event could never be sent; make this larger or change that",
            "edge.toml:2:10: uplink.window: 64KiB is less than uplink.batch_bytes (128KiB): such a batch could never be sent; make this larger or change that",
        ],
    ),
    (
        "[uplink]\npulsar = [\"pulsar+ssl://a\"]\nca_file = \"/nowhere/ca.pem\"",
        &[
            "edge.toml:3:11: uplink.ca_file: /nowhere/ca.pem cannot be read: No such file or directory (os error 2); give the path of a PEM file with the authority's certificate",
        ],
    ),
];

#[test]
fn every_mistake_in_an_edge_file_has_its_line_and_its_way_out() {
    for (text, expected) in BAD_EDGE {
        assert_eq!(edge(text).unwrap_err(), *expected, "{text}");
    }
}

const BAD_CLOUD: &[(&str, &[&str])] = &[
    ("[uplink]\ntenant = \"a\"", &["cloud.toml:1:2: uplink: belongs in edge.toml; take it out of this file"]),
    (
        "[[sink]]\nkind = \"postgres\"\nurl = \"postgres://tidegate@127.0.0.1/tidegate\"\ntable = \"events\"",
        &["cloud.toml:2:8: sink.kind: \"postgres\" is not in this version; write kind = \"files\" and a dir"],
    ),
    ("[[sink]]\nkind = \"file\"", &["cloud.toml:2:8: sink.kind: \"file\" is unknown; did you mean \"files\"?"]),
    ("[[sink]]\ndir = \"a\"", &["cloud.toml:1:1: sink.kind: is missing; write \"files\""]),
    (
        "[[sink]]\nkind = \"files\"\ndir = \"a\"\n[[sink]]\nkind = \"files\"\ndir = \"a\"\nlevel = 3",
        &["cloud.toml:6:7: sink.dir: a is the directory of an earlier [[sink]]; choose another"],
    ),
    (
        "[pulsar]\nservice = \"http://a\"\nadmin = \"pulsar://a\"\ntenant = \"a b\"",
        &[
            "cloud.toml:2:11: pulsar.service: \"http://a\" is the address of an admin interface; write a service URL such as \"pulsar://127.0.0.1:6650\"",
            "cloud.toml:3:9: pulsar.admin: \"pulsar://a\" is a service URL; write an admin URL such as \"http://127.0.0.1:8080\"",
            "cloud.toml:4:10: pulsar.tenant: \"a b\" is no valid name; write 1 to 64 letters, digits or - _ = : .",
        ],
    ),
    (
        "[pulsar]\nclusters = []",
        &["cloud.toml:2:12: pulsar.clusters: is empty; write the name of the cluster, such as [\"standalone\"]"],
    ),
    (
        "[[cluster]]\nname = \"east\"\nservice = \"pulsar://a\"\nadmin = \"http://a\"",
        &[
            "cloud.toml:2:8: cluster.name: \"east\" is not in pulsar.clusters; add it there, or take this [[cluster]] out",
        ],
    ),
    (
        "[[lane]]\nname = \"a\"\npartitions = 0\n[[lane]]\nname = \"b\"\ntypes = []",
        &[
            "cloud.toml:3:14: lane.partitions: 0 is out of range; write a whole number from 1 to 1024",
            "cloud.toml:6:1: lane.types: there is no such key; [lane] has name, partitions",
        ],
    ),
];

#[test]
fn every_mistake_in_a_cloud_file_has_its_line_and_its_way_out() {
    for (text, expected) in BAD_CLOUD {
        assert_eq!(cloud(text).unwrap_err(), *expected, "{text}");
    }
}

/// DESIGN.md §12, left column.
const DESIGN_EDGE: &str = r#"
[node]
id = "press-7"            # default: host name
data_dir = "/var/lib/tidegate"
groups = ["plant-7"]

[http]
listen = "127.0.0.1:8800"

[mqtt]
listen = "127.0.0.1:1883"

[outbox]
max_bytes = "2GiB"
durability = "disk"       # or "os"

[[lane]]
name = "alarms"
types = ["*.alarm"]       # or mqtt = ["+/alarm"]
priority = 1
on_full = "refuse"        # "drop-oldest", "thin"

[[lane]]
name = "telemetry"        # takes what no other lane matches

[uplink]
pulsar = ["pulsar://127.0.0.1:6650"]
tenant = "tidegate"
"#;

/// DESIGN.md §12, right column, without the sink that is not in this version.
const DESIGN_CLOUD: &str = r#"
[pulsar]
service = "pulsar://127.0.0.1:6650"
admin = "http://127.0.0.1:8080"
tenant = "tidegate"
clusters = ["standalone"]

[http]
listen = "127.0.0.1:8900"

[[lane]]
name = "telemetry"
partitions = 4

[[sink]]
kind = "files"          # "postgres", "clickhouse"
dir = "/var/lib/tidegate/events"
"#;

#[test]
fn the_example_of_the_design_loads() {
    let (config, warnings) = edge(DESIGN_EDGE).unwrap();
    assert_eq!(
        warnings,
        ["edge.toml:20:12: lane.priority: is not in effect in this version: lanes share the link evenly",]
    );
    assert_eq!(config.lanes.iter().map(|lane| lane.name.as_str()).collect::<Vec<_>>(), ["alarms", "telemetry"]);
    assert_eq!(
        config.effective(),
        [
            "node.id = \"press-7\"",
            "node.data_dir = \"/var/lib/tidegate\"",
            "node.groups = [\"plant-7\"]",
            "lane alarms: takes *.alarm",
            "lane telemetry: takes what no other lane matches",
            "uplink.pulsar = [\"pulsar://127.0.0.1:6650\"]",
        ]
    );
    let (config, warnings) = cloud(DESIGN_CLOUD).unwrap();
    assert_eq!((config.sinks.len(), warnings), (1, vec![]));
}

#[test]
fn a_policy_that_is_not_in_effect_is_said() {
    let (config, warnings) = edge(
        "[[lane]]\nname = \"alarms\"\nmqtt = [\"+/alarm\"]\non_full = \"thin\"\n[[lane]]\nname = \"telemetry\"\non_full = \"refuse\"",
    )
    .unwrap();
    assert_eq!(
        warnings,
        [
            "edge.toml:4:11: lane.on_full: is not in effect in this version: a full lane refuses new events, as with \"refuse\"",
        ]
    );
    // The empty type matches no event: an MQTT lane must not become the one that takes everything.
    assert_eq!((config.lanes[0].types.as_slice(), config.lanes[1].types.len()), ([String::new()].as_slice(), 0));
    assert_eq!(config.effective()[1], "lane alarms: takes MQTT +/alarm");
    let two = "[[lane]]\nname = \"a\"\nmqtt = [\"a\"]\n[[lane]]\nname = \"b\"\nmqtt = [\"b\"]\n";
    assert_eq!(edge(&format!("{two}[[lane]]\nname = \"c\"")).unwrap().1.len(), 0);
    assert!(edge(two).unwrap_err()[0].contains("no lane takes what the others leave"));
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text = "[http]\nmax_bach = 1\n[[lane]]\n[uplink]\npulsar = [\"x\"]\n[node]\nid = \"a b\"\n";
    let env = Env::of([("TIDEGATE_LOG_LEVEL", "loud")]);
    let lines: Vec<String> =
        edge_in(text, &env).unwrap_err().iter().map(|e| e.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "edge.toml:2:1 http.max_bach",
            "edge.toml:3:1 lane.name",
            "edge.toml:5:11 uplink.pulsar",
            "edge.toml:7:6 node.id",
            "TIDEGATE_LOG_LEVEL log.level"
        ]
    );
}

#[test]
fn without_a_file_everything_has_its_default() {
    let (config, warnings) = EdgeConfig::load(None, &Env::empty().on_host("press-7.plant")).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.node.id, "press-7");
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8800");
    assert_eq!(config.node.data_dir.to_str(), Some("./tidegate-data"));
    assert!(config.uplink.pulsar.is_empty());
    assert_eq!(CloudConfig::load(None, &Env::empty()).unwrap().1, []);

    let shared_name = EdgeConfig::load(None, &Env::empty().on_host("raspberrypi")).unwrap().1;
    assert_eq!(
        shared_name.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["defaults: node.id: is not set, and many hosts are called \"raspberrypi\"; write a name unique in the tenant"]
    );
    let no_name = EdgeConfig::load(None, &Env::empty()).unwrap().1;
    assert_eq!(no_name[0].to_string(), "defaults: node.id: is not set and this host has no name; \"edge\" is used");
}

#[test]
fn the_environment_wins_over_the_file() {
    let env = Env::of([
        ("TIDEGATE_NODE_ID", "seven"),
        ("TIDEGATE_UPLINK_PULSAR", "pulsar://a:1, pulsar+ssl://b"),
        ("TIDEGATE_UPLINK_TOKEN", "s3cret"),
        ("TIDEGATE_UPLINK_TENANT", ""),
        ("TIDEGATE_HTTP_MAX_BATCH", "7"),
        ("TIDEGATE_OUTBOX_MAX_BYTES", "33554432"),
        ("TIDEGATE_OUTBOX_DEDUP_WINDOW", "1min"),
    ]);
    let (config, _) = edge_in("[node]\nid = \"file\"\n[uplink]\ntenant = \"kept\"", &env).unwrap();
    assert_eq!(config.node.id, "seven");
    assert_eq!(config.uplink.pulsar, ["pulsar://a:1", "pulsar+ssl://b:6651"]);
    assert_eq!(config.uplink.tenant, "kept");
    assert_eq!((config.http.max_batch, config.outbox.max_bytes), (7, 32 << 20));
    assert_eq!(config.outbox.dedup_window.as_secs(), 60);
    assert_eq!(config.uplink.token.as_ref().map(super::secret::Secret::reveal), Some("s3cret"));
    let shown = format!("{config:?} {:?}", config.effective());
    assert!(shown.contains("(secret)") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_wrong_variable_is_named_and_a_token_in_it_is_not_repeated() {
    let env = Env::of([
        ("TIDEGATE_HTTP_LISTEN", "8800"),
        ("TIDEGATE_UPLINK_PULSAR", "pulsar://me:s3cret@b"),
        ("TIDEGATE_UPLINK_TOKEN", "s3 cret"),
    ]);
    assert_eq!(
        edge_in("", &env).unwrap_err(),
        [
            "TIDEGATE_HTTP_LISTEN: http.listen: \"8800\" is no address and port; write \"127.0.0.1:8800\"",
            "TIDEGATE_UPLINK_PULSAR: uplink.pulsar: names a user; write pulsar://host:port and give the token as token_file",
            "TIDEGATE_UPLINK_TOKEN: uplink.token: is empty or has a blank in it; write the token alone",
        ]
    );
}

#[test]
fn unknown_variables_are_warned_of_and_those_of_others_are_not() {
    let env = Env::of([
        ("TIDEGATE_HTTP_LISTN", "x"),
        ("TIDEGATE_LANE_NAME", "x"),
        ("TIDEGATE_WHATEVER", "x"),
        ("TIDEGATE_PULSAR_SERVICE", "for tidegate cloud"),
        ("TIDEGATE_CONFIG", "x"),
        ("TIDEGATE_CLOUD", "for the command line"),
        ("TIDEGATE_CLOUD_TOKEN", "likewise"),
        ("TIDEGATE_CLOUD_TOKEN_FILE", "likewise"),
        ("TIDEGATE_LOG", "x"),
        ("TIDEGATE_TEST_SEED", "x"),
        ("TIDEGATE_BENCH_CLIENT", "x"),
        ("TIDEGATE_PULSAR_CACHE", "x"),
    ])
    .on_host("a");
    assert_eq!(
        edge_in("", &env).unwrap().1,
        [
            "TIDEGATE_HTTP_LISTN: has no effect: there is no such key; did you mean TIDEGATE_HTTP_LISTEN?",
            "TIDEGATE_LANE_NAME: has no effect: [[lane]] is written in the file only",
            "TIDEGATE_WHATEVER: has no effect: there is no such key; config/*.toml tells how variables are named",
        ]
    );
}

#[test]
fn credentials_are_checked_as_far_as_an_installer_expects() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let text = |extra: &str| format!("[uplink]\npulsar = [\"pulsar://broker\"]\n{extra}");
    // A missing token file is no error: the secret may be mounted later.
    let (_, warnings) = edge(&text(&format!("token_file = \"{}\"", path("token")))).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0]
            .ends_with("cannot be read now: No such file or directory (os error 2); nothing is delivered until it can"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].ends_with("goes to pulsar://broker:6650 unencrypted; write pulsar+ssl:// to have TLS"),
        "{warnings:?}"
    );
    // Both kinds of token.
    std::fs::write(path("token"), "abc").unwrap();
    let both = edge(&text(&format!("token = \"abc\"\ntoken_file = \"{}\"", path("token")))).unwrap_err();
    assert_eq!(both, ["edge.toml:3:9: uplink.token: is set, and token_file too; keep one of them (better token_file)"]);
    // A file that is no certificate.
    std::fs::write(path("ca"), "abc").unwrap();
    let ca = edge(&text(&format!("ca_file = \"{}\"", path("ca")))).unwrap_err();
    assert!(
        ca[0].ends_with("holds no certificate in PEM form; it must have a line -----BEGIN CERTIFICATE-----"),
        "{ca:?}"
    );
    std::fs::write(path("ca"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    let (_, warnings) = edge(&text(&format!("ca_file = \"{}\"", path("ca")))).unwrap();
    assert!(
        warnings[0].ends_with("is not used: no address is pulsar+ssl://; write pulsar+ssl:// to have TLS"),
        "{warnings:?}"
    );
}

#[test]
fn a_type_that_never_matches_here_is_said() {
    let lane = |name: &str, types: &str| format!("[[lane]]\nname = \"{name}\"\ntypes = [{types}]\n");
    let rest = "[[lane]]\nname = \"rest\"\n";
    let (_, warnings) = edge(&(lane("a", "\"*.x\"") + &lane("b", "\"y.x\", \"z\"") + rest)).unwrap();
    assert_eq!(
        warnings,
        ["edge.toml:6:9: lane.types: \"y.x\" can never match: the earlier lane \"a\" takes all of it"]
    );
    let errors = edge(&(lane("a", "\"x\"") + &lane("b", "\"y\"") + &lane("c", "\"y\", \"x\"") + rest)).unwrap_err();
    assert_eq!(
        errors,
        [
            "edge.toml:9:9: lane.types: can never match: the earlier lane \"b\" takes it, with others; move this [[lane]] before that one"
        ]
    );
}

#[test]
fn a_token_in_the_wrong_place_is_not_repeated() {
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJlZGdlIn0.s3cret";
    for text in [
        format!("token_file = \"{token}\""),
        format!("token = [\"{token}\"]"),
        format!("tokn = \"{token}\""),
        format!("token = \"{token}"),
        format!("token = \"{token} \""),
        format!("pulsar = [\"pulsar://me:{token}@host\"]"),
    ] {
        let errors = edge(&format!("[uplink]\n{text}\n")).unwrap_err().join("\n");
        assert!(errors.starts_with("edge.toml:2:") && !errors.contains("s3cret"), "{errors}");
    }
}

#[test]
fn odd_keys_are_cut_and_escaped() {
    let text = format!("[http]\n\"a\\u001b[2J\" = 1\n{} = 1\n", "k".repeat(500));
    let errors = edge(&text).unwrap_err();
    assert!(errors[0].starts_with("edge.toml:2:1: http.\"a\\u{1b}[2J\": "), "{errors:?}");
    assert!(errors[1].len() < 250, "{errors:?}");
}

proptest::proptest! {
    /// Whatever happens to a file, it is read or refused with a place; nothing panics.
    #[test]
    fn a_damaged_file_is_refused_in_words(
        cut in 0..DESIGN_EDGE.len(),
        length in 0_usize..40,
        put in "[\\[\\]{}=\"'#.,\\n\\\\a-zA-Z0-9ü ]{0,12}",
    ) {
        let end = (cut + length).min(DESIGN_EDGE.len());
        let text = format!("{}{put}{}", &DESIGN_EDGE[..cut], &DESIGN_EDGE[end..]);
        if let Err(errors) = edge(&text) {
            proptest::prop_assert!(!errors.is_empty());
            proptest::prop_assert!(errors.iter().all(|e| e.starts_with("edge.toml:")), "{:?}", errors);
        }
        let _ = cloud(&text);
    }
}

#[test]
fn a_file_full_of_mistakes_is_answered_with_a_bounded_list() {
    use std::fmt::Write as _;
    let mut text = "[http]\n".to_owned();
    (0..1000).for_each(|i| writeln!(text, "unknown{i} = 1").unwrap());
    let errors = EdgeConfig::read(&Document::new("edge.toml", text), &Env::empty()).unwrap_err().to_string();
    assert_eq!(errors.lines().count(), 51);
    assert!(errors.ends_with("… and 950 more errors"), "{errors}");
    let many = "[[lane]]\nname = \"a\"\n".repeat(33);
    assert_eq!(edge(&many).unwrap_err(), ["edge.toml:65:1: lane: is there 33 times; write at most 32"]);
}

#[test]
fn the_topics_of_commands_must_name_the_device_and_differ() {
    let refused = |more: &str| edge(&format!("[commands]\n{more}")).unwrap_err();
    for (more, place, words) in [
        ("topic = \"a/b\"", "2:9: commands.topic", "must have {device} as a level"),
        ("topic = \"a/x{device}\"", "2:9: commands.topic", "as a level"),
        ("config_topic = \"{device}/+\"", "2:16: commands.config_topic", "no + or #"),
        ("config_topic = \"$x/{device}\"", "2:16: commands.config_topic", "not begin with $"),
        ("config_topic = \"devices/{device}/commands/config\"", "2:16: commands.config_topic", "below commands.topic"),
    ] {
        let errors = refused(more);
        assert!(errors.len() == 1 && errors[0].starts_with(&format!("edge.toml:{place}: ")), "{errors:?}");
        assert!(errors[0].contains(words), "{errors:?}");
    }
    assert!(edge("[commands]\ntopic = \"{device}/c\"\nconfig_topic = \"{device}/cc\"").is_ok());
}

#[test]
fn the_topic_of_a_model_is_one_topic_and_no_other_model_s() {
    let with =
        |topic: &str| format!("[[model]]\nname = \"a\"\ntopic = \"m/a\"\n[[model]]\nname = \"b\"\ntopic = {topic:?}\n");
    for (topic, words) in
        [("m/+", "no + or #"), ("m/#", "no + or #"), ("$SYS/m", "not begin with $"), ("m/a", "another model's")]
    {
        let errors = edge(&with(topic)).unwrap_err();
        assert!(errors.len() == 1 && errors[0].starts_with("edge.toml:6:9: "), "{errors:?}");
        assert!(errors[0].contains("topic") && errors[0].contains(words), "{errors:?}");
    }
    assert_eq!(edge(&with("m/b")).unwrap().0.model[1].topic.as_deref(), Some("m/b"));
}

#[test]
fn a_mapping_must_make_sense() {
    let refused = |topic: &str, more: &str| edge(&format!("[[mapping]]\ntopic = \"{topic}\"\n{more}")).unwrap_err();
    for (topic, more, place, why) in [
        ("a/x{d}/b", "", "2:9", "is a whole level"),
        ("a/{}/b", "", "2:9", "is a whole level"),
        ("{d}/{d}", "", "2:9", "twice"),
        ("{topic}/#", "", "2:9", "a meaning of its own"),
        ("$SYS/#", "", "2:9", "the broker's own"),
        ("{d}/#", "type = \"{x}\"", "3:8", "{x} is not a level of the topic"),
        ("{d}/#", "subject = \"{d\"", "3:11", "belongs to no {name}"),
        ("{d}/#", "subject = \"{d}}\"", "3:11", "belongs to no {name}"),
        ("{d}/#", "subject = \"{{d}\"", "3:11", "belongs to no {name}"),
        ("{d}/#", "lane = \"none\"", "3:8", "there is no lane"),
    ] {
        let errors = refused(topic, more);
        assert!(errors.len() == 1 && errors[0].starts_with(&format!("edge.toml:{place}: mapping.")), "{errors:?}");
        assert!(errors[0].contains(why), "{errors:?}");
    }
    let good = "[[mapping]]\ntopic = \"{a}/{b-1}/+/#\"\ntype = \"{topic}\"\nsubject = \"{a}.{b-1}.{client}.{topic}\"";
    assert_eq!(edge(good).unwrap().0.mappings.len(), 1);
}

#[test]
fn a_bridge_must_make_sense() {
    let bridge = |more: &str| edge(&format!("[[bridge]]\nname = \"old\"\nurl = \"mqtt://10.0.0.1\"\n{more}"));
    for (more, why) in [
        ("password = \"x\"", "bridge.password: needs user_name as well"),
        ("topics = []", "bridge.topics: is empty"),
        ("ca_file = \"/x.pem\"", "bridge.url: has no TLS, but files for it are given"),
        ("certificate_file = \"/x.pem\"", "belong together"),
        (
            "client_id = \"a\"\n[[bridge]]\nname = \"b\"\nurl = \"mqtt://10.0.0.1:1883\"\nclient_id = \"a\"",
            "bridge.client_id: is that of an earlier",
        ),
    ] {
        let errors = bridge(more).unwrap_err();
        assert!(errors.iter().any(|e| e.contains(why)), "{more}: {errors:?}");
    }
    let (config, warnings) = bridge("user_name = \"u\"\npassword = \"x\"").unwrap();
    assert_eq!(config.bridges[0].url, "mqtt://10.0.0.1:1883");
    assert!(warnings.iter().any(|w| w.contains("unencrypted")), "{warnings:?}");
}

#[test]
fn a_bridge_to_ourselves_is_a_mistake() {
    let check = |listen: &str, url: &str| {
        edge(&format!(
            "[identity]\nmode = \"open\"\n[mqtt]\nlisten = {listen:?}\n[[bridge]]\nname = \"old\"\nurl = {url:?}\nlocal = true"
        ))
    };
    for (listen, url) in [
        ("127.0.0.1:1883", "mqtt://127.0.0.1:1883"),
        ("127.0.0.1:1883", "mqtt://localhost"),
        ("0.0.0.0:1884", "mqtt://localhost:1884"),
        ("[::]:1884", "mqtt://[::1]:1884"),
        ("10.0.0.7:1883", "mqtt://10.0.0.7"),
    ] {
        let errors = check(listen, url).unwrap_err();
        assert!(errors[0].contains("bridge.url: is this gateway's own mqtt.listen"), "{listen} {url}: {errors:?}");
    }
    for (listen, url) in [
        ("127.0.0.1:1884", "mqtt://127.0.0.1:1883"),
        ("10.0.0.7:1883", "mqtt://127.0.0.1"),
        ("0.0.0.0:1883", "mqtt://10.0.0.8"),
        ("off", "mqtt://127.0.0.1"),
    ] {
        assert!(check(listen, url).is_ok(), "{listen} {url}");
    }
}

#[test]
fn what_mqtt_takes_and_the_outbox_cannot_keep_is_said() {
    let (_, warnings) = edge("[mqtt]\nmax_packet = \"2MiB\"\n[outbox]\ndedup_window = \"0s\"").unwrap();
    assert_eq!(
        warnings,
        [
            "edge.toml:2:14: mqtt.max_packet: 2MiB is more than outbox.max_event (1MiB): larger messages reach local subscribers and never the cloud",
            "edge.toml:4:16: outbox.dedup_window: 0: an MQTT message with QoS 2 that comes again after a crash may be stored twice",
        ]
    );
}
