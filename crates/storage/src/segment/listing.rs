//! The names of files in a partition's directory that belong to segments. Called when a log is
//! opened, scrubbed or read.
//!
//! ```text
//!   00000000000000000170 . timeindex . swap
//!   base offset            kind        stage: none when in use, else what a Kafka planned
//! ```
//!
//! Files of other names are passed over. Nothing here opens or changes a file.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    disk::{DirEntry, Directory},
    error::LogError,
    segment::index_entry::{Entry, OffsetEntry, TimeEntry},
    units::Offset,
};

/// Ending of a segment's batches.
pub(crate) const LOG: &str = "log";
/// Ending of Kafka's file of a segment's aborted transactions.
pub(crate) const TXN_INDEX: &str = "txnindex";
/// Ending of a snapshot of idempotent producers. Its name is an offset.
pub(crate) const SNAPSHOT: &str = "snapshot";
/// Endings of the files that belong to one segment.
pub(crate) const OF_SEGMENTS: [&str; 4] = [LOG, OffsetEntry::SUFFIX, TimeEntry::SUFFIX, TXN_INDEX];

/// The files in a partition's directory, by base offset.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) segments: BTreeSet<Offset>,
    pub(crate) snapshots: BTreeSet<Offset>,
    pub(crate) txn_indexes: BTreeSet<Offset>,
    /// Indexes without a log, which an interrupted expiry or roll leaves behind.
    pub(crate) orphans: Vec<PathBuf>,
    /// Files that a Kafka had not finished, or not yet removed.
    pub(crate) staged: Vec<StagedFile>,
}

/// A file that is not yet, or no longer, part of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StagedFile {
    pub(crate) stage: Stage,
    pub(crate) base: Offset,
    pub(crate) kind: &'static str,
    pub(crate) path: PathBuf,
}

/// How far a Kafka had come with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Being written, to replace others.
    Cleaned,
    /// Complete, and about to replace others.
    Swap,
    /// Replaced or expired, and to be unlinked.
    Deleted,
}

/// Lists a partition's directory. Blocks.
pub(crate) fn list_segments(dir: &Directory) -> Result<Listing, LogError> {
    let mut listing = Listing::default();
    let mut companions = Vec::new();
    for DirEntry { path, is_dir, .. } in dir.disk().list(dir).map_err(LogError::io(dir))? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some((base, kind, stage)) = segment_name(name) else { continue };
        match (kind, stage) {
            (_, Some(stage)) if !is_dir => {
                listing.staged.push(StagedFile { stage, base, kind, path });
            }
            (_, Some(_)) => {}
            (LOG, None) => drop(listing.segments.insert(base)),
            (SNAPSHOT, None) => drop(listing.snapshots.insert(base)),
            (_, None) => companions.push((base, kind, path)),
        }
    }
    for (base, kind, path) in companions {
        match listing.segments.contains(&base) {
            true if kind == TXN_INDEX => drop(listing.txn_indexes.insert(base)),
            true => {}
            false => listing.orphans.push(path),
        }
    }
    Ok(listing)
}

/// The path `<dir>/<20 digits>.<suffix>`.
pub(crate) fn segment_file(dir: &Path, base: Offset, suffix: &str) -> PathBuf {
    dir.join(format!("{:020}.{suffix}", base.0))
}

/// Parses `<20 digits>.<kind>`, with or without a stage behind it.
fn segment_name(name: &str) -> Option<(Offset, &'static str, Option<Stage>)> {
    let mut parts = name.split('.');
    let digits = parts.next()?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let base = Offset(digits.parse().ok().filter(|_| all_digits)?);
    let kind = parts.next()?;
    let mut kinds = OF_SEGMENTS.into_iter().chain([SNAPSHOT]);
    let kind = kinds.find(|known| *known == kind)?;
    let stage = match parts.next() {
        None => None,
        Some("cleaned") => Some(Stage::Cleaned),
        Some("swap") => Some(Stage::Swap),
        Some("deleted") => Some(Stage::Deleted),
        Some(_) => return None,
    };
    parts.next().is_none().then_some((base, kind, stage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_segment_files_are_known() {
        let name = |name| segment_name(name).map(|(base, kind, stage)| (base.0, kind, stage));
        let (a, b) = ("00000000000000000170.log", "00000000000000000170.txnindex.swap");
        assert_eq!(name(a), Some((170, "log", None)));
        assert_eq!(name(b), Some((170, "txnindex", Some(Stage::Swap))));
        let deleted = name("00000000000000000003.snapshot.deleted");
        assert_eq!(deleted, Some((3, "snapshot", Some(Stage::Deleted))));
        for other in [
            "170.log",
            "00000000000000000170",
            "00000000000000000170.log.old",
            "00000000000000000170.log.swap.swap",
            "00000000000000000170-0000000001.checkpoint.deleted",
            "99999999999999999999.log",
            "+0000000000000000170.log",
            "leader-epoch-checkpoint",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
    }
}
