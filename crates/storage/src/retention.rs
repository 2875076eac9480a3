//! Expiry: whole sealed segments leave the log, oldest first; their files go when nobody reads them.

use std::{io, path::PathBuf, sync::Arc, time::UNIX_EPOCH};

use crate::{
    Directory, Log, Offset,
    batch_place::BatchPlace,
    index_entry::TimeEntry,
    prove::Begin,
    recovery::ALL,
    scan::{Scan, Scanned},
    segment::{Segment, segment_file},
};

/// What may belong to a segment. The log goes first: indexes without a log are swept at the next start,
/// a log without indexes would be indexed again.
const SUFFIXES: [&str; 5] = ["log", "index", "timeindex", "snapshot", "txnindex"];

/// A segment that is no longer part of its log.
#[derive(Debug)]
pub struct ExpiredSegment {
    dir: Arc<Directory>,
    /// Its first offset.
    pub base_offset: Offset,
    /// Bytes of its log file.
    pub size_bytes: u64,
    /// Why it goes.
    pub why: Expiry,
}

/// Why a segment is no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expiry {
    /// All its records lie below the log start.
    LogStart,
    /// The log is larger than `retention.bytes` without it.
    Size,
    /// Its newest record is older than `retention.ms`.
    Time,
}

impl ExpiredSegment {
    fn new(dir: &Arc<Directory>, segment: &Segment, why: Expiry) -> ExpiredSegment {
        let (base_offset, size_bytes) = (segment.base(), segment.size_bytes);
        ExpiredSegment { dir: dir.clone(), base_offset, size_bytes, why }
    }

    /// Removes its files. Blocks. Fetches that hold the file go on reading it.
    ///
    /// Unlink the segments of one log in the order in which they were given: a crash must not leave a hole.
    pub fn unlink(self) -> io::Result<()> {
        SUFFIXES.iter().try_for_each(|suffix| self.remove(suffix))
    }

    fn remove(&self, suffix: &str) -> io::Result<()> {
        match self.dir.disk().remove_file(&self.path(suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        segment_file(&self.dir, self.base_offset, suffix)
    }
}

/// The age of a segment, to be read.
#[derive(Debug)]
pub struct AgeRead(Segment);

/// What was read.
#[derive(Debug)]
pub struct Age {
    segment: Offset,
    newest: Option<TimeEntry>,
    newest_ms: i64,
}

impl AgeRead {
    /// The last entry of the time index, or a later timestamp of the batches behind the last index entries: some
    /// KiB. Where no record has a timestamp, the time of the last write. Blocks.
    pub fn run(self) -> io::Result<Age> {
        let AgeRead(segment) = self;
        let files = &segment.files;
        let newest = newest_of([files.times.read_last()?, newest_at_end(&segment)?]);
        let newest_ms = match newest {
            Some(newest) => newest.timestamp_ms,
            None => {
                let modified = files.log.handle().metadata()?.modified()?;
                let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
        };
        Ok(Age { segment: files.base, newest, newest_ms })
    }
}

/// The first of them if they are the same.
fn newest_of(entries: [Option<TimeEntry>; 2]) -> Option<TimeEntry> {
    let later = |one: TimeEntry, other: TimeEntry| {
        if other.timestamp_ms > one.timestamp_ms { other } else { one }
    };
    entries.into_iter().flatten().reduce(later)
}

/// The greatest timestamp of the batches from the last index entries on. It is the segment's unless time went
/// backwards, and holds a time index that is wrong from making records expire early.
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

impl Log {
    /// Takes out what retention no longer keeps, and moves the log start. The active segment stays, and so does
    /// what follows a segment whose age is not known: `unread_age` says so.
    pub fn expire(&mut self, now_ms: i64) -> Vec<ExpiredSegment> {
        let mut expired = Vec::new();
        let mut size_bytes = self.size_bytes();
        while let Some(why) = self.why_first_is_due(size_bytes, now_ms) {
            let Some(segment) = self.sealed.pop_front() else { break };
            size_bytes -= segment.size_bytes;
            expired.push(ExpiredSegment::new(&self.dir, &segment, why));
            let first = self.sealed.front().unwrap_or(&self.active.segment).base();
            self.log_start = self.log_start.max(first);
            self.learned.forget_before(first);
        }
        expired
    }

    /// What has to be read before `expire` can go on, if there is anything. Between two runs of it at most one
    /// age is read: that of the segment it will expire next.
    pub fn unread_age(&self) -> Option<AgeRead> {
        self.config.retention_ms?;
        let first = self.sealed.front().filter(|first| first.age_ms().is_none())?;
        Some(AgeRead(first.clone()))
    }

    /// Remembers an age, unless its segment has gone.
    pub fn note_age(&mut self, age: Age) {
        if let Some(segment) = self.sealed.iter_mut().find(|s| s.base() == age.segment) {
            segment.newest = segment.newest.or(age.newest);
            segment.untimed_ms = Some(age.newest_ms);
        }
    }

    fn why_first_is_due(&self, size_bytes: u64, now_ms: i64) -> Option<Expiry> {
        let next_base = self.sealed.get(1).unwrap_or(&self.active.segment).base();
        let first = self.sealed.front()?;
        let keep_bytes = self.config.retention_bytes.unwrap_or(u64::MAX);
        let is_too_old = self.config.retention_ms.is_some_and(|retention_ms| {
            now_ms.saturating_sub(first.age_ms().unwrap_or(now_ms)) > retention_ms
        });
        if next_base <= self.log_start {
            Some(Expiry::LogStart)
        } else if size_bytes.saturating_sub(first.size_bytes) >= keep_bytes {
            Some(Expiry::Size)
        } else {
            is_too_old.then_some(Expiry::Time)
        }
    }
}

impl Segment {
    /// The moment by which it expires, if it is known.
    fn age_ms(&self) -> Option<i64> {
        self.newest.map(|newest| newest.timestamp_ms).or(self.untimed_ms)
    }
}
