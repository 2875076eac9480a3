//! A log in use: append, read, roll, expire, close.
#![allow(missing_docs)]

mod harness;

use std::{fs, io, os::unix::fs::FileExt};

use harness::*;
use penstock_storage::*;

fn created(config: LogConfig) -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::create(&dir.path().join("t-0"), TopicId::random(), config).unwrap();
    (dir, log)
}

#[test]
fn what_was_appended_is_fetched_in_order_across_segments() {
    let (_dir, mut log) = created(small_segments());
    for n in 0..100 {
        let appended = append(&mut log, batch(3, 400, NOW_MS + n));
        assert_eq!(
            (appended.base_offset, appended.last_offset),
            (Offset(n * 3), Offset(n * 3 + 2))
        );
    }
    assert!(log.segments().count() > 5);
    assert_eq!(log.log_end(), Offset(300));
    let headers = fetch_all(&log);
    assert_eq!(headers.len(), 100);
    assert!(headers.iter().enumerate().all(|(n, h)| h.base_offset == n as i64 * 3));
}

#[test]
fn an_append_is_invisible_until_it_has_finished() {
    let (_dir, mut log) = created(LogConfig::default());
    append(&mut log, batch(1, 10, NOW_MS));
    let incoming = produced(batch(1, 10, NOW_MS));
    let pending = log.begin_append(incoming, 0, NOW_MS).unwrap();
    pending.file.write_all_at(&pending.pieces.concat(), pending.position.0).unwrap();
    assert!(matches!(log.find(Offset(1)), Ok(Find::AtEnd)));
    let before = find(&log, 0).extent(1 << 20, true).unwrap();
    assert_eq!(before.len_bytes, pending.position.0);
    log.finish_append(pending);
    assert!(matches!(log.find(Offset(1)), Ok(Find::Lookup(_))));
}

#[test]
fn a_failed_write_takes_the_log_offline_but_not_what_is_committed() {
    let (dir, mut log) = created(LogConfig::default());
    append(&mut log, batch(2, 10, NOW_MS));
    let produced = || produced(batch(1, 10, NOW_MS));
    let append = log.begin_append(produced(), 0, NOW_MS).unwrap();
    append.file.write_all_at(&append.pieces.concat()[..30], append.position.0).unwrap();
    log.fail_append(append, io::Error::other("disk full"));
    assert_eq!(log.begin_append(produced(), 0, NOW_MS).unwrap_err(), AppendError::Offline);
    assert_eq!((log.log_end(), fetch_all(&log).len()), (Offset(2), 1));
    assert!(log.close().is_err());
    let path = dir.path().join("t-0");
    let (log, recovery) = Log::open(&path, LogConfig::default(), LastStop::Unclean).unwrap();
    assert_eq!((log.log_end(), recovery.truncated_bytes), (Offset(2), 30));
}

#[test]
fn offsets_outside_of_the_log_are_refused_with_its_bounds() {
    let (_dir, mut log) = created(LogConfig::default());
    append(&mut log, batch(5, 10, NOW_MS));
    log.raise_log_start(Offset(2));
    for asked in [-1, 1, 6] {
        let error = log.find(Offset(asked)).unwrap_err();
        assert!(matches!(error, FindError::OutOfRange { start: Offset(2), end: Offset(5), .. }));
    }
    assert_eq!(find(&log, 2).base_offset, Offset(0));
}

#[test]
fn a_limit_smaller_than_the_first_batch_gives_it_whole_or_not_at_all() {
    let (_dir, mut log) = created(LogConfig::default());
    append(&mut log, batch(1, 1000, NOW_MS));
    append(&mut log, batch(1, 1000, NOW_MS));
    let found = find(&log, 0);
    assert!(found.extent(100, false).is_none());
    assert_eq!(found.extent(100, true).unwrap().len_bytes, found.batch_len_bytes);
    // The end may cut a batch.
    let cut = found.batch_len_bytes + 10;
    assert_eq!(found.extent(cut, false).unwrap().len_bytes, cut);
    assert_eq!(found.extent(1 << 20, false).unwrap().len_bytes, log.size_bytes());
}

#[test]
fn readers_of_the_end_need_no_reads() {
    let (_dir, mut log) = created(small_segments());
    for n in 0..200 {
        append(&mut log, batch(2, 400, NOW_MS + n));
    }
    for offset in 300..400 {
        let Find::Lookup(lookup) = log.find(Offset(offset)).unwrap() else { panic!() };
        let (found, reads) = drive(lookup).unwrap();
        assert_eq!((found.base_offset.0, reads.len()), (offset & !1, 0));
    }
}

#[test]
fn a_log_that_was_closed_opens_without_reading_it_through() {
    let (dir, mut log) = created(LogConfig::default());
    let id = log.topic_id();
    for n in 0..2000 {
        append(&mut log, batch(2, 400, NOW_MS + n));
    }
    let all = fetch_all(&log);
    log.close().unwrap();
    let path = dir.path().join("t-0");
    let (log, recovery) = Log::open(&path, LogConfig::default(), LastStop::Clean).unwrap();
    assert!(recovery.bytes_scanned < 16 << 10, "{recovery:?}");
    assert_eq!(Recovery { bytes_scanned: 0, ..recovery }, Recovery::default());
    assert_eq!((log.log_end(), log.topic_id()), (Offset(4000), id));
    assert_eq!(fetch_all(&log), all);
    assert_eq!(log.leader_epochs(), [EpochStart { leader_epoch: 0, start: Offset(0) }]);
}

#[test]
fn a_segment_rolls_when_its_records_span_segment_ms() {
    let config = LogConfig { segment_ms: 1000, ..LogConfig::default() };
    let (_dir, mut log) = created(config);
    append(&mut log, batch(1, 10, NOW_MS));
    append(&mut log, batch(1, 10, NOW_MS + 1000));
    assert_eq!(log.segments().count(), 1);
    append(&mut log, batch(1, 10, NOW_MS + 1001));
    assert_eq!(log.segments().count(), 2);
    assert_eq!(log.segments().last().unwrap().base_offset, Offset(2));
}

#[test]
fn a_segment_rolls_when_an_index_is_full() {
    let config =
        LogConfig { index_max_bytes: 24, index_interval_bytes: 100, ..LogConfig::default() };
    let (dir, mut log) = created(config);
    for n in 0..20 {
        append(&mut log, batch(1, 200, NOW_MS + n));
    }
    assert!(log.segments().count() > 3);
    log.close().unwrap();
    for index in files(&dir.path().join("t-0"), "index") {
        assert!(fs::metadata(index).unwrap().len() <= 24);
    }
}

#[test]
fn retention_by_size_unlinks_whole_segments_under_a_reader() {
    let config = LogConfig { retention_bytes: Some(45_000), ..small_segments() };
    let (_dir, mut log) = created(config);
    for n in 0..100 {
        append(&mut log, batch(1, 1000, NOW_MS + n));
    }
    let reader = find(&log, 0).extent(1 << 20, true).unwrap();
    let expired = log.expire(NOW_MS);
    assert!(!expired.is_empty() && log.size_bytes() >= 45_000);
    let start = expired.last().unwrap().base_offset;
    assert!(log.log_start() > start);
    for segment in expired {
        segment.unlink().unwrap();
    }
    assert_eq!(files(log.dir(), "log").len(), log.segments().count());
    assert_eq!(files(log.dir(), "index").len(), log.segments().count());
    assert!(matches!(log.find(Offset(0)), Err(FindError::OutOfRange { .. })));
    let mut bytes = vec![0; reader.len_bytes as usize];
    reader.file.read_exact_at(&mut bytes, reader.position.0).unwrap();
    assert_eq!(penstock_batch::Batches::new(&bytes).filter(Result::is_ok).count(), 18);
    assert_eq!(fetch_all(&log)[0].base_offset, log.log_start().0);
    assert!(log.expire(NOW_MS).is_empty());
}

#[test]
fn retention_by_time_looks_at_the_youngest_record_and_survives_a_restart() {
    let config = LogConfig { retention_ms: Some(1000), ..small_segments() };
    let (dir, mut log) = created(config.clone());
    for n in 0..100 {
        append(&mut log, batch(1, 1000, NOW_MS + n * 100));
    }
    log.close().unwrap();
    let (mut log, _) = Log::open(&dir.path().join("t-0"), config, LastStop::Clean).unwrap();
    let now_ms = NOW_MS + 99 * 100;
    assert!(log.expire(now_ms).is_empty(), "their ages are not known after a start");
    expire(&mut log, now_ms).into_iter().for_each(|segment| segment.unlink().unwrap());
    let oldest = fetch_all(&log)[0];
    assert!(oldest.max_timestamp < now_ms - 1000, "whole segments only");
    let second = log.segments().nth(1).unwrap().base_offset;
    assert!(find_time(&log, now_ms - 1000).offset < second);
    assert!(log.needs_expiry_roll(now_ms).is_none());
    let later_ms = now_ms + 1001;
    expire(&mut log, later_ms).into_iter().for_each(|segment| segment.unlink().unwrap());
    let roll = log.needs_expiry_roll(later_ms).unwrap();
    log.install_roll(roll.create().unwrap());
    log.expire(later_ms).into_iter().for_each(|segment| segment.unlink().unwrap());
    assert_eq!((log.log_start(), log.log_end(), log.size_bytes()), (Offset(100), Offset(100), 0));
}

/// A bit of its last entry is flipped, or an older file is put back. Records were deleted before
/// their time.
#[test]
fn a_time_index_that_claims_too_little_expires_nothing() {
    let config = LogConfig { retention_ms: Some(1_000_000), ..small_segments() };
    let (dir, mut log) = created(config.clone());
    for n in 0..100 {
        append(&mut log, batch(1, 1000, NOW_MS + n));
    }
    log.close().unwrap();
    let index = files(log.dir(), "timeindex").remove(0);
    let sound = fs::read(&index).unwrap();
    let flipped = [&sound[..sound.len() - 12], &[0; 4], &sound[sound.len() - 8..]].concat();
    let older = sound[..12].to_vec();
    for wrong in [flipped, older, Vec::new()] {
        fs::write(&index, wrong).unwrap();
        let path = dir.path().join("t-0");
        let (mut log, _) = Log::open(&path, config.clone(), LastStop::Clean).unwrap();
        let gone = expire(&mut log, NOW_MS + 1_000_017);
        assert!(gone.is_empty(), "its last record is of {}", NOW_MS + 17);
        assert_eq!(expire(&mut log, NOW_MS + 1_000_018).len(), 1);
    }
}

#[test]
fn log_append_time_is_stamped_and_the_records_follow() {
    let config = LogConfig { timestamp_type: TimestampType::LogAppendTime, ..LogConfig::default() };
    let (_dir, mut log) = created(config);
    let appended = append_at(&mut log, batch(2, 10, 5), NOW_MS);
    assert_eq!(appended.log_append_time_ms, NOW_MS);
    assert_eq!(fetch_all(&log)[0].max_timestamp, NOW_MS);
    assert_eq!(find_time(&log, NOW_MS).offset, Offset(0));
}

#[test]
fn a_batch_sent_twice_is_kept_once_even_after_a_kill() {
    let (dir, mut log) = created(LogConfig::default());
    for sequence in 0..3 {
        let append = log.begin_append(numbered(9, sequence), 0, NOW_MS).unwrap();
        append.file.write_all_at(&append.pieces.concat(), append.position.0).unwrap();
        log.finish_append(append);
    }
    kill(log);
    let path = dir.path().join("t-0");
    let (mut log, _) = Log::open(&path, LogConfig::default(), LastStop::Unclean).unwrap();
    let again = log.begin_append(numbered(9, 1), 0, NOW_MS).unwrap_err();
    assert_eq!(again, AppendError::Duplicate { base_offset: Offset(1), last_offset: Offset(1) });
    let gap = log.begin_append(numbered(9, 5), 0, NOW_MS).unwrap_err();
    assert!(matches!(gap, AppendError::OutOfOrderSequence { expected: 3, got: 5, .. }));
}

#[test]
fn each_leader_epoch_is_kept_with_its_first_offset() {
    let (dir, mut log) = created(LogConfig::default());
    for epoch in [0, 0, 4] {
        let incoming = produced(batch(2, 10, NOW_MS));
        let append = log.begin_append(incoming, epoch, NOW_MS).unwrap();
        append.file.write_all_at(&append.pieces.concat(), append.position.0).unwrap();
        log.finish_append(append);
    }
    for flush in log.unflushed_indexes() {
        flush.write().unwrap();
    }
    assert!(log.unflushed_indexes().is_empty());
    let path = dir.path().join("t-0/leader-epoch-checkpoint");
    assert_eq!(fs::read_to_string(path).unwrap(), "0\n2\n0 0\n4 4\n");
}

fn find_time(log: &Log, timestamp_ms: i64) -> TimestampFound {
    drive_time(log.find_timestamp(timestamp_ms)).unwrap().unwrap()
}

#[test]
fn a_log_closes_cleanly_once_and_never_with_an_append_under_way() {
    let (_dir, mut log) = created(LogConfig::default());
    let incoming = produced(batch(1, 10, NOW_MS));
    let pending = log.begin_append(incoming, 0, NOW_MS).unwrap();
    assert!(log.close().is_err());
    pending.file.write_all_at(&pending.pieces.concat(), pending.position.0).unwrap();
    log.finish_append(pending);
    log.close().unwrap();
    assert_eq!(fetch_all(&log).len(), 1);
    let incoming = produced(batch(1, 10, NOW_MS));
    assert_eq!(log.begin_append(incoming, 0, NOW_MS).unwrap_err(), AppendError::Offline);
}

#[test]
fn index_entries_are_where_kafka_puts_them() {
    let (dir, mut log) = created(LogConfig::default());
    for n in 0..300 {
        // Times go forward and back, sizes vary.
        append(
            &mut log,
            batch(1 + n % 3, (n as usize * 37) % 700, NOW_MS + i64::from(n * 7 % 50 + n)),
        );
    }
    log.close().unwrap();
    let path = dir.path().join("t-0");
    let (mut offsets, mut times) = (Vec::new(), Vec::new());
    let (mut since, mut newest, mut last_ms) = (0, (-1i64, 0u32), -1);
    for (_, position, header) in naive_scan(&path) {
        let last = header.last_offset() as u32;
        if header.max_timestamp > newest.0 {
            newest = (header.max_timestamp, last);
        }
        if since > 4096 {
            offsets.extend([last.to_be_bytes(), (position as u32).to_be_bytes()].concat());
            if newest.0 > last_ms {
                times.extend(newest.0.to_be_bytes().into_iter().chain(newest.1.to_be_bytes()));
                last_ms = newest.0;
            }
            since = 0;
        }
        since += header.len_bytes();
    }
    if newest.0 > last_ms {
        times.extend(newest.0.to_be_bytes().into_iter().chain(newest.1.to_be_bytes()));
    }
    assert!(offsets.len() > 20 * 8);
    assert_eq!(fs::read(&files(&path, "index")[0]).unwrap(), offsets);
    assert_eq!(fs::read(&files(&path, "timeindex")[0]).unwrap(), times);
}

/// One record of an idempotent producer.
fn numbered(producer_id: i64, sequence: i32) -> ProducedBatch {
    let mut builder = penstock_batch::BatchBuilder::new();
    builder.set_producer(producer_id, 0, sequence);
    builder.push(penstock_batch::NewRecord::default());
    produced(builder.finish().into())
}

#[test]
fn appends_of_one_write_lie_one_behind_the_other_and_become_visible_in_turn() {
    let (_dir, mut log) = created(LogConfig::default());
    append(&mut log, batch(2, 10, NOW_MS));
    let begin = |log: &mut Log, id, sequence| log.begin_append(numbered(id, sequence), 0, NOW_MS);
    let first = begin(&mut log, 7, 0).unwrap();
    assert!(log.may_join(&numbered(8, 0), NOW_MS));
    let second = begin(&mut log, 8, 0).unwrap();
    assert!(!log.may_join(&numbered(7, 1), NOW_MS), "whether it follows is not known yet");
    let bytes = [first.pieces.concat(), second.pieces.concat()].concat();
    assert_eq!(
        second.position.0 + second.pieces.concat().len() as u64,
        first.position.0 + bytes.len() as u64
    );
    first.file.write_all_at(&bytes, first.position.0).unwrap();
    assert_eq!(log.finish_append(first).base_offset, Offset(2));
    assert_eq!((log.log_end(), fetch_all(&log).len()), (Offset(3), 2));
    assert_eq!(log.finish_append(second).base_offset, Offset(3));
    assert_eq!(fetch_all(&log).len(), 3);
    // Refused batches leave no gap in the write.
    let third = begin(&mut log, 9, 0).unwrap();
    assert!(matches!(begin(&mut log, 8, 0), Err(AppendError::Duplicate { .. })));
    assert!(matches!(begin(&mut log, 7, 5), Err(AppendError::OutOfOrderSequence { .. })));
    let fourth = begin(&mut log, 7, 1).unwrap();
    assert_eq!(fourth.position.0, third.position.0 + third.pieces.concat().len() as u64);
}

#[test]
fn a_write_carries_no_more_than_its_segment_has_room_for() {
    let one = || produced(batch(1, 400, NOW_MS));
    let segment_bytes = 3 * one().len_bytes();
    let (_dir, mut log) = created(LogConfig { segment_bytes, ..LogConfig::default() });
    for joins in [true, true, false] {
        log.begin_append(one(), 0, NOW_MS).unwrap();
        assert_eq!(log.may_join(&one(), NOW_MS), joins);
    }
}

#[test]
fn appends_that_found_no_room_are_as_if_they_had_never_begun() {
    let (_dir, mut log) = created(LogConfig::default());
    append(&mut log, batch(2, 10, NOW_MS));
    let first = log.begin_append(numbered(7, 0), 0, NOW_MS).unwrap();
    log.begin_append(numbered(8, 0), 0, NOW_MS).unwrap();
    first.file.write_all_at(&first.pieces.concat()[..30], first.position.0).unwrap();
    first.file.set_len(first.position.0).unwrap();
    log.cancel_append(first);
    assert_eq!((log.log_end(), log.is_offline()), (Offset(2), false));
    let again = log.begin_append(numbered(8, 0), 0, NOW_MS).unwrap();
    again.file.write_all_at(&again.pieces.concat(), again.position.0).unwrap();
    assert_eq!(log.finish_append(again).base_offset, Offset(2));
    assert_eq!(fetch_all(&log).len(), 2);
    log.close().unwrap();
}

#[test]
fn a_roll_that_finds_no_descriptor_is_tried_again_by_the_next_append() {
    let (_dir, mut log) = created(small_segments());
    let incoming = || produced(batch(2, 400, NOW_MS));
    while log.needs_roll(&incoming(), NOW_MS).is_none() {
        append(&mut log, batch(2, 400, NOW_MS));
    }
    const EMFILE: i32 = 24;
    log.fail_roll(&io::Error::from_raw_os_error(EMFILE));
    assert!(!log.is_offline());
    let roll = log.needs_roll(&incoming(), NOW_MS).unwrap();
    log.install_roll(roll.create().unwrap());
    append(&mut log, batch(2, 400, NOW_MS));
}

#[test]
fn the_distance_from_the_end_is_the_bytes_of_the_batches_behind_a_place() {
    let (dir, mut log) = created(small_segments());
    for n in 0..60 {
        append(&mut log, batch(3, 400, NOW_MS + n));
    }
    let all = naive_scan(&dir.path().join("t-0"));
    let mut left: u64 = all.iter().map(|(_, _, header)| header.len_bytes() as u64).sum();
    for (n, (segment, position, header)) in all.iter().enumerate() {
        let (first, len_bytes) = (Offset(header.base_offset), header.len_bytes() as u64);
        assert_eq!(log.behind(first, Position(*position)).bytes, left);
        left -= len_bytes;
        let ends_segment = all.get(n + 1).is_none_or(|(next, ..)| next != segment);
        let next_offset = ends_segment.then_some(Offset(header.last_offset() + 1));
        let behind = log.behind(first, Position(position + len_bytes));
        assert_eq!(behind, Behind { bytes: left, next_offset }, "batch {n}");
    }
    log.raise_log_start(log.log_end());
    assert!(!expire(&mut log, NOW_MS).is_empty());
    assert!(log.segment_bytes(Offset(0)).is_none());
    assert_eq!(log.behind(Offset(0), Position(9)).bytes, log.size_bytes());
}
