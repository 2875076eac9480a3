//! Partitions from a Kafka of which some records are not served: the answers to clients, and the
//! log lines for the operator.

use std::path::Path;

use penstock_tests::records::{batch, bytes_of, records_from};
use penstock_tests::{Client, Penstock, Start, program};
use penstock_wire::ErrorCode;

const EARLIEST: i64 = -2;

/// A directory with `t-0`, whose only batch is at offset 10, after a kill.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let mut client = server.client().unwrap();
    client.create_topic("t", 1, &[("retention.ms", "-1")]).unwrap();
    assert_eq!(produce(&mut client), ErrorCode::NONE);
    server.kill().unwrap();
    let log = file(dir.path(), 0, "log");
    let mut batch = std::fs::read(&log).unwrap();
    batch[..8].copy_from_slice(&10i64.to_be_bytes());
    std::fs::write(file(dir.path(), 10, "log"), batch).unwrap();
    std::fs::remove_file(log).unwrap();
    dir
}

/// Messages of format 1 from offset 0 on, before the batch.
fn put_old_messages(dir: &Path) {
    let message = |offset: i64| {
        let body = [&[9; 4], &[1, 0][..], &[7; 8], &[0xff; 4], &[0, 0, 0, 8], &[7; 8]].concat();
        [&offset.to_be_bytes()[..], &(body.len() as u32).to_be_bytes(), &body].concat()
    };
    std::fs::write(file(dir, 0, "log"), (0..10).flat_map(message).collect::<Vec<_>>()).unwrap();
}

fn file(dir: &Path, base: i64, kind: &str) -> std::path::PathBuf {
    dir.join("t-0").join(format!("{base:020}.{kind}"))
}

/// A server whose log lines, warnings included, go to `<dir>/lines`.
fn start(dir: &Path) -> Penstock {
    let mut command = program("penstock");
    command.args(Start::on(dir).arguments()).env("PENSTOCK_LOG", "warn");
    command.stderr(std::fs::File::create(dir.join("lines")).unwrap());
    Penstock::start(command).unwrap()
}

fn lines(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("lines")).unwrap()
}

fn produce(client: &mut Client) -> ErrorCode {
    client.produce("t", 0, 1, batch(&[vec![7; 100]])).unwrap().error_code
}

fn run(arguments: &[&str]) -> (i32, String) {
    let output = program("penstock").args(arguments).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(printed).unwrap())
}

#[test]
fn behind_old_messages_the_rest_is_served_and_they_are_refused() {
    let dir = directory();
    put_old_messages(dir.path());
    let server = start(dir.path());
    let mut client = server.client().unwrap();
    let refused = client.fetch("t", 0, 3).unwrap();
    assert_eq!(refused.error_code, ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT);
    assert_eq!((refused.log_start_offset, refused.high_watermark), (10, 11));
    assert_eq!(client.offset_of("t", 0, EARLIEST).unwrap(), 10);
    let served = client.fetch("t", 0, 10).unwrap();
    assert_eq!(records_from(&bytes_of(&served), 10).len(), 1);
    assert_eq!(produce(&mut client), ErrorCode::NONE);
    server.kill().unwrap();
    let lines = lines(dir.path());
    assert!(lines.contains("t-0") && lines.contains("served_from=10"), "{lines}");
}

#[test]
fn a_partition_of_old_messages_alone_is_not_opened_and_the_line_says_what_can_be_done() {
    let dir = directory();
    put_old_messages(dir.path());
    std::fs::remove_file(file(dir.path(), 10, "log")).unwrap();
    let server = start(dir.path());
    let fetched = server.client().unwrap().fetch("t", 0, 0).unwrap();
    assert_eq!(fetched.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    server.kill().unwrap();
    let lines = lines(dir.path());
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.contains("t-0") && lines.contains("copy the topic"), "{lines}");
}

#[test]
fn scrub_and_dump_say_that_old_messages_are_not_read() {
    let dir = directory();
    put_old_messages(dir.path());
    start(dir.path()).stop().unwrap();
    let (code, printed) = run(&["scrub", "--data-dir", dir.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{printed}");
    assert!(
        printed.contains("t-0: 1 segments from offset 0 on are of message format 1"),
        "{printed}"
    );
    let (code, printed) = run(&["dump", file(dir.path(), 0, "log").to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(printed.contains("format 1") && !printed.contains("NOT SOUND"), "{printed}");
}

#[test]
fn a_partition_with_aborted_transactions_is_named_once_at_start() {
    let dir = directory();
    std::fs::write(file(dir.path(), 10, "txnindex"), [0; 2 * 34]).unwrap();
    let server = start(dir.path());
    assert_eq!(produce(&mut server.client().unwrap()), ErrorCode::NONE);
    server.kill().unwrap();
    let lines = lines(dir.path());
    let named = lines.lines().filter(|line| line.contains("WARN") && line.contains("aborted"));
    let named: Vec<_> = named.collect();
    assert!(
        named.len() == 1 && named[0].contains("t-0") && named[0].contains("aborted=2"),
        "{lines}"
    );
}

#[test]
fn what_a_killed_kafka_was_about_to_exchange_is_exchanged() {
    let dir = directory();
    let new = std::fs::read(file(dir.path(), 10, "log")).unwrap();
    std::fs::write(file(dir.path(), 5, "log.swap"), &new).unwrap();
    let server = start(dir.path());
    let mut client = server.client().unwrap();
    assert_eq!(client.offset_of("t", 0, EARLIEST).unwrap(), 5);
    assert_eq!(records_from(&bytes_of(&client.fetch("t", 0, 5).unwrap()), 5).len(), 1);
    server.kill().unwrap();
    assert!(!file(dir.path(), 10, "log").exists());
    assert!(lines(dir.path()).contains("t-0"), "it is logged");
}
