//! Wrong timestamps of producers: in headers that an earlier build stored as they came, in
//! compressed batches that are not looked into, in microseconds. No fresh record may expire because
//! of them, none may stay for ever, and records are found by their time where that is possible.
#![allow(missing_docs)]

mod harness;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::*;
use penstock_batch::{BatchBuilder, Batches, HEADER_LEN, NewRecord, set_max_timestamp, varint};
use penstock_storage::*;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Small segments, whatever times their records have, kept for an hour.
fn config() -> LogConfig {
    LogConfig { retention_ms: Some(HOUR_MS), segment_ms: i64::MAX, ..small_segments() }
}

/// The real time, which dates files.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// A directory with batches of these times, one record of 1 KiB each, as an earlier build left it:
/// the header of batch n claims `claim(n)`, and so do the time indexes.
struct Old {
    dir: tempfile::TempDir,
}

impl Old {
    fn with(times: impl IntoIterator<Item = i64>, claim: impl Fn(usize) -> Claim) -> Old {
        let old = Old { dir: tempfile::tempdir().unwrap() };
        let mut log = Log::create(&old.path(), TopicId::random(), config()).unwrap();
        for time_ms in times {
            append(&mut log, batch(1, 1000, time_ms));
        }
        log.close().unwrap();
        drop(log);
        let mut n = 0;
        for path in files(&old.path(), "log") {
            let newest = rewrite(&path, &mut n, &claim);
            let entry = newest.map(|(claimed_ms, relative)| {
                [&claimed_ms.to_be_bytes()[..], &relative.to_be_bytes()].concat()
            });
            fs::write(path.with_extension("timeindex"), entry.unwrap_or_default()).unwrap();
        }
        old
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("t-0")
    }

    fn open(&self, stop: LastStop) -> Log {
        Log::open(&self.path(), config(), stop).unwrap().0
    }

    /// Dates the files as if nothing had been written since, or as `cp -a` keeps them.
    fn last_written(&self, at_ms: i64) {
        for path in files(&self.path(), "log") {
            let at = UNIX_EPOCH + Duration::from_millis(at_ms as u64);
            File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
        }
    }
}

#[derive(Clone, Copy)]
enum Claim {
    Right,
    Max(i64),
    /// A batch that claims to be compressed.
    Compressed(i64),
}

/// Returns the greatest claim and its offset, relative to the segment.
fn rewrite(path: &Path, n: &mut usize, claim: impl Fn(usize) -> Claim) -> Option<(i64, u32)> {
    let base: i64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let bytes = fs::read(path).unwrap();
    let mut newest: Option<(i64, u32)> = None;
    let mut out = Vec::new();
    for (header, bytes) in Batches::new(&bytes).map_while(Result::ok) {
        let mut bytes = bytes.to_vec();
        let claimed_ms = match claim(*n) {
            Claim::Right => header.max_timestamp,
            Claim::Max(ms) => ms,
            Claim::Compressed(ms) => {
                bytes[22] |= 1;
                bytes[HEADER_LEN..][..3].copy_from_slice(&[0x1f, 0x8b, 8]);
                ms
            }
        };
        let (head, rest) = bytes.split_at_mut(HEADER_LEN);
        set_max_timestamp(head, rest, TimestampType::CreateTime, claimed_ms);
        out.extend(bytes);
        if claimed_ms > newest.map_or(-1, |(ms, _)| ms) {
            newest = Some((claimed_ms, (header.last_offset() - base) as u32));
        }
        *n += 1;
    }
    fs::write(path, out).unwrap();
    newest
}

const STOPS: [LastStop; 2] = [LastStop::Clean, LastStop::Unclean];

fn find_time(log: &Log, timestamp_ms: i64) -> Option<TimestampFound> {
    drive_time(log.find_timestamp(timestamp_ms)).unwrap()
}

fn find_newest(log: &Log) -> TimestampFound {
    drive_time(log.find_max_timestamp()).unwrap().unwrap()
}

fn roll_if_expired(log: &mut Log, now_ms: i64) -> bool {
    let roll = log.needs_expiry_roll(now_ms);
    let rolls = roll.is_some();
    roll.into_iter().for_each(|roll| log.install_roll(roll.create().unwrap()));
    rolls
}

/// Everything expires, the active segment, too.
fn assert_all_expires(log: &mut Log, now_ms: i64, what: &str) {
    expire(log, now_ms);
    assert!(roll_if_expired(log, now_ms), "{what}: the active segment is old");
    expire(log, now_ms);
    assert_eq!(log.size_bytes(), 0, "{what}");
}

#[test]
fn fresh_records_whose_headers_claim_to_be_old_stay_for_their_time_and_no_longer() {
    let now = now_ms();
    type Claims = fn(usize) -> Claim;
    let claims: [(&str, Claims); 4] = [
        ("zero", |_| Claim::Max(0)),
        ("unset", |_| Claim::Max(-1)),
        ("one old among unset ones", |n| Claim::Max(if n == 5 { 1_000_000 } else { -1 })),
        ("compressed and zero", |_| Claim::Compressed(0)),
    ];
    for (what, claim) in claims {
        for stop in STOPS {
            let old = Old::with((0..60).map(|n| now + n), claim);
            let mut log = old.open(stop);
            assert!(expire(&mut log, now + 60).is_empty(), "{what}, {stop:?}");
            assert!(!roll_if_expired(&mut log, now + 60), "{what}, {stop:?}");
            assert_all_expires(&mut log, now_ms() + HOUR_MS + MINUTE_MS, what);
        }
    }
}

#[test]
fn old_records_in_files_written_just_now_expire_by_their_own_time() {
    let now = now_ms();
    for stop in STOPS {
        let old = Old::with((0..60).map(|n| now - 30 * DAY_MS + n), |_| Claim::Right);
        assert_all_expires(&mut old.open(stop), now, "copied without its times");
    }
}

#[test]
fn a_mixed_segment_stays_as_long_as_its_freshest_record() {
    let now = now_ms();
    let times = (0..60).map(|n| if n % 5 == 3 { now - n } else { now - 30 * DAY_MS });
    let old = Old::with(times, |_| Claim::Max(0));
    let mut log = old.open(LastStop::Clean);
    assert!(expire(&mut log, now).is_empty());
    assert_all_expires(&mut log, now + HOUR_MS + 1, "by the freshest record, to the millisecond");
}

#[test]
fn compressed_batches_expire_by_the_last_write_where_their_claims_are_older() {
    let now = now_ms();
    let old = Old::with((0..60).map(|n| now - 30 * DAY_MS + n), |_| Claim::Compressed(0));
    assert!(expire(&mut old.open(LastStop::Clean), now).is_empty());
    old.last_written(now - HOUR_MS - 1);
    assert_all_expires(&mut old.open(LastStop::Clean), now, "copied with its times");
}

#[test]
fn records_in_microseconds_keep_nothing_for_ever() {
    let now = now_ms();
    for claim in [Claim::Right, Claim::Compressed(now * 1000)] {
        for stop in STOPS {
            let times = |n| if n % 10 == 3 { now * 1000 } else { now - 2 * HOUR_MS };
            let old = Old::with((0..60).map(times), |_| claim);
            let mut log = old.open(stop);
            assert!(expire(&mut log, now).is_empty(), "they came just now");
            assert_all_expires(&mut log, now_ms() + HOUR_MS + MINUTE_MS, "by the last write");
            let old = Old::with((0..60).map(times), |_| claim);
            old.last_written(now - HOUR_MS - 1);
            assert_all_expires(&mut old.open(stop), now, "by the last write, long ago");
        }
    }
}

#[test]
fn a_topic_that_allows_records_from_the_future_keeps_them_until_then() {
    let now = now_ms();
    let old = Old::with((0..60).map(|n| now + 30 * DAY_MS + n), |_| Claim::Right);
    let config = LogConfig { timestamp_after_max_ms: 31 * DAY_MS, ..config() };
    let mut log = Log::open(&old.path(), config, LastStop::Clean).unwrap().0;
    assert!(expire(&mut log, now + 29 * DAY_MS).is_empty());
    assert_all_expires(&mut log, now + 31 * DAY_MS, "by their own time");
}

#[test]
fn records_whose_headers_claim_nothing_are_found_by_their_time() {
    let now = now_ms() - MINUTE_MS;
    for claim in [0, -1] {
        for stop in STOPS {
            // One segment is not sealed. Sealed segments may have an empty index.
            let old = Old::with((0..60).map(|n| now + 10 * n), |_| Claim::Max(claim));
            for path in files(&old.path(), "timeindex") {
                fs::write(path, []).unwrap();
            }
            let log = old.open(stop);
            for n in 0..60 {
                let found = find_time(&log, now + 10 * n - 5).unwrap();
                assert_eq!((found.offset, found.timestamp_ms), (Offset(n), now + 10 * n));
            }
            assert!(find_time(&log, now + 600).is_none());
            let newest = find_newest(&log);
            assert_eq!((newest.offset, newest.timestamp_ms), (Offset(59), now + 590), "{claim}");
        }
    }
}

#[test]
fn scrubbing_makes_indexes_that_know_what_headers_hide() {
    let now = now_ms() - MINUTE_MS;
    let claim = |n| Claim::Max(if n % 18 == 5 { 1000 } else { -1 });
    let old = Old::with((0..60).map(|n| now + n), claim);
    let mut wrong = 0;
    for (base, next) in Scrub::segments(&old.path()).unwrap() {
        let mut scrub = Scrub::open(&old.path(), base, next).unwrap();
        while scrub.step().unwrap().is_some() {}
        wrong += scrub.report().wrong_index_entries;
        scrub.repair_indexes().unwrap();
    }
    assert!(wrong > 0);
    let log = old.open(LastStop::Clean);
    assert_eq!(find_time(&log, now + 30).unwrap().offset, Offset(30));
    assert_eq!(find_newest(&log).offset, Offset(59));
}

#[test]
fn what_this_build_stores_has_the_right_time_in_header_index_and_look_ups() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t-0");
    let mut log = Log::create(&path, TopicId::random(), config()).unwrap();
    let now = now_ms() - MINUTE_MS;
    for n in 0..60 {
        let mut bytes = batch(3, 300, now + 10 * n).to_vec();
        let (head, rest) = bytes.split_at_mut(HEADER_LEN);
        let claim = [0, -1, now - DAY_MS][n as usize % 3];
        set_max_timestamp(head, rest, TimestampType::LogAppendTime, claim);
        append_at(&mut log, bytes.into(), now + 10 * n);
    }
    for stop in [None, Some(LastStop::Clean), Some(LastStop::Unclean)] {
        if let Some(stop) = stop {
            log.close().unwrap();
            log = Log::open(&path, config(), stop).unwrap().0;
        }
        for (n, header) in (0..).zip(fetch_all(&log)) {
            assert_eq!(header.timestamp_type(), TimestampType::CreateTime);
            assert_eq!(header.max_timestamp, now + 10 * n + 2);
        }
        for n in 0..180 {
            let found = find_time(&log, now + n / 3 * 10 + n % 3).unwrap();
            assert_eq!(found.offset, Offset(n), "{stop:?}");
        }
        assert_eq!(find_newest(&log).offset, Offset(179));
        assert!(expire(&mut log, now + HOUR_MS).is_empty());
    }
    assert_all_expires(&mut log, now + HOUR_MS + 593, "to the millisecond");
}

/// Two records that claim to be gzip's. Nothing unwraps them here.
fn compressed(base_ms: i64, max_ms: i64) -> bytes::Bytes {
    let mut bytes = batch(1, 1000, base_ms).to_vec();
    bytes[22] |= 1;
    bytes[HEADER_LEN..][..3].copy_from_slice(&[0x1f, 0x8b, 8]);
    let (head, rest) = bytes.split_at_mut(HEADER_LEN);
    set_max_timestamp(head, rest, TimestampType::CreateTime, max_ms);
    bytes.into()
}

#[test]
fn compressed_batches_expire_no_earlier_than_their_append_and_roll_no_more_often() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_ms: HOUR_MS, ..config() };
    let mut log = Log::create(&dir.path().join("t-0"), TopicId::random(), config).unwrap();
    for n in 0..40 {
        let base_ms = NOW_MS - 30 * DAY_MS * (n % 2);
        append_at(&mut log, compressed(base_ms, base_ms), NOW_MS + n);
    }
    assert_eq!(log.segments().count(), 3, "18 fill a segment: what they claim rolls none");
    let later = NOW_MS + HOUR_MS;
    assert!(expire(&mut log, later).is_empty() && log.needs_expiry_roll(later).is_none());
    append_at(&mut log, compressed(NOW_MS, NOW_MS), later + 100);
    assert_eq!(log.segments().count(), 4, "an hour of our clock does");
    assert_eq!(expire(&mut log, later + 100).len(), 3);
}

#[test]
fn a_compressed_batch_without_a_time_that_can_be_is_found_by_every_time_up_to_its_append() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::create(&dir.path().join("t-0"), TopicId::random(), config()).unwrap();
    append_at(&mut log, batch(1, 10, NOW_MS - 50), NOW_MS);
    append_at(&mut log, compressed(NOW_MS - 40, -1), NOW_MS);
    append_at(&mut log, batch(1, 10, NOW_MS + 10), NOW_MS + 10);
    for (timestamp_ms, offset) in [(-50, 0), (-40, 1), (-1, 1), (0, 1), (1, 2)] {
        let found = find_time(&log, NOW_MS + timestamp_ms).unwrap();
        assert_eq!(found.offset, Offset(offset), "{timestamp_ms}");
    }
    assert_eq!(fetch_all(&log)[1].max_timestamp, NOW_MS);
}

#[test]
fn nothing_fresh_expires_because_the_clock_was_behind_for_a_while() {
    let now = now_ms();
    for (what, claim) in [
        ("right", (|_| Claim::Right) as fn(usize) -> Claim),
        ("hidden", |_| Claim::Max(-1)),
        ("compressed", |_| Claim::Compressed(0)),
    ] {
        for batches in [3, 60] {
            let old = Old::with((0..batches).map(|n| now + n), claim);
            let mut log = old.open(LastStop::Clean);
            assert!(expire(&mut log, now - 365 * DAY_MS).is_empty(), "{what}: before NTP");
            assert!(expire(&mut log, now + MINUTE_MS).is_empty(), "{what}: behind it");
            assert!(!roll_if_expired(&mut log, now + MINUTE_MS), "{what}: {batches} batches");
            assert_all_expires(&mut log, now_ms() + HOUR_MS + MINUTE_MS, what);
        }
    }
}

#[test]
fn files_from_the_future_are_kept_for_their_time_from_now_on() {
    let now = now_ms();
    let old = Old::with((0..60).map(|_| now + 365 * DAY_MS), |_| Claim::Right);
    old.last_written(now + 365 * DAY_MS);
    let mut log = old.open(LastStop::Clean);
    assert!(expire(&mut log, now).is_empty());
    assert!(!expire(&mut log, now + HOUR_MS + 1).is_empty());
}

#[test]
fn records_without_a_time_stay_for_their_time_beside_old_ones_also_over_a_start() {
    let now = now_ms();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t-0");
    let mut log = Log::create(&path, TopicId::random(), config()).unwrap();
    append_at(&mut log, batch(1, 1000, now - 30 * DAY_MS), now);
    let mut untimed = BatchBuilder::new();
    untimed.push(NewRecord { timestamp_ms: -1, value: Some(b"v"), ..NewRecord::default() });
    append_at(&mut log, untimed.finish().into(), now);
    for stop in [None, Some(LastStop::Clean), Some(LastStop::Unclean)] {
        if let Some(stop) = stop {
            log.close().unwrap();
            log = Log::open(&path, config(), stop).unwrap().0;
        }
        expire(&mut log, now + MINUTE_MS);
        assert!(!roll_if_expired(&mut log, now + MINUTE_MS), "{stop:?}");
    }
    assert_all_expires(&mut log, now_ms() + HOUR_MS + MINUTE_MS, "by the last write");
}

/// A record of that time, in a batch whose base timestamp is that of no record.
fn based_elsewhere(base_ms: i64, timestamp_ms: i64) -> bytes::Bytes {
    let mut record = vec![0];
    varint::put_i64(&mut record, timestamp_ms.wrapping_sub(base_ms));
    [0, -1, 1000].iter().for_each(|n| varint::put_i64(&mut record, *n));
    record.extend([b'v'; 1000]);
    varint::put_i64(&mut record, 0);
    let mut bytes = batch(1, 0, base_ms)[..HEADER_LEN].to_vec();
    varint::put_i64(&mut bytes, record.len() as i64);
    bytes.extend(record);
    let length = bytes.len() as i32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let (head, rest) = bytes.split_at_mut(HEADER_LEN);
    set_max_timestamp(head, rest, TimestampType::CreateTime, timestamp_ms);
    bytes.into()
}

#[test]
fn a_base_timestamp_that_is_of_no_record_counts_for_nothing() {
    let now = now_ms();
    for base_ms in [i64::MAX, now + 3650 * DAY_MS, now + MINUTE_MS] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t-0");
        let mut log = Log::create(&path, TopicId::random(), config()).unwrap();
        for n in 0..60 {
            append_at(&mut log, based_elsewhere(base_ms, now + n), now + n);
        }
        for stop in [None, Some(LastStop::Clean), Some(LastStop::Unclean)] {
            if let Some(stop) = stop {
                log.close().unwrap();
                log = Log::open(&path, config(), stop).unwrap().0;
            }
            assert_eq!(find_newest(&log).offset, Offset(59), "{base_ms} {stop:?}");
            for n in [0, 30, 59] {
                assert_eq!(find_time(&log, now + n).unwrap().offset, Offset(n), "{stop:?}");
            }
            assert!(find_time(&log, now + 60).is_none());
        }
        assert_all_expires(&mut log, now + HOUR_MS + 60, "by its records");
    }
}

#[test]
fn a_limit_for_times_ahead_counts_for_what_is_there_once_it_is_changed() {
    let now = now_ms();
    let with = |timestamp_after_max_ms| LogConfig { timestamp_after_max_ms, ..config() };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t-0");
    let mut log = Log::create(&path, TopicId::random(), with(i64::MAX)).unwrap();
    for _ in 0..60 {
        append_at(&mut log, batch(1, 1000, now * 1000), now);
    }
    assert!(expire(&mut log, now + DAY_MS).is_empty(), "microseconds, and all is believed");
    log.set_config(with(HOUR_MS));
    assert!(expire(&mut log, now).is_empty(), "they came just now");
    assert_all_expires(&mut log, now_ms() + HOUR_MS + MINUTE_MS, "by the last write");

    let old = Old::with((0..60).map(|n| now + 30 * DAY_MS + n), |_| Claim::Right);
    let mut log = old.open(LastStop::Clean);
    assert!(expire(&mut log, now).is_empty());
    log.set_config(with(31 * DAY_MS));
    assert!(expire(&mut log, now + 29 * DAY_MS).is_empty(), "from the future, and allowed to be");
    assert_all_expires(&mut log, now + 31 * DAY_MS, "by their own time");
}

/// Where the disk cannot read the oldest segment, all behind it would stay for ever.
#[test]
fn a_segment_that_cannot_be_read_expires_by_its_last_write_and_no_earlier() {
    let now = now_ms();
    let after_max_ms = config().timestamp_after_max_ms;
    let old = Old::with((0..60).map(|n| now - 30 * DAY_MS + n), |_| Claim::Right);
    let mut log = old.open(LastStop::Clean);
    let first = log.log_start();
    let unread = log.unread_age(now + MINUTE_MS).unwrap();
    log.note_age(unread.by_last_write().unwrap());
    for early_ms in [now + MINUTE_MS, now + HOUR_MS, now + HOUR_MS + after_max_ms - MINUTE_MS] {
        assert!(log.expire(early_ms).is_empty());
        assert!(log.unread_age(early_ms).is_some(), "it may be readable by then");
    }
    assert_eq!(log.expire(now_ms() + HOUR_MS + after_max_ms + MINUTE_MS).len(), 1);
    assert!(log.log_start() > first);
}
