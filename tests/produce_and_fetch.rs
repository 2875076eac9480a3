//! The guarantees of produce and fetch, over a real connection to a real server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_tests::records::{batch, batch_at, batch_of, bytes_of, records_from};
use penstock_tests::{Client, Penstock, Start, fetch_request, produce_request};
use penstock_wire::messages::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use penstock_wire::{ErrorCode, Request, Response, decode_response};
use tempfile::TempDir;

const TOPIC: &str = "events";

fn server(start: impl FnOnce(Start) -> Start) -> (TempDir, Penstock, Client) {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Start::on(dir.path())).start().unwrap();
    let client = server.client().unwrap();
    (dir, server, client)
}

fn with_topic(partitions: i32, configs: &[(&str, &str)]) -> (TempDir, Penstock, Client) {
    let (dir, server, mut client) = server(|start| start);
    client.create_topic(TOPIC, partitions, configs).unwrap();
    (dir, server, client)
}

fn fetch_with(client: &mut Client, request: FetchRequest) -> FetchResponse {
    match client.ask(&Request::Fetch(request)).unwrap() {
        Response::Fetch(response) => response,
        other => panic!("not an answer to Fetch: {other:?}"),
    }
}

/// Record bytes of a fetch of partitions 0 and 1 from their start under these limits.
fn sizes_of_two(client: &mut Client, max_bytes: i32, partition_max_bytes: i32) -> [usize; 2] {
    let request = FetchRequest { max_bytes, ..fetch_request(TOPIC, 0, 0) };
    sizes_of_two_as(client, partition_max_bytes, request)
}

/// The same of a fetch that waits for so many bytes for longer than a test may last.
fn patient_sizes_of_two(
    client: &mut Client,
    min_bytes: i32,
    max_bytes: i32,
    partition_max_bytes: i32,
) -> [usize; 2] {
    let request = fetch_request(TOPIC, 0, 0);
    let request = FetchRequest { max_wait_ms: 30_000, min_bytes, max_bytes, ..request };
    let started = Instant::now();
    let sizes = sizes_of_two_as(client, partition_max_bytes, request);
    assert!(started.elapsed() < Duration::from_secs(10), "{max_bytes} {partition_max_bytes}");
    sizes
}

fn sizes_of_two_as(
    client: &mut Client,
    partition_max_bytes: i32,
    request: FetchRequest,
) -> [usize; 2] {
    let partitions = [0, 1].map(|partition| FetchPartition {
        partition,
        partition_max_bytes,
        ..FetchPartition::default()
    });
    let request = FetchRequest {
        topics: [FetchTopic { topic: TOPIC.into(), partitions: partitions.into_iter().collect() }]
            .into(),
        ..request
    };
    let response = fetch_with(client, request);
    [0, 1].map(|at: usize| bytes_of(&response.responses[0].partitions[at]).len())
}

#[test]
fn every_version_of_produce_and_fetch_gives_back_what_was_sent() {
    let (_dir, _server, mut client) = with_topic(1, &[]);
    let mut sent = 0;
    for version in 3..=8 {
        let values = [format!("v{version}-a"), format!("v{version}-b")];
        let request = produce_request(TOPIC, 0, 1, batch(&values));
        let Response::Produce(response) = client.ask_in(version, &request).unwrap() else {
            panic!()
        };
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (ErrorCode::NONE, sent));
        sent += 2;
    }
    for version in 4..=12 {
        let request = Request::Fetch(fetch_request(TOPIC, 0, 0));
        let Response::Fetch(response) = client.ask_in(version, &request).unwrap() else { panic!() };
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.high_watermark, sent, "version {version}");
        let records = records_from(&bytes_of(partition), 0);
        assert_eq!(records.len() as i64, sent, "version {version}");
        assert_eq!(records[5], (5, b"v5-b".to_vec()), "version {version}");
    }
}

#[test]
fn every_path_sends_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected: Option<Bytes> = None;
    for path in ["copy", "sendfile", "chain", "auto"] {
        let server = Start::on(dir.path()).with(&["--fetch-path", path]).start().unwrap();
        let mut client = server.client().unwrap();
        if expected.is_none() {
            client.create_topic(TOPIC, 1, &[]).unwrap();
            for size in [10, 100_000, 3, 700_000, 5000] {
                client.produce(TOPIC, 0, 1, batch_of(size)).unwrap();
            }
        }
        let fetched = bytes_of(&client.fetch(TOPIC, 0, 0).unwrap());
        assert!(fetched.len() > 800_000);
        assert_eq!(*expected.get_or_insert(fetched.clone()), fetched, "by {path}");
        let series = format!("penstock_sent_bytes_total{{path=\"{path}\"}}");
        // The last bytes arrive a moment before the server counts them.
        let started = Instant::now();
        while path != "auto" && server.metrics().unwrap().value(&series) != fetched.len() as u64 {
            let waited = started.elapsed();
            assert!(waited < Duration::from_secs(10), "not all record bytes went by {path}");
        }
        server.stop().unwrap();
    }
}

#[test]
fn a_fetch_may_start_at_any_offset() {
    let (_dir, _server, mut client) = with_topic(1, &[("segment.bytes", "4096")]);
    for base in (0..600).step_by(3) {
        let values: Vec<String> = (base..base + 3).map(|n| format!("record {n}")).collect();
        client.produce(TOPIC, 0, 1, batch(&values)).unwrap();
    }
    for offset in 0..600 {
        let fetched = client.fetch(TOPIC, 0, offset).unwrap();
        let records = records_from(&bytes_of(&fetched), offset);
        assert_eq!(records[0], (offset, format!("record {offset}").into_bytes()));
    }
    assert_eq!(client.fetch(TOPIC, 0, 600).unwrap().error_code, ErrorCode::NONE);
    assert_eq!(client.fetch(TOPIC, 0, 601).unwrap().error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!(client.fetch(TOPIC, 0, -1).unwrap().error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
}

#[test]
fn the_first_batch_is_given_whole_however_small_the_limits_are() {
    let (_dir, _server, mut client) = with_topic(2, &[]);
    for partition in 0..2 {
        client.produce(TOPIC, partition, 1, batch_of(50_000)).unwrap();
    }
    let sizes = sizes_of_two(&mut client, 1, 1);
    assert!(sizes[0] > 50_000, "KIP-74: the first partition that has data makes progress");
    assert_eq!(sizes[1], 0, "the others keep to the limit");
}

#[test]
fn limits_of_answer_and_partition_hold() {
    let (_dir, _server, mut client) = with_topic(2, &[]);
    let batch = batch_of(10_000);
    for partition in 0..2 {
        for _ in 0..20 {
            client.produce(TOPIC, partition, 1, batch.clone()).unwrap();
        }
    }
    let sizes = sizes_of_two(&mut client, 100_000, 60_000);
    assert_eq!(sizes, [5 * batch.len(), 3 * batch.len()], "whole batches");
}

#[test]
fn a_fetch_does_not_wait_for_the_batch_that_its_limit_would_cut() {
    let (_dir, _server, mut client) = with_topic(2, &[]);
    let batch = batch_of(4000);
    for _ in 0..2 {
        client.produce(TOPIC, 0, 1, batch.clone()).unwrap();
    }
    let sizes = patient_sizes_of_two(&mut client, 6000, 1 << 20, 6000);
    assert_eq!(sizes, [batch.len(), 0]);
}

#[test]
fn a_fetch_with_nothing_to_send_waits_until_something_comes() {
    let (_dir, server, mut client) = with_topic(1, &[]);
    let mut producer = server.client().unwrap();
    let request = FetchRequest { max_wait_ms: 30_000, ..fetch_request(TOPIC, 0, 0) };
    client.send(&Request::Fetch(request), 11).unwrap();
    while server.metrics().unwrap().value("penstock_fetch_waiting") == 0 {
        std::thread::yield_now();
    }
    let started = Instant::now();
    producer.produce(TOPIC, 0, 1, batch(&["at last"])).unwrap();
    let frame = client.receive().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "the append wakes the fetch");
    let (_, response) = decode_response(penstock_wire::ApiKey::Fetch, 11, frame).unwrap();
    let Response::Fetch(response) = response else { panic!() };
    let records = records_from(&bytes_of(&response.responses[0].partitions[0]), 0);
    assert_eq!(records, [(0, b"at last".to_vec())]);
    assert_eq!(server.metrics().unwrap().value("penstock_fetch_waiting"), 0);
}

#[test]
fn a_fetch_waits_for_min_bytes_no_longer_than_max_wait() {
    let (_dir, _server, mut client) = with_topic(1, &[]);
    client.produce(TOPIC, 0, 1, batch(&["little"])).unwrap();
    let request =
        FetchRequest { max_wait_ms: 300, min_bytes: 1 << 20, ..fetch_request(TOPIC, 0, 0) };
    let started = Instant::now();
    let response = fetch_with(&mut client, request);
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(records_from(&bytes_of(&response.responses[0].partitions[0]), 0).len(), 1);
}

#[test]
fn a_fetch_does_not_wait_for_more_than_its_limits_let_through() {
    let (_dir, _server, mut client) = server(|start| start.set(&[("fetch.max.bytes", "6000")]));
    client.create_topic(TOPIC, 2, &[]).unwrap();
    for partition in [0, 1] {
        client.produce(TOPIC, partition, 1, batch_of(4000)).unwrap();
    }
    // Limits of the answer, of the server, of each partition, and of the answer where the next
    // batch does not fit.
    let limits = [(3000, 1 << 20), (1 << 20, 1 << 20), (1 << 20, 1000), (5000, 1 << 20)];
    for (max_bytes, partition_max_bytes) in limits {
        let sizes = patient_sizes_of_two(&mut client, 10_000, max_bytes, partition_max_bytes);
        assert!(sizes[0] > 0);
    }
}

#[test]
fn an_error_or_an_older_segment_is_answered_at_once() {
    let (_dir, _server, mut client) = with_topic(1, &[("segment.bytes", "2048")]);
    for _ in 0..4 {
        client.produce(TOPIC, 0, 1, batch_of(1500)).unwrap();
    }
    let patient = |request| FetchRequest { max_wait_ms: 30_000, min_bytes: 1 << 20, ..request };
    let started = Instant::now();
    let old = fetch_with(&mut client, patient(fetch_request(TOPIC, 0, 0)));
    assert!(!bytes_of(&old.responses[0].partitions[0]).is_empty());
    let unknown = fetch_with(&mut client, patient(fetch_request("nowhere", 0, 0)));
    let error = unknown.responses[0].partitions[0].error_code;
    assert_eq!(error, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (_dir, _server, mut client) = with_topic(1, &[]);
    client.produce(TOPIC, 0, 1, batch_of(200_000)).unwrap();
    let mut sent = Vec::new();
    for n in 0..50 {
        let request = if n % 2 == 0 {
            Request::Fetch(fetch_request(TOPIC, 0, 0))
        } else {
            produce_request(TOPIC, 0, 1, batch(&[format!("{n}")]))
        };
        let version = if n % 2 == 0 { 11 } else { 7 };
        sent.push(client.send(&request, version).unwrap());
    }
    for correlation_id in sent {
        let frame = client.receive().unwrap();
        assert_eq!(frame[..4], correlation_id.to_be_bytes());
    }
}

#[test]
fn a_request_is_taken_whatever_pieces_it_comes_in() {
    let (_dir, server, mut client) = with_topic(1, &[]);
    let request = produce_request(TOPIC, 0, 1, batch_of(40_000));
    let frame = request.encode(8, 1, "pieces");
    // The smallest buffer holds 2048 bytes: just as many, one less, one more, and all but the last
    // byte.
    for first in [1, 2047, 2048, 2049, 4096, frame.len() - 1] {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in [&frame[..first], &frame[first..]] {
            stream.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
    }
    assert_eq!(client.offset_of(TOPIC, 0, -1).unwrap(), 6);
}

#[test]
fn records_without_acks_arrive_and_get_no_answer() {
    let (_dir, _server, mut client) = with_topic(1, &[]);
    client.send(&produce_request(TOPIC, 0, 0, batch(&["silent"])), 7).unwrap();
    let fetched = client.fetch(TOPIC, 0, 0).unwrap();
    assert_eq!(records_from(&bytes_of(&fetched), 0), [(0, b"silent".to_vec())]);
}

#[test]
fn damaged_records_are_refused_and_nothing_of_them_is_kept() {
    let (_dir, _server, mut client) = with_topic(1, &[("max.message.bytes", "1000")]);
    let good = batch(&["good"]);
    let mut flipped = good.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let refused =
        |client: &mut Client, bytes: Bytes| client.produce(TOPIC, 0, 1, bytes).unwrap().error_code;
    assert_eq!(refused(&mut client, flipped.into()), ErrorCode::CORRUPT_MESSAGE);
    assert_eq!(refused(&mut client, batch_of(2000)), ErrorCode::MESSAGE_TOO_LARGE);
    let cut = good.slice(..good.len() - 1);
    assert_ne!(refused(&mut client, cut), ErrorCode::NONE);
    assert_ne!(refused(&mut client, Bytes::new()), ErrorCode::NONE);
    assert_eq!(client.offset_of(TOPIC, 0, -1).unwrap(), 0);
    assert_eq!(refused(&mut client, good), ErrorCode::NONE);
}

#[test]
fn unknown_acks_are_refused() {
    let (_dir, _server, mut client) = with_topic(1, &[]);
    let answer = client.produce(TOPIC, 0, 2, batch(&["x"])).unwrap();
    assert_eq!(answer.error_code, ErrorCode::INVALID_REQUIRED_ACKS);
}

#[test]
fn times_are_found_to_the_record() {
    let (_dir, _server, mut client) = with_topic(1, &[("segment.bytes", "4096")]);
    for n in 0..300 {
        client.produce(TOPIC, 0, 1, batch_at(1000 + n * 10, &[format!("at {n}")])).unwrap();
    }
    assert_eq!(client.offset_of(TOPIC, 0, -2).unwrap(), 0);
    assert_eq!(client.offset_of(TOPIC, 0, -1).unwrap(), 300);
    assert_eq!(client.offset_of(TOPIC, 0, -3).unwrap(), 299);
    for (time, offset) in
        [(0, 0), (1000, 0), (1001, 1), (1010, 1), (2500, 150), (3990, 299), (3991, -1)]
    {
        assert_eq!(client.offset_of(TOPIC, 0, time).unwrap(), offset, "time {time}");
    }
}

#[test]
fn log_append_time_is_the_servers_clock() {
    let (_dir, _server, mut client) = with_topic(1, &[("message.timestamp.type", "LogAppendTime")]);
    let answer = client.produce(TOPIC, 0, 1, batch_at(5, &["x"])).unwrap();
    assert!(answer.log_append_time_ms > 1_700_000_000_000);
    let fetched = bytes_of(&client.fetch(TOPIC, 0, 0).unwrap());
    let header = penstock_batch::BatchHeader::parse(&fetched).unwrap();
    assert_eq!(header.max_timestamp, answer.log_append_time_ms);
    penstock_batch::check_crc(&fetched).unwrap();
}

#[test]
fn a_repeated_idempotent_batch_is_kept_once() {
    let (_dir, _server, mut client) = with_topic(1, &[]);
    let mut builder = penstock_batch::BatchBuilder::new();
    let mut numbered = |sequence| {
        builder.set_producer(7, 0, sequence);
        builder.push(penstock_batch::NewRecord { value: Some(b"once"), ..Default::default() });
        Bytes::from(builder.finish())
    };
    let (first, second, gap) = (numbered(0), numbered(1), numbered(5));
    assert_eq!(client.produce(TOPIC, 0, -1, first.clone()).unwrap().base_offset, 0);
    assert_eq!(client.produce(TOPIC, 0, -1, second).unwrap().base_offset, 1);
    assert_eq!(
        client.produce(TOPIC, 0, -1, first).unwrap().base_offset,
        0,
        "the first answer again"
    );
    let out_of_order = client.produce(TOPIC, 0, -1, gap).unwrap().error_code;
    assert_eq!(out_of_order, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(client.offset_of(TOPIC, 0, -1).unwrap(), 2);
}

#[test]
fn retention_unlinks_old_segments_and_readers_are_told() {
    let (_dir, _server, mut client) =
        server(|start| start.set(&[("log.retention.check.interval.ms", "50")]));
    // Only by size, because the records' timestamps are years old.
    let configs = [("segment.bytes", "4096"), ("retention.bytes", "8192"), ("retention.ms", "-1")];
    client.create_topic(TOPIC, 1, &configs).unwrap();
    for _ in 0..20 {
        client.produce(TOPIC, 0, 1, batch_of(3000)).unwrap();
    }
    let started = Instant::now();
    // It may come first while records are still being produced.
    let start = loop {
        let start = client.offset_of(TOPIC, 0, -2).unwrap();
        if start >= 17 {
            break start;
        }
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(30), "three segments are kept, log start is {start}");
    };
    assert_eq!(client.fetch(TOPIC, 0, 0).unwrap().error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    assert!(!bytes_of(&client.fetch(TOPIC, 0, start).unwrap()).is_empty());
}

#[test]
fn everything_is_there_after_a_clean_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(TOPIC, 3, &[("segment.bytes", "4096")]).unwrap();
    for n in 0..90 {
        client.produce(TOPIC, n % 3, 1, batch(&[format!("{n}")])).unwrap();
    }
    server.stop().unwrap();
    assert!(dir.path().join(".kafka_cleanshutdown").exists());

    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    for partition in 0..3 {
        let fetched = client.fetch(TOPIC, partition, 0).unwrap();
        assert_eq!(fetched.high_watermark, 30);
        let answer = client.produce(TOPIC, partition, 1, batch(&["more"])).unwrap();
        assert_eq!(answer.base_offset, 30);
    }
}

#[test]
fn a_second_server_on_the_same_directory_is_refused() {
    let (dir, _server, _client) = with_topic(1, &[]);
    assert!(Start::on(dir.path()).start().is_err());
}
