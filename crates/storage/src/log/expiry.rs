//! Expiry: whole sealed segments leave the log, oldest first. Their files are unlinked; a fetch
//! that holds one goes on reading it. age.rs decides when a segment is old, age_read.rs reads what
//! that takes.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    disk::Directory,
    log::Log,
    segment::{
        Segment,
        age::SegmentAge,
        age_read::{Age, AgeRead},
        listing::segment_file,
    },
    units::Offset,
};

/// The files that may belong to a segment. The log goes first: the next start removes indexes
/// without a log, but would rebuild the indexes of a log without any.
const SUFFIXES: [&str; 5] = ["log", "index", "timeindex", "snapshot", "txnindex"];

/// A segment that is no longer part of its log.
#[derive(Debug)]
pub struct ExpiredSegment {
    dir: Arc<Directory>,
    /// Its first offset.
    pub base_offset: Offset,
    /// Bytes of its log file.
    pub size_bytes: u64,
    /// Why it expired.
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

    /// Removes the segment's files. Blocks. Fetches that hold the file go on reading it.
    ///
    /// Unlink the segments of one log in the order in which `expire` returned them: a crash must
    /// not leave a hole.
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

impl Log {
    /// Takes out the segments that retention no longer keeps, and moves the log start. The active
    /// segment stays. A segment of unknown age, and all that follow it, stay too: `unread_age`
    /// returns what to read first.
    pub fn expire(&mut self, now_ms: i64) -> Vec<ExpiredSegment> {
        let mut expired = Vec::new();
        let mut size_bytes = self.size_bytes();
        while let Some(why) = self.why_first_is_due(size_bytes, now_ms) {
            let Some(segment) = self.sealed.pop_front() else { break };
            size_bytes -= segment.size_bytes;
            self.changes += 1;
            expired.push(ExpiredSegment::new(&self.dir, &segment, why));
            let first = self.sealed.front().unwrap_or(&self.active.segment).base();
            self.log_start = self.log_start.max(first);
            self.learned.forget_before(first);
            self.unindexed.retain(|indexer| indexer.base() >= first);
        }
        expired
    }

    /// What to read to know whether the oldest segment is past `retention.ms` (the active one, if
    /// there is no other). `None`: it is known. The job reads some KiB, or once all of a segment
    /// where only the records can tell.
    pub fn unread_age(&self, now_ms: i64) -> Option<AgeRead> {
        let retention_ms = self.config.retention_ms?;
        let first = self.sealed.front().unwrap_or(&self.active.segment);
        let needs = first.age.needs(retention_ms, now_ms).filter(|_| first.size_bytes > 0)?;
        let after_max_ms = self.config.timestamp_after_max_ms;
        Some(AgeRead::new(&self.dir, first.clone(), needs, now_ms, after_max_ms))
    }

    /// Remembers an age, unless its segment has gone.
    pub fn note_age(&mut self, age: Age) {
        let sealed = self.sealed.iter_mut().chain([&mut self.active.segment]);
        if let Some(segment) = sealed.into_iter().find(|s| s.base() == age.segment) {
            segment.newest = segment.newest.or(age.newest);
            segment.age.learn(age.before, age.doubted_from_ms);
        }
    }

    /// Forgets all ages, because other timestamps are believed from here on. As after a start, they
    /// are read from the files, whose last write bounds them.
    pub(crate) fn forget_ages(&mut self) {
        let segments = self.sealed.iter_mut().chain([&mut self.active.segment]);
        let with_records = segments.filter(|segment| segment.size_bytes > 0);
        with_records.for_each(|segment| segment.age = SegmentAge::UNREAD);
    }

    fn why_first_is_due(&self, size_bytes: u64, now_ms: i64) -> Option<Expiry> {
        let next_base = self.sealed.get(1).unwrap_or(&self.active.segment).base();
        let first = self.sealed.front()?;
        let keep_bytes = self.config.retention_bytes.unwrap_or(u64::MAX);
        let retention_ms = self.config.retention_ms;
        let is_too_old = retention_ms.is_some_and(|than_ms| first.age.is_older(than_ms, now_ms));
        if next_base <= self.log_start {
            Some(Expiry::LogStart)
        } else if size_bytes.saturating_sub(first.size_bytes) >= keep_bytes {
            Some(Expiry::Size)
        } else {
            is_too_old.then_some(Expiry::Time)
        }
    }
}
