//! Monitors that ask and read nothing, or connect and ask nothing: they cost little memory, and
//! hold up no other monitor.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use penstock_tests::{Client, Penstock, Start};
use penstock_wire::messages::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use penstock_wire::{ErrorCode, Request, Response};

const PARTITIONS: i32 = 50;
const GROUPS: usize = 200;
const PEERS: usize = 200;

/// The peers' answers together would be some ten times as large.
const GROWTH_MAX_BYTES: u64 = 80 << 20;

/// A server whose /readers.json has some megabytes: a row for each group and partition.
fn server(dir: &tempfile::TempDir) -> Penstock {
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(&topic(), PARTITIONS, &[]).unwrap();
    (0..GROUPS).for_each(|group| commit(&mut client, &format!("{group:0120}")));
    server
}

fn topic() -> String {
    "t".repeat(200)
}

fn commit(client: &mut Client, group: &str) {
    let partition = |partition_index| OffsetCommitRequestPartition {
        partition_index,
        committed_offset: 0,
        ..Default::default()
    };
    let partitions = (0..PARTITIONS).map(partition).collect();
    let request = OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic { name: topic().as_str().into(), partitions }],
        ..Default::default()
    };
    let Response::OffsetCommit(answer) = client.ask(&Request::OffsetCommit(request)).unwrap()
    else {
        panic!("not an answer to OffsetCommit")
    };
    let mut codes = answer.topics[0].partitions.iter().map(|partition| partition.error_code);
    assert!(codes.all(|code| code == ErrorCode::NONE));
}

fn ask(server: &Penstock, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.metrics_address()).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// What there is of an answer until its connection ends.
fn answer(mut stream: TcpStream) -> String {
    let (mut bytes, mut part) = (Vec::new(), [0; 65536]);
    while let Ok(len @ 1..) = stream.read(&mut part) {
        bytes.extend_from_slice(&part[..len]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks until the answer is 200. A burst of others may have every place for a second.
fn until_answered(server: &Penstock, path: &str) -> String {
    let began = Instant::now();
    loop {
        let answer = answer(ask(server, path));
        if answer.starts_with("HTTP/1.1 200") {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "held up: {answer}");
    }
}

#[test]
fn monitors_that_read_nothing_cost_little_and_hold_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let whole_bytes = until_answered(&server, "/readers.json").len();
    assert!(whole_bytes > 3 << 20, "{whole_bytes} bytes show nothing");
    let before = server.resident_bytes().unwrap();
    server.forget_peak().unwrap();
    let silent: Vec<TcpStream> = (0..PEERS).map(|_| ask(&server, "/readers.json")).collect();
    for path in ["/healthz", "/readyz", "/metrics", "/readers.json"] {
        until_answered(&server, path);
    }
    let grown = server.peak_bytes().unwrap().saturating_sub(before);
    assert!(grown < GROWTH_MAX_BYTES, "{grown} bytes for {PEERS} peers");
    // Each was refused with words, was cut off within its answer, or has all of it by now.
    for stream in silent {
        let answer = answer(stream);
        if answer.starts_with("HTTP/1.1 503") {
            assert!(answer.contains("are under way, which is the most"), "{answer}");
        }
    }
}

#[test]
fn connections_that_ask_nothing_hold_up_no_monitor() {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let silent = |_| TcpStream::connect(server.metrics_address()).unwrap();
    let silent: Vec<TcpStream> = (0..PEERS).map(silent).collect();
    until_answered(&server, "/metrics");
    drop(silent);
    until_answered(&server, "/metrics");
}
