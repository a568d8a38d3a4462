//! One thing that a node is to run, and what it ran well before. [pure]

use super::event::{NodeReport, Verdict};

/// See the module. It is the node's from the number of one assignment until that of the next that changes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Course<T> {
    pub target: T,
    /// The assignment that brought it; 0: none.
    pub since: u64,
    /// What the node said of it.
    pub verdict: Option<Verdict>,
    /// What it ran well last, before.
    good: T,
    /// What was assigned before, from which number to which, while nobody knows what became of it: the node was away.
    unknown: Option<(u64, u64, T)>,
}

impl<T: Clone + Default> Course<T> {
    pub fn new(since: u64, target: T) -> Self {
        Self { target, since, ..Self::default() }
    }

    /// What the node goes back to: the last that it ran well, or was to run and has never spoken of; nothing that failed here.
    pub fn base(&self) -> T {
        self.unknown.as_ref().map_or_else(|| self.good.clone(), |(.., target)| target.clone())
    }

    /// What was assigned until now, lastly with number `until`, is one of the past.
    pub fn begin(&mut self, until: u64, since: u64, target: T) {
        let before = std::mem::replace(&mut self.target, target);
        match self.verdict.take() {
            Some(Verdict::Success) => (self.good, self.unknown) = (before, None),
            None if self.since != 0 => self.unknown = Some((self.since, until, before)),
            _ => {}
        }
        self.since = since;
    }

    /// Whether the node, whose assignment has the number `now`, has not said as much.
    pub fn is_news(&self, now: u64, report: &NodeReport, concerns: impl Fn(&T) -> bool) -> bool {
        match &self.unknown {
            Some((from, to, target)) if (*from..=*to).contains(&report.number) && concerns(target) => true,
            _ => self.is_of(now, report) && concerns(&self.target) && self.verdict < Some(report.verdict),
        }
    }

    /// The node speaks of it, or of the one before.
    pub fn hear(&mut self, now: u64, report: &NodeReport, concerns: impl Fn(&T) -> bool) {
        if self.is_of(now, report) {
            if concerns(&self.target) {
                self.verdict = self.verdict.max(Some(report.verdict));
            }
            return;
        }
        let is_of = |(from, to, target): &mut (u64, u64, T)| (*from..=*to).contains(&report.number) && concerns(target);
        if let Some((.., target)) = self.unknown.take_if(is_of)
            && report.verdict == Verdict::Success
        {
            self.good = target;
        }
    }

    fn is_of(&self, now: u64, report: &NodeReport) -> bool {
        (self.since..=now).contains(&report.number)
    }
}
