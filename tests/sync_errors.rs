//! A sync that fails: the partition goes offline and stays so, even when the disk works again. No
//! acknowledged record is missing after a restart.
//!
//! The disk is a sparse file on a tmpfs that another file fills. Writes succeed in the page cache,
//! and the sync reports that they did not reach the disk. A second sync would report success
//! (KERNEL.md).
//!
//! ```text
//!   tmpfs: │ volume.image (ext4, mounted; needs more and more) ──►│◄── foreign file │
//! ```

use std::path::Path;

use penstock_tests::load::{Load, PARTITIONS};
use penstock_tests::producer::End;
use penstock_tests::rounds::{Dice, rounds, say};
use penstock_tests::volume::{Mount, Volume};
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::messages::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetFetchRequest,
};
use penstock_wire::{ErrorCode, Request, Response};

const DISK_BYTES: u64 = 256 << 20;
const TMPFS_BYTES: u64 = 64 << 20;
/// Bytes of the tmpfs that the foreign file leaves free.
const LEFT_BYTES: u64 = 4 << 20;

#[test]
fn after_a_failed_sync_nothing_more_is_acknowledged_and_all_that_was_is_there() {
    fail_syncs("fsync", &[("durability", "fsync")]);
}

#[test]
fn with_flush_messages_of_1_it_is_the_same() {
    fail_syncs("flush.messages", &[("log.flush.interval.messages", "1")]);
}

fn fail_syncs(name: &str, settings: &[(&str, &str)]) {
    let mut dice = Dice::of(&format!("failing syncs of {name}"));
    for _ in 0..rounds(1, 10) {
        let dir = tempfile::tempdir().unwrap();
        let tmpfs = dir.path().join("tmpfs");
        let Some(_mount) = Mount::tmpfs(&tmpfs, TMPFS_BYTES).unwrap() else { return };
        let Some(volume) = Volume::make(&tmpfs, DISK_BYTES, "").unwrap() else {
            return;
        };
        fail_syncs_under_load(&tmpfs, volume, settings, &mut dice);
    }
}

fn fail_syncs_under_load(
    tmpfs: &Path,
    mut volume: Volume,
    settings: &[(&str, &str)],
    dice: &mut Dice,
) {
    let data_dir = volume.path().join("data");
    let start = Start::on(&data_dir).set(settings);
    let server = start.start().unwrap();
    let mut load = Load::create(&mut server.client().unwrap(), dice);
    // One sync at a time, because ext4 may confirm one of two that it gives up (KERNEL.md).
    load.keep_first_partition();
    let witness = load.witness(&data_dir);

    let foreign = tmpfs.join("foreign");
    fill(tmpfs, &foreign);
    let ended = load.until_producers_end(server.address());
    assert_offline(&server, &ended);
    let acknowledged = load.journal().acknowledgements();
    assert!(acknowledged > 0);

    // From now on a second sync would succeed.
    std::fs::remove_file(&foreign).unwrap();
    let ended = load.until_producers_end(server.address());
    assert_offline(&server, &ended);
    assert_eq!(load.journal().acknowledgements(), acknowledged);
    let mut client = server.client().unwrap();
    for partition in 0..PARTITIONS as i32 {
        let log = witness.served(&mut client, partition);
        load.journal().check_log(partition, &log);
        assert_eq!(load.journal().missing(partition, &log), [0i64; 0], "sound data is served");
    }

    server.kill().unwrap();
    volume.unmount().unwrap();
    volume.mount().unwrap();
    let server = start.start().unwrap();
    witness.check(&mut server.client().unwrap(), load.journal());
    load.under(server.address(), |journal| journal.wait_for_more(20));
    witness.check(&mut server.client().unwrap(), load.journal());
    server.kill().unwrap();
    say(format_args!("{acknowledged} requests acknowledged before the sync failed, none lost"));
}

/// Once a refused commit stayed in the journal and was in effect after a restart.
#[test]
fn an_offset_whose_sync_failed_is_not_committed_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let tmpfs = dir.path().join("tmpfs");
    let Some(_mount) = Mount::tmpfs(&tmpfs, TMPFS_BYTES).unwrap() else { return };
    // Without a journal, because with one ext4 may stop all writes, and no file can be truncated
    // any more.
    let Some(volume) = Volume::make(&tmpfs, DISK_BYTES, "^has_journal").unwrap() else { return };
    let start = Start::on(&volume.path().join("data")).with(&["--durability", "fsync"]);
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("t", COMMITTED_PARTITIONS, &[]).unwrap();
    fill(&tmpfs, &tmpfs.join("foreign"));

    let mut committed = -1;
    while commit(&mut client, committed + 1).is_none() {
        committed += 1;
        assert!(committed < 10_000, "no sync fails");
    }
    assert!(committed >= 0);
    assert_eq!(fetch_committed(&mut client), committed);
    // The disk works again, and no power was cut, so the page cache is unchanged.
    std::fs::remove_file(tmpfs.join("foreign")).unwrap();
    assert_eq!(commit(&mut client, committed + 2), ErrorCode::COORDINATOR_NOT_AVAILABLE);
    server.kill().unwrap();
    let server = start.start().unwrap();
    assert_eq!(fetch_committed(&mut server.client().unwrap()), committed);
    server.kill().unwrap();
}

/// Enough that a commit takes 64 KiB of the disk.
const COMMITTED_PARTITIONS: i32 = 16;

/// Commits the same offset for all partitions, with the longest metadata.
fn commit(client: &mut Client, offset: i64) -> ErrorCode {
    let partition = |index| OffsetCommitRequestPartition {
        partition_index: index,
        committed_offset: offset,
        committed_metadata: Some("x".repeat(4096).into()),
        ..OffsetCommitRequestPartition::default()
    };
    let partitions = (0..COMMITTED_PARTITIONS).map(partition).collect();
    let topics = vec![OffsetCommitRequestTopic { name: "t".into(), partitions }];
    let request = OffsetCommitRequest { group_id: "g".into(), topics, ..Default::default() };
    match client.ask(&Request::OffsetCommit(request)).unwrap() {
        Response::OffsetCommit(response) => response.topics[0].partitions[0].error_code,
        _ => panic!("not an answer to OffsetCommit"),
    }
}

/// The committed offset of the first partition, by the last version that names one group.
fn fetch_committed(client: &mut Client) -> i64 {
    let request = OffsetFetchRequest { group_id: "g".into(), ..Default::default() };
    match client.ask_in(7, &Request::OffsetFetch(request)).unwrap() {
        Response::OffsetFetch(response) => response.topics[0].partitions[0].committed_offset,
        _ => panic!("not an answer to OffsetFetch"),
    }
}

/// Fills the tmpfs with a foreign file, but for a little.
fn fill(tmpfs: &Path, foreign: &Path) {
    let free = rustix::fs::statvfs(tmpfs).unwrap();
    let free_bytes = free.f_bavail * free.f_frsize;
    std::fs::write(foreign, vec![1; (free_bytes - LEFT_BYTES) as usize]).unwrap();
}

fn assert_offline(server: &Penstock, ended: &[End]) {
    let refused = End::Refused(ErrorCode::KAFKA_STORAGE_ERROR);
    assert!(ended.iter().all(|end| *end == refused), "{ended:?}");
    let offline = server.metrics().unwrap().value("penstock_partitions_offline");
    assert_eq!(offline, 1);
}
