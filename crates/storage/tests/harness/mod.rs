//! Shared by the tests: batches, a pread that drives look-ups, a naive reading of segment files.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::{fs, os::unix::fs::FileExt, path::Path};

use bytes::Bytes;
use penstock_batch::{BatchBuilder, BatchHeader, Batches, NewRecord};
use penstock_storage::*;

pub const NOW_MS: i64 = 1_700_000_000_000;

/// A batch of so many records with values of `value_len` bytes, a millisecond apart.
pub fn batch(records: i32, value_len: usize, first_ms: i64) -> Bytes {
    let value = vec![b'v'; value_len];
    let mut builder = BatchBuilder::new();
    for n in 0..records {
        let timestamp_ms = first_ms + i64::from(n);
        builder.push(NewRecord { timestamp_ms, value: Some(&value), ..NewRecord::default() });
    }
    builder.finish().into()
}

/// A producer's batch, accepted whatever its size and its time.
pub fn produced(bytes: Bytes) -> ProducedBatch {
    let config = LogConfig {
        max_message_bytes: usize::MAX,
        timestamp_after_max_ms: i64::MAX,
        ..LogConfig::default()
    };
    ProducedBatch::validate(bytes, &config.terms(NOW_MS, true)).unwrap()
}

/// Expires all segments that may go, and reads the ages that this takes.
pub fn expire(log: &mut Log, now_ms: i64) -> Vec<ExpiredSegment> {
    let mut expired = log.expire(now_ms);
    while let Some(unread) = log.unread_age(now_ms) {
        log.note_age(unread.run().unwrap());
        expired.extend(log.expire(now_ms));
    }
    expired
}

/// Appends as the server does: rolls if need be, begins, writes, finishes.
pub fn append(log: &mut Log, bytes: Bytes) -> Appended {
    append_at(log, bytes, NOW_MS)
}

pub fn append_at(log: &mut Log, bytes: Bytes, now_ms: i64) -> Appended {
    append_as(log, bytes, now_ms, 0)
}

/// Appends under another leader epoch.
pub fn append_in(log: &mut Log, bytes: Bytes, leader_epoch: i32) -> Appended {
    append_as(log, bytes, NOW_MS, leader_epoch)
}

fn append_as(log: &mut Log, bytes: Bytes, now_ms: i64, leader_epoch: i32) -> Appended {
    let produced = produced(bytes);
    if let Some(roll) = log.needs_roll(&produced, now_ms) {
        log.install_roll(roll.create().unwrap());
    }
    let append = log.begin_append(produced, leader_epoch, now_ms).unwrap();
    append.file.write_all_at(&append.pieces.concat(), append.position.0).unwrap();
    log.finish_append(append)
}

pub fn read(need: &Need) -> Vec<u8> {
    let mut bytes = vec![0; need.len_bytes];
    need.file.read_exact_at(&mut bytes, need.position.0).unwrap();
    bytes
}

/// Drives a look-up with pread. Also returns the bytes of each read.
pub fn drive(mut lookup: Lookup) -> Result<(Found, Vec<usize>), FindError> {
    let mut reads = Vec::new();
    loop {
        match lookup.step()? {
            Step::Done(found) => return Ok((found, reads)),
            Step::Need(need) => {
                reads.push(need.len_bytes);
                lookup.feed(&read(&need));
            }
        }
    }
}

pub fn drive_time(mut lookup: TimestampLookup) -> Result<Option<TimestampFound>, FindError> {
    loop {
        match lookup.step()? {
            Step::Done(found) => return Ok(found),
            Step::Need(need) => lookup.feed(&read(&need)),
        }
    }
}

pub fn find(log: &Log, offset: i64) -> Found {
    find_noting(log, offset).0
}

/// Finds an offset. Also returns the bytes of each read.
pub fn find_noting(log: &Log, offset: i64) -> (Found, Vec<usize>) {
    match log.find(Offset(offset)).unwrap() {
        Find::Lookup(lookup) => drive(lookup).unwrap(),
        Find::AtEnd => panic!("{offset} is the log end"),
    }
}

/// Reads the whole log as a consumer does: batch headers in order.
pub fn fetch_all(log: &Log) -> Vec<BatchHeader> {
    let mut headers = Vec::new();
    let mut next = log.log_start();
    while let Find::Lookup(lookup) = log.find(next).unwrap() {
        let found = drive(lookup).unwrap().0;
        let Some(mut extent) = found.extent(64 << 10, true) else { break };
        log.end_with_a_batch(&found, &mut extent);
        let mut bytes = vec![0; extent.len_bytes as usize];
        extent.file.read_exact_at(&mut bytes, extent.position.0).unwrap();
        for (header, batch) in Batches::new(&bytes).map_while(Result::ok) {
            penstock_batch::check_crc(batch).unwrap();
            headers.push(header);
            next = Offset(header.last_offset() + 1);
        }
    }
    headers
}

/// Every batch of a directory's segment files: base of the segment, position, header.
pub fn naive_scan(dir: &Path) -> Vec<(i64, u64, BatchHeader)> {
    let mut all = Vec::new();
    for path in files(dir, "log") {
        let base = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let bytes = fs::read(&path).unwrap();
        let mut position = 0;
        for (header, batch) in Batches::new(&bytes).map_while(Result::ok) {
            all.push((base, position, header));
            position += batch.len() as u64;
        }
    }
    all
}

/// Files with that suffix, in order of name.
pub fn files(dir: &Path, suffix: &str) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == suffix))
        .collect();
    paths.sort();
    paths
}

/// Drops a log as a killed server does: nothing is flushed.
pub fn kill(log: Log) {
    drop(log);
}

pub fn small_segments() -> LogConfig {
    LogConfig { segment_bytes: 20_000, retention_ms: None, ..LogConfig::default() }
}
