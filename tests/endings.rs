//! Starts and ends: peers that half-close or read slowly, stops, deletions, creations that fail,
//! large requests in small pieces.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use penstock_tests::records::batch_of;
use penstock_tests::rounds::rounds;
use penstock_tests::{Client, Penstock, Start, binary, fetch_request, produce_request, program};
use penstock_wire::messages::{
    ApiVersionsRequest, CreatableTopic, CreateTopicsRequest, DeleteTopicsRequest, FetchPartition,
    FetchRequest,
};
use penstock_wire::{ErrorCode, Request, Response, decode_response};

const TOPIC: &str = "events";

fn create(names: &[&str], partitions: i32) -> Request {
    let topic = |name: &&str| CreatableTopic {
        name: (*name).into(),
        num_partitions: partitions,
        replication_factor: 1,
        ..Default::default()
    };
    let topics = names.iter().map(topic).collect();
    Request::CreateTopics(CreateTopicsRequest { topics, ..Default::default() })
}

fn create_errors(client: &mut Client, request: &Request) -> Vec<ErrorCode> {
    let Response::CreateTopics(response) = client.ask(request).unwrap() else { panic!() };
    response.topics.iter().map(|topic| topic.error_code).collect()
}

fn newest(request: &Request) -> i16 {
    request.api_key().supported().max_version
}

#[test]
fn a_peer_that_has_nothing_more_to_ask_still_gets_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(TOPIC, 1, &[]).unwrap();
    let request = FetchRequest { max_wait_ms: 300_000, ..fetch_request(TOPIC, 0, 0) };
    let request = Request::Fetch(request);
    let sent = client.send(&request, newest(&request)).unwrap();
    client.stream().shutdown(Shutdown::Write).unwrap();
    let answer = client.receive().unwrap();
    let (answered, _) = decode_response(request.api_key(), newest(&request), answer).unwrap();
    assert_eq!(answered, sent);
}

#[test]
fn a_stop_does_not_wait_for_peers_that_ask_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path()).set(&[("drain.timeout.ms", "600000")]);
    let server = start.start().unwrap();
    // Cheap to send and expensive to answer, so that a next request always waits.
    let request = Request::ApiVersions(ApiVersionsRequest::default());
    let frames = request.encode(newest(&request), 1, "test").repeat(1000);
    let mut peers = Vec::new();
    for _ in 0..8 {
        let (mut client, frames) = (server.client().unwrap(), frames.clone());
        let mut answers = client.stream().try_clone().unwrap();
        let asking = move || while client.stream().write_all(&frames).is_ok() {};
        peers.push(std::thread::spawn(asking));
        answers.read_exact(&mut [0; 100_000]).unwrap();
        let reading = move || _ = std::io::copy(&mut answers, &mut std::io::sink());
        peers.push(std::thread::spawn(reading));
    }
    let started = Instant::now();
    server.stop().unwrap();
    let lasted = started.elapsed();
    assert!(lasted < Duration::from_secs(5), "the stop took {lasted:?}");
    peers.into_iter().for_each(|peer| peer.join().unwrap());
}

/// A killed server's ring holds its listener, and so the port, for some milliseconds more.
#[test]
fn a_start_right_after_a_kill_comes_up_on_the_same_port() {
    let dir = tempfile::tempdir().unwrap();
    let kills = rounds(10, 50);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let start = || {
        let mut arguments = Start::on(dir.path()).arguments();
        let listen = arguments.iter().position(|one| one == "--listen").unwrap();
        arguments[listen + 1].clone_from(&free);
        let mut command = program("penstock");
        command.args(arguments);
        Penstock::start(command).unwrap()
    };
    let mut server = start();
    server.client().unwrap().create_topic(TOPIC, 1, &[]).unwrap();
    for n in 0..kills {
        // Idle peers, one that waits for data, and one that does not read.
        let mut peers: Vec<_> = (0..4).map(|_| server.client().unwrap()).collect();
        let produced = peers[0].produce(TOPIC, 0, 1, batch_of(100_000)).unwrap();
        assert_eq!((produced.error_code, produced.base_offset), (ErrorCode::NONE, n as i64));
        let waiting = FetchRequest {
            max_wait_ms: 60_000,
            ..fetch_request(TOPIC, 0, produced.base_offset + 1)
        };
        for (peer, request) in peers[1..].iter_mut().zip([waiting, fetch_request(TOPIC, 0, 0)]) {
            let request = Request::Fetch(request);
            peer.send(&request, newest(&request)).unwrap();
        }
        server.kill().unwrap();
        server = start();
    }
    server.stop().unwrap();
}

/// Appends that wait while their topic is deleted roll segments. Once each did so in the directory
/// of a topic created again under the name, whose log end then jumped at the next start.
#[test]
fn appends_to_a_deleted_topic_leave_nothing_in_one_created_anew() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path())
        .set(&[("log.segment.bytes", "1024"), ("auto.create.topics.enable", "false")]);
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    let produce = produce_request(TOPIC, 0, 1, batch_of(700));
    let delete = DeleteTopicsRequest { topic_names: vec![TOPIC.into()], ..Default::default() };
    let delete = Request::DeleteTopics(delete);
    let mut producers: Vec<Client> = (0..100).map(|_| server.client().unwrap()).collect();
    for _ in 0..5 {
        assert_eq!(create_errors(&mut client, &create(&[TOPIC], 1)), [ErrorCode::NONE]);
        producers.iter_mut().for_each(|p| _ = p.send(&produce, newest(&produce)).unwrap());
        client.ask(&delete).unwrap();
        assert_eq!(create_errors(&mut client, &create(&[TOPIC], 1)), [ErrorCode::NONE]);
        producers.iter_mut().for_each(|p| _ = p.receive().unwrap());
        let end = client.offset_of(TOPIC, 0, -1).unwrap();
        for base in segments(&dir.path().join(format!("{TOPIC}-0"))) {
            assert!(base <= end, "a segment at {base} in a log that ends at {end}");
        }
        client.ask(&delete).unwrap();
    }
}

fn segments(dir: &Path) -> Vec<i64> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.strip_suffix(".log")?.parse().ok()).collect()
}

/// A limit on descriptors breaks the creation in the middle. Once the partition at which it broke
/// came up as a topic at the next start.
#[test]
fn nothing_is_left_of_a_topic_whose_creation_failed() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path());
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 200; exec \"$0\" \"$@\""]).arg(binary("penstock"));
    command.args(start.arguments());
    let server = Penstock::start(command).unwrap();
    let mut client = server.client().unwrap();
    let failed = create_errors(&mut client, &create(&[TOPIC], 1000));
    assert_eq!(failed, [ErrorCode::KAFKA_STORAGE_ERROR]);
    assert_eq!(create_errors(&mut client, &create(&["small"], 1)), [ErrorCode::NONE]);
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with(TOPIC)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_topic_named_twice_in_a_request_is_created_neither_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    let errors = create_errors(&mut client, &create(&["a", "b", "a"], 1));
    let twice = ErrorCode::INVALID_REQUEST;
    assert_eq!(errors, [twice, ErrorCode::NONE], "refused once, as Kafka does");
}

/// Once each receive requested room from the budget again that an earlier one had been granted and
/// not filled, so one large frame in small pieces used the budget up.
#[test]
fn a_large_request_takes_its_size_from_the_budget_once() {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path()).set(&[("queued.max.request.bytes", "104857600")]);
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(TOPIC, 1, &[]).unwrap();
    let request = produce_request(TOPIC, 0, 1, batch_of(60 << 20));
    let frame = request.encode(newest(&request), 7, "test");
    for piece in frame.chunks(100_000) {
        client.stream().write_all(piece).unwrap();
    }
    let answer = client.receive().unwrap();
    let (_, answer) = decode_response(request.api_key(), newest(&request), answer).unwrap();
    let Response::Produce(answer) = answer else { panic!() };
    let refused = answer.responses[0].partition_responses[0].error_code;
    assert_eq!(refused, ErrorCode::MESSAGE_TOO_LARGE);
}

/// A full send buffer takes no new bytes until a third of it is free, which takes a slow reader
/// longer than send.timeout.ms. So the bytes that the peer takes from the buffer must count.
#[test]
fn a_slow_reader_is_not_taken_for_a_silent_one() {
    const FETCH_BYTES: i32 = 50 << 20;
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).set(&[("send.timeout.ms", "2000")]).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(TOPIC, 1, &[]).unwrap();
    for _ in 0..20 {
        client.produce(TOPIC, 0, 1, batch_of(1_000_000)).unwrap();
    }
    let mut request = fetch_request(TOPIC, 0, 0);
    let partition_max_bytes = FETCH_BYTES;
    request.topics[0].partitions =
        [FetchPartition { partition_max_bytes, ..FetchPartition::default() }].into();
    let request = Request::Fetch(FetchRequest { max_bytes: FETCH_BYTES, ..request });
    client.send(&request, newest(&request)).unwrap();
    // 160 kB/s for three times the time-out, then the rest at once.
    let mut piece = vec![0; 8192];
    let started = Instant::now();
    let mut taken = 0;
    while started.elapsed() < Duration::from_secs(7) {
        client.stream().read_exact(&mut piece).unwrap();
        taken += piece.len();
        std::thread::sleep(Duration::from_millis(50));
    }
    let expected = 20_000_000 - taken;
    let mut rest = client.stream().take(expected as u64);
    let read = std::io::copy(&mut rest, &mut std::io::sink()).unwrap();
    assert_eq!(read, expected as u64);
}
