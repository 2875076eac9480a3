//! A disk that is full and has room in turn, at any moment of all that a server writes: appends,
//! rolls, creations and deletions of topics, retention, checkpoints, commits of offsets, stops, and
//! starts after a stop or a kill.
//!
//! No acknowledged record is missing, no partition goes offline, and a stop exits with 0.

use std::path::Path;
use std::time::{Duration, Instant};

use penstock_tests::load::Load;
use penstock_tests::records::batch_of;
use penstock_tests::rounds::{Dice, rounds, say};
use penstock_tests::small_disk::{FileSystem, SmallDisk};
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::messages::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    OffsetFetchRequest, OffsetFetchRequestTopic,
};
use penstock_wire::{ErrorCode, Request, Response};

/// Settings with which background work is always busy.
const SETTINGS: [(&str, &str); 3] = [
    ("log.retention.check.interval.ms", "50"),
    ("flush.checkpoint.interval.ms", "100"),
    ("log.retention.ms", "-1"),
];

/// A topic whose segments expire as fast as they are written.
const PASSING: &str = "passing";
const PASSING_CONFIG: [(&str, &str); 2] =
    [("segment.bytes", "20000"), ("retention.bytes", "40000")];

/// Topics that come and go.
const BRIEF: [&str; 2] = ["brief-0", "brief-1"];

const GROUP: &str = "group";

/// The error codes that a full disk may cause, beside those that follow from earlier answers.
const REFUSALS: [ErrorCode; 5] = [
    ErrorCode::NONE,
    ErrorCode::KAFKA_STORAGE_ERROR,
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode::TOPIC_ALREADY_EXISTS,
    ErrorCode::COORDINATOR_NOT_AVAILABLE,
];

#[test]
fn a_disk_that_fills_at_any_moment_loses_nothing_and_takes_nothing_offline() {
    for _ in 0..rounds(1, 15) {
        FileSystem::ALL.into_iter().for_each(live_on);
    }
}

/// Few lives on one disk, because acknowledged records stay and fill it for good.
fn live_on(kind: FileSystem) {
    const LIVES: usize = 2;
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path(), kind).unwrap() else { return };
    let mut dice = Dice::of("a disk that fills at any moment");
    let durability = ["os", "fsync"][dice.within(0..2)];
    let start = Start::on(&disk.data_dir()).set(&SETTINGS);
    let start = start.with(&["--durability", durability]);
    let (mut world, began) = (World::begin(&start, &mut dice), Instant::now());
    let records = (0..LIVES).map(|_| world.live(&start, &disk, &mut dice)).last();
    let took = began.elapsed();
    say(format_args!("{kind:?}, {durability}: {LIVES} lives, {records:?} records, {took:?}"));
    world.server.take().unwrap().stop().unwrap();
}

struct World {
    server: Option<Penstock>,
    load: Load,
    commits: Commits,
}

/// The offsets that a group has committed for partition 0 of `PASSING`, ascending.
#[derive(Debug, Default)]
struct Commits {
    tried: i64,
    acknowledged: i64,
}

impl World {
    fn begin(start: &Start, dice: &mut Dice) -> World {
        let server = start.start().unwrap();
        let mut client = server.client().unwrap();
        client.create_topic(PASSING, 1, &PASSING_CONFIG).unwrap();
        let mut load = Load::create(&mut client, dice);
        // Idempotent producers get their ids while there is room.
        load.under(server.address(), |journal| journal.wait_for_more(20));
        World { server: Some(server), load, commits: Commits::default() }
    }

    /// Runs until the next start, which may find a full disk. Returns the records that exist then.
    fn live(&mut self, start: &Start, disk: &SmallDisk, dice: &mut Dice) -> usize {
        let server = self.server.take().unwrap();
        let mut is_full = false;
        for _ in 0..3 {
            let (commits, address) = (&mut self.commits, server.address());
            self.load.under(address, |_| {
                let mut client = Client::connect(address).unwrap();
                for _ in 0..dice.within(5..40) {
                    turn(&mut client, commits, disk, &mut is_full, dice);
                }
            });
            self.check_served(&server, &disk.data_dir());
        }
        // Acknowledged commits are not lost.
        let committed = committed(&mut server.client().unwrap());
        assert_eq!(committed, self.commits.acknowledged);
        match dice.within(0..2) {
            0 => server.kill().unwrap(),
            _ => server.stop().unwrap(),
        }
        let server = start.start().unwrap();
        self.check_served(&server, &disk.data_dir());
        if is_full {
            disk.give_back();
        }
        self.load.under(server.address(), |journal| journal.wait_for_more(200));
        let mut client = server.client().unwrap();
        let found = self::committed(&mut client);
        assert!((self.commits.acknowledged..=self.commits.tried).contains(&found));
        self.commits.acknowledged = found;
        assert!(client.produce(PASSING, 0, 1, batch_of(100)).unwrap().error_code.is_none());
        let witness = self.load.witness(Path::new("/"));
        let records = witness.check_served(&mut client, self.load.journal());
        self.server = Some(server);
        records
    }

    fn check_served(&self, server: &Penstock, data_dir: &Path) {
        assert_eq!(server.metrics().unwrap().value("penstock_partitions_offline"), 0);
        let mut client = server.client().unwrap();
        self.load.witness(data_dir).check_served(&mut client, self.load.journal());
    }
}

/// One operation that needs room, or a change of the free room.
fn turn(
    client: &mut Client,
    commits: &mut Commits,
    disk: &SmallDisk,
    is_full: &mut bool,
    dice: &mut Dice,
) {
    let brief = BRIEF[dice.within(0..2)];
    let answer = match dice.within(0..8) {
        0 if *is_full => {
            disk.give_back();
            *is_full = false;
            return;
        }
        0 | 1 if !*is_full => {
            disk.take([0, 4096, 40_000, 300_000][dice.within(0..4)]);
            *is_full = true;
            return;
        }
        2 => client.ask_for_topic(brief, 2, &[]).unwrap(),
        3 => client.ask_for_deletion(brief).unwrap(),
        4 | 5 => {
            commits.tried += 1;
            let answer = commit(client, commits.tried);
            if answer.is_none() {
                commits.acknowledged = commits.tried;
            }
            answer
        }
        6 => {
            std::thread::sleep(Duration::from_millis(dice.within(0..60) as u64));
            return;
        }
        _ => client.produce(PASSING, 0, 1, batch_of(dice.within(10..9000))).unwrap().error_code,
    };
    assert!(REFUSALS.contains(&answer), "{answer:?}");
}

fn commit(client: &mut Client, offset: i64) -> ErrorCode {
    let partition = OffsetCommitRequestPartition {
        partition_index: 0,
        committed_offset: offset,
        ..Default::default()
    };
    let topic = OffsetCommitRequestTopic { name: PASSING.into(), partitions: vec![partition] };
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

fn committed(client: &mut Client) -> i64 {
    let topic = OffsetFetchRequestTopic { name: PASSING.into(), partition_indexes: vec![0] };
    let topics = Some(vec![topic]);
    let request = OffsetFetchRequest { group_id: GROUP.into(), topics, ..Default::default() };
    match client.ask_in(7, &Request::OffsetFetch(request)).unwrap() {
        Response::OffsetFetch(response) => response.topics[0].partitions[0].committed_offset.max(0),
        _ => panic!("not an answer to OffsetFetch"),
    }
}
