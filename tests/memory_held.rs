//! Memory that peers make a server hold: bytes that they receive, send, wait for and leave behind.

use std::io::Write;
use std::net::Shutdown;
use std::thread::sleep;
use std::time::{Duration, Instant};

use penstock_tests::memory_group::MemoryGroup;
use penstock_tests::records::batch_of;
use penstock_tests::rounds::say;
use penstock_tests::{Client, Metrics, Penstock, Start, fetch_request, produce_request};
use penstock_wire::messages::{FetchTopic, FindCoordinatorRequest};
use penstock_wire::{ApiKey, Request, Str};

const MIB: u64 = 1024 * 1024;
const TOPIC: &str = "events";

/// A server in a cgroup of its own with this limit.
fn server_in(limit_bytes: u64) -> Option<(MemoryGroup, tempfile::TempDir, Penstock)> {
    let group = MemoryGroup::make(limit_bytes)?;
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let server = group.start(&Start::on(dir.path())).unwrap();
    server.client().unwrap().create_topic(TOPIC, 1, &[]).unwrap();
    Some((group, dir, server))
}

fn produce_of(len_bytes: usize) -> bytes::Bytes {
    let version = ApiKey::Produce.supported().max_version;
    produce_request(TOPIC, 0, 1, batch_of(len_bytes)).encode(version, 1, "test")
}

#[test]
fn a_frame_has_its_whole_share_whatever_was_received_when_its_length_came() {
    let Some((_group, _dir, server)) = server_in(64 * MIB) else { return };
    let mut client = server.client().unwrap();
    // The next receive has as much room, the most that is kept.
    let overhead = produce_of(20_000).len() - 20_000;
    let first = produce_of(20 * 1024 - overhead);
    assert_eq!(first.len(), 20 * 1024);
    client.stream().write_all(&first).unwrap();
    client.receive().unwrap();
    let large = produce_of(900_000);
    client.stream().write_all(&large[..1]).unwrap();
    sleep(Duration::from_millis(300));
    client.stream().write_all(&large[1..800_000]).unwrap();
    let held = || server.metrics().unwrap().value("penstock_memory_request_bytes");
    let started = Instant::now();
    while held() < large.len() as u64 {
        assert!(started.elapsed() < Duration::from_secs(5), "{} of {}", held(), large.len());
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn answers_without_records_that_nobody_reads_do_not_kill_a_server() {
    let Some((group, _dir, mut server)) = server_in(64 * MIB) else { return };
    let coordinator_keys = (0..40_000).map(|n| Str::from(format!("group-{n}"))).collect();
    let request = FindCoordinatorRequest { coordinator_keys, ..Default::default() };
    let request = Request::FindCoordinator(request);
    let version = ApiKey::FindCoordinator.supported().max_version;
    let held = || server.metrics().unwrap().value("penstock_memory_answer_bytes");
    let mut most_held = 0;
    let ask = |_| {
        let mut peer = Client::connect_narrow(server.address(), 4096).ok()?;
        peer.send(&request, version).ok()?;
        // After each: on a slow machine the first are dropped before the last have asked.
        most_held = most_held.max(held());
        Some(peer)
    };
    // Some connections may be closed.
    let peers: Vec<_> = (0..80).filter_map(ask).collect();
    if most_held == 0 {
        let is_held = |metrics: &Metrics| metrics.value("penstock_memory_answer_bytes") > 0;
        server.until_metrics("an answer is made and held", is_held).unwrap();
    }
    most_held = most_held.max(held());
    assert!(most_held <= 4 * MIB, "{most_held}");
    // A peer that has taken no byte of its answer gives way to peers that read.
    let started = Instant::now();
    let answer = loop {
        let mut client = server.client().unwrap();
        client.send(&request, version).unwrap();
        match client.receive() {
            Ok(answer) => break answer,
            Err(error) => error.assert_is_an_end(),
        }
        assert!(started.elapsed() < Duration::from_secs(30), "no answer for peers that read");
        sleep(Duration::from_millis(100));
    };
    assert!(answer.len() > 500_000);
    say(format_args!("beside {} silent peers after {:?}", peers.len(), started.elapsed()));
    drop(peers);
    server
        .until_metrics("all is given back", |metrics| {
            metrics.value("penstock_memory_answer_bytes") == 0
        })
        .unwrap();
    assert!(server.is_running());
    assert_eq!(group.kills().unwrap(), 0);
}

#[test]
fn a_fetch_that_waits_does_not_keep_uploads_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [("queued.max.request.bytes", "8388608"), ("frame.timeout.ms", "20000")];
    let server = Start::on(dir.path()).set(&settings).start().unwrap();
    server.client().unwrap().create_topic(TOPIC, 1, &[]).unwrap();
    let waiting: Vec<_> = [250_000, 45_000]
        .into_iter()
        .map(|times| {
            let mut request = fetch_request(TOPIC, 0, 0);
            request.max_wait_ms = 60_000;
            let named = request.topics[0].partitions[0].clone();
            let partitions = (0..times).map(|_| named.clone()).collect();
            request.topics = [FetchTopic { topic: TOPIC.into(), partitions }].into();
            let mut peer = server.client().unwrap();
            peer.send(&Request::Fetch(request), 11).unwrap();
            peer
        })
        .collect();
    sleep(Duration::from_millis(1500));
    say(format_args!("held {}", server.metrics().unwrap().value("penstock_memory_request_bytes")));
    let started = Instant::now();
    let produced = server.client().unwrap().produce(TOPIC, 0, 1, batch_of(900_000));
    say(format_args!(
        "waited {:?}: {:?}",
        started.elapsed(),
        produced.as_ref().map(|p| p.error_code)
    ));
    assert!(produced.is_ok());
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(waiting);
}

/// Producers far away, which pause for a round trip after each 64 KiB.
#[test]
fn uploads_over_long_ways_all_get_through() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [("queued.max.request.bytes", "3145728")];
    let server = Start::on(dir.path()).set(&settings).start().unwrap();
    server.client().unwrap().create_topic(TOPIC, 1, &[]).unwrap();
    let upload = produce_of(900_000);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let produce = || {
            let mut client = server.client().unwrap();
            for part in upload.chunks(64 * 1024) {
                if client.stream().write_all(part).is_err() {
                    return false;
                }
                sleep(Duration::from_millis(300));
            }
            client.receive().is_ok()
        };
        let all: Vec<_> = (0..10).map(|_| scope.spawn(produce)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    say(format_args!("{outcomes:?}"));
    assert!(outcomes.iter().all(|is_through| *is_through));
}

#[test]
fn a_peer_that_ends_its_side_and_never_reads_counts_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).set(&[("send.timeout.ms", "2000")]).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(TOPIC, 1, &[]).unwrap();
    client.produce(TOPIC, 0, 1, batch_of(100_000)).unwrap();
    let ask = || {
        // The whole answer fits into the server's send buffer.
        let mut peer = Client::connect_narrow(server.address(), 2048).unwrap();
        peer.send(&Request::Fetch(fetch_request(TOPIC, 0, 0)), 11).unwrap();
        peer.stream().shutdown(Shutdown::Write).unwrap();
        peer
    };
    let (mut reader, silent, gone) = (ask(), ask(), ask());
    sleep(Duration::from_millis(500));
    assert_eq!(server.metrics().unwrap().value("penstock_connections"), 4);
    gone.reset().unwrap();
    assert!(reader.receive().unwrap().len() > 100_000, "a peer that reads gets all");
    let count = |wanted| move |metrics: &Metrics| metrics.value("penstock_connections") == wanted;
    server.until_metrics("peers that read or left are gone", count(2)).unwrap();
    server.until_metrics("the silent one is dropped", count(1)).unwrap();
    drop(silent);
    server.stop().unwrap();
}
