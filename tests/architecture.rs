//! The rules that keep the parts apart, read from the source: which module may use which, which files hold
//! no I/O, how long a file may be, where `unsafe` is.

#![allow(clippy::unwrap_used)] // a test

use std::fs;
use std::path::{Path, PathBuf};

/// Module, and the modules of ours it may use besides itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("event", &["sys"]),
    ("config", &["event", "sys"]),
    ("observe", &["config", "event", "sys"]),
    ("security", &["config", "event", "sys", "observe"]),
    ("pulsar", &["config", "event", "sys", "security"]),
    ("outbox", &["config", "event", "sys", "observe"]),
    ("journal", &["event", "sys", "observe"]),
    ("downlink", &["journal", "pulsar", "config", "event", "sys", "observe", "security"]),
    ("models", &["downlink", "pulsar", "config", "event", "sys"]),
    ("inference", &["config", "event", "sys", "observe"]),
    ("ingest", &["inference", "outbox", "journal", "downlink", "config", "event", "sys", "observe", "security"]),
    ("uplink", &["outbox", "pulsar", "config", "event", "sys", "observe", "security"]),
    ("cloud", &["downlink", "models", "pulsar", "config", "event", "sys", "observe", "security"]),
    (
        "app",
        &[
            "ingest",
            "inference",
            "downlink",
            "models",
            "journal",
            "outbox",
            "uplink",
            "cloud",
            "pulsar",
            "config",
            "event",
            "sys",
            "observe",
            "security",
        ],
    ),
    (
        "cli",
        &[
            "app", "ingest", "downlink", "models", "outbox", "cloud", "pulsar", "config", "event", "sys", "observe",
            "security",
        ],
    ),
];

/// Files and directories that decide and never act.
const PURE: &[&str] = &[
    "src/event",
    "src/ingest/identity/limiter.rs",
    "src/ingest/identity/quota.rs",
    "src/ingest/identity/rules.rs",
    "src/ingest/identity/throttle.rs",
    "src/ingest/bridge/window.rs",
    "src/ingest/mapping",
    "src/ingest/mqtt/packet",
    "src/ingest/mqtt/topic",
    "src/ingest/mqtt/broker",
    "src/ingest/mqtt/sys_topics.rs",
    "src/ingest/mqtt/websocket/frames.rs",
    "src/ingest/mqtt/store",
    "src/ingest/mqtt/store.rs",
    "src/config/diff.rs",
    "src/config/overlay.rs",
    "src/config/key_text.rs",
    "src/inference/breaker.rs",
    "src/inference/failure.rs",
    "src/inference/fields.rs",
    "src/inference/verdict.rs",
    "src/journal/frame.rs",
    "src/journal/time_line.rs",
    "src/outbox/block.rs",
    "src/outbox/cursor.rs",
    "src/outbox/room.rs",
    "src/outbox/window.rs",
    "src/uplink/resume.rs",
    "src/uplink/allowed.rs",
    "src/uplink/batch.rs",
    "src/downlink/artefact",
    "src/downlink/commands/answer.rs",
    "src/downlink/commands/command.rs",
    "src/downlink/commands/record.rs",
    "src/downlink/commands/core",
    "src/downlink/commands/core.rs",
    "src/downlink/commands/topics.rs",
    "src/downlink/keeper/inbox.rs",
    "src/downlink/link/content.rs",
    "src/downlink/link/core",
    "src/downlink/link/core.rs",
    "src/downlink/link/frames.rs",
    "src/downlink/link/pending.rs",
    "src/downlink/number.rs",
    "src/downlink/report.rs",
    "src/downlink/trial/away.rs",
    "src/downlink/trial/machine.rs",
    "src/downlink/trial/mod.rs",
    "src/downlink/trial/proof.rs",
    "src/downlink/trial/record.rs",
    "src/downlink/trial/settle.rs",
    "src/downlink/trial/start.rs",
    "src/cloud/audit.rs",
    "src/cloud/control/documents.rs",
    "src/cloud/control/fleet.rs",
    "src/cloud/control/gated.rs",
    "src/cloud/control/history.rs",
    "src/cloud/control/keys.rs",
    "src/cloud/control/later.rs",
    "src/cloud/control/reports.rs",
    "src/cloud/control/numbers.rs",
    "src/cloud/control/state.rs",
    "src/cloud/models/catalogue.rs",
    "src/cloud/models/resume.rs",
    "src/cloud/models/updates/desk.rs",
    "src/cloud/rollout/course.rs",
    "src/cloud/rollout/decide.rs",
    "src/cloud/rollout/event.rs",
    "src/cloud/rollout/fold.rs",
    "src/cloud/rollout/gates.rs",
    "src/cloud/rollout/mod.rs",
    "src/cloud/rollout/node.rs",
    "src/cloud/rollout/plan.rs",
    "src/cloud/rollout/progress.rs",
    "src/cloud/rollout/query.rs",
    "src/cloud/rollout/void.rs",
    "src/cloud/rollout/waves.rs",
    "src/models/chunks.rs",
    "src/models/delta.rs",
    "src/models/desired.rs",
    "src/models/fetch.rs",
    "src/models/fetch/pace.rs",
    "src/models/fetch/places.rs",
    "src/models/hash.rs",
    "src/models/index.rs",
    "src/models/manifest.rs",
    "src/models/mod.rs",
    "src/models/pack.rs",
    "src/models/plan.rs",
    "src/models/store/active.rs",
    "src/models/store/budget.rs",
    "src/models/turns.rs",
    "src/sys/backoff.rs",
    "src/cloud/intervals.rs",
    "src/cloud/line.rs",
    "src/cloud/policy.rs",
    "src/pulsar/provision/plan.rs",
    "src/pulsar/names.rs",
    "src/pulsar/wire/frame.rs",
    "src/pulsar/wire/lookup.rs",
    "src/pulsar/murmur.rs",
];

/// What a pure file may not contain outside its tests.
const IMPURE: &[&str] =
    &[".await", "std::fs", "std::net", "std::thread", "Instant::now", "tokio::", "sys::random", "Clock", "tracing::"];

const FILE_LINES_MAX: usize = 700;

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The file without its `#[cfg(test)]` tail and without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    code.lines().map(|l| l.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn dependencies_point_one_way() {
    let mut wrong = Vec::new();
    for path in sources(Path::new("src")) {
        let inside = path.strip_prefix("src").unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let module = first.trim_end_matches(".rs");
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let (_, allowed) = MAY_USE
            .iter()
            .find(|(m, _)| *m == module)
            .unwrap_or_else(|| panic!("{module} is new: say in this test what it may use"));
        for used in code(&path).split("crate::").skip(1) {
            let names: Vec<String> = match used.strip_prefix('{') {
                Some(group) => group
                    .split('}')
                    .next()
                    .unwrap_or_default()
                    .split(',')
                    .map(|n| n.trim().split("::").next().unwrap_or_default().to_owned())
                    .filter(|n| !n.is_empty())
                    .collect(),
                None => vec![used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()],
            };
            for name in names {
                let known = MAY_USE.iter().any(|(m, _)| *m == name);
                if known && name != module && !allowed.contains(&name.as_str()) {
                    wrong.push(format!("{} uses crate::{name}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_files_do_no_io() {
    let mut wrong = Vec::new();
    for place in PURE {
        let place = Path::new(place);
        let files = if place.is_dir() { sources(place) } else { vec![place.to_owned()] };
        for path in files {
            let code = code(&path);
            wrong.extend(IMPURE.iter().filter(|w| code.contains(**w)).map(|w| format!("{}: {w}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "these files are marked pure:\n{}", wrong.join("\n"));
}

#[test]
fn files_are_about_one_thing_and_say_so() {
    let mut wrong = Vec::new();
    for path in sources(Path::new("src")).into_iter().chain(sources(Path::new("tests"))) {
        let text = fs::read_to_string(&path).unwrap();
        if !text.starts_with("//!") {
            wrong.push(format!("{} does not start with what it is about (//!)", path.display()));
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{} has {lines} lines; look for the second thing in it", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_is_in_one_file() {
    let unsafe_files: Vec<_> =
        sources(Path::new("src")).into_iter().filter(|p| code(p).split_whitespace().any(|w| w == "unsafe")).collect();
    let only = PathBuf::from("src/sys/sync_barrier.rs");
    assert!(unsafe_files.iter().all(|p| *p == only), "{unsafe_files:?}");
}
