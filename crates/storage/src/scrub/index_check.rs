//! Compares a segment's two indexes with its batches, one batch after the other. Pure, except that
//! it reads the index files.
//!
//! ```text
//!   .index      each entry: a batch begins there, and ends at or before the offset it names
//!   .timeindex  each entry: the batch with that offset has that greatest timestamp; the last: no batch is later
//! ```
//!
//! Kafka 3 names the last offset of a whole append, which may lie behind the batch. An entry that
//! leads into damage is older than the damage, and counts as right.

use std::{collections::VecDeque, io};

use crate::{
    damage::Damage,
    segment::{
        SegmentFiles,
        batch_place::BatchPlace,
        index_entry::{Entry, OffsetEntry, TimeEntry},
        index_file::IndexFile,
    },
    units::Offset,
};

/// The entries that no batch has reached yet.
#[derive(Debug)]
pub(crate) struct IndexCheck {
    base: Offset,
    offsets: VecDeque<OffsetEntry>,
    times: VecDeque<TimeEntry>,
    /// The offset that the last entry of `.index` named.
    named: Offset,
    last_time_ms: Option<i64>,
    newest_ms: i64,
    wrong: u64,
}

impl IndexCheck {
    /// Reads both files. A missing one is one wrong entry. Blocks.
    pub(crate) fn of(files: &SegmentFiles) -> io::Result<IndexCheck> {
        let (offsets, no_offsets) = read(&files.offsets)?;
        let (times, no_times): (VecDeque<TimeEntry>, _) = read(&files.times)?;
        Ok(IndexCheck {
            base: files.base,
            last_time_ms: times.back().map(|entry| entry.timestamp_ms),
            offsets,
            times,
            named: Offset(-1),
            newest_ms: -1,
            wrong: no_offsets + no_times,
        })
    }

    pub(crate) fn batch(&mut self, place: &BatchPlace) {
        self.newest_ms = self.newest_ms.max(place.max_timestamp_ms);
        while let Some(entry) = pop_if(&mut self.offsets, |e| e.position() <= place.position) {
            let names = self.absolute(entry.relative_offset);
            let right = entry.position() == place.position
                && place.last <= names
                && self.named < place.base;
            self.wrong += u64::from(!right);
            self.named = names;
        }
        let (base, last) = (place.base.0 - self.base.0, place.last.0 - self.base.0);
        while let Some(entry) = pop_if(&mut self.times, |e| i64::from(e.relative_offset) <= last) {
            let is_of_it = i64::from(entry.relative_offset) >= base;
            self.wrong += u64::from(is_of_it && entry.timestamp_ms != place.max_timestamp_ms);
        }
    }

    pub(crate) fn damage(&mut self, range: &Damage) {
        self.offsets
            .retain(|entry| !(range.position..range.end_position()).contains(&entry.position()));
        // The lost batches may have been the latest.
        let base = self.base.0;
        let lost = |entry: &TimeEntry| {
            (range.first.0..range.end.0).contains(&(base + i64::from(entry.relative_offset)))
        };
        self.times.retain(|entry| !lost(entry));
    }

    /// How many entries are wrong, after the last batch. `is_complete`: the files have their last
    /// entries.
    pub(crate) fn wrong(&self, is_complete: bool) -> u64 {
        let claims_too_little = self.newest_ms > self.last_time_ms.unwrap_or(-1);
        let left = self.offsets.len() + self.times.len();
        self.wrong + left as u64 + u64::from(is_complete && claims_too_little)
    }

    fn absolute(&self, relative_offset: u32) -> Offset {
        Offset(self.base.0.saturating_add(relative_offset.into()))
    }
}

fn pop_if<E: Copy>(entries: &mut VecDeque<E>, takes: impl Fn(&E) -> bool) -> Option<E> {
    entries.front().is_some_and(takes).then(|| entries.pop_front()).flatten()
}

/// The entries of a file, without the room that Kafka reserves, and how many are wrong because the
/// file is missing or torn.
fn read<E: Entry>(file: &IndexFile<E>) -> io::Result<(VecDeque<E>, u64)> {
    let Some(bytes) = file.read_all()? else { return Ok((VecDeque::new(), 1)) };
    let chunks = bytes.chunks_exact(E::LEN);
    let is_torn = !chunks.remainder().is_empty();
    let entries = chunks.map(E::decode).enumerate();
    let is_entry = |(n, entry): &(usize, E)| *n == 0 || entry.relative_offset() > 0;
    Ok((entries.take_while(is_entry).map(|(_, entry)| entry).collect(), u64::from(is_torn)))
}
