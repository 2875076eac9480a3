//! Opening a log: what is believed after a clean stop, what is proved after any other.
//!
//! ```text
//!                       sealed segments                    active segment
//!   clean stop          indexes exist, whole entries       headers from the last index entry on
//!   unclean stop        the same                           every batch against its CRC; indexes anew;
//!                                                          what follows the last sound batch is cut
//! ```
//!
//! Why sealed segments are not read after an unclean stop: a roll completes the indexes of the old
//! segment before the new one exists, and a killed server leaves its writes in the page cache. (A power
//! cut may take them from there; what was not synced then shows when it is fetched, as a CRC that does
//! not match.) This is the one place where a segment is shortened, before anything of it was served.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    DirEntry, Directory, IndexFlush, LastStop, Log, LogConfig, LogError, Offset, Position,
    batch_place::{HeaderWalk, Seen},
    epochs::Epochs,
    index_entry::{Entry, OffsetEntry},
    log::{Active, Writing, wall_clock_ms},
    partition_metadata,
    producers::Producers,
    recent::RecentBatches,
    scan::{Depth, scan},
    segment::{Indexer, MAX_SEGMENT_BYTES, Segment, SegmentFiles, segment_file},
};

/// What opening a log had to do. All zero after a clean stop, but for a few KiB of `bytes_scanned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments read from start to end.
    pub segments_scanned: u64,
    /// Bytes of log data read.
    pub bytes_scanned: u64,
    /// Bytes cut off behind the last whole sound batch.
    pub truncated_bytes: u64,
    /// Segments whose indexes were made anew.
    pub indexes_rebuilt: u64,
}

impl Log {
    /// Opens the log in `dir`; one without segments becomes an empty one. Blocks.
    ///
    /// Nothing may be fetched from the directory while this runs.
    pub fn open(
        dir: impl Into<Directory>,
        config: LogConfig,
        stop: LastStop,
    ) -> Result<(Log, Recovery), LogError> {
        let dir: Arc<Directory> = Arc::new(dir.into());
        let topic_id = partition_metadata::read(&dir)?;
        let mut bases = list_segments(&dir)?;
        let mut opening = Opening {
            epochs: Epochs::open(&dir),
            producers: Producers::default(),
            recent: RecentBatches::default(),
            recovery: Recovery::default(),
            log_end: Offset(0),
            config: &config,
            dir: &dir,
        };
        let last = bases.pop_last();
        let sealed = bases.iter().map(|base| opening.sealed(*base)).collect::<Result<_, _>>()?;
        let active = match last {
            Some(base) => opening.active(base, stop)?,
            None => {
                let files = SegmentFiles::create(&dir, Offset(0)).map_err(LogError::io(&dir))?;
                Active::empty(files, wall_clock_ms())
            }
        };
        let Opening { epochs, producers, recent, recovery, log_end, .. } = opening;
        let log_start = bases.first().or(last.as_ref()).copied().unwrap_or(Offset(0));
        let writing = Writing::Idle;
        #[rustfmt::skip]
        let log = Log {
            dir: dir.clone(), topic_id, config, sealed, active,
            log_start, log_end, recent, epochs, producers, writing,
            learned: Arc::default(),
        };
        Ok((log, recovery))
    }
}

/// A log while it is being opened.
struct Opening<'a> {
    dir: &'a Arc<Directory>,
    config: &'a LogConfig,
    epochs: Epochs,
    producers: Producers,
    recent: RecentBatches,
    recovery: Recovery,
    log_end: Offset,
}

impl Opening<'_> {
    /// A segment that will not grow: its indexes must be there, that is all.
    fn sealed(&mut self, base: Offset) -> Result<Segment, LogError> {
        let (files, size_bytes) = self.files(base)?;
        let mut segment = Segment { files, size_bytes, newest: None };
        if self.needs_indexes(&segment)? {
            let mut indexer = Indexer::empty(&segment.files);
            let walk = HeaderWalk::new(base, Position(0), Position(size_bytes));
            let interval_bytes = self.config.index_interval_bytes;
            let scanned = scan(
                &*segment.files.log,
                walk,
                Position(size_bytes),
                Depth::Headers,
                |_, place| {
                    indexer.note(place, interval_bytes);
                },
            );
            let scanned = scanned.map_err(self.io(base, "log"))?;
            self.write_indexes(&segment.files, &indexer)?;
            self.recovery.segments_scanned += 1;
            self.recovery.bytes_scanned += scanned.read_bytes;
            segment.newest = indexer.newest;
        }
        Ok(segment)
    }

    /// Missing, of a wrong size, or empty beside a log that should have entries.
    fn needs_indexes(&self, segment: &Segment) -> Result<bool, LogError> {
        let base = segment.base();
        let offsets =
            segment.files.offsets.sound_len().map_err(self.io(base, OffsetEntry::SUFFIX))?;
        let times = segment.files.times.sound_len().map_err(self.io(base, "timeindex"))?;
        let has_batches_to_find = segment.size_bytes > self.config.max_message_bytes as u64;
        Ok(match (offsets, times) {
            (Some(0), Some(_)) => has_batches_to_find,
            (Some(_), Some(_)) => false,
            _ => true,
        })
    }

    /// The last segment, in which appends go on.
    fn active(&mut self, base: Offset, stop: LastStop) -> Result<Active, LogError> {
        let (files, size_bytes) = self.files(base)?;
        self.log_end = base;
        let resumed = match stop {
            LastStop::Clean => self.resume(&files, size_bytes)?,
            LastStop::Unclean => None,
        };
        match resumed {
            Some(active) => Ok(active),
            None => self.recover(&files, size_bytes),
        }
    }

    /// Believes the indexes and reads headers from the last entry on. `None` when something does not fit.
    fn resume(
        &mut self,
        files: &Arc<SegmentFiles>,
        size_bytes: u64,
    ) -> Result<Option<Active>, LogError> {
        let base = files.base;
        let offsets_len = files.offsets.sound_len().map_err(self.io(base, "index"))?;
        let times_len = files.times.sound_len().map_err(self.io(base, "timeindex"))?;
        let (Some(offsets_len), Some(times_len)) = (offsets_len, times_len) else {
            return Ok(None);
        };
        let offset = files.offsets.read_last().map_err(self.io(base, "index"))?;
        let time = files.times.read_last().map_err(self.io(base, "timeindex"))?;
        let believable = offset.is_some() == (offsets_len > 0)
            && time.is_some() == (times_len > 0)
            && (time.is_some() || offset.is_none())
            && offset.is_none_or(|entry| entry.position().0 < size_bytes);
        if !believable {
            return Ok(None);
        }
        let start = offset.map_or(Position(0), OffsetEntry::position);
        let indexer = Indexer::resume(files, (offsets_len, offset), (times_len, time));
        let mut active = self.new_active(files, indexer);
        let end = self.scan_into(&mut active, start, Position(size_bytes), Depth::Headers)?;
        let entry_led_to_a_batch = offset.is_none_or(|entry| {
            let first_end = self.recent.first_last();
            first_end.is_some_and(|last| last <= files.absolute(entry.relative_offset))
        });
        if end.0 != size_bytes || !entry_led_to_a_batch {
            return Ok(None);
        }
        if start.0 > 0 {
            active.first_timestamp_ms = self.first_timestamp_ms(files, size_bytes)?;
        }
        Ok(Some(active))
    }

    /// Proves every batch, makes the indexes anew, cuts what does not belong.
    fn recover(&mut self, files: &Arc<SegmentFiles>, size_bytes: u64) -> Result<Active, LogError> {
        self.recent = RecentBatches::default();
        self.producers = Producers::default();
        self.log_end = files.base;
        let mut active = self.new_active(files, Indexer::empty(files));
        let end =
            self.scan_into(&mut active, Position(0), Position(size_bytes), Depth::Checksums)?;
        if end.0 == 0 && size_bytes > 0 {
            self.refuse_old_format(files, size_bytes)?;
        }
        if end.0 < size_bytes {
            let truncated_bytes = size_bytes - end.0;
            tracing::warn!(
                dir = %self.dir.display(), segment = files.base.0, position = end.0, truncated_bytes,
                "cut what was not wholly written"
            );
            files.log.set_len(end.0).map_err(self.io(files.base, "log"))?;
            self.recovery.truncated_bytes += truncated_bytes;
        }
        self.write_indexes(files, &active.indexer)?;
        active.indexer.offsets.forget_flushed();
        active.indexer.times.forget_flushed();
        self.epochs.truncate(self.log_end);
        self.recovery.segments_scanned += 1;
        Ok(active)
    }

    fn scan_into(
        &mut self,
        active: &mut Active,
        start: Position,
        end: Position,
        depth: Depth,
    ) -> Result<Position, LogError> {
        let files = active.segment.files.clone();
        let walk = HeaderWalk::new(files.base, start, end);
        let interval_bytes = self.config.index_interval_bytes;
        let scanned = scan(&*files.log, walk, end, depth, |header, place| {
            active.commit(place, interval_bytes);
            self.recent.push(place);
            self.epochs.note(header.leader_epoch, place.base);
            self.producers.note(header, place.base);
            self.log_end = Offset(place.last.0.saturating_add(1));
        });
        let scanned = scanned.map_err(self.io(files.base, "log"))?;
        self.recovery.bytes_scanned += scanned.read_bytes;
        Ok(scanned.end)
    }

    /// Replaces both index files by what `indexer` has gathered.
    fn write_indexes(&mut self, files: &SegmentFiles, indexer: &Indexer) -> Result<(), LogError> {
        files.offsets.create().map_err(self.io(files.base, "index"))?;
        files.times.create().map_err(self.io(files.base, "timeindex"))?;
        let mut flushes = indexer.finish().map(IndexFlush::entries);
        flushes.try_for_each(IndexFlush::write).map_err(self.io(files.base, "index"))?;
        self.recovery.indexes_rebuilt += 1;
        Ok(())
    }

    fn first_timestamp_ms(
        &self,
        files: &SegmentFiles,
        size_bytes: u64,
    ) -> Result<Option<i64>, LogError> {
        let end = Position(size_bytes);
        let walk = HeaderWalk::new(files.base, Position(0), end);
        let mut bytes = [0; penstock_batch::HEADER_LEN];
        files.log.read_exact_at(&mut bytes, 0).map_err(self.io(files.base, "log"))?;
        let first = match walk.look(&bytes, Position(0)) {
            Seen::Batch(header, _) => Some(header.max_timestamp),
            Seen::EndOfWindow | Seen::Unsound => None,
        };
        Ok(first)
    }

    /// A segment that does not begin with a v2 batch is cut to nothing, unless it is older than those.
    fn refuse_old_format(&self, files: &SegmentFiles, size_bytes: u64) -> Result<(), LogError> {
        const SMALLEST_OLD_MESSAGE: i32 = 14;
        let mut start = [0; 17];
        if files.log.read_exact_at(&mut start, 0).is_err() {
            return Ok(());
        }
        let length = i32::from_be_bytes([start[8], start[9], start[10], start[11]]);
        let fits = length >= SMALLEST_OLD_MESSAGE && length as u64 + 12 <= size_bytes;
        match start[16] as i8 {
            magic @ 0..=1 if fits => {
                Err(LogError::OldFormat { path: segment_file(self.dir, files.base, "log"), magic })
            }
            _ => Ok(()),
        }
    }

    fn new_active(&self, files: &Arc<SegmentFiles>, indexer: Indexer) -> Active {
        let newest = indexer.newest;
        let segment = Segment { files: files.clone(), size_bytes: 0, newest };
        Active { segment, indexer, created_ms: wall_clock_ms(), first_timestamp_ms: None }
    }

    fn files(&self, base: Offset) -> Result<(Arc<SegmentFiles>, u64), LogError> {
        let files = SegmentFiles::open(self.dir, base).map_err(self.io(base, "log"))?;
        let size_bytes = files.log.len_bytes().map_err(self.io(base, "log"))?;
        if size_bytes > MAX_SEGMENT_BYTES {
            let what = format!("{size_bytes} bytes; a segment has at most {MAX_SEGMENT_BYTES}");
            return Err(LogError::Metadata { path: segment_file(self.dir, base, "log"), what });
        }
        Ok((Arc::new(files), size_bytes))
    }

    fn io(&self, base: Offset, suffix: &str) -> impl FnOnce(std::io::Error) -> LogError {
        let path = segment_file(self.dir, base, suffix);
        move |source| LogError::Io { path, source }
    }
}

/// The base offsets of the segments in a directory. Sweeps what an interrupted expiry left behind.
fn list_segments(dir: &Directory) -> Result<BTreeSet<Offset>, LogError> {
    let mut bases = BTreeSet::new();
    let mut companions = Vec::new();
    for DirEntry { path, .. } in dir.disk().list(dir).map_err(LogError::io(dir))? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some((base, suffix)) = segment_name(name) else { continue };
        match suffix {
            "log" => {
                bases.insert(base);
            }
            "index" | "timeindex" => companions.push((base, path)),
            _ => {}
        }
    }
    for (_, path) in companions.iter().filter(|(base, _)| !bases.contains(base)) {
        dir.disk().remove_file(path).map_err(LogError::io(path))?;
    }
    Ok(bases)
}

/// `<20 digits>.<suffix>`.
fn segment_name(name: &str) -> Option<(Offset, &str)> {
    let (digits, suffix) = name.split_once('.')?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((Offset(digits.parse().ok().filter(|_| all_digits)?), suffix))
}
