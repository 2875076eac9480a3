//! Small requests for large answers: arrays at their limit, and one name repeated many times. The
//! answer has a bound, and so has its memory. A repeated name is answered as Kafka 4.4.0 does.

use penstock_tests::records::batch_of;
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::messages::*;
use penstock_wire::{ApiKey, ErrorCode, Few, Request, Response, SUPPORTED, Str};

/// The most bytes of an answer without records (docs/PROTOCOL.md).
const ANSWER_MAX_BYTES: u64 = 64 << 20;

/// Memory that the server may need beside it.
const SLACK_BYTES: u64 = 16 << 20;

/// The most elements of all arrays of a request.
const ELEMENTS_MAX: usize = 1 << 18;

/// A topic with many partitions, and one with few.
const WIDE: &str = "wide";
const WIDE_PARTITIONS: i32 = 200;
const NARROW: &str = "narrow";

fn server() -> (tempfile::TempDir, Penstock) {
    let dir = tempfile::tempdir().unwrap();
    let settings = [("auto.create.topics.enable", "true"), ("num.partitions", "1")];
    let server = Start::on(dir.path()).set(&settings).start().unwrap();
    let mut client = server.client().unwrap();
    client.create_topic(WIDE, WIDE_PARTITIONS, &[]).unwrap();
    client.create_topic(NARROW, 2, &[]).unwrap();
    (dir, server)
}

macro_rules! ask {
    ($client:expr, $api:ident, $request:expr) => {
        match $client.ask(&Request::$api($request)).unwrap() {
            Response::$api(response) => response,
            _ => panic!("the answer to another request"),
        }
    };
}

fn metadata(client: &mut Client, names: impl IntoIterator<Item = Str>) -> MetadataResponse {
    let topics = names.into_iter().map(|name| MetadataRequestTopic { name }).collect();
    ask!(client, Metadata, MetadataRequest { topics: Some(topics), ..Default::default() })
}

#[test]
fn a_topic_that_metadata_names_ten_thousand_times_is_described_once() {
    let (_dir, server) = server();
    let mut client = server.client().unwrap();
    let names = [NARROW, WIDE].into_iter().cycle().take(10_000).map(Str::from_static);
    let answer = metadata(&mut client, names);
    let described: Vec<_> = answer.topics.iter().map(|t| (&*t.name, t.partitions.len())).collect();
    assert_eq!(described, [(NARROW, 2), (WIDE, WIDE_PARTITIONS as usize)]);
}

#[test]
fn names_without_end_are_created_by_the_hundred() {
    let (_dir, server) = server();
    let mut client = server.client().unwrap();
    let names = || (0..130).map(|n| Str::from(format!("new{n}")));
    let mut created = || {
        let answer = metadata(&mut client, names());
        let codes = answer.topics.iter().map(|topic| topic.error_code);
        let (made, not_yet): (Vec<_>, Vec<_>) = codes.partition(|code| code.is_none());
        assert!(not_yet.iter().all(|code| *code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
        made.len()
    };
    assert_eq!([created(), created()], [100, 130]);
}

#[test]
fn a_fetch_answers_a_partition_once_by_what_it_asks_of_it_last() {
    let (_dir, server) = server();
    let mut client = server.client().unwrap();
    client.produce(NARROW, 0, 1, batch_of(100)).unwrap();
    let asked = |fetch_offset| FetchPartition {
        fetch_offset,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    let partitions = (0..80_000).map(|_| asked(99)).chain([asked(0)]).collect();
    let topics = [FetchTopic { topic: NARROW.into(), partitions }].into();
    let fetch = FetchRequest { max_bytes: 50 << 20, topics, ..FetchRequest::default() };
    let answer = ask!(client, Fetch, fetch);
    let [topic] = &answer.responses[..] else { panic!("{} topics", answer.responses.len()) };
    let [partition] = &topic.partitions[..] else { panic!("{}", topic.partitions.len()) };
    assert_eq!(partition.error_code, ErrorCode::NONE);
    assert!(partition.records.len_bytes() > 100);
}

#[test]
fn list_offsets_refuses_a_partition_named_twice_and_answers_the_others() {
    let (_dir, server) = server();
    let asked = |partition_index| ListOffsetsPartition {
        partition_index,
        timestamp: -1,
        ..ListOffsetsPartition::default()
    };
    let topic = |partitions: &[i32]| ListOffsetsTopic {
        name: NARROW.into(),
        partitions: partitions.iter().map(|index| asked(*index)).collect(),
    };
    let topics = vec![topic(&[0, 1, 0]), topic(&[0])];
    let request = ListOffsetsRequest { topics, ..ListOffsetsRequest::default() };
    let answer = ask!(server.client().unwrap(), ListOffsets, request);
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let codes: Vec<_> = partitions.map(|one| (one.partition_index, one.error_code)).collect();
    assert_eq!(codes, [(0, ErrorCode::INVALID_REQUEST), (1, ErrorCode::NONE)]);
}

#[test]
fn a_topic_named_twice_is_not_created_grown_or_deleted_and_is_refused_once() {
    let (_dir, server) = server();
    let mut client = server.client().unwrap();
    let refused = ErrorCode::INVALID_REQUEST;

    let topic = |name: &str| CreatableTopic {
        name: name.into(),
        num_partitions: 1,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let topics = vec![topic("new"), topic("other"), topic("new"), topic("new")];
    let answer = ask!(client, CreateTopics, CreateTopicsRequest { topics, ..Default::default() });
    let codes: Vec<_> = answer.topics.iter().map(|one| (&*one.name, one.error_code)).collect();
    assert_eq!(codes, [("new", refused), ("other", ErrorCode::NONE)]);

    let topic = |count| CreatePartitionsTopic { name: NARROW.into(), count, ..Default::default() };
    let topics = vec![topic(3), topic(4)];
    let request = CreatePartitionsRequest { topics, ..Default::default() };
    let answer = ask!(client, CreatePartitions, request);
    let codes: Vec<_> = answer.results.iter().map(|one| (&*one.name, one.error_code)).collect();
    assert_eq!(codes, [(NARROW, refused)]);

    let topic_names = [NARROW, "other", NARROW].map(Str::from_static).into();
    let request = DeleteTopicsRequest { topic_names, ..Default::default() };
    let answer = ask!(client, DeleteTopics, request);
    let codes: Vec<_> =
        answer.responses.iter().map(|one| (one.name.to_string(), one.error_code)).collect();
    assert_eq!(codes, [(NARROW.into(), refused), ("other".into(), ErrorCode::NONE)]);
    let answer = metadata(&mut client, [Str::from_static(NARROW)]);
    assert_eq!(answer.topics[0].partitions.len(), 2, "it is there as it was");
}

#[test]
fn one_request_adds_no_more_partitions_than_one_may_create() {
    let (_dir, server) = server();
    let topic = |name: &str| CreatePartitionsTopic {
        name: name.into(),
        count: 10_000,
        ..CreatePartitionsTopic::default()
    };
    let topics = vec![topic(NARROW), topic(WIDE)];
    let request = CreatePartitionsRequest {
        topics,
        validate_only: true,
        ..CreatePartitionsRequest::default()
    };
    let answer = ask!(server.client().unwrap(), CreatePartitions, request);
    let codes: Vec<_> = answer.results.iter().map(|one| one.error_code).collect();
    assert_eq!(codes, [ErrorCode::NONE, ErrorCode::POLICY_VIOLATION]);
}

#[test]
fn every_request_with_its_arrays_at_their_limit_is_answered_within_bounded_memory() {
    let (dir, server) = server();
    drop(server);
    for api in SUPPORTED {
        for (what, request) in greedy(api.key) {
            // Each runs on a server of its own, because memory that an allocator keeps would hide
            // the next one's.
            let mut server = Start::on(dir.path()).start().unwrap();
            let mut client = server.client().unwrap();
            let sent_bytes = request.encode(api.max_version, 1, "greedy").len() as u64;
            let before = server.resident_bytes().unwrap();
            server.forget_peak().unwrap();
            client.send(&request, api.max_version).unwrap();
            let answer = client.receive().unwrap_or_else(|error| panic!("{what}: {error}"));
            let grown = server.peak_bytes().unwrap().saturating_sub(before);
            let answer_bytes = answer.len() as u64;
            let [sent, answered, more] = [sent_bytes, answer_bytes, grown].map(mib);
            let figures = format!(
                "{:?}, {what}: {sent} asked, {answered} answered, {more} more memory",
                api.key,
            );
            println!("{figures}");
            // The frame may lie in memory twice while its buffer grows, and so may the answer.
            let most = ANSWER_MAX_BYTES + SLACK_BYTES + 2 * sent_bytes + answer_bytes;
            assert!(grown < most, "{figures}");
            assert!(server.is_running());
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Requests of an API with as many elements as are accepted: one name repeated, and as many
/// different names.
fn greedy(key: ApiKey) -> Vec<(&'static str, Request)> {
    let same = |n: usize| std::iter::repeat_n(Str::from_static(WIDE), n);
    let many = |n: usize| (0..n).map(|n| Str::from(format!("t{n}")));
    let indexes = |n: usize| 0..n as i32;
    let again = |n: usize| std::iter::repeat_n(0, n);
    let most = ELEMENTS_MAX - 1;
    match key {
        ApiKey::Produce => {
            vec![("one partition", produce(again(most))), ("partitions", produce(indexes(most)))]
        }
        ApiKey::Fetch => vec![
            ("one partition", fetch([(WIDE.into(), again(most).collect())])),
            ("partitions", fetch([(WIDE.into(), indexes(most).collect())])),
            ("topics", fetch(many(ELEMENTS_MAX / 2).map(|name| (name, vec![0])))),
        ],
        ApiKey::ListOffsets => vec![
            ("one partition", list_offsets(again(most))),
            ("partitions", list_offsets(indexes(most))),
        ],
        ApiKey::Metadata => {
            let named = |names: Vec<Str>| {
                let topics = names.into_iter().map(|name| MetadataRequestTopic { name }).collect();
                MetadataRequest { topics: Some(topics), ..Default::default() }.into()
            };
            vec![
                ("one topic", named(same(ELEMENTS_MAX).collect())),
                ("topics", named(many(ELEMENTS_MAX).collect())),
            ]
        }
        ApiKey::OffsetCommit => vec![("one partition", offset_commit(again(most)))],
        ApiKey::OffsetFetch => vec![("one partition", offset_fetch(again(ELEMENTS_MAX - 2)))],
        ApiKey::FindCoordinator => {
            let of = |keys: Vec<Str>, key_type| {
                FindCoordinatorRequest { coordinator_keys: keys, key_type, ..Default::default() }
                    .into()
            };
            vec![
                ("one group", of(same(ELEMENTS_MAX).collect(), 0)),
                ("groups", of(many(ELEMENTS_MAX).collect(), 0)),
                ("one transaction", of(same(ELEMENTS_MAX).collect(), 1)),
                ("transactions", of(many(ELEMENTS_MAX).collect(), 1)),
            ]
        }
        ApiKey::JoinGroup => {
            let protocol = |name| JoinGroupRequestProtocol { name, ..Default::default() };
            let protocols = same(ELEMENTS_MAX).map(protocol).collect();
            let group_id = Str::from_static("group");
            vec![(
                "one protocol",
                JoinGroupRequest { group_id, protocols, ..Default::default() }.into(),
            )]
        }
        ApiKey::SyncGroup => {
            let one = |member_id| SyncGroupRequestAssignment { member_id, ..Default::default() };
            let assignments = same(ELEMENTS_MAX).map(one).collect();
            vec![("one member", SyncGroupRequest { assignments, ..Default::default() }.into())]
        }
        ApiKey::LeaveGroup => {
            let member = |member_id| MemberIdentity { member_id, ..Default::default() };
            let members = same(ELEMENTS_MAX).map(member).collect();
            vec![("one member", LeaveGroupRequest { members, ..Default::default() }.into())]
        }
        ApiKey::CreateTopics => {
            let of = |names: Vec<Str>| {
                let topic = |name| CreatableTopic {
                    name,
                    num_partitions: 1,
                    replication_factor: 1,
                    ..Default::default()
                };
                let topics = names.into_iter().map(topic).collect();
                CreateTopicsRequest { topics, validate_only: true, ..Default::default() }.into()
            };
            vec![
                ("one topic", of(same(ELEMENTS_MAX).collect())),
                ("as many topics as there may be", of(many(10_000).collect())),
                ("topics", of(many(ELEMENTS_MAX).collect())),
            ]
        }
        ApiKey::DeleteTopics => {
            let of = |topic_names| DeleteTopicsRequest { topic_names, ..Default::default() }.into();
            vec![
                ("one topic", of(same(ELEMENTS_MAX).collect())),
                ("topics", of(many(ELEMENTS_MAX).collect())),
            ]
        }
        ApiKey::DescribeConfigs => {
            let resource = |resource_name| DescribeConfigsResource {
                resource_type: 2,
                resource_name,
                configuration_keys: None,
            };
            let of = |names: Vec<Str>| {
                let resources = names.into_iter().map(resource).collect();
                DescribeConfigsRequest {
                    resources,
                    include_synonyms: true,
                    include_documentation: true,
                }
                .into()
            };
            let mut keys = of(vec![WIDE.into()]);
            if let Request::DescribeConfigs(request) = &mut keys {
                request.resources[0].configuration_keys = Some(many(most).collect());
            }
            vec![
                ("one topic", of(same(ELEMENTS_MAX).collect())),
                ("topics", of(many(ELEMENTS_MAX).collect())),
                ("configs of one topic", keys),
            ]
        }
        ApiKey::CreatePartitions => {
            let topic = |name| CreatePartitionsTopic { name, count: 10_000, ..Default::default() };
            let topics = same(ELEMENTS_MAX).map(topic).collect();
            let request =
                CreatePartitionsRequest { topics, validate_only: true, ..Default::default() };
            vec![("one topic", request.into())]
        }
        ApiKey::IncrementalAlterConfigs => {
            let one = |resource_name| AlterConfigsResource {
                resource_type: 2,
                resource_name,
                ..Default::default()
            };
            let resources = same(ELEMENTS_MAX).map(one).collect();
            vec![(
                "one topic",
                IncrementalAlterConfigsRequest { resources, validate_only: true }.into(),
            )]
        }
        // These APIs have no arrays.
        ApiKey::Heartbeat
        | ApiKey::ApiVersions
        | ApiKey::InitProducerId
        | ApiKey::DescribeCluster => Vec::new(),
    }
}

fn produce(indexes: impl Iterator<Item = i32>) -> Request {
    let partition = |index| PartitionProduceData { index, ..Default::default() };
    let topic =
        TopicProduceData { name: WIDE.into(), partition_data: indexes.map(partition).collect() };
    ProduceRequest { acks: 1, topic_data: [topic].into(), ..Default::default() }.into()
}

fn fetch(topics: impl IntoIterator<Item = (Str, Vec<i32>)>) -> Request {
    let partition = |partition| FetchPartition { partition, ..Default::default() };
    let topic = |(topic, indexes): (Str, Vec<i32>)| FetchTopic {
        topic,
        partitions: indexes.into_iter().map(partition).collect(),
    };
    let topics: Few<FetchTopic> = topics.into_iter().map(topic).collect();
    FetchRequest { topics, ..Default::default() }.into()
}

fn list_offsets(indexes: impl Iterator<Item = i32>) -> Request {
    let partition = |partition_index| ListOffsetsPartition {
        partition_index,
        timestamp: -1,
        ..Default::default()
    };
    let topic =
        ListOffsetsTopic { name: WIDE.into(), partitions: indexes.map(partition).collect() };
    ListOffsetsRequest { topics: vec![topic], ..Default::default() }.into()
}

fn offset_commit(indexes: impl Iterator<Item = i32>) -> Request {
    let partition =
        |partition_index| OffsetCommitRequestPartition { partition_index, ..Default::default() };
    let topic = OffsetCommitRequestTopic {
        name: WIDE.into(),
        partitions: indexes.map(partition).collect(),
    };
    OffsetCommitRequest { group_id: "group".into(), topics: vec![topic], ..Default::default() }
        .into()
}

fn offset_fetch(indexes: impl Iterator<Item = i32>) -> Request {
    let topic = OffsetFetchRequestTopic { name: WIDE.into(), partition_indexes: indexes.collect() };
    let group = OffsetFetchRequestGroup { group_id: "group".into(), topics: Some(vec![topic]) };
    OffsetFetchRequest { groups: vec![group], ..Default::default() }.into()
}
