//! A partition whose files cannot be used: the server starts all the same, logs it, keeps its name,
//! and serves the others. A repaired partition is served after the next start.

use std::path::Path;

use penstock_tests::records::{batch, bytes_of, records_from};
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::messages::{
    DeleteTopicsRequest, MetadataRequest, MetadataRequestTopic, MetadataResponsePartition,
};
use penstock_wire::{ErrorCode, Request, Response};

const SEGMENT: &str = "00000000000000000000.log";

/// Topics `good` and `bad`. Then a file of `bad-1` is replaced by something else.
fn broken(file: &str, break_it: impl FnOnce(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("good", 1, &[]).unwrap();
    client.create_topic("bad", 2, &[("retention.ms", "-1")]).unwrap();
    for (topic, partition) in [("good", 0), ("bad", 0), ("bad", 1)] {
        assert_eq!(produce(&mut client, topic, partition), ErrorCode::NONE);
    }
    server.stop().unwrap();
    let file = dir.path().join("bad-1").join(file);
    std::fs::rename(&file, dir.path().join("aside")).unwrap();
    break_it(&file);
    dir
}

fn torn_metadata() -> tempfile::TempDir {
    broken("partition.metadata", |file| std::fs::write(file, "version: 0\nto").unwrap())
}

/// A link to itself. To open it fails with ELOOP, as a bad sector under a directory's inode makes
/// it fail with EIO.
fn unreadable_segment() -> tempfile::TempDir {
    broken(SEGMENT, |file| std::os::unix::fs::symlink(file, file).unwrap())
}

/// A server whose log lines go to `<dir>/lines`.
fn start(dir: &Path) -> Penstock {
    let mut command = penstock_tests::program("penstock");
    command.args(Start::on(dir).arguments());
    command.stderr(std::fs::File::create(dir.join("lines")).unwrap());
    Penstock::start(command).unwrap()
}

fn produce(client: &mut Client, topic: &str, partition: i32) -> ErrorCode {
    client.produce(topic, partition, 1, batch(&[vec![7; 100]])).unwrap().error_code
}

fn delete(client: &mut Client, topic: &str) -> ErrorCode {
    let request = DeleteTopicsRequest { topic_names: vec![topic.into()], ..Default::default() };
    match client.ask(&Request::DeleteTopics(request)).unwrap() {
        Response::DeleteTopics(response) => response.responses[0].error_code,
        _ => panic!("not an answer to DeleteTopics"),
    }
}

fn described(client: &mut Client, topic: &str) -> Vec<MetadataResponsePartition> {
    let topics = Some(vec![MetadataRequestTopic { name: topic.into() }]);
    let request = MetadataRequest { topics, ..Default::default() };
    match client.ask(&Request::Metadata(request)).unwrap() {
        Response::Metadata(mut response) => response.topics.remove(0).partitions,
        _ => panic!("not an answer to Metadata"),
    }
}

/// Checks that everything is served but `bad-1`, which keeps its place.
fn check_served(server: &Penstock) {
    let mut client = server.client().unwrap();
    for (topic, partition) in [("good", 0), ("bad", 0)] {
        assert_eq!(produce(&mut client, topic, partition), ErrorCode::NONE);
        let fetched = client.fetch(topic, partition, 0).unwrap();
        assert!(!records_from(&bytes_of(&fetched), 0).is_empty());
    }
    assert_eq!(produce(&mut client, "bad", 1), ErrorCode::KAFKA_STORAGE_ERROR);
    let fetched = client.fetch("bad", 1, 0).unwrap();
    assert_eq!(fetched.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    let partitions = described(&mut client, "bad");
    let errors: Vec<_> = partitions.iter().map(|p| (p.partition_index, p.error_code)).collect();
    assert_eq!(errors, [(0, ErrorCode::NONE), (1, ErrorCode::LEADER_NOT_AVAILABLE)]);
    assert_eq!((partitions[1].leader_id, partitions[1].offline_replicas.len()), (-1, 1));
    assert_eq!(client.ask_for_topic("bad", 1, &[]).unwrap(), ErrorCode::TOPIC_ALREADY_EXISTS);
    assert_eq!(client.ask_for_partitions("bad", 2).unwrap(), ErrorCode::INVALID_PARTITIONS);
    let metrics = server.metrics().unwrap();
    assert_eq!(metrics.value("penstock_partitions_offline"), 1);
}

#[test]
fn a_partition_that_cannot_be_opened_keeps_no_other_from_being_served() {
    for (dir, file) in [(torn_metadata(), "partition.metadata"), (unreadable_segment(), SEGMENT)] {
        let server = start(dir.path());
        check_served(&server);
        server.kill().unwrap();
        let lines = std::fs::read_to_string(dir.path().join("lines")).unwrap();
        assert_eq!(lines.lines().count(), 1, "one line for it: {lines}");
        assert!(lines.contains("bad-1") && lines.contains(file), "{lines}");
    }
}

#[test]
fn a_partition_that_was_mended_is_served_after_the_next_start_with_all_it_had() {
    let dir = unreadable_segment();
    let server = start(dir.path());
    check_served(&server);
    let mut client = server.client().unwrap();
    assert_eq!(client.ask_for_partitions("bad", 3).unwrap(), ErrorCode::NONE);
    assert_eq!(produce(&mut client, "bad", 2), ErrorCode::NONE);
    // Its log was not closed, so the line about the stop before is not repeated.
    assert!(server.stop().is_err());
    assert!(!dir.path().join(".kafka_cleanshutdown").exists());
    let points = std::fs::read_to_string(dir.path().join("penstock-recovery-points")).unwrap();
    assert!(points.contains("\nbad 1 "), "where it was synced to is not forgotten: {points}");

    std::fs::rename(dir.path().join("aside"), dir.path().join("bad-1").join(SEGMENT)).unwrap();
    let server = start(dir.path());
    let mut client = server.client().unwrap();
    assert_eq!(server.metrics().unwrap().value("penstock_partitions_offline"), 0);
    assert_eq!(records_from(&bytes_of(&client.fetch("bad", 1, 0).unwrap()), 0).len(), 1);
    assert_eq!(produce(&mut client, "bad", 1), ErrorCode::NONE);
    server.stop().unwrap();
}

#[test]
fn a_topic_with_a_partition_that_cannot_be_opened_can_be_deleted_and_made_anew() {
    let dir = torn_metadata();
    let server = start(dir.path());
    let mut client = server.client().unwrap();
    assert_eq!(delete(&mut client, "bad"), ErrorCode::NONE);
    assert!(!dir.path().join("bad-1").exists());
    client.create_topic("bad", 2, &[]).unwrap();
    assert_eq!(produce(&mut client, "bad", 1), ErrorCode::NONE);
    assert_eq!(server.metrics().unwrap().value("penstock_partitions_offline"), 0);
    server.stop().unwrap();
}
