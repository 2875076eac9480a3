//! A start that finds damage with sound batches behind it cuts nothing, and serves all else.
#![allow(missing_docs)]

mod harness;

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::*;
use penstock_batch::{BatchBuilder, BatchHeader, NewRecord};
use penstock_storage::*;
use proptest::prelude::*;

/// Two records in each batch, so that batch n has the offsets 2 n and 2 n + 1.
fn killed(batches: i64) -> (tempfile::TempDir, Vec<(i64, u64, BatchHeader)>) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::create(dir.path(), TopicId::random(), small_segments()).unwrap();
    for n in 0..batches {
        append(&mut log, batch(2, 400, NOW_MS + 10 * n));
    }
    kill(log);
    let all = naive_scan(dir.path());
    (dir, all)
}

fn open(path: &Path, stop: LastStop) -> (Log, Recovery) {
    Log::open(path, small_segments(), stop).unwrap()
}

fn segment_of(path: &Path, base: i64) -> PathBuf {
    path.join(format!("{base:020}.log"))
}

fn flip(path: &Path, place: &(i64, u64, BatchHeader), at: u64) {
    let file = segment_of(path, place.0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[(place.1 + at) as usize] ^= 0x15;
    fs::write(file, bytes).unwrap();
}

/// The offsets at which batches begin, as a consumer that jumps over damage reads them.
fn offsets_served(log: &Log) -> Vec<i64> {
    let mut served = Vec::new();
    let mut offset = log.log_start();
    loop {
        match log.find(offset) {
            Ok(Find::AtEnd) => return served,
            Ok(Find::Lookup(lookup)) => {
                let found = drive(lookup).unwrap().0;
                served.push(found.base_offset.0);
                offset = Offset(found.base_offset.0.max(offset.0) + 2);
            }
            Err(FindError::Damaged { end, .. }) => offset = end,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_batch_damaged_anywhere_is_the_only_one_that_is_not_served() {
    let (_dir, all) = killed(12);
    let len_bytes = all[0].2.len_bytes() as u64;
    // Base offset, length, epoch (no harm), magic, CRC, attributes, counts, and the records.
    for at in [0, 7, 8, 9, 11, 16, 17, 22, 24, 60, 100, len_bytes - 1] {
        for n in [0, 3, 10] {
            let (dir, all) = killed(12);
            flip(dir.path(), &all[n], at);
            let (mut log, recovery) = open(dir.path(), LastStop::Unclean);
            let offset = all[n].2.base_offset;
            let expected = Damage {
                segment: Offset(all[n].0),
                position: Position(all[n].1),
                len_bytes,
                first: Offset(offset),
                end: Offset(offset + 2),
            };
            assert_eq!(log.damage().collect::<Vec<_>>(), [expected], "batch {n}, byte {at}");
            assert_eq!((recovery.damaged_ranges, recovery.truncated_bytes), (1, 0));
            for asked in [offset, offset + 1] {
                let error = log.find(Offset(asked)).unwrap_err();
                assert!(
                    matches!(error, FindError::Damaged { end, .. } if end == expected.end),
                    "{error}"
                );
            }
            let others = all.iter().map(|(.., header)| header.base_offset).filter(|o| *o != offset);
            assert_eq!(offsets_served(&log), others.collect::<Vec<_>>());
            append(&mut log, batch(2, 10, NOW_MS));
            assert_eq!(offsets_served(&log).len(), 12);
        }
    }
}

#[test]
fn damage_is_known_after_a_clean_start_and_found_again_after_an_unclean_one() {
    let (dir, all) = killed(60);
    for n in [5, 6, 40] {
        flip(dir.path(), &all[n], 200);
    }
    let (mut log, _) = open(dir.path(), LastStop::Unclean);
    let found: Vec<Damage> = log.damage().collect();
    assert_eq!(
        found.iter().map(|d| (d.first.0, d.end.0)).collect::<Vec<_>>(),
        [(10, 14), (80, 82)]
    );
    let served = offsets_served(&log);
    assert_eq!(served.len(), 57);
    log.close().unwrap();
    let point = log.recovery_point();
    drop(log);
    for (stop, point, scanned) in [
        (LastStop::Clean, point, 0),
        (LastStop::Unclean, point, 1),
        (LastStop::Unclean, RecoveryPoint::NONE, 15),
    ] {
        let (log, recovery) = Log::open_from(dir.path(), small_segments(), stop, point).unwrap();
        assert_eq!(log.damage().collect::<Vec<_>>(), found, "{stop:?}");
        assert!(recovery.segments_scanned <= scanned, "{recovery:?}");
        assert_eq!(offsets_served(&log), served);
        kill(log);
    }
}

#[test]
fn an_extent_ends_before_damage_and_a_look_up_by_time_steps_over_it() {
    let (dir, all) = killed(6);
    flip(dir.path(), &all[3], 200);
    let (log, _) = open(dir.path(), LastStop::Unclean);
    let extent = find(&log, 2).extent(u64::MAX, true).unwrap();
    assert_eq!(extent.position.0 + extent.len_bytes, all[3].1);
    let behind = find(&log, 8).extent(u64::MAX, true).unwrap();
    assert_eq!(behind.len_bytes, all[4].2.len_bytes() as u64 * 2);
    for (timestamp_ms, offset) in [(NOW_MS + 20, 4), (NOW_MS + 25, 8), (NOW_MS + 31, 8)] {
        let found = drive_time(log.find_timestamp(timestamp_ms)).unwrap().unwrap();
        assert_eq!(found.offset, Offset(offset), "{timestamp_ms}");
    }
    assert_eq!(drive_time(log.find_max_timestamp()).unwrap().unwrap().offset, Offset(11));
}

#[test]
fn the_end_of_a_sealed_segment_is_damage_and_the_end_of_the_last_one_is_cut() {
    let (dir, all) = killed(40);
    let first = all.iter().rposition(|(segment, ..)| *segment == 0).unwrap();
    flip(dir.path(), &all[first], 300);
    flip(dir.path(), &all[39], 300);
    let (log, recovery) = open(dir.path(), LastStop::Unclean);
    let offset = all[first].2.base_offset;
    let damage: Vec<_> = log.damage().map(|damage| (damage.first.0, damage.end.0)).collect();
    assert_eq!(damage, [(offset, offset + 2)]);
    assert_eq!(recovery.truncated_bytes, all[39].2.len_bytes() as u64);
    assert_eq!(log.log_end(), Offset(78));
    assert_eq!(offsets_served(&log).len(), 38);
}

#[test]
fn zeros_and_garbage_written_over_the_middle_cost_what_they_covered() {
    for filling in [0x00, 0xff, 0x02] {
        let (dir, all) = killed(12);
        let file = segment_of(dir.path(), all[2].0);
        let mut bytes = fs::read(&file).unwrap();
        let covered = all[2].1 as usize + 500..all[2].1 as usize + 2500;
        bytes[covered].fill(filling);
        fs::write(&file, bytes).unwrap();
        let (log, _) = open(dir.path(), LastStop::Unclean);
        let damage: Vec<_> = log.damage().map(|damage| (damage.first.0, damage.end.0)).collect();
        assert_eq!(damage.len(), 1);
        assert_eq!(offsets_served(&log).len(), 12 - (damage[0].1 - damage[0].0) as usize / 2);
        assert!(damage[0].1 - damage[0].0 <= 8);
    }
}

/// The value of a record is itself a batch; the batch around it is damaged.
#[test]
fn a_batch_inside_of_a_damaged_payload_is_not_taken_for_one_of_the_log() {
    let inner = batch(3, 50, NOW_MS);
    let mut builder = BatchBuilder::new();
    builder.push(NewRecord { timestamp_ms: NOW_MS, value: Some(&inner), ..Default::default() });
    let outer = builder.finish();
    // In the records: lengths lead past the payload. In the length: the inner batch's offset is too
    // low.
    for at in [70, 10] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(dir.path(), TopicId::random(), small_segments()).unwrap();
        append(&mut log, batch(2, 10, NOW_MS));
        append(&mut log, outer.clone().into());
        append(&mut log, batch(2, 10, NOW_MS));
        kill(log);
        let all = naive_scan(dir.path());
        flip(dir.path(), &all[1], at);
        let (log, _) = open(dir.path(), LastStop::Unclean);
        let damage: Vec<_> = log.damage().collect();
        assert_eq!((damage[0].first, damage[0].end, damage.len()), (Offset(2), Offset(3), 1));
        assert_eq!(damage[0].len_bytes, outer.len() as u64, "byte {at}");
    }
}

/// Batches of 1024 bytes: one flipped bit in a length leads exactly to the batch after the next.
/// The sound batches between counted as damaged, too.
#[test]
fn a_length_that_leads_past_sound_batches_to_another_one_costs_its_own_batch_alone() {
    let value_len = (0..1024).find(|len| batch(1, *len, NOW_MS).len() == 1024).unwrap();
    for (bit, damaged) in [(2, &[3][..]), (3, &[3]), (2, &[3, 5])] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(dir.path(), TopicId::random(), small_segments()).unwrap();
        for n in 0..12 {
            append(&mut log, batch(1, value_len, NOW_MS + n));
        }
        kill(log);
        let file = segment_of(dir.path(), 0);
        let mut bytes = fs::read(&file).unwrap();
        damaged.iter().for_each(|n| bytes[n * 1024 + 10] ^= 1 << bit);
        fs::write(&file, bytes).unwrap();
        let (log, _) = open(dir.path(), LastStop::Unclean);
        let found: Vec<_> = log.damage().map(|damage| damage.first.0 as usize).collect();
        assert_eq!(found, damaged, "bit {bit}");
        let lost: i64 = log.damage().map(|damage| damage.end.0 - damage.first.0).sum();
        assert_eq!(lost, damaged.len() as i64);
    }
}

/// A commit is torn between a batch's offset and the rest of it. The CRC is right and the offset is
/// zero, which may be just the one expected. The lost batch would have had no offset.
#[test]
fn a_batch_that_begins_in_a_lost_sector_is_not_believed_to_have_the_lost_offsets() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::create(dir.path(), TopicId::random(), small_segments()).unwrap();
    let value_len = (0..512).find(|len| batch(1, *len, NOW_MS).len() == 504).unwrap();
    for len in [value_len, 10, 10] {
        append(&mut log, batch(1, len, NOW_MS));
    }
    kill(log);
    let all = naive_scan(dir.path());
    let file = segment_of(dir.path(), 0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[..512].fill(0);
    fs::write(&file, bytes).unwrap();
    let (log, _) = open(dir.path(), LastStop::Unclean);
    let damage: Vec<_> = log.damage().map(|d| (d.len_bytes, d.first.0, d.end.0)).collect();
    assert_eq!(damage, [(all[2].1, 0, 2)]);
    assert_eq!(find(&log, 2).base_offset, Offset(2));
}

/// Thousands of records may be in a few bytes: the next offset is far, but the batch behind it
/// fits.
#[test]
fn batches_behind_a_damaged_one_that_was_highly_compressed_are_found() {
    let (dir, all) = killed(6);
    let file = segment_of(dir.path(), 0);
    let mut bytes = fs::read(&file).unwrap();
    for (_, position, header) in &all[3..] {
        let far = header.base_offset + 1_000_000;
        bytes[*position as usize..][..8].copy_from_slice(&far.to_be_bytes());
    }
    fs::write(&file, bytes).unwrap();
    flip(dir.path(), &all[2], 9);
    let (log, recovery) = open(dir.path(), LastStop::Unclean);
    assert_eq!(recovery.truncated_bytes, 0);
    assert_eq!(log.damage().next().unwrap().end, Offset(1_000_006));
    assert_eq!(log.log_end(), Offset(1_000_012));
}

#[test]
fn a_list_of_damage_that_is_torn_or_of_another_log_harms_nothing() {
    let (dir, all) = killed(40);
    flip(dir.path(), &all[5], 200);
    let (mut log, _) = open(dir.path(), LastStop::Unclean);
    log.close().unwrap();
    let list = dir.path().join("penstock-damage");
    let sound = fs::read(&list).unwrap();
    for content in [&sound[..sound.len() / 2], &[], b"nonsense"] {
        fs::write(&list, content).unwrap();
        let (log, _) = open(dir.path(), LastStop::Clean);
        assert_eq!(log.damage().count(), 0);
    }
    let (other, _) = killed(2);
    fs::write(other.path().join("penstock-damage"), &sound).unwrap();
    let (log, _) = open(other.path(), LastStop::Unclean);
    assert_eq!((log.damage().count(), offsets_served(&log).len()), (0, 2));
}

/// Every place has a header that claims all bytes up to the end. The search must not take quadratic
/// time.
#[test]
fn a_payload_of_false_headers_is_searched_in_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig::default();
    let mut log = Log::create(dir.path(), TopicId::random(), config.clone()).unwrap();
    append(&mut log, batch(2, 10, NOW_MS));
    let mut false_header = batch(2, 10, NOW_MS)[..61].to_vec();
    false_header[..8].copy_from_slice(&5i64.to_be_bytes());
    false_header[8..12].copy_from_slice(&(6i32 << 20).to_be_bytes());
    let value = false_header.repeat((8 << 20) / 61);
    let mut builder = BatchBuilder::new();
    builder.push(NewRecord { timestamp_ms: NOW_MS, value: Some(&value), ..Default::default() });
    append(&mut log, builder.finish().into());
    append(&mut log, batch(2, 10, NOW_MS));
    kill(log);
    let all = naive_scan(dir.path());
    flip(dir.path(), &all[1], 9);
    let (log, recovery) = Log::open(dir.path(), config, LastStop::Unclean).unwrap();
    assert_eq!((log.damage().count(), recovery.truncated_bytes), (1, 0));
    assert!(recovery.bytes_scanned < 512 << 20, "{recovery:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_flips_cost_only_the_batches_they_hit(
        flips in prop::collection::vec((0usize..39, any::<prop::sample::Index>()), 1..12),
    ) {
        let (dir, all) = killed(40);
        let mut hit = std::collections::BTreeSet::new();
        for (n, at) in flips {
            // Nothing covers the leader epoch.
            let at = at.index(all[n].2.len_bytes() - 4) as u64;
            let at = if at >= 12 { at + 4 } else { at };
            if hit.insert(all[n].2.base_offset) {
                flip(dir.path(), &all[n], at);
            }
        }
        let (mut log, recovery) = open(dir.path(), LastStop::Unclean);
        prop_assert_eq!(recovery.truncated_bytes, 0);
        let sound = all.iter().map(|(.., header)| header.base_offset).filter(|o| !hit.contains(o));
        let sound: Vec<i64> = sound.collect();
        prop_assert_eq!(&offsets_served(&log), &sound);
        log.close().unwrap();
        let (log, _) = open(dir.path(), LastStop::Clean);
        prop_assert_eq!(&offsets_served(&log), &sound);
    }
}
