//! The next offset of a fetch run in one partition. Pure: offsets in, offsets out.
//!
//! Used by `fetch`, one cursor for each partition of each connection.

use std::ops::Range;

use crate::cli::ReadFrom;
use crate::payload::SplitMix;

/// The place of one reader in one partition.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    from: ReadFrom,
    /// The offsets that the reader goes through.
    range: Range<i64>,
    next: i64,
    random: SplitMix,
}

impl Cursor {
    /// The cursor of one of several readers of a partition with the offsets `log`; `share` is its
    /// number and their count.
    pub(crate) fn new(
        from: ReadFrom,
        log: Range<i64>,
        (reader, readers): (u32, u32),
        seed: u64,
    ) -> Cursor {
        let cut = |nth: u32| {
            let len = i128::from(log.end - log.start);
            log.start + (len * i128::from(nth) / i128::from(readers)) as i64
        };
        let (range, next) = match from {
            ReadFrom::Earliest => (cut(reader)..cut(reader + 1), cut(reader)),
            ReadFrom::Sequential | ReadFrom::Random => (log.clone(), cut(reader)),
        };
        let mut cursor = Cursor { from, range, next, random: SplitMix(seed) };
        if from == ReadFrom::Random {
            cursor.draw();
        }
        cursor
    }

    /// The offset to fetch. `None`: this reader has read all its records.
    pub(crate) fn offset(&self) -> Option<i64> {
        match self.from {
            ReadFrom::Earliest if self.next >= self.range.end => None,
            _ => Some(self.next),
        }
    }

    /// The count of records that this reader has still to read.
    pub(crate) fn left(&self) -> u64 {
        (self.range.end - self.next).max(0) as u64
    }

    /// Adjusts to the log's new bounds, for a reader whose place retention has deleted.
    pub(crate) fn moved(&mut self, log: Range<i64>) {
        self.next = self.next.clamp(log.start, log.end);
        if self.from != ReadFrom::Earliest {
            self.range = log;
        }
    }

    /// Moves on after an answer. The log reaches to `end`, and `next_offset` is the next record not
    /// seen.
    pub(crate) fn advance(&mut self, next_offset: Option<i64>, end: i64) {
        if self.from != ReadFrom::Earliest {
            self.range.end = end.max(self.range.start);
        }
        self.next = next_offset.unwrap_or(self.next);
        match self.from {
            ReadFrom::Random => self.draw(),
            ReadFrom::Sequential if self.next >= self.range.end => self.next = self.range.start,
            _ => {}
        }
    }

    fn draw(&mut self) {
        let len = self.range.end - self.range.start;
        self.next = self.range.start + self.random.below(len.max(1) as u64) as i64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursors(from: ReadFrom, readers: u32) -> Vec<Cursor> {
        (0..readers).map(|nth| Cursor::new(from, 100..200, (nth, readers), 7)).collect()
    }

    /// Reads ten records at a time, in batches that begin at multiples of ten.
    fn read(cursor: &mut Cursor) -> i64 {
        let offset = cursor.offset().unwrap();
        cursor.advance(Some(offset / 10 * 10 + 10), 200);
        offset
    }

    #[test]
    fn earliest_readers_share_a_log_and_then_have_nothing_left() {
        let mut read_by_all = Vec::new();
        for mut cursor in cursors(ReadFrom::Earliest, 4) {
            while cursor.offset().is_some() {
                read_by_all.push(read(&mut cursor));
            }
        }
        assert_eq!(read_by_all, [100, 110, 120, 125, 130, 140, 150, 160, 170, 175, 180, 190]);
    }

    #[test]
    fn an_empty_log_is_read_at_once() {
        assert_eq!(Cursor::new(ReadFrom::Earliest, 5..5, (0, 1), 0).offset(), None);
        assert_eq!(Cursor::new(ReadFrom::Random, 5..5, (0, 1), 0).offset(), Some(5));
    }

    #[test]
    fn sequential_readers_begin_spread_and_go_round() {
        let mut second = cursors(ReadFrom::Sequential, 2).remove(1);
        let offsets: Vec<i64> = (0..7).map(|_| read(&mut second)).collect();
        assert_eq!(offsets, [150, 160, 170, 180, 190, 100, 110]);
    }

    #[test]
    fn a_sequential_reader_follows_a_log_that_grows() {
        let mut cursor = Cursor::new(ReadFrom::Sequential, 0..10, (0, 1), 0);
        cursor.advance(Some(10), 30);
        assert_eq!(cursor.offset(), Some(10));
    }

    #[test]
    fn random_offsets_are_those_of_the_seed_and_lie_in_the_log() {
        let draw = |seed| {
            let mut cursor = Cursor::new(ReadFrom::Random, 100..200, (0, 1), seed);
            (0..200).map(|_| read(&mut cursor)).collect::<Vec<i64>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).iter().all(|offset| (100..200).contains(offset)));
    }

    #[test]
    fn a_reader_whose_records_were_deleted_goes_on_where_the_log_begins() {
        let mut cursor = Cursor::new(ReadFrom::Sequential, 0..100, (0, 1), 0);
        cursor.moved(40..120);
        assert_eq!(cursor.offset(), Some(40));
    }
}
