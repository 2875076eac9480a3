//! One partition's log: its state, and how it is read.
//!
//! ```text
//!   log start                                                            log end
//!       ▼                                                                   ▼
//!   [ sealed ][ sealed ] … [ sealed ][ active │ index entries pending       ]
//!                                              └ recent batches, by place ┘
//! ```
//!
//! The server holds it behind a mutex and calls it for decisions. Apart from `create` and `open`,
//! no method reads or writes record bytes. A `Lookup` returns what to read, an `Append` what to
//! write. Work that may block is handed out as owned jobs (`Roll`, `IndexFlush`, `ExpiredSegment`).
//! Appending is in append.rs, rolling in roll.rs, expiring in expiry.rs, opening in recovery.rs.

pub(crate) mod append;
pub(crate) mod behind;
mod compressed;
pub(crate) mod expiry;
pub(crate) mod flush;
pub(crate) mod index_flush;
mod outstanding;
pub(crate) mod produced;
pub(crate) mod producers;
pub(crate) mod roll;
pub(crate) mod torn;
mod unindexed;
mod whole_batches;

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    checkpoint::{
        leader_epochs::{EpochStart, Epochs},
        partition_metadata,
    },
    damage::{Damage, DamagedRanges},
    disk::Directory,
    error::LogError,
    find::{
        learned::{IndexPage, Learned},
        offset::{Begin, Lookup},
        recent::RecentBatches,
        step::{FindError, Found},
        timestamp::TimestampLookup,
        timestamp_source::TimestampSource,
    },
    log::{outstanding::Outstanding, producers::Producers},
    log_config::LogConfig,
    segment::{
        Indexer, Segment, SegmentFiles,
        age::SegmentAge,
        batch_place::BatchPlace,
        index_entry::{Bracket, TimeEntry},
        listing::{list_segments, segment_file},
        old_format::OldSegments,
    },
    topic_name::TopicId,
    units::Offset,
};

/// The log of one partition.
#[derive(Debug)]
pub struct Log {
    pub(crate) dir: Arc<Directory>,
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) config: LogConfig,
    pub(crate) sealed: VecDeque<Segment>,
    pub(crate) active: Active,
    pub(crate) log_start: Offset,
    pub(crate) log_end: Offset,
    pub(crate) recent: RecentBatches,
    pub(crate) learned: Arc<Learned>,
    pub(crate) epochs: Epochs,
    pub(crate) producers: Producers,
    /// Everything below it is on the disk.
    pub(crate) recovery_point: Offset,
    /// Counts changes of files other than appends: rolls, segments that expire, tails that are cut.
    pub(crate) changes: u64,
    /// How many of the changes are on the disk. `None`: not known.
    pub(crate) synced_changes: Option<u64>,
    /// The offset of the latest producers' snapshot; 0 without one.
    pub(crate) snapshot: Offset,
    pub(crate) writing: Writing,
    /// The oldest segments, if their format is too old to be served.
    pub(crate) old: Option<OldSegments>,
    /// A sync failed, so what is on the disk is not known.
    pub(crate) sync_failed: bool,
    /// The active segment's file may go on behind the log end (torn.rs).
    pub(crate) is_torn: bool,
    /// The damage file found no room: it lacks damage that is known.
    pub(crate) has_unkept_damage: bool,
    /// Sealed segments whose index files found no room, oldest first.
    pub(crate) unindexed: Vec<Indexer>,
}

/// The segment that grows.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Segment,
    pub(crate) indexer: Indexer,
    /// When the segment was made, or its log opened.
    pub(crate) created_ms: i64,
    /// Timestamp of the first batch, from which `segment.ms` counts.
    pub(crate) first_timestamp_ms: Option<i64>,
}

/// Whether a write is under way, or is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    Idle,
    /// Appends have begun.
    Outstanding(Outstanding),
    /// Files of the next segment may exist. Nothing is appended before they are in use.
    Rolling,
    Offline,
}

/// How the server that last had this directory ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastStop {
    /// It closed every log. Sizes and indexes are believed.
    Clean,
    /// It was killed. Batches from the recovery point on are read.
    Unclean,
}

/// One segment, for listings and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// First offset it may hold.
    pub base_offset: Offset,
    /// Committed bytes of its log file.
    pub size_bytes: u64,
    /// It will not grow any more.
    pub sealed: bool,
}

/// Where an offset leads.
#[derive(Debug)]
pub enum Find {
    /// It is the log end: there is nothing yet.
    AtEnd,
    /// To a batch, which this look-up finds.
    Lookup(Lookup),
}

impl Log {
    /// Makes an empty log. The directory must not exist, or hold no records: the records of another
    /// log would become this one's. Blocks.
    ///
    /// The log survives a power cut once the caller has synced the parent directory.
    pub fn create(
        dir: impl Into<Directory>,
        topic_id: TopicId,
        config: LogConfig,
    ) -> Result<Log, LogError> {
        let dir: Arc<Directory> = Arc::new(dir.into());
        dir.disk().create_dir_all(&dir).map_err(LogError::io(&dir))?;
        refuse_segments(&dir)?;
        partition_metadata::write(&dir, topic_id)?;
        let files = SegmentFiles::create(&dir, Offset(0)).map_err(LogError::io(&dir))?;
        Ok(Log {
            topic_id: Some(topic_id),
            config,
            sealed: VecDeque::new(),
            active: Active::empty(files, wall_clock_ms()),
            log_start: Offset(0),
            log_end: Offset(0),
            recent: RecentBatches::default(),
            learned: Arc::default(),
            epochs: Epochs::open(&dir),
            producers: Producers::default(),
            sync_failed: false,
            is_torn: false,
            has_unkept_damage: false,
            unindexed: Vec::new(),
            recovery_point: Offset(0),
            changes: 0,
            synced_changes: Some(0),
            snapshot: Offset(0),
            writing: Writing::Idle,
            old: None,
            dir,
        })
    }

    /// The topic's id, as `partition.metadata` has it. `None` in logs from before Kafka 2.8.
    pub fn topic_id(&self) -> Option<TopicId> {
        self.topic_id
    }

    /// The partition's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The first offset that can be fetched.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Moves the log start up to `offset`. Records below it are no longer served, and `expire` may
    /// delete them. The log start never moves back, nor past the end. The caller keeps it over
    /// restarts (`DataDir::write_log_starts`).
    pub fn raise_log_start(&mut self, offset: Offset) {
        if let Some(old) = &mut self.old {
            old.first = old.first.max(offset);
        }
        self.log_start = self.log_start.max(offset.min(self.log_end));
    }

    /// The offset of the next record.
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// Committed bytes of all segments.
    pub fn size_bytes(&self) -> u64 {
        self.all_segments().map(|(segment, _)| segment.size_bytes).sum()
    }

    /// Every segment, oldest first; the last one is the active one.
    pub fn segments(&self) -> impl Iterator<Item = SegmentInfo> {
        self.segment_files().map(|(info, _)| info)
    }

    /// Every segment with the file of its batches, oldest first, for looks at the page cache.
    pub fn segment_files(&self) -> impl DoubleEndedIterator<Item = (SegmentInfo, &Arc<File>)> {
        let active = (&self.active.segment, false);
        let sealed = self.sealed.iter().map(|segment| (segment, true));
        sealed.chain([active]).map(|(segment, sealed)| {
            let (base_offset, size_bytes) = (segment.base(), segment.size_bytes);
            (SegmentInfo { base_offset, size_bytes, sealed }, segment.files.log.handle())
        })
    }

    /// The greatest producer id that the log remembers. A new producer must get a greater one, or
    /// its batches would count as duplicates of an older producer's.
    pub fn greatest_producer_id(&self) -> Option<i64> {
        self.producers.greatest_id()
    }

    /// The damaged ranges that are known, oldest first.
    pub fn damage(&self) -> impl Iterator<Item = Damage> {
        self.all_segments().flat_map(|(segment, _)| segment.damage.all()).copied()
    }

    /// The leader epochs that wrote this log and where each began, ascending.
    pub fn leader_epochs(&self) -> &[EpochStart] {
        self.epochs.starts()
    }

    /// The configuration in effect.
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Takes effect with the next append, roll or expiry.
    pub fn set_config(&mut self, config: LogConfig) {
        let before = std::mem::replace(&mut self.config, config);
        if self.config.timestamp_after_max_ms != before.timestamp_after_max_ms {
            self.forget_ages();
        }
    }

    /// A write or a sync failed. Committed records are served; nothing is appended until the log is
    /// opened again.
    pub fn is_offline(&self) -> bool {
        self.sync_failed || self.writing == Writing::Offline
    }

    /// Where a fetch from `offset` begins. Reads nothing. Opens an index file if memory does not
    /// lead to the offset. A consumer that reads on causes that once a page of the index.
    pub fn find(&self, offset: Offset) -> Result<Find, FindError> {
        if offset == self.log_end {
            return Ok(Find::AtEnd);
        }
        if offset < self.log_start || offset > self.log_end {
            let (start, end) = (self.log_start, self.log_end);
            if let Some(OldSegments { magic, .. }) = self.old.filter(|old| old.has(offset)) {
                return Err(FindError::OldFormat { asked: offset, magic, start });
            }
            return Err(FindError::OutOfRange { asked: offset, start, end });
        }
        if let Some((segment, _)) = self.segment_of(offset)
            && let Some(damage) = segment.damage.of_offset(offset)
        {
            let Damage { segment, position, len_bytes, end, .. } = *damage;
            return Err(FindError::Damaged { segment, position, len_bytes, end });
        }
        Ok(Find::Lookup(match self.find_in_memory(offset) {
            Some(lookup) => lookup,
            None => self.find_in_files(offset)?,
        }))
    }

    /// The first record whose timestamp is at least `timestamp_ms`.
    pub fn find_timestamp(&self, timestamp_ms: i64) -> TimestampLookup {
        let sources = self.timestamp_sources(|indexer| {
            indexer.times.find_pending(|entry| entry.timestamp_ms >= timestamp_ms).floor
        });
        TimestampLookup::at_least(timestamp_ms, sources, self.log_start)
    }

    /// The record with the greatest timestamp; the first of them if there are many.
    pub fn find_max_timestamp(&self) -> TimestampLookup {
        let sources = self.timestamp_sources(|indexer| indexer.newest);
        TimestampLookup::newest(sources, self.log_start)
    }

    fn find_in_memory(&self, offset: Offset) -> Option<Lookup> {
        let batch = self.recent.find(offset).or_else(|| self.learned.batch(offset))?;
        let (segment, sealed) = self.segment_of(batch.base)?;
        let view = segment.view(sealed);
        let found = Found {
            segment: view.files.base,
            base_offset: batch.base,
            batch_len_bytes: batch.len_bytes,
            file: view.files.log.handle().clone(),
            position: batch.position,
            committed_bytes: view.sound_bytes(batch.position),
            sealed,
        };
        Some(Lookup::known(offset, view, found))
    }

    fn find_in_files(&self, offset: Offset) -> Result<Lookup, FindError> {
        let (segment, sealed) = self.segment_of(offset).unwrap_or_else(|| self.first_segment());
        let start = self.start_in(segment, sealed, offset)?;
        let later = self.sealed.partition_point(|other| other.base() <= segment.base());
        let later = self.sealed.range(later..).map(|later| (later, true));
        let next = later
            .chain(sealed.then_some((&self.active.segment, false)))
            .find(|(later, _)| later.may_hold_batches())
            .map(|(later, sealed)| later.view(sealed));
        let learned = Some(Arc::clone(&self.learned));
        Ok(Lookup::new(offset, segment.view(sealed), next, start, learned))
    }

    /// The segments that a look-up by time goes through: all that hold records, by rising offset,
    /// with the index entries that are in memory. Segments below the log start are left out: a
    /// power cut may have undone the deletion of one.
    fn timestamp_sources(
        &self,
        mark: impl Fn(&Indexer) -> Option<TimeEntry>,
    ) -> VecDeque<TimestampSource> {
        let begun = self.all_segments().take_while(|(s, _)| s.base() <= self.log_start).count();
        let segments = self.all_segments().skip(begun.saturating_sub(1));
        segments
            .filter(|(segment, _)| segment.size_bytes > 0)
            .map(|(segment, sealed)| {
                let mut source = TimestampSource::of_files(segment.view(sealed), segment.newest);
                if let Some(indexer) = self.indexer_of(segment, sealed) {
                    source.know(indexer, mark(indexer));
                }
                source
            })
            .collect()
    }

    /// Where in a segment the search for an offset begins.
    fn start_in(&self, segment: &Segment, sealed: bool, at: Offset) -> Result<Begin, FindError> {
        let files = &segment.files;
        let mut len_limit = u64::MAX;
        if let Some(indexer) = self.indexer_of(segment, sealed) {
            let index = &indexer.offsets;
            len_limit = index.searchable_bytes();
            let pending = index.find_pending(|entry| files.absolute(entry.relative_offset) > at);
            if pending.floor.is_some() || len_limit == 0 {
                return Ok(Begin::Between(pending));
            }
        }
        let guess = match self.learned.bracket(files.base, at) {
            Ok(known) => return Ok(Begin::Between(known)),
            Err(guess) => guess,
        };
        let opened = files.offsets.open();
        let opened = opened.map_err(|source| FindError::Io { segment: files.base, source })?;
        if let Some((file, len_bytes @ 1..)) = opened {
            return Ok(Begin::Index { file, len_bytes: len_bytes.min(len_limit), guess });
        }
        if sealed {
            self.learned.add_page(IndexPage::nothing(files.base));
        }
        Ok(Begin::Between(Bracket::NONE))
    }

    /// The segment that an offset belongs to, and whether it is sealed. `None` before the first
    /// segment.
    pub(crate) fn segment_of(&self, offset: Offset) -> Option<(&Segment, bool)> {
        if offset >= self.active.segment.base() {
            return Some((&self.active.segment, false));
        }
        let after = self.sealed.partition_point(|segment| segment.base() <= offset);
        Some((self.sealed.get(after.checked_sub(1)?)?, true))
    }

    /// Whether a segment has this base offset.
    pub(crate) fn has_segment(&self, base: Offset) -> bool {
        self.segment_of(base).is_some_and(|(segment, _)| segment.base() == base)
    }

    fn first_segment(&self) -> (&Segment, bool) {
        self.sealed.front().map_or((&self.active.segment, false), |segment| (segment, true))
    }

    /// Every segment and whether it is sealed, oldest first.
    pub(crate) fn all_segments(&self) -> impl Iterator<Item = (&Segment, bool)> {
        let sealed = self.sealed.iter().map(|segment| (segment, true));
        sealed.chain([(&self.active.segment, false)])
    }
}

impl Active {
    pub(crate) fn empty(files: SegmentFiles, now_ms: i64) -> Active {
        let files = Arc::new(files);
        let indexer = Indexer::empty(&files);
        let damage = DamagedRanges::default();
        let age = SegmentAge::NEW;
        let segment = Segment { files, size_bytes: 0, newest: None, age, damage };
        Active { segment, indexer, created_ms: now_ms, first_timestamp_ms: None }
    }

    /// Adds a batch that was appended at `now_ms`. `is_checked`: its greatest timestamp is that of
    /// its records. Otherwise the clock is believed rather than the producer.
    pub(crate) fn append(
        &mut self,
        batch: &BatchPlace,
        is_checked: bool,
        now_ms: i64,
        interval_bytes: u64,
    ) {
        let first_ms = if is_checked { batch.max_timestamp_ms } else { now_ms };
        self.first_timestamp_ms.get_or_insert(first_ms);
        self.segment.age.append(batch.max_timestamp_ms, is_checked, now_ms);
        self.commit(batch, interval_bytes);
    }

    /// Adds a batch to the segment.
    pub(crate) fn commit(&mut self, batch: &BatchPlace, interval_bytes: u64) {
        // A timestamp ahead of the clock would keep the segment from rolling.
        self.first_timestamp_ms.get_or_insert(batch.max_timestamp_ms.min(self.created_ms));
        self.indexer.note(batch, interval_bytes);
        self.segment.newest = self.indexer.newest;
        self.segment.size_bytes = batch.end().0;
    }
}

/// An empty first segment is allowed: an interrupted `create` leaves one.
fn refuse_segments(dir: &Directory) -> Result<(), LogError> {
    for base in list_segments(dir)?.segments {
        let path = segment_file(dir, base, "log");
        let file = dir.disk().open(&path).map_err(LogError::io(&path))?;
        if base > Offset(0) || file.len_bytes().map_err(LogError::io(&path))? > 0 {
            let source =
                io::Error::new(io::ErrorKind::AlreadyExists, "it holds records of another log");
            return Err(LogError::io(&path)(source));
        }
    }
    Ok(())
}

/// Milliseconds since 1970, for segments that are made without a time from the caller.
pub(crate) fn wall_clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
