//! Creations, growths and deletions of topics that a SIGKILL interrupts at any moment: after the
//! next start they are whole or undone, and a deleted topic takes its groups' offsets along.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use penstock_tests::records::batch;
use penstock_tests::rounds::{Dice, rounds, say};
use penstock_tests::volume::Volume;
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::messages::{
    CreatableTopic, CreatePartitionsRequest, CreatePartitionsTopic, CreateTopicsRequest,
    DeleteTopicsRequest, MetadataRequest, MetadataRequestTopic, OffsetCommitRequest,
    OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetFetchRequest,
    OffsetFetchRequestTopic,
};
use penstock_wire::{ErrorCode, Request, Response};

const TOPIC: &str = "t";
const PARTITIONS: i32 = 30;
const GROWN: i32 = 60;
const GROUP: &str = "g";

fn create() -> Request {
    creation_of(TOPIC, PARTITIONS)
}

fn creation_of(name: &str, num_partitions: i32) -> Request {
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions,
        replication_factor: 1,
        ..Default::default()
    };
    Request::CreateTopics(CreateTopicsRequest { topics: vec![topic], ..Default::default() })
}

fn grow() -> Request {
    let topic = CreatePartitionsTopic { name: TOPIC.into(), count: GROWN, ..Default::default() };
    Request::CreatePartitions(CreatePartitionsRequest { topics: vec![topic], ..Default::default() })
}

fn delete() -> Request {
    deletion_of(TOPIC)
}

fn deletion_of(name: &str) -> Request {
    let topic_names = vec![name.into()];
    Request::DeleteTopics(DeleteTopicsRequest { topic_names, ..Default::default() })
}

fn commit(client: &mut Client, offset: i64) -> ErrorCode {
    let partition = OffsetCommitRequestPartition {
        partition_index: 0,
        committed_offset: offset,
        ..Default::default()
    };
    let topic = OffsetCommitRequestTopic { name: TOPIC.into(), partitions: vec![partition] };
    let request = OffsetCommitRequest {
        group_id: GROUP.into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    match client.ask(&Request::OffsetCommit(request)).unwrap() {
        Response::OffsetCommit(response) => response.topics[0].partitions[0].error_code,
        _ => panic!("not an answer to OffsetCommit"),
    }
}

/// The group's committed offset of partition 0 (-1: none), and the count of topics with a commit.
fn committed(client: &mut Client) -> (i64, usize) {
    let mut ask = |topics| {
        let request = OffsetFetchRequest { group_id: GROUP.into(), topics, ..Default::default() };
        match client.ask_in(7, &Request::OffsetFetch(request)).unwrap() {
            Response::OffsetFetch(response) => response.topics,
            _ => panic!("not an answer to OffsetFetch"),
        }
    };
    let topic = OffsetFetchRequestTopic { name: TOPIC.into(), partition_indexes: vec![0] };
    let offset = ask(Some(vec![topic]))[0].partitions[0].committed_offset;
    (offset, ask(None).len())
}

/// The partitions of a topic with a leader, and those without.
fn partitions(client: &mut Client) -> (i32, i32) {
    partitions_of(client, TOPIC)
}

fn partitions_of(client: &mut Client, name: &str) -> (i32, i32) {
    let topics = Some(vec![MetadataRequestTopic { name: name.into() }]);
    let allow_auto_topic_creation = false;
    let request = MetadataRequest { topics, allow_auto_topic_creation, ..Default::default() };
    let Response::Metadata(response) = client.ask(&Request::Metadata(request)).unwrap() else {
        panic!("not an answer to Metadata");
    };
    let partitions = &response.topics[0].partitions;
    let led = partitions.iter().filter(|partition| partition.leader_id >= 0).count() as i32;
    (led, partitions.len() as i32 - led)
}

fn directories(data_dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap());
    let names = entries.filter(|entry| entry.path().is_dir());
    names.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

struct Life {
    _dir: tempfile::TempDir,
    start: Start,
}

impl Life {
    fn new() -> Life {
        let dir = tempfile::tempdir().unwrap();
        let start = Start::on(dir.path());
        Life { _dir: dir, start }
    }

    fn path(&self) -> &Path {
        self._dir.path()
    }

    fn start(&self) -> (Penstock, Client) {
        let server = self.start.start().unwrap();
        let client = server.client().unwrap();
        (server, client)
    }

    /// Starts the server with its warnings in a file, and returns the warnings.
    fn start_and_listen(&self) -> (Penstock, Client, String) {
        let lines = tempfile::NamedTempFile::new().unwrap();
        let server = self.start.start_with_log("warn", lines.path()).unwrap();
        let client = server.client().unwrap();
        (server, client, std::fs::read_to_string(lines.path()).unwrap())
    }

    /// Sends a request and kills the server at a moment before, during or after the change, which
    /// takes `took` without a kill.
    fn kill_during(&self, request: &Request, took: Duration, dice: &mut Dice) {
        let (server, mut client) = self.start();
        client.send(request, request.api_key().supported().max_version).unwrap();
        let moment_us = dice.within(0..took.as_micros() as usize * 3 / 2);
        std::thread::sleep(Duration::from_micros(moment_us as u64));
        server.kill().unwrap();
    }

    /// How long a change takes without a kill.
    fn time(&self, request: &Request) -> Duration {
        let (server, mut client) = self.start();
        let began = Instant::now();
        client.ask(request).unwrap();
        let took = began.elapsed();
        server.stop().unwrap();
        took
    }

    /// Changes the text of the registry's file.
    fn edit_registry(&self, from: &str, to: &str) {
        let path = self.path().join("penstock-topics.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Makes the topic of `request` on a quiet server.
    fn prepare(&self, count: i32) -> (Penstock, Client) {
        let (server, mut client) = self.start();
        assert_eq!(client.ask_for_topic(TOPIC, count, &[]).unwrap(), ErrorCode::NONE);
        (server, client)
    }

    fn remove(&self) {
        let (server, mut client) = self.start();
        client.ask(&delete()).unwrap();
        assert_eq!(directories(self.path()), BTreeSet::new());
        server.stop().unwrap();
    }
}

#[test]
fn a_killed_creation_leaves_a_whole_topic_or_none() {
    let mut dice = Dice::of("killed creations");
    let (life, mut whole) = (Life::new(), 0);
    let kills = rounds(15, 300);
    let took = life.time(&create());
    life.remove();
    for _ in 0..kills {
        life.kill_during(&create(), took, &mut dice);
        let (server, mut client) = life.start();
        let there = partitions(&mut client);
        assert!(there == (PARTITIONS, 0) || there == (0, 0), "{there:?}");
        assert_eq!(directories(life.path()).len(), there.0 as usize);
        if there.0 > 0 {
            whole += 1;
            let produced = client.produce(TOPIC, PARTITIONS - 1, 1, batch(&[vec![7]])).unwrap();
            assert_eq!((produced.error_code, produced.base_offset), (ErrorCode::NONE, 0));
            client.ask(&delete()).unwrap();
        }
        server.stop().unwrap();
    }
    say(format_args!("{kills} killed creations of {took:?}, {whole} whole"));
}

#[test]
fn a_killed_growth_leaves_as_many_partitions_as_before_or_as_were_asked_for() {
    let mut dice = Dice::of("killed growths");
    let (life, mut whole) = (Life::new(), 0);
    let kills = rounds(8, 300);
    life.prepare(PARTITIONS).0.stop().unwrap();
    let took = life.time(&grow());
    life.remove();
    for _ in 0..kills {
        let (server, mut client) = life.prepare(PARTITIONS);
        client.produce(TOPIC, 3, 1, batch(&[vec![7]])).unwrap();
        server.stop().unwrap();
        life.kill_during(&grow(), took, &mut dice);
        let (server, mut client) = life.start();
        let there = partitions(&mut client);
        assert!(there == (PARTITIONS, 0) || there == (GROWN, 0), "{there:?}");
        assert_eq!(directories(life.path()).len(), there.0 as usize);
        assert_eq!(client.offset_of(TOPIC, 3, -1).unwrap(), 1, "what was there is there");
        whole += usize::from(there.0 == GROWN);
        server.stop().unwrap();
        life.remove();
    }
    say(format_args!("{kills} killed growths of {took:?}, {whole} whole"));
}

#[test]
fn a_killed_deletion_leaves_the_whole_topic_or_nothing_and_no_offset_outlives_it() {
    let mut dice = Dice::of("killed deletions");
    let (life, mut gone) = (Life::new(), 0);
    let kills = rounds(8, 300);
    life.prepare(PARTITIONS).0.stop().unwrap();
    let took = life.time(&delete());
    for _ in 0..kills {
        let (server, mut client) = life.prepare(PARTITIONS);
        for partition in 0..PARTITIONS {
            client.produce(TOPIC, partition, 1, batch(&[vec![7]])).unwrap();
        }
        assert_eq!(commit(&mut client, 1), ErrorCode::NONE);
        server.stop().unwrap();
        life.kill_during(&delete(), took, &mut dice);
        let (server, mut client) = life.start();
        match partitions(&mut client) {
            (0, 0) => {
                gone += 1;
                assert_eq!(directories(life.path()), BTreeSet::new());
                assert_eq!(committed(&mut client), (-1, 0));
                client.ask(&create()).unwrap();
                assert_eq!(committed(&mut client), (-1, 0), "nor does it come back");
            }
            (PARTITIONS, 0) => {
                for partition in 0..PARTITIONS {
                    assert_eq!(client.offset_of(TOPIC, partition, -1).unwrap(), 1);
                }
                assert_eq!(committed(&mut client), (1, 1));
            }
            other => panic!("{other:?}"),
        }
        server.stop().unwrap();
        life.remove();
    }
    say(format_args!("{kills} killed deletions of {took:?}, {gone} topics gone"));
}

/// On a file system of its own, where unsynced bytes are lost. An answered change is kept. An
/// unanswered one is whole or undone.
#[test]
fn a_power_cut_during_creations_and_deletions_leaves_whole_topics_and_those_that_were_answered() {
    const DISK_BYTES: u64 = 512 << 20;
    let mut dice = Dice::of("power cuts during changes of topics");
    let cuts = rounds(4, 60);
    let dir = tempfile::tempdir().unwrap();
    let Some(mut volume) = Volume::make(dir.path(), DISK_BYTES, "").unwrap() else { return };
    let start = Start::on(&volume.path().join("data"));
    let mut there = BTreeSet::new();
    for _ in 0..cuts {
        let server = start.start().unwrap();
        let mut client = server.client().unwrap();
        // So many changes are answered; the next one is in flight when the power is cut.
        for _ in 0..dice.within(1..4) {
            let name = format!("t{}", dice.within(0..3));
            match there.remove(&name) {
                true => assert_eq!(client.ask_for_deletion(&name).unwrap(), ErrorCode::NONE),
                false => {
                    assert_eq!(client.ask_for_topic(&name, 6, &[]).unwrap(), ErrorCode::NONE);
                    there.insert(name);
                }
            }
        }
        let begun = format!("t{}", dice.within(0..3));
        let request = match there.contains(&begun) {
            true => deletion_of(&begun),
            false => creation_of(&begun, 6),
        };
        client.send(&request, request.api_key().supported().max_version).unwrap();
        std::thread::sleep(Duration::from_micros(dice.within(0..60_000) as u64));
        server.freeze().unwrap();
        volume.cut_power().unwrap();
        server.kill().unwrap();
        volume.unmount().unwrap();
        volume.mount().unwrap();

        let server = start.start().unwrap();
        let mut client = server.client().unwrap();
        let named = |client: &mut Client, name: &str| match partitions_of(client, name) {
            (6, 0) => true,
            (0, 0) => false,
            other => panic!("{name}: {other:?}"),
        };
        for name in ["t0", "t1", "t2"].iter().filter(|name| **name != begun) {
            assert_eq!(named(&mut client, name), there.contains(*name), "{name} was answered");
        }
        match named(&mut client, &begun) {
            true => there.insert(begun),
            false => there.remove(&begun),
        };
        assert_eq!(directories(&volume.path().join("data")).len(), 6 * there.len());
        server.stop().unwrap();
    }
    say(format_args!("{cuts} power cuts during changes of topics"));
}

#[test]
fn what_a_start_makes_of_an_interrupted_change_is_logged() {
    let life = Life::new();
    let (server, mut client) = life.prepare(3);
    client.produce(TOPIC, 0, 1, batch(&[vec![7]])).unwrap();
    server.stop().unwrap();
    life.edit_registry("partitions = 3", "partitions = 1\ngrowing-to = 3");
    let (server, mut client, lines) = life.start_and_listen();
    assert!(lines.contains("undid an interrupted creation of partitions"), "{lines}");
    assert_eq!(partitions(&mut client), (1, 0));
    assert_eq!(client.offset_of(TOPIC, 0, -1).unwrap(), 1);
    server.stop().unwrap();
    life.edit_registry("partitions = 1", "partitions = 1\ndeleting = true");
    let (server, mut client, lines) = life.start_and_listen();
    assert!(lines.contains("finishing an interrupted deletion"), "{lines}");
    assert_eq!((partitions(&mut client), directories(life.path()).len()), ((0, 0), 0));
    server.stop().unwrap();
}

/// No creation of Penstock can leave records in a partition that is still being made.
#[test]
fn a_partition_that_was_being_made_is_kept_if_it_has_records() {
    let life = Life::new();
    let (server, mut client) = life.prepare(2);
    client.produce(TOPIC, 1, 1, batch(&[vec![7]])).unwrap();
    server.stop().unwrap();
    life.edit_registry("partitions = 2", "partitions = 1\ngrowing-to = 2");
    let (server, mut client, lines) = life.start_and_listen();
    assert!(lines.contains("t-1 was only being made and has records"), "{lines}");
    assert_eq!(client.offset_of(TOPIC, 1, -1).unwrap(), 1);
    server.stop().unwrap();
}

#[test]
fn a_topic_made_again_knows_no_offset_of_the_one_before() {
    let life = Life::new();
    let (server, mut client) = life.prepare(1);
    client.produce(TOPIC, 0, 1, batch(&[vec![1], vec![2]])).unwrap();
    assert_eq!(commit(&mut client, 2), ErrorCode::NONE);
    assert_eq!(committed(&mut client), (2, 1));
    client.ask(&delete()).unwrap();
    assert_eq!(committed(&mut client), (-1, 0));
    assert_eq!(commit(&mut client, 2), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    client.ask(&create()).unwrap();
    assert_eq!(committed(&mut client), (-1, 0));
    assert_eq!(commit(&mut client, 0), ErrorCode::NONE);
    server.kill().unwrap();
    let (server, mut client) = life.start();
    assert_eq!(committed(&mut client), (0, 1));
    server.stop().unwrap();
}

/// A broker's share of a cluster, or a removed directory.
#[test]
fn partitions_that_are_not_here_are_listed_without_a_leader_and_refused_at_once() {
    let life = Life::new();
    let (server, _) = life.prepare(4);
    server.stop().unwrap();
    std::fs::remove_dir_all(life.path().join("t-0")).unwrap();
    std::fs::remove_dir_all(life.path().join("t-2")).unwrap();
    let (server, mut client) = life.start();
    assert_eq!(partitions(&mut client), (2, 2));
    let mut produce =
        |partition| client.produce(TOPIC, partition, 1, batch(&[vec![7]])).unwrap().error_code;
    assert_eq!(produce(0), ErrorCode::NOT_LEADER_OR_FOLLOWER);
    assert_eq!(produce(1), ErrorCode::NONE);
    assert_eq!(server.metrics().unwrap().value("penstock_partitions_offline"), 2);
    assert_eq!(client.ask_for_partitions(TOPIC, 6).unwrap(), ErrorCode::NONE);
    assert_eq!(partitions(&mut client), (4, 2), "growing makes none of those that are missing");
    server.stop().unwrap();
}
