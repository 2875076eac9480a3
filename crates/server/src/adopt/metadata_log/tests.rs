//! The metadata log from hand-made bytes: every kind of record, snapshots, and what may be torn.

use std::path::PathBuf;

use super::*;
use crate::adopt::hand_made::{CONTROL, batch, compact_string, control_key, write_segment};

const ID: [u8; 16] = [7; 16];

/// Frame version, type, version, fields, no tagged fields.
fn record(kind: u8, version: u8, fields: &[&[u8]]) -> Vec<u8> {
    [&[1, kind, version], &fields.concat()[..], &[0]].concat()
}

fn topic(name: &str, id: [u8; 16]) -> Vec<u8> {
    record(2, 0, &[&compact_string(name), &id])
}

fn partition(id: [u8; 16], partition: i32, replica: i32) -> Vec<u8> {
    // Fields behind the replicas are not read; here they are not even there.
    record(3, 2, &[&partition.to_be_bytes(), &id, &[2], &replica.to_be_bytes()])
}

fn config(kind: i8, of: &str, name: &str, value: Option<&str>) -> Vec<u8> {
    let value = value.map_or(vec![0], compact_string);
    let (of, name) = (compact_string(of), compact_string(name));
    record(4, 0, &[&kind.to_be_bytes(), &of, &name, &value])
}

fn remove_topic(id: [u8; 16]) -> Vec<u8> {
    record(9, 0, &[&id])
}

fn transaction(kind: u8) -> Vec<u8> {
    record(kind, 0, &[])
}

const BEGIN: u8 = 23;
const END: u8 = 24;
const ABORT: u8 = 25;

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Directory {
        let directory = Directory(tempfile::tempdir().unwrap());
        std::fs::create_dir(directory.log()).unwrap();
        directory
    }

    fn log(&self) -> PathBuf {
        self.0.path().join(DIRECTORY)
    }

    fn segment(&self, base_offset: i64, batches: &[Vec<u8>]) {
        write_segment(&self.log(), base_offset, batches);
    }

    fn snapshot(&self, name: &str, batches: &[Vec<u8>]) {
        std::fs::write(self.log().join(name), batches.concat()).unwrap();
    }

    fn read(&self) -> Metadata {
        read(self.0.path()).unwrap().unwrap()
    }

    fn error(&self) -> String {
        read(self.0.path()).unwrap_err().to_string()
    }
}

fn records(base_offset: i64, values: &[Vec<u8>]) -> Vec<u8> {
    let records: Vec<_> = values.iter().map(|value| (None, Some(value.clone()))).collect();
    batch(base_offset, 0, -1, &records)
}

fn control(base_offset: i64, kind: i16) -> Vec<u8> {
    batch(base_offset, CONTROL, -1, &[(control_key(kind), Some(vec![0, 0]))])
}

fn replay(values: &[Vec<u8>]) -> Metadata {
    let directory = Directory::new();
    directory.segment(0, &[records(0, values)]);
    directory.read()
}

fn pairs(configs: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    configs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn a_directory_without_a_metadata_log_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read(dir.path()).unwrap(), None);
    std::fs::create_dir(dir.path().join(DIRECTORY)).unwrap();
    assert!(read(dir.path()).unwrap_err().to_string().contains("neither a snapshot nor a segment"));
}

#[test]
fn topics_have_their_partitions_and_the_configs_that_were_set_last() {
    let metadata = replay(&[
        topic("t", ID),
        partition(ID, 0, 1),
        partition(ID, 2, 3),
        config(2, "t", "retention.ms", Some("5")),
        config(2, "t", "segment.ms", Some("6")),
        config(2, "t", "retention.ms", Some("-1")),
        config(2, "t", "segment.ms", None),
        config(4, "", "log.retention.ms", Some("9")),
        config(4, "1", "log.segment.bytes", Some("8")),
        config(4, "2", "log.segment.bytes", Some("8")),
        config(4, "2", "log.segment.bytes", None),
        config(16, "metrics", "interval.ms", Some("8")),
    ]);
    let topic = &metadata.topics["t"];
    assert_eq!((topic.id, topic.partition_count()), (TopicId(ID), 3));
    assert_eq!(topic.replicas, BTreeMap::from([(0, vec![1]), (2, vec![3])]));
    assert_eq!(pairs(&topic.configs), [("retention.ms", "-1")]);
    let of = |node: &str| metadata.broker_configs.get(node).map(pairs);
    assert_eq!(of(""), Some(vec![("log.retention.ms", "9")]));
    assert_eq!(of("1"), Some(vec![("log.segment.bytes", "8")]));
    assert_eq!(of("2"), None);
}

#[test]
fn a_topic_made_again_has_none_of_its_former_configs_and_partitions() {
    let again = [8; 16];
    let metadata = replay(&[
        topic("t", ID),
        partition(ID, 0, 1),
        partition(ID, 1, 1),
        config(2, "t", "retention.ms", Some("5")),
        remove_topic(ID),
        topic("t", again),
        partition(again, 0, 1),
        topic("gone", ID),
        config(2, "gone", "retention.ms", Some("5")),
        remove_topic(ID),
    ]);
    assert_eq!(metadata.topics.keys().collect::<Vec<_>>(), ["t"]);
    let topic = &metadata.topics["t"];
    assert_eq!((topic.id.0, topic.partition_count(), topic.configs.len()), (again, 1, 0));
}

#[test]
fn a_reassignment_changes_the_replicas_and_other_changes_do_not() {
    let isr = [&[1u8, 0, 5, 2][..], &9i32.to_be_bytes()].concat();
    let replicas = [&[1u8, 2, 5, 2][..], &4i32.to_be_bytes()].concat();
    let change = |tags: &[u8]| [&[1, 5, 2][..], &0i32.to_be_bytes(), &ID, tags].concat();
    let of = |change| {
        replay(&[topic("t", ID), partition(ID, 0, 1), change]).topics["t"].replicas[&0].clone()
    };
    assert_eq!(of(change(&isr)), [1]);
    assert_eq!(of(change(&replicas)), [4]);
}

#[test]
fn a_transaction_counts_at_its_end_and_only_there() {
    let within = |end: Option<u8>| {
        let mut records = vec![topic("before", ID), transaction(BEGIN)];
        records.extend([topic("t", [8; 16]), config(2, "before", "retention.ms", Some("5"))]);
        records.extend(end.map(transaction));
        replay(&records)
    };
    assert_eq!(within(Some(END)).topics.len(), 2);
    assert_eq!(pairs(&within(Some(END)).topics["before"].configs), [("retention.ms", "5")]);
    for end in [Some(ABORT), None] {
        let metadata = within(end);
        assert_eq!(metadata.topics.keys().collect::<Vec<_>>(), ["before"], "{end:?}");
        assert!(metadata.topics["before"].configs.is_empty());
    }
}

#[test]
fn unknown_types_and_control_batches_are_passed_over() {
    let directory = Directory::new();
    let unknown = vec![1, 0xff, 0x01, 9, 1, 2, 3];
    directory.segment(0, &[control(0, 2), records(1, &[unknown, topic("t", ID)])]);
    assert_eq!(directory.read().topics.len(), 1);
}

#[test]
fn the_latest_snapshot_counts_with_what_the_log_has_behind_it() {
    let directory = Directory::new();
    let old = records(0, &[topic("old", [1; 16])]);
    directory.snapshot(&format!("{:020}-{:010}.checkpoint", 4, 1), &[old.clone(), control(1, 4)]);
    directory.snapshot(&format!("{:020}-{:010}.checkpoint.part", 9, 1), &[old]);
    let new = records(1, &[topic("t", ID), config(2, "t", "a", Some("snapshot"))]);
    let latest = [control(0, 3), new, control(3, 4)];
    directory.snapshot(&format!("{:020}-{:010}.checkpoint", 7, 1), &latest);
    // Offset 6 is in the snapshot, 7 is not, although they are in one batch here.
    directory.segment(3, &[records(3, &[topic("x", [2; 16]), transaction(END)])]);
    let set = |name, value| config(2, "t", name, Some(value));
    directory.segment(5, &[records(5, &[set("b", "5"), set("c", "6"), set("d", "7")])]);
    let metadata = directory.read();
    assert_eq!(metadata.topics.keys().collect::<Vec<_>>(), ["t"]);
    assert_eq!(pairs(&metadata.topics["t"].configs), [("a", "snapshot"), ("d", "7")]);
}

#[test]
fn a_torn_end_of_the_log_is_left_out() {
    let directory = Directory::new();
    let torn = records(1, &[topic("torn", [1; 16])]);
    directory.segment(0, &[records(0, &[topic("t", ID)]), torn[..torn.len() - 1].to_vec()]);
    assert_eq!(directory.read().topics.keys().collect::<Vec<_>>(), ["t"]);
}

#[test]
fn anything_else_that_cannot_be_read_is_an_error_with_its_place() {
    let first = records(0, &[topic("t", ID)]);
    let second = records(1, &[config(2, "t", "retention.ms", Some("5"))]);
    let third = records(2, &[config(2, "t", "retention.ms", Some("6"))]);
    let mut damaged = second.clone();
    damaged[70] ^= 1;
    let mut compressed = second.clone();
    compressed[22] = 1;
    let crc = crc_fast::crc32_iscsi(&compressed[21..]);
    compressed[17..21].copy_from_slice(&crc.to_be_bytes());

    let behind = |values: &[Vec<u8>]| vec![records(1, values)];
    let cases = [
        (vec![damaged, third.clone()], "no sound batch"),
        (vec![third.clone()], "records 1 to before 2 are missing"),
        (vec![compressed], "compressed"),
        (behind(&[vec![2, 2, 0]]), "frame version is 2"),
        (behind(&[vec![1, 4, 1]]), "ConfigRecord 1 is newer"),
        (behind(&[vec![1, 4, 0, 2]]), "ConfigRecord 0: "),
        (behind(&[transaction(END)]), "has not begun"),
        (behind(&[remove_topic([9; 16])]), "there is none"),
    ];
    for (batches, words) in cases {
        let directory = Directory::new();
        directory.segment(0, &[vec![first.clone()], batches].concat());
        let error = directory.error();
        let place = format!("00000000000000000000.log, position {}: ", first.len());
        assert!(error.contains(words) && error.contains(&place), "{words}: {error}");
    }

    let directory = Directory::new();
    directory.segment(0, &[first, second[..30].to_vec()]);
    directory.segment(2, &[third]);
    assert!(directory.error().contains("no sound batch"), "torn, but not at the log's end");
}

#[test]
fn a_log_whose_beginning_is_in_no_snapshot_is_an_error() {
    let directory = Directory::new();
    directory.segment(3, &[records(3, &[topic("t", ID)])]);
    assert!(directory.error().contains("records 0 to before 3 are missing"));
    let snapshot = format!("{:020}-{:010}.checkpoint", 2, 1);
    directory.snapshot(&snapshot, &[control(0, 4)]);
    assert!(directory.error().contains("records 2 to before 3 are missing"));
}

#[test]
fn a_snapshot_without_its_footer_is_not_whole() {
    let directory = Directory::new();
    let name = format!("{:020}-{:010}.checkpoint", 1, 1);
    let batches = [control(0, 3), records(1, &[topic("t", ID)]), control(2, 4)];
    directory.snapshot(&name, &batches[..2]);
    assert!(directory.error().contains("no footer"));
    let torn = batches[2][..40].to_vec();
    directory.snapshot(&name, &[batches[..2].to_vec(), vec![torn]].concat());
    assert!(directory.error().contains("no sound batch"));
    directory.snapshot(&name, &batches);
    assert_eq!(directory.read().topics.len(), 1);
}
