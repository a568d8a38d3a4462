//! The one process that decides: it claims the lead in the log, turns what nodes say into events, and appends what is due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fleet::Seen;
use super::gated::Gated;
use super::numbers::Ahead;
use super::state::{State, artefact};
use super::wire::Held;
use super::{AppendError, Control, LOG, REPORTS, Reign, Shared};
use crate::cloud::rollout::{
    Assignment, Author, BATCH_MAX, ModelSaid, NodeId, NodeReport, RolloutId, UnixMs, Verdict, Void, What,
};
use crate::downlink::number::Number;

/// How often it looks. A wave of nodes answers within this time, so that many reports are one event.
const TICK: Duration = Duration::from_millis(250);

/// How often it looks for nodes that are absent, and for those whose numbers are ahead of the log.
const ABSENT_TICK: Duration = Duration::from_secs(5);

/// The wait after something failed.
const PAUSE: Duration = Duration::from_secs(2);

/// A node that speaks, and has still not got its assignment, gets it again after this time.
const SEND_AGAIN: Duration = Duration::from_secs(60);

/// The same of one that had said what became of it, and runs something older all the same: its disk and its inbox are lost. The
/// wait doubles: it may be one that refuses it for ever.
const LOST_AGAIN: Duration = Duration::from_secs(120);

/// The longest of these waits.
const LOST_AGAIN_MAX: Duration = Duration::from_secs(3600);

/// A node that refuses its assignment for so long has failed; or for as long as one that is away is waited for, if that is
/// shorter. A gateway tells of a message that it refuses once, not whenever it reads it.
const REFUSES_MAX: Duration = Duration::from_secs(300);

/// A refusal that comes again after this time is about the message that was sent again: the node has failed.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);

/// Why this process stopped deciding.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("{0}")]
    Fenced(Void),
    #[error("event {0} of the log is of a later version")]
    Blind(u64),
}

/// Decides whenever this process has the lead, until `stop`.
pub async fn run(control: Control, mut holds: watch::Receiver<Option<Held>>, stop: CancellationToken) {
    loop {
        let held = holds.borrow_and_update().clone();
        if let Some(held) = held.filter(|held| !held.over().is_cancelled()) {
            // Dropped in the middle at once when the lead is lost: what was appended is in the log, nothing else matters.
            let over = held.over().run_until_cancelled(reign(&control, &held)).await;
            control.lock().resign();
            match over {
                Some(Ok(())) | None => tracing::info!("the lead is lost"),
                Some(Err(e)) => tracing::warn!(reason = %e, "stopped deciding; trying again"),
            }
            held.over().run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = holds.changed() => if changed.is_err() { return },
        }
    }
}

impl Shared {
    fn resign(&mut self) {
        (self.leads, self.reign) = (false, None);
        self.state.to_send.clear();
    }
}

/// One lead, from its claim to its end.
async fn reign(control: &Control, held: &Held) -> Result<(), Over> {
    while !control.lock().topics[LOG].is_read {
        tokio::time::sleep(TICK).await;
    }
    if let Some(index) = control.with(|state| state.blind) {
        return Err(Over::Blind(index));
    }
    let name = format!("{}.{}", control.0.name, &crate::sys::random::hex16()[..4]);
    let epoch = control.with(|state| state.rollouts.lead().0) + 1;
    let me = Me { epoch, name, began: Instant::now(), began_ms: control.now_ms() };
    control.append_at(me.now_ms(), me.author(), What::Claimed).await?.result.map_err(Over::Fenced)?;
    {
        let mut shared = control.lock();
        let Shared { state, leads, reign, .. } = &mut *shared;
        (*leads, *reign) = (true, Some(Reign { held: held.clone(), epoch: me.epoch, name: me.name.clone() }));
        state.to_send = state.rollouts.outstanding().cloned().collect();
        state.fleet.all_fresh();
    }
    tracing::info!(epoch = me.epoch, "this process has the lead: it carries out roll-outs");
    let mut watch = Watch::default();
    loop {
        for what in control.due(&mut watch, me.now_ms()) {
            match control.append_at(me.now_ms(), me.author(), what).await {
                Ok(applied) => match applied.result {
                    Err(e @ Void::Fenced { .. }) => return Err(Over::Fenced(e)),
                    // Somebody's order came between: the next look decides anew.
                    Err(e) => tracing::debug!(reason = %e, "a decision did not count"),
                    Ok(()) => {}
                },
                Err(e) => return Err(e.into()),
            }
        }
        if let Some(index) = control.with(|state| state.blind) {
            return Err(Over::Blind(index));
        }
        tokio::time::sleep(TICK).await;
    }
}

struct Me {
    epoch: u64,
    name: String,
    began: Instant,
    began_ms: UnixMs,
}

impl Me {
    /// The lead's clock, which measures soaks: it begins as this machine's, and is not set while the lead lasts.
    fn now_ms(&self) -> UnixMs {
        self.began_ms.saturating_add(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn author(&self) -> Author {
        Author::Controller { epoch: self.epoch, name: self.name.clone() }
    }
}

/// What is remembered between two looks.
#[derive(Default)]
struct Watch {
    /// Since when all reports have been read: nobody is absent before its absence could have been seen.
    reports_since: Option<Instant>,
    absent_looked: Option<Instant>,
    ahead_looked: Option<Instant>,
    /// Nodes that were sent their assignment again.
    again: BTreeMap<NodeId, Again>,
    /// How gateways were ahead when that was said last.
    ahead: Vec<Ahead>,
    /// Nodes that are there and refuse.
    refusing: BTreeMap<NodeId, Refusing>,
    /// Nodes whose measurements count.
    gated: Gated,
    /// Enrolments that were tried.
    tried: BTreeSet<(NodeId, RolloutId)>,
}

/// A node that has refused something since it has its assignment.
struct Refusing {
    /// The assignment's.
    number: u64,
    /// When that of before was heard, if there was one.
    old_ms: Option<u64>,
    /// When the last one was heard, and how long the first is ago.
    last: Option<(u64, Instant)>,
}

impl Refusing {
    fn new(assignment: &Assignment, heard_ms: u64) -> Self {
        let old_ms = (heard_ms < assignment.at_ms).then_some(heard_ms);
        Self { number: assignment.number, old_ms, last: None }
    }

    /// The last refusal was heard at `heard_ms`: whether that is enough.
    fn is_final(&mut self, heard_ms: u64, patience: Duration) -> bool {
        if self.old_ms == Some(heard_ms) {
            return false;
        }
        let (last_ms, since) = *self.last.get_or_insert((heard_ms, Instant::now()));
        let again = last_ms != heard_ms && since.elapsed() >= REFUSED_AGAIN;
        again || since.elapsed() >= patience
    }
}

/// When a node was sent its assignment last, as far as this look goes.
struct Again {
    number: u64,
    at: Instant,
    /// The next wait, if it is lost.
    lost: Duration,
}

impl Watch {
    /// A node that speaks and has not got its assignment; `is_due`: it has never said what became of it.
    fn is_to_be_sent_again(&mut self, node: &NodeId, number: u64, is_due: bool) -> bool {
        let new = || Again { number, at: Instant::now(), lost: LOST_AGAIN };
        let again = self.again.entry(node.clone()).or_insert_with(new);
        if again.number != number {
            *again = new();
        }
        let is_time = again.at.elapsed() > if is_due { SEND_AGAIN } else { again.lost };
        if is_time {
            again.at = Instant::now();
            if !is_due {
                again.lost = (again.lost * 2).min(LOST_AGAIN_MAX);
            }
        }
        is_time
    }

    /// A node that speaks and has not taken its assignment: whether it has refused it, and so failed.
    fn refused(
        &mut self,
        node: &NodeId,
        seen: &Seen,
        assignment: &Assignment,
        patience: Duration,
    ) -> Option<NodeReport> {
        let refused = seen.refused.as_ref()?;
        let new = || Refusing::new(assignment, refused.heard_ms);
        let refusing = self.refusing.entry(node.clone()).or_insert_with(new);
        if refusing.number != assignment.number {
            *refusing = new();
        }
        let is_final = refusing.is_final(refused.heard_ms, patience);
        let reason = super::fleet::cut(format!("refused: {}", refused.reason));
        is_final.then(|| NodeReport {
            node: node.clone(),
            number: assignment.number,
            model: None,
            verdict: Verdict::Failure,
            reason,
        })
    }
}

impl Control {
    /// What is to be appended now; `lead_ms` is the time on the lead's clock.
    fn due(&self, watch: &mut Watch, lead_ms: UnixMs) -> Vec<What> {
        let now_ms = self.now_ms();
        let mut shared = self.lock();
        let Shared { state, topics, .. } = &mut *shared;
        let mut due = reported(state, watch, REFUSES_MAX.min(self.0.config.absent_after));
        due.extend(state.rollouts.decide(lead_ms));
        if topics[REPORTS].is_read {
            let since = *watch.reports_since.get_or_insert_with(Instant::now);
            let patience = self.0.config.absent_after;
            let looked = watch.absent_looked.is_some_and(|at| at.elapsed() < ABSENT_TICK);
            if since.elapsed() >= patience && !looked {
                watch.absent_looked = Some(Instant::now());
                let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
                due.extend(absent(state, now_ms, patience_ms));
            }
            if watch.ahead_looked.is_none_or(|at| at.elapsed() >= ABSENT_TICK) {
                watch.ahead_looked = Some(Instant::now());
                tell_ahead(state, &mut watch.ahead, now_ms);
            }
        }
        due
    }
}

/// What the nodes that have spoken say of their assignments, and the roll-outs that they join.
fn reported(state: &mut State, watch: &mut Watch, patience: Duration) -> Vec<What> {
    let (mut reports, mut joins) = (Vec::<NodeReport>::new(), BTreeMap::<RolloutId, Vec<NodeId>>::new());
    let (has_audience, epoch) = (state.rollouts.has_audience(), state.documents.trust().epoch());
    for node in state.fleet.take_fresh() {
        let Some(seen) = state.fleet.get(&node) else { continue };
        // The number of another log, for something else, is no success of this one's.
        let is_other = state
            .rollouts
            .assignment(&node)
            .is_some_and(|assigned| seen.has_other(Number::new(epoch, assigned.number), assigned.target.map(artefact)));
        let counts = |report: &NodeReport| !is_other || report.verdict != Verdict::Success;
        let verdicts = seen.verdicts(&node, epoch).filter(counts);
        let of_models = seen.model_verdicts(&node, epoch);
        let verdicts = verdicts.chain(of_models.filter_map(|said| watch.gated.counted(&state.rollouts, seen, said)));
        reports.extend(verdicts.filter(|report| state.rollouts.is_news(report)));
        if has_audience
            && let Some(rollout) = state.rollouts.to_join(&node, &seen.groups)
            && watch.tried.insert((node.clone(), rollout.clone()))
        {
            joins.entry(rollout.clone()).or_default().push(node.clone());
        }
        let Some(assignment) = state.rollouts.assignment(&node) else { continue };
        let at = Number::new(epoch, assignment.number);
        // Also one that has a higher number, and finds this one older.
        match state.rollouts.is_outstanding(&node) && seen.number() != at {
            true => {
                let failed = watch.refused(&node, seen, &assignment, patience);
                // With the message it has refused the model that it is there for.
                let model = failed.as_ref().and_then(|failed| Some((failed, state.rollouts.model_of(&node)?)));
                let model = model.map(|(failed, model)| NodeReport {
                    model: Some(ModelSaid { name: model.name.clone(), version: model.version, mode: None }),
                    ..failed.clone()
                });
                reports.extend(failed.into_iter().chain(model).filter(|report| state.rollouts.is_news(report)));
            }
            false => drop(watch.refusing.remove(&node)),
        }
        // A keyring with a higher epoch makes what it has the past's, also what it had decided.
        let is_past = seen.accepted.is_some_and(|(accepted, _)| accepted.epoch < epoch);
        let is_due = state.rollouts.is_outstanding(&node) || is_past;
        if seen.number() < at {
            if watch.is_to_be_sent_again(&node, assignment.number, is_due) {
                state.to_send.insert(node);
            }
        } else {
            watch.again.remove(&node);
        }
    }
    let reported = reports.chunks(BATCH_MAX).map(|reports| What::Reported { reports: reports.to_vec() });
    let mut due: Vec<What> = reported.collect();
    for (rollout, nodes) in joins {
        due.extend(nodes.chunks(BATCH_MAX).map(|n| What::Enrolled { rollout: rollout.clone(), nodes: n.to_vec() }));
    }
    due
}

/// Says once that gateways have taken numbers that this log has not given.
fn tell_ahead(state: &State, told: &mut Vec<Ahead>, now_ms: UnixMs) {
    let groups = state.all_ahead(now_ms);
    for group in groups.iter().filter(|group| !told.contains(&group.how)) {
        tracing::warn!(nodes = group.nodes, "{}", state.explain(group));
    }
    *told = groups.iter().map(|group| group.how).collect();
}

/// Exposed nodes that have not been heard for long.
fn absent(state: &State, now_ms: UnixMs, patience_ms: u64) -> Vec<What> {
    let is_gone =
        |node: &&NodeId| state.fleet.get(node).is_none_or(|seen| now_ms.saturating_sub(seen.heard_ms) > patience_ms);
    let mut due = Vec::new();
    for id in state.rollouts.ids() {
        let gone: Vec<NodeId> = state.rollouts.silent(id).filter(is_gone).cloned().collect();
        due.extend(gone.chunks(BATCH_MAX).map(|nodes| What::Absent { rollout: id.clone(), nodes: nodes.to_vec() }));
    }
    due
}
