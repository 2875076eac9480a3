//! Reading segments that no consumer reads: every batch is compared with its CRC, and the indexes
//! with the batches.
//!
//! ```text
//!   Scrub::open ──▶ step ──▶ step ──▶ … ──▶ None: report()      a step reads 1 MiB, or one larger batch
//!                                              ├──▶ Log::note_scrubbed, of a log that is served
//!                                              └──▶ keep_damage, of one that is not
//! ```
//!
//! The server's scrubber and `penstock scrub` drive it, at their own pace. It writes nothing
//! itself, and leaves the page cache as it was (quiet_file.rs).

mod index_check;

use std::{fs::File, io, sync::Arc};

use crate::{
    damage::{self, Damage, DamageFlush},
    disk::Directory,
    error::LogError,
    log::Log,
    log_config::LogConfig,
    scrub::index_check::IndexCheck,
    segment::{
        Indexer, SegmentFiles,
        batch_place::HeaderWalk,
        listing::list_segments,
        quiet_file::QuietFile,
        scan::{Scan, Scanned},
    },
    units::{Offset, Position},
};

/// A segment that is being read.
#[derive(Debug)]
pub struct Scrub {
    files: Arc<SegmentFiles>,
    quiet: QuietFile,
    scan: Scan,
    indexes: IndexCheck,
    /// The index entries that the batches should have.
    indexer: Indexer,
    next: Option<Offset>,
    report: Scrubbed,
}

/// The report of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// Its base offset.
    pub segment: Offset,
    /// Bytes of its log file.
    pub size_bytes: u64,
    /// How many sound batches it has.
    pub batches: u64,
    /// Damaged ranges, ascending.
    pub damage: Vec<Damage>,
    /// The unsound end of the last segment. The next start cuts it if a crash tore it. After a
    /// clean stop it is damage, and the log end is at least its `end`.
    pub unsound_end: Option<Damage>,
    /// Index entries that lead to a wrong place. A missing or torn file counts as one.
    pub wrong_index_entries: u64,
}

impl Scrub {
    /// Begins a segment. `next` is the base offset of the segment behind it. The last segment has
    /// none, and must not grow meanwhile. Blocks.
    pub fn open(
        dir: impl Into<Directory>,
        base: Offset,
        next: Option<Offset>,
    ) -> io::Result<Scrub> {
        let dir = Arc::new(dir.into());
        let files = Arc::new(SegmentFiles::open(&dir, base)?);
        let quiet = QuietFile::new(SegmentFiles::open(&dir, base)?.log);
        let size_bytes = files.log.len_bytes()?;
        let walk = HeaderWalk::new(base, Position(0), Position(size_bytes)).before(next);
        let report = Scrubbed {
            segment: base,
            size_bytes,
            batches: 0,
            damage: Vec::new(),
            unsound_end: None,
            wrong_index_entries: 0,
        };
        Ok(Scrub {
            scan: Scan::new(base, walk, Offset(0)),
            indexes: IndexCheck::of(&files)?,
            indexer: Indexer::empty(&files),
            files,
            quiet,
            next,
            report,
        })
    }

    /// The segments of a directory that is not served, each with the base offset of the next.
    /// Blocks. Segments of `OldSegments::of` cannot be read.
    pub fn segments(dir: impl Into<Directory>) -> Result<Vec<(Offset, Option<Offset>)>, LogError> {
        let bases = Vec::from_iter(list_segments(&dir.into())?.segments);
        let nexts = bases.iter().skip(1).copied().map(Some).chain([None]);
        Ok(bases.iter().copied().zip(nexts).collect())
    }

    /// Reads on. Returns the bytes read; `None`: all is read. Blocks.
    pub fn step(&mut self) -> io::Result<Option<u64>> {
        let before = self.scan.read_bytes();
        loop {
            match self.scan.next(&self.quiet)? {
                Scanned::Batch(_, place) => {
                    self.report.batches += 1;
                    self.indexes.batch(&place);
                    self.indexer.note(&place, LogConfig::default().index_interval_bytes);
                }
                Scanned::Damage(found) => self.add(found),
                Scanned::Tail => {
                    self.finish();
                    return Ok(None);
                }
            }
            let read_bytes = self.scan.read_bytes() - before;
            if read_bytes > 0 {
                return Ok(Some(read_bytes));
            }
        }
    }

    /// The file, and where reading goes on, or has failed.
    pub fn place(&self) -> (Arc<File>, Position) {
        (self.files.log.handle().clone(), self.scan.position())
    }

    /// The report, once all is read.
    pub fn report(&self) -> &Scrubbed {
        &self.report
    }

    /// Replaces both index files by those that the batches should have. Blocks.
    pub fn repair_indexes(&self) -> io::Result<()> {
        let [offsets, times] = self.indexer.encoded();
        self.files.offsets.replace(&offsets)?;
        self.files.times.replace(&times)
    }

    fn finish(&mut self) {
        let (position, first) = (self.scan.position(), self.scan.lowest());
        let len_bytes = self.report.size_bytes - position.0;
        if len_bytes > 0 {
            let segment = self.report.segment;
            let end = self.next.unwrap_or(first);
            let tail = Damage { segment, position, len_bytes, first, end };
            match self.next {
                Some(_) => self.add(tail),
                None => self.report.unsound_end = Some(tail),
            }
        }
        self.report.wrong_index_entries = self.indexes.wrong(self.next.is_some());
    }

    fn add(&mut self, found: Damage) {
        self.indexes.damage(&found);
        self.report.damage.push(found);
    }
}

/// Writes the damage that a scrub has found in these segments into the damage file of a directory
/// that is not served. Blocks.
pub fn keep_damage(dir: impl Into<Directory>, found: &[Scrubbed]) -> io::Result<()> {
    let dir = Arc::new(dir.into());
    let known = damage::read(&dir)?;
    let read = |range: &&Damage| found.iter().any(|scrubbed| scrubbed.segment == range.segment);
    let mut ranges: Vec<Damage> = known.iter().filter(|range| !read(range)).copied().collect();
    ranges.extend(found.iter().flat_map(|scrubbed| &scrubbed.damage));
    ranges.sort_by_key(|range| (range.segment, range.position));
    match ranges == known {
        true => Ok(()),
        false => DamageFlush::new(&dir, ranges.into_iter()).write(),
    }
}

impl Log {
    /// Replaces the damaged ranges of a sealed segment by those that a scrub has found. Returns the
    /// flush to write, if that changes anything.
    pub fn note_scrubbed(&mut self, scrubbed: &Scrubbed) -> Option<DamageFlush> {
        let found = damage::DamagedRanges::new(scrubbed.damage.clone());
        let segment = self.sealed.iter_mut().find(|s| s.base() == scrubbed.segment)?;
        if segment.damage.all() == found.all() {
            return None;
        }
        for Damage { segment, position, len_bytes, first, end } in found.all() {
            tracing::error!(
                dir = %self.dir.display(), segment = segment.0, position = position.0, len_bytes,
                first_offset = first.0, end_offset = end.0, "the scrubber found damage"
            );
        }
        segment.damage = found;
        // If the job finds no room, the next flush writes the list.
        self.has_unkept_damage = true;
        Some(DamageFlush::new(&self.dir, self.damage()))
    }
}
