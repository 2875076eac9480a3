//! Little memory: peers that do not read, in a cgroup that counts their pages, and uploads that
//! stall. The other clients go on, and the kernel never kills the server for memory.

use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use penstock_tests::memory_group::MemoryGroup;
use penstock_tests::records::batch_of;
use penstock_tests::rounds::{is_soak, rounds, say};
use penstock_tests::{Client, Penstock, Start, fetch_request, produce_request, program};
use penstock_wire::{ApiKey, Request};

const MIB: u64 = 1024 * 1024;

/// The log of the silent peers: each fetches a large folio of its own, and all together more than
/// the limit.
const LARGE: &str = "large";
const LARGE_BATCHES: i64 = 200;

/// The log of the other readers.
const HOT: &str = "hot";
const HOT_BATCHES: i64 = 8;

const SILENT_PEERS: i64 = 400;
const PATHS: [&str; 4] = ["auto", "chain", "sendfile", "copy"];

/// A cgroup with this limit, and a data directory whose pages count in it, as after some time of a
/// server.
fn filled(limit_bytes: u64) -> Option<(MemoryGroup, tempfile::TempDir)> {
    // Filled under a higher limit: cgroups of version 1 do not slow a writer down before all memory
    // is dirty pages (docs/OPERATING.md).
    let group = MemoryGroup::make(limit_bytes + 512 * MIB)?;
    // It is not in a tmpfs, whose files are memory that cannot be reclaimed.
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let server = group.start(&Start::on(dir.path())).unwrap();
    let mut client = server.client().unwrap();
    for (topic, batches) in [(LARGE, LARGE_BATCHES), (HOT, HOT_BATCHES)] {
        client.create_topic(topic, 1, &[]).unwrap();
        for _ in 0..batches {
            let produced = client.produce(topic, 0, 1, batch_of(1_000_000)).unwrap();
            assert!(produced.error_code.is_none(), "{:?}", produced.error_code);
        }
    }
    drop(client);
    server.stop().unwrap();
    group.limit_to(limit_bytes).unwrap();
    Some((group, dir))
}

/// Peers that fetch 1 MiB each and read nothing. Some may be refused.
fn silent_peers(server: &Penstock) -> Vec<Client> {
    let ask = |n| {
        let mut peer = server.client().ok()?;
        let request = fetch_request(LARGE, 0, LARGE_BATCHES * n / SILENT_PEERS);
        peer.send(&Request::Fetch(request), 11).ok()?;
        Some(peer)
    };
    (0..SILENT_PEERS).filter_map(ask).collect()
}

/// Requests a second of 16 connections that verify every byte. An error if one of them fails.
fn read(server: &Penstock, duration: &str) -> Result<f64, String> {
    let load = program("penstock-load")
        .args(["fetch", "--topic", HOT, "--connections", "16", "--duration", duration])
        .args(["--bootstrap-server", &server.address().to_string()])
        .args(["--partition-max-bytes", "1MiB"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&load.stdout);
    if !load.status.success() {
        return Err(format!("{printed}\n{}", String::from_utf8_lossy(&load.stderr)));
    }
    let summary = printed.lines().find_map(|line| line.strip_prefix("fetch: ")).expect("a summary");
    let requests: f64 = summary.split_whitespace().next().unwrap().parse().unwrap();
    Ok(requests)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[test]
fn sixteen_readers_go_on_beside_four_hundred_silent_peers_in_64_mib_by_every_path() {
    let Some((group, dir)) = filled(64 * MIB) else { return };
    for path in PATHS {
        let start = Start::on(dir.path()).with(&["--fetch-path", path]);
        let mut server = group.start(&start).unwrap();
        read(&server, "1s").unwrap();
        let ratios = (0..rounds(1, 5)).map(|_| {
            let quiet = read(&server, "2s").unwrap();
            let peers = silent_peers(&server);
            assert_eq!(peers.len(), SILENT_PEERS as usize, "{path}");
            let loaded = read(&server, "2s").unwrap_or_else(|why| panic!("{path}: {why}"));
            loaded / quiet
        });
        let ratio = median(ratios.collect());
        let used_mib = group.used_bytes().unwrap() / MIB;
        say(format_args!("{path}: {ratio:.2} of the quiet throughput, {used_mib} MiB in use"));
        assert!(server.is_running(), "{path}");
        assert_eq!(group.kills().unwrap(), 0, "{path}");
        assert_eq!(server.metrics().unwrap().value("penstock_memory_limit_bytes"), 64 * MIB);
        server.stop().unwrap();
    }
}

#[test]
fn four_hundred_silent_peers_in_24_mib_are_refused_or_give_way_and_the_server_goes_on() {
    let Some((group, dir)) = filled(24 * MIB) else { return };
    for path in PATHS {
        let start = Start::on(dir.path()).with(&["--fetch-path", path]);
        let mut server = group.start(&start).unwrap();
        let peers = silent_peers(&server);
        // A retry gets a place, because peers that have taken nothing for a while lose theirs.
        let started = Instant::now();
        let fetched = loop {
            let fetched = server.client().ok().and_then(|mut client| client.fetch(HOT, 0, 0).ok());
            if let Some(fetched) = fetched {
                break fetched;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{path}: no place");
            sleep(Duration::from_millis(100));
        };
        assert!(fetched.error_code.is_none() && fetched.records.len_bytes() > 900_000, "{path}");
        drop(peers);
        let rest = || server.metrics().unwrap().value("penstock_connections");
        while rest() > 0 {
            assert!(started.elapsed() < Duration::from_secs(60), "{path}: {} connections", rest());
            sleep(Duration::from_millis(50));
        }
        let metrics = server.metrics().unwrap();
        assert_eq!(metrics.value("penstock_memory_pinned_page_bytes"), 0, "{path}");
        assert_eq!(metrics.value("penstock_memory_send_buffer_bytes"), 0, "{path}");
        read(&server, "1s").unwrap_or_else(|why| panic!("{path}: {why}"));
        assert!(server.is_running(), "{path}");
        assert_eq!(group.kills().unwrap(), 0, "{path}");
        server.stop().unwrap();
    }
}

/// A produce request of 900 KB to the topic.
fn upload() -> bytes::Bytes {
    let version = ApiKey::Produce.supported().max_version;
    produce_request(HOT, 0, 1, batch_of(900_000)).encode(version, 1, "upload")
}

/// A server with this much memory for requests.
fn server_for_uploads(budget_bytes: u64) -> (tempfile::TempDir, Penstock) {
    let dir = tempfile::tempdir().unwrap();
    let budget_bytes = budget_bytes.to_string();
    let settings = [("queued.max.request.bytes", &*budget_bytes), ("frame.timeout.ms", "60000")];
    let server = Start::on(dir.path()).set(&settings).start().unwrap();
    server.client().unwrap().create_topic(HOT, 1, &[]).unwrap();
    (dir, server)
}

#[test]
fn an_honest_upload_does_not_wait_for_those_that_stand_still() {
    let (budget_bytes, uploads) = if is_soak() { (256 * MIB, 400) } else { (8 * MIB, 40) };
    let (_dir, server) = server_for_uploads(budget_bytes);
    let upload = upload();
    let stalled: Vec<_> = (0..uploads)
        .map(|_| {
            let mut client = server.client().unwrap();
            client.stream().set_nonblocking(true).unwrap();
            // Bytes that the server does not receive stay in the socket.
            let _ = client.stream().write(&upload[..700_000]);
            client
        })
        .collect();
    let held = || server.metrics().unwrap().value("penstock_memory_request_bytes");
    let started = Instant::now();
    while held() < budget_bytes / 5 * 4 {
        assert!(started.elapsed() < Duration::from_secs(10), "{} bytes held", held());
        sleep(Duration::from_millis(10));
    }
    let started = Instant::now();
    let produced = server.client().unwrap().produce(HOT, 0, 1, batch_of(900_000)).unwrap();
    let waited = started.elapsed();
    assert!(produced.error_code.is_none(), "{:?}", produced.error_code);
    say(format_args!("an honest upload beside {} stalled ones: {waited:?}", stalled.len()));
    assert!(waited < Duration::from_secs(20), "frame.timeout.ms is 60 s: {waited:?}");
    let gave_way = "penstock_connections_gave_way_total{reason=\"upload\"}";
    assert!(server.metrics().unwrap().value(gave_way) > 0);
    drop(stalled);
    server.stop().unwrap();
}

#[test]
fn a_slow_upload_that_goes_on_does_not_give_way() {
    let (_dir, server) = server_for_uploads(8 * MIB);
    let upload = upload();
    let mut slow = server.client().unwrap();
    let (first, rest) = upload.split_at(200_000);
    slow.stream().write_all(first).unwrap();
    let mut others: Vec<_> = (0..20).map(|_| server.client().unwrap()).collect();
    for other in &mut others {
        other.stream().set_nonblocking(true).unwrap();
        let _ = other.stream().write(first);
    }
    // Longer than a stalled upload is tolerated, while the others wait for memory.
    for part in rest.chunks(20_000) {
        sleep(Duration::from_millis(50));
        slow.stream().write_all(part).expect("it was not closed");
    }
    slow.receive().expect("it is answered");
    server.stop().unwrap();
}

#[test]
fn many_uploads_at_once_wait_for_their_turn_and_none_for_another_that_waits() {
    let (_dir, server) = server_for_uploads(8 * MIB);
    std::thread::scope(|scope| {
        let produce = || {
            let mut client = server.client().unwrap();
            let produced = client.produce(HOT, 0, 1, batch_of(900_000)).unwrap();
            assert!(produced.error_code.is_none(), "{:?}", produced.error_code);
        };
        for _ in 0..40 {
            scope.spawn(produce);
        }
    });
    let gave_way = "penstock_connections_gave_way_total{reason=\"upload\"}";
    assert_eq!(server.metrics().unwrap().value(gave_way), 0);
    server.stop().unwrap();
}
