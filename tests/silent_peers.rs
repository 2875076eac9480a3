//! Peers that request much and read nothing: they cost memory, but neither threads nor the time of
//! others.

use std::io::Read;
use std::time::{Duration, Instant};

use penstock_tests::records::{batch_of, bytes_of, records_from};
use penstock_tests::{Client, Penstock, Start, fetch_request, program};
use penstock_wire::Request;
use penstock_wire::messages::{FetchPartition, FetchRequest};

const TOPIC: &str = "large";
const PEERS: usize = 500;
const EXTRA_THREADS_MAX: usize = 8;

fn full_server(path: &str, settings: &[(&str, &str)]) -> (tempfile::TempDir, Penstock) {
    let dir = tempfile::tempdir().unwrap();
    let start = Start::on(dir.path()).with(&["--fetch-path", path]).set(settings);
    let server = start.start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(TOPIC, 1, &[]).unwrap();
    for _ in 0..64 {
        client.produce(TOPIC, 0, 1, batch_of(1_000_000)).unwrap();
    }
    (dir, server)
}

/// A fetch of 50 MiB.
fn greedy() -> Request {
    let mut request = fetch_request(TOPIC, 0, 0);
    let partition_max_bytes = 50 << 20;
    request.topics[0].partitions =
        [FetchPartition { partition_max_bytes, ..Default::default() }].into();
    Request::Fetch(FetchRequest { max_bytes: partition_max_bytes, ..request })
}

fn silent_peers(server: &Penstock) -> Vec<Client> {
    let ask = |_| {
        let mut peer = server.client().unwrap();
        peer.send(&greedy(), 11).unwrap();
        peer
    };
    (0..PEERS).map(ask).collect()
}

/// Waits until the silent peers' sockets are full and no more bytes go out.
fn until_full(server: &Penstock) {
    let sent = || {
        let metrics = server.metrics().unwrap();
        let of =
            |path: &str| metrics.value(&format!("penstock_sent_bytes_total{{path=\"{path}\"}}"));
        of("chain") + of("sendfile") + of("copy")
    };
    let started = Instant::now();
    let mut before = sent();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = sent();
        if now == before && now > 0 {
            return;
        }
        before = now;
        assert!(started.elapsed() < Duration::from_secs(60), "bytes never stop going out");
    }
}

/// Runs the generator for two seconds, with verification of every batch.
fn assert_good_readers_go_on(server: &Penstock) {
    let load = program("penstock-load")
        .args(["fetch", "--topic", TOPIC, "--connections", "4", "--duration", "2s"])
        .args(["--bootstrap-server", &server.address().to_string()])
        .args(["--partition-max-bytes", "64KiB"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&load.stdout);
    assert!(load.status.success(), "{printed}\n{}", String::from_utf8_lossy(&load.stderr));
    let summary = printed.lines().find(|line| line.starts_with("fetch: ")).expect("a summary");
    let requests: u64 = summary.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(requests > 100, "{printed}");
}

fn five_hundred_silent_peers_by(path: &str) {
    let (_dir, server) = full_server(path, &[]);
    server.client().unwrap().fetch(TOPIC, 0, 0).unwrap();
    let threads_before = server.threads().unwrap();
    let peers = silent_peers(&server);
    until_full(&server);

    let extra = server.threads().unwrap().saturating_sub(threads_before);
    assert!(extra <= EXTRA_THREADS_MAX, "{extra} extra threads for {PEERS} silent peers");
    assert_good_readers_go_on(&server);
    drop(peers);
    let started = Instant::now();
    while server.metrics().unwrap().value("penstock_ring_pipes_leased") > 0 {
        assert!(started.elapsed() < Duration::from_secs(10), "pipes were not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.stop().unwrap();
}

#[test]
fn five_hundred_silent_peers_by_chain() {
    five_hundred_silent_peers_by("chain");
}

#[test]
fn five_hundred_silent_peers_by_sendfile() {
    five_hundred_silent_peers_by("sendfile");
}

#[test]
fn five_hundred_silent_peers_by_copy() {
    five_hundred_silent_peers_by("copy");
}

#[test]
fn a_peer_that_reads_nothing_is_dropped_and_one_that_reads_slowly_is_not() {
    let (_dir, server) = full_server("chain", &[("send.timeout.ms", "2000")]);
    let mut silent = server.client().unwrap();
    let mut slow = server.client().unwrap();
    silent.send(&greedy(), 11).unwrap();
    slow.send(&greedy(), 11).unwrap();
    // Every receive makes room in the socket, so this peer always makes progress.
    let started = Instant::now();
    let mut chunk = vec![0; 1 << 20];
    while started.elapsed() < Duration::from_secs(6) {
        slow.stream().read_exact(&mut chunk).expect("a slow reader is served");
        std::thread::sleep(Duration::from_millis(200));
    }
    let rest = std::io::copy(silent.stream(), &mut std::io::sink());
    let received = rest.unwrap_or(0);
    assert!(received < 50 << 20, "the silent peer was dropped after {received} bytes");
}

#[test]
fn a_peer_that_resets_in_the_middle_leaves_nothing_behind() {
    let (_dir, server) = full_server("chain", &[]);
    for _ in 0..100 {
        let mut peer = server.client().unwrap();
        peer.send(&greedy(), 11).unwrap();
        let mut some = [0; 4096];
        peer.stream().read_exact(&mut some).unwrap();
        // Closing with unread bytes sends a reset.
    }
    let mut good = server.client().unwrap();
    for offset in 0..60 {
        let fetched = good.fetch(TOPIC, 0, offset).unwrap();
        assert_eq!(records_from(&bytes_of(&fetched), offset)[0].0, offset);
    }
    drop(good);
    server.stop().unwrap();
}

#[test]
fn an_idle_connection_is_ended_and_not_reset() {
    let dir = tempfile::tempdir().unwrap();
    let server = Start::on(dir.path()).set(&[("connections.max.idle.ms", "1000")]).start().unwrap();
    let mut idle = server.client().unwrap();
    idle.create_topic("t", 1, &[]).unwrap();
    assert_eq!(idle.stream().read(&mut [0]).unwrap(), 0, "the end of the stream");
    let is_closed = |metrics: &penstock_tests::Metrics| metrics.value("penstock_connections") == 0;
    server.until_metrics("the server has closed it", is_closed).unwrap();
    assert!(idle.stream().take_error().unwrap().is_none(), "it was reset");
}
