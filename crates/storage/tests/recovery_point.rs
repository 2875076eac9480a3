//! The bytes that a start reads when a recovery point is known, and starts with an impossible
//! point.
#![allow(missing_docs)]

mod harness;

use std::{fs, path::Path};

use harness::*;
use penstock_storage::*;

/// Moves the point to the log end, as a checkpoint does.
fn flush(log: &mut Log) {
    let flush = log.begin_flush().unwrap();
    flush.run().unwrap();
    log.finish_flush(flush);
}

fn fill(log: &mut Log, batches: i64) {
    for n in 0..batches {
        append(log, batch(2, 400, NOW_MS + n));
    }
}

fn created(path: &Path) -> Log {
    Log::create(path, TopicId::random(), small_segments()).unwrap()
}

fn reopen(path: &Path, point: RecoveryPoint) -> (Log, Recovery) {
    Log::open_from(path, small_segments(), LastStop::Unclean, point).unwrap()
}

#[test]
fn only_what_was_appended_since_the_last_flush_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = created(dir.path());
    fill(&mut log, 100);
    flush(&mut log);
    assert!(log.begin_flush().is_none(), "nothing is new");
    let (point, before) = (log.recovery_point(), log.size_bytes());
    assert_eq!(point.offset, log.log_end());
    fill(&mut log, 3);
    let written = log.size_bytes() - before;
    let end = log.log_end();
    kill(log);
    let (log, recovery) = reopen(dir.path(), point);
    // From the last index entry before the point: the index interval, a batch, and the bytes read
    // ahead.
    let (least, most) = (written, written + 3 * 4096);
    assert!((least..=most).contains(&recovery.bytes_scanned), "{recovery:?} of {written}");
    assert_eq!((log.log_end(), recovery.segments_scanned), (end, 1));
    assert_eq!(fetch_all(&log).len(), 103);
    assert_eq!(log.recovery_point(), point, "nothing has been synced since");
}

#[test]
fn every_segment_behind_the_point_is_read_and_none_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = created(dir.path());
    fill(&mut log, 50);
    flush(&mut log);
    let (point, rolled) = (log.recovery_point(), log.segments().count());
    fill(&mut log, 50);
    let segments = log.segments().count();
    kill(log);
    let (log, recovery) = reopen(dir.path(), point);
    assert_eq!(recovery.segments_scanned, (segments - rolled + 1) as u64);
    assert_eq!(fetch_all(&log).len(), 100);
}

#[test]
fn indexes_completed_from_the_point_on_are_those_of_one_run() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for (dir, flushed) in dirs.iter().zip([false, true]) {
        let mut log = created(dir.path());
        fill(&mut log, 30);
        let mut point = RecoveryPoint::NONE;
        if flushed {
            flush(&mut log);
            point = log.recovery_point();
        }
        fill(&mut log, 30);
        // Torn and stale bytes behind the flushed entries.
        for suffix in ["index", "timeindex"] {
            let last = files(dir.path(), suffix).pop().unwrap();
            fs::write(&last, [fs::read(&last).unwrap(), vec![0xee; 17]].concat()).unwrap();
        }
        kill(log);
        reopen(dir.path(), point).0.close().unwrap();
    }
    for suffix in ["index", "timeindex"] {
        let bytes = |n: usize| {
            files(dirs[n].path(), suffix)
                .into_iter()
                .map(|f| fs::read(f).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(bytes(0), bytes(1), "{suffix}");
    }
}

#[test]
fn a_point_that_cannot_be_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = created(dir.path());
    fill(&mut log, 100);
    let (segments, end) = (log.segments().count() as u64, log.log_end());
    let topic_id = log.topic_id();
    kill(log);
    let beyond = RecoveryPoint { topic_id, offset: Offset(end.0 + (1 << 31)) };
    let of_another = RecoveryPoint { topic_id: Some(TopicId::random()), offset: end };
    for point in [beyond, of_another, RecoveryPoint::NONE] {
        let (log, recovery) = reopen(dir.path(), point);
        assert_eq!(log.log_end(), end);
        assert!(recovery.segments_scanned >= segments, "{point:?}: {recovery:?}");
        assert_eq!(log.recovery_point().offset, Offset(0));
        kill(log);
    }
}

#[test]
fn indexes_below_the_point_that_are_gone_or_torn_are_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = created(dir.path());
    fill(&mut log, 60);
    flush(&mut log);
    let point = log.recovery_point();
    log.close().unwrap();
    let contents = |suffix: &str| {
        files(dir.path(), suffix).into_iter().map(|f| fs::read(f).unwrap()).collect::<Vec<_>>()
    };
    let sound = [contents("index"), contents("timeindex")];
    for suffix in ["index", "timeindex"] {
        for (n, file) in files(dir.path(), suffix).iter().enumerate() {
            if n % 2 == 0 {
                fs::remove_file(file).unwrap();
            } else {
                fs::write(file, b"torn").unwrap();
            }
        }
        let (mut log, recovery) = reopen(dir.path(), point);
        assert_eq!(recovery.truncated_bytes, 0);
        assert_eq!(fetch_all(&log).len(), 60);
        log.close().unwrap();
        assert_eq!([contents("index"), contents("timeindex")], sound, "{suffix}");
    }
}

#[test]
fn after_a_clean_stop_the_point_is_the_log_end_and_next_to_nothing_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = created(dir.path());
    fill(&mut log, 100);
    log.close().unwrap();
    let point = log.recovery_point();
    assert_eq!(point.offset, log.log_end());
    drop(log);
    let (log, recovery) =
        Log::open_from(dir.path(), small_segments(), LastStop::Clean, point).unwrap();
    assert!(recovery.bytes_scanned <= 2 * 4096, "{recovery:?}");
    assert_eq!(recovery.segments_scanned, 0);
    assert_eq!(log.recovery_point(), point);
}

/// A power cut after a roll whose names were synced: the old segment is torn, the new one empty.
/// Its name shows which offsets were used. It was removed, and the offsets were used again.
#[test]
fn a_segment_that_was_begun_behind_a_torn_one_keeps_its_offsets_from_being_used_again() {
    for lost_bytes in [10, batch(2, 400, NOW_MS).len()] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = created(dir.path());
        fill(&mut log, 5);
        let end = log.log_end();
        kill(log);
        let old = files(dir.path(), "log").pop().unwrap();
        let bytes = fs::read(&old).unwrap();
        fs::write(&old, &bytes[..bytes.len() - lost_bytes]).unwrap();
        for suffix in ["log", "index", "timeindex"] {
            fs::write(dir.path().join(format!("{:020}.{suffix}", end.0)), b"").unwrap();
        }
        let (mut log, recovery) = reopen(dir.path(), RecoveryPoint::NONE);
        assert_eq!((log.log_end(), log.segments().count()), (end, 2));
        assert_eq!((recovery.damaged_ranges, recovery.missing_offsets), (0, 2));
        let empty = fetch_all(&log).pop().unwrap();
        assert_eq!(
            (empty.base_offset, empty.record_count),
            (end.0 - 1, 0),
            "so that readers get on"
        );
        assert_eq!(append(&mut log, batch(2, 10, NOW_MS)).base_offset, end);
        assert_eq!(fetch_all(&log).len(), 6);
        kill(log);
        let (log, recovery) = reopen(dir.path(), RecoveryPoint::NONE);
        assert_eq!((fetch_all(&log).len(), recovery.missing_offsets), (6, 0));
    }
}

#[test]
fn offsets_missing_between_segments_are_counted_and_stepped_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = created(dir.path());
    fill(&mut log, 60);
    let (end, next) = (log.log_end(), log.segments().nth(1).unwrap().base_offset);
    kill(log);
    let first = files(dir.path(), "log").remove(0);
    let bytes = fs::read(&first).unwrap();
    let two_batches = 2 * batch(2, 400, NOW_MS).len();
    fs::write(&first, &bytes[..bytes.len() - two_batches]).unwrap();
    let (log, recovery) = reopen(dir.path(), RecoveryPoint::NONE);
    assert_eq!((recovery.missing_offsets, recovery.damaged_ranges), (4, 0));
    assert_eq!((log.log_end(), fetch_all(&log).len()), (end, 58));
    for missing in next.0 - 4..next.0 {
        assert_eq!(find(&log, missing).base_offset, next);
    }
}

/// A bit is flipped in the last synced batches. The log ended before them, and their offsets were
/// used again.
#[test]
fn what_is_unsound_below_the_point_is_damage_even_at_the_end() {
    for (stop, rotten) in [(LastStop::Unclean, 1), (LastStop::Unclean, 3), (LastStop::Clean, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = created(dir.path());
        fill(&mut log, 10);
        flush(&mut log);
        let (point, end) = (log.recovery_point(), log.log_end());
        if stop == LastStop::Clean {
            log.close().unwrap();
        }
        kill(log);
        let path = files(dir.path(), "log").pop().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let (len, batch_len) = (bytes.len(), batch(2, 400, NOW_MS).len());
        (1..=rotten).for_each(|n| bytes[len - n * batch_len + 16] ^= 1);
        fs::write(&path, &bytes).unwrap();

        let open = |stop| Log::open_from(dir.path(), small_segments(), stop, point).unwrap();
        let (log, recovery) = open(stop);
        let first = Offset(end.0 - 2 * rotten as i64);
        let found: Vec<_> = log.damage().map(|d| (d.first, d.end)).collect();
        // An empty batch marks its end.
        let behind = Offset(end.0 + 1);
        assert_eq!((found, log.log_end()), (vec![(first, end)], behind), "{stop:?}");
        assert_eq!((recovery.damaged_ranges, recovery.truncated_bytes), (1, 0));
        assert!(fs::read(&path).unwrap().starts_with(&bytes), "it stays as it is");
        kill(log);
        // Before a point is written again, and after a clean stop.
        let (mut log, _) = reopen(dir.path(), RecoveryPoint::NONE);
        assert_eq!((log.log_end(), log.damage().count()), (behind, 1));
        assert_eq!(append(&mut log, batch(2, 10, NOW_MS)).base_offset, behind);
        assert!(matches!(log.find(first), Err(FindError::Damaged { end: e, .. }) if e == end));
        log.close().unwrap();
        let (log, _) = open(LastStop::Clean);
        assert_eq!((log.log_end(), log.damage().count()), (Offset(end.0 + 3), 1));
    }
}

#[test]
fn a_log_that_lost_its_end_below_the_point_goes_on_at_the_point() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = created(dir.path());
    fill(&mut log, 10);
    flush(&mut log);
    let (point, end) = (log.recovery_point(), log.log_end());
    log.close().unwrap();
    let path = files(dir.path(), "log").pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - batch(2, 400, NOW_MS).len()]).unwrap();
    for stop in [LastStop::Clean, LastStop::Unclean] {
        let (log, _) = Log::open_from(dir.path(), small_segments(), stop, point).unwrap();
        assert_eq!((log.log_end(), log.damage().count()), (end, 0));
        let empty = fetch_all(&log).pop().unwrap();
        assert_eq!((empty.base_offset, empty.record_count), (end.0 - 1, 0));
    }
}

#[test]
fn epochs_below_the_point_come_back_from_the_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = created(dir.path());
    let produce = |log: &mut Log, epoch: i32, batches: i64| {
        for n in 0..batches {
            append_in(log, batch(2, 400, NOW_MS + n), epoch);
        }
    };
    produce(&mut log, 1, 25);
    produce(&mut log, 3, 25);
    produce(&mut log, 4, 2);
    let epochs = log.leader_epochs().to_vec();
    assert_eq!(epochs.iter().map(|e| e.start.0).collect::<Vec<_>>(), [0, 50, 100]);
    log.close().unwrap();
    let point = log.recovery_point();
    let file = dir.path().join("leader-epoch-checkpoint");
    for stop in [LastStop::Clean, LastStop::Unclean] {
        for damage in [None, Some("0\n2\n"), Some("")] {
            match damage {
                None => fs::remove_file(&file).unwrap(),
                Some(text) => fs::write(&file, text).unwrap(),
            }
            let (mut log, _) = Log::open_from(dir.path(), small_segments(), stop, point).unwrap();
            assert_eq!(log.leader_epochs(), epochs, "{stop:?} {damage:?}");
            log.close().unwrap();
        }
    }
}

mod producers {
    use super::*;

    /// A batch of one record of producer 7.
    fn numbered(sequence: i32) -> ProducedBatch {
        let mut builder = penstock_batch::BatchBuilder::new();
        builder.set_producer(7, 0, sequence);
        builder.push(penstock_batch::NewRecord { timestamp_ms: NOW_MS, ..Default::default() });
        produced(builder.finish().into())
    }

    fn send(log: &mut Log, sequence: i32) -> Result<Offset, AppendError> {
        use std::os::unix::fs::FileExt;
        let append = log.begin_append(numbered(sequence), 0, NOW_MS)?;
        append.file.write_all_at(&append.pieces.concat(), append.position.0).unwrap();
        Ok(log.finish_append(append).base_offset)
    }

    fn is_known(log: &mut Log, last: i32) {
        let error = send(log, last).unwrap_err();
        assert!(matches!(error, AppendError::Duplicate { .. }), "{error}");
        let error = send(log, last + 2).unwrap_err();
        assert!(matches!(error, AppendError::OutOfOrderSequence { .. }), "{error}");
    }

    fn snapshots(path: &Path) -> Vec<String> {
        let name =
            |file: &std::path::PathBuf| file.file_stem().unwrap().to_str().unwrap().to_owned();
        files(path, "snapshot").iter().map(name).collect()
    }

    #[test]
    fn a_batch_sent_again_after_any_restart_is_known() {
        for (stop, flushed, rolls) in [
            (LastStop::Clean, false, false),
            (LastStop::Unclean, false, false),
            (LastStop::Unclean, true, false),
            (LastStop::Clean, true, true),
            (LastStop::Unclean, true, true),
            // A roll before the first checkpoint: such a retry was appended twice.
            (LastStop::Unclean, false, true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = created(dir.path());
            for sequence in 0..4 {
                send(&mut log, sequence).unwrap();
            }
            if rolls {
                fill(&mut log, 30);
            }
            if flushed {
                flush(&mut log);
            }
            if stop == LastStop::Clean {
                log.close().unwrap();
            }
            let point = log.recovery_point();
            drop(log);
            let (mut log, _) = Log::open_from(dir.path(), small_segments(), stop, point).unwrap();
            assert_eq!(log.greatest_producer_id(), Some(7));
            is_known(&mut log, 3);
            send(&mut log, 4).unwrap();
        }
    }

    #[test]
    fn what_follows_the_snapshot_is_read_from_the_batches() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = created(dir.path());
        send(&mut log, 0).unwrap();
        flush(&mut log);
        let point = log.recovery_point();
        for sequence in 1..4 {
            send(&mut log, sequence).unwrap();
        }
        kill(log);
        is_known(&mut reopen(dir.path(), point).0, 3);
    }

    #[test]
    fn a_snapshot_that_is_gone_torn_or_beyond_the_end_is_made_good() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = created(dir.path());
        for sequence in 0..4 {
            send(&mut log, sequence).unwrap();
        }
        log.close().unwrap();
        let point = log.recovery_point();
        let snapshot = files(dir.path(), "snapshot").pop().unwrap();
        let sound = fs::read(&snapshot).unwrap();
        let beyond = dir.path().join("00000000000000009999.snapshot");
        for stop in [LastStop::Clean, LastStop::Unclean] {
            for content in [None, Some(&sound[..20]), Some(&[])] {
                match content {
                    None => fs::remove_file(&snapshot).unwrap(),
                    Some(content) => fs::write(&snapshot, content).unwrap(),
                }
                fs::write(&beyond, &sound).unwrap();
                let (mut log, _) =
                    Log::open_from(dir.path(), small_segments(), stop, point).unwrap();
                is_known(&mut log, 3);
                assert!(!beyond.exists());
                log.close().unwrap();
                assert_eq!(fs::read(&snapshot).unwrap(), sound, "{stop:?} {content:?}");
            }
        }
    }

    #[test]
    fn one_snapshot_is_kept_beside_those_at_the_base_of_a_segment() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = created(dir.path());
        for sequence in 0..4 {
            send(&mut log, sequence).unwrap();
            flush(&mut log);
        }
        assert_eq!(snapshots(dir.path()), ["00000000000000000004"]);
        fill(&mut log, 20);
        let base = log.segments().last().unwrap().base_offset.0;
        let kafkas = format!("{base:020}");
        let of = |name: &str| dir.path().join(format!("{name}.snapshot"));
        fs::copy(of("00000000000000000004"), of(&kafkas)).unwrap();
        log.close().unwrap();
        let end = format!("{:020}", log.log_end().0);
        assert_eq!(snapshots(dir.path()), [kafkas, end]);
    }
}

#[test]
fn a_log_that_found_no_room_to_roll_and_then_lost_a_sync_refuses_appends() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = created(dir.path());
    let incoming = || produced(batch(2, 400, NOW_MS));
    while log.needs_roll(&incoming(), NOW_MS).is_none() {
        append(&mut log, batch(2, 400, NOW_MS));
    }
    log.fail_roll(&std::io::ErrorKind::StorageFull.into());
    let flush = log.begin_flush().unwrap();
    let lost = FlushError::Sync(std::io::Error::other("the disk is gone"));
    log.fail_flush(flush, lost).unwrap().run().unwrap();
    assert!(log.needs_roll(&incoming(), NOW_MS).is_none());
    let refused = log.begin_append(incoming(), 0, NOW_MS).unwrap_err();
    assert_eq!(refused, AppendError::Offline);
}
