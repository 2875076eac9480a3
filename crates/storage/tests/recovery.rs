//! Starts on a directory whose server was killed, or whose files were tampered with.
#![allow(missing_docs)]

mod harness;

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use harness::*;
use penstock_storage::*;
use proptest::prelude::*;

/// A log of `batches` batches; its server was killed.
fn killed(batches: i64, config: &LogConfig) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t-0");
    let mut log = Log::create(&path, TopicId::random(), config.clone()).unwrap();
    for n in 0..batches {
        append(&mut log, batch(2, 400, NOW_MS + n));
    }
    kill(log);
    (dir, path)
}

fn open(path: &Path, stop: LastStop) -> (Log, Recovery) {
    Log::open(path, small_segments(), stop).unwrap()
}

/// The files of a directory and their contents.
fn contents(path: &Path, suffix: &str) -> Vec<(PathBuf, Vec<u8>)> {
    files(path, suffix).into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

#[test]
fn a_killed_log_of_which_no_point_is_known_is_read_from_the_start() {
    let (_dir, path) = killed(100, &small_segments());
    let all = naive_scan(&path).into_iter().map(|(_, _, header)| header).collect::<Vec<_>>();
    let (log, recovery) = open(&path, LastStop::Unclean);
    assert_eq!(fetch_all(&log), all);
    let segments = log.segments().count() as u64;
    let expected = Recovery {
        segments_scanned: segments,
        bytes_scanned: log.size_bytes(),
        indexes_rebuilt: segments,
        ..Recovery::default()
    };
    assert_eq!(recovery, expected);
}

#[test]
fn a_tail_cut_at_any_byte_loses_only_the_batch_that_was_cut() {
    let (_dir, path) = killed(5, &small_segments());
    let segment = files(&path, "log").pop().unwrap();
    let sound = fs::read(&segment).unwrap();
    let ends: Vec<u64> = naive_scan(&path)
        .iter()
        .map(|(_, position, header)| position + header.len_bytes() as u64)
        .collect();
    for len in ends[2]..=ends[4] {
        fs::write(&segment, &sound[..len as usize]).unwrap();
        let (mut log, recovery) = open(&path, LastStop::Unclean);
        let whole = ends.iter().filter(|end| **end <= len).count();
        assert_eq!(recovery.truncated_bytes, len - ends[whole - 1], "cut at {len}");
        assert_eq!(log.log_end(), Offset(whole as i64 * 2));
        append(&mut log, batch(1, 10, NOW_MS));
        assert_eq!(fetch_all(&log).len(), whole + 1);
    }
}

#[test]
fn garbage_and_zeros_behind_the_last_batch_are_cut() {
    let (_dir, path) = killed(5, &small_segments());
    let segment = files(&path, "log").pop().unwrap();
    let sound = fs::read(&segment).unwrap();
    let mut flipped = sound[..sound.len() / 5].to_vec();
    flipped[100] ^= 1;
    for tail in
        [vec![0; 1], vec![0; 5000], vec![0xff; 700], b"not a batch at all".to_vec(), flipped]
    {
        fs::write(&segment, [sound.clone(), tail.clone()].concat()).unwrap();
        let (log, recovery) = open(&path, LastStop::Unclean);
        assert_eq!(recovery.truncated_bytes, tail.len() as u64);
        assert_eq!(fetch_all(&log).len(), 5);
        assert_eq!(fs::read(&segment).unwrap(), sound);
    }
}

#[test]
fn a_clean_stop_is_not_believed_when_the_tail_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t-0");
    let mut log = Log::create(&path, TopicId::random(), small_segments()).unwrap();
    for n in 0..12 {
        append(&mut log, batch(2, 400, NOW_MS + n));
    }
    log.close().unwrap();
    let segment = files(&path, "log").pop().unwrap();
    OpenOptions::new().append(true).open(&segment).unwrap().write_all(b"torn").unwrap();
    let (log, recovery) = open(&path, LastStop::Clean);
    assert_eq!((log.log_end(), recovery.truncated_bytes), (Offset(24), 4));
}

#[test]
fn indexes_are_rebuilt_byte_for_byte_after_any_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t-0");
    let mut log = Log::create(&path, TopicId::random(), small_segments()).unwrap();
    for n in 0..60 {
        append(&mut log, batch(2, 400, NOW_MS + n));
    }
    let segments = log.segments().count() as u64;
    log.close().unwrap();
    let sound = [contents(&path, "index"), contents(&path, "timeindex")].concat();
    assert!(sound.iter().all(|(_, bytes)| !bytes.is_empty()));
    let damages: [fn(&Path); 2] = [
        |file| fs::remove_file(file).unwrap(),
        |file| OpenOptions::new().append(true).open(file).unwrap().write_all(b"x").unwrap(),
    ];
    for damage in damages {
        for stop in [LastStop::Clean, LastStop::Unclean] {
            sound.iter().for_each(|(file, _)| damage(file));
            let (mut log, recovery) = open(&path, stop);
            assert_eq!(recovery.indexes_rebuilt, segments);
            log.close().unwrap();
            assert_eq!([contents(&path, "index"), contents(&path, "timeindex")].concat(), sound);
        }
    }
}

#[test]
fn indexes_that_grew_across_restarts_are_those_of_one_run() {
    let (_dir_a, once) = killed(40, &LogConfig::default());
    Log::open(&once, LogConfig::default(), LastStop::Unclean).unwrap().0.close().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let often = dir.path().join("t-0");
    Log::create(&often, TopicId::random(), LogConfig::default()).unwrap().close().unwrap();
    for n in 0..40 {
        let (mut log, _) = Log::open(&often, LogConfig::default(), LastStop::Clean).unwrap();
        append(&mut log, batch(2, 400, NOW_MS + n));
        log.close().unwrap();
    }
    assert_eq!(contents(&once, "index")[0].1, contents(&often, "index")[0].1);
    assert_eq!(contents(&once, "log")[0].1, contents(&often, "log")[0].1);
}

#[test]
fn zeros_that_kafka_reserved_in_an_index_are_cleared_away() {
    let (_dir, path) = killed(20, &LogConfig::default());
    let index = files(&path, "index").pop().unwrap();
    OpenOptions::new().write(true).open(&index).unwrap().set_len(10 << 20).unwrap();
    for stop in [LastStop::Clean, LastStop::Unclean] {
        let (log, _) = Log::open(&path, LogConfig::default(), stop).unwrap();
        assert_eq!(fetch_all(&log).len(), 20);
        assert!(fs::metadata(&index).unwrap().len() < 100);
    }
}

#[test]
fn a_kill_between_the_files_of_a_roll_costs_nothing() {
    let (_dir, path) = killed(5, &small_segments());
    // The next segment's indexes exist, its log does not yet.
    for suffix in ["index", "timeindex"] {
        fs::write(path.join(format!("{:020}.{suffix}", 10)), b"").unwrap();
    }
    let (log, _) = open(&path, LastStop::Unclean);
    assert_eq!(log.segments().count(), 1);
    assert_eq!(files(&path, "index").len(), 1);
    // Its log exists, and is empty.
    kill(log);
    fs::write(path.join(format!("{:020}.log", 10)), b"").unwrap();
    let (mut log, _) = open(&path, LastStop::Unclean);
    assert_eq!((log.segments().count(), log.log_end()), (2, Offset(10)));
    append(&mut log, batch(1, 10, NOW_MS));
    assert_eq!(fetch_all(&log).len(), 6);
}

#[test]
fn a_log_in_the_format_of_before_2017_is_refused_and_left_alone() {
    let (_dir, path) = killed(1, &small_segments());
    let segment = files(&path, "log").pop().unwrap();
    // Offset, length, checksum, magic, attributes, timestamp, no key, a value of 8 bytes.
    let mut old = [&[0; 8][..], &[0, 0, 0, 30], &[9; 4], &[1, 0], &[7; 8], &[0xff; 4]].concat();
    old.extend([&[0, 0, 0, 8][..], &[7; 8]].concat());
    fs::write(&segment, &old).unwrap();
    let error = Log::open(&path, small_segments(), LastStop::Unclean).unwrap_err();
    assert!(matches!(error, LogError::OldFormat { magic: 1, .. }), "{error}");
    assert_eq!(fs::read(&segment).unwrap(), old);
}

#[test]
fn leader_epochs_come_back_from_the_batches() {
    let (_dir, path) = killed(3, &small_segments());
    fs::write(path.join("leader-epoch-checkpoint"), "nonsense").unwrap();
    let (mut log, _) = open(&path, LastStop::Unclean);
    assert_eq!(log.leader_epochs(), [EpochStart { leader_epoch: 0, start: Offset(0) }]);
    log.close().unwrap();
    let text = fs::read_to_string(path.join("leader-epoch-checkpoint")).unwrap();
    assert_eq!(text, "0\n1\n0 0\n");
}

/// Opens the log and looks everything up. The answers do not matter, only that none panics or
/// hangs.
fn open_and_look_around(path: &Path, stop: LastStop) {
    let Ok((mut log, _)) = Log::open(path, small_segments(), stop) else { return };
    let (start, end) = (log.log_start().0, log.log_end().0);
    for offset in (start..end).take(100).chain([start, end]) {
        if let Ok(Find::Lookup(lookup)) = log.find(Offset(offset)) {
            let _ = drive(lookup);
        }
    }
    let _ = drive_time(log.find_timestamp(NOW_MS + 3));
    let _ = drive_time(log.find_max_timestamp());
    let _ = log.close();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_content_of_the_files_makes_a_start_panic(
        log in prop::collection::vec(any::<u8>(), 0..400),
        index in prop::collection::vec(any::<u8>(), 0..64),
        text in "[0-9 \n:a-z_-]{0,60}",
        swap in prop::option::of((prop::collection::vec(any::<u8>(), 0..400), any::<bool>())),
        base in prop_oneof![Just(0i64), Just(i64::MAX), any::<i64>().prop_map(|n| n & i64::MAX)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(format!("{base:020}.log")), log).unwrap();
        fs::write(dir.path().join(format!("{base:020}.index")), &index).unwrap();
        fs::write(dir.path().join(format!("{base:020}.timeindex")), &index).unwrap();
        fs::write(dir.path().join(format!("{base:020}.txnindex")), &index).unwrap();
        fs::write(dir.path().join("leader-epoch-checkpoint"), text).unwrap();
        if let Some((bytes, is_cleaned)) = swap {
            fs::write(dir.path().join(format!("{:020}.log.swap", base / 2)), bytes).unwrap();
            let cleaned = dir.path().join(format!("{:020}.index.cleaned", base / 3));
            let _ = is_cleaned.then(|| fs::write(cleaned, &index).unwrap());
        }
        open_and_look_around(dir.path(), LastStop::Clean);
        open_and_look_around(dir.path(), LastStop::Unclean);
    }

    #[test]
    fn no_flipped_byte_makes_a_start_or_a_look_up_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..8),
        clean in any::<bool>(),
    ) {
        let (_dir, path) = killed(40, &small_segments());
        let all: Vec<_> = ["log", "index", "timeindex"].iter().flat_map(|s| files(&path, s)).collect();
        for (which, place, value) in flips {
            let file = which.get(&all);
            let mut bytes = fs::read(file).unwrap();
            if !bytes.is_empty() {
                // Half of the flips go into the first header, where they do the most harm.
                let place = if value & 1 == 0 { place.index(bytes.len()) } else { place.index(61) };
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = value;
                }
            }
            fs::write(file, bytes).unwrap();
        }
        open_and_look_around(&path, if clean { LastStop::Clean } else { LastStop::Unclean });
    }
}
