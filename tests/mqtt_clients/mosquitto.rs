//! mosquitto_pub and mosquitto_sub.

use std::process::Command;

use crate::harness::{Gate, PATIENCE, Running};

/// Messages to a shared subscription.
const SHARED: usize = 20;

/// One version of the protocol, at one gateway.
struct Site<'a> {
    gate: &'a Gate,
    version: &'static str,
    clients: usize,
}

impl Site<'_> {
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        // Into a file they write when their buffer is full.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", program, "-h", "localhost", "-V", self.version]);
        if !arguments.contains(&"-p") {
            command.args(["-p", &self.gate.tcp.to_string()]);
        }
        command.args(arguments);
        command
    }

    fn start(&mut self, program: &str, arguments: &[&str]) -> Running {
        self.clients += 1;
        let name = format!("{}-{}-{}", program, self.version, self.clients);
        Running::start(&mut self.command(program, arguments), self.gate.dir.path(), &name)
    }

    /// `mosquitto_sub`, once it has its subscription.
    fn subscribed(&mut self, arguments: &[&str]) -> Running {
        let mut sub = self.start("mosquitto_sub", &[&["-d", "-F", "got %t %p %q %r"], arguments].concat());
        sub.says("Subscribed (mid:");
        sub
    }

    /// `mosquitto_pub`, which succeeds once its message is acknowledged.
    fn publish(&mut self, topic: &str, payload: &str, qos: &str, more: &[&str]) {
        let arguments = [&["-t", topic, "-m", payload, "-q", qos], more].concat();
        let (code, said) = self.start("mosquitto_pub", &arguments).ends(PATIENCE);
        assert_eq!(code, 0, "{arguments:?}: {said}");
    }

    fn refused(&mut self) -> (i32, String) {
        let arguments = ["-t", "x", "-m", "x", "-q", "1", "-u", "press-7", "-P", "wrong"];
        self.start("mosquitto_pub", &arguments).ends(PATIENCE)
    }
}

/// The messages that `mosquitto_sub` says it got.
fn got(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("got ")).collect()
}

#[test]
fn each_quality_of_service_arrives_and_is_stored() {
    let mut gate = Gate::start();
    for (n, version) in [(0, "mqttv311"), (1, "mqttv5")] {
        let (ca, tls) = (gate.ca.to_str().unwrap().to_owned(), gate.tls.to_string());
        let mut site = Site { gate: &gate, version, clients: 0 };
        let watcher = site.subscribed(&["-t", "m/+/#", "-q", "2", "-C", "7"]);
        for qos in ["0", "1", "2"] {
            site.publish(&format!("m/{qos}/tcp"), "a", qos, &[]);
            site.publish(&format!("m/{qos}/tls"), "b", qos, &["--cafile", &ca, "-p", &tls]);
        }
        site.publish("m/mine", "c", "1", &["-u", "press-7", "-P", "right"]);
        let (code, said) = watcher.ends(PATIENCE);
        let all =
            ["m/0/tcp a 0 0", "m/0/tls b 0 0", "m/1/tcp a 1 0", "m/1/tls b 1 0", "m/2/tcp a 2 0", "m/2/tls b 2 0"];
        let mut found = got(&said);
        // QoS 0 is not acknowledged, so that its publisher is gone before it has arrived.
        found.sort_unstable();
        assert_eq!((code, &found[..]), (0, &[&all[..], &["m/mine c 1 0"]].concat()[..]), "{said}");
        let (code, said) = site.refused();
        assert!(said.to_lowercase().contains("bad user name or password"), "{said}");
        assert_eq!(code, if version == "mqttv5" { 134 } else { 4 }, "{said}");
        gate.stores(7 * (n + 1));
    }
}

#[test]
fn what_is_retained_or_waits_or_was_left_behind_arrives() {
    let mut gate = Gate::start();
    for (n, version) in [(0, "mqttv311"), (1, "mqttv5")] {
        let mut site = Site { gate: &gate, version, clients: 0 };
        site.publish("m/state", "kept", "1", &["-r"]);
        let (code, said) = site.subscribed(&["-t", "m/#", "-q", "1", "-C", "1"]).ends(PATIENCE);
        assert_eq!((code, &got(&said)[..]), (0, &["m/state kept 1 1"][..]), "{said}");

        // 5.0 has to ask for a session that lasts.
        let expiry: &[&str] = if version == "mqttv5" { &["-x", "60"] } else { &[] };
        let absent = [&["-i", "absent", "-c", "-q", "2", "-t", "queue/#"], expiry].concat();
        let (code, said) = site.start("mosquitto_sub", &[&absent[..], &["-E"]].concat()).ends(PATIENCE);
        assert_eq!(code, 0, "{said}");
        for (payload, qos) in [("a", "1"), ("b", "1"), ("c", "2")] {
            site.publish("queue/x", payload, qos, &[]);
        }
        let (code, said) = site.subscribed(&[&absent[..], &["-C", "3"]].concat()).ends(PATIENCE);
        // A message with QoS 2 counts for the client once it is released, which later ones may overtake: so it is the last.
        let queued = ["queue/x a 1 0", "queue/x b 1 0", "queue/x c 2 0"];
        assert_eq!((code, &got(&said)[..]), (0, &queued[..]), "{said}");

        let watcher = site.subscribed(&["-t", "will/+", "-q", "1", "-C", "1"]);
        let will = ["--will-topic", "will/mortal", "--will-payload", "gone", "--will-qos", "1"];
        site.subscribed(&[&["-t", "nothing"], &will[..]].concat()).kill9();
        let (code, said) = watcher.ends(PATIENCE);
        assert_eq!((code, &got(&said)[..]), (0, &["will/mortal gone 1 0"][..]), "{said}");
        site.publish("m/state", "", "1", &["-r"]);
        gate.stores(6 * (n + 1));
    }
}

#[test]
fn a_shared_subscription_gets_each_message_once() {
    let mut gate = Gate::start();
    for (n, version) in [(0, "mqttv311"), (1, "mqttv5")] {
        let mut site = Site { gate: &gate, version, clients: 0 };
        let mut members = [(); 2].map(|()| site.subscribed(&["-t", "$share/g/work/#", "-q", "1"]));
        let lines = (0..SHARED).map(|n| format!("{n}\n")).collect::<String>();
        let file = gate.dir.path().join("lines");
        std::fs::write(&file, lines).unwrap();
        let mut command = site.command("mosquitto_pub", &["-t", "work/x", "-q", "1", "-l"]);
        let status = command.stdin(std::fs::File::open(&file).unwrap()).status().unwrap();
        assert!(status.success());
        let end = std::time::Instant::now() + PATIENCE;
        let all = |members: &[Running; 2]| {
            let mut all: Vec<String> = Vec::new();
            for said in members.iter().map(Running::said) {
                assert!(!got(&said).is_empty() || end > std::time::Instant::now(), "one got nothing");
                all.extend(got(&said).iter().map(|line| (*line).to_owned()));
            }
            all
        };
        while all(&members).len() < SHARED {
            assert!(end > std::time::Instant::now(), "{:?}", all(&members));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let mut found = all(&members);
        found.sort();
        let mut wanted: Vec<_> = (0..SHARED).map(|n| format!("work/x {n} 1 0")).collect();
        wanted.sort();
        assert_eq!(found, wanted);
        for member in &mut members {
            assert!(!got(&member.said()).is_empty(), "both have their share");
        }
        gate.stores(SHARED as u64 * (n + 1));
    }
}
