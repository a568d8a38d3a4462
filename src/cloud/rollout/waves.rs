//! One roll-out: the line of its members and the counts of its waves. [pure]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::event::{Audience, Digest, NodeId, NodeReport, RolloutId, Verdict};
use super::node::{Given, Node};
use super::plan::{Plan, Wave, share_of};
use super::progress::{Progress, Stage};
use super::{ALL_PPM, FAILURES_KEPT, GROUPS_MAX, UnixMs};
use crate::downlink::artefact::ModelAssigned;

/// A node's place in the line.
pub(super) type Place = (u64, NodeId);

/// What a roll-out gives to nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Brings {
    /// A document; `None`: what the node has by itself.
    Document(Option<Digest>),
    Model(Arc<ModelAssigned>),
}

impl Brings {
    /// What this node gets; `None`: it has no room for it.
    pub fn to(&self, node: &Node) -> Option<Given> {
        match self {
            Self::Document(target) => Some(Given::Document(*target)),
            Self::Model(model) => node.with(model),
        }
    }

    pub fn document(&self) -> Option<Digest> {
        match self {
            Self::Document(target) => *target,
            Self::Model(_) => None,
        }
    }

    pub fn model(&self) -> Option<&ModelAssigned> {
        match self {
            Self::Document(_) => None,
            Self::Model(model) => Some(model),
        }
    }

    /// Whether what is said of it counts.
    fn is_concerned(&self, report: &NodeReport) -> bool {
        match (self, &report.model) {
            (Self::Document(_), None) => true,
            (Self::Model(model), Some(said)) => said.concerns(model),
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
struct Member {
    /// Its assignment's; 0: it waits in the line.
    number: u64,
    verdict: Option<Verdict>,
    absent: bool,
}

/// How long a wave has had enough successes without a break. Each lead measures on its own clock and adds to what those
/// before it have measured: clocks are never compared with one another.
#[derive(Clone, Copy, Debug, Default)]
struct Soak {
    enough: bool,
    /// What leads before this one have measured.
    before_ms: UnixMs,
    /// Since when this lead measures, on its clock.
    since_ms: Option<UnixMs>,
}

#[derive(Clone, Debug)]
pub(super) struct Rollout {
    id: RolloutId,
    /// Its place in the log.
    pub created: u64,
    pub brings: Brings,
    pub plan: Plan,
    pub reason: String,
    pub audience: Audience,
    /// Those of the audience for whom it does not stand any more.
    pub retired: Audience,
    pub rollback: bool,
    /// By whoever created it, or by the lead, whichever is later: a draft's day begins here.
    pub created_ms: UnixMs,
    pub stage: Stage,
    pub paused: Option<String>,
    pub wave: usize,
    approved: BTreeSet<usize>,
    passed: Option<usize>,
    members: BTreeMap<Place, Member>,
    waiting: BTreeSet<Place>,
    member_count: usize,
    pub held: usize,
    exposed: usize,
    succeeded: usize,
    failed: usize,
    /// Failures that an operator has accepted by resuming.
    accepted: usize,
    absent: usize,
    soak: Soak,
    failures: Vec<(NodeId, String)>,
}

impl Rollout {
    pub fn new(id: RolloutId, created: u64, brings: Brings, plan: Plan) -> Self {
        Self {
            id,
            created,
            brings,
            plan,
            reason: String::new(),
            audience: Audience::default(),
            retired: Audience::default(),
            rollback: false,
            created_ms: 0,
            stage: Stage::Draft,
            paused: None,
            wave: 0,
            approved: BTreeSet::new(),
            passed: None,
            members: BTreeMap::new(),
            waiting: BTreeSet::new(),
            member_count: 0,
            held: 0,
            exposed: 0,
            succeeded: 0,
            failed: 0,
            accepted: 0,
            absent: 0,
            soak: Soak::default(),
            failures: Vec::new(),
        }
    }

    fn place(&self, node: &NodeId) -> Place {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.id.as_str().as_bytes()).update(&[0]).update(node.as_str().as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        (u64::from_be_bytes([a, b, c, d, e, f, g, h]), node.clone())
    }

    pub fn member_count(&self) -> usize {
        self.member_count
    }

    /// Whether a report about its exposure would be counted, or ends an absence.
    pub fn would_count(&self, report: &NodeReport) -> bool {
        self.members.get(&self.place(&report.node)).is_some_and(|member| {
            self.brings.is_concerned(report)
                && member.number != 0
                && member.number == report.number
                && (member.absent || member.verdict < Some(report.verdict))
        })
    }

    /// Puts a node into the line.
    pub fn enrol(&mut self, node: &NodeId) {
        let place = self.place(node);
        let member = Member { number: 0, verdict: None, absent: false };
        if self.members.insert(place.clone(), member).is_none() {
            self.waiting.insert(place);
            self.member_count += 1;
        }
    }

    /// The next nodes of the line that the wave allows.
    pub fn expose(&mut self, number: u64) -> Vec<NodeId> {
        let mut nodes = Vec::new();
        if self.stage != Stage::Running || self.paused.is_some() {
            return nodes;
        }
        let allowed = self.allowed();
        while self.exposed < allowed {
            let Some(place) = self.waiting.pop_first() else { break };
            if let Some(member) = self.members.get_mut(&place) {
                member.number = number;
                self.exposed += 1;
                nodes.push(place.1);
            }
        }
        nodes
    }

    /// The assignment of an exposed node has another number.
    pub fn renumber(&mut self, node: &NodeId, before: u64, number: u64) {
        let place = self.place(node);
        if let Some(member) = self.members.get_mut(&place).filter(|member| member.number == before) {
            member.number = number;
        }
    }

    /// Most nodes that the wave exposes.
    fn allowed(&self) -> usize {
        let share = self.plan.waves.get(self.wave).map_or(ALL_PPM, |w| w.share_ppm);
        share_of(share, self.member_count).max(1)
    }

    /// Counts a report; one about another number than the exposure's, or about something else, is none.
    pub fn report(&mut self, report: &NodeReport) {
        let place = self.place(&report.node);
        let Some(member) = self.members.get_mut(&place) else { return };
        if member.number == 0 || member.number != report.number || !self.brings.is_concerned(report) {
            return;
        }
        if std::mem::take(&mut member.absent) {
            self.absent -= 1;
        }
        if member.verdict >= Some(report.verdict) {
            return;
        }
        let before = member.verdict.replace(report.verdict);
        match report.verdict {
            Verdict::Success => self.succeeded += 1,
            Verdict::Failure => {
                self.failed += 1;
                self.succeeded -= usize::from(before == Some(Verdict::Success));
                if self.failures.len() < FAILURES_KEPT {
                    self.failures.push((report.node.clone(), report.reason.clone()));
                }
            }
        }
    }

    /// An exposed node that has not reported is not waited for until it does.
    pub fn miss(&mut self, node: &NodeId) {
        let place = self.place(node);
        let Some(member) = self.members.get_mut(&place) else { return };
        if member.number != 0 && member.verdict.is_none() && !std::mem::replace(&mut member.absent, true) {
            self.absent += 1;
        }
    }

    /// A node is gone; its failure stays counted.
    pub fn depart(&mut self, node: &NodeId) {
        let place = self.place(node);
        let Some(member) = self.members.remove(&place) else { return };
        self.waiting.remove(&place);
        self.member_count -= 1;
        if member.number != 0 && member.verdict != Some(Verdict::Failure) {
            self.exposed -= 1;
            self.succeeded -= usize::from(member.verdict == Some(Verdict::Success));
            self.absent -= usize::from(member.absent);
        }
    }

    /// Whether nodes of these groups that turn up now join it.
    pub fn takes(&self, groups: &[String]) -> bool {
        matches!(self.stage, Stage::Running | Stage::Completed)
            && self.audience.includes(groups)
            && !self.retired.includes(groups)
    }

    /// It stands no more for these; for an empty audience, for nobody. `false`: it was so already.
    pub fn retire(&mut self, from: &Audience) -> bool {
        if matches!(self.stage, Stage::Aborted { .. }) || self.audience.is_empty() || self.retired.all {
            return false;
        }
        if from.all || from.is_empty() {
            self.retired = Audience { all: true, groups: Vec::new() };
            return true;
        }
        let before = self.retired.groups.len();
        let groups =
            from.groups.iter().filter(|group| !self.retired.groups.contains(group)).cloned().collect::<Vec<_>>();
        self.retired.groups.extend(groups);
        if self.retired.groups.len() > GROUPS_MAX {
            self.retired = Audience { all: true, groups: Vec::new() };
        }
        self.retired.all || self.retired.groups.len() > before
    }

    pub fn approve(&mut self, wave: usize) -> bool {
        wave < self.plan.waves.len() && self.approved.insert(wave)
    }

    /// Only the wave that has begun can be declared passed.
    pub fn pass(&mut self, wave: usize) -> bool {
        self.stage == Stage::Running && self.wave == wave && self.passed.replace(wave) != Some(wave)
    }

    pub fn resume(&mut self) -> bool {
        self.accepted = self.failed;
        self.paused.take().is_some()
    }

    /// The wave begins; its soak as well.
    pub fn begin(&mut self, wave: usize) {
        (self.stage, self.wave, self.soak) = (Stage::Running, wave, Soak::default());
    }

    /// To be called after every change of the counts. The soak goes on from the lead's next event.
    pub fn count_soak(&mut self) {
        let enough = self.stage == Stage::Running && self.succeeded >= self.needed();
        if !enough {
            self.soak = Soak::default();
        }
        self.soak.enough = enough;
    }

    /// The lead has said something, whatever it was, at this time on its clock.
    pub fn lead_spoke(&mut self, at_ms: UnixMs) {
        if self.soak.enough && self.soak.since_ms.is_none() {
            self.soak.since_ms = Some(at_ms);
        }
    }

    /// Another lead with another clock follows: what the one before, who spoke last at `at_ms`, has seen of the soak stays.
    pub fn lead_ends(&mut self, at_ms: UnixMs) {
        if let Some(since_ms) = self.soak.since_ms.take() {
            self.soak.before_ms = self.soak.before_ms.saturating_add(at_ms.saturating_sub(since_ms));
        }
    }

    /// Enough have succeeded, and no word of the lead says yet since when.
    pub fn soak_begins(&self) -> bool {
        self.soak.enough && self.soak.since_ms.is_none() && self.stage == Stage::Running
    }

    fn needed(&self) -> usize {
        let all = match self.plan.wait_for_all {
            true => self.exposed.saturating_sub(self.absent + self.failed),
            false => 0,
        };
        let share =
            share_of(self.plan.successes_share_min_ppm, self.exposed.saturating_sub(self.absent + self.accepted));
        share.max(all).max(1)
    }

    /// Whether too many nodes have failed, or so many that enough cannot succeed any more.
    pub fn is_past_threshold(&self) -> bool {
        let failed = self.failed - self.accepted.min(self.failed);
        if failed > 0 && self.exposed.saturating_sub(self.failed + self.absent) < self.needed() {
            return true;
        }
        let share = u64::try_from(failed).unwrap_or(u64::MAX).saturating_mul(ALL_PPM.into());
        let exposed = u64::try_from(self.exposed).unwrap_or(u64::MAX);
        failed > usize::try_from(self.plan.failures_max).unwrap_or(usize::MAX)
            || share > exposed.saturating_mul(self.plan.failures_share_max_ppm.into())
    }

    /// When the wave has soaked, on the lead's clock; `None`: it is not known yet.
    pub fn soaked_at_ms(&self) -> Option<UnixMs> {
        if self.passed == Some(self.wave) {
            return Some(0);
        }
        let left_ms = self.plan.waves.get(self.wave)?.soak_ms.saturating_sub(self.soak.before_ms);
        match self.soak {
            Soak { enough: false, .. } => None,
            _ if left_ms == 0 => Some(0),
            Soak { since_ms, .. } => Some(since_ms?.saturating_add(left_ms)),
        }
    }

    /// Whether the wave after this one may begin, or the roll-out end, but for the soak.
    pub fn may_go_on(&self) -> bool {
        self.stage == Stage::Running && self.paused.is_none() && !self.is_past_threshold() && !self.waits_for_approval()
    }

    pub fn next_wave(&self) -> Option<(usize, &Wave)> {
        let next = self.wave + 1;
        self.plan.waves.get(next).map(|wave| (next, wave))
    }

    fn waits_for_approval(&self) -> bool {
        self.next_wave().is_some_and(|(next, wave)| wave.approval && !self.approved.contains(&next))
    }

    /// Lets all members go; gives them, and the exposed ones.
    pub fn end(&mut self, stage: Stage) -> (Vec<NodeId>, Vec<NodeId>) {
        (self.stage, self.paused) = (stage, None);
        self.waiting.clear();
        let members = std::mem::take(&mut self.members);
        let exposed = members.iter().filter(|(_, m)| m.number != 0).map(|((_, node), _)| node.clone()).collect();
        (members.into_keys().map(|(_, node)| node).collect(), exposed)
    }

    /// Exposed nodes that have not reported; to tell which are absent.
    pub fn silent(&self) -> impl Iterator<Item = &NodeId> {
        let silent = |m: &Member| m.number != 0 && m.verdict.is_none() && !m.absent;
        self.members.iter().filter(move |(_, m)| silent(m)).map(|((_, node), _)| node)
    }

    pub fn progress(&self) -> Progress {
        Progress {
            stage: self.stage.clone(),
            target: self.brings.document(),
            model: self.brings.model().cloned(),
            paused: self.paused.clone(),
            wave: self.wave,
            waves: self.plan.waves.len(),
            members: self.member_count,
            held: self.held,
            exposed: self.exposed,
            succeeded: self.succeeded,
            failed: self.failed,
            absent: self.absent,
            needed: self.needed(),
            soaks_until_ms: self.soaked_at_ms().filter(|_| self.stage == Stage::Running),
            waits_for_approval: self.stage == Stage::Running && self.waits_for_approval(),
            failures: self.failures.clone(),
        }
    }
}
