//! One partition's log: what it is, what it knows, and how it is read.
//!
//! ```text
//!   log start                                                            log end
//!       ▼                                                                   ▼
//!   [ sealed ][ sealed ] … [ sealed ][ active │ index entries pending       ]
//!                                              └ recent batches, by place ┘
//! ```
//!
//! The server holds it behind a mutex and calls it for decisions. Apart from `create` and `open`,
//! no method reads or writes record bytes: what is to be read is said by `Lookup`s, what is to be
//! written by `Append`s, and what may block is handed out as owned jobs (`Roll`, `IndexFlush`,
//! `ExpiredSegment`). Appending is in append.rs, rolling in roll.rs, expiring in expiry.rs,
//! opening in recovery.rs.

pub(crate) mod append;
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

use std::{
    collections::VecDeque,
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
    /// Below it everything is on the disk.
    pub(crate) recovery_point: Offset,
    /// Counts what touches files beside appends: rolls, segments that expire, and what is cut off
    /// again.
    pub(crate) changes: u64,
    /// How many of them are on the disk; `None`: nobody knows.
    pub(crate) synced_changes: Option<u64>,
    /// Of the latest producers' snapshot; 0 without one.
    pub(crate) snapshot: Offset,
    pub(crate) writing: Writing,
    /// What of it is too old to be served, from its start on.
    pub(crate) old: Option<OldSegments>,
    /// Nobody knows what is on the disk.
    pub(crate) sync_failed: bool,
    /// The active segment's file goes on behind the log end: see torn.rs.
    pub(crate) is_torn: bool,
    /// Damage is known that its file does not have, for want of room.
    pub(crate) has_unkept_damage: bool,
    /// Sealed segments whose index files found no room, oldest first.
    pub(crate) unindexed: Vec<Indexer>,
}

/// The segment that grows.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Segment,
    pub(crate) indexer: Indexer,
    /// When it was made, or opened.
    pub(crate) created_ms: i64,
    /// Timestamp of its first batch, by which it is old.
    pub(crate) first_timestamp_ms: Option<i64>,
}

/// Whether somebody is writing, or nobody ever will again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    Idle,
    /// Appends have begun.
    Outstanding(Outstanding),
    /// Files of the next segment may exist, so nothing is appended before they are in use.
    Rolling,
    Offline,
}

/// How the server that last had this directory ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastStop {
    /// It closed every log: sizes and indexes are believed.
    Clean,
    /// It was killed: the active segment is read whole.
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
    /// To a batch, which this finds.
    Lookup(Lookup),
}

impl Log {
    /// Makes an empty log in a directory that does not exist yet or holds no records: those of
    /// another log would be taken for its own. Blocks.
    ///
    /// Durable by name once the caller has synced the parent directory.
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

    /// The topic's id as `partition.metadata` has it. `None` in logs from before Kafka 2.8.
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

    /// Forbids what lies before `offset`, and lets `expire` delete it. Never moves back, nor past
    /// the end. The caller keeps it over restarts (`DataDir::write_log_starts`).
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
        self.all_segments().map(|(segment, sealed)| SegmentInfo {
            base_offset: segment.base(),
            size_bytes: segment.size_bytes,
            sealed,
        })
    }

    /// The greatest producer id it remembers: a new producer must not get one of those, or what it
    /// sends would be taken for what the old one had sent.
    pub fn greatest_producer_id(&self) -> Option<i64> {
        self.producers.greatest_id()
    }

    /// What of it is known to be damaged, oldest first.
    pub fn damage(&self) -> impl Iterator<Item = Damage> {
        self.all_segments().flat_map(|(segment, _)| segment.damage.all()).copied()
    }

    /// The leader epochs that wrote this log and where each began, ascending.
    pub fn leader_epochs(&self) -> &[EpochStart] {
        self.epochs.starts()
    }

    /// What it was configured with.
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

    /// A write failed: what is committed is served, nothing is appended until the log is opened
    /// anew.
    pub fn is_offline(&self) -> bool {
        self.sync_failed || self.writing == Writing::Offline
    }

    /// Where a fetch from `offset` begins. Reads nothing; opens an index file if what is in memory
    /// does not lead there: once for every page of it, for those who read on.
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

    /// What a look-up by time starts from: every segment, and what is in memory of the active one.
    /// The segments that hold records, by rising offset. Not those below the log start: one whose
    /// deletion a power cut has undone may hold anything.
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

    /// The segment that an offset belongs to, and whether it is sealed. `None` before the first.
    fn segment_of(&self, offset: Offset) -> Option<(&Segment, bool)> {
        if offset >= self.active.segment.base() {
            return Some((&self.active.segment, false));
        }
        let after = self.sealed.partition_point(|segment| segment.base() <= offset);
        Some((self.sealed.get(after.checked_sub(1)?)?, true))
    }

    /// Whether a segment begins there.
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

    /// The batch was appended at that time and is part of the segment from here on. `is_checked`:
    /// its greatest timestamp is that of its records; else the clock is asked rather than its
    /// producer.
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

    /// The batch is part of the segment.
    pub(crate) fn commit(&mut self, batch: &BatchPlace, interval_bytes: u64) {
        // What lies ahead of the clock would keep the segment from rolling.
        self.first_timestamp_ms.get_or_insert(batch.max_timestamp_ms.min(self.created_ms));
        self.indexer.note(batch, interval_bytes);
        self.segment.newest = self.indexer.newest;
        self.segment.size_bytes = batch.end().0;
    }
}

/// An empty first segment is what an interrupted `create` leaves.
fn refuse_segments(dir: &Directory) -> Result<(), LogError> {
    for base in list_segments(dir)?.segments {
        let path = segment_file(dir, base, "log");
        let file = dir.disk().open(&path).map_err(LogError::io(&path))?;
        if base > Offset(0) || file.len_bytes().map_err(LogError::io(&path))? > 0 {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "of another log");
            return Err(LogError::io(&path)(source));
        }
    }
    Ok(())
}

/// Milliseconds since 1970, for segments whose making nobody else dates.
pub(crate) fn wall_clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
