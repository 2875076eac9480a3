//! State that is derived from batches and kept beside them: leader epochs, and the latest batches
//! of idempotent producers. Where the files lack it, opening reads the batches' headers.
//!
//! ```text
//!   latest sound <offset>.snapshot              log end
//!                  ▼                               ▼
//!   [ … ][ … ]─────┼── headers, into `Producers` ──┤
//! ```
//!
//! Without any snapshot the active segment is read. Producers without a batch in it may begin with
//! any sequence.

use std::{collections::BTreeSet, io};

use penstock_batch::BatchHeader;

use crate::{
    checkpoint::{leader_epochs::Epochs, producer_snapshot},
    error::LogError,
    log::Log,
    recovery::{summary::Recovery, transactions::Transactions},
    segment::{
        Segment,
        batch_place::BatchPlace,
        begin::{ALL, Begin},
        listing::{SNAPSHOT, list_segments, segment_file},
        scan::{Scan, Scanned},
    },
    units::Offset,
};

/// Completes a log's epochs and producers. Blocks.
pub(crate) fn restore(log: &mut Log, recovery: &mut Recovery) -> Result<(), LogError> {
    let dir = log.dir.clone();
    if !log.epochs.was_read() {
        let epochs = epochs_of_batches(log).map_err(LogError::io(&dir))?;
        log.epochs = epochs;
    }
    let snapshots = list_segments(&dir)?.snapshots;
    let from = load_snapshot(log, &snapshots).map_err(LogError::io(&dir))?;
    let seen = &mut recovery.transactions;
    note_producers(log, from, seen).map_err(LogError::io(&dir))?;
    seen.open = log.producers.open_transactions();
    seen.has_ended |= log.producers.has_ended_transactions();
    Ok(())
}

/// Epochs ascend. So a segment that begins in the same epoch as the next segment has only this one.
fn epochs_of_batches(log: &Log) -> io::Result<Epochs> {
    let mut epochs = Epochs::unread(&log.dir);
    let mut segments = Vec::new();
    for (segment, _) in log.all_segments().filter(|(segment, _)| segment.size_bytes > 0) {
        segments.push((segment, first_epoch(segment, Offset(0))?));
    }
    let last = match segments.last() {
        Some((segment, _)) => first_epoch(segment, Offset(log.log_end.0 - 1))?,
        None => None,
    };
    let nexts = segments.iter().skip(1).map(|(_, epoch)| *epoch).chain([last]).collect::<Vec<_>>();
    for ((segment, first), next) in segments.into_iter().zip(nexts) {
        let mut rest = if first == next { 1 } else { usize::MAX };
        visit(segment, Offset(0), |header, place| {
            epochs.note(header.leader_epoch, place.base);
            rest -= 1;
            rest > 0
        })?;
    }
    Ok(epochs)
}

fn first_epoch(segment: &Segment, from: Offset) -> io::Result<Option<i32>> {
    let mut epoch = None;
    visit(segment, from, |header, _| {
        epoch = Some(header.leader_epoch);
        false
    })?;
    Ok(epoch)
}

/// Loads the latest sound snapshot, and returns the offset from which batches have to be read.
/// Removes useless snapshots. Kafka keeps one at each segment's base, and those stay.
fn load_snapshot(log: &mut Log, snapshots: &BTreeSet<Offset>) -> io::Result<Offset> {
    let mut from = None;
    let mut removed = false;
    for offset in snapshots.iter().rev() {
        let path = segment_file(&log.dir, *offset, SNAPSHOT);
        let is_candidate = from.is_none() && *offset <= log.log_end;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_candidate && let Some(entries) = producer_snapshot::decode(&log.dir.read(name)?) {
            log.producers.load(entries);
            from = Some(*offset);
        } else if *offset > log.log_end || is_candidate || !log.has_segment(*offset) {
            log.dir.disk().remove_file(&path)?;
            removed = true;
        }
    }
    if removed {
        // A snapshot that comes back after a power cut could lie within the log by then.
        log.dir.sync()?;
    }
    log.snapshot = from.unwrap_or(Offset(0));
    // Without a snapshot, the proved batches are read, too: before the first checkpoint they are
    // all of the log.
    Ok(from.unwrap_or(log.active.segment.base().min(log.recovery_point)))
}

fn note_producers(log: &mut Log, from: Offset, seen: &mut Transactions) -> io::Result<()> {
    if from >= log.log_end {
        return Ok(());
    }
    let first = log.sealed.partition_point(|segment| segment.base() <= from).saturating_sub(1);
    let segments = log.sealed.iter().skip(first).chain([&log.active.segment]);
    for segment in segments {
        visit(segment, from, |header, place| {
            log.producers.note(header, place.base);
            seen.note(header);
            true
        })?;
    }
    Ok(())
}

/// Visits headers from the batch that holds `from` on, until `visit` returns false.
fn visit(
    segment: &Segment,
    from: Offset,
    mut visit: impl FnMut(&BatchHeader, &BatchPlace) -> bool,
) -> io::Result<()> {
    let Segment { files, size_bytes, damage, .. } = segment;
    let begin = Begin::below(from, files, damage, *size_bytes)?;
    let mut scan = Scan::new(files.base, begin.walk, ALL);
    loop {
        match scan.next(&*files.log)? {
            Scanned::Batch(_, place) if place.last < from => {}
            Scanned::Batch(header, place) if visit(&header, &place) => {}
            Scanned::Damage(_) => {}
            Scanned::Batch(..) | Scanned::Tail => return Ok(()),
        }
    }
}
