//! Reading the part of a segment that is not believed at start: every batch is compared with its
//! CRC.
//!
//! ```text
//!   last index entry below the point
//!       ▼    recovery point
//!   … ─[ headers ]─┼─[ CRC ][ CRC ][ damage ][ CRC ]│ tail: cut if no segment follows, damage if one does
//!                  └ index entries rebuilt ────────┘
//! ```
//!
//! A log does not end before its point, nor before the name of its last segment. Where batches are
//! lost there, an empty batch behind them keeps their offsets from being used again.
//!
//! After a clean stop the point is the log end, and nothing is compared with its CRC.

use std::{io, sync::Arc};

use penstock_batch::{BatchBuilder, BatchHeader, HEADER_LEN, assign};

use crate::{
    damage::DamagedRanges,
    disk::is_no_room,
    error::LogError,
    log::{Active, wall_clock_ms},
    recovery::opening::Opening,
    segment::{
        Indexer, MAX_SEGMENT_BYTES, Segment, SegmentFiles,
        age::SegmentAge,
        batch_place::BatchPlace,
        begin::{ALL, Begin, header_at},
        index_entry::{Entry, OffsetEntry},
        listing::LOG,
        old_format,
        scan::{Scan, Scanned},
    },
    units::{Offset, Position},
};

/// A segment that was read. It may become the active one.
pub(crate) struct Proved {
    active: Active,
    /// The offset behind all batches that are sound, or known to be lost.
    pub(crate) end: Offset,
    end_position: Position,
    pub(crate) file_bytes: u64,
    batches: u64,
    pub(crate) found_damage: bool,
}

impl Proved {
    pub(crate) fn base(&self) -> Offset {
        self.active.segment.base()
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.active.segment
    }

    /// Whether it has a sound batch.
    pub(crate) fn holds_batches(&self) -> bool {
        self.batches > 0
    }

    pub(crate) fn has_unsound_end(&self) -> bool {
        self.end_position.0 < self.file_bytes
    }

    /// Whether an empty batch with that offset may be appended.
    pub(crate) fn has_room_for(&self, offset: Offset) -> bool {
        self.segment().files.relative(offset).is_some()
            && offset < ALL
            && self.file_bytes + HEADER_LEN as u64 <= MAX_SEGMENT_BYTES
    }
}

impl Opening<'_> {
    /// Reads a segment, from the last index entry below the point on. `next` is the segment behind
    /// it.
    pub(crate) fn prove(&mut self, base: Offset, next: Option<Offset>) -> Result<Proved, LogError> {
        let (files, file_bytes) = self.files(base)?;
        let known = self.known_damage(base, file_bytes);
        let begin = Begin::below(self.proven, &files, &known, file_bytes);
        let begin = begin.map_err(self.io(base, OffsetEntry::SUFFIX))?;
        let mut active = new_active(&files, begin.indexer, known);
        active.first_timestamp_ms = match begin.walk.position {
            Position(0) => None,
            _ => first_timestamp_ms(&files, file_bytes).map_err(self.io(base, "log"))?,
        };
        active.first_timestamp_ms = active.first_timestamp_ms.map(|ms| ms.min(active.created_ms));
        let mut scan = Scan::new(base, begin.walk.before(next), self.proven);
        let (mut batches, mut found_damage) = (0, false);
        loop {
            match scan.next(&*files.log).map_err(self.io(base, "log"))? {
                Scanned::Batch(header, place) => {
                    active.commit(&place, self.config.index_interval_bytes);
                    self.recent.push(&place);
                    self.epochs.note(header.leader_epoch, place.base);
                    self.recovery.transactions.note(&header);
                    batches += 1;
                }
                Scanned::Damage(found) => {
                    self.refuse_old_message(&files, found.position, file_bytes)?;
                    self.add_damage(&mut active.segment.damage, found);
                    found_damage = true;
                }
                Scanned::Tail => break,
            }
        }
        let (end, end_position) = (scan.lowest(), scan.position());
        if end_position.0 < file_bytes {
            self.refuse_old_message(&files, end_position, file_bytes)?;
        }
        self.recovery.segments_scanned += u64::from(self.proven != ALL);
        self.recovery.bytes_scanned += scan.read_bytes();
        active.segment.size_bytes = end_position.0;
        Ok(Proved { active, end, end_position, file_bytes, batches, found_damage })
    }

    /// Finishes a segment that `next` follows. An unsound end is damage.
    pub(crate) fn finish_sealed(
        &mut self,
        proved: Proved,
        next: Offset,
    ) -> Result<Segment, LogError> {
        if !proved.has_unsound_end() {
            self.miss(&proved, next);
        }
        let Active { mut segment, indexer, .. } = proved.active;
        segment.size_bytes = proved.file_bytes;
        self.add_tail(&mut segment, proved.end_position, proved.end, next);
        self.complete_sealed(indexer)?;
        Ok(segment)
    }

    /// Finishes the last segment. An unsound end is cut, unless it was synced. Returns the log end,
    /// too.
    pub(crate) fn finish_active(
        &mut self,
        mut proved: Proved,
    ) -> Result<(Active, Offset), LogError> {
        match self.reached_beyond(&proved) {
            true if proved.has_unsound_end() => self.fill_behind_damage(&mut proved)?,
            true => self.fill(&mut proved, self.written)?,
            false => self.left.is_torn = !self.cut(&mut proved)?,
        }
        let Proved { mut active, end, .. } = proved;
        let is_whole = active.indexer.is_whole().map_err(self.io(active.segment.base(), LOG))?;
        if self.proven != ALL || !is_whole {
            self.complete_indexes(&active.indexer)?;
        }
        active.indexer.offsets.forget_flushed();
        active.indexer.times.forget_flushed();
        if active.segment.size_bytes == 0 {
            active.segment.age = SegmentAge::NEW;
        }
        Ok((active, end))
    }

    /// Whether the log was longer once, so that the offsets up to the point have been used. A point
    /// that the segment has no room for belongs to another log.
    pub(crate) fn reached_beyond(&self, last: &Proved) -> bool {
        last.end < self.written && last.has_room_for(self.written)
    }

    /// Cuts an unsound end. Returns whether nothing of it is left: on btrfs a cut may find no room.
    pub(crate) fn cut(&mut self, proved: &mut Proved) -> Result<bool, LogError> {
        if !proved.has_unsound_end() {
            return Ok(true);
        }
        let (base, position) = (proved.base(), proved.end_position.0);
        let truncated_bytes = proved.file_bytes - position;
        match proved.segment().files.log.set_len(position) {
            Err(error) if is_no_room(&error) => {
                tracing::warn!(
                    dir = %self.dir.display(), segment = base.0, position, truncated_bytes, %error,
                    "cannot cut a tail that was not wholly written; it is not served"
                );
                return Ok(false);
            }
            cut => cut.map_err(self.io(base, "log"))?,
        }
        tracing::warn!(
            dir = %self.dir.display(), segment = base.0, position, truncated_bytes,
            "cut a tail that was not wholly written"
        );
        proved.file_bytes = position;
        self.recovery.truncated_bytes += truncated_bytes;
        Ok(true)
    }

    /// The offsets from its end up to `used` are lost. An empty batch takes the last of them, so
    /// that none is used again and a consumer gets to the log end.
    pub(crate) fn fill(&mut self, proved: &mut Proved, used: Offset) -> Result<(), LogError> {
        let last = Offset(used.0 - 1);
        if proved.end < used && proved.has_room_for(last) {
            self.miss(proved, used);
            self.append_empty(proved, last)?;
        }
        Ok(())
    }

    /// The unsound tail lies below the recovery point, so it was once durable. An empty batch
    /// behind it makes it ordinary damage.
    fn fill_behind_damage(&mut self, proved: &mut Proved) -> Result<(), LogError> {
        let (end_position, end, written) = (proved.end_position, proved.end, self.written);
        let segment = &mut proved.active.segment;
        segment.size_bytes = proved.file_bytes;
        self.add_tail(segment, end_position, end, written);
        self.append_empty(proved, written)
    }

    /// Appends a batch without records, as a compaction leaves them.
    fn append_empty(&mut self, proved: &mut Proved, offset: Offset) -> Result<(), LogError> {
        let leader_epoch = self.epochs.starts().last().map_or(0, |epoch| epoch.leader_epoch);
        let mut bytes = BatchBuilder::new().finish();
        assign(&mut bytes, offset.0, leader_epoch);
        let position = Position(proved.file_bytes);
        let (files, base) = (proved.segment().files.clone(), proved.base());
        let written = files.log.write_all_at(&bytes, position.0);
        written.and_then(|()| files.log.sync_data()).map_err(self.io(base, "log"))?;
        let header = BatchHeader::parse(&bytes).expect("a whole header");
        let place = BatchPlace::of(&header, position);
        proved.active.commit(&place, self.config.index_interval_bytes);
        self.recent.push(&place);
        proved.end = Offset(offset.0 + 1);
        (proved.end_position, proved.file_bytes) = (place.end(), place.end().0);
        Ok(())
    }

    /// Logs and counts the offsets that are missing between its end and `next`, if any.
    fn miss(&mut self, proved: &Proved, next: Offset) {
        let missing_offsets = (next.0 - proved.end.0).max(0) as u64;
        if missing_offsets > 0 {
            tracing::warn!(
                dir = %self.dir.display(), segment = proved.base().0, missing_offsets,
                first_offset = proved.end.0, end_offset = next.0,
                "offsets are missing: their batches never reached the disk, or a Kafka has compacted them"
            );
        }
        self.recovery.missing_offsets += missing_offsets;
    }

    /// Bytes that are no batch are damage, or cut. An old message is neither, because its data is
    /// sound: it refuses the log.
    fn refuse_old_message(
        &self,
        files: &SegmentFiles,
        position: Position,
        file_bytes: u64,
    ) -> Result<(), LogError> {
        let magic = old_format::magic(&*files.log, position.0, file_bytes);
        match magic.map_err(self.io(files.base, LOG))? {
            Some(magic) => Err(LogError::OldFormat { path: self.path(files.base, LOG), magic }),
            None => Ok(()),
        }
    }
}

fn first_timestamp_ms(files: &SegmentFiles, size_bytes: u64) -> io::Result<Option<i64>> {
    let first = header_at(Position(0), files, size_bytes)?;
    Ok(first.map(|place| place.max_timestamp_ms))
}

fn new_active(files: &Arc<SegmentFiles>, indexer: Indexer, damage: DamagedRanges) -> Active {
    let newest = indexer.newest;
    let age = SegmentAge::UNREAD;
    let segment = Segment { files: files.clone(), size_bytes: 0, newest, age, damage };
    Active { segment, indexer, created_ms: wall_clock_ms(), first_timestamp_ms: None }
}
