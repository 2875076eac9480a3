//! A write that fails for another reason than a full disk: its partition refuses writes until a
//! restart and serves its records, and the other partitions go on. The error is EFBIG, from a limit
//! of the file size (`ulimit -f`).

use std::process::Command;

use penstock_tests::records::{batch_of, bytes_of, records_from};
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::ErrorCode;

/// The limit in sh's blocks of 512 bytes.
const FILE_MAX_BLOCKS: u64 = 1024;
const VALUE_BYTES: usize = 50_000;

#[test]
fn a_failed_write_takes_one_partition_offline_until_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path());
    let log = tempfile::NamedTempFile::new().unwrap();
    let server = start_limited(&start, log.path());
    let mut client = server.client().unwrap();
    client.create_topic("t", 2, &[]).unwrap();

    let mut kept = 0;
    while produce(&mut client, 0).is_none() {
        kept += 1;
        assert!(kept * VALUE_BYTES < 512 * FILE_MAX_BLOCKS as usize, "the limit does not hold");
    }
    assert!(kept > 0);
    for _ in 0..100 {
        assert_eq!(produce(&mut client, 0), ErrorCode::KAFKA_STORAGE_ERROR);
        assert_eq!(produce(&mut client, 0), ErrorCode::KAFKA_STORAGE_ERROR);
    }
    assert_eq!(produce(&mut client, 1), ErrorCode::NONE, "the other partition goes on");
    assert_eq!(count(&mut client, 0), kept, "what was acknowledged is served");
    assert_eq!(server.metrics().unwrap().value("penstock_partitions_offline"), 1);
    let lines = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(lines.lines().count(), 1, "one line for the partition: {lines}");

    server.kill().unwrap();
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    assert_eq!(count(&mut client, 0), kept);
    assert_eq!(produce(&mut client, 0), ErrorCode::NONE);
    assert_eq!(server.metrics().unwrap().value("penstock_partitions_offline"), 0);
    server.stop().unwrap();
}

/// A server whose files may not grow beyond the limit, and which gets the error instead of a
/// signal.
fn start_limited(start: &Start, log: &std::path::Path) -> Penstock {
    let script = format!(r#"trap "" XFSZ; ulimit -f {FILE_MAX_BLOCKS}; exec "$@""#);
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).arg(penstock_tests::binary("penstock"));
    command.args(start.arguments()).stderr(std::fs::File::create(log).unwrap());
    Penstock::start(command).unwrap()
}

fn produce(client: &mut Client, partition: i32) -> ErrorCode {
    client.produce("t", partition, 1, batch_of(VALUE_BYTES)).unwrap().error_code
}

/// The records of a partition, read from its start to its end.
fn count(client: &mut Client, partition: i32) -> usize {
    let end = client.offset_of("t", partition, -1).unwrap();
    let mut next = 0;
    while next < end {
        let fetched = bytes_of(&client.fetch("t", partition, next).unwrap());
        let records = records_from(&fetched, next);
        assert!(!records.is_empty(), "nothing at offset {next} of {end}");
        next += records.len() as i64;
    }
    next as usize
}
