//! Contents of a Kafka's partition that are not served as Kafka serves them: messages of before
//! 2017, and transactions. Compacted logs, which are served like any other.
#![allow(missing_docs)]

mod harness;

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::*;
use penstock_batch::{BatchBuilder, NewRecord, assign};
use penstock_storage::*;

const TRANSACTIONAL: u16 = 1 << 4;
const CONTROL: u16 = 1 << 5;

/// A message of format 0 or 1 with a value of 8 bytes and no key.
fn message(magic: u8, offset: i64) -> Vec<u8> {
    let timestamp: &[u8] = if magic == 1 { &[7; 8] } else { &[] };
    let body = [&[9; 4], &[magic, 0][..], timestamp, &[0xff; 4], &[0, 0, 0, 8], &[7; 8]].concat();
    [&offset.to_be_bytes()[..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

fn messages(magic: u8, offsets: std::ops::Range<i64>) -> Vec<u8> {
    offsets.flat_map(|offset| message(magic, offset)).collect()
}

/// A batch of one record at that offset.
fn batch_at(offset: i64, producer_id: i64, attributes: u16) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.set_producer(producer_id, 0, 0);
    builder.push(NewRecord { timestamp_ms: NOW_MS, value: Some(b"value"), ..NewRecord::default() });
    let mut batch = builder.finish();
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    let crc = crc_fast::crc32_iscsi(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    assign(&mut batch, offset, 0);
    batch
}

fn batches(offsets: impl IntoIterator<Item = i64>) -> Vec<u8> {
    offsets.into_iter().flat_map(|offset| batch_at(offset, -1, 0)).collect()
}

/// A partition with these segments, by base offset.
fn partition(segments: &[(i64, Vec<u8>)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t-0");
    fs::create_dir(&path).unwrap();
    for (base, bytes) in segments {
        fs::write(file(&path, *base, "log"), bytes).unwrap();
    }
    (dir, path)
}

fn file(path: &Path, base: i64, kind: &str) -> PathBuf {
    path.join(format!("{base:020}.{kind}"))
}

fn open(path: &Path, stop: LastStop) -> (Log, Recovery) {
    Log::open(path, small_segments(), stop).unwrap()
}

fn read_offsets(log: &Log) -> Vec<i64> {
    fetch_all(log).iter().map(|header| header.base_offset).collect()
}

/// A topic that was written over the years: formats 0 and 1, both in a segment, then 1 and 2 in
/// one, then 2 alone.
fn over_the_years() -> Vec<(i64, Vec<u8>)> {
    vec![
        (0, messages(0, 0..10)),
        (10, [messages(0, 10..15), messages(1, 15..20)].concat()),
        (20, [messages(1, 20..25), batches(25..30)].concat()),
        (30, batches(30..40)),
        (40, batches(40..50)),
    ]
}

#[test]
fn behind_segments_of_old_formats_those_of_format_2_are_served() {
    for stop in [LastStop::Clean, LastStop::Unclean] {
        let (_dir, path) = partition(&over_the_years());
        let (mut log, recovery) = open(&path, stop);
        assert_eq!(read_offsets(&log), Vec::from_iter(30..50));
        let (first, served_from) = (Offset(0), Some(Offset(30)));
        let old = OldSegments { magic: 0, segments: 3, first, served_from };
        assert_eq!(recovery.old_segments, Some(old));
        assert_eq!((recovery.damaged_ranges, recovery.truncated_bytes), (0, 0));
        append(&mut log, batch(1, 10, NOW_MS));
        assert_eq!((log.log_start(), log.log_end()), (Offset(30), Offset(51)));
    }
}

#[test]
fn a_fetch_of_old_messages_is_an_error_that_says_where_the_log_is_served_from() {
    let (_dir, path) = partition(&over_the_years());
    let (mut log, _) = open(&path, LastStop::Unclean);
    for asked in [0, 9, 29] {
        let error = log.find(Offset(asked)).unwrap_err();
        let FindError::OldFormat { magic: 0, start: Offset(30), .. } = error else {
            panic!("{error}")
        };
    }
    assert!(matches!(log.find(Offset(-1)), Err(FindError::OutOfRange { .. })));
    // Deleted records are out of range, whatever their format was.
    log.raise_log_start(Offset(12));
    assert!(matches!(log.find(Offset(11)), Err(FindError::OutOfRange { .. })));
    assert!(matches!(log.find(Offset(12)), Err(FindError::OldFormat { .. })));
    log.raise_log_start(Offset(35));
    assert!(matches!(log.find(Offset(29)), Err(FindError::OutOfRange { .. })));
}

#[test]
fn times_are_looked_up_in_what_is_served_alone() {
    let (_dir, path) = partition(&over_the_years());
    let (log, _) = open(&path, LastStop::Unclean);
    let found = drive_time(log.find_timestamp(0)).unwrap().unwrap();
    assert_eq!(found.offset, Offset(30));
}

#[test]
fn old_segments_are_kept_as_they_are_whatever_retention_and_scrubbing_do() {
    let (_dir, path) = partition(&over_the_years());
    let old = || {
        over_the_years()[..3].iter().all(|(base, bytes)| {
            fs::read(file(&path, *base, "log")).is_ok_and(|there| there == *bytes)
                && !file(&path, *base, "index").exists()
        })
    };
    let expiring = LogConfig { retention_bytes: Some(0), ..small_segments() };
    let (mut log, _) = Log::open(&path, expiring.clone(), LastStop::Unclean).unwrap();
    assert_eq!(log.size_bytes(), batches(30..50).len() as u64, "they count for nothing");
    let expired: Vec<_> = log.expire(NOW_MS * 2).into_iter().map(|s| s.base_offset).collect();
    assert_eq!(expired, [Offset(30)]);
    assert!(matches!(log.find(Offset(29)), Err(FindError::OldFormat { start: Offset(40), .. })));
    log.close().unwrap();
    drop(log);
    let (log, _) = Log::open(&path, expiring, LastStop::Clean).unwrap();
    assert!(old());
    assert_eq!(log.damage().count(), 0);
    let segments = OldSegments::of(&path).unwrap().unwrap();
    let read = |base| SegmentReader::open(&file(&path, base, "log")).unwrap().old_magic().unwrap();
    assert_eq!((read(0), read(20), read(40)), (Some(0), Some(1), None));
    assert!(segments.holds(Offset(20)) && !segments.holds(Offset(30)));
}

#[test]
fn a_log_whose_last_segment_begins_with_an_old_message_is_refused_with_what_can_be_done() {
    let mut segments = over_the_years();
    segments.truncate(3);
    let (_dir, path) = partition(&segments);
    for stop in [LastStop::Clean, LastStop::Unclean] {
        let error = Log::open(&path, small_segments(), stop).unwrap_err();
        assert!(matches!(error, LogError::OldFormat { magic: 0, .. }));
        assert!(error.to_string().contains("copy the topic"), "{error}");
    }
    assert!(
        segments.iter().all(|(base, bytes)| fs::read(file(&path, *base, "log")).unwrap() == *bytes)
    );
}

#[test]
fn behind_old_segments_an_empty_one_is_enough_to_go_on() {
    let (_dir, path) = partition(&[(0, messages(1, 0..10)), (10, Vec::new())]);
    let (mut log, _) = open(&path, LastStop::Unclean);
    assert_eq!((log.log_start(), log.log_end()), (Offset(10), Offset(10)));
    append(&mut log, batch(1, 10, NOW_MS));
    assert_eq!(read_offsets(&log), [10]);
}

/// Kafka let the format be lowered again. Cutting such messages as torn would lose them.
#[test]
fn old_messages_behind_batches_are_not_cut_off() {
    let mixed = [batches(0..10), messages(1, 10..20)].concat();
    for segments in [vec![(0, mixed.clone())], vec![(0, mixed.clone()), (20, batches(20..30))]] {
        let (_dir, path) = partition(&segments);
        let error = Log::open(&path, small_segments(), LastStop::Unclean).unwrap_err();
        assert!(matches!(error, LogError::OldFormat { magic: 1, .. }), "{error}");
        assert_eq!(fs::read(file(&path, 0, "log")).unwrap(), mixed);
    }
}

#[test]
fn a_swap_of_old_messages_takes_the_place_of_the_segments_that_have_its_offsets() {
    let mut segments = over_the_years();
    segments.remove(0);
    let (_dir, path) = partition(&segments);
    fs::write(file(&path, 0, "log.swap"), messages(0, 3..18)).unwrap();
    let (log, recovery) = open(&path, LastStop::Unclean);
    assert_eq!(log.log_start(), Offset(30));
    assert_eq!(recovery.old_segments.unwrap().segments, 2, "0 and 20");
    assert_eq!(fs::read(file(&path, 0, "log")).unwrap(), messages(0, 3..18));
    assert!(!file(&path, 10, "log").exists());
}

#[test]
fn a_log_without_transactions_shows_no_sign_of_them() {
    let (_dir, path) = partition(&[(0, batches(0..10)), (10, batches(10..20))]);
    fs::write(file(&path, 0, "txnindex"), b"").unwrap();
    let (_, recovery) = open(&path, LastStop::Unclean);
    assert!(!recovery.transactions.any());
}

#[test]
fn aborted_transactions_are_seen_in_the_index_whatever_the_stop() {
    for stop in [LastStop::Clean, LastStop::Unclean] {
        let (_dir, path) = partition(&[(0, batches(0..10)), (10, batches(10..20))]);
        fs::write(file(&path, 0, "txnindex"), [0; 2 * 34]).unwrap();
        fs::write(file(&path, 10, "txnindex"), [0; 34]).unwrap();
        let (mut log, recovery) = open(&path, stop);
        assert_eq!(recovery.transactions.aborted, 3);
        assert_eq!(read_offsets(&log).len(), 20);
        // The file is Kafka's, and stays until its segment is removed.
        log.close().unwrap();
        assert!(file(&path, 0, "txnindex").exists());
    }
}

#[test]
fn ended_and_open_transactions_are_seen_in_batches_and_later_in_the_snapshot() {
    let ended = [batch_at(0, 7, TRANSACTIONAL), batch_at(1, 7, TRANSACTIONAL | CONTROL)].concat();
    let (_dir, path) = partition(&[(0, [ended.clone(), batches(2..4)].concat())]);
    let (_, recovery) = open(&path, LastStop::Unclean);
    assert_eq!(recovery.transactions, Transactions { aborted: 0, open: 0, has_ended: true });

    let (_dir, path) = partition(&[(0, [ended, batch_at(2, 7, TRANSACTIONAL)].concat())]);
    let (mut log, recovery) = open(&path, LastStop::Unclean);
    assert_eq!(recovery.transactions, Transactions { aborted: 0, open: 1, has_ended: true });
    for n in 0..200 {
        append(&mut log, batch(2, 400, NOW_MS + n));
    }
    log.close().unwrap();
    drop(log);
    let (_, recovery) = open(&path, LastStop::Clean);
    assert_eq!(recovery.transactions.open, 1, "it is far behind what a clean start reads");
}

/// Compaction leaves gaps in the offsets, within segments and between them, and empty segments.
#[test]
fn a_compacted_log_is_served_after_a_kill_with_nothing_cut_and_nothing_damaged() {
    let odd = |offsets: std::ops::Range<i64>| batches(offsets.filter(|offset| offset % 3 == 1));
    let segments =
        [(0, odd(5..100)), (100, Vec::new()), (200, odd(217..290)), (300, batches(300..310))];
    let (_dir, path) = partition(&segments);
    let before = read_all(&path);
    let (mut log, recovery) = open(&path, LastStop::Unclean);
    assert_eq!((recovery.truncated_bytes, recovery.damaged_ranges), (0, 0));
    assert_eq!(read_all(&path), before, "no batch was added");
    let expected =
        (5..100).filter(|n| n % 3 == 1).chain((217..290).filter(|n| n % 3 == 1)).chain(300..310);
    assert_eq!(read_offsets(&log), Vec::from_iter(expected));
    log.close().unwrap();
    drop(log);
    let (log, recovery) = open(&path, LastStop::Clean);
    assert_eq!((recovery.missing_offsets, recovery.segments_scanned), (0, 0));
    assert_eq!(log.log_end(), Offset(310));
}

fn read_all(path: &Path) -> Vec<Vec<u8>> {
    files(path, "log").iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn a_directory_that_a_kafka_has_had_since_has_no_recovery_points_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let name = PartitionName { topic: "t".to_owned(), partition: 0 };
    let topic_id = TopicId::random();
    data.create_partition(&name, topic_id, LogConfig::default()).unwrap();
    let point = RecoveryPoint { topic_id: Some(topic_id), offset: Offset(5) };
    data.write_recovery_points(&[(name, point)].into()).unwrap();
    assert_eq!(data.take_last_stop().unwrap(), LastStop::Unclean);
    assert_eq!(data.recovery_points().unwrap().len(), 1);
    // A Kafka makes the file when it starts, empty.
    fs::write(dir.path().join("recovery-point-offset-checkpoint"), b"").unwrap();
    assert_eq!(data.take_last_stop().unwrap(), LastStop::Unclean);
    assert!(data.recovery_points().unwrap().is_empty());
    assert!(!dir.path().join("recovery-point-offset-checkpoint").exists());
}
