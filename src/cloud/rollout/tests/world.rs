//! A log, two controllers that read it at their own pace and die, operators, inboxes, and gateways that come and go.

use std::collections::BTreeMap;

use super::model::Model;
use crate::cloud::rollout::{
    Assignment, Audience, Author, Digest, Event, ModelSaid, NodeId, NodeReport, Plan, RolloutId, Rollouts, Stage,
    Verdict, What,
};
use crate::downlink::artefact::model::Name;
use crate::downlink::artefact::{self, Mode, ModelAssigned};

#[derive(Default)]
pub struct Controller {
    state: Rollouts,
    read: usize,
    /// What it has claimed.
    claimed: Option<(u64, String)>,
    lives: u32,
}

#[derive(Clone, Default)]
pub struct Gateway {
    pub online: bool,
    /// The newest assignment it has decided.
    pub number: u64,
    pub running: Option<Digest>,
    /// Versions in use, and beside them.
    pub models: BTreeMap<(Name, Mode), u64>,
    last: Vec<NodeReport>,
}

#[derive(Default)]
pub struct World {
    pub log: Vec<Event>,
    pub truth: Rollouts,
    pub model: Model,
    pub controllers: [Controller; 2],
    pub gateways: BTreeMap<NodeId, Gateway>,
    /// Newest wins, even when it is old news.
    inbox: BTreeMap<NodeId, Assignment>,
    reports: Vec<NodeReport>,
    /// The right time.
    pub now: u64,
    /// By how much the clocks of the operators and of the two controllers are wrong.
    pub skews: [i64; 3],
    /// Since when, by the right time, a wave has had enough successes without a break.
    enough: BTreeMap<RolloutId, u64>,
    passed: BTreeMap<RolloutId, usize>,
}

/// Every clock shows more than this: none can be so wrong that it shows less than 0.
const EPOCH_MS: u64 = 1 << 41;

pub fn node(n: u8) -> NodeId {
    NodeId::from(format!("gateway-{n}"))
}

pub fn rollout(n: u8) -> RolloutId {
    RolloutId::from(format!("rollout-{n}"))
}

/// What a target does: byte 0 is the part of the nodes, of 8, on which it fails.
pub fn works(target: Option<Digest>, node: &NodeId) -> bool {
    target.is_none_or(|Digest(bytes)| {
        let dice = node.as_str().bytes().fold(bytes[1], |sum, b| sum.wrapping_mul(31).wrapping_add(b));
        dice % 8 >= bytes[0]
    })
}

pub fn target(failing: u8, variant: u8) -> Digest {
    let mut bytes = [0; 32];
    (bytes[0], bytes[1]) = (failing, variant);
    Digest(bytes)
}

/// One of three versions: the first works, the second fails on some nodes, the third on all.
pub fn model(name: u8, version: u8, mode: u8) -> ModelAssigned {
    let failing = [0, 3, 8][usize::from(version % 3)];
    ModelAssigned {
        name: Name::parse(&format!("model-{name}")).unwrap(),
        version: 1 + u64::from(version % 3),
        digest: artefact::Digest::from_bytes(target(failing, version).0),
        mode: [Mode::Active, Mode::Shadow, Mode::Off][usize::from(mode % 3)],
    }
}

pub fn model_works(model: &ModelAssigned, node: &NodeId) -> bool {
    model.mode == Mode::Off || works(Some(Digest(model.digest.bytes())), node)
}

impl World {
    pub fn append(&mut self, by: Author, what: What) {
        let clock = match &by {
            Author::Operator { .. } => 0,
            Author::Controller { name, .. } => 1 + usize::from(name.starts_with("cloud-1")),
        };
        let event = Event { at_ms: self.clock(clock), by, what };
        // Through its text, as the log has it.
        let event: Event = serde_json::from_str(&serde_json::to_string(&event).unwrap()).unwrap();
        let ends = self.ends(&event.what);
        let result = self.truth.apply(&event);
        self.model.check(&event, &result, &self.truth);
        if result.is_ok() {
            self.check_soak(&event.what, ends);
        }
        self.log.push(event);
    }

    fn clock(&self, which: usize) -> u64 {
        (EPOCH_MS + self.now).saturating_add_signed(self.skews[which])
    }

    /// The wave that ends with it, and how long that soaks.
    fn ends(&self, what: &What) -> Option<(RolloutId, usize, u64)> {
        let (What::Advanced { rollout, .. } | What::Completed { rollout }) = what else { return None };
        let wave = self.truth.progress(rollout)?.wave;
        Some((rollout.clone(), wave, self.truth.plan_of(rollout).waves[wave].soak_ms))
    }

    /// No wave ends before it has soaked by the right time, whatever the clocks show.
    fn check_soak(&mut self, what: &What, ends: Option<(RolloutId, usize, u64)>) {
        if let Some((rollout, wave, soak_ms)) = ends {
            let is_passed = self.passed.get(&rollout) == Some(&wave);
            let soaked = self.enough.remove(&rollout).map(|since| self.now - since);
            assert!(is_passed || soaked >= Some(soak_ms), "{rollout}: {soaked:?} of {soak_ms} ms");
        }
        if let What::Passed { rollout, wave } = what {
            self.passed.insert(rollout.clone(), *wave);
        }
        for id in self.truth.ids() {
            let progress = self.truth.progress(id).unwrap();
            if progress.stage == Stage::Running && progress.succeeded >= progress.needed {
                self.enough.entry(id.clone()).or_insert(self.now);
            } else {
                self.enough.remove(id);
            }
        }
    }

    pub fn operator(&mut self, what: What) {
        self.append(Author::Operator { name: "ada".into() }, what);
    }

    pub fn create(&mut self, n: u8, target: Option<Digest>, plan: Plan) {
        self.create_of(n, target, None, plan);
    }

    pub fn create_of(&mut self, n: u8, target: Option<Digest>, model: Option<ModelAssigned>, plan: Plan) {
        self.operator(What::Created {
            rollout: rollout(n),
            target,
            model,
            plan,
            reason: String::new(),
            audience: Audience::default(),
            rollback: false,
        });
    }

    pub fn enrol(&mut self, n: u8, nodes: impl Iterator<Item = u8>) {
        let nodes = self.install(nodes);
        self.operator(What::Enrolled { rollout: rollout(n), nodes });
    }

    /// Gateways are there and online; those that were are as they were.
    pub fn install(&mut self, nodes: impl Iterator<Item = u8>) -> Vec<NodeId> {
        let nodes: Vec<NodeId> = nodes.map(node).collect();
        for name in &nodes {
            self.gateways.entry(name.clone()).or_insert_with(|| Gateway { online: true, ..Gateway::default() });
        }
        nodes
    }

    /// Reads on, and sends what has changed, which may be old news.
    pub fn read(&mut self, c: usize, most: usize) {
        for _ in 0..most {
            let controller = &mut self.controllers[c];
            let Some(event) = self.log.get(controller.read) else { return };
            controller.read += 1;
            let changed = controller.state.apply(event).unwrap_or_default();
            self.send(c, changed);
        }
    }

    fn send(&mut self, c: usize, nodes: Vec<NodeId>) {
        if !self.believes_to_lead(c) {
            return;
        }
        for name in nodes {
            if let Some(assignment) = self.controllers[c].state.assignment(&name) {
                self.model.sent(&name, &assignment);
                self.inbox.insert(name, assignment);
            }
        }
    }

    pub fn resend(&mut self, c: usize) {
        let nodes = self.controllers[c].state.outstanding().cloned().collect();
        self.send(c, nodes);
    }

    pub fn believes_to_lead(&self, c: usize) -> bool {
        let Controller { state, claimed, .. } = &self.controllers[c];
        claimed.as_ref().is_some_and(|(epoch, name)| state.lead() == (*epoch, name))
    }

    pub fn claim(&mut self, c: usize) {
        let controller = &mut self.controllers[c];
        let name = format!("cloud-{c}-{}", controller.lives);
        let epoch = controller.state.lead().0 + 1;
        controller.claimed = Some((epoch, name.clone()));
        self.append(Author::Controller { epoch, name }, What::Claimed);
    }

    /// `rogue`: it does not look whether it has the lead.
    pub fn decide(&mut self, c: usize, rogue: bool) {
        if !rogue && !self.believes_to_lead(c) {
            return;
        }
        let Controller { state, claimed, .. } = &self.controllers[c];
        let Some((epoch, name)) = claimed.clone() else { return };
        for what in state.decide(self.clock(1 + c)) {
            self.append(Author::Controller { epoch, name: name.clone() }, what);
        }
    }

    pub fn absent(&mut self, c: usize) {
        let Controller { state, claimed, .. } = &self.controllers[c];
        let Some((epoch, name)) = claimed.clone() else { return };
        let gone = |n: &&NodeId| self.gateways.get(*n).is_none_or(|g| !g.online);
        let silent: Vec<_> =
            state.ids().map(|id| (id.clone(), state.silent(id).filter(gone).cloned().collect())).collect();
        for (rollout, nodes) in silent {
            self.append(Author::Controller { epoch, name: name.clone() }, What::Absent { rollout, nodes });
        }
    }

    /// The process ends and is started again, with nothing.
    pub fn die(&mut self, c: usize) {
        let lives = self.controllers[c].lives + 1;
        self.controllers[c] = Controller { lives, ..Controller::default() };
    }

    /// A controller appends a node's report; unacknowledged, it comes again.
    pub fn take_report(&mut self, c: usize, which: usize, acknowledged: bool) {
        if self.reports.is_empty() {
            return;
        }
        let which = which % self.reports.len();
        let report = if acknowledged { self.reports.swap_remove(which) } else { self.reports[which].clone() };
        let (epoch, name) = self.controllers[c].claimed.clone().unwrap_or_default();
        self.append(Author::Controller { epoch, name }, What::Reported { reports: vec![report] });
    }

    pub fn lose_report(&mut self, which: usize) {
        if !self.reports.is_empty() {
            self.reports.swap_remove(which % self.reports.len());
        }
    }

    /// A gateway that is online reads its inbox; what it has decided before is answered with what it said then.
    pub fn deliver(&mut self, name: &NodeId) {
        let (Some(gateway), Some(assignment)) = (self.gateways.get_mut(name), self.inbox.get(name)) else { return };
        if !gateway.online {
            return;
        }
        if assignment.number > gateway.number {
            gateway.number = assignment.number;
            let works = works(assignment.target, name);
            if works {
                gateway.running = assignment.target;
            }
            let verdict = |works| if works { Verdict::Success } else { Verdict::Failure };
            let (number, reason) = (assignment.number, "not-connected".to_owned());
            let report = NodeReport { node: name.clone(), number, model: None, verdict: verdict(works), reason };
            gateway.last = vec![report.clone()];
            for model in &assignment.models {
                let works = model_works(model, name);
                if works {
                    gateway.puts_to_use(model, &assignment.models);
                }
                let mode = works.then_some(model.mode);
                let said = ModelSaid { name: model.name.clone(), version: model.version, mode };
                gateway.last.push(NodeReport { model: Some(said), verdict: verdict(works), ..report.clone() });
            }
        }
        self.reports.extend(gateway.last.iter().cloned());
    }

    /// A controller finds that a node does not do well with what it said that it runs.
    pub fn gate(&mut self, c: usize, name: &NodeId) {
        let Controller { state, claimed, .. } = &self.controllers[c];
        let Some((epoch, author)) = claimed.clone() else { return };
        let (Some(model), Some(assigned)) = (state.model_of(name), state.assignment(name)) else { return };
        let model = Some(ModelSaid { name: model.name.clone(), version: model.version, mode: None });
        let (number, reason) = (assigned.number, "alarms".to_owned());
        let report = NodeReport { node: name.clone(), number, model, verdict: Verdict::Failure, reason };
        self.append(Author::Controller { epoch, name: author }, What::Reported { reports: vec![report] });
    }

    /// Everybody is there and does what is to be done, until nothing changes; the soaks are over.
    pub fn ends_well(&mut self) {
        self.read(0, usize::MAX);
        self.claim(0);
        self.gateways.values_mut().for_each(|g| g.online = true);
        for _ in 0..200 {
            let before = self.log.len();
            self.read(0, usize::MAX);
            self.resend(0);
            let names: Vec<NodeId> = self.gateways.keys().cloned().collect();
            let state = &self.controllers[0].state;
            let silent = state.ids().flat_map(|id| state.silent(id));
            let waiting: Vec<NodeId> = state.outstanding().chain(silent).cloned().collect();
            names.iter().filter(|n| waiting.contains(n)).for_each(|n| self.deliver(n));
            while !self.reports.is_empty() {
                self.take_report(0, 0, true);
            }
            self.read(0, usize::MAX);
            self.now += 100 * 3_600_000;
            self.decide(0, false);
            if self.log.len() == before {
                return;
            }
        }
        panic!("it does not end: {:?}", self.log.last());
    }
}

impl Gateway {
    fn puts_to_use(&mut self, model: &ModelAssigned, all: &[ModelAssigned]) {
        let key = |mode| (model.name.clone(), mode);
        let is_beside = all.iter().any(|other| other.name == model.name && other.mode == Mode::Shadow);
        if model.mode != Mode::Shadow {
            self.models.remove(&key(Mode::Active));
            if !is_beside {
                self.models.remove(&key(Mode::Shadow));
            }
        }
        if model.mode != Mode::Off {
            self.models.insert(key(model.mode), model.version);
        }
    }
}
