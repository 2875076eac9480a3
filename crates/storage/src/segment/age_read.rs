//! Reads the age of a segment that was there when its log was opened. Called by retention; blocks.
//!
//! ```text
//!   Claims    last entry of .timeindex, headers from there on, time of the last write
//!   Records   every header; of batches that are not compressed the records
//! ```
//!
//! A timestamp too far ahead is not believed: one record in microseconds must not keep a segment
//! for ever. The file's last write stands in for it. It also stands in for a compressed batch,
//! whose records cannot be later. A file that was last written well ahead of our clock counts as
//! written now. Either clock may have been wrong. So the age is read again once our clock has
//! caught up: timestamps that lay ahead of it can be believed then.

use std::{io, sync::Arc, time::UNIX_EPOCH};

use penstock_batch::{BatchHeader, Codec, TimestampType};

use crate::{
    disk::{Directory, DiskFile},
    segment::{
        Segment, SegmentFiles,
        age::{AgeNeeds, Before},
        batch_place::{BatchPlace, HeaderWalk, max_timestamp_of_records},
        begin::{ALL, Begin},
        index_entry::TimeEntry,
        quiet_file::QuietFile,
        scan::{Scan, Scanned},
    },
    units::{Offset, Position},
};

/// A last write so far ahead of the clock is taken as it is. Clocks get set by so much, and a
/// segment that is kept for so much longer does no harm.
const CLOCK_SLACK_MS: i64 = 60 * 60 * 1000;

/// A job that reads the age of a segment.
#[derive(Debug)]
pub struct AgeRead {
    dir: Arc<Directory>,
    segment: Segment,
    needs: AgeNeeds,
    now_ms: i64,
    /// Later timestamps do not count.
    believed_until_ms: i64,
}

/// The age that was read.
#[derive(Debug)]
pub struct Age {
    pub(crate) segment: Offset,
    pub(crate) newest: Option<TimeEntry>,
    pub(crate) before: Before,
    /// When it has to be read again.
    pub(crate) doubted_from_ms: i64,
}

impl AgeRead {
    pub(crate) fn new(
        dir: &Arc<Directory>,
        segment: Segment,
        needs: AgeNeeds,
        now_ms: i64,
        timestamp_after_max_ms: i64,
    ) -> AgeRead {
        let believed_until_ms = now_ms.saturating_add(timestamp_after_max_ms);
        AgeRead { dir: dir.clone(), segment, needs, now_ms, believed_until_ms }
    }

    /// The age by the last write alone, for a segment that the disk cannot read: its records are
    /// not later than that, but by what producers' clocks may run ahead. Blocks.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn by_last_write(&self) -> io::Result<Age> {
        let Segment { files, newest, .. } = &self.segment;
        let (written_ms, doubted_from_ms) = self.believed_write(last_write_ms(&*files.log)?);
        let ahead_ms = self.believed_until_ms.saturating_sub(self.now_ms).max(0);
        let most_ms = written_ms.saturating_add(ahead_ms);
        let before = Before::Between { least_ms: i64::MIN, most_ms };
        Ok(Age { segment: files.base, newest: *newest, before, doubted_from_ms })
    }

    /// Reads. Blocks.
    ///
    /// # Errors
    /// Those of reading. See [`AgeRead::by_last_write`].
    pub fn run(&self) -> io::Result<Age> {
        let files = &self.segment.files;
        let newest = match self.segment.newest {
            Some(newest) => Some(newest),
            None => newest_of([files.times.read_last()?, newest_at_end(&self.segment)?]),
        };
        let (written_ms, doubted_from_ms) = self.believed_write(last_write_ms(&*files.log)?);
        let claimed_ms = newest.map(|newest| newest.timestamp_ms);
        let before = match (self.needs, claimed_ms) {
            (_, None) => Before::Known(written_ms),
            (AgeNeeds::Claims, Some(least_ms)) if self.is_believed(least_ms) => {
                Before::Between { least_ms, most_ms: least_ms.max(written_ms) }
            }
            (_, Some(claimed_ms)) => Before::Known(self.of_records(claimed_ms, written_ms)?),
        };
        Ok(Age { segment: files.base, newest, before, doubted_from_ms })
    }

    /// When the file was written, and when that has to be read again.
    fn believed_write(&self, written_ms: i64) -> (i64, i64) {
        let believable_from_ms = written_ms.saturating_sub(CLOCK_SLACK_MS);
        match believable_from_ms <= self.now_ms {
            true => (written_ms, i64::MAX),
            false => (self.now_ms, believable_from_ms),
        }
    }

    fn is_believed(&self, timestamp_ms: i64) -> bool {
        timestamp_ms <= self.believed_until_ms
    }

    /// The greatest timestamp that is believed; the last write, if it is later and not all
    /// timestamps are known.
    fn of_records(&self, claimed_ms: i64, written_ms: i64) -> io::Result<i64> {
        let Segment { files, size_bytes, damage, .. } = &self.segment;
        let quiet = QuietFile::new(SegmentFiles::open(&self.dir, files.base)?.log);
        let walk = HeaderWalk::new(files.base, Position(0), Position(*size_bytes)).over(damage);
        let mut scan = Scan::new(files.base, walk, ALL);
        let (mut newest_ms, mut is_known) = (None, true);
        loop {
            let timestamp_ms = match scan.next(&quiet)? {
                Scanned::Batch(header, place) => times_of(&header, &place, &quiet)?,
                Scanned::Damage(_) => Some(None),
                Scanned::Tail => break,
            };
            match timestamp_ms {
                Some(Some(ms)) if self.is_believed(ms) => newest_ms = newest_ms.max(Some(ms)),
                Some(None) => {}
                _ => is_known = false,
            }
            // The last write counts, and records of later batches cannot be later than it.
            if !is_known && self.is_believed(claimed_ms) {
                return Ok(written_ms.max(claimed_ms));
            }
        }
        let written_ms = (!is_known || newest_ms.is_none()).then_some(written_ms);
        Ok(newest_ms.max(written_ms).unwrap_or(claimed_ms))
    }
}

/// The greatest timestamp of a batch's records; `Some(None)` if it has no records. `None`: it is
/// not known, or the records have none, so that the time of their append counts.
fn times_of(
    header: &BatchHeader,
    place: &BatchPlace,
    file: &QuietFile,
) -> io::Result<Option<Option<i64>>> {
    let has_time = |ms: &i64| *ms >= 0;
    if header.record_count == 0 {
        return Ok(Some(Some(header.max_timestamp).filter(has_time)));
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Ok(Some(header.max_timestamp).filter(has_time).map(Some));
    }
    if header.codec() != Some(Codec::None) {
        return Ok(None);
    }
    let mut batch = vec![0; place.len_bytes as usize];
    file.read_exact_at(&mut batch, place.position.0)?;
    Ok(max_timestamp_of_records(&batch).filter(has_time).map(Some))
}

fn last_write_ms(log: &dyn DiskFile) -> io::Result<i64> {
    let modified = log.handle().metadata()?.modified()?;
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The later entry; the first if they are the same.
fn newest_of(entries: [Option<TimeEntry>; 2]) -> Option<TimeEntry> {
    let later = |one: TimeEntry, other: TimeEntry| {
        if other.timestamp_ms > one.timestamp_ms { other } else { one }
    };
    entries.into_iter().flatten().reduce(later)
}

/// The greatest timestamp of the batches from the last index entries on. It is the segment's,
/// unless time went backwards. A wrong time index cannot make records expire early because of it.
fn newest_at_end(segment: &Segment) -> io::Result<Option<TimeEntry>> {
    let Segment { files, size_bytes, damage, .. } = segment;
    let begin = Begin::below(ALL, files, damage, *size_bytes)?;
    let mut scan = Scan::new(files.base, begin.walk, ALL);
    let mut newest = None;
    loop {
        match scan.next(&*files.log)? {
            Scanned::Batch(_, BatchPlace { max_timestamp_ms: timestamp_ms @ 0.., last, .. }) => {
                let entry =
                    files.relative(last).map(|at| TimeEntry { timestamp_ms, relative_offset: at });
                newest = newest_of([newest, entry]);
            }
            Scanned::Batch(..) | Scanned::Damage(_) => {}
            Scanned::Tail => return Ok(newest),
        }
    }
}
