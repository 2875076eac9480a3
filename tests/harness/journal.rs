//! The acknowledgement journal: records sent, acknowledged and read, kept outside the server.
//!
//! Producers and consumers write notes from their threads. The journal panics at the first note
//! that contradicts an earlier one. The checker ([`crate::witness`]) compares a whole log with it.
//!
//! | invariant | where |
//! |---|---|
//! | acknowledged ⊆ log, byte for byte at the acknowledged offset | [`Journal::missing`] |
//! | only sent records, each at most once a send | [`Journal::check_log`] |
//! | offsets contiguous | [`crate::consumer::proved`] |
//! | offsets never reused | every note |
//! | the high watermark never goes back | [`Journal::saw_high_watermark`] |
//! | no bytes of another partition | [`Journal::saw`] |

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::stamp::Stamped;

/// A load without an acknowledgement for so long has stopped.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The notes of one test about one topic.
#[derive(Debug, Default)]
pub struct Journal {
    notes: Mutex<Notes>,
    grew: Condvar,
}

/// A record found in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub offset: i64,
    /// What.
    pub record: Stamped,
}

#[derive(Debug, Default)]
struct Notes {
    /// Records sent, by producer and sequence.
    sent: HashMap<(u64, u64), Sent>,
    partitions: HashMap<i32, PartitionNotes>,
    acknowledgements: usize,
}

#[derive(Debug)]
struct Sent {
    record: Stamped,
    /// How often the record may be in the log.
    copies_max: usize,
}

#[derive(Debug, Default)]
struct PartitionNotes {
    /// The hash of the record at each offset that was acknowledged or read.
    known: BTreeMap<i64, u64>,
    /// The lowest high watermark that may follow.
    floor: i64,
}

impl Journal {
    /// Notes a send before it happens. An idempotent send may be repeated and adds no copy.
    pub fn sends(&self, records: &[Stamped], is_idempotent: bool) {
        let mut notes = self.notes();
        for record in records {
            let key = (record.stamp.producer, record.stamp.sequence);
            let sent = notes.sent.entry(key).or_insert(Sent { record: *record, copies_max: 0 });
            assert_eq!(sent.record, *record, "a producer sends other bytes under the same number");
            sent.copies_max = if is_idempotent { 1 } else { sent.copies_max + 1 };
        }
    }

    /// Notes that records were acknowledged from `base_offset` on.
    pub fn acknowledged(&self, partition: i32, base_offset: i64, records: &[Stamped]) {
        assert!(base_offset >= 0, "acknowledged at {base_offset}");
        let mut notes = self.notes();
        for (offset, record) in (base_offset..).zip(records) {
            notes.partition(partition).know(offset, record);
        }
        let end = base_offset + records.len() as i64;
        let of_partition = notes.partition(partition);
        of_partition.floor = of_partition.floor.max(end);
        notes.acknowledgements += 1;
        self.grew.notify_all();
    }

    /// Notes a record that was read.
    pub fn saw(&self, partition: i32, found: Found) {
        let mut notes = self.notes();
        notes.check_sent(partition, &found);
        notes.partition(partition).know(found.offset, &found.record);
    }

    /// The lowest high watermark that a request from now on may return.
    pub fn floor(&self, partition: i32) -> i64 {
        self.notes().partition(partition).floor
    }

    /// Notes a high watermark. `floor` is the result of [`Journal::floor`] before the request.
    pub fn saw_high_watermark(&self, partition: i32, floor: i64, high_watermark: i64) {
        assert!(high_watermark >= floor, "high watermark {high_watermark} after {floor}");
        let mut notes = self.notes();
        let of_partition = notes.partition(partition);
        of_partition.floor = of_partition.floor.max(high_watermark);
    }

    /// Acknowledged requests so far.
    pub fn acknowledgements(&self) -> usize {
        self.notes().acknowledgements
    }

    /// Waits until so many more requests are acknowledged.
    pub fn wait_for_more(&self, acknowledgements: usize) {
        let mut notes = self.notes();
        let enough = notes.acknowledgements + acknowledgements;
        while notes.acknowledgements < enough {
            let waited = self.grew.wait_timeout(notes, SILENCE_MAX).expect("no note panicked");
            assert!(!waited.1.timed_out(), "nothing was acknowledged for {SILENCE_MAX:?}");
            notes = waited.0;
        }
    }

    /// Checks that a whole log has only sent records, and none too often.
    pub fn check_log(&self, partition: i32, log: &[Found]) {
        let notes = self.notes();
        let mut copies: HashMap<(u64, u64), usize> = HashMap::new();
        for found in log {
            notes.check_sent(partition, found);
            let stamp = found.record.stamp;
            let copies = copies.entry((stamp.producer, stamp.sequence)).or_default();
            *copies += 1;
            let copies_max = notes.sent[&(stamp.producer, stamp.sequence)].copies_max;
            assert!(
                *copies <= copies_max,
                "{stamp:?} was sent {copies_max} times and is there again"
            );
        }
    }

    /// Offsets of records that were acknowledged or read and are missing from the log. Panics if
    /// another record has such an offset.
    pub fn missing(&self, partition: i32, log: &[Found]) -> Vec<i64> {
        let at: HashMap<i64, u64> = log.iter().map(|f| (f.offset, f.record.hash)).collect();
        let mut notes = self.notes();
        let is_missing = |(offset, hash): (&i64, &u64)| match at.get(offset) {
            Some(there) => {
                assert_eq!(there, hash, "offset {offset} of {partition} holds another record");
                None
            }
            None => Some(*offset),
        };
        notes.partition(partition).known.iter().filter_map(is_missing).collect()
    }

    /// Forgets records that a fault was allowed to lose, so that `end` is the log's end. Offsets
    /// from there on are assigned again.
    pub fn forget(&self, partition: i32, lost: &[i64], end: i64) {
        let mut notes = self.notes();
        let of_partition = notes.partition(partition);
        lost.iter().for_each(|offset| _ = of_partition.known.remove(offset));
        of_partition.floor = of_partition.floor.min(end);
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().expect("no note panicked")
    }
}

impl Notes {
    fn partition(&mut self, partition: i32) -> &mut PartitionNotes {
        self.partitions.entry(partition).or_default()
    }

    fn check_sent(&self, partition: i32, found: &Found) {
        let stamp = found.record.stamp;
        assert_eq!(stamp.partition, partition, "a record of another partition: {found:?}");
        let sent = self.sent.get(&(stamp.producer, stamp.sequence));
        let sent = sent.unwrap_or_else(|| panic!("{found:?} was never sent"));
        assert_eq!(sent.record, found.record, "not as it was sent");
    }
}

impl PartitionNotes {
    fn know(&mut self, offset: i64, record: &Stamped) {
        let known = *self.known.entry(offset).or_insert(record.hash);
        assert_eq!(
            known, record.hash,
            "offset {offset} was given to another record than {record:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Stamp;

    fn record(partition: i32, sequence: u64) -> Stamped {
        Stamped { stamp: Stamp { partition, producer: 0, sequence }, hash: sequence }
    }

    fn found(offset: i64, sequence: u64) -> Found {
        Found { offset, record: record(0, sequence) }
    }

    fn with_two_sent() -> Journal {
        let journal = Journal::default();
        journal.sends(&[record(0, 1), record(0, 2)], false);
        journal
    }

    #[test]
    fn what_was_acknowledged_or_seen_and_is_not_there_is_missing() {
        let journal = with_two_sent();
        journal.acknowledged(0, 0, &[record(0, 1)]);
        journal.saw(0, found(1, 2));
        assert_eq!(journal.missing(0, &[found(0, 1), found(1, 2)]), [0i64; 0]);
        assert_eq!(journal.missing(0, &[found(0, 1)]), [1]);
        assert_eq!(journal.missing(0, &[]), [0, 1]);
        journal.forget(0, &[1], 1);
        assert_eq!(journal.missing(0, &[]), [0]);
    }

    #[test]
    #[should_panic(expected = "holds another record")]
    fn an_acknowledged_offset_that_holds_another_record_is_noticed() {
        let journal = with_two_sent();
        journal.acknowledged(0, 0, &[record(0, 1)]);
        journal.missing(0, &[found(0, 2)]);
    }

    #[test]
    #[should_panic(expected = "was given to another record")]
    fn an_offset_that_is_given_out_twice_is_noticed() {
        let journal = with_two_sent();
        journal.acknowledged(0, 0, &[record(0, 1)]);
        journal.acknowledged(0, 0, &[record(0, 2)]);
    }

    #[test]
    #[should_panic(expected = "was sent 1 times")]
    fn a_record_that_is_there_more_often_than_it_was_sent_is_noticed() {
        with_two_sent().check_log(0, &[found(0, 1), found(1, 1)]);
    }

    #[test]
    #[should_panic(expected = "another partition")]
    fn a_record_of_another_partition_is_noticed() {
        with_two_sent().saw(1, found(0, 1));
    }

    #[test]
    #[should_panic(expected = "never sent")]
    fn a_record_that_nobody_sent_is_noticed() {
        with_two_sent().saw(0, found(0, 3));
    }

    #[test]
    #[should_panic(expected = "high watermark")]
    fn a_high_watermark_below_what_was_acknowledged_is_noticed() {
        let journal = with_two_sent();
        journal.acknowledged(0, 0, &[record(0, 1), record(0, 2)]);
        journal.saw_high_watermark(0, journal.floor(0), 1);
    }
}
