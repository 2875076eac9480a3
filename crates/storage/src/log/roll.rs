//! Rolling: the active segment is sealed and an empty one takes its place.
//!
//! `needs_roll` decides, `Roll::create` makes the files (where blocking is allowed), `install_roll`
//! puts them to use. The append lock is held over all three, so that nothing is appended in
//! between. The files of the old segment are completed before those of the new one exist. So a
//! segment that is followed by another one has whole indexes, which recovery relies on.
//!
//! A roll that found no room is begun again by the next append, whatever its size. The new
//! segment's files may exist already, and an offset appended to the old segment would then be in
//! both.

use std::{io, sync::Arc};

use crate::{
    disk::{Directory, is_no_room, is_shortage, sync_error},
    log::{Active, Log, Writing, index_flush::IndexFlush, produced::ProducedBatch},
    log_config::TimestampType,
    segment::{MAX_SEGMENT_BYTES, SegmentFiles},
    units::Offset,
};

/// A decision to roll.
#[derive(Debug)]
pub struct Roll {
    dir: Arc<Directory>,
    base: Offset,
    now_ms: i64,
    flushes: Vec<IndexFlush>,
    sealed: Arc<SegmentFiles>,
}

/// The empty segment, ready to be used.
#[derive(Debug)]
pub struct NewSegment {
    active: Active,
}

impl Roll {
    /// Makes the records of the old segment survive a power cut. Blocks.
    ///
    /// After an error (`Log::fail_roll`) the log is offline, because what is on the disk is not
    /// known. The error is never one of `is_no_room` or `is_shortage`.
    pub fn sync_sealed(&self) -> io::Result<()> {
        self.sealed.log.sync_data().map_err(sync_error)
    }

    /// Completes the indexes of the old segment and makes the files of the new one. Blocks.
    ///
    /// After an error (`Log::fail_roll`) committed records can be read as before.
    pub fn create(self) -> io::Result<NewSegment> {
        self.flushes.iter().try_for_each(IndexFlush::write)?;
        let files = SegmentFiles::create(&self.dir, self.base)?;
        Ok(NewSegment { active: Active::empty(files, self.now_ms) })
    }
}

impl Log {
    /// The roll that must come before this batch, if it must begin a new segment. The reasons are
    /// Kafka's: the segment would outgrow `segment.bytes`, has been filled for `segment.ms`, has a
    /// full index, or lies too far back for offsets relative to its base.
    pub fn needs_roll(&mut self, incoming: &ProducedBatch, now_ms: i64) -> Option<Roll> {
        let segment = &self.active.segment;
        if segment.size_bytes == 0 || self.is_offline() {
            return None;
        }
        let due = self.writing == Writing::Rolling || !self.fits(incoming, now_ms);
        due.then(|| self.roll(now_ms))
    }

    /// Whether this batch may go into the active segment, behind the outstanding appends.
    pub(crate) fn fits(&self, incoming: &ProducedBatch, now_ms: i64) -> bool {
        let size_limit = self.config.segment_bytes.min(MAX_SEGMENT_BYTES);
        let (position, next_offset) = self.append_point();
        let last = Offset(next_offset.0.saturating_add(incoming.record_count() - 1));
        position.0 + incoming.len_bytes() <= size_limit
            && self.filled_for_ms(incoming, now_ms) <= self.config.segment_ms
            && !self.active.indexer.is_full(self.config.index_max_bytes)
            && self.active.segment.files.relative(last).is_some()
    }

    /// The roll of an active segment that is past `retention.ms` as a whole: it must be sealed for
    /// `expire` to reach it. For partitions without producers, called periodically.
    pub fn needs_expiry_roll(&mut self, now_ms: i64) -> Option<Roll> {
        self.active_has_expired(now_ms).then(|| self.roll(now_ms))
    }

    /// Whether `needs_expiry_roll` would roll.
    pub fn active_has_expired(&self, now_ms: i64) -> bool {
        let segment = &self.active.segment;
        let is_older = |retention_ms| segment.age.is_older(retention_ms, now_ms);
        self.config.retention_ms.is_some_and(is_older)
            && segment.size_bytes > 0
            && !self.is_offline()
    }

    /// Seals the active segment. From here on appends go to the new one.
    ///
    /// # Panics
    /// If there was an append since the roll was decided: a bug of the caller.
    pub fn install_roll(&mut self, new: NewSegment) {
        assert!(
            new.active.segment.base() == self.log_end,
            "an append came between decision and roll"
        );
        let old = std::mem::replace(&mut self.active, new.active);
        self.sealed.push_back(old.segment);
        self.changes += 1;
        self.writing = Writing::Idle;
    }

    /// The roll failed. For want of room, or in a shortage, the next append tries again. After any
    /// other error the log goes offline, because what is on the disk is not known.
    pub fn fail_roll(&mut self, error: &io::Error) {
        if !is_no_room(error) && !is_shortage(error) {
            self.writing = Writing::Offline;
            tracing::error!(
                dir = %self.dir.display(), %error,
                "a segment could not be rolled; the partition takes no more appends until the server is restarted"
            );
        }
    }

    fn roll(&mut self, now_ms: i64) -> Roll {
        assert!(!self.is_torn, "a needed cut was left out");
        self.writing = Writing::Rolling;
        self.changes += 1;
        let flushes = self.finish_indexes();
        let sealed = self.active.segment.files.clone();
        Roll { dir: self.dir.clone(), base: self.log_end, now_ms, flushes, sealed }
    }

    /// How long the segment has been filled: by the timestamps of records if they are checked, else
    /// by our clock.
    fn filled_for_ms(&self, incoming: &ProducedBatch, now_ms: i64) -> i64 {
        match self.active.first_timestamp_ms {
            Some(first_ms) if first_ms >= 0 => {
                let stamped = self.config.timestamp_type == TimestampType::LogAppendTime;
                let by_our_clock = stamped || !incoming.is_checked;
                let latest_ms = if by_our_clock { now_ms } else { incoming.header.max_timestamp };
                latest_ms.saturating_sub(first_ms)
            }
            _ => now_ms.saturating_sub(self.active.created_ms),
        }
    }
}
