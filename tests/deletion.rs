//! Topics whose directories cannot be removed: a topic reported as deleted is gone, another one
//! goes on whole, and a new topic of the name starts empty. Mounts make the directories
//! irremovable: a mount point can be neither renamed nor removed.

use std::path::{Path, PathBuf};

use penstock_tests::records::{batch, bytes_of, records_from};
use penstock_tests::volume::Mount;
use penstock_tests::{Client, Start};
use penstock_wire::ErrorCode;

const MOUNT_BYTES: u64 = 1 << 20;

fn produce(client: &mut Client, partition: i32) -> ErrorCode {
    client.produce("t", partition, 1, batch(&[vec![7; 100]])).unwrap().error_code
}

fn create(client: &mut Client) -> ErrorCode {
    client.ask_for_topic("t", 2, &[]).unwrap()
}

fn delete(client: &mut Client) -> ErrorCode {
    client.ask_for_deletion("t").unwrap()
}

fn on_the_way_out(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_str().unwrap().ends_with("-delete")).collect()
}

#[test]
fn a_topic_whose_directory_cannot_be_moved_is_not_said_to_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(create(&mut client), ErrorCode::NONE);
    assert_eq!(produce(&mut client, 1), ErrorCode::NONE);
    let Some(mount) = Mount::tmpfs(&dir.path().join("t-1"), MOUNT_BYTES).unwrap() else { return };

    for _ in 0..2 {
        assert_eq!(delete(&mut client), ErrorCode::KAFKA_STORAGE_ERROR);
        assert_eq!(create(&mut client), ErrorCode::TOPIC_ALREADY_EXISTS);
    }
    assert_eq!(produce(&mut client, 1), ErrorCode::NONE, "what is not deleted goes on");
    assert_eq!(records_from(&bytes_of(&client.fetch("t", 1, 0).unwrap()), 0).len(), 2);
    assert_eq!(produce(&mut client, 0), ErrorCode::NONE, "so do the others");

    drop(mount);
    assert_eq!(delete(&mut client), ErrorCode::NONE);
    assert_eq!(create(&mut client), ErrorCode::NONE);
    assert_eq!(client.offset_of("t", 1, -1).unwrap(), 0, "nothing of the old topic is in it");
    assert_eq!(produce(&mut client, 1), ErrorCode::NONE);
    server.stop().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(records_from(&bytes_of(&client.fetch("t", 1, 0).unwrap()), 0).len(), 1);
    server.stop().unwrap();
}

#[test]
fn a_deletion_that_failed_leaves_the_topic_whole_after_a_kill_too() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path()).set(&[("log.segment.bytes", "1024")]);
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(create(&mut client), ErrorCode::NONE);
    let Some(_mount) = Mount::tmpfs(&dir.path().join("t-1"), MOUNT_BYTES).unwrap() else { return };
    assert_eq!(produce(&mut client, 0), ErrorCode::NONE);
    assert_eq!(delete(&mut client), ErrorCode::KAFKA_STORAGE_ERROR);
    // The records span a roll, so the directory has its name again.
    for _ in 0..20 {
        assert_eq!(produce(&mut client, 0), ErrorCode::NONE);
    }
    server.kill().unwrap();

    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(client.offset_of("t", 0, -1).unwrap(), 21);
    assert_eq!(server.metrics().unwrap().value("penstock_missing_offsets"), 0);
    server.kill().unwrap();
}

#[test]
fn what_cannot_be_removed_is_out_of_the_way_and_removed_by_a_later_start() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path());
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(create(&mut client), ErrorCode::NONE);
    assert_eq!(produce(&mut client, 0), ErrorCode::NONE);
    let Some(mut mount) = Mount::tmpfs(&dir.path().join("t-0/inside"), MOUNT_BYTES).unwrap() else {
        return;
    };

    assert_eq!(delete(&mut client), ErrorCode::NONE);
    assert_eq!(on_the_way_out(dir.path()).len(), 1);
    assert_eq!(create(&mut client), ErrorCode::NONE);
    assert_eq!(client.offset_of("t", 0, -1).unwrap(), 0);
    server.kill().unwrap();
    let server = start.start().unwrap();
    assert_eq!(produce(&mut server.client().unwrap(), 0), ErrorCode::NONE);
    server.stop().unwrap();

    mount.moved_to(&on_the_way_out(dir.path())[0].join("inside"));
    drop(mount);
    start.start().unwrap().stop().unwrap();
    assert_eq!(on_the_way_out(dir.path()).len(), 0);
}

#[test]
fn what_lies_behind_a_link_is_left_by_a_deletion_which_says_so() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (link, behind) = (dir.path().join("t-0"), elsewhere.path().join("t-0"));
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(create(&mut client), ErrorCode::NONE);
    assert_eq!(produce(&mut client, 0), ErrorCode::NONE);
    server.stop().unwrap();
    std::fs::create_dir(&behind).unwrap();
    for entry in std::fs::read_dir(&link).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, behind.join(from.file_name().unwrap())).unwrap();
    }
    std::fs::remove_dir_all(&link).unwrap();
    std::os::unix::fs::symlink(&behind, &link).unwrap();

    let lines = dir.path().join("log");
    let server = Start::on(dir.path()).start_with_log("warn", &lines).unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(records_from(&bytes_of(&client.fetch("t", 0, 0).unwrap()), 0).len(), 1);
    assert_eq!(delete(&mut client), ErrorCode::NONE);
    assert_eq!(create(&mut client), ErrorCode::NONE);
    assert_eq!(client.offset_of("t", 0, -1).unwrap(), 0, "the new topic is another");
    server.stop().unwrap();
    assert_eq!(on_the_way_out(dir.path()), Vec::<PathBuf>::new());
    assert!(behind.join("00000000000000000000.log").metadata().unwrap().len() > 0);
    let log = std::fs::read_to_string(&lines).unwrap();
    assert!(log.contains("symbolic link") && log.contains(behind.to_str().unwrap()), "{log}");
}
