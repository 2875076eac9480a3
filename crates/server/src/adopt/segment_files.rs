//! The only file here that does I/O: lists the segments and snapshots of a partition's directory,
//! and reads one of them batch by batch.
//!
//! A batch is sound if its CRC is right. One batch at a time is in memory.

use std::io;
use std::path::{Path, PathBuf};

use penstock_storage::{SegmentPiece, SegmentReader};

const OFFSET_DIGITS: usize = 20;
const EPOCH_DIGITS: usize = 10;

/// A file whose name has an offset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OffsetFile {
    /// The base offset of a segment; the end offset of a snapshot of the metadata log.
    pub(super) offset: i64,
    /// The epoch of a snapshot's last record; 0 for segments.
    pub(super) epoch: i32,
    pub(super) path: PathBuf,
}

/// All `.log` files of a partition's directory in the order of their offsets. Blocks.
pub(super) fn segments(directory: &Path) -> io::Result<Vec<OffsetFile>> {
    files(directory, |name| Some((digits(name.strip_suffix(".log")?, OFFSET_DIGITS)?, 0)))
}

/// All finished snapshots of the metadata log, oldest first. Blocks.
pub(super) fn snapshots(directory: &Path) -> io::Result<Vec<OffsetFile>> {
    files(directory, |name| {
        let (offset, epoch) = name.strip_suffix(".checkpoint")?.split_once('-')?;
        let epoch = i32::try_from(digits(epoch, EPOCH_DIGITS)?).ok()?;
        Some((digits(offset, OFFSET_DIGITS)?, epoch))
    })
}

fn files(
    directory: &Path,
    offset_and_epoch: impl Fn(&str) -> Option<(i64, i32)>,
) -> io::Result<Vec<OffsetFile>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some((offset, epoch)) = name.to_str().and_then(&offset_and_epoch) {
            found.push(OffsetFile { offset, epoch, path: entry.path() });
        }
    }
    found.sort();
    Ok(found)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let is_number = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Reads a file in order. `visit` may end the reading with an error of its own. Blocks.
pub(super) fn read<E: From<io::Error>>(
    path: &Path,
    mut visit: impl FnMut(SegmentPiece) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = SegmentReader::open(path)?;
    while let Some(piece) = reader.read()? {
        visit(piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_in_the_order_of_their_offsets_and_unfinished_ones_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "00000000000000000100.log",
            "00000000000000000020.log",
            "00000000000000000020.log.deleted",
            "00000000000000000020.index",
            "00000000000000000100-0000000002.checkpoint",
            "00000000000000000100-0000000001.checkpoint",
            "00000000000000000200-0000000003.checkpoint.part",
            "00000000000000000300-0000000003.checkpoint.deleted",
            "20.log",
            "partition.metadata",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let offsets = |files: Vec<OffsetFile>| -> Vec<(i64, i32)> {
            files.iter().map(|file| (file.offset, file.epoch)).collect()
        };
        assert_eq!(offsets(segments(dir.path()).unwrap()), [(20, 0), (100, 0)]);
        assert_eq!(offsets(snapshots(dir.path()).unwrap()), [(100, 1), (100, 2)]);
    }
}
