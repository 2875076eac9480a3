//! Look-ups give the same answers as a naive reading of the files, whatever is in the indexes.
#![allow(missing_docs)]

mod harness;

use std::{fs, path::Path};

use harness::*;
use penstock_batch::{BatchHeader, assign, records};
use penstock_storage::*;
use proptest::prelude::*;

/// One batch of a generated log: records, bytes a value, offsets missing before it, time step.
type Shape = (i32, usize, i64, i64);

/// A change to the index files before the log is opened.
#[derive(Clone, Debug)]
enum Indexes {
    Intact,
    Missing,
    Emptied,
    Random(Vec<u8>),
    /// Possible entries, in order, but wrong: relative offset, position.
    Wrong(Vec<(u32, u32)>),
    /// An entry for every so many batches, with the last offset of a later batch (as Kafka 3 wrote
    /// for appends of several batches) or of an earlier one (as no server does).
    Shifted(usize, isize),
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    let gap = prop_oneof![4 => Just(0i64), 1 => 1i64..9];
    prop::collection::vec((1i32..6, 0usize..900, gap, -3i64..9), 1..60)
}

fn indexes() -> impl Strategy<Value = Indexes> {
    prop_oneof![
        Just(Indexes::Intact),
        Just(Indexes::Missing),
        Just(Indexes::Emptied),
        prop::collection::vec(any::<u8>(), 96..4800).prop_map(Indexes::Random),
        prop::collection::vec((1u32..120, 1u32..6000), 1..30).prop_map(|mut entries| {
            entries.sort();
            Indexes::Wrong(entries)
        }),
        (1usize..6, -2isize..4).prop_map(|(every, shift)| Indexes::Shifted(every, shift)),
    ]
}

/// A directory as a compacting Kafka might leave it: offsets have gaps, also between segments.
fn write_log(dir: &Path, shapes: &[Shape]) {
    fs::create_dir_all(dir).unwrap();
    let (mut next, mut time_ms) = (0, NOW_MS);
    for segment in shapes.chunks(12) {
        let base = next;
        let mut bytes = Vec::new();
        for (count, value_len, gap, step_ms) in segment {
            next += gap;
            time_ms += step_ms;
            let mut batch = batch(*count, *value_len, time_ms).to_vec();
            assign(&mut batch, next, 0);
            bytes.extend(batch);
            next += i64::from(*count);
        }
        fs::write(dir.join(format!("{base:020}.log")), bytes).unwrap();
    }
}

/// Opens the log once so that it has indexes, changes them, and opens it again.
fn open_with(dir: &Path, indexes: &Indexes) -> Log {
    let config =
        LogConfig { index_interval_bytes: 300, retention_ms: None, ..LogConfig::default() };
    Log::open(dir, config.clone(), LastStop::Unclean).unwrap().0.close().unwrap();
    let log = Log::open(dir, config, LastStop::Clean).unwrap().0;
    // Changed while the log is open, so that opening does not correct them.
    for index in files(dir, "index") {
        match indexes {
            Indexes::Intact => {}
            Indexes::Missing => fs::remove_file(&index).unwrap(),
            Indexes::Emptied => fs::write(&index, b"").unwrap(),
            Indexes::Random(bytes) => fs::write(&index, &bytes[..bytes.len() / 8 * 8]).unwrap(),
            Indexes::Wrong(entries) => write_index(&index, entries),
            Indexes::Shifted(every, shift) => {
                write_index(&index, &shifted_entries(dir, &index, *every, *shift));
            }
        }
    }
    log
}

fn write_index(index: &Path, entries: &[(u32, u32)]) {
    let bytes = entries
        .iter()
        .flat_map(|(offset, position)| [offset.to_be_bytes(), position.to_be_bytes()].concat());
    fs::write(index, bytes.collect::<Vec<_>>()).unwrap();
}

fn shifted_entries(dir: &Path, index: &Path, every: usize, shift: isize) -> Vec<(u32, u32)> {
    let segment: i64 = index.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let batches: Vec<_> = naive_scan(dir).into_iter().filter(|at| at.0 == segment).collect();
    let named = |n: usize| batches.get(n.checked_add_signed(shift)?);
    (1..batches.len())
        .step_by(every)
        .filter_map(|n| {
            let last_offset = named(n)?.2.last_offset() - segment;
            Some((last_offset as u32, batches[n].1 as u32))
        })
        .collect()
}

fn first_record(log: &[Vec<u8>], wanted: impl Fn(i64) -> bool) -> Option<(i64, i64)> {
    log.iter()
        .flat_map(|batch| records(batch).unwrap())
        .map(|record| record.unwrap())
        .find(|record| wanted(record.timestamp_ms))
        .map(|record| (record.offset, record.timestamp_ms))
}

/// The bytes of every batch.
fn batches(dir: &Path) -> Vec<Vec<u8>> {
    let whole: Vec<Vec<u8>> =
        files(dir, "log").iter().map(|file| fs::read(file).unwrap()).collect();
    whole
        .iter()
        .flat_map(|bytes| {
            penstock_batch::Batches::new(bytes).map(|batch| batch.unwrap().1.to_vec())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_offset_leads_to_the_batch_a_naive_scan_finds(
        shapes in shapes(),
        indexes in indexes(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        write_log(dir.path(), &shapes);
        let all = naive_scan(dir.path());
        for stride in [1, -1, 7] {
            // Opened again, so that it has learned nothing of the offsets of the last round.
            let log = open_with(dir.path(), &indexes);
            let end = log.log_end().0;
            for offset in (0..end).map(|n| (n * stride).rem_euclid(end)) {
                let (_, position, header) =
                    all.iter().find(|(_, _, header)| header.last_offset() >= offset).unwrap();
                let found = find(&log, offset);
                prop_assert_eq!(found.base_offset.0, header.base_offset, "offset {}", offset);
                prop_assert_eq!(found.position().0, *position);
                prop_assert_eq!(found.batch_len_bytes, header.len_bytes() as u64);
            }
        }
    }

    #[test]
    fn every_timestamp_leads_to_the_record_a_naive_scan_finds(
        shapes in shapes(),
        indexes in indexes(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        write_log(dir.path(), &shapes);
        let log = open_with(dir.path(), &indexes);
        let batches = batches(dir.path());
        let greatest = batches.iter().map(|b| BatchHeader::parse(b).unwrap().max_timestamp).max();
        let greatest = greatest.unwrap();
        for timestamp_ms in NOW_MS - 200..greatest + 2 {
            let found = drive_time(log.find_timestamp(timestamp_ms)).unwrap();
            let found = found.map(|found| (found.offset.0, found.timestamp_ms));
            prop_assert_eq!(found, first_record(&batches, |t| t >= timestamp_ms));
        }
        let found = drive_time(log.find_max_timestamp()).unwrap().unwrap();
        let found = Some((found.offset.0, found.timestamp_ms));
        prop_assert_eq!(found, first_record(&batches, |t| t == greatest));
    }

    #[test]
    fn a_growing_log_answers_from_memory_and_from_files_alike(
        shapes in shapes(),
        flush_every in 1usize..20,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t-0");
        let config = LogConfig { index_interval_bytes: 300, segment_bytes: 9000, ..LogConfig::default() };
        let mut log = Log::create(&path, TopicId::random(), config).unwrap();
        let mut time_ms = NOW_MS;
        for (n, (count, value_len, _, step_ms)) in shapes.iter().enumerate() {
            time_ms += step_ms;
            append(&mut log, batch(*count, *value_len, time_ms));
            if n % flush_every == 0 {
                log.unflushed_indexes().into_iter().for_each(|flush| flush.write().unwrap());
            }
        }
        let batches = batches(&path);
        for timestamp_ms in NOW_MS - 200..NOW_MS + 600 {
            let found = drive_time(log.find_timestamp(timestamp_ms)).unwrap();
            let found = found.map(|found| (found.offset.0, found.timestamp_ms));
            prop_assert_eq!(found, first_record(&batches, |t| t >= timestamp_ms));
        }
        prop_assert_eq!(fetch_all(&log).len(), shapes.len());
    }
}

#[test]
fn an_old_offset_in_a_large_segment_takes_few_small_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t-0");
    let mut log = Log::create(&path, TopicId::random(), LogConfig::default()).unwrap();
    for n in 0..12_000 {
        append(&mut log, batch(1, 900, NOW_MS + n));
    }
    log.unflushed_indexes().into_iter().for_each(|flush| flush.write().unwrap());
    for offset in (0..9_000).step_by(97) {
        let (found, reads) = find_noting(&log, offset);
        assert_eq!(found.base_offset, Offset(offset));
        assert!(reads.len() <= 6, "{reads:?} for offset {offset}");
    }
}

/// A log that has just been started, with batches of two records and a little over `len_bytes`.
/// `sealed`: all but the last lie in a sealed segment.
fn restarted_log(dir: &Path, batches: i64, len_bytes: usize, sealed: bool) -> Log {
    let mut log = Log::create(dir, TopicId::random(), LogConfig::default()).unwrap();
    for n in 0..batches {
        if sealed && n == batches - 1 {
            log.set_config(LogConfig { segment_bytes: 1, ..LogConfig::default() });
        }
        append(&mut log, batch(2, len_bytes / 2, NOW_MS + n));
    }
    assert_eq!(log.segments().count(), if sealed { 2 } else { 1 });
    log.close().unwrap();
    Log::open(dir, LogConfig::default(), LastStop::Clean).unwrap().0
}

/// Makes each index a link to itself, so that opening it is an error.
fn forbid_indexes(dir: &Path) {
    for index in files(dir, "index") {
        fs::remove_file(&index).unwrap();
        std::os::unix::fs::symlink(&index, &index).unwrap();
    }
}

#[test]
fn a_sequential_reader_reads_one_header_a_fetch_and_opens_no_file() {
    for sealed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let log = restarted_log(dir.path(), 520, 16 << 10, sealed);
        find(&log, 0);
        forbid_indexes(dir.path());
        for base in (2..1000).step_by(2) {
            let (found, reads) = find_noting(&log, base);
            assert_eq!(found.base_offset, Offset(base));
            assert!(reads.iter().all(|len| *len <= 128) && reads.len() == 1, "{base}: {reads:?}");
        }
    }
}

#[test]
fn a_sequential_reader_of_small_batches_reads_once_for_several() {
    let dir = tempfile::tempdir().unwrap();
    let log = restarted_log(dir.path(), 2000, 900, true);
    find(&log, 0);
    forbid_indexes(dir.path());
    let (mut fetches, mut all_reads) = (0, 0);
    for base in (2..3900).step_by(2) {
        let (found, reads) = find_noting(&log, base);
        assert_eq!(found.base_offset, Offset(base));
        assert!(reads.len() <= 1 && reads.iter().all(|len| *len < 8 << 10), "{base}: {reads:?}");
        fetches += 1;
        all_reads += reads.len();
    }
    assert!(2 * all_reads < fetches, "{all_reads} reads for {fetches} fetches");
}

#[test]
fn a_reader_who_reads_on_takes_each_page_of_the_index_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = restarted_log(dir.path(), 2600, 5 << 10, true);
    let mut pages = 0;
    for base in (0..5198).step_by(2) {
        let (found, reads) = find_noting(&log, base);
        assert_eq!(found.base_offset, Offset(base));
        pages += reads.iter().filter(|len| **len == 4096 + 8).count();
    }
    // 2599 entries are five pages and a bit; the first is found by halving, on the third page
    // looked at.
    assert!(pages <= 5 + 2, "{pages}");
}

#[test]
fn where_every_batch_has_an_entry_one_header_leads_to_any_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = restarted_log(dir.path(), 500, 4200, true);
    find(&log, 0);
    for n in 0..400 {
        let offset = n * 7919 % 996;
        let (found, reads) = find_noting(&log, offset);
        assert_eq!(found.base_offset, Offset(offset / 2 * 2));
        assert!(reads.iter().all(|len| *len <= 128) && reads.len() <= 1, "{offset}: {reads:?}");
    }
}

#[test]
fn a_batch_found_lately_is_found_again_without_a_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = restarted_log(dir.path(), 100, 5 << 10, true);
    for offset in [0, 60, 61, 142] {
        let (first, _) = find_noting(&log, offset);
        let (again, reads) = find_noting(&log, offset);
        assert_eq!(again.position(), first.position());
        assert!(reads.is_empty(), "{offset}: {reads:?}");
    }
}

#[test]
fn the_indexless_end_of_small_segments_is_remembered_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = restarted_log(dir.path(), 3, 100, true);
    find(&log, 0);
    forbid_indexes(dir.path());
    assert_eq!(find(&log, 2).base_offset, Offset(2));
}

#[test]
fn the_end_of_a_growing_index_is_read_again_once_it_has_grown() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = restarted_log(dir.path(), 20, 5 << 10, false);
    let end = log.log_end().0;
    find(&log, 10);
    for n in 0..3000 {
        append(&mut log, batch(2, 2500, NOW_MS + n));
        if n % 100 == 0 {
            log.unflushed_indexes().into_iter().for_each(|flush| flush.write().unwrap());
        }
    }
    for offset in (0..end + 1900).rev() {
        let (found, reads) = find_noting(&log, offset);
        assert_eq!(found.base_offset, Offset(offset / 2 * 2));
        assert!(reads.len() <= 6, "{offset}: {reads:?}");
    }
}

#[test]
fn an_offset_in_the_gap_between_segments_leads_into_the_next() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), &[(2, 10, 0, 0); 12]);
    let mut far = batch(1, 10, NOW_MS).to_vec();
    assign(&mut far, 1000, 0);
    fs::write(dir.path().join(format!("{:020}.log", 500)), far).unwrap();
    let log = open_with(dir.path(), &Indexes::Intact);
    for offset in [24, 499, 500, 999, 1000] {
        assert_eq!(find(&log, offset).base_offset, Offset(1000), "offset {offset}");
    }
}

#[test]
fn an_entry_that_leads_past_the_offset_sought_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), &[(1, 100, 0, 0); 12]);
    let mut next = batch(1, 10, NOW_MS).to_vec();
    assign(&mut next, 12, 0);
    fs::write(dir.path().join(format!("{:020}.log", 12)), next).unwrap();
    open_with(dir.path(), &Indexes::Intact);
    // The entry claims that offset 1 is where offset 6 is.
    let sixth = naive_scan(dir.path())[6].1 as u32;
    let entry = [1u32.to_be_bytes(), sixth.to_be_bytes()].concat();
    fs::write(&files(dir.path(), "index")[0], entry).unwrap();
    let log = Log::open(dir.path(), LogConfig::default(), LastStop::Clean).unwrap().0;
    for offset in 0..13 {
        assert_eq!(find(&log, offset).base_offset, Offset(offset));
    }
}

#[test]
fn a_log_damaged_under_a_running_server_is_an_error_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), &[(2, 500, 0, 0); 30]);
    let log = open_with(dir.path(), &Indexes::Intact);
    let first = &files(dir.path(), "log")[0];
    let mut bytes = fs::read(first).unwrap();
    let second = naive_scan(dir.path())[1].1;
    bytes[second as usize + 16] = 9;
    fs::write(first, bytes).unwrap();
    let Find::Lookup(lookup) = log.find(Offset(5)).unwrap() else { panic!() };
    match drive(lookup) {
        Ok((found, _)) => assert_eq!(found.base_offset, Offset(4), "an index led past the damage"),
        Err(error) => assert!(matches!(error, FindError::Corrupt { segment: Offset(0), .. })),
    }
    let Find::Lookup(lookup) = log.find(Offset(2)).unwrap() else { panic!() };
    let error = drive(lookup).unwrap_err();
    assert!(matches!(error, FindError::Corrupt { position: Position(at), .. } if at == second));
}
