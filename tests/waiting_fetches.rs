//! Fetches that wait: what may happen to their client, their topic and their time meanwhile.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_tests::records::{batch, batch_of, bytes_of, records_from};
use penstock_tests::rounds::rounds;
use penstock_tests::{Client, Penstock, Start, fetch_request, produce_request};
use penstock_wire::messages::{FetchPartition, FetchRequest, FetchResponse, FetchTopic};
use penstock_wire::{ApiKey, ErrorCode, Request, Response, decode_response};
use tempfile::TempDir;

const TOPIC: &str = "events";
const VERSION: i16 = 11;

/// Longer than any test takes.
const LONG_MS: i32 = 300_000;
const SOON: Duration = Duration::from_secs(30);

fn with_topic(partitions: i32) -> (TempDir, Penstock, Client) {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(TOPIC, partitions, &[]).unwrap();
    (dir, server, client)
}

fn patient(offset: i64) -> FetchRequest {
    FetchRequest { max_wait_ms: LONG_MS, min_bytes: 1, ..fetch_request(TOPIC, 0, offset) }
}

fn send_fetch(client: &mut Client, request: FetchRequest) -> i32 {
    client.send(&Request::Fetch(request), VERSION).unwrap()
}

fn receive_fetch(client: &mut Client) -> (i32, FetchResponse) {
    let frame = client.receive().unwrap();
    let (id, response) = decode_response(ApiKey::Fetch, VERSION, frame).unwrap();
    let Response::Fetch(response) = response else { panic!("another answer") };
    (id, response)
}

fn until_waiting(server: &Penstock, count: u64) {
    let what = format!("{count} waiting fetches");
    server.until_metrics(&what, |m| m.value("penstock_fetch_waiting") == count).unwrap();
}

fn records_of(response: &FetchResponse, from: i64) -> Vec<(i64, Vec<u8>)> {
    records_from(&bytes_of(&response.responses[0].partitions[0]), from)
}

fn append(client: &mut Client, partition: i32, records: Bytes) {
    let produced = client.produce(TOPIC, partition, 1, records).unwrap();
    assert_eq!(produced.error_code, ErrorCode::NONE);
}

#[test]
fn a_fetch_that_is_woken_too_early_is_woken_again() {
    let (_dir, server, mut client) = with_topic(3);
    let mut waiting = server.client().unwrap();
    let asked = |partition| FetchPartition {
        partition,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    let topic = FetchTopic { topic: TOPIC.into(), partitions: (0..3).map(asked).collect() };
    let request = FetchRequest { min_bytes: 2500, topics: [topic].into(), ..patient(0) };
    let sent = send_fetch(&mut waiting, request);
    until_waiting(&server, 1);
    for partition in [2, 0, 1] {
        append(&mut client, partition, batch_of(1000));
    }
    let (answered, response) = receive_fetch(&mut waiting);
    assert_eq!(answered, sent);
    let whole = batch_of(1000).len();
    let sizes = response.responses[0].partitions.iter().map(|data| bytes_of(data).len());
    assert_eq!(sizes.collect::<Vec<_>>(), [whole; 3]);
}

#[test]
fn a_fetch_whose_topic_is_deleted_is_answered_at_once() {
    let (_dir, server, mut client) = with_topic(1);
    let mut waiting = server.client().unwrap();
    send_fetch(&mut waiting, patient(0));
    until_waiting(&server, 1);
    let started = Instant::now();
    assert_eq!(client.ask_for_deletion(TOPIC).unwrap(), ErrorCode::NONE);
    let (_, response) = receive_fetch(&mut waiting);
    let error = response.responses[0].partitions[0].error_code;
    assert_eq!(error, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert!(started.elapsed() < SOON);
}

/// A fetch that looks when the new topic is there already must not wait in the queue of the old.
#[test]
fn a_fetch_whose_topic_is_deleted_and_created_again_gets_an_error_or_what_is_new() {
    let (_dir, server, mut client) = with_topic(1);
    let mut waiting: Vec<Client> = (0..20).map(|_| server.client().unwrap()).collect();
    for _ in 0..rounds(10, 200) {
        waiting.iter_mut().for_each(|one| _ = send_fetch(one, patient(0)));
        until_waiting(&server, 20);
        let started = Instant::now();
        assert_eq!(client.ask_for_deletion(TOPIC).unwrap(), ErrorCode::NONE);
        client.create_topic(TOPIC, 1, &[]).unwrap();
        append(&mut client, 0, batch(&["new"]));
        for one in &mut waiting {
            let (_, response) = receive_fetch(one);
            let data = &response.responses[0].partitions[0];
            let is_gone = data.error_code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
            assert!(is_gone || records_of(&response, 0) == [(0, b"new".to_vec())], "{data:?}");
        }
        assert!(started.elapsed() < SOON);
        assert_eq!(client.ask_for_deletion(TOPIC).unwrap(), ErrorCode::NONE);
        client.create_topic(TOPIC, 1, &[]).unwrap();
    }
}

/// Appends meet the ends of waits as well as their beginnings.
#[test]
fn a_reader_whose_waits_end_at_the_moment_of_appends_gets_each_record_once() {
    let (_dir, server, mut client) = with_topic(1);
    let appends = rounds(300, 10_000);
    let reader = std::thread::spawn({
        let mut reader = server.client().unwrap();
        move || {
            let mut next = 0;
            while next < appends as i64 {
                send_fetch(&mut reader, FetchRequest { max_wait_ms: 1, ..patient(next) });
                for (offset, value) in records_of(&receive_fetch(&mut reader).1, next) {
                    assert_eq!((offset, value), (next, next.to_string().into_bytes()));
                    next += 1;
                }
            }
        }
    });
    for n in 0..appends {
        append(&mut client, 0, batch(&[n.to_string()]));
        // Now and then the reader's time is over before the next append.
        std::thread::sleep(Duration::from_micros((n as u64 * 397) % 2500));
    }
    reader.join().unwrap();
}

#[test]
fn a_client_that_leaves_takes_its_waiting_fetch_with_it() {
    let (_dir, server, _client) = with_topic(1);
    let next = Request::Fetch(patient(0)).encode(VERSION, 2, "test");
    // With nothing, a whole request, a part of one, and many behind the waiting one.
    let behind = [Vec::new(), next.to_vec(), next[..7].to_vec(), next.repeat(1000)];
    for (n, bytes) in behind.iter().enumerate() {
        for is_reset in [false, true] {
            let mut leaving = server.client().unwrap();
            send_fetch(&mut leaving, patient(0));
            until_waiting(&server, 1);
            leaving.stream().write_all(bytes).unwrap();
            if is_reset {
                leaving.reset().unwrap()
            } else {
                drop(leaving)
            }
            until_waiting(&server, 0);
            let what = format!("connections without the one that left ({n}, {is_reset})");
            let is_gone = |m: &penstock_tests::Metrics| m.value("penstock_connections") == 1;
            server.until_metrics(&what, is_gone).unwrap();
        }
    }
    server.stop().unwrap();
}

#[test]
fn requests_sent_behind_a_waiting_fetch_are_kept_for_their_turn() {
    let (_dir, server, mut client) = with_topic(2);
    let mut ahead = server.client().unwrap();
    // Small and large ones, of which the first comes in pieces, too.
    for first_bytes in [3, 10_000] {
        let end = client.offset_of(TOPIC, 0, -1).unwrap();
        let mut sent = vec![send_fetch(&mut ahead, patient(end))];
        until_waiting(&server, 1);
        let first = produce_request(TOPIC, 1, 1, batch_of(100_000)).encode(7, 77, "test");
        ahead.stream().write_all(&first[..first_bytes]).unwrap();
        // The receive of the waiting fetch takes what is there.
        server.metrics().unwrap();
        ahead.stream().write_all(&first[first_bytes..]).unwrap();
        sent.push(77);
        sent.push(ahead.send(&produce_request(TOPIC, 1, 1, batch(&["x"])), 7).unwrap());
        sent.push(send_fetch(&mut ahead, patient(end)));
        append(&mut client, 0, batch(&["wakes"]));
        for correlation_id in sent {
            assert_eq!(ahead.receive().unwrap()[..4], correlation_id.to_be_bytes());
        }
    }
    server.stop().unwrap();
}

/// What a client sends ahead stays with it and in its socket, but for one small buffer.
#[test]
fn a_client_that_sends_without_end_behind_a_waiting_fetch_takes_no_memory() {
    const CLIENTS: usize = 50;
    const AHEAD_BYTES: usize = 4 << 20;
    let (_dir, server, _client) = with_topic(1);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.client().unwrap()).collect();
    clients.iter_mut().for_each(|one| _ = send_fetch(one, patient(0)));
    until_waiting(&server, CLIENTS as u64);
    let before_bytes = server.resident_bytes().unwrap();
    let endless = produce_request(TOPIC, 0, 1, batch_of(100_000)).encode(7, 9, "test");
    for one in &mut clients {
        let stream = one.stream();
        stream.set_nonblocking(true).unwrap();
        let mut ahead_bytes = 0;
        while ahead_bytes < AHEAD_BYTES {
            match stream.write(&endless) {
                Ok(len_bytes) => ahead_bytes += len_bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    server.metrics().unwrap();
    let more_bytes = server.resident_bytes().unwrap().saturating_sub(before_bytes);
    assert!(more_bytes < (CLIENTS * 64 * 1024) as u64, "{more_bytes} bytes for {CLIENTS} clients");
}

#[test]
fn a_client_that_ends_its_sending_side_gets_the_answers_to_all_that_it_sent() {
    let (_dir, server, _client) = with_topic(1);
    let mut last = server.client().unwrap();
    let sent = send_fetch(&mut last, patient(0));
    until_waiting(&server, 1);
    let behind = last.send(&produce_request(TOPIC, 0, 1, batch(&["x"])), 7).unwrap();
    last.stream().shutdown(Shutdown::Write).unwrap();
    for correlation_id in [sent, behind] {
        assert_eq!(last.receive().unwrap()[..4], correlation_id.to_be_bytes());
    }
    assert!(last.receive().is_err(), "the connection ends behind its last answer");
    server.stop().unwrap();
}
