//! Reading a segment again at start, from where it is not believed: every batch against its CRC.
//!
//! ```text
//!   last index entry below the point
//!       ▼    recovery point
//!   … ─[ headers ]─┼─[ CRC ][ CRC ][ damage ][ CRC ]│ tail: cut if no segment follows, damage if one does
//!                  └ index entries anew ───────────┘
//! ```
//!
//! After a clean stop the point is the log end, and nothing is compared with its CRC.

use std::{io, sync::Arc};

use penstock_batch::HEADER_LEN;

use crate::{
    LogError, Offset, Position,
    batch_place::{BatchPlace, HeaderWalk, Seen},
    damage::DamagedRanges,
    index_entry::{Entry, OffsetEntry},
    log::{Active, wall_clock_ms},
    old_format,
    recovery::{ALL, Opening},
    scan::{Scan, Scanned},
    segment::{Indexer, Segment, SegmentFiles, segment_file},
};

/// A segment that was read, and may become the active one.
pub(crate) struct Proved {
    active: Active,
    /// The offset behind all that is sound, or is known to be lost.
    pub(crate) end: Offset,
    end_position: Position,
    pub(crate) file_bytes: u64,
    batches: u64,
    pub(crate) found_damage: bool,
    /// Bytes of `.index` and `.timeindex` that are kept.
    kept_bytes: [u64; 2],
}

impl Proved {
    pub(crate) fn base(&self) -> Offset {
        self.active.segment.base()
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.active.segment
    }

    /// Something sound is in it.
    pub(crate) fn holds_batches(&self) -> bool {
        self.batches > 0
    }

    pub(crate) fn has_unsound_end(&self) -> bool {
        self.end_position.0 < self.file_bytes
    }
}

impl Opening<'_> {
    /// Reads a segment, which may be followed by `next`, from the last index entry below the point on.
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
        let mut scan = Scan::new(base, begin.walk.before(next), self.proven);
        let (mut batches, mut found_damage) = (0, false);
        loop {
            match scan.next(&*files.log).map_err(self.io(base, "log"))? {
                Scanned::Batch(header, place) => {
                    active.commit(&place, self.config.index_interval_bytes);
                    self.recent.push(&place);
                    self.epochs.note(header.leader_epoch, place.base);
                    batches += 1;
                }
                Scanned::Damage(found) => {
                    self.refuse_old_format(&files, found.position, file_bytes)?;
                    self.add_damage(&mut active.segment.damage, found);
                    found_damage = true;
                }
                Scanned::Tail => break,
            }
        }
        let (end, end_position) = (scan.lowest(), scan.position());
        if end_position.0 < file_bytes {
            self.refuse_old_format(&files, end_position, file_bytes)?;
        }
        self.recovery.segments_scanned += u64::from(self.proven != ALL);
        self.recovery.bytes_scanned += scan.read_bytes();
        active.segment.size_bytes = end_position.0;
        let kept_bytes = begin.kept_bytes;
        Ok(Proved { active, end, end_position, file_bytes, batches, found_damage, kept_bytes })
    }

    /// It is followed by the segment `next`: what is unsound at its end is damage.
    pub(crate) fn finish_sealed(
        &mut self,
        mut proved: Proved,
        next: Offset,
    ) -> Result<Segment, LogError> {
        let segment = &mut proved.active.segment;
        segment.size_bytes = proved.file_bytes;
        self.add_tail(segment, proved.end_position, proved.end, next);
        self.complete_indexes(&segment.files, &proved.active.indexer, proved.kept_bytes)?;
        Ok(proved.active.segment)
    }

    /// Nothing follows it: what is unsound at its end is cut. Gives the log end, too.
    pub(crate) fn finish_active(&mut self, proved: Proved) -> Result<(Active, Offset), LogError> {
        let Proved { mut active, end, end_position, file_bytes, kept_bytes, .. } = proved;
        let files = active.segment.files.clone();
        if end_position.0 < file_bytes {
            let truncated_bytes = file_bytes - end_position.0;
            tracing::warn!(
                dir = %self.dir.display(), segment = files.base.0, position = end_position.0,
                truncated_bytes, "cut what was not wholly written"
            );
            files.log.set_len(end_position.0).map_err(self.io(files.base, "log"))?;
            self.recovery.truncated_bytes += truncated_bytes;
        }
        self.complete_indexes(&files, &active.indexer, kept_bytes)?;
        active.indexer.offsets.forget_flushed();
        active.indexer.times.forget_flushed();
        Ok((active, end))
    }

    /// A segment that does not begin with a v2 batch is damaged, unless it is older than those.
    fn refuse_old_format(
        &self,
        files: &SegmentFiles,
        position: Position,
        file_bytes: u64,
    ) -> Result<(), LogError> {
        if position.0 > 0 {
            return Ok(());
        }
        match old_format::magic(&*files.log, file_bytes).map_err(self.io(files.base, "log"))? {
            Some(magic) => {
                Err(LogError::OldFormat { path: segment_file(self.dir, files.base, "log"), magic })
            }
            None => Ok(()),
        }
    }
}

/// Where in a segment to begin, and the index entries that lead there.
pub(crate) struct Begin {
    /// From there to the end of the segment.
    pub(crate) walk: HeaderWalk,
    indexer: Indexer,
    kept_bytes: [u64; 2],
}

impl Begin {
    /// At the last index entry below an offset, if that leads to a batch; else at the start. Blocks.
    pub(crate) fn below(
        offset: Offset,
        files: &Arc<SegmentFiles>,
        damage: &DamagedRanges,
        size_bytes: u64,
    ) -> io::Result<Begin> {
        let beyond = |relative_offset| files.absolute(relative_offset) >= offset;
        let offsets = files.offsets.read_floor(|entry| beyond(entry.relative_offset))?;
        let times = files.times.read_floor(|entry| beyond(entry.relative_offset))?;
        let first = match (offsets.1, times.1) {
            (Some(entry), Some(_)) => named_batch(entry, files, damage, size_bytes)?,
            _ => None,
        };
        let (offsets, times) = match (offsets, times) {
            both if first.is_some() => both,
            ((_, None), times) => ((0, None), times),
            _ => ((0, None), (0, None)),
        };
        let (position, lowest) = first.map_or((Position(0), files.base), |b| (b.position, b.base));
        let walk = HeaderWalk::new(files.base, position, Position(size_bytes));
        let walk = walk.not_below(lowest).over(damage);
        let indexer = Indexer::resume(files, offsets, times);
        Ok(Begin { walk, indexer, kept_bytes: [offsets.0, times.0] })
    }
}

/// The batch that an entry leads to, if it is one that the entry can name. Kafka 3 names the last offset
/// of a whole append.
fn named_batch(
    entry: OffsetEntry,
    files: &SegmentFiles,
    damage: &DamagedRanges,
    size_bytes: u64,
) -> io::Result<Option<BatchPlace>> {
    if entry.position().0 >= size_bytes || damage.at(entry.position()).is_some() {
        return Ok(None);
    }
    let names = files.absolute(entry.relative_offset);
    Ok(header_at(entry.position(), files, size_bytes)?.filter(|place| place.last <= names))
}

fn first_timestamp_ms(files: &SegmentFiles, size_bytes: u64) -> io::Result<Option<i64>> {
    Ok(header_at(Position(0), files, size_bytes)?.map(|place| place.max_timestamp_ms))
}

fn header_at(
    position: Position,
    files: &SegmentFiles,
    size_bytes: u64,
) -> io::Result<Option<BatchPlace>> {
    let walk = HeaderWalk::new(files.base, position, Position(size_bytes));
    let mut bytes = vec![0; walk.at_most(HEADER_LEN as u64)];
    files.log.read_exact_at(&mut bytes, position.0)?;
    Ok(match walk.look(&bytes, position) {
        Seen::Batch(_, place) => Some(place),
        Seen::EndOfWindow | Seen::Unsound => None,
    })
}

fn new_active(files: &Arc<SegmentFiles>, indexer: Indexer, damage: DamagedRanges) -> Active {
    let newest = indexer.newest;
    let segment = Segment { files: files.clone(), size_bytes: 0, newest, damage };
    Active { segment, indexer, created_ms: wall_clock_ms(), first_timestamp_ms: None }
}
