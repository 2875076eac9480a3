//! The latest batches of idempotent producers, so that a batch sent twice is kept once (KIP-98).
//!
//! Pure. Appends fill it; at start a snapshot (producer_snapshot.rs) and the batches behind it do.
//! An unknown producer may begin with any sequence, as in Kafka.

use std::collections::{HashMap, VecDeque};

use penstock_batch::BatchHeader;

use crate::{checkpoint::producer_snapshot::SnapshotEntry, error::AppendError, units::Offset};

/// Batches remembered for each producer: it may have so many requests in flight.
const BATCHES: usize = 5;

/// Producers remembered for each partition. The one that has been silent longest is forgotten
/// first.
const PRODUCERS: usize = 4096;

/// Kafka's value for "no offset".
const NONE: i64 = -1;

/// By producer id.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    by_id: HashMap<i64, Producer>,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    /// The latest batches of this epoch, oldest first.
    batches: VecDeque<Numbered>,
    /// Kafka's state of transactions, kept for a Kafka that gets the log back.
    coordinator_epoch: i32,
    transaction_start: i64,
}

#[derive(Clone, Copy, Debug)]
struct Numbered {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    last_offset: Offset,
    timestamp_ms: i64,
}

impl Producers {
    /// Adds the batches of a snapshot, the latest first.
    pub(crate) fn load(&mut self, mut entries: Vec<SnapshotEntry>) {
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.last_offset));
        for entry in &entries {
            let id = entry.producer_id;
            if self.by_id.len() < PRODUCERS || self.by_id.contains_key(&id) {
                self.by_id.entry(id).or_insert_with(|| Producer::of(entry)).load(entry);
            }
        }
    }

    /// How many producers have a transaction that has not ended.
    pub(crate) fn open_transactions(&self) -> u64 {
        self.by_id.values().filter(|producer| producer.transaction_start != NONE).count() as u64
    }

    /// Whether a transaction of any producer has ended.
    pub(crate) fn has_ended_transactions(&self) -> bool {
        self.by_id.values().any(|producer| producer.coordinator_epoch >= 0)
    }

    pub(crate) fn greatest_id(&self) -> Option<i64> {
        self.by_id.keys().max().copied()
    }

    /// The entries of a snapshot: one for each batch, a producer's oldest first.
    pub(crate) fn snapshot(&self) -> Vec<SnapshotEntry> {
        self.by_id.iter().flat_map(|(id, producer)| producer.snapshot(*id)).collect()
    }

    /// Whether the batch may be appended now.
    pub(crate) fn check(&self, header: &BatchHeader) -> Result<(), AppendError> {
        let Some(producer) = self.by_id.get(&header.producer_id) else { return Ok(()) };
        let (producer_id, got) = (header.producer_id, header.base_sequence);
        if header.producer_epoch < producer.epoch {
            let (current, got) = (producer.epoch, header.producer_epoch);
            return Err(AppendError::InvalidProducerEpoch { producer_id, current, got });
        }
        let expected = if header.producer_epoch > producer.epoch {
            0
        } else if let Some(batch) = producer.find(header) {
            let Numbered { base_offset, last_offset, .. } = *batch;
            return Err(AppendError::Duplicate { base_offset, last_offset });
        } else {
            producer.batches.back().map_or(got, |last| add_sequence(last.last_sequence, 1))
        };
        if got == expected {
            Ok(())
        } else {
            Err(AppendError::OutOfOrderSequence { producer_id, expected, got })
        }
    }

    /// Records that the batch is in the log at `base_offset`.
    pub(crate) fn note(&mut self, header: &BatchHeader, base_offset: Offset) {
        if header.producer_id < 0 {
            return;
        }
        if self.by_id.len() >= PRODUCERS && !self.by_id.contains_key(&header.producer_id) {
            self.forget_oldest();
        }
        let epoch = header.producer_epoch;
        let producer = self.by_id.entry(header.producer_id).or_insert_with(|| Producer::new(epoch));
        if producer.epoch != epoch {
            producer.epoch = epoch;
            producer.batches.clear();
        }
        if header.is_control() {
            producer.transaction_start = NONE;
            return;
        }
        if header.is_transactional() && producer.transaction_start == NONE {
            producer.transaction_start = base_offset.0;
        }
        if producer.batches.len() == BATCHES {
            producer.batches.pop_front();
        }
        producer.batches.push_back(Numbered {
            base_sequence: header.base_sequence,
            last_sequence: last_sequence(header),
            base_offset,
            last_offset: Offset(base_offset.0.saturating_add(header.last_offset_delta.into())),
            timestamp_ms: header.max_timestamp,
        });
    }

    fn forget_oldest(&mut self) {
        let silent_since = |producer: &Producer| producer.batches.back().map(|b| b.last_offset);
        let oldest = self.by_id.iter().min_by_key(|(_, producer)| silent_since(producer));
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.by_id.remove(&id);
        }
    }
}

impl Producer {
    fn new(epoch: i16) -> Producer {
        let (coordinator_epoch, transaction_start) = (-1, NONE);
        Producer { epoch, batches: VecDeque::new(), coordinator_epoch, transaction_start }
    }

    /// A producer as its latest entry describes it, without the batch.
    fn of(entry: &SnapshotEntry) -> Producer {
        let SnapshotEntry { epoch, coordinator_epoch, transaction_start, .. } = *entry;
        Producer { epoch, batches: VecDeque::new(), coordinator_epoch, transaction_start }
    }

    /// Adds a batch older than those it has.
    fn load(&mut self, entry: &SnapshotEntry) {
        if entry.epoch == self.epoch && self.batches.len() < BATCHES {
            let batch = entry.batch();
            batch.into_iter().for_each(|batch| self.batches.push_front(batch));
        }
    }

    fn snapshot(&self, producer_id: i64) -> Vec<SnapshotEntry> {
        let entry = |batch: Option<&Numbered>| SnapshotEntry {
            producer_id,
            epoch: self.epoch,
            last_sequence: batch.map_or(-1, |batch| batch.last_sequence),
            last_offset: batch.map_or(Offset(NONE), |batch| batch.last_offset),
            offset_delta: batch
                .map_or(0, |batch| (batch.last_offset.0 - batch.base_offset.0) as i32),
            timestamp_ms: batch.map_or(-1, |batch| batch.timestamp_ms),
            coordinator_epoch: self.coordinator_epoch,
            transaction_start: self.transaction_start,
        };
        match self.batches.is_empty() {
            true => vec![entry(None)],
            false => self.batches.iter().map(|batch| entry(Some(batch))).collect(),
        }
    }

    fn find(&self, header: &BatchHeader) -> Option<&Numbered> {
        let last = last_sequence(header);
        self.batches
            .iter()
            .find(|b| (b.base_sequence, b.last_sequence) == (header.base_sequence, last))
    }
}

impl SnapshotEntry {
    fn batch(&self) -> Option<Numbered> {
        let possible = self.last_offset.0 >= 0 && self.last_sequence >= 0 && self.offset_delta >= 0;
        possible.then_some(Numbered {
            base_sequence: add_sequence(self.last_sequence, self.offset_delta.wrapping_neg()),
            last_sequence: self.last_sequence,
            base_offset: Offset(self.last_offset.0.saturating_sub(self.offset_delta.into())),
            last_offset: self.last_offset,
            timestamp_ms: self.timestamp_ms,
        })
    }
}

fn last_sequence(header: &BatchHeader) -> i32 {
    add_sequence(header.base_sequence, header.last_offset_delta)
}

/// Sequences start again at 0 after `i32::MAX`.
fn add_sequence(sequence: i32, count: i32) -> i32 {
    sequence.wrapping_add(count) & i32::MAX
}

#[cfg(test)]
mod tests {
    use penstock_batch::{BatchBuilder, NewRecord};

    use super::*;

    fn header(epoch: i16, base_sequence: i32, records: i32) -> BatchHeader {
        let mut builder = BatchBuilder::new();
        builder.set_producer(7, epoch, base_sequence);
        (0..records).for_each(|_| builder.push(NewRecord::default()));
        BatchHeader::parse(&builder.finish()).unwrap()
    }

    #[test]
    fn a_batch_sent_again_is_answered_with_its_first_place() {
        let mut producers = Producers::default();
        for n in 0..6 {
            let batch = header(0, n * 2, 2);
            assert_eq!(producers.check(&batch), Ok(()));
            producers.note(&batch, Offset(100 + i64::from(n) * 2));
        }
        let again = AppendError::Duplicate { base_offset: Offset(106), last_offset: Offset(107) };
        assert_eq!(producers.check(&header(0, 6, 2)), Err(again));
        // The sixth from the end is forgotten. It is only known not to be the next one.
        let error = producers.check(&header(0, 0, 2)).unwrap_err();
        assert_eq!(error, AppendError::OutOfOrderSequence { producer_id: 7, expected: 12, got: 0 });
    }

    #[test]
    fn a_gap_is_refused_and_a_new_epoch_begins_at_zero() {
        let mut producers = Producers::default();
        producers.note(&header(3, 40, 1), Offset(0));
        assert_eq!(producers.check(&header(3, 41, 1)), Ok(()));
        assert!(matches!(
            producers.check(&header(3, 42, 1)),
            Err(AppendError::OutOfOrderSequence { expected: 41, got: 42, .. })
        ));
        assert_eq!(producers.check(&header(4, 0, 1)), Ok(()));
        assert!(matches!(
            producers.check(&header(2, 41, 1)),
            Err(AppendError::InvalidProducerEpoch { current: 3, got: 2, .. })
        ));
    }

    #[test]
    fn sequences_go_on_at_zero_after_the_largest() {
        let mut producers = Producers::default();
        producers.note(&header(0, i32::MAX - 1, 3), Offset(0));
        assert_eq!(producers.check(&header(0, 1, 1)), Ok(()));
    }

    /// Snapshots had only the last batch, as Kafka's have. After a clean stop, a producer with
    /// several unanswered requests in flight was refused as out of order.
    #[test]
    fn what_a_snapshot_brings_back_knows_the_last_batches_and_what_follows_them() {
        let mut before = Producers::default();
        for batch in 0..BATCHES as i32 + 2 {
            before.note(&header(2, batch * 3, 3), Offset(50 + i64::from(batch) * 10));
        }
        let mut producers = Producers::default();
        producers.load(before.snapshot());
        for batch in 2..BATCHES as i32 + 2 {
            let base_offset = Offset(50 + i64::from(batch) * 10);
            let last_offset = Offset(base_offset.0 + 2);
            let again = AppendError::Duplicate { base_offset, last_offset };
            assert_eq!(producers.check(&header(2, batch * 3, 3)), Err(again));
        }
        assert_eq!(producers.check(&header(2, 21, 1)), Ok(()));
        assert!(producers.check(&header(2, 3, 3)).is_err());
        assert_eq!(producers.snapshot(), before.snapshot());
    }

    #[test]
    fn the_last_entry_of_a_producer_is_its_last_batch_which_is_the_one_that_kafka_takes() {
        let mut producers = Producers::default();
        producers.note(&header(2, 0, 3), Offset(50));
        producers.note(&header(2, 3, 2), Offset(60));
        assert_eq!(producers.snapshot().last().unwrap().last_sequence, 4);
    }

    #[test]
    fn of_too_many_producers_in_a_snapshot_the_latest_are_kept() {
        let mut before = Producers::default();
        before.note(&header(0, 0, 1), Offset(0));
        let entry = before.snapshot()[0];
        let entries = (0..PRODUCERS as i64 + 10).map(|id| SnapshotEntry {
            producer_id: id,
            last_offset: Offset(id),
            ..entry
        });
        let mut producers = Producers::default();
        producers.load(entries.collect());
        assert_eq!(producers.by_id.len(), PRODUCERS);
        assert!(!producers.by_id.contains_key(&9) && producers.by_id.contains_key(&10));
    }
}
