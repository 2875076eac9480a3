//! Opening a log: which parts are believed, and which are read and proved.
//!
//! ```text
//!                                   below the recovery point            from it on
//!   clean stop    the point is the  names, sizes, index lengths         nothing
//!                 log end           and headers from the last index
//!                                   entry on
//!   unclean stop  as it was written names, sizes, index lengths         every batch against its CRC;
//!                                                                       indexes rebuilt
//! ```
//!
//! Where the files contradict that belief, more is proved: first from the written point on, then
//! from the start. Proving is in prove.rs. derived.rs restores epochs and producers that their
//! files do not have. Recovery is the one place where a segment is shortened, before anything of it
//! was served.

mod derived;
mod opening;
mod prove;
pub(crate) mod summary;
pub(crate) mod swap;
pub(crate) mod transactions;

use std::{collections::VecDeque, sync::Arc};

use crate::{
    checkpoint::{leader_epochs::Epochs, partition_metadata, recovery_points::RecoveryPoint},
    damage::{Damage, DamageFlush},
    disk::{Directory, is_no_room},
    error::LogError,
    find::recent::RecentBatches,
    log::{Active, LastStop, Log, Writing, producers::Producers, wall_clock_ms},
    log_config::LogConfig,
    recovery::{
        opening::{Left, Opening},
        prove::Proved,
        summary::Recovery,
    },
    segment::{
        Indexer, Segment, SegmentFiles,
        age::SegmentAge,
        batch_place::HeaderWalk,
        begin::ALL,
        index_entry::{Entry, OffsetEntry, TimeEntry},
        listing::{LOG, Listing, segment_file},
        old_format::OldSegments,
        scan::{Scan, Scanned},
    },
    topic_name::TopicId,
    units::{Offset, Position},
};

impl Log {
    /// Opens a log without a recovery point. Blocks.
    pub fn open(
        dir: impl Into<Directory>,
        config: LogConfig,
        stop: LastStop,
    ) -> Result<(Log, Recovery), LogError> {
        Log::open_from(dir, config, stop, RecoveryPoint::NONE)
    }

    /// Opens the log in `dir`. A directory without segments becomes an empty log. After an unclean
    /// stop, batches behind the recovery point are read. Blocks.
    ///
    /// Nothing may be fetched from the directory while this runs.
    pub fn open_from(
        dir: impl Into<Directory>,
        config: LogConfig,
        stop: LastStop,
        point: RecoveryPoint,
    ) -> Result<(Log, Recovery), LogError> {
        let dir: Arc<Directory> = Arc::new(dir.into());
        let topic_id = partition_metadata::read(&dir)?;
        let mut recovery = Recovery::default();
        let listing = tidied(&dir, &mut recovery)?;
        let old = recovery.old_segments;
        let is_served = |base: &Offset| old.is_none_or(|old| !old.holds(*base));
        let bases: Vec<Offset> = listing.segments.iter().copied().filter(is_served).collect();
        let (stop, written) = match recovery.swapped_files {
            0 => (stop, point.of(topic_id)),
            // The point was recorded for other files than these.
            _ => (LastStop::Unclean, Offset(0)),
        };
        let beliefs: &[Offset] = match stop {
            LastStop::Clean => &[ALL, written, Offset(0)],
            LastStop::Unclean => &[written, Offset(0)],
        };
        let (mut opened, mut is_believed) = (None, false);
        for proven in beliefs {
            opened = Opening::new(&dir, &config, *proven, written, &mut recovery)?.run(&bases)?;
            if opened.is_some() {
                is_believed = *proven == ALL;
                break;
            }
        }
        let opened = opened.expect("where nothing is believed, nothing can contradict it");
        // The server that made the last files may have died before their names were on the disk.
        dir.sync().map_err(LogError::io(&dir))?;
        let mut log = opened.into_log(dir, topic_id, config, old);
        // A log that was closed had been synced. Proving writes to files, which are not synced yet.
        log.synced_changes = is_believed.then_some(0);
        derived::restore(&mut log, &mut recovery)?;
        Ok((log, recovery))
    }
}

/// Finishes exchanges and deletions of whole files. Returns the listing afterwards, and finds the
/// segments that are too old.
fn tidied(dir: &Directory, recovery: &mut Recovery) -> Result<Listing, LogError> {
    let (listing, swapped_files) = swap::finish(dir)?;
    recovery.swapped_files = swapped_files;
    for path in &listing.orphans {
        dir.disk().remove_file(path).map_err(LogError::io(path))?;
    }
    recovery.old_segments = OldSegments::among(dir, &listing.segments)?;
    if let Some(OldSegments { magic, first, served_from: None, .. }) = recovery.old_segments {
        return Err(LogError::OldFormat { path: segment_file(dir, first, LOG), magic });
    }
    recovery.transactions.aborted = transactions::aborted(dir, &listing.txn_indexes)?;
    Ok(listing)
}

/// The outcome of an opening.
struct Opened {
    sealed: VecDeque<Segment>,
    active: Active,
    log_start: Offset,
    log_end: Offset,
    recovery_point: Offset,
    epochs: Epochs,
    recent: RecentBatches,
    left: Left,
}

impl Opening<'_> {
    /// `None` if the files contradict the belief.
    fn run(mut self, bases: &[Offset]) -> Result<Option<Opened>, LogError> {
        let mut sealed = VecDeque::new();
        // Its last ones hold nothing sound, so far.
        let mut proving: Vec<Proved> = Vec::new();
        for (n, base) in bases.iter().enumerate() {
            let next = bases.get(n + 1).copied();
            if let Some(next) = next.filter(|next| *next < self.proven) {
                sealed.push_back(self.believe(*base, next)?);
                continue;
            }
            let proved = self.prove(*base, next)?;
            if proved.holds_batches() {
                self.seal_all(&mut proving, proved.base(), &mut sealed)?;
            }
            proving.push(proved);
        }
        let last = proving.pop();
        if last.as_ref().is_some_and(|last| self.is_contradicted_by(last)) {
            return Ok(None);
        }
        self.seal_torn(&mut proving, last.as_ref(), &mut sealed)?;
        let (active, log_end) = match last {
            Some(last) => self.finish_active(last)?,
            None => {
                let files = SegmentFiles::create(self.dir, Offset(0));
                let files = files.map_err(LogError::io(self.dir))?;
                (Active::empty(files, wall_clock_ms()), Offset(0))
            }
        };
        self.keep_damage(sealed.iter().chain([&active.segment]))?;
        if self.proven != ALL {
            self.epochs.truncate(log_end);
        }
        let (epochs, recent, left) = (self.epochs, self.recent, self.left);
        let recovery_point = self.proven.min(log_end);
        let log_start = bases.first().copied().unwrap_or(Offset(0));
        #[rustfmt::skip]
        let opened =
            Opened { sealed, active, log_start, log_end, recovery_point, epochs, recent, left };
        Ok(Some(opened))
    }

    /// After a clean stop the batches end where the file does. A recovery point lies within its
    /// log.
    fn is_contradicted_by(&self, last: &Proved) -> bool {
        match self.proven {
            ALL => last.has_unsound_end() || last.found_damage || self.reached_beyond(last),
            point => last.end < point,
        }
    }

    /// Seals segments that no sound batch follows. The name of `last` shows which offsets have been
    /// used. An unsound end that was synced, or is known, is damage; any other is torn, and is cut.
    fn seal_torn(
        &mut self,
        proving: &mut Vec<Proved>,
        last: Option<&Proved>,
        sealed: &mut VecDeque<Segment>,
    ) -> Result<(), LogError> {
        let Some(last) = last else { return Ok(()) };
        let nexts: Vec<_> = proving.iter().skip(1).chain([last]).map(Proved::base).collect();
        for (n, proved) in proving.iter_mut().enumerate() {
            let is_known =
                |range: &Damage| range.segment == proved.base() && range.first == proved.end;
            let is_damaged = proved.has_unsound_end()
                && (proved.end < self.written || self.known.iter().any(is_known));
            // An end that finds no room to be cut is damage until there is room.
            if !is_damaged && self.cut(proved)? {
                self.fill(proved, nexts[n])?;
            }
        }
        self.seal_all(proving, last.base(), sealed)
    }

    fn seal_all(
        &mut self,
        proving: &mut Vec<Proved>,
        next: Offset,
        sealed: &mut VecDeque<Segment>,
    ) -> Result<(), LogError> {
        let ends = proving.iter().skip(1).map(Proved::base).chain([next]).collect::<Vec<_>>();
        for (proved, end) in proving.drain(..).zip(ends) {
            sealed.push_back(self.finish_sealed(proved, end)?);
        }
        Ok(())
    }

    /// Takes a segment below the point, followed by `next`, as it is. Only its indexes must be
    /// there.
    fn believe(&mut self, base: Offset, next: Offset) -> Result<Segment, LogError> {
        let (files, size_bytes) = self.files(base)?;
        let damage = self.known_damage(base, size_bytes);
        let mut segment =
            Segment { files, size_bytes, newest: None, age: SegmentAge::UNREAD, damage };
        if self.needs_indexes(&segment)? {
            let walk = HeaderWalk::new(base, Position(0), Position(size_bytes));
            let walk = walk.before(Some(next)).over(&segment.damage);
            let mut scan = Scan::new(base, walk, ALL);
            let mut indexer = Indexer::empty(&segment.files);
            loop {
                match scan.next(&*segment.files.log).map_err(self.io(base, LOG))? {
                    Scanned::Batch(_, place) => {
                        indexer.note(&place, self.config.index_interval_bytes);
                    }
                    Scanned::Damage(found) => self.add_damage(&mut segment.damage, found),
                    Scanned::Tail => break,
                }
            }
            self.add_tail(&mut segment, scan.position(), scan.lowest(), next);
            self.recovery.segments_scanned += 1;
            self.recovery.bytes_scanned += scan.read_bytes();
            segment.newest = indexer.newest;
            if !self.complete_sealed(indexer)? {
                let left = self.left.unindexed.last().map_or(Ok(()), Indexer::remove_stale);
                left.map_err(self.io(base, OffsetEntry::SUFFIX))?;
            }
        }
        Ok(segment)
    }

    /// Whether an index is missing, of a wrong size, or empty beside a log that should have
    /// entries.
    fn needs_indexes(&self, segment: &Segment) -> Result<bool, LogError> {
        let base = segment.base();
        let offsets =
            segment.files.offsets.sound_len().map_err(self.io(base, OffsetEntry::SUFFIX))?;
        let times = segment.files.times.sound_len().map_err(self.io(base, TimeEntry::SUFFIX))?;
        let has_batches_to_find = segment.size_bytes > self.config.max_message_bytes as u64;
        Ok(match (offsets, times) {
            (Some(0), Some(_)) => has_batches_to_find,
            (Some(_), Some(_)) => false,
            _ => true,
        })
    }

    /// Brings the damage file up to date. The recovery point may move only after that, because
    /// batches below it are not read again.
    fn keep_damage<'s>(
        &mut self,
        segments: impl Iterator<Item = &'s Segment>,
    ) -> Result<(), LogError> {
        let ranges: Vec<Damage> = segments.flat_map(|s| s.damage.all().to_vec()).collect();
        if ranges == self.known {
            return Ok(());
        }
        match DamageFlush::new(self.dir, ranges.into_iter()).write() {
            // The point stays where it is until there is room.
            Err(error) if is_no_room(&error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "cannot write the list of damaged ranges");
                self.left.has_unkept_damage = true;
                Ok(())
            }
            written => written.map_err(LogError::io(self.dir)),
        }
    }
}

impl Opened {
    fn into_log(
        self,
        dir: Arc<Directory>,
        topic_id: Option<TopicId>,
        config: LogConfig,
        old: Option<OldSegments>,
    ) -> Log {
        let Opened { sealed, active, log_start, log_end, recovery_point, epochs, recent, left } =
            self;
        let Left { is_torn, has_unkept_damage, unindexed } = left;
        let (producers, writing) = (Producers::default(), Writing::Idle);
        #[rustfmt::skip]
        let log = Log {
            dir, topic_id, config, sealed, active, log_start, log_end, recovery_point,
            recent, epochs, producers, writing, old, is_torn, has_unkept_damage, unindexed,
            sync_failed: false,
            changes: 0,
            synced_changes: None,
            snapshot: Offset(0),
            learned: Arc::default(),
        };
        log
    }
}
