//! Damage and wrong indexes that the scrubber finds, and what follows from them.
#![allow(missing_docs)]

mod harness;

use std::{fs, path::Path};

use harness::*;
use penstock_storage::*;

/// Two records in each of 60 batches, in several segments; closed.
fn closed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::create(dir.path(), TopicId::random(), small_segments()).unwrap();
    for n in 0..60 {
        append(&mut log, batch(2, 400, NOW_MS + 10 * n));
    }
    log.close().unwrap();
    dir
}

fn scrub_all(dir: &Path) -> Vec<Scrubbed> {
    let scrub = |(base, next)| {
        let mut scrub = Scrub::open(dir, base, next).unwrap();
        while scrub.step().unwrap().is_some() {}
        scrub.report().clone()
    };
    Scrub::segments(dir).unwrap().into_iter().map(scrub).collect()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x15;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_sound_log_is_found_sound_and_left_as_it_is() {
    let dir = closed();
    let before: Vec<_> = files(dir.path(), "index").iter().map(|f| fs::read(f).unwrap()).collect();
    let reports = scrub_all(dir.path());
    assert_eq!(reports.iter().map(|report| report.batches).sum::<u64>(), 60);
    for report in &reports {
        assert_eq!((report.damage.len(), report.wrong_index_entries), (0, 0), "{report:?}");
        assert_eq!(report.unsound_end, None);
    }
    keep_damage(dir.path(), &reports).unwrap();
    assert!(!dir.path().join("penstock-damage").exists());
    let after: Vec<_> = files(dir.path(), "index").iter().map(|f| fs::read(f).unwrap()).collect();
    assert_eq!(before, after);
}

#[test]
fn what_is_found_offline_is_known_to_the_next_clean_start() {
    let dir = closed();
    let third = naive_scan(dir.path()).into_iter().nth(3).unwrap();
    flip(&files(dir.path(), "log")[0], third.1 as usize + 200);
    let reports = scrub_all(dir.path());
    assert_eq!(reports[0].damage.len(), 1);
    keep_damage(dir.path(), &reports).unwrap();
    let (log, recovery) = Log::open(dir.path(), small_segments(), LastStop::Clean).unwrap();
    assert_eq!(recovery.segments_scanned, 0);
    assert_eq!(log.damage().collect::<Vec<_>>(), reports[0].damage);
    for offset in [6, 7] {
        assert!(matches!(log.find(Offset(offset)), Err(FindError::Damaged { .. })));
    }
    // The index is older than the damage, and leads into it.
    for offset in [0, 5, 8, 9, 20] {
        assert!(find(&log, offset).base_offset.0 <= offset);
    }
}

#[test]
fn a_damaged_end_after_a_clean_stop_keeps_its_offsets() {
    let dir = closed();
    let last = naive_scan(dir.path()).pop().unwrap();
    let file = files(dir.path(), "log").pop().unwrap();
    flip(&file, last.1 as usize + 200);
    let mut reports = scrub_all(dir.path());
    let tail = reports.last().unwrap().unsound_end.unwrap();
    assert_eq!(tail.first, Offset(118));
    reports.last_mut().unwrap().damage.push(Damage { end: Offset(120), ..tail });
    keep_damage(dir.path(), &reports).unwrap();
    let (mut log, recovery) = Log::open(dir.path(), small_segments(), LastStop::Clean).unwrap();
    assert_eq!((log.log_end(), recovery.truncated_bytes), (Offset(120), 0));
    assert!(matches!(log.find(Offset(119)), Err(FindError::Damaged { .. })));
    append(&mut log, batch(2, 10, NOW_MS));
    assert_eq!(find(&log, 120).base_offset, Offset(120));
    log.close().unwrap();
    let (log, _) = Log::open(dir.path(), small_segments(), LastStop::Clean).unwrap();
    assert_eq!(log.log_end(), Offset(122));
}

#[test]
fn what_is_found_in_a_log_that_is_served_is_not_served_any_more() {
    let dir = closed();
    let (mut log, _) = Log::open(dir.path(), small_segments(), LastStop::Clean).unwrap();
    let third = naive_scan(dir.path()).into_iter().nth(3).unwrap();
    flip(&files(dir.path(), "log")[0], third.1 as usize + 200);
    assert_eq!(find(&log, 6).base_offset, Offset(6), "it is not known yet");
    let report = scrub_all(dir.path()).remove(0);
    log.note_scrubbed(&report).unwrap().write().unwrap();
    assert!(log.note_scrubbed(&report).is_none(), "it is no news");
    assert!(matches!(log.find(Offset(6)), Err(FindError::Damaged { .. })));
    assert_eq!(find(&log, 8).base_offset, Offset(8));
    let extent = find(&log, 0).extent(u64::MAX, true).unwrap();
    assert_eq!(extent.position.0 + extent.len_bytes, third.1);
    kill(log);
    let (log, _) = Log::open(dir.path(), small_segments(), LastStop::Clean).unwrap();
    assert_eq!(log.damage().collect::<Vec<_>>(), report.damage);
}

#[test]
fn wrong_indexes_are_found_and_rebuilt() {
    type Harm = fn(&Path);
    let harms: [Harm; 5] = [
        |file| fs::remove_file(file).unwrap(),
        |file| fs::write(file, b"").unwrap(),
        |file| flip(file, 3),
        |file| flip(file, 7),
        |file| fs::write(file, [fs::read(file).unwrap(), vec![1; 5]].concat()).unwrap(),
    ];
    for (n, harm) in harms.into_iter().enumerate() {
        for suffix in ["index", "timeindex"] {
            // An empty index leads to no wrong place.
            if (n, suffix) == (1, "index") {
                continue;
            }
            let dir = closed();
            let file = files(dir.path(), suffix).remove(0);
            let sound = fs::read(&file).unwrap();
            harm(&file);
            let mut scrub =
                Scrub::open(dir.path(), Offset(0), Scrub::segments(dir.path()).unwrap()[0].1)
                    .unwrap();
            while scrub.step().unwrap().is_some() {}
            assert!(scrub.report().wrong_index_entries > 0, "{suffix} {n}");
            scrub.repair_indexes().unwrap();
            // Rebuilt with the default interval, which small segments may not have.
            let reports = scrub_all(dir.path());
            assert_eq!(reports[0].wrong_index_entries, 0, "{suffix} {n}");
            assert!(file.exists() && !sound.is_empty());
        }
    }
}

#[test]
fn an_end_torn_by_a_crash_does_not_count_as_damage() {
    let dir = closed();
    let file = files(dir.path(), "log").pop().unwrap();
    fs::write(&file, [fs::read(&file).unwrap(), b"torn".to_vec()].concat()).unwrap();
    let report = scrub_all(dir.path()).pop().unwrap();
    assert_eq!(report.damage, []);
    assert_eq!(report.unsound_end.unwrap().len_bytes, 4);
}
