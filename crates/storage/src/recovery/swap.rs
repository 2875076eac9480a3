//! Finishes, or takes back, an exchange of whole segments in which a Kafka was killed. Called when
//! a log is opened, before any batch is read.
//!
//! ```text
//!   a cleaner, or a split, writes   170.log.cleaned    and its indexes; syncs them
//!   renames file by file            170.log.swap       highest base first: no .cleaned, all there
//!   renames what it replaces        170.log.deleted
//!   renames file by file            170.log            unlinks .deleted a minute later
//! ```
//!
//! So a `.cleaned` shows that nothing has been replaced yet. It is removed, and so is every `.swap`
//! at or above the lowest `.cleaned`. Any other `.swap` is complete: it takes the place of the
//! segments whose offsets it has.
//!
//! This server may be killed meanwhile, or lose writes that were not synced. The next start gets to
//! the same end from any state in between. Nothing is removed before its replacement is proved, and
//! on the disk.

use std::{collections::BTreeSet, io, ops::Range, path::Path};

use crate::{
    disk::Directory,
    error::LogError,
    segment::{
        MAX_SEGMENT_BYTES,
        batch_place::HeaderWalk,
        listing::{LOG, Listing, OF_SEGMENTS, Stage, StagedFile, list_segments, segment_file},
        old_format,
        scan::{Scan, Scanned},
    },
    units::{Offset, Position},
};

/// What to do with each staged file. Pure.
#[derive(Debug, Default)]
struct Plan<'a> {
    /// `.swap`s of exchanges that had not begun. They go before the `.cleaned`s, which show that.
    taken_back: Vec<&'a StagedFile>,
    cleaned: Vec<&'a StagedFile>,
    /// `.swap`s of exchanges to be finished, by base offset, the `.log` first.
    swaps: Vec<&'a StagedFile>,
    deleted: Vec<&'a StagedFile>,
}

/// Carries out the plan. Returns the listing afterwards, and how many files have got their names.
/// Blocks.
pub(crate) fn finish(dir: &Directory) -> Result<(Listing, u64), LogError> {
    let before = list_segments(dir)?;
    if before.staged.is_empty() {
        return Ok((before, 0));
    }
    let plan = Plan::of(&before.staged);
    let replaced = plan.replaced(dir)?;
    remove(dir, &plan.taken_back)?;
    sync(dir)?;
    remove(dir, &plan.cleaned)?;
    remove_replaced(dir, &before, &replaced)?;
    sync(dir)?;
    for file in &plan.swaps {
        let to = segment_file(dir, file.base, file.kind);
        dir.disk().rename(&file.path, &to).map_err(LogError::io(&file.path))?;
    }
    remove(dir, &plan.deleted)?;
    sync(dir)?;
    for range in &replaced {
        tracing::warn!(
            dir = %dir.display(), segment = range.start.0, end_offset = range.end.0,
            "finished an exchange of segments that a killed Kafka had begun: this one replaces the others in its offsets"
        );
    }
    Ok((list_segments(dir)?, plan.swaps.len() as u64))
}

impl<'a> Plan<'a> {
    fn of(staged: &'a [StagedFile]) -> Plan<'a> {
        let cleaned = staged.iter().filter(|file| file.stage == Stage::Cleaned);
        let lowest_cleaned = cleaned.map(|file| file.base).min();
        let mut plan = Plan::default();
        for file in staged {
            match file.stage {
                Stage::Deleted => plan.deleted.push(file),
                Stage::Cleaned => plan.cleaned.push(file),
                Stage::Swap if lowest_cleaned.is_some_and(|lowest| file.base >= lowest) => {
                    plan.taken_back.push(file);
                }
                Stage::Swap => plan.swaps.push(file),
            }
        }
        plan.swaps.sort_by_key(|file| (file.base, file.kind != LOG));
        plan
    }

    /// The offsets that each complete `.log.swap` has, at least its base. Blocks: reads the whole
    /// file.
    ///
    /// Kafka makes one range of all. Here each file has its own, so that files that have got their
    /// names already stay.
    fn replaced(&self, dir: &Directory) -> Result<Vec<Range<Offset>>, LogError> {
        let logs = self.swaps.iter().filter(|file| file.kind == LOG);
        logs.map(|file| {
            let end = proved_end(dir, file)?;
            Ok(file.base..end.max(Offset(file.base.0.saturating_add(1))))
        })
        .collect()
    }
}

/// The offset behind a segment that is to replace others. It may do so only if all of it is sound.
/// Blocks.
fn proved_end(dir: &Directory, swap: &StagedFile) -> Result<Offset, LogError> {
    let io = || LogError::io(&swap.path);
    let log = dir.disk().open(&swap.path).map_err(io())?;
    let size_bytes = log.len_bytes().map_err(io())?;
    if size_bytes > MAX_SEGMENT_BYTES {
        let what = format!("{size_bytes} bytes; a segment has at most {MAX_SEGMENT_BYTES}");
        return Err(LogError::Metadata { path: swap.path.clone(), what });
    }
    log.sync_data().map_err(io())?;
    let walk = HeaderWalk::new(swap.base, Position(0), Position(size_bytes));
    let mut scan = Scan::new(swap.base, walk, Offset(0));
    while scan.position().0 < size_bytes {
        let position = scan.position();
        let Scanned::Batch(..) = scan.next(&*log).map_err(io())? else {
            let end = old_format::end(&*log, swap.base, size_bytes).map_err(io())?;
            return end.ok_or_else(|| unsound(swap, position));
        };
    }
    Ok(scan.lowest())
}

fn unsound(swap: &StagedFile, position: Position) -> LogError {
    let what = format!(
        "not sound at byte {position}, although it is to replace other segments; move it away to serve \
         those, or take `.swap` off its name to serve what is sound of it"
    );
    LogError::Metadata { path: swap.path.clone(), what }
}

/// Removes all files of the segments that begin within one of the ranges. Snapshots of producers
/// stay: an exchange does not change what producers appended below an offset.
fn remove_replaced(
    dir: &Directory,
    listing: &Listing,
    ranges: &[Range<Offset>],
) -> Result<(), LogError> {
    for range in ranges {
        // The first segment may have lost its log already, and still have its indexes. Indexes of
        // other segments without a log are orphans.
        let begun = listing.segments.range(range.clone()).copied();
        let bases = BTreeSet::from_iter(begun.chain([range.start]));
        for (base, kind) in bases.iter().flat_map(|base| OF_SEGMENTS.map(|kind| (*base, kind))) {
            remove_if_there(dir, &segment_file(dir, base, kind))?;
        }
    }
    Ok(())
}

fn remove(dir: &Directory, files: &[&StagedFile]) -> Result<(), LogError> {
    files.iter().try_for_each(|file| remove_if_there(dir, &file.path))
}

fn remove_if_there(dir: &Directory, path: &Path) -> Result<(), LogError> {
    match dir.disk().remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(LogError::io(path)),
    }
}

fn sync(dir: &Directory) -> Result<(), LogError> {
    dir.sync().map_err(LogError::io(dir))
}
