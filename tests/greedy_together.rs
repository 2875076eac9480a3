//! Greedy requests beside others: many at once share one budget of memory, and honest clients keep
//! their latency.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use penstock_tests::records::batch_of;
use penstock_tests::rounds::{is_soak, rounds, say};
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::messages::{
    DescribeConfigsRequest, DescribeConfigsResource, FetchPartition, FetchRequest, FetchTopic,
    FindCoordinatorRequest, ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
    MetadataRequest, MetadataRequestTopic,
};
use penstock_wire::{Request, Str};

const MIB: u64 = 1 << 20;

/// The memory budget of all answers in the making (docs/PROTOCOL.md).
const IN_FLIGHT_MAX_BYTES: u64 = 256 * MIB;
const SLACK_BYTES: u64 = 16 * MIB;

/// The most elements of all arrays of a request.
const ELEMENTS_MAX: usize = 1 << 18;

/// The tests take turns, because each needs the processor for itself.
static ALONE: Mutex<()> = Mutex::new(());

const TOPIC: &str = "events";

/// Each request may have the largest answer.
#[test]
fn greedy_requests_at_once_share_the_budget_of_answers_in_the_making() {
    const PEERS: u64 = 12;
    let _alone = alone();
    let (_dir, server) = server();
    for (what, request) in [("Metadata", metadata()), ("DescribeConfigs", describe_configs())] {
        let before = server.resident_bytes().unwrap();
        server.forget_peak().unwrap();
        let (together, version) = (Barrier::new(PEERS as usize), newest(&request));
        let sent_bytes = request.encode(version, 1, "test").len() as u64;
        let ask = || {
            let mut client = server.client().unwrap();
            together.wait();
            client.send(&request, version).unwrap();
            client.receive().unwrap().len() as u64
        };
        let answer_bytes = std::thread::scope(|scope| {
            let peers: Vec<_> = (0..PEERS).map(|_| scope.spawn(ask)).collect();
            peers.into_iter().map(|peer| peer.join().unwrap()).max().unwrap()
        });
        let grown = server.peak_bytes().unwrap().saturating_sub(before);
        let figures = format!(
            "{PEERS} times {what}: {} MiB asked, {} MiB answered, {} MiB more memory",
            PEERS * sent_bytes / MIB,
            PEERS * answer_bytes / MIB,
            grown / MIB
        );
        say(&figures);
        // Beside its share each has a frame in its buffer, and bytes on their way.
        let of_each = 2 * sent_bytes + answer_bytes;
        assert!(grown < IN_FLIGHT_MAX_BYTES + SLACK_BYTES + PEERS * of_each, "{figures}");
    }
}

/// The bound holds for a release build.
#[test]
fn honest_clients_keep_their_latency_beside_a_greedy_one() {
    let _alone = alone();
    let (_dir, server) = server();
    let lasts = Duration::from_millis(rounds(300, 2000) as u64);
    let greedy = [
        ("Metadata", metadata()),
        ("DescribeConfigs", describe_configs()),
        ("FindCoordinator", find_coordinator()),
        ("ListOffsets", list_offsets()),
        ("Fetch", fetch()),
    ];
    for (what, request) in greedy {
        // In turns, because a machine is not equally quiet all the time.
        let mut pairs: Vec<_> = (0..rounds(1, 5))
            .map(|_| [latency(&server, lasts, None), latency(&server, lasts, Some(&request))])
            .collect();
        let ratio = |[quiet, beside]: &[Duration; 2]| beside.as_secs_f64() / quiet.as_secs_f64();
        pairs.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        let median = &pairs[pairs.len() / 2];
        let (times, [quiet, beside]) = (ratio(median), median);
        say(format_args!("beside {what}: p99 {beside:?}, quiet {quiet:?}, {times:.1} times"));
        assert!(!is_soak() || times <= 2.0, "{what}: {times:.1} times");
    }
}

/// The p99 of a client that produces and fetches, beside one that sends requests without pause.
fn latency(server: &Penstock, lasts: Duration, greedy: Option<&Request>) -> Duration {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if let Some(request) = greedy {
            let mut client = server.client().unwrap();
            let (over, version) = (&over, newest(request));
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    client.send(request, version).unwrap();
                    client.receive().unwrap();
                }
            });
        }
        let mut honest = server.client().unwrap();
        let (mut all, began) = (Vec::new(), Instant::now());
        while began.elapsed() < lasts || all.len() < 100 {
            let asked = Instant::now();
            exchange(&mut honest);
            all.push(asked.elapsed());
        }
        over.store(true, Ordering::Relaxed);
        all.sort();
        all[all.len() * 99 / 100]
    })
}

fn exchange(client: &mut Client) {
    let produced = client.produce(TOPIC, 0, 1, batch_of(100)).unwrap();
    assert!(produced.error_code.is_none());
    let fetched = client.fetch(TOPIC, 0, produced.base_offset).unwrap();
    assert!(fetched.error_code.is_none());
}

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn server() -> (tempfile::TempDir, Penstock) {
    let dir = tempfile::tempdir().unwrap();
    let settings = [("auto.create.topics.enable", "false")];
    let server = Start::on(dir.path()).set(&settings).start().unwrap();
    server.client().unwrap().create_topic(TOPIC, 1, &[]).unwrap();
    (dir, server)
}

fn newest(request: &Request) -> i16 {
    request.api_key().supported().max_version
}

fn names() -> impl Iterator<Item = Str> {
    (0..ELEMENTS_MAX).map(|n| Str::from(format!("t{n}")))
}

fn metadata() -> Request {
    let topics = Some(names().map(|name| MetadataRequestTopic { name }).collect());
    MetadataRequest { topics, ..Default::default() }.into()
}

fn describe_configs() -> Request {
    let resource = |resource_name| DescribeConfigsResource {
        resource_type: 2,
        resource_name,
        configuration_keys: None,
    };
    let resources = names().map(resource).collect();
    DescribeConfigsRequest { resources, ..Default::default() }.into()
}

fn find_coordinator() -> Request {
    FindCoordinatorRequest { coordinator_keys: names().collect(), ..Default::default() }.into()
}

fn list_offsets() -> Request {
    let partition = |partition_index| ListOffsetsPartition {
        partition_index,
        timestamp: -1,
        ..Default::default()
    };
    let partitions = (0..ELEMENTS_MAX as i32 - 1).map(partition).collect();
    let topics = vec![ListOffsetsTopic { name: TOPIC.into(), partitions }];
    ListOffsetsRequest { topics, ..Default::default() }.into()
}

fn fetch() -> Request {
    let partition = |partition| FetchPartition { partition, ..Default::default() };
    let partitions = (0..ELEMENTS_MAX as i32 - 1).map(partition).collect();
    let topics = [FetchTopic { topic: TOPIC.into(), partitions }].into();
    FetchRequest { topics, ..Default::default() }.into()
}
