//! Committed offsets from hand-made bytes: which commit counts, and what is skipped.

use super::*;
use crate::adopt::hand_made::{
    CONTROL, KeyValue, TRANSACTIONAL, batch, compact_string, control_key, string, write_segment,
};
use penstock_coordinator::Committed;

const NOW_MS: i64 = 1_000;

fn key(version: i16, group: &str, topic: &str, partition: i32) -> Option<Vec<u8>> {
    let partition = partition.to_be_bytes();
    Some([&version.to_be_bytes(), &string(group)[..], &string(topic), &partition].concat())
}

/// Offset, leader epoch from 3 on, metadata, commit time, expire time in 1, tagged topic id in 4.
fn value(version: i16, offset: i64, expires_ms: i64) -> Option<Vec<u8>> {
    let mut bytes = [&version.to_be_bytes()[..], &offset.to_be_bytes()].concat();
    if version >= 3 {
        bytes.extend(7i32.to_be_bytes());
    }
    let metadata = format!("at {offset}");
    bytes.extend(if version >= 4 { compact_string(&metadata) } else { string(&metadata) });
    bytes.extend(500i64.to_be_bytes());
    if version == 1 {
        bytes.extend(expires_ms.to_be_bytes());
    }
    if version >= 4 {
        bytes.extend([1, 0, 16]);
        bytes.extend([9; 16]);
    }
    Some(bytes)
}

fn commit(group: &str, partition: i32, offset: i64) -> KeyValue {
    (key(1, group, "t", partition), value(3, offset, -1))
}

fn delete(group: &str, partition: i32) -> KeyValue {
    (key(1, group, "t", partition), None)
}

fn plain(base_offset: i64, records: &[KeyValue]) -> Vec<u8> {
    batch(base_offset, 0, -1, records)
}

fn in_transaction(base_offset: i64, producer: i64, records: &[KeyValue]) -> Vec<u8> {
    batch(base_offset, TRANSACTIONAL, producer, records)
}

/// Ends a producer's transaction: 0 aborts, 1 commits.
fn marker(base_offset: i64, producer: i64, kind: i16) -> Vec<u8> {
    let record = (control_key(kind), Some(vec![0; 6]));
    batch(base_offset, TRANSACTIONAL | CONTROL, producer, &[record])
}

fn no_codec(_: Codec, _: &[u8]) -> Result<Vec<u8>, String> {
    Err("nothing here is compressed".to_owned())
}

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Directory {
        Directory(tempfile::tempdir().unwrap())
    }

    fn segment(&self, partition: i32, base_offset: i64, batches: &[Vec<u8>]) {
        let directory = self.0.path().join(format!("{TOPIC}-{partition}"));
        write_segment(&directory, base_offset, batches);
    }

    fn read(&self) -> CommittedOffsets {
        read(self.0.path(), &no_codec, &|_| None, NOW_MS).unwrap()
    }
}

fn read_one(batches: &[Vec<u8>]) -> CommittedOffsets {
    let directory = Directory::new();
    directory.segment(0, 0, batches);
    directory.read()
}

/// Group, partition, offset; by group.
fn offsets(read: &CommittedOffsets) -> Vec<(&str, i32, i64)> {
    let mut offsets: Vec<_> =
        read.offsets.iter().map(|of| (&*of.group, of.partition, of.at.offset)).collect();
    offsets.sort_unstable();
    offsets
}

#[test]
fn the_newest_commit_of_each_key_holds_whatever_segment_it_is_in() {
    let directory = Directory::new();
    directory.segment(1, 0, &[plain(0, &[commit("b", 0, 5), commit("b", 1, 6)])]);
    directory.segment(1, 10, &[plain(10, &[commit("b", 0, 3)])]);
    directory.segment(0, 0, &[plain(0, &[commit("a", 0, 1)])]);
    let read = directory.read();
    assert_eq!(offsets(&read), [("a", 0, 1), ("b", 0, 3), ("b", 1, 6)]);
    assert_eq!(read.report, Report::default());
}

#[test]
fn every_version_of_a_value_is_read() {
    for version in 0..=4 {
        let record = (key(version.min(1), "g", "t", 2), value(version, 77, -1));
        let read = read_one(&[plain(0, &[record])]);
        let leader_epoch = if version >= 3 { 7 } else { -1 };
        let committed = Committed { offset: 77, leader_epoch, metadata: "at 77".into() };
        let [of] = &read.offsets[..] else { panic!("{} offsets", read.offsets.len()) };
        assert_eq!((of.partition, of.committed_ms, &of.at), (2, 500, &committed), "{version}");
    }
}

#[test]
fn a_deleted_commit_is_gone_until_the_next_one() {
    let read = read_one(&[
        plain(0, &[commit("g", 0, 1), commit("g", 1, 2), delete("g", 0), delete("g", 1)]),
        plain(4, &[commit("g", 1, 9), delete("never", 0)]),
    ]);
    assert_eq!(offsets(&read), [("g", 1, 9)]);
}

#[test]
fn a_commit_that_has_expired_is_left_out_and_its_elder_does_not_come_back() {
    let until = |partition, at| (key(1, "g", "t", partition), value(1, 8, at));
    let read = read_one(&[plain(
        0,
        &[commit("g", 0, 1), until(0, NOW_MS), until(1, NOW_MS + 1), until(2, -1)],
    )]);
    assert_eq!(offsets(&read), [("g", 1, 8), ("g", 2, 8)]);
    assert_eq!(read.report.expired, 1);
}

#[test]
fn a_commit_about_a_former_topic_of_the_name_is_left_out() {
    let directory = Directory::new();
    let of = |topic, version| (key(1, "g", topic, 0), value(version, 5, -1));
    let records = [of("same", 4), of("made again", 4), of("unknown", 4), of("made again too", 3)];
    directory.segment(0, 0, &[plain(0, &records)]);
    let ids = |topic: &str| match topic {
        "same" => Some(TopicId([9; 16])),
        "unknown" => None,
        _ => Some(TopicId([8; 16])),
    };
    let read = read(directory.0.path(), &no_codec, &ids, NOW_MS).unwrap();
    let topics: Vec<&str> = read.offsets.iter().map(|of| &*of.topic).collect();
    assert_eq!(topics, ["made again too", "same", "unknown"]);
    assert_eq!(read.report, Report { outlived: 1, ..Report::default() });
}

#[test]
fn commits_of_a_transaction_count_when_it_is_committed() {
    let (one, other) = (41, 42);
    let read = read_one(&[
        in_transaction(0, one, &[commit("committed", 0, 10)]),
        in_transaction(1, other, &[commit("aborted", 0, 11)]),
        marker(2, other, 0),
        marker(3, one, 1),
        in_transaction(4, other, &[commit("open", 0, 12)]),
        marker(5, one, 1),
    ]);
    assert_eq!(offsets(&read), [("committed", 0, 10)]);
    assert_eq!(read.report.undecided, 1);
}

#[test]
fn a_transaction_never_overrides_what_was_written_after_its_commits() {
    let read = read_one(&[
        plain(0, &[commit("g", 1, 1), commit("g", 2, 1), commit("g", 3, 1)]),
        in_transaction(3, 41, &[commit("g", 0, 10), commit("g", 1, 10), commit("g", 2, 10)]),
        plain(6, &[commit("g", 0, 3), delete("g", 1)]),
        marker(8, 41, 1),
    ]);
    assert_eq!(offsets(&read), [("g", 0, 3), ("g", 2, 10), ("g", 3, 1)]);
}

#[test]
fn keys_of_groups_and_members_are_passed_over() {
    let other = |kind: i16| (Some([&kind.to_be_bytes()[..], &[0xff]].concat()), Some(vec![0xff]));
    let records: Vec<KeyValue> = (2..40).map(other).chain([commit("g", 0, 5)]).collect();
    let read = read_one(&[plain(0, &records)]);
    assert_eq!(read.report, Report::default());
}

#[test]
fn what_cannot_be_read_is_counted_and_an_older_commit_stands() {
    let bad = |key, value: &[u8]| (key, Some(value.to_vec()));
    let of_g = || key(1, "g", "t", 0);
    let read = read_one(&[plain(
        0,
        &[
            commit("g", 0, 5),
            bad(of_g(), &[0, 5, 0]),
            bad(of_g(), &[0, 3, 0]),
            bad(Some(vec![0, 1, 0, 9, b'g']), &[]),
            bad(None, &[]),
            (of_g(), value(3, -1, -1)),
            commit("h", 0, 6),
        ],
    )]);
    assert_eq!(offsets(&read), [("g", 0, 5), ("h", 0, 6)]);
    assert_eq!(read.report.unreadable, 5);
}

#[test]
fn a_damaged_batch_is_passed_over_and_a_torn_end_is_no_damage() {
    let mut damaged = plain(1, &[commit("g", 0, 6)]);
    damaged[70] ^= 1;
    let torn = plain(3, &[commit("g", 0, 8)]);
    let directory = Directory::new();
    let batches = [plain(0, &[commit("g", 0, 5)]), damaged, plain(2, &[commit("h", 0, 7)])];
    directory.segment(0, 0, &batches);
    directory.segment(0, 3, &[torn[..50].to_vec()]);
    let read = directory.read();
    assert_eq!(offsets(&read), [("g", 0, 5), ("h", 0, 7)]);
    assert_eq!(read.report.unreadable, 1);
    directory.segment(0, 9, &[plain(9, &[commit("h", 0, 9)])]);
    assert_eq!(directory.read().report.unreadable, 2, "torn, but not at the log's end");
}

#[test]
fn compressed_batches_are_given_to_the_codec() {
    let mut compressed = plain(0, &[commit("g", 0, 5)]);
    compressed[22] = Codec::Zstd as u8;
    let crc = crc_fast::crc32_iscsi(&compressed[21..]);
    compressed[17..21].copy_from_slice(&crc.to_be_bytes());
    let directory = Directory::new();
    directory.segment(0, 0, &[compressed]);
    // A codec that changes nothing suffices to see that it is called.
    let same =
        |codec, body: &[u8]| (codec == Codec::Zstd).then(|| body.to_vec()).ok_or_else(String::new);
    let read = read(directory.0.path(), &same, &|_| None, NOW_MS).unwrap();
    assert_eq!(offsets(&read), [("g", 0, 5)]);
    assert_eq!(directory.read().report, Report { unreadable: 1, ..Report::default() });
}

#[test]
fn directories_of_other_topics_and_deleted_ones_are_not_read() {
    let directory = Directory::new();
    for name in ["t-0", "__consumer_offsets-0.0123456789abcdef0123456789abcdef-delete"] {
        write_segment(&directory.0.path().join(name), 0, &[plain(0, &[commit("g", 0, 5)])]);
    }
    assert!(directory.read().offsets.is_empty());
}
