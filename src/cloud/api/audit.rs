//! `/v1/audit`: what is on disk, per stream and in all.

use serde::Serialize;

use super::answer::Problem;
use super::{Shared, lane_exists};
use crate::cloud::audit::Summary;
use crate::event::Timestamp;
use crate::pulsar::names::Stream;

/// Most streams in one answer; the totals always cover all.
const STREAMS_MAX: usize = 10_000;

/// The answer. `acknowledged` and `reported_lost` are known to the gateways alone; they are null until these report.
#[derive(Debug, Serialize)]
pub struct Answer {
    totals: Totals,
    streams: Vec<StreamAnswer>,
    /// Streams beyond the limit of one answer.
    streams_left_out: usize,
}

#[derive(Debug, Default, Serialize)]
struct Totals {
    streams: usize,
    acknowledged: Option<u64>,
    delivered: u64,
    reported_lost: Option<u64>,
    missing: u64,
    duplicates_removed: u64,
    order_violations: u64,
    /// Stored although it could not be told whether they are new: limits of the audit were reached.
    unchecked: u64,
    /// Stored events that no gateway numbered. Absent when a node is asked for: they belong to none.
    without_stream: Option<u64>,
}

#[derive(Debug, Serialize)]
struct StreamAnswer {
    node: String,
    incarnation: String,
    lane: String,
    first: u64,
    last: u64,
    acknowledged: Option<u64>,
    delivered: u64,
    reported_lost: Option<u64>,
    missing: u64,
    /// The lowest gaps, first and last sequence of each; not all of them if there are many.
    missing_ranges: Vec<(u64, u64)>,
    duplicates_removed: u64,
    order_violations: u64,
    unchecked: u64,
    first_at: String,
    last_at: String,
}

/// What is asked for.
pub fn answer(shared: &Shared, node: Option<&str>, lane: Option<&str>) -> Result<Answer, Problem> {
    lane_exists(shared, lane)?;
    let (mut totals, mut streams, mut left_out) = (Totals::default(), Vec::new(), 0);
    let boards = shared.boards.iter().filter(|board| lane.is_none_or(|lane| lane == &**board.lane()));
    for board in boards {
        let of_node = |name: &str| node.is_none_or(|node| name.split('.').next() == Some(node));
        let (found, without_stream) = board.audit(of_node);
        if node.is_none() {
            *totals.without_stream.get_or_insert(0) += without_stream;
        }
        for (name, summary) in found {
            totals.add(&summary);
            if streams.len() < STREAMS_MAX {
                streams.extend(StreamAnswer::of(&name, summary));
            } else {
                left_out += 1;
            }
        }
    }
    Ok(Answer { totals, streams, streams_left_out: left_out })
}

impl Totals {
    fn add(&mut self, stream: &Summary) {
        self.streams += 1;
        self.delivered += stream.delivered;
        self.missing = self.missing.saturating_add(stream.missing);
        self.duplicates_removed += stream.duplicates_removed;
        self.order_violations += stream.order_violations;
        self.unchecked += stream.unchecked;
    }
}

impl StreamAnswer {
    fn of(name: &str, summary: Summary) -> Option<Self> {
        let Stream { node, incarnation, lane } = Stream::parse(name)?;
        let at = |ms| Timestamp::from_unix_ms(ms).to_string();
        Some(Self {
            node,
            incarnation,
            lane,
            first: summary.first,
            last: summary.last,
            acknowledged: None,
            delivered: summary.delivered,
            reported_lost: None,
            missing: summary.missing,
            first_at: at(summary.first_ms),
            last_at: at(summary.last_ms),
            missing_ranges: summary.missing_ranges,
            duplicates_removed: summary.duplicates_removed,
            order_violations: summary.order_violations,
            unchecked: summary.unchecked,
        })
    }
}
