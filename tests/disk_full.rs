//! A full disk: what finds no room is refused, nothing of it is seen, fetch goes on; with room again so does
//! produce, without a restart. The disk is a small tmpfs, filled by the producers or by a foreign file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use penstock_tests::load::Load;
use penstock_tests::producer::End;
use penstock_tests::records::{batch_of, bytes_of, records_from};
use penstock_tests::rounds::{Dice, say};
use penstock_tests::volume::Mount;
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::ErrorCode;
use penstock_wire::messages::PartitionProduceResponse;

const DISK_BYTES: u64 = 24 << 20;

/// The server looks at the disk once a second.
const NOTICE_MAX: Duration = Duration::from_secs(30);

/// A small disk with a server's directory and room for a file that is not the server's.
struct Disk {
    _mount: Mount,
    dir: tempfile::TempDir,
}

impl Disk {
    /// `None`: this machine cannot mount one, which was said.
    fn mount() -> Option<Disk> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount::tmpfs(&dir.path().join("disk"), DISK_BYTES).unwrap()?;
        Some(Disk { _mount: mount, dir })
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("disk/data")
    }

    /// Takes all that is free, but for `left_bytes`. What it takes comes back with `give_back`.
    fn take(&self, left_bytes: u64) {
        let free = rustix::fs::statvfs(self.dir.path().join("disk")).unwrap();
        let free_bytes = free.f_bavail * free.f_frsize;
        let mut file = std::fs::File::create(self.foreign()).unwrap();
        let taken = file.write_all(&vec![1; free_bytes.saturating_sub(left_bytes) as usize]);
        // Beside producers the rest may be gone before it is taken.
        assert!(taken.is_ok() || left_bytes == 0, "{taken:?}");
    }

    fn give_back(&self) {
        std::fs::remove_file(self.foreign()).unwrap();
    }

    fn foreign(&self) -> PathBuf {
        self.dir.path().join("disk/foreign")
    }
}

#[test]
fn producers_that_fill_the_disk_lose_nothing_and_go_on_when_there_is_room() {
    for durability in ["os", "fsync"] {
        let mut dice = Dice::of("a disk filled by producers");
        let Some(disk) = Disk::mount() else { return };
        disk.take(DISK_BYTES / 2);
        let start = Start::on(&disk.data_dir()).with(&["--durability", durability]);
        let server = start.start().unwrap();
        let mut load = Load::create(&mut server.client().unwrap(), &mut dice);

        let ends = load.until_producers_end(server.address());
        assert!(
            ends.iter().all(|end| *end == End::Refused(ErrorCode::KAFKA_STORAGE_ERROR)),
            "{ends:?}"
        );
        check(&server, &load, &disk.data_dir());

        disk.give_back();
        load.under(server.address(), |journal| journal.wait_for_more(200));
        check(&server, &load, &disk.data_dir());
        server.stop().unwrap();
        let server = start.start().unwrap();
        let records = check(&server, &load, &disk.data_dir());
        say(format_args!("{durability}: {records} records on a disk that was full once"));
        server.kill().unwrap();
    }
}

#[test]
fn a_foreign_file_that_fills_the_disk_stops_producers_and_no_consumer() {
    let mut dice = Dice::of("a disk filled by a foreign file");
    let Some(disk) = Disk::mount() else { return };
    let server = Start::on(&disk.data_dir()).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("probe", 1, &[]).unwrap();
    let mut load = Load::create(&mut client, &mut dice);
    for _ in 0..3 {
        let ended = load.under(server.address(), |journal| {
            journal.wait_for_more(20);
            disk.take(0);
            until("the disk is full", || is_refused(&produce(&mut client, "probe", 65536)));
        });
        assert!(ended.consumers.iter().all(|end| *end == End::Stopped), "{ended:?}");
        check(&server, &load, &disk.data_dir());
        disk.give_back();
        load.under(server.address(), |journal| journal.wait_for_more(20));
        check(&server, &load, &disk.data_dir());
    }
    server.stop().unwrap();
}

#[test]
fn below_the_reserve_produce_is_refused_and_fetch_goes_on() {
    let Some(disk) = Disk::mount() else { return };
    let reserve = (DISK_BYTES / 2).to_string();
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
        disk.take(DISK_BYTES / 4);
        until("the reserve is missed", || {
            let answer = produce(&mut client, "t", 100);
            count(&answer);
            is_refused(&answer)
        });
        let refused = produce(&mut client, "t", 100);
        assert!(refused.error_message.unwrap().contains("reserve"), "there is room for it");
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

/// A start writes what it can do without, too.
#[test]
fn a_server_starts_on_a_full_disk_and_serves_what_is_there() {
    for (durability, is_killed) in [("os", false), ("os", true), ("fsync", true)] {
        let Some(disk) = Disk::mount() else { return };
        let start = Start::on(&disk.data_dir()).with(&["--durability", durability]);
        let server = start.start().unwrap();
        let mut client = server.client().unwrap();
        client.create_topic("t", 1, &[]).unwrap();
        for _ in 0..100 {
            assert!(!is_refused(&produce(&mut client, "t", 1000)));
        }
        if is_killed { server.kill() } else { server.stop() }.unwrap();
        // Of a topic that was deleted and is not forgotten, for which the disk has no room now.
        let log_starts = disk.data_dir().join("log-start-offset-checkpoint");
        fs::write(log_starts, "0\n1\ngone 0 5\n").unwrap();
        disk.take(0);

        let server = start.start().unwrap();
        let mut client = server.client().unwrap();
        assert_eq!(client.offset_of("t", 0, -1).unwrap(), 100);
        assert!(!records_from(&bytes_of(&client.fetch("t", 0, 0).unwrap()), 0).is_empty());
        assert!(is_refused(&produce(&mut client, "t", 65536)));
        assert_eq!(server.metrics().unwrap().value("penstock_partitions_offline"), 0);
        disk.give_back();
        until("there is room", || !is_refused(&produce(&mut client, "t", 65536)));
        client.create_topic("gone", 1, &[]).unwrap();
        assert!(!is_refused(&produce(&mut client, "gone", 1000)));
        server.stop().unwrap();
        let server = start.start().unwrap();
        let mut client = server.client().unwrap();
        assert_eq!(client.offset_of("gone", 0, -2).unwrap(), 0, "where the deleted one started");
        server.stop().unwrap();
    }
}

/// All that was acknowledged is served, the files hold nothing else, and no partition is offline.
fn check(server: &Penstock, load: &Load, data_dir: &Path) -> usize {
    assert_eq!(server.metrics().unwrap().value("penstock_partitions_offline"), 0);
    load.witness(data_dir).check(&mut server.client().unwrap(), load.journal())
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
