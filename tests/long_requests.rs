//! Requests that the server answers apart from others, because they are long: they get the answers
//! of short ones, in their order, and are carried out whole whatever becomes of their client or the
//! server.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use penstock_tests::records::batch;
use penstock_tests::{Client, Penstock, Start, fetch_request, produce_request};
use penstock_wire::messages::*;
use penstock_wire::{ErrorCode, Request, Response, Str, decode_response};

/// More than a worker decodes between the requests of other connections.
const MANY: usize = 5000;

/// The most elements of all arrays of a request.
const ELEMENTS_MAX: usize = 1 << 18;

const TOPIC: &str = "events";

/// The place of the tagged fields in a request header of the client `test`.
const HEADER_TAGS: usize = 4 + 8 + 2 + 4;

fn server() -> (tempfile::TempDir, Penstock) {
    let dir = tempfile::tempdir().unwrap();
    let settings =
        [("auto.create.topics.enable", "false"), ("group.initial.rebalance.delay.ms", "0")];
    let server = Start::on(dir.path()).set(&settings).start().unwrap();
    server.client().unwrap().create_topic(TOPIC, 1, &[]).unwrap();
    (dir, server)
}

fn newest(request: &Request) -> i16 {
    request.api_key().supported().max_version
}

/// The request's frame, made long by tagged fields that no server knows.
fn long(request: &Request, correlation_id: i32) -> Vec<u8> {
    let frame = request.encode(newest(request), correlation_id, "test");
    assert_eq!(frame[HEADER_TAGS], 0, "no tagged fields yet");
    let count = [MANY as u8 | 0x80, (MANY >> 7) as u8];
    let tags = [99, 0].repeat(MANY);
    let content = [&frame[4..HEADER_TAGS], &count, &tags, &frame[HEADER_TAGS + 1..]].concat();
    [&(content.len() as i32).to_be_bytes()[..], &content].concat()
}

fn decode(request: &Request, frame: bytes::Bytes) -> (i32, Response) {
    decode_response(request.api_key(), newest(request), frame).unwrap()
}

fn ask_long(client: &mut Client, request: &Request) -> Response {
    client.stream().write_all(&long(request, 7)).unwrap();
    decode(request, client.receive().unwrap()).1
}

fn metadata(count: usize) -> Request {
    let names = (0..count).map(|n| MetadataRequestTopic { name: format!("t{n}").into() });
    MetadataRequest { topics: Some(names.collect()), ..Default::default() }.into()
}

fn heartbeat() -> HeartbeatRequest {
    HeartbeatRequest { group_id: "group".into(), ..Default::default() }
}

#[test]
fn a_long_request_gets_the_answer_of_a_short_one_and_before_that_of_the_next() {
    let (_dir, server) = server();
    let mut client = server.client().unwrap();
    client.produce(TOPIC, 0, 1, batch(&[b"a"])).unwrap();
    let partitions = vec![ListOffsetsPartition { timestamp: 0, ..Default::default() }];
    let resource = DescribeConfigsResource {
        resource_type: 2,
        resource_name: TOPIC.into(),
        configuration_keys: None,
    };
    let requests: [Request; 8] = [
        MetadataRequest { topics: None, ..Default::default() }.into(),
        ListOffsetsRequest {
            topics: vec![ListOffsetsTopic { name: TOPIC.into(), partitions }],
            ..Default::default()
        }
        .into(),
        FindCoordinatorRequest { coordinator_keys: vec!["group".into()], ..Default::default() }
            .into(),
        DescribeConfigsRequest { resources: vec![resource], ..Default::default() }.into(),
        DescribeClusterRequest::default().into(),
        heartbeat().into(),
        fetch_request(TOPIC, 0, 0).into(),
        SyncGroupRequest { group_id: "group".into(), ..Default::default() }.into(),
    ];
    for request in &requests {
        client.stream().write_all(&request.encode(newest(request), 7, "test")).unwrap();
        let short = client.receive().unwrap();
        let next = metadata(1);
        let both = [&long(request, 7)[..], &next.encode(newest(&next), 8, "test")].concat();
        client.stream().write_all(&both).unwrap();
        assert_eq!(client.receive().unwrap(), short, "{:?}", request.api_key());
        assert_eq!(decode(&next, client.receive().unwrap()).0, 8);
    }
}

/// With topics of which it names no partition.
fn long_produce_request(acks: i16, batches: bytes::Bytes) -> Request {
    let Request::Produce(mut produce) = produce_request(TOPIC, 0, acks, batches) else {
        panic!("not a Produce request");
    };
    let nothing = || TopicProduceData { name: TOPIC.into(), ..Default::default() };
    produce.topic_data.extend((0..MANY).map(|_| nothing()));
    produce.into()
}

#[test]
fn long_produce_requests_keep_their_order_with_acknowledgements_and_without() {
    let (_dir, server) = server();
    let mut client = server.client().unwrap();
    for (n, acks) in [0, 1, 0, 0, 1].into_iter().enumerate() {
        let request = long_produce_request(acks, batch(&[[n as u8]]));
        client.send(&request, newest(&request)).unwrap();
        if acks == 0 {
            continue;
        }
        let (_, Response::Produce(answer)) = decode(&request, client.receive().unwrap()) else {
            panic!("not an answer to Produce");
        };
        assert_eq!(answer.responses[0].partition_responses[0].base_offset, n as i64);
    }
    assert_eq!(client.offset_of(TOPIC, 0, -1).unwrap(), 5);
}

#[test]
fn a_long_fetch_waits_and_ends_when_its_peer_leaves() {
    let (_dir, server) = server();
    let fetch = FetchRequest { max_wait_ms: 300_000, ..fetch_request(TOPIC, 0, 0) };
    let mut client = server.client().unwrap();
    client.stream().write_all(&long(&fetch.into(), 1)).unwrap();
    let is_waiting = |count| {
        let what = format!("{count} fetches wait");
        server.until_metrics(&what, |m| m.value("penstock_fetch_waiting") == count).unwrap()
    };
    is_waiting(1);
    drop(client);
    is_waiting(0);
}

#[test]
fn a_long_join_waits_for_other_members_and_ends_when_its_peer_leaves() {
    let (_dir, server) = server();
    let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: "".into() };
    let join = |member_id| {
        Request::from(JoinGroupRequest {
            group_id: "group".into(),
            session_timeout_ms: 300_000,
            rebalance_timeout_ms: 300_000,
            member_id,
            protocol_type: "consumer".into(),
            protocols: vec![protocol.clone()],
            ..Default::default()
        })
    };
    let enter = |client: &mut Client| {
        let Response::JoinGroup(refused) = ask_long(client, &join(Str::new())) else {
            panic!("not an answer to JoinGroup");
        };
        assert_eq!(refused.error_code, ErrorCode::MEMBER_ID_REQUIRED);
        refused.member_id
    };
    let (mut first, mut second) = (server.client().unwrap(), server.client().unwrap());
    let id = enter(&mut first);
    let Response::JoinGroup(joined) = ask_long(&mut first, &join(id.clone())) else {
        panic!("not an answer to JoinGroup");
    };
    assert_eq!((joined.error_code, joined.members.len()), (ErrorCode::NONE, 1));
    let other = enter(&mut second);
    second.stream().write_all(&long(&join(other), 1)).unwrap();
    let of_first = HeartbeatRequest {
        generation_id: joined.generation_id,
        member_id: id.clone(),
        ..heartbeat()
    };
    until("the other member waits", || {
        let Response::Heartbeat(beat) = first.ask(&of_first.clone().into()).unwrap() else {
            panic!("not an answer to Heartbeat");
        };
        beat.error_code == ErrorCode::REBALANCE_IN_PROGRESS
    });
    drop(second);
    server
        .until_metrics("one connection is left", |m| m.value("penstock_connections") == 1)
        .unwrap();
}

/// It was given up when its client left: the topic stayed.
#[test]
fn a_long_change_is_made_whole_although_its_client_has_left() {
    let (_dir, server) = server();
    let names = (0..MANY).map(|n| format!("t{n}").into()).chain([Str::from_static(TOPIC)]);
    let delete: Request =
        DeleteTopicsRequest { topic_names: names.collect(), ..Default::default() }.into();
    let mut client = server.client().unwrap();
    client.send(&delete, newest(&delete)).unwrap();
    drop(client);
    let is_gone = |m: &penstock_tests::Metrics| m.value("penstock_partitions") == 0;
    server.until_metrics("the topic is gone", is_gone).unwrap();
}

/// Like a short one, and like a fetch that waits.
#[test]
fn a_long_request_of_a_client_that_has_nothing_more_to_ask_is_answered() {
    let (_dir, server) = server();
    let (mut client, request) = (server.client().unwrap(), metadata(MANY));
    client.send(&request, newest(&request)).unwrap();
    client.stream().shutdown(Shutdown::Write).unwrap();
    let (_, Response::Metadata(answer)) = decode(&request, client.receive().unwrap()) else {
        panic!("not an answer to Metadata");
    };
    assert_eq!(answer.topics.len(), MANY);
}

#[test]
fn a_stop_answers_a_long_request_in_flight() {
    let (_dir, server) = server();
    let (mut client, request) = (server.client().unwrap(), metadata(ELEMENTS_MAX - 1));
    send_until_it_is_worked_on(&server, &mut client, &request);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| server.stop());
        let (_, Response::Metadata(answer)) = decode(&request, client.receive().unwrap()) else {
            panic!("not an answer to Metadata");
        };
        assert_eq!(answer.topics.len(), ELEMENTS_MAX - 1);
        stopping.join().unwrap().unwrap();
    });
}

/// With thousands of topics to create, a stop would last for minutes on a slow disk.
#[test]
fn a_second_signal_gives_long_requests_up() {
    const TOPICS: usize = 3000;
    let (dir, server) = server();
    let names = (0..TOPICS).map(|n| CreatableTopic {
        name: format!("t{n}").into(),
        num_partitions: 1,
        replication_factor: 1,
        ..Default::default()
    });
    let create: Request =
        CreateTopicsRequest { topics: names.collect(), ..Default::default() }.into();
    let (mut creating, mut asking) = (server.client().unwrap(), server.client().unwrap());
    creating.send(&create, newest(&create)).unwrap();
    let partitions = |m: &penstock_tests::Metrics| m.value("penstock_partitions");
    server.until_metrics("a topic is created", |m| partitions(m) > 1).unwrap();
    let ask = metadata(ELEMENTS_MAX - 1);
    asking.send(&ask, newest(&ask)).unwrap();
    let pid = rustix::process::Pid::from_raw(server.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    until("the stop has begun", || server.readiness().is_err());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // Waits for exit code 0.
    server.stop().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let metrics = server.metrics().unwrap();
    assert!((2..TOPICS as u64).contains(&partitions(&metrics)), "{}", partitions(&metrics));
    assert_eq!(metrics.value("penstock_partitions_offline"), 0);
    server.stop().unwrap();
}

/// Returns once the thread of long requests has used the processor since, or the answer is there.
fn send_until_it_is_worked_on(server: &Penstock, client: &mut Client, request: &Request) {
    let before = ticks_of_long_requests(server);
    client.send(request, newest(request)).unwrap();
    let stream = client.stream();
    stream.set_nonblocking(true).unwrap();
    until("it is worked on", || {
        ticks_of_long_requests(server) > before || stream.peek(&mut [0]).is_ok()
    });
    stream.set_nonblocking(false).unwrap();
}

/// Ticks of the processor so far (proc_pid_stat(5): utime and stime).
fn ticks_of_long_requests(server: &Penstock) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let stats =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let stat = stats.into_iter().find(|stat| stat.contains("(long-requests)")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited until {what}");
        std::thread::yield_now();
    }
}
