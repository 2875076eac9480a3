//! Which parts of which segments are in memory, for people.
//!
//! Called by http while a page is open, on a thread that may block. It never reads a record, and
//! holds no log's lock while it asks the kernel. Its size is bounded whatever the server holds.
//!
//! ```text
//!   partition   [ not asked: older ][ segment ][ segment ][ active ]     the newest segments
//!                                    99999900   00030000   0999          a character a cell:
//!                                    0 nothing, 9 all of it in memory, ? the file system does not show it
//! ```

use std::cmp::Reverse;
use std::fs::File;
use std::sync::Arc;

use penstock_ring::{PAGE_BYTES, Sight};
use penstock_storage::{Log, SegmentInfo};
use serde::Serialize;

use crate::broker::partition::Partition;

/// Partitions shown at once.
pub(crate) const PARTITIONS_MAX: usize = 1000;
/// Segments shown at once, of all partitions and of one.
pub(crate) const SEGMENTS_MAX: usize = 8192;
const SEGMENTS_OF_ONE_MAX: usize = 64;
/// Parts asked for at once, in all segments and in one.
pub(crate) const CELLS_MAX: usize = 64 * 1024;
const CELLS_OF_ONE_MAX: usize = 64;

const _: () = assert!(PARTITIONS_MAX <= SEGMENTS_MAX && SEGMENTS_MAX <= CELLS_MAX);

/// One partition.
#[derive(Debug, Serialize)]
pub(crate) struct PartitionMap {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// The oldest segments, for which the kernel is not asked.
    pub(crate) older_segments: usize,
    pub(crate) older_bytes: u64,
    pub(crate) segments: Vec<SegmentMap>,
}

/// One segment, as an array of four: base offset, bytes, bytes in memory, cells.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SegmentMap(i64, u64, Option<u64>, String);

/// How much is asked for each partition and segment, so that the whole stays within the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    segments: usize,
    cells: usize,
}

impl Shares {
    /// `segments_of`: how many segments each partition has.
    fn of(segments_of: impl ExactSizeIterator<Item = usize>) -> Shares {
        let segments = (SEGMENTS_MAX / segments_of.len().max(1)).clamp(1, SEGMENTS_OF_ONE_MAX);
        let shown: usize = segments_of.map(|has| has.min(segments)).sum();
        Shares { segments, cells: (CELLS_MAX / shown.max(1)).clamp(1, CELLS_OF_ONE_MAX) }
    }
}

/// At most [`PARTITIONS_MAX`] of the partitions, those that need a look first: offline ones, then
/// the largest. Sorted by name.
pub(crate) fn chosen(mut partitions: Vec<Arc<Partition>>) -> Vec<Arc<Partition>> {
    if partitions.len() > PARTITIONS_MAX {
        partitions.sort_by_cached_key(|partition| {
            let log = partition.log();
            Reverse((log.is_offline(), log.size_bytes()))
        });
        partitions.truncate(PARTITIONS_MAX);
        partitions.sort_by_cached_key(|p| (p.name.topic.clone(), p.name.partition));
    }
    partitions
}

/// Asks the kernel about the segments of at most [`PARTITIONS_MAX`] partitions. Blocks.
pub(crate) fn map(partitions: &[Arc<Partition>], sight: Sight) -> Vec<PartitionMap> {
    let counts: Vec<usize> = partitions.iter().map(|p| p.log().segment_files().count()).collect();
    let shares = Shares::of(counts.into_iter());
    partitions.iter().map(|partition| of_one(partition, shares, sight)).collect()
}

fn of_one(partition: &Partition, shares: Shares, sight: Sight) -> PartitionMap {
    let (newest, older_segments, older_bytes) = newest(&partition.log(), shares.segments);
    let segments = newest.iter().map(|(info, file)| {
        let asked = |position, len_bytes| sight.resident_pages(file, position, len_bytes);
        of_segment(info, shares.cells, asked)
    });
    let (topic, partition) = (partition.name.topic.clone(), partition.name.partition);
    PartitionMap { topic, partition, older_segments, older_bytes, segments: segments.collect() }
}

/// The newest segments, oldest first, and how many are older with how many bytes.
fn newest(log: &Log, most: usize) -> (Vec<(SegmentInfo, Arc<File>)>, usize, u64) {
    let mut from_end = log.segment_files().rev();
    let mut newest: Vec<_> =
        from_end.by_ref().take(most).map(|(info, file)| (info, Arc::clone(file))).collect();
    newest.reverse();
    let (older_segments, older_bytes) =
        from_end.fold((0, 0), |(count, bytes), (info, _)| (count + 1, bytes + info.size_bytes));
    (newest, older_segments, older_bytes)
}

/// `resident_pages(position, len_bytes)` asks about a range that begins on a page.
fn of_segment(
    info: &SegmentInfo,
    cells_max: usize,
    resident_pages: impl Fn(u64, u64) -> Option<u64>,
) -> SegmentMap {
    let pages = info.size_bytes.div_ceil(PAGE_BYTES);
    let cell_pages = pages.div_ceil(cells_max as u64).max(1);
    let (mut cells, mut resident) = (String::new(), Some(0));
    for first in (0..pages).step_by(cell_pages as usize) {
        let asked = cell_pages.min(pages - first);
        let found = resident_pages(first * PAGE_BYTES, asked * PAGE_BYTES);
        cells.push(found.map_or('?', |found| level(found, asked)));
        resident = resident.zip(found).map(|(sum, found)| sum + found);
    }
    let resident_bytes = resident.map(|pages| (pages * PAGE_BYTES).min(info.size_bytes));
    SegmentMap(info.base_offset.0, info.size_bytes, resident_bytes, cells)
}

/// 0: no page, 9: every page; in between, a part.
fn level(resident: u64, pages: u64) -> char {
    let level = match resident {
        0 => 0,
        _ if resident >= pages => 9,
        _ => 1 + (resident * 8 / pages).min(7),
    };
    char::from(b'0' + level as u8)
}

#[cfg(test)]
mod tests {
    use penstock_storage::Offset;

    use super::*;

    fn segment(size_bytes: u64) -> SegmentInfo {
        SegmentInfo { base_offset: Offset(7), size_bytes, sealed: true }
    }

    #[test]
    fn no_number_of_partitions_and_segments_exceeds_the_bounds() {
        for partitions in [0, 1, 10, 100, PARTITIONS_MAX] {
            for has in [1, 4, 100, 1_000_000] {
                let shares = Shares::of(std::iter::repeat_n(has, partitions));
                let segments = partitions * has.min(shares.segments);
                assert!(segments <= SEGMENTS_MAX, "{partitions} of {has}: {shares:?}");
                assert!(segments * shares.cells <= CELLS_MAX, "{partitions} of {has}: {shares:?}");
            }
        }
        let usual = Shares::of(std::iter::repeat_n(4, 100));
        assert_eq!(usual, Shares { segments: 64, cells: 64 }, "100 partitions of 4 get all");
    }

    #[test]
    fn the_largest_map_fits_into_an_event() {
        let segment =
            || SegmentMap(i64::MAX, i32::MAX as u64, Some(i32::MAX as u64), "9".repeat(8));
        let partition = || PartitionMap {
            topic: "t".repeat(249),
            partition: i32::MAX,
            older_segments: usize::MAX,
            older_bytes: u64::MAX,
            segments: std::iter::repeat_with(segment).take(SEGMENTS_MAX / PARTITIONS_MAX).collect(),
        };
        let map: Vec<_> = std::iter::repeat_with(partition).take(PARTITIONS_MAX).collect();
        assert!(serde_json::to_string(&map).unwrap().len() < 1024 * 1024);
    }

    #[test]
    fn cells_cover_a_segment_once_and_say_how_much_is_in_memory() {
        let first_half = |position, len_bytes| {
            Some(
                (position..position + len_bytes).step_by(4096).filter(|at| *at < 40 * 4096).count()
                    as u64,
            )
        };
        let SegmentMap(base, bytes, resident, cells) =
            of_segment(&segment(80 * 4096), 8, first_half);
        assert_eq!((base, bytes, resident, &*cells), (7, 80 * 4096, Some(40 * 4096), "99990000"));
        let SegmentMap(.., resident, cells) = of_segment(&segment(4097), 64, |_, _| Some(1));
        assert_eq!((resident, &*cells), (Some(4097), "99"), "a page a cell, no more");
        let SegmentMap(.., resident, cells) = of_segment(&segment(0), 64, |_, _| Some(1));
        assert_eq!((resident, &*cells), (Some(0), ""));
    }

    #[test]
    fn what_is_not_shown_is_unknown_and_not_cold() {
        let SegmentMap(.., resident, cells) =
            of_segment(&segment(2 * 4096), 64, |at, _| (at == 0).then_some(1));
        assert_eq!((resident, &*cells), (None, "9?"));
    }

    #[test]
    fn only_none_and_all_have_the_first_and_the_last_level() {
        assert_eq!(
            [0, 1, 500, 999, 1000].map(|pages| level(pages, 1000)),
            ['0', '1', '5', '8', '9']
        );
    }
}
