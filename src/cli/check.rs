//! `tidegate check FILE`: says what is wrong with a configuration, or what it means.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::pushed::{self, InEffect};
use crate::config::cloud::Sink;
use crate::config::mode::{self, Loaded};
use crate::config::units::format_size;
use crate::config::{CloudConfig, ConfigErrors, EdgeConfig, Env, Mode, OwnFile, Warning};
use crate::ingest::identity::{Keys, devices_file};
use crate::ingest::mqtt::memory_bytes_max;
use crate::security::server;
use crate::sys::clock::Clock;

/// Exit code for a wrong configuration (EX_USAGE of sysexits).
const EXIT_USAGE: u8 = 64;

/// Checks `file` with this process's environment, as a start with it would; without a file the
/// defaults. `given`: `--edge` or `--cloud`, where the file does not tell.
pub fn run(file: Option<&Path>, given: Option<Mode>) -> ExitCode {
    let report = check(file, given, &Env::of_process());
    // Whoever closed the pipe does not want to read on; the exit code still tells.
    let _ = std::io::stdout().write_all(report.out.as_bytes());
    let _ = std::io::stderr().write_all(report.err.as_bytes());
    if report.ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) }
}

/// What is printed.
#[derive(Debug)]
struct Report {
    ok: bool,
    out: String,
    err: String,
}

fn check(file: Option<&Path>, given: Option<Mode>, env: &Env) -> Report {
    let name = file.map_or("defaults".to_owned(), |path| path.display().to_string());
    let loaded = match (file, given) {
        (Some(path), _) => mode::load(path, given, env),
        (None, Some(Mode::Cloud)) => CloudConfig::load(None, env).map(|(c, w)| Some((Loaded::Cloud(Box::new(c)), w))),
        (None, _) => OwnFile::load(None, env.clone()).map(|own| {
            let warnings = own.warnings().to_vec();
            Some((Loaded::Edge(Box::new(own)), warnings))
        }),
    };
    match loaded {
        Ok(Some((Loaded::Edge(own), warnings))) => {
            let InEffect { config, notes, warnings: more } = pushed::in_effect(&own);
            let mut lines = notes;
            lines.extend(config.effective());
            lines.push(on_disk(&config));
            lines.push(in_memory(&config));
            let mut report = accept(&name, &edge_summary(&config), &lines, &warnings);
            report.err.extend(more.iter().map(|warning| format!("warning: {warning}\n")));
            with_files(report, &name, &config)
        }
        Ok(Some((Loaded::Cloud(config), warnings))) => {
            accept(&name, &cloud_summary(&config), &config.effective(), &warnings)
        }
        Ok(None) => Report {
            ok: false,
            out: String::new(),
            err: format!("{name}: its sections do not tell whether it is for edge or cloud; add --edge or --cloud\n"),
        },
        Err(errors) => refuse(&name, &errors),
    }
}

fn accept(name: &str, summary: &str, effective: &[String], warnings: &[Warning]) -> Report {
    let (mut out, mut err) = (format!("{name}: ok {summary}\n"), String::new());
    // Writing to a string cannot fail.
    effective.iter().for_each(|line| {
        let _ = writeln!(out, "  {line}");
    });
    warnings.iter().for_each(|warning| {
        let _ = writeln!(err, "warning: {warning}");
    });
    Report { ok: true, out, err }
}

/// What a start would say of the files that the configuration names: devices, keys, certificates.
fn with_files(report: Report, name: &str, config: &EdgeConfig) -> Report {
    let identity = &config.identity;
    let (mut wrong, mut err) = (Vec::new(), report.err);
    match identity.devices_file.as_deref().map(devices_file::load) {
        Some(Err(e)) => wrong.push(e.to_string()),
        Some(Ok(devices)) if devices.is_empty() && identity.jwt_key_file.is_none() => {
            err.push_str("warning: identity.devices_file names no device yet: tidegate devices add NAME\n");
        }
        _ => {}
    }
    if let Some(path) = &identity.jwt_key_file {
        wrong.extend(Keys::load(path, identity).err().map(|e| e.to_string()));
    }
    if config.tls.certificate_file.is_some() {
        match server::check(&config.tls, &Clock::system()) {
            Ok(troubles) => err.extend(troubles.iter().map(|trouble| format!("warning: tls: {trouble}\n"))),
            Err(e) => wrong.push(e.to_string()),
        }
    }
    if wrong.is_empty() {
        return Report { err, ..report };
    }
    let count = wrong.len();
    let plural = if count == 1 { "" } else { "s" };
    Report { ok: false, out: String::new(), err: format!("{err}{}\n{name}: {count} error{plural}\n", wrong.join("\n")) }
}

fn refuse(name: &str, errors: &ConfigErrors) -> Report {
    let count = errors.problems().len();
    let plural = if count == 1 { "" } else { "s" };
    Report { ok: false, out: String::new(), err: format!("{errors}\n{name}: {count} error{plural}\n") }
}

fn edge_summary(config: &EdgeConfig) -> String {
    let uplink = match config.uplink.pulsar.as_slice() {
        [] => "no uplink, events are only buffered".to_owned(),
        urls => format!("uplink to {}", urls.join(" or ")),
    };
    format!("(edge): {}, {uplink}", lanes(config.lanes.len()))
}

/// What it may take of the disk.
fn on_disk(config: &EdgeConfig) -> String {
    let (events, mqtt) = (format_size(config.outbox.max_bytes), format_size(config.mqtt.disk_bytes_max()));
    format!("on disk at most: events {events}, MQTT sessions {mqtt}")
}

/// What clients can make it take of the memory: the sum of the limits, which nobody reaches without wanting to.
fn in_memory(config: &EdgeConfig) -> String {
    let mib = memory_bytes_max(&config.mqtt).div_ceil(1 << 20);
    format!("in memory at most: MQTT clients {}", format_size(mib << 20))
}

fn cloud_summary(config: &CloudConfig) -> String {
    let sinks: Vec<String> =
        config.sinks.iter().map(|Sink::Files(files)| format!("files in {}", files.dir.display())).collect();
    format!("(cloud): {} from {} to {}", lanes(config.lanes.len()), config.pulsar.service, sinks.join(" and "))
}

fn lanes(count: usize) -> String {
    format!("{count} lane{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(text: &str, given: Option<Mode>, env: &Env) -> (bool, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, text).unwrap();
        let report = check(Some(&path), given, env);
        let short = |text: String| text.replace(&path.display().to_string(), "a.toml");
        (report.ok, short(report.out), short(report.err))
    }

    #[test]
    fn a_good_file_is_explained() {
        let env = Env::of([("TIDEGATE_UPLINK_TOKEN", "s3cret"), ("TIDEGATE_HTTP_LISTN", "x")]).on_host("press-7");
        let text = "[uplink]\npulsar = [\"pulsar://127.0.0.1\"]\n[[lane]]\nname = \"alarms\"\ntypes = [\"*.alarm\"]\n[[lane]]\nname = \"rest\"";
        let (ok, out, err) = on(text, None, &env);
        assert!(ok);
        assert_eq!(
            out,
            "a.toml: ok (edge): 2 lanes, uplink to pulsar://127.0.0.1:6650\n  node.id = \"press-7\"\n  \
             lane alarms: takes *.alarm\n  lane rest: takes what no other lane matches\n  \
             uplink.pulsar = [\"pulsar://127.0.0.1:6650\"]\n  uplink.token = (secret)\n  \
             on disk at most: events 2GiB, MQTT sessions 784MiB\n  \
             in memory at most: MQTT clients 717MiB\n"
        );
        assert_eq!(
            err,
            "warning: TIDEGATE_HTTP_LISTN: has no effect: there is no such key; did you mean TIDEGATE_HTTP_LISTEN?\n"
        );
        let (_, out, _) = on("[[sink]]\nkind = \"files\"\ndir = \"/d\"\nlevel = 9", None, &env);
        assert_eq!(
            out,
            "a.toml: ok (cloud): 1 lane from pulsar://127.0.0.1:6650 to files in /d\n  \
             lane telemetry: 4 partitions\n  sink files: /d\n  sink.level = 9\n"
        );
    }

    #[test]
    fn a_bad_file_gets_its_errors_and_their_number() {
        let env = Env::empty().on_host("press-7");
        let (ok, out, err) = on("[uplnk]\n[http]\nmax_batch = 0\n", None, &env);
        assert_eq!((ok, out.as_str()), (false, ""));
        assert_eq!(
            err,
            "a.toml:1:2: uplnk: there is no such section; did you mean [uplink]?\n\
             a.toml:3:13: http.max_batch: 0 is out of range; write a whole number from 1 to 1000000\n\
             a.toml: 2 errors\n"
        );
        let (ok, _, err) = on("[http]\n", None, &env);
        assert!(!ok && err.ends_with("add --edge or --cloud\n"), "{err}");
        assert!(on("[http]\n", Some(Mode::Cloud), &env).0);
    }

    #[test]
    fn the_files_that_a_configuration_names_are_checked_too() {
        let env = Env::empty().on_host("press-7");
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let text = format!(
            "[identity]\nmode = \"required\"\ndevices_file = {:?}\njwt_key_file = {:?}\n\
             [tls]\ncertificate_file = {:?}\nkey_file = {:?}\n",
            place("devices.toml"),
            place("jwt.pem"),
            place("cert.pem"),
            place("key.pem")
        );
        let (ok, _, err) = on(&text, None, &env);
        assert!(!ok && err.ends_with("a.toml: 3 errors\n"), "{err}");
        for what in ["devices file ", "JWT key file ", "tls.certificate_file "] {
            assert!(err.contains(what), "{err}");
        }
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        std::fs::write(place("devices.toml"), "").unwrap();
        std::fs::write(place("jwt.pem"), made.cert.pem()).unwrap();
        std::fs::write(place("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(place("key.pem"), other.serialize_pem()).unwrap();
        let (ok, _, err) = on(&text, None, &env);
        assert!(!ok && err.contains("is not the key of") && err.ends_with("a.toml: 1 error\n"), "{err}");
        std::fs::write(place("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let (ok, out, err) = on(&text, None, &env);
        assert!(ok && out.starts_with("a.toml: ok (edge)") && err.is_empty(), "{err}");
    }

    /// `tidegate check <(make-config)`: a pipe gives its text once.
    #[test]
    fn a_pipe_can_be_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let to = path.clone();
        let writer = crate::sys::tasks::thread("writer", move || std::fs::write(to, "[uplink]\nwindow = 1\n")).unwrap();
        let report = check(Some(&path), None, &Env::empty());
        writer.join().unwrap().unwrap();
        assert!(report.err.contains("pipe:2:10: uplink.window: "), "{report:?}");
    }

    #[test]
    fn without_a_file_the_defaults_and_the_environment_are_checked() {
        let report = check(None, None, &Env::empty().on_host("press-7"));
        assert!(report.ok && report.err.is_empty(), "{report:?}");
        assert!(report.out.starts_with("defaults: ok (edge): 1 lane, no uplink, events are only buffered\n"));
        let report = check(None, None, &Env::of([("TIDEGATE_HTTP_LISTEN", "x")]));
        assert!(!report.ok && report.err.starts_with("TIDEGATE_HTTP_LISTEN: http.listen: "), "{report:?}");
        let report = check(Some(Path::new("/nowhere/edge.toml")), None, &Env::empty());
        assert!(!report.ok && report.err.starts_with("/nowhere/edge.toml: cannot be read: No such file"), "{report:?}");
    }
}
