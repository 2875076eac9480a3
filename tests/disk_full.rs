//! A full disk: a request without room is refused, readers see none of it, and fetches go on. With
//! room again, produce goes on, too, without a restart. The disk is a small one of each file system
//! that refuses different calls, filled by the producers or by a foreign file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use penstock_tests::load::Load;
use penstock_tests::producer::End;
use penstock_tests::records::{batch_of, bytes_of, records_from};
use penstock_tests::rounds::{Dice, is_soak, say};
use penstock_tests::small_disk::{FileSystem, SmallDisk};
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::ErrorCode;
use penstock_wire::messages::PartitionProduceResponse;

/// Room for producers to fill.
const ROOM_BYTES: u64 = 6 << 20;

/// The server looks at the disk once a second.
const NOTICE_MAX: Duration = Duration::from_secs(30);

/// Runs a test on each file system that this machine can make.
fn on_each(test: impl Fn(FileSystem, SmallDisk)) {
    on(&FileSystem::ALL, test);
}

/// Runs a test on the two file systems that differ most, and in a soak on all.
fn on_some(test: impl Fn(FileSystem, SmallDisk)) {
    let some = [FileSystem::Ext4, FileSystem::BtrfsQuota];
    on(if is_soak() { &FileSystem::ALL } else { &some }, test);
}

fn on(kinds: &[FileSystem], test: impl Fn(FileSystem, SmallDisk)) {
    for kind in kinds.iter().copied() {
        let dir = tempfile::tempdir().unwrap();
        if let Some(disk) = SmallDisk::mount(dir.path(), kind).unwrap() {
            test(kind, disk);
        }
    }
}

#[test]
fn producers_that_fill_the_disk_lose_nothing_and_go_on_when_there_is_room() {
    for durability in ["os", "fsync"] {
        on_some(|kind, disk| {
            let mut dice = Dice::of("a disk filled by producers");
            disk.take(ROOM_BYTES);
            let start = Start::on(&disk.data_dir()).with(&["--durability", durability]);
            let server = start.start().unwrap();
            let mut load = Load::create(&mut server.client().unwrap(), &mut dice);

            let ends = load.until_producers_end(server.address());
            assert!(
                ends.iter().all(|end| *end == End::Refused(ErrorCode::KAFKA_STORAGE_ERROR)),
                "{kind:?}: {ends:?}"
            );
            check_served(&server, &load, &disk.data_dir());

            disk.give_back();
            load.under(server.address(), |journal| journal.wait_for_more(200));
            check(&server, &load, &disk.data_dir());
            server.stop().unwrap();
            let server = start.start().unwrap();
            let records = check(&server, &load, &disk.data_dir());
            say(format_args!("{kind:?}, {durability}: {records} records on a disk that was full"));
            server.kill().unwrap();
        });
    }
}

#[test]
fn a_foreign_file_that_fills_the_disk_stops_producers_and_no_consumer() {
    on_each(|_, disk| {
        let mut dice = Dice::of("a disk filled by a foreign file");
        let server = Start::on(&disk.data_dir()).start().unwrap();
        let mut client = server.client().unwrap();
        client.create_topic("probe", 1, &[]).unwrap();
        let mut load = Load::create(&mut client, &mut dice);
        for _ in 0..if is_soak() { 10 } else { 1 } {
            let ended = load.under(server.address(), |journal| {
                journal.wait_for_more(20);
                disk.take(0);
                until("the disk is full", || is_refused(&produce(&mut client, "probe", 65536)));
            });
            assert!(ended.consumers.iter().all(|end| *end == End::Stopped), "{ended:?}");
            check_served(&server, &load, &disk.data_dir());
            disk.give_back();
            load.under(server.address(), |journal| journal.wait_for_more(20));
            check_served(&server, &load, &disk.data_dir());
        }
        server.stop().unwrap();
    });
}

#[test]
fn below_the_reserve_produce_is_refused_and_fetch_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = SmallDisk::mount(dir.path(), FileSystem::Tmpfs).unwrap();
    let Some(disk) = mounted else { return };
    let reserve = ROOM_BYTES.to_string();
    let start = Start::on(&disk.data_dir()).set(&[("disk.reserve.bytes", &reserve)]);
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("t", 1, &[]).unwrap();
    let mut kept = Vec::new();
    let mut count = |answer: &PartitionProduceResponse| {
        if answer.error_code.is_none() {
            kept.push(answer.base_offset);
        }
    };
    count(&produce(&mut client, "t", 100));
    for _ in 0..2 {
        disk.take(ROOM_BYTES / 2);
        // The server looks at the reserve once a second. A fast one may have filled the disk by
        // then, and has refused for want of room.
        until("the reserve is missed", || {
            let answer = produce(&mut client, "t", 100);
            count(&answer);
            is_refused(&answer) && answer.error_message.is_some_and(|why| why.contains("reserve"))
        });
        let fetched = records_from(&bytes_of(&client.fetch("t", 0, 0).unwrap()), 0);
        assert!(!fetched.is_empty());
        disk.give_back();
        until("the reserve is seen", || {
            let answer = produce(&mut client, "t", 100);
            count(&answer);
            !is_refused(&answer)
        });
    }
    let end = client.offset_of("t", 0, -1).unwrap();
    assert_eq!(kept, (0..end).collect::<Vec<_>>());
    server.stop().unwrap();
}

/// A start also writes files that it can do without: index entries, recovery points, repairs after
/// a kill.
#[test]
fn a_server_starts_on_a_full_disk_and_serves_what_is_there() {
    on_each(|kind, disk| start_full(kind, &disk, "os", true));
    on_some(|kind, disk| start_full(kind, &disk, "os", false));
    on_some(|kind, disk| start_full(kind, &disk, "fsync", true));
}

fn start_full(kind: FileSystem, disk: &SmallDisk, durability: &str, is_killed: bool) {
    let what = format!("{kind:?}, {durability}, killed {is_killed}");
    let start = Start::on(&disk.data_dir()).with(&["--durability", durability]);
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("t", 1, &[("segment.bytes", "20000")]).unwrap();
    for _ in 0..100 {
        assert!(!is_refused(&produce(&mut client, "t", 1000)));
    }
    if is_killed { server.kill() } else { server.stop() }.unwrap();
    // The record that would forget a deleted topic finds no room on the disk.
    let log_starts = disk.data_dir().join("log-start-offset-checkpoint");
    fs::write(log_starts, "0\n1\ngone 0 5\n").unwrap();
    if is_killed {
        tear(&disk.data_dir());
    }
    disk.take(0);
    let mut end = 100;

    for is_killed_again in [is_killed, !is_killed] {
        let server = start.start().unwrap();
        let mut client = server.client().unwrap();
        assert_eq!(offline(&server), 0, "{what}");
        assert_eq!(client.offset_of("t", 0, -1).unwrap(), end, "{what}");
        for offset in [0, 37, 99] {
            let fetched = bytes_of(&client.fetch("t", 0, offset).unwrap());
            assert!(!records_from(&fetched, offset).is_empty(), "{what}");
        }
        assert!(client.offset_of("t", 0, 1).unwrap() >= 0, "{what}");
        // XFS may have reserved room behind the end of a file.
        until("the disk is full", || {
            let answer = produce(&mut client, "t", 10_000);
            end += i64::from(answer.error_code.is_none());
            is_refused(&answer)
        });
        assert_eq!(offline(&server), 0, "{what}");
        if is_killed_again { server.kill() } else { server.stop() }.unwrap();
    }

    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    disk.give_back();
    until("there is room", || !is_refused(&produce(&mut client, "t", 65536)));
    client.create_topic("gone", 1, &[]).unwrap();
    assert!(!is_refused(&produce(&mut client, "gone", 1000)));
    server.stop().unwrap();
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(client.offset_of("gone", 0, -2).unwrap(), 0, "where the deleted one started");
    assert!(client.offset_of("t", 0, -1).unwrap() > end);
    server.stop().unwrap();
}

/// Leaves the traces of a kill or a power cut: half a batch, an index without its end, no index,
/// half a commit.
fn tear(data_dir: &Path) {
    let append = |path: &Path, bytes: &[u8]| {
        let mut whole = fs::read(path).unwrap();
        whole.extend(bytes);
        fs::write(path, whole).unwrap();
    };
    let mut logs: Vec<_> = fs::read_dir(data_dir.join("t-0"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    assert!(logs.len() > 3);
    append(logs.last().unwrap(), &[7; 3000]);
    append(&logs.last().unwrap().with_extension("index"), &[0xff; 8]);
    append(&logs[1].with_extension("timeindex"), &[0xff; 12]);
    fs::remove_file(logs[0].with_extension("index")).unwrap();
    append(&data_dir.join("penstock-offsets.journal"), &[7; 300]);
}

#[test]
fn a_topic_can_be_deleted_on_a_full_disk_which_makes_room() {
    on_each(|kind, disk| delete_large(kind, &disk, false));
}

/// As after a lower limit: the deletion makes no room.
#[test]
fn a_topic_can_be_deleted_far_over_a_quota() {
    let dir = tempfile::tempdir().unwrap();
    let kind = FileSystem::BtrfsQuota;
    if let Some(disk) = SmallDisk::mount(dir.path(), kind).unwrap() {
        delete_large(kind, &disk, true);
    }
}

fn delete_large(kind: FileSystem, disk: &SmallDisk, is_over: bool) {
    let start = Start::on(&disk.data_dir());
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("kept", 1, &[]).unwrap();
    client.create_topic("large", 3, &[("segment.bytes", "500000")]).unwrap();
    assert!(!is_refused(&produce(&mut client, "kept", 1000)));
    for n in 0..60 {
        let batch = batch_of(50_000);
        assert!(client.produce("large", n % 3, 1, batch).unwrap().error_code.is_none());
    }
    disk.take(0);
    until("the disk is full", || is_refused(&produce(&mut client, "kept", 65536)));
    if is_over {
        disk.exceed_quota();
    }

    assert_eq!(client.ask_for_deletion("large").unwrap(), ErrorCode::NONE, "{kind:?}");
    let names = fs::read_dir(disk.data_dir()).unwrap().map(|entry| entry.unwrap().path());
    let of_large = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().contains("large");
    let left: Vec<_> = names.filter(of_large).collect();
    if is_over {
        // There is no room to note the deletion until the foreign file is gone, so the empty
        // directories show it.
        assert!(left.iter().all(|dir| fs::read_dir(dir).unwrap().next().is_none()));
        assert!(is_refused(&produce(&mut client, "kept", 65536)), "it is over its quota still");
    } else {
        assert!(left.is_empty(), "{kind:?}: {left:?}");
        until("there is room", || !is_refused(&produce(&mut client, "kept", 65536)));
    }
    assert_eq!(offline(&server), 0);
    server.stop().unwrap();
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(offline(&server), 0, "{kind:?}");
    assert!(client.offset_of("kept", 0, -1).unwrap() > 0);
    let again = client.ask_for_deletion("large").unwrap();
    assert_eq!(again, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "{kind:?}");
    disk.give_back();
    client.create_topic("large", 1, &[]).unwrap();
    server.stop().unwrap();
}

/// The empty directories of its other partitions show that it is deleted.
#[test]
fn a_topic_that_lacks_a_partition_and_is_deleted_far_over_a_quota_stays_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = SmallDisk::mount(dir.path(), FileSystem::BtrfsQuota).unwrap();
    let Some(disk) = mounted else { return };
    let start = Start::on(&disk.data_dir());
    let server = start.start().unwrap();
    server.client().unwrap().create_topic("t", 3, &[]).unwrap();
    assert!(!is_refused(&produce(&mut server.client().unwrap(), "t", 1000)));
    server.stop().unwrap();
    fs::remove_dir_all(disk.data_dir().join("t-1")).unwrap();
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    disk.take(0);
    disk.exceed_quota();
    assert_eq!(client.ask_for_deletion("t").unwrap(), ErrorCode::NONE);
    server.kill().unwrap();
    let server = start.start().unwrap();
    let again = server.client().unwrap().ask_for_deletion("t").unwrap();
    assert_eq!(again, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    server.stop().unwrap();
}

/// Its name can be used again.
#[test]
fn a_topic_that_could_be_deleted_in_part_only_far_over_a_quota_can_be_made_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = SmallDisk::mount(dir.path(), FileSystem::BtrfsQuota).unwrap();
    let Some(disk) = mounted else { return };
    let server = Start::on(&disk.data_dir()).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("t", 2, &[]).unwrap();
    for partition in 0..2 {
        client.produce("t", partition, 1, batch_of(1000)).unwrap();
    }
    // A file that cannot be unlinked.
    let log = disk.data_dir().join("t-1/00000000000000000000.log");
    let change = |flag| Command::new("chattr").arg(flag).arg(&log).status().unwrap();
    assert!(change("+i").success());
    disk.take(0);
    disk.exceed_quota();
    assert_eq!(client.ask_for_deletion("t").unwrap(), ErrorCode::KAFKA_STORAGE_ERROR);
    disk.give_back();
    disk.restore_quota();
    assert!(change("-i").success());
    until("there is room", || client.ask_for_topic("t", 2, &[]).unwrap().is_none());
    assert_eq!(client.offset_of("t", 1, -1).unwrap(), 0);
    server.stop().unwrap();
}

/// Checks that all acknowledged records are served, the files hold no others, and no partition is
/// offline.
fn check(server: &Penstock, load: &Load, data_dir: &Path) -> usize {
    assert_eq!(offline(server), 0);
    load.witness(data_dir).check(&mut server.client().unwrap(), load.journal())
}

/// The same check, while the end of a file may be torn because it could not be cut.
fn check_served(server: &Penstock, load: &Load, data_dir: &Path) -> usize {
    assert_eq!(offline(server), 0);
    load.witness(data_dir).check_served(&mut server.client().unwrap(), load.journal())
}

fn offline(server: &Penstock) -> u64 {
    server.metrics().unwrap().value("penstock_partitions_offline")
}

fn produce(client: &mut Client, topic: &str, len_bytes: usize) -> PartitionProduceResponse {
    client.produce(topic, 0, 1, batch_of(len_bytes)).unwrap()
}

fn is_refused(answer: &PartitionProduceResponse) -> bool {
    assert!([ErrorCode::NONE, ErrorCode::KAFKA_STORAGE_ERROR].contains(&answer.error_code));
    !answer.error_code.is_none()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < NOTICE_MAX, "waited {NOTICE_MAX:?} until {what}");
    }
}
