//! Where answers end that a limit ends.
#![allow(missing_docs)]

mod harness;

use harness::*;
use penstock_storage::*;

/// A log of batches of many lengths in some segments, its directory, and where each batch ends:
/// segment, its place and its end.
fn log_of_batches() -> (tempfile::TempDir, Log, Vec<(i64, u64, u64)>) {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes: 200 << 10, ..LogConfig::default() };
    let mut log = Log::create(&dir.path().join("t-0"), TopicId::random(), config).unwrap();
    for n in 0..150 {
        append(&mut log, batch(2, 100 + (n as usize * 977) % 5000, NOW_MS + n));
    }
    assert!(log.segments().count() > 2);
    let all = naive_scan(&dir.path().join("t-0"));
    let places = all.into_iter().map(|(segment, position, header)| {
        (segment, position, position + header.len_bytes() as u64)
    });
    let places = places.collect();
    (dir, log, places)
}

/// The extent from an offset with that limit, and the same before it was ended with a batch.
fn extents(log: &Log, offset: i64, max_bytes: u64) -> (Found, Extent, Extent) {
    let found = find(log, offset);
    let limited = found.extent(max_bytes, true).unwrap();
    let mut ended = limited.clone();
    log.end_with_a_batch(&found, &mut ended);
    (found, limited, ended)
}

#[test]
fn an_answer_that_its_limit_would_end_within_a_batch_ends_before_it() {
    let (_dir, log, places) = log_of_batches();
    for offset in 0..log.log_end().0 {
        for max_bytes in [1, 5_000, 17_003, 64 << 10, 1 << 20] {
            let (found, limited, ended) = extents(&log, offset, max_bytes);
            assert_eq!(ended.len_bytes + ended.spared_bytes, limited.len_bytes);
            let in_segment = places.iter().filter(|(segment, ..)| *segment == found.segment.0);
            let ends = in_segment.map(|(_, _, end)| *end).filter(|end| *end <= limited.end().0);
            let expected = ends.max().unwrap();
            assert_eq!(ended.end().0, expected, "{max_bytes} bytes from {offset}");
        }
    }
}

#[test]
fn of_a_log_that_was_opened_again_the_index_tells_where_batches_begin() {
    let (dir, mut log, places) = log_of_batches();
    let config = log.config().clone();
    let end = log.log_end().0;
    log.close().unwrap();
    let (log, _) = Log::open(&dir.path().join("t-0"), config, LastStop::Clean).unwrap();
    for offset in (0..end).step_by(7) {
        let (found, limited, ended) = extents(&log, offset, 40_000);
        let ends_here =
            |place: &&(i64, u64, u64)| (place.0, place.2) == (found.segment.0, ended.end().0);
        let is_whole = places.iter().any(|place| ends_here(&place));
        assert!(is_whole, "{ended:?} from {offset}");
        assert!(ended.len_bytes >= found.batch_len_bytes);
        assert_eq!(ended.len_bytes + ended.spared_bytes, limited.len_bytes);
    }
}

#[test]
fn an_index_of_nonsense_ends_answers_where_it_likes_and_within_their_bounds() {
    let (dir, mut log, _) = log_of_batches();
    let (config, end) = (log.config().clone(), log.log_end().0);
    log.close().unwrap();
    for path in files(&dir.path().join("t-0"), "index") {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().enumerate().for_each(|(n, byte)| *byte ^= (n * n + 7) as u8);
        std::fs::write(&path, bytes).unwrap();
    }
    let (log, _) = Log::open(&dir.path().join("t-0"), config, LastStop::Clean).unwrap();
    for offset in 0..end {
        let (found, limited, ended) = extents(&log, offset, 30_000);
        assert!(ended.len_bytes >= found.batch_len_bytes);
        assert_eq!(ended.len_bytes + ended.spared_bytes, limited.len_bytes);
    }
    assert_eq!(fetch_all(&log).last().unwrap().last_offset() + 1, end);
}
