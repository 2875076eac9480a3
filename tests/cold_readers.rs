//! Cold reads have names: /metrics and `penstock top` say which client reads from the disk, how
//! much, and how far behind.

use std::path::Path;
use std::process::Output;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use penstock_tests::cache::evict;
use penstock_tests::member::join;
use penstock_tests::records::{batch_at, bytes_of, records_from};
use penstock_tests::{Client, Metrics, Penstock, Start, program};
use penstock_wire::messages::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use penstock_wire::{ErrorCode, Request, Response};

const BATCHES: i64 = 16;
const READ_BATCHES: i64 = 12;
const BATCH_BYTES: usize = 512 << 10;
const HOUR_MS: i64 = 3_600_000;

/// On the disk of the build: a tmpfs has no disk to read from.
fn data_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A batch of one record. The n-th is n minutes younger than the first, of an hour ago.
fn cold_batch(began_ms: i64, n: i64) -> Bytes {
    batch_at(began_ms - HOUR_MS + n * 60_000, &[vec![b'c'; BATCH_BYTES]])
}

fn produce(client: &mut Client, topic: &str, batch: Bytes) {
    let answer = client.produce(topic, 0, 1, batch).unwrap();
    assert_eq!(answer.error_code, ErrorCode::NONE);
}

/// Reads a partition from offset 0 until the position is `until`; returns the bytes received.
fn read(client: &mut Client, topic: &str, until: i64) -> u64 {
    let (mut offset, mut received_bytes) = (0, 0);
    while offset < until {
        let fetched = client.fetch(topic, 0, offset).unwrap();
        let bytes = bytes_of(&fetched);
        received_bytes += bytes.len() as u64;
        let records = records_from(&bytes, offset);
        offset = records.last().unwrap_or_else(|| panic!("nothing at {offset}")).0 + 1;
    }
    assert_eq!(offset, until);
    received_bytes
}

fn commit(client: &mut Client, group: &str, topic: &str, offset: i64) {
    let partition = OffsetCommitRequestPartition {
        partition_index: 0,
        committed_offset: offset,
        ..Default::default()
    };
    let topic = OffsetCommitRequestTopic { name: topic.into(), partitions: vec![partition] };
    let request = OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    let Response::OffsetCommit(answer) = client.ask(&Request::OffsetCommit(request)).unwrap()
    else {
        panic!("not an answer to OffsetCommit")
    };
    assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::NONE);
}

fn top(address: &str) -> Output {
    let mut command = program("penstock");
    command.args(["top", "--once", "--interval", "0.1", "--metrics", address]);
    command.output().unwrap()
}

fn of_client(metrics: &Metrics, name: &str, client: &str) -> f64 {
    let series = format!("penstock_client_{name}{{client_id=\"{client}\"}} ");
    metrics.exact(&series).unwrap_or_else(|| panic!("no {series}"))
}

/// A server with 16 evicted batches in `old` and one fresh batch in `fresh`.
fn serve(dir: &Path, began_ms: i64) -> Penstock {
    let server = Start::on(dir).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("old", 1, &[("segment.bytes", "3000000")]).unwrap();
    client.create_topic("fresh", 1, &[]).unwrap();
    (0..BATCHES).for_each(|n| produce(&mut client, "old", cold_batch(began_ms, n)));
    produce(&mut client, "fresh", batch_at(began_ms, &[[b'h'; 60_000]]));
    evict(&dir.join("old-0"));
    server
}

#[test]
fn a_cold_reader_is_named_with_its_bytes_and_its_distance_and_a_hot_one_is_not_cold() {
    let (dir, began_ms) = (data_dir(), now_ms());
    let server = serve(dir.path(), began_ms);
    let mut tail = server.client().unwrap().named("tail");
    let mut scan = server.client().unwrap().named("scan");
    join(&mut scan, "backfill", "old");
    let hot_bytes = read(&mut tail, "fresh", 1);
    let cold_bytes = read(&mut scan, "old", READ_BATCHES);
    commit(&mut server.client().unwrap(), "backfill-2", "old", READ_BATCHES);

    // An answer is noted when its last byte has been handed over, a moment after it arrives.
    let sent = format!("penstock_client_sent_bytes_total{{client_id=\"scan\"}} {cold_bytes}");
    let metrics = server
        .until_metrics("the scan is noted, and its place looked up", |metrics| {
            metrics.count(&sent) == 1
                && metrics.exact("penstock_client_behind_records{client_id=\"scan\"} ") == Some(4.0)
        })
        .unwrap();
    let scan = |name| of_client(&metrics, name, "scan");
    let tail = |name| of_client(&metrics, name, "tail");
    let log_bytes = (0..READ_BATCHES).map(|n| cold_batch(began_ms, n).len()).sum::<usize>();
    assert_eq!(cold_bytes, log_bytes as u64, "no answer cuts a batch");
    assert_eq!(scan("sent_again_bytes_total"), 0.0);
    assert!(scan("disk_bytes_total") <= cold_bytes as f64);
    assert!(
        scan("disk_bytes_total") > 0.9 * log_bytes as f64,
        "{} of {cold_bytes}",
        scan("disk_bytes_total")
    );
    assert!(scan("disk_wait_seconds_total") > 0.0);
    assert_eq!(tail("sent_bytes_total"), hot_bytes as f64);
    assert_eq!((tail("disk_bytes_total"), tail("disk_wait_seconds_total")), (0.0, 0.0));

    let left = (READ_BATCHES..BATCHES).map(|n| cold_batch(began_ms, n).len()).sum::<usize>();
    assert_eq!(scan("behind_bytes"), left as f64);
    let next_is_old_s = (HOUR_MS - READ_BATCHES * 60_000) as f64 / 1e3;
    let is_right = |seconds: f64| (next_is_old_s..next_is_old_s + 60.0).contains(&seconds);
    assert!(is_right(scan("behind_seconds")), "{}", scan("behind_seconds"));
    for name in ["behind_bytes", "behind_records", "behind_seconds"] {
        assert_eq!(tail(name), 0.0, "{name}");
    }

    let of = |series: &str| metrics.exact(series).unwrap_or_else(|| panic!("no {series}"));
    assert_eq!(
        of("penstock_group_disk_bytes_total{group=\"backfill\"} "),
        scan("disk_bytes_total")
    );
    assert_eq!(of("penstock_topic_disk_bytes_total{topic=\"old\"} "), scan("disk_bytes_total"));
    let row = "{group=\"backfill-2\",topic=\"old\",partition=\"0\"} ";
    assert_eq!(of(&format!("penstock_group_lag_records{row}")), (BATCHES - READ_BATCHES) as f64);
    let lag_seconds = of(&format!("penstock_group_lag_seconds{row}"));
    assert!(is_right(lag_seconds), "{lag_seconds}");

    let shown = top(&server.metrics_address().to_string());
    assert!(shown.status.success(), "{shown:?}");
    let text = String::from_utf8(shown.stdout).unwrap();
    let clients: Vec<&str> =
        text.lines().skip(3).take(2).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(clients, ["scan", "tail"], "{text}");
    assert!(text.contains("backfill-2") && text.contains("48m"), "{text}");
}

#[test]
fn lag_follows_what_a_group_commits_and_what_producers_append() {
    let (dir, began_ms) = (data_dir(), now_ms());
    let server = serve(dir.path(), began_ms);
    let mut client = server.client().unwrap();
    let lag = |name: &str| {
        let series =
            format!("penstock_group_lag_{name}{{group=\"g\",topic=\"old\",partition=\"0\"}} ");
        server.metrics().unwrap().exact(&series).unwrap_or_else(|| panic!("no {series}"))
    };
    for (committed, records) in [(0, 16.0), (3, 13.0), (16, 0.0)] {
        commit(&mut client, "g", "old", committed);
        assert_eq!(lag("records"), records);
        let expected = match records {
            0.0 => 0.0..0.1,
            _ => {
                let old_s = (HOUR_MS - committed * 60_000) as f64 / 1e3;
                old_s..old_s + 60.0
            }
        };
        assert!(expected.contains(&lag("seconds")), "{} at {committed}", lag("seconds"));
    }
    produce(&mut client, "old", batch_at(began_ms, &[[b'n'; 100]]));
    assert_eq!(lag("records"), 1.0);
    assert!((0.0..60.0).contains(&lag("seconds")));
}

#[test]
fn ten_thousand_client_ids_stay_bounded_and_no_byte_is_lost() {
    const CLIENTS: u64 = 10_000;
    let dir = data_dir();
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic("t", 1, &[]).unwrap();
    let batch = batch_at(now_ms(), &[[b'x'; 100]]);
    let len_bytes = batch.len() as u64;
    produce(&mut client, "t", batch);
    for n in 0..CLIENTS {
        client = client.named(&format!("client-{n}"));
        client.fetch("t", 0, 0).unwrap();
    }
    let total = |metrics: &Metrics| metrics.sum("penstock_client_sent_bytes_total{");
    let all = (CLIENTS * len_bytes) as f64;
    let metrics = server.until_metrics("all is noted", |metrics| total(metrics) == all).unwrap();
    assert_eq!(metrics.count("penstock_client_sent_bytes_total{"), 51);
    assert_eq!(metrics.count("penstock_topic_sent_bytes_total{"), 2, "t, and what is forgotten");
    let readers = metrics.value("penstock_readers ");
    assert!((2048..=4096).contains(&readers), "{readers}");
}

#[test]
fn top_says_what_is_wrong_with_an_address_that_does_not_answer() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let shown = top(&free.to_string());
    assert_eq!(shown.status.code(), Some(1));
    let text = String::from_utf8(shown.stderr).unwrap();
    let expected = format!("penstock: {free} does not answer as a server's --metrics address");
    assert!(text.starts_with(&expected), "{text}");
}
