//! What runs after the process has started: decided from the trial's record before anything else is started.

use std::collections::VecDeque;
use std::io;

use super::inbox::{Inbox, accepted_after_loss};
use super::store::{self, Store};
use crate::config::{EdgeConfig, OwnFile, Warning};
use crate::downlink::artefact::KeyError;
use crate::downlink::trial::{Action, Input, Machine, Number, Place, Policy};

/// A machine whose first configuration can be started.
#[derive(Debug)]
pub struct Begun {
    /// The machine.
    pub machine: Machine,
    /// What is to be started. While a document is on trial that is the committed configuration, which the document is
    /// applied over once the gateway runs.
    pub config: EdgeConfig,
    /// What is to run.
    pub place: Place,
    /// It is on trial.
    pub on_trial: bool,
    /// Of the [`Action::Apply`] that asked for it, which is to be answered once it runs.
    pub generation: u64,
    /// What should be known of it although it is used.
    pub warnings: Vec<Warning>,
    /// To be given to the machine, in this order.
    pub inputs: VecDeque<Input>,
    /// To be done before that.
    pub actions: VecDeque<Action>,
    /// Reports from this one on were decided since the process started.
    pub decided_from: u64,
}

impl Begun {
    /// The own file alone, whatever is on disk.
    pub fn local(machine: Machine, own: &OwnFile) -> Self {
        Self {
            machine,
            config: own.alone().clone(),
            place: Place::Local,
            on_trial: false,
            // The machine has asked for it first of all.
            generation: 1,
            warnings: Vec::new(),
            inputs: VecDeque::new(),
            actions: VecDeque::new(),
            decided_from: 1,
        }
    }
}

/// Takes up what is on disk, and goes from one configuration to the next until one can be started; the own file is the
/// last and needs nothing. `check` says what keeps a configuration from being started although it reads well. Blocks on the
/// disk: the record must say that a document on trial was loaded once more before it is. An error is a disk that does not
/// answer: then nobody knows what was committed.
pub fn begin(
    own: &OwnFile,
    store: &Store,
    policy: Policy,
    check: impl Fn(&EdgeConfig) -> Result<(), String>,
) -> io::Result<Begun> {
    let found = store.slots().find()?;
    let decided_from = found.record.as_ref().ok().and_then(Option::as_ref).map_or(1, |record| record.next_report);
    let (mut machine, actions) = Machine::start(policy, &found, 0);
    let mut actions = VecDeque::from(actions);
    let (mut inputs, mut later) = (VecDeque::new(), VecDeque::new());
    loop {
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Persist { write, record } => inputs.push_back(match store.persist(&record) {
                    Ok(()) => Input::Persisted { write },
                    Err(reason) => {
                        tracing::error!(%reason, dir = %store.dir().display(), "cannot write the record of the trial");
                        Input::NotPersisted { write }
                    }
                }),
                Action::Apply { generation, place } => {
                    let loaded = store::load(own, store.slots(), &place).and_then(|(config, warnings)| {
                        // What runs without anything pushed is not judged here.
                        let checked = if place == Place::Local { Ok(()) } else { check(&config) };
                        checked.map(|()| (config, warnings))
                    });
                    match loaded {
                        Ok((config, warnings)) => {
                            later.append(&mut actions);
                            let on_trial = machine.record().candidate.as_ref().is_some_and(|c| c.config.place == place);
                            let before = on_trial.then(|| committed(own, store, &machine, &check));
                            return Ok(Begun {
                                machine,
                                config: before.unwrap_or(config),
                                place,
                                on_trial,
                                generation,
                                warnings,
                                inputs,
                                actions: later,
                                decided_from,
                            });
                        }
                        Err(detail) => {
                            tracing::error!(reason = detail, "a pushed document cannot be used");
                            inputs.push_back(Input::NotApplied { generation, detail });
                        }
                    }
                }
                // None of these is asked for before something runs; if it is, the loop has to do it.
                other => later.push_back(other),
            }
        }
        let Some(input) = inputs.pop_front() else {
            return Err(io::Error::other("the record of the trial names nothing that could run"));
        };
        actions.extend(machine.handle(0, input));
    }
}

/// The committed configuration, or the own file if that cannot be had now.
fn committed(
    own: &OwnFile,
    store: &Store,
    machine: &Machine,
    check: impl Fn(&EdgeConfig) -> Result<(), String>,
) -> EdgeConfig {
    let loaded = store::load(own, store.slots(), &machine.record().committed.place);
    let loaded = loaded.and_then(|(config, _)| check(&config).map(|()| config));
    loaded.unwrap_or_else(|reason| {
        tracing::error!(reason, "the committed document cannot be used");
        own.alone().clone()
    })
}

/// Whom a gateway with its own file `own` believes, and what it took before, as far as that is stored.
pub fn inbox(own: &EdgeConfig, store: Option<&Store>, settled: Number) -> Result<Inbox, KeyError> {
    let (accepted, keyring) = store.map_or((None, None), |store| (store.accepted(), store.keyring()));
    let accepted = accepted.unwrap_or_else(|| accepted_after_loss(settled));
    let (inbox, refused) = Inbox::new(&own.node.id, &own.downlink, keyring, accepted)?;
    if let Some(refusal) = refused {
        tracing::warn!(%refusal, "the stored keyring does not count any more");
    }
    Ok(inbox)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;
    use crate::downlink::artefact::Digest;
    use crate::downlink::trial::{Candidate, Config, Number, Outcome, Reason, Record, STARTS_MAX, Slot, Stage};

    const GOOD: &str = "[uplink]\nbatch_events = 7\n";
    const OTHER: &str = "[uplink]\nbatch_events = 8\n";
    const WRONG: &str = "[uplink]\nbatch_evnts = 9\n";

    struct Gateway {
        dir: tempfile::TempDir,
        own: OwnFile,
    }

    impl Gateway {
        fn new() -> Self {
            let own = OwnFile::load(None, Env::empty()).unwrap();
            Self { dir: tempfile::tempdir().unwrap(), own }
        }

        fn store(&self) -> Store {
            Store::open(self.dir.path()).unwrap()
        }

        fn put(&self, slot: Slot, number: u64, text: &str) -> Config {
            let number = Number::from(number);
            let digest = Digest::of(text.as_bytes()).bytes();
            self.store().slots().write(slot, number, digest, text.as_bytes()).unwrap();
            Config { number, place: Place::Slot { slot, digest } }
        }

        fn record(&self, committed: Config, candidate: Option<Config>, starts: u8) {
            let candidate = candidate.map(|config| Candidate {
                config,
                stage: Stage::OnTrial,
                starts,
                attempts: 1,
                turns: 0,
                grounded: true,
                used_ms: 0,
                failure: None,
            });
            let settled = candidate.as_ref().map_or(committed.number, |c| c.config.number);
            let record = Record { committed, candidate, settled, ..Record::default() };
            self.store().slots().persist(&record).unwrap();
        }

        fn begin(&self) -> (usize, Begun) {
            let check = |config: &EdgeConfig| match config.uplink.batch_events {
                8 => Err("its certificate is gone".to_owned()),
                _ => Ok(()),
            };
            let begun = begin(&self.own, &self.store(), Policy::default(), check).unwrap();
            (begun.config.uplink.batch_events, begun)
        }
    }

    fn last(begun: &Begun) -> (Outcome, Option<Reason>) {
        let report = begun.machine.record().reports.back().unwrap();
        (report.outcome, report.failure.as_ref().map(|f| f.reason))
    }

    #[test]
    fn without_anything_pushed_the_own_file_runs_and_nothing_is_written() {
        let gateway = Gateway::new();
        let (events, begun) = gateway.begin();
        assert_eq!((events, begun.place), (gateway.own.alone().uplink.batch_events, Place::Local));
        assert!(!gateway.dir.path().join("downlink/trial").exists());
    }

    #[test]
    fn a_committed_document_runs_or_the_own_file_if_it_cannot() {
        let gateway = Gateway::new();
        gateway.record(gateway.put(Slot::A, 3, GOOD), None, 0);
        assert_eq!(gateway.begin().0, 7);
        for text in [WRONG, OTHER] {
            gateway.record(gateway.put(Slot::A, 4, text), None, 0);
            let (events, begun) = gateway.begin();
            assert_eq!((events, begun.place), (gateway.own.alone().uplink.batch_events, Place::Local), "{text}");
            assert_eq!(last(&begun), (Outcome::Fallback, Some(Reason::NotApplied)));
        }
    }

    #[test]
    fn a_document_on_trial_is_counted_before_it_is_loaded_and_given_up_after_too_many_starts() {
        let gateway = Gateway::new();
        let committed = gateway.put(Slot::A, 3, GOOD);
        let other = gateway.put(Slot::B, 4, "[uplink]\nbatch_events = 9\n");
        gateway.record(committed, Some(other), 0);
        for start in 1..=STARTS_MAX {
            let (events, begun) = gateway.begin();
            assert_eq!((events, begun.place, begun.on_trial), (7, other.place, true));
            let record = gateway.store().slots().find().unwrap().record.unwrap().unwrap();
            assert_eq!(record.candidate.unwrap().starts, start);
        }
        let (events, begun) = gateway.begin();
        assert_eq!((events, begun.place, begun.on_trial), (7, committed.place, false));
        assert_eq!(last(&begun), (Outcome::Reverted, Some(Reason::TooManyStarts)));

        // One that cannot be loaded is over at once.
        gateway.record(committed, Some(gateway.put(Slot::B, 5, WRONG)), 0);
        let (events, begun) = gateway.begin();
        assert_eq!((events, last(&begun)), (7, (Outcome::Reverted, Some(Reason::NotApplied))));
    }

    #[test]
    fn when_the_record_cannot_be_written_what_is_on_trial_does_not_run() {
        let gateway = Gateway::new();
        let committed = gateway.put(Slot::A, 3, GOOD);
        let candidate = gateway.put(Slot::B, 4, "[uplink]\nbatch_events = 9\n");
        gateway.record(committed, Some(candidate), 0);
        // What the record is written to first cannot be made: a directory has its name.
        std::fs::create_dir(gateway.dir.path().join("downlink/trial.new")).unwrap();
        let (events, begun) = gateway.begin();
        assert_eq!((events, begun.on_trial), (7, false));
    }

    #[test]
    fn beside_a_document_on_trial_the_own_file_is_started_if_the_committed_one_cannot_be() {
        let gateway = Gateway::new();
        let candidate = gateway.put(Slot::B, 4, GOOD);
        gateway.record(gateway.put(Slot::A, 3, OTHER), Some(candidate), 0);
        let (events, begun) = gateway.begin();
        assert_eq!((events, begun.on_trial), (gateway.own.alone().uplink.batch_events, true));
    }
}
