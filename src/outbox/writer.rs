//! The way in for one lane: events become an append, which waits for the disk.

use std::future::Future;
use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::commit::{Append, NotQueued};
use super::lane::Lane;
use super::window::{Fingerprint, Fingerprints};
use super::{AppendError, Durable};
use crate::event::{Event, record};

/// The way in for one lane. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    pub(super) lane: Arc<Lane>,
    fingerprints: Fingerprints,
}

impl Writer {
    pub(super) fn new(lane: Arc<Lane>, fingerprints: Fingerprints) -> Self {
        Self { lane, fingerprints }
    }

    /// The lane's name.
    pub fn lane(&self) -> &str {
        &self.lane.name
    }

    /// Puts all of `events` on disk or none. They must have passed [`Event::check`].
    /// Dropping the future does not undo the append: the events may still be stored.
    pub async fn append(&self, events: Vec<Event>) -> Result<Durable, AppendError> {
        if events.is_empty() {
            return Ok(Durable { accepted: 0, repeated: 0, first: 0, last: 0 });
        }
        let mut batch = self.batch();
        batch.records.reserve_exact(events.iter().map(record::encoded_len).sum());
        events.iter().try_for_each(|event| batch.push(event))?;
        drop(events);
        batch.submit()?.await
    }

    /// An append that is still to be filled.
    pub fn batch(&self) -> Batch {
        Batch { writer: self.clone(), records: Vec::new(), ends: Vec::new(), names: Vec::new() }
    }
}

/// Events of one append, all or none of which will be stored, encoded as they come.
#[derive(Clone)]
pub struct Batch {
    writer: Writer,
    records: Vec<u8>,
    ends: Vec<usize>,
    names: Vec<Option<Fingerprint>>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("lane", &self.writer.lane()).field("events", &self.len()).finish_non_exhaustive()
    }
}

impl Batch {
    /// The lane's name.
    pub fn lane(&self) -> &str {
        self.writer.lane()
    }

    /// Adds an event, which must have passed [`Event::check`]; one that is too large is left out.
    pub fn push(&mut self, event: &Event) -> Result<(), AppendError> {
        let bytes = record::encoded_len(event);
        let max = self.writer.lane.settings.record_bytes_max;
        if bytes as u64 > max {
            return Err(AppendError::TooLarge { index: self.len(), bytes, max });
        }
        record::encode(event, &mut self.records);
        self.ends.push(self.records.len());
        self.names.push((!event.id_is_ours).then(|| self.writer.fingerprints.of(&event.source, &event.id)));
        Ok(())
    }

    /// Puts other versions of events into their places, which come in ascending order. One that is too large, or has no place
    /// here, changes nothing.
    pub fn replace<'e>(&mut self, events: impl IntoIterator<Item = (usize, &'e Event)>) {
        let max = self.writer.lane.settings.record_bytes_max;
        let fits = |event: &&Event| record::encoded_len(event) as u64 <= max;
        let mut events = events.into_iter().filter(|(_, event)| fits(event)).peekable();
        let (old, ends) = (take(&mut self.records), take(&mut self.ends));
        let mut from = 0;
        for (at, end) in ends.into_iter().enumerate() {
            match events.next_if(|(place, _)| *place == at) {
                Some((_, event)) => record::encode(event, &mut self.records),
                None => self.records.extend_from_slice(old.get(from..end).unwrap_or_default()),
            }
            from = end;
            self.ends.push(self.records.len());
        }
    }

    /// Another batch for the same lane, without events.
    pub fn emptied(&self) -> Self {
        self.writer.batch()
    }

    /// How many events.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Their bytes, as stored.
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    /// Hands the events to the disk, which empties the batch; the receipt comes later. When the queue is full or closed the
    /// events stay here, to be tried again or not. Must not be empty.
    pub fn submit(&mut self) -> Result<Receipt, AppendError> {
        let (answer, answered) = oneshot::channel();
        let (records, ends, names) = (take(&mut self.records), take(&mut self.ends), take(&mut self.names));
        let lane = &self.writer.lane;
        match lane.queue.push(Append { records, ends, names, answer }) {
            Ok(()) => Ok(Receipt { answered, lane: lane.clone() }),
            Err((why, append)) => {
                let error = match why {
                    NotQueued::Busy => AppendError::Busy { lane: lane.name.clone() },
                    NotQueued::Closed => AppendError::Closed,
                };
                (self.records, self.ends, self.names) = (append.records, append.ends, append.names);
                Err(error)
            }
        }
    }
}

/// What will be known once the disk has answered. Dropping it does not undo the append.
pub struct Receipt {
    answered: oneshot::Receiver<Result<Durable, AppendError>>,
    lane: Arc<Lane>,
}

impl Future for Receipt {
    type Output = Result<Durable, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answered).poll(cx));
        // The committer answers everything it takes; without an answer it has panicked.
        Poll::Ready(answer.unwrap_or_else(|_| {
            let reason = "the commit ended unexpectedly, and the log says why; the events may still be stored".into();
            Err(AppendError::Disk { lane: self.lane.name.clone(), reason })
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::tests::sample;
    use crate::outbox::testing::Hung;

    fn records(batch: &Batch) -> Vec<Event> {
        let starts = [0].into_iter().chain(batch.ends.iter().copied());
        let records = starts.zip(&batch.ends).map(|(start, end)| &batch.records[start..*end]);
        records.map(|bytes| record::decode(bytes).unwrap().0.to_event()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whichever events are replaced: those are others, the rest are as they were, all in their places.
        #[test]
        fn replaced_events_stand_where_the_others_stood(replaced in prop::collection::vec(any::<bool>(), 1..20), bytes in 0_usize..50) {
            let hung = Hung::new("a");
            let mut batch = hung.writer().batch();
            let of = |i: usize| sample(&i.to_string());
            let other = |i: usize| Event { data: vec![b'x'; bytes].into(), ..of(i) };
            (0..replaced.len()).for_each(|i| batch.push(&of(i)).unwrap());
            let others: Vec<(usize, Event)> = (0..replaced.len()).filter(|i| replaced[*i]).map(|i| (i, other(i))).collect();
            batch.replace(others.iter().map(|(i, event)| (*i, event)));
            let expected: Vec<Event> = (0..replaced.len()).map(|i| if replaced[i] { other(i) } else { of(i) }).collect();
            prop_assert_eq!(records(&batch), expected);
        }
    }

    #[test]
    fn what_is_too_large_or_has_no_place_replaces_nothing() {
        let mut batch = Hung::new("a").writer().batch();
        (0..3).for_each(|i| batch.push(&sample(&i.to_string())).unwrap());
        let huge = Event { data: vec![0; 2 << 20].into(), ..sample("0") };
        let changed = Event { ty: "other".to_owned(), ..sample("1") };
        batch.replace([(0, &huge), (1, &changed), (7, &changed)]);
        assert_eq!(records(&batch), [sample("0"), changed, sample("2")]);
    }
}
