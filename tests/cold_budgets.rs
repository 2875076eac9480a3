//! Budgets of bytes from the disk hold cold reads back, by client and by group, and nothing else;
//! no fetch waits for its budget longer than a moment. `fetch.hot.p99.target.ms` says what it does.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use penstock_tests::cache::evict;
use penstock_tests::member::join;
use penstock_tests::records::{batch_at, bytes_of, records_from};
use penstock_tests::{Client, Metrics, Penstock, Start, fetch_request};
use penstock_wire::messages::{FetchPartition, FetchTopic};
use penstock_wire::{ErrorCode, Request, Response};

const BATCH_BYTES: usize = 256 << 10;

/// On the disk of the build: a tmpfs has no disk to read from.
fn data_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn batch() -> Bytes {
    batch_at(1_700_000_000_000, &[vec![b'c'; BATCH_BYTES]])
}

fn produce(client: &mut Client, topic: &str, batches: usize) {
    for _ in 0..batches {
        let answer = client.produce(topic, 0, 1, batch()).unwrap();
        assert_eq!(answer.error_code, ErrorCode::NONE);
    }
}

/// A server with `batches` evicted batches in each of `topics`, and one in memory in `fresh`.
fn serve(dir: &Path, settings: &[(&str, &str)], topics: &[&str], batches: usize) -> Penstock {
    let server = Start::on(dir).set(settings).start().unwrap();
    let mut client = server.client().unwrap();
    for topic in topics {
        client.create_topic(topic, 1, &[]).unwrap();
        produce(&mut client, topic, batches);
        evict(&dir.join(format!("{topic}-0")));
    }
    client.create_topic("fresh", 1, &[]).unwrap();
    produce(&mut client, "fresh", 1);
    server
}

/// Reads a topic from offset 0 until its position is `until`, or `is_over`.
fn scan(client: &mut Client, topic: &str, until: usize, is_over: &AtomicBool) {
    let mut offset = 0;
    while offset < until as i64 && !is_over.load(Ordering::Relaxed) {
        let fetched = client.fetch(topic, 0, offset).unwrap();
        assert_eq!(fetched.error_code, ErrorCode::NONE);
        if let Some(last) = records_from(&bytes_of(&fetched), offset).last() {
            offset = last.0 + 1;
        }
    }
}

fn of_entity(metrics: &Metrics, name: &str, entity: &str) -> f64 {
    let series = format!("penstock_cold_budget_{name}{{entity=\"{entity}\"}} ");
    metrics.exact(&series).unwrap_or_else(|| panic!("no {series}"))
}

#[test]
fn a_small_budget_bounds_bytes_from_the_disk_and_hot_reads_of_the_client_are_free() {
    const RATE: f64 = 4e6;
    const BATCHES: usize = 48;
    let dir = data_dir();
    let settings = [("fetch.cold.budgets", "client-id/both=4_000_000")];
    let server = serve(dir.path(), &settings, &["old", "free"], BATCHES);
    let [mut cold, mut hot] = [(); 2].map(|()| server.client().unwrap().named("both"));
    let (is_over, began) = (AtomicBool::new(false), Instant::now());
    let (took, mut hot_times) = std::thread::scope(|scope| {
        let hot = scope.spawn(|| {
            let mut times = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let fetched = hot.fetch("fresh", 0, 0).unwrap();
                assert!(bytes_of(&fetched).len() > BATCH_BYTES);
                times.push(began.elapsed());
            }
            times
        });
        scan(&mut cold, "old", BATCHES, &AtomicBool::new(false));
        let took = began.elapsed();
        is_over.store(true, Ordering::Relaxed);
        (took, hot.join().unwrap())
    });
    let log_bytes = (BATCHES * batch().len()) as f64;
    let metrics = server
        .until_metrics("the scan is noted", |metrics| {
            of_entity(metrics, "read_bytes_total", "client-id/both") > 0.9 * log_bytes
        })
        .unwrap();
    let read_bytes = of_entity(&metrics, "read_bytes_total", "client-id/both");
    // The first grant and the last are not waited for.
    let rate = (read_bytes - 4.0 * BATCH_BYTES as f64) / took.as_secs_f64();
    assert!(rate < 1.1 * RATE, "{rate}");
    assert!(read_bytes / took.as_secs_f64() > 0.5 * RATE, "{read_bytes} in {took:?}");
    assert!(of_entity(&metrics, "postponed_total", "client-id/both") > 0.0);

    let hot_bytes = (hot_times.len() * BATCH_BYTES) as f64;
    assert!(hot_bytes > 4.0 * read_bytes, "{hot_bytes} beside {read_bytes}");
    hot_times.sort();
    let usual = hot_times[hot_times.len() / 2];
    assert!(usual < Duration::from_millis(100), "{usual:?}");

    let mut other = server.client().unwrap().named("other");
    let began = Instant::now();
    scan(&mut other, "free", BATCHES, &AtomicBool::new(false));
    assert!(began.elapsed() < took / 2, "{:?}: a client without a budget", began.elapsed());
}

#[test]
fn two_groups_share_what_everyone_may_read_as_their_budgets_are_to_each_other() {
    const BATCHES: usize = 64;
    let dir = data_dir();
    let settings = [
        ("fetch.cold.bytes.per.second", "8000000"),
        ("fetch.cold.budgets", "group/three=60_000_000, group/one=20_000_000"),
    ];
    let server = serve(dir.path(), &settings, &["a", "b"], BATCHES);
    let [mut three, mut one] = [("three", "a"), ("one", "b")].map(|(group, topic)| {
        let mut client = server.client().unwrap().named(group);
        join(&mut client, group, topic);
        client
    });
    let read = |metrics: &Metrics, group: &str| {
        of_entity(metrics, "read_bytes_total", &format!("group/{group}"))
    };
    for (group, topic) in [("three", "a"), ("one", "b")] {
        server
            .until_metrics("the group's assignment is known", |metrics| {
                evict(&dir.path().join(format!("{topic}-0")));
                server.client().unwrap().named(group).fetch(topic, 0, 0).unwrap();
                read(metrics, group) > 0.0
            })
            .unwrap();
        evict(&dir.path().join(format!("{topic}-0")));
    }
    let before = server.metrics().unwrap();
    let is_over = AtomicBool::new(false);
    let after = std::thread::scope(|scope| {
        scope.spawn(|| scan(&mut one, "b", BATCHES, &is_over));
        scan(&mut three, "a", BATCHES, &AtomicBool::new(false));
        let after = server.metrics().unwrap();
        is_over.store(true, Ordering::Relaxed);
        after
    });
    let [of_three, of_one] =
        ["three", "one"].map(|group| read(&after, group) - read(&before, group));
    assert!((2.0..4.5).contains(&(of_three / of_one)), "{of_three} to {of_one}");
}

#[test]
fn a_postponed_fetch_is_answered_in_time() {
    let dir = data_dir();
    let settings = [("fetch.cold.budgets", "client-id/slow=30_000")];
    let server = serve(dir.path(), &settings, &["old"], 8);
    let mut slow = server.client().unwrap().named("slow");
    let first = slow.fetch("old", 0, 0).unwrap();
    assert!(bytes_of(&first).len() >= BATCH_BYTES, "a batch, whatever the budget");
    evict(&dir.path().join("old-0"));

    let began = Instant::now();
    let next = slow.fetch("old", 0, 4).unwrap();
    assert_eq!((next.error_code, bytes_of(&next).len()), (ErrorCode::NONE, 0));
    let took = began.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(10)).contains(&took), "{took:?}");

    let began = Instant::now();
    let mut both = fetch_request("old", 0, 4);
    let partition = FetchPartition { partition_max_bytes: 1 << 20, ..FetchPartition::default() };
    both.topics.push(FetchTopic { topic: "fresh".into(), partitions: [partition].into() });
    let Response::Fetch(answer) = slow.ask(&Request::Fetch(both)).unwrap() else {
        panic!("not an answer to Fetch")
    };
    let bytes: Vec<usize> =
        answer.responses.iter().map(|topic| bytes_of(&topic.partitions[0]).len()).collect();
    assert_eq!(bytes[0], 0);
    assert!(bytes[1] > BATCH_BYTES, "hot records do not wait for the cold ones");
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(answer.throttle_time_ms, 0);
}

#[test]
fn the_control_shows_what_it_measures_and_opens_without_hot_fetches() {
    let dir = data_dir();
    let settings = [("fetch.hot.p99.target.ms", "50")];
    let server = serve(dir.path(), &settings, &["old"], 4);
    let mut client = server.client().unwrap();
    let permitted = |metrics: &Metrics| metrics.exact("penstock_cold_permitted_bytes_per_second ");
    let reason = |metrics: &Metrics, name: &str| {
        metrics.exact(&format!("penstock_cold_control{{reason=\"{name}\"}} ")) == Some(1.0)
    };
    let open = server.metrics().unwrap();
    assert_eq!(open.exact("penstock_hot_p99_target_seconds "), Some(0.05));
    assert!(permitted(&open).is_none() && reason(&open, "no_hot_fetches"));

    let closed = server
        .until_metrics("hot fetches are measured", |metrics| {
            let mut hot = server.client().unwrap();
            (0..50).for_each(|_| drop(hot.fetch("fresh", 0, 0).unwrap()));
            permitted(metrics).is_some()
        })
        .unwrap();
    let p99 = closed.exact("penstock_hot_p99_seconds ").unwrap();
    assert!(p99 > 0.0 && closed.exact("penstock_loop_lag_p99_seconds ").is_some(), "{p99}");
    assert!(permitted(&closed).unwrap() >= f64::from(4 << 20));

    let open = server.until_metrics("it opens", |metrics| permitted(metrics).is_none()).unwrap();
    assert!(reason(&open, "no_hot_fetches"));
    scan(&mut client, "old", 4, &AtomicBool::new(false));
}
