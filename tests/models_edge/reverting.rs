//! Versions whose hook fails, in every way in which a program can: the one before is in use again, and it is told why.

use tidegate::downlink::artefact::Mode;
use tidegate::downlink::report::ModelOutcome;

use crate::site::{Site, active};
use crate::support::models::noise;

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_hook_crashes_is_killed_or_hangs_is_taken_back_with_its_reason() {
    // Names, what the hook does with an even version, and what is told of it.
    let cases = [
        ("exits", "echo no such tensor >&2; exit 3", "/bin/sh: exit status: 3: no such tensor"),
        ("dies", "kill -SEGV $$", "/bin/sh: signal: 11 (SIGSEGV)"),
        ("hangs", "sleep 300", "/bin/sh: not ended within 1s (model.health_timeout)"),
    ];
    let hooks = cases.map(|(name, does, _)| {
        let script = format!("case $TIDEGATE_MODEL_VERSION in *[02468]) {does};; esac");
        format!("[[model]]\nname = {name:?}\nhook = [\"/bin/sh\", \"-c\", {script:?}]\nhealth_timeout = \"1s\"\n")
    });
    let mut site = Site::start("models-hooks", &hooks.concat()).await;
    let (mut well, mut ill) = (Vec::new(), Vec::new());
    for (n, (name, _, _)) in (1..).zip(&cases) {
        well.push(site.version(name, 10 * n + 1, noise(300 + n, 64 << 10), &[]));
        ill.push(site.version(name, 10 * n + 2, noise(310 + n, 64 << 10), &[]));
    }
    for version in well.iter().chain(&ill) {
        site.publish(version).await;
    }
    let number = site.assign(well.iter().map(|version| version.assigned(Mode::Active)).collect()).await;
    for version in &well {
        assert_eq!(site.outcome(number, version).await, active(), "{}", version.name);
    }
    let number = site.assign(ill.iter().map(|version| version.assigned(Mode::Active)).collect()).await;
    for ((version, before), (name, _, detail)) in ill.iter().zip(&well).zip(&cases) {
        assert_eq!(site.outcome(number, version).await, (ModelOutcome::Reverted, "hook-failed".to_owned()), "{name}");
        let told = site.told(number, version.version);
        assert_eq!(told.last().map(|(_, _, detail)| detail.as_str()), Some(*detail), "{name}");
        assert!(site.current(name).as_ref() == Some(&before.file), "{name}");
    }
}
