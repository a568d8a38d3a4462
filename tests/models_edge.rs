//! Models assigned to a real gateway through a real broker: what is whole, signed and well is used, everything else is
//! refused or undone, and told; a kill at any moment loses nothing that was fetched.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::broker::{Broker, Options};
use support::central::{Central, key};
use support::models::{Version, messages_out, noise};
use support::process::run;
use support::pulsar_client::{Client, client};
use support::random::Random;
use support::tried::Node;
use tidegate::downlink::artefact::{Mode, ModelAssigned};
use tidegate::downlink::report::{ModelOutcome, NodeReport, What};
use tidegate::models::plan::Plan;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const SOON: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

struct Site {
    broker: Arc<Broker>,
    client: Client,
    central: Central,
    node: Node,
}

impl Site {
    async fn start(tenant: &str, more: &str) -> Self {
        let broker = tokio::task::spawn_blocking(Broker::shared).await.unwrap();
        Self::at(broker, tenant, more).await
    }

    async fn at(broker: Arc<Broker>, tenant: &str, more: &str) -> Self {
        let central = Central::start(&broker, tenant, &[tenant]).await;
        let (downlink, url) = (central.keys.trusted("20s"), broker.service_url());
        let own = format!("{downlink}{more}[uplink]\npulsar = [\"{url}\"]\ntenant = \"{tenant}\"\n");
        let node = Node::start(Path::new(BINARY), tenant, &own);
        let client = client(&url).await;
        Self { broker, client, central, node }
    }

    fn version(&self, name: &str, version: u64, file: Vec<u8>, kept: &[&Version]) -> Version {
        Version::new(&self.central.keys.artefact, name, version, file, kept)
    }

    async fn publish(&self, version: &Version) {
        version.publish(&self.broker, &self.client, &self.node.name).await;
    }

    async fn assign(&mut self, models: Vec<ModelAssigned>) -> u64 {
        self.central.push_models(&self.node.name, models).await
    }

    async fn outcome(&mut self, number: u64, version: &Version) -> (ModelOutcome, String) {
        let name = self.node.name.clone();
        self.central.wait_model(&name, (number, version.version), || self.node.alive()).await
    }

    /// Publishes, assigns, and waits for what becomes of it.
    async fn try_out(&mut self, version: &Version) -> (ModelOutcome, String) {
        self.publish(version).await;
        let number = self.assign(vec![version.assigned(Mode::Active)]).await;
        self.outcome(number, version).await
    }

    /// What programs see of a model.
    fn current(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.node.models().join(name).join("current/model")).ok()
    }
}

fn active() -> (ModelOutcome, String) {
    (ModelOutcome::Active, String::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_fetched_told_of_and_used_and_one_that_is_not_well_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let heard = dir.path().join("heard");
    let hook = format!("echo $TIDEGATE_MODEL_NAME $TIDEGATE_MODEL_VERSION >> {}", heard.display());
    let model = format!(
        "[[model]]\nname = \"anomaly\"\nhook = [\"/bin/sh\", \"-c\", {hook:?}]\n\
         health = [\"/bin/sh\", \"-c\", \"! grep -q BROKEN $TIDEGATE_MODEL_PATH\"]\nhealth_timeout = \"3s\"\n"
    );
    let mut site = Site::start("models-used", &model).await;
    let heard = || fs::read_to_string(&heard).unwrap_or_default();

    let one = site.version("anomaly", 1, noise(1, 3 * MIB), &[]);
    assert_eq!(site.try_out(&one).await, active());
    assert!(site.current("anomaly").as_ref() == Some(&one.file));
    assert_eq!(heard(), "anomaly 1\n");

    // A change of it costs what has changed.
    let mut file = one.file.clone();
    file[MIB..MIB + 1000].copy_from_slice(&noise(2, 1000));
    let two = site.version("anomaly", 2, file, &[&one]);
    assert!(two.messages.len() <= 3, "{}", two.messages.len());
    assert_eq!(site.try_out(&two).await, active());
    assert!(site.current("anomaly").as_ref() == Some(&two.file));
    assert_eq!(messages_out(&site.broker, &one.topic(&site.node.name)), one.messages.len() as u64);

    // An operator on the gateway goes back, and central operations forth again.
    let file = site.node.file().display().to_string();
    let cli = |what: &[&str]| run(Path::new(BINARY), &[&["model"], what, &["--config", &file]].concat());
    let (code, out, err) = cli(&["rollback", "anomaly"]);
    assert_eq!((code, out.as_str()), (0, "version 1 of anomaly is in use\n"), "{err}\n{}", site.node.alive());
    assert!(site.current("anomaly").as_ref() == Some(&one.file));
    let (code, _, err) = cli(&["rollback", "anomaly"]);
    assert!(code == 75 && err.contains("no version before"), "{code} {err}");
    support::eventually("the hook", SOON, heard, |heard| heard == "anomaly 1\nanomaly 2\nanomaly 1\n").await;
    let number = site.assign(vec![two.assigned(Mode::Active)]).await;
    assert_eq!(site.outcome(number, &two).await, active());
    assert_eq!(messages_out(&site.broker, &two.topic(&site.node.name)), two.messages.len() as u64);
    let (_, out, _) = cli(&["status"]);
    assert!(out.lines().nth(1).is_some_and(|line| line.starts_with("anomaly  2       1")), "{out}");

    // One that is not well.
    let mut file = two.file.clone();
    file[..6].copy_from_slice(b"BROKEN");
    let three = site.version("anomaly", 3, file, &[&one, &two]);
    assert_eq!(site.try_out(&three).await, (ModelOutcome::Reverted, "unhealthy".to_owned()));
    assert!(site.current("anomaly").as_ref() == Some(&two.file));
    assert!(heard().ends_with("anomaly 1\nanomaly 2\nanomaly 3\nanomaly 2\n"), "{}", heard());

    // Beside the one in use, and off.
    let number = site.assign(vec![two.assigned(Mode::Active), one.assigned(Mode::Shadow)]).await;
    assert_eq!(site.outcome(number, &one).await, (ModelOutcome::Shadowing, String::new()));
    let shadow = || fs::read(site.node.models().join("anomaly/shadow/model")).ok();
    assert!(shadow().as_ref() == Some(&one.file) && site.current("anomaly").as_ref() == Some(&two.file));
    assert_eq!((site.outcome(number, &two).await, heard().lines().count()), (active(), 7));
    // What is in use as assigned already is only reported.
    let number = site.assign(vec![two.assigned(Mode::Active), one.assigned(Mode::Shadow)]).await;
    assert_eq!((site.outcome(number, &two).await, heard().lines().count()), (active(), 7));
    assert_eq!(site.outcome(number, &one).await, (ModelOutcome::Shadowing, String::new()));

    // What was decided stays so over a kill, and is acknowledged: nothing is told again.
    let name = site.node.name.clone();
    let told = |site: &Site| {
        let seq = |report: &NodeReport| match report.what {
            What::Model { seq, .. } => Some(seq),
            _ => None,
        };
        site.central.reports(&name).iter().filter_map(seq).max().unwrap()
    };
    let before = told(&site);
    site.node.power_cut();
    assert!(site.current("anomaly").as_ref() == Some(&two.file));
    let present = |site: &Site| site.node.status()["models"][0].clone();
    support::eventually("the model on the status page", SOON, || present(&site), |m| m["version"] == 2).await;
    assert_eq!(present(&site)["shadow"], 1, "{}", present(&site));
    let number = site.assign(vec![two.assigned(Mode::Off)]).await;
    assert_eq!(site.outcome(number, &two).await, (ModelOutcome::Off, String::new()));
    assert!(site.current("anomaly").is_none());
    assert_eq!((told(&site), heard().lines().last().unwrap()), (before + 1, "anomaly"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_signed_and_assigned_is_refused_with_its_reason() {
    let mut site = Site::start("models-refused", "[models]\nmax_bytes = \"4MiB\"\n").await;
    let good = site.version("good", 1, noise(10, MIB), &[]);
    assert_eq!(site.try_out(&good).await, active());
    let refused = |reason: &str| (ModelOutcome::Refused, reason.to_owned());

    // Signed by somebody else.
    let foreign = Version::new(&key(9), "good", 2, noise(11, MIB), &[]);
    assert_eq!(site.try_out(&foreign).await, refused("unknown-key"));

    // Another one than was assigned, signed or not.
    let other = site.version("good", 3, noise(12, MIB), &[]);
    site.publish(&other).await;
    let number = site.assign(vec![ModelAssigned { digest: good.digest, ..other.assigned(Mode::Active) }]).await;
    assert_eq!(site.outcome(number, &other).await, refused("digest-mismatch"));

    // Chunks that the manifest does not sign: the index and the pieces of another file of the same size.
    let mut mixed = site.version("good", 4, noise(13, MIB), &[]);
    mixed.messages = site.version("good", 4, noise(14, MIB), &[]).messages;
    assert_eq!(site.try_out(&mixed).await, refused("digest-mismatch"));

    // More than there is room for.
    let large = site.version("good", 5, noise(15, 4 * MIB), &[]);
    assert_eq!(site.try_out(&large).await, refused("no-room"));

    // A pack without its end, until it is there.
    let mut cut = site.version("good", 6, noise(16, MIB), &[]);
    let last = cut.messages.pop().unwrap();
    site.publish(&cut).await;
    let number = site.assign(vec![cut.assigned(Mode::Active)]).await;
    assert_eq!(site.outcome(number, &cut).await, refused("pack-damaged"));
    cut.messages = vec![last];
    assert_eq!(site.try_out(&cut).await, active());
    assert!(site.current("good").as_ref() == Some(&cut.file));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_killed_at_any_moment_goes_on_where_it_was() {
    let kills = support::setting("TIDEGATE_TEST_MODEL_KILLS", 6);
    let mut random = Random::from_environment();
    let proxied = || Arc::new(Broker::start_with(Options { proxied: true, ..Options::default() }));
    let broker = tokio::task::spawn_blocking(proxied).await.unwrap();
    let mut site = Site::at(broker, "models-killed", "").await;
    let (mut killed, mut n, mut versions) = (0, 0, Vec::<Version>::new());
    // Messages that came twice: in all, and for one kill.
    let (mut twice, mut twice_most) = (0, 0);
    while killed < kills {
        n += 1;
        let version = site.version("anomaly", n, noise(100 + n, 6 * MIB), &[]);
        site.broker.proxy().slow(0);
        site.publish(&version).await;
        // Six megabytes in four seconds.
        site.broker.proxy().slow(3 * MIB as u64 / 2);
        let number = site.assign(vec![version.assigned(Mode::Active)]).await;
        versions.push(version.clone());
        let name = site.node.name.clone();
        let mut of_this = 0;
        while site.central.model(&name, number, n).last().is_none_or(|(outcome, _)| *outcome == ModelOutcome::Fetched) {
            if killed >= kills {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200 + random.below(1500))).await;
            site.node.process.kill9();
            killed += 1;
            // What the broker has been asked for is on its way.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let more = messages_out(&site.broker, &version.topic(&name)) - on_disk(&site.node, &version) - of_this;
            // The one under way, for nothing is asked for ahead on a link like this.
            assert!(more <= 1, "kill {killed} of version {n}: {more} messages come again");
            (of_this, twice_most) = (of_this + more, twice_most.max(more));
            let seen = site.current("anomaly");
            let whole = seen.is_none() || versions.iter().any(|version| seen.as_ref() == Some(&version.file));
            assert!(whole, "after kill {killed}: current/model is no version that was published");
            site.node.restart();
        }
        assert_eq!(site.outcome(number, &version).await, active());
        assert!(site.current("anomaly").as_ref() == Some(&version.file));
        let (out, places) = (messages_out(&site.broker, &version.topic(&name)), version.messages.len() as u64);
        assert_eq!(out, places + of_this, "version {n}");
        twice += of_this;
    }
    let mean = twice as f64 / killed as f64;
    println!("{killed} kills, {n} versions: for a kill {mean:.2} messages come twice, at most {twice_most}");
}

/// Messages of a version's pack that a start finds on disk.
fn on_disk(node: &Node, version: &Version) -> u64 {
    let dir = node.models().join(version.name.as_str());
    let read = |of: String, file: &str| fs::read(dir.join(of).join(file)).ok();
    if let Some(data) = read(format!("partial-{}", version.version), "data") {
        let placed: Vec<_> =
            version.index.placed().map(|(at, e)| at as usize..at as usize + e.length as usize).collect();
        let has =
            |n: u32| placed.get(n as usize).is_some_and(|at| data.get(at.clone()) == version.file.get(at.clone()));
        return (version.messages.len() - Plan::of(&version.index, has).messages()) as u64;
    }
    let is_whole = dir.join(version.version.to_string()).exists();
    if is_whole { version.messages.len() as u64 } else { 0 }
}
