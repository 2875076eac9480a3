//! Configurations over the wire: which settings a topic takes, how they are described, and that
//! they take effect.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use penstock_tests::records::batch;
use penstock_tests::{Client, Penstock, Start};
use penstock_wire::messages::{
    AlterConfigsResource, AlterableConfig, CreatableTopic, CreatableTopicConfig,
    CreatableTopicResult, CreateTopicsRequest, DescribeConfigsRequest, DescribeConfigsResource,
    DescribeConfigsResourceResult, DescribeConfigsResult, FindCoordinatorRequest,
    IncrementalAlterConfigsRequest, MetadataRequest, MetadataRequestTopic,
};
use penstock_wire::{ErrorCode, Request, Response};
use tempfile::TempDir;

const TOPIC: &str = "events";
const TOPICS: i8 = 2;
const BROKERS: i8 = 4;
const SET: i8 = 0;
const APPEND: i8 = 2;

/// Settings of scripts written for Kafka that make no difference on one server.
const HARMLESS: &[(&str, &str)] = &[
    ("min.insync.replicas", "2"),
    ("unclean.leader.election.enable", "true"),
    ("segment.jitter.ms", "1000"),
    ("segment.index.bytes", "10485760"),
    ("index.interval.bytes", "4096"),
    ("compression.type", "producer"),
    ("compression.zstd.level", "-5"),
    ("delete.retention.ms", "0"),
    ("max.compaction.lag.ms", "5000"),
    ("min.cleanable.dirty.ratio", "0.25"),
    ("file.delete.delay.ms", "0"),
    ("preallocate", "true"),
    ("remote.storage.enable", "false"),
    ("local.retention.ms", "-2"),
    ("follower.replication.throttled.replicas", "*"),
    ("flush.messages", "9223372036854775807"),
];

fn server(start: impl FnOnce(Start) -> Start) -> (TempDir, Penstock, Client) {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Start::on(dir.path())).start().unwrap();
    let client = server.client().unwrap();
    (dir, server, client)
}

fn topic(name: &str, configs: &[(&str, Option<&str>)]) -> CreatableTopic {
    let config = |(name, value): &(&str, Option<&str>)| CreatableTopicConfig {
        name: (*name).into(),
        value: value.map(Into::into),
    };
    CreatableTopic {
        name: name.into(),
        num_partitions: 1,
        replication_factor: 1,
        configs: configs.iter().map(config).collect(),
        ..CreatableTopic::default()
    }
}

fn create(client: &mut Client, topic: CreatableTopic, validate_only: bool) -> CreatableTopicResult {
    let topics = vec![topic];
    let request = CreateTopicsRequest { topics, validate_only, ..CreateTopicsRequest::default() };
    let Response::CreateTopics(mut response) = client.ask(&Request::CreateTopics(request)).unwrap()
    else {
        panic!("not an answer to CreateTopics");
    };
    response.topics.remove(0)
}

fn describe(client: &mut Client, resource_type: i8, name: &str) -> DescribeConfigsResult {
    let resource = DescribeConfigsResource {
        resource_type,
        resource_name: name.into(),
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: true,
        include_documentation: true,
    };
    match client.ask(&Request::DescribeConfigs(request)).unwrap() {
        Response::DescribeConfigs(mut response) => response.results.remove(0),
        _ => panic!("not an answer to DescribeConfigs"),
    }
}

fn config<'a>(
    described: &'a DescribeConfigsResult,
    name: &str,
) -> &'a DescribeConfigsResourceResult {
    let mut configs = described.configs.iter();
    configs.find(|config| *config.name == *name).unwrap_or_else(|| panic!("no {name}"))
}

fn alter(
    client: &mut Client,
    resource_type: i8,
    name: &str,
    change: (&str, i8, &str),
) -> ErrorCode {
    let (key, config_operation, value) = change;
    let config = AlterableConfig { name: key.into(), config_operation, value: Some(value.into()) };
    let resource =
        AlterConfigsResource { resource_type, resource_name: name.into(), configs: vec![config] };
    let request =
        IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    match client.ask(&Request::IncrementalAlterConfigs(request)).unwrap() {
        Response::IncrementalAlterConfigs(response) => response.responses[0].error_code,
        _ => panic!("not an answer to IncrementalAlterConfigs"),
    }
}

#[test]
fn what_makes_no_difference_is_taken_kept_and_described_after_a_restart_too() {
    let (dir, server, mut client) = server(|start| start);
    client.create_topic(TOPIC, 1, HARMLESS).unwrap();
    server.stop().unwrap();
    let server = Start::on(dir.path()).start().unwrap();
    let mut client = server.client().unwrap();
    let described = describe(&mut client, TOPICS, TOPIC);
    assert_eq!(described.configs.len(), 38);
    for (name, value) in HARMLESS {
        let config = config(&described, name);
        assert_eq!((config.value.as_deref(), config.config_source), (Some(*value), 1), "{name}");
        assert!(config.documentation.as_deref().is_some_and(|text| !text.is_empty()));
    }
    // As in Kafka, the replicas that must be in sync are at most those that exist.
    let produced = client.produce(TOPIC, 0, -1, batch(&["all of one"])).unwrap();
    assert_eq!(produced.error_code, ErrorCode::NONE);
}

#[test]
fn a_value_is_described_with_all_the_places_it_may_come_from() {
    let (_dir, _server, mut client) =
        server(|start| start.set(&[("log.segment.bytes", "2097152")]));
    client.create_topic(TOPIC, 1, &[("segment.bytes", "1048576")]).unwrap();
    client.create_topic("other", 1, &[]).unwrap();
    let synonyms = |described: &DescribeConfigsResult| -> Vec<(String, String, i8)> {
        let synonyms = &config(described, "segment.bytes").synonyms;
        let place = |s: &penstock_wire::messages::DescribeConfigsSynonym| {
            (s.name.to_string(), s.value.as_deref().unwrap_or_default().to_owned(), s.source)
        };
        synonyms.iter().map(place).collect()
    };
    let place = |name: &str, value: &str, source| (name.to_owned(), value.to_owned(), source);
    let of_server =
        [place("log.segment.bytes", "2097152", 4), place("log.segment.bytes", "1073741824", 5)];
    let others = describe(&mut client, TOPICS, "other");
    assert_eq!(synonyms(&others), of_server);
    assert_eq!(config(&others, "segment.bytes").config_source, 4);
    assert_eq!(config(&others, "retention.bytes").config_source, 5);
    let own = describe(&mut client, TOPICS, TOPIC);
    assert_eq!(synonyms(&own)[0], place("segment.bytes", "1048576", 1));
    assert_eq!(synonyms(&own)[1..], of_server);
}

#[test]
fn the_server_describes_itself_and_no_other() {
    let (dir, _server, mut client) = server(|start| start.set(&[("num.partitions", "3")]));
    let described = describe(&mut client, BROKERS, "0");
    let value = |name| config(&described, name).value.as_deref().unwrap_or_default();
    assert_eq!(value("num.partitions"), "3");
    assert_eq!(config(&described, "num.partitions").config_source, 4);
    assert_eq!(value("auto.create.topics.enable"), "true");
    assert_eq!(value("message.max.bytes"), "1048588");
    assert_eq!(value("log.retention.ms"), "604800000");
    assert_eq!(value("log.dirs"), dir.path().to_str().unwrap());
    assert_eq!((value("node.id"), value("durability")), ("0", "os"));
    for name in ["1", "99999", "x"] {
        assert_eq!(describe(&mut client, BROKERS, name).error_code, ErrorCode::INVALID_REQUEST);
    }
    let of_all = describe(&mut client, BROKERS, "");
    assert_eq!((of_all.error_code, of_all.configs.len()), (ErrorCode::NONE, 0));
    let change = ("num.partitions", SET, "4");
    assert_eq!(alter(&mut client, BROKERS, "0", change), ErrorCode::INVALID_REQUEST);
}

#[test]
fn what_cannot_be_described_is_answered_with_kafkas_codes() {
    let (_dir, _server, mut client) = server(|start| start);
    let refusals = [
        (TOPICS, "missing", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (TOPICS, "a b", ErrorCode::INVALID_TOPIC_EXCEPTION),
        (8, "0", ErrorCode::INVALID_REQUEST),
        (99, "0", ErrorCode::INVALID_REQUEST),
    ];
    for (resource_type, name, error_code) in refusals {
        let described = describe(&mut client, resource_type, name);
        assert_eq!(described.error_code, error_code, "{resource_type} {name}");
        assert!(described.error_message.is_some());
    }
}

/// A short request must not lead to a long answer.
#[test]
fn a_topic_is_described_once_a_request() {
    let (_dir, _server, mut client) = server(|start| start);
    client.create_topic(TOPIC, 1, &[]).unwrap();
    let resource = DescribeConfigsResource {
        resource_type: TOPICS,
        resource_name: TOPIC.into(),
        configuration_keys: None,
    };
    let resources = vec![resource; 1000];
    let request = DescribeConfigsRequest { resources, ..DescribeConfigsRequest::default() };
    let Response::DescribeConfigs(response) =
        client.ask(&Request::DescribeConfigs(request)).unwrap()
    else {
        panic!("not an answer to DescribeConfigs");
    };
    let described = response.results.iter().filter(|result| !result.configs.is_empty()).count();
    assert_eq!((response.results.len(), described), (1000, 1));
    assert_eq!(response.results[999].error_code, ErrorCode::INVALID_REQUEST);
}

#[test]
fn what_is_wrong_with_a_new_topic_is_told_in_kafkas_order() {
    let (_dir, _server, mut client) = server(|start| start);
    client.create_topic("a.b", 1, &[]).unwrap();
    let hopeless = |name: &str| CreatableTopic {
        num_partitions: 0,
        replication_factor: 9,
        ..topic(name, &[("no.such.key", Some("1"))])
    };
    let bad_count = CreatableTopic { num_partitions: 0, replication_factor: 9, ..topic("t", &[]) };
    let bad_factor = CreatableTopic { replication_factor: 9, ..topic("t", &[]) };
    let refusals = [
        (hopeless("a.b"), ErrorCode::TOPIC_ALREADY_EXISTS),
        (hopeless("a_b"), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (hopeless("a b"), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (hopeless("__cluster_metadata"), ErrorCode::INVALID_REQUEST),
        (hopeless("t"), ErrorCode::INVALID_CONFIG),
        (topic("t", &[("retention.ms", None)]), ErrorCode::INVALID_CONFIG),
        (topic("t", &[("retention.ms", Some("x"))]), ErrorCode::INVALID_CONFIG),
        (topic("t", &[("cleanup.policy", Some("compact"))]), ErrorCode::INVALID_CONFIG),
        (bad_count, ErrorCode::INVALID_PARTITIONS),
        (bad_factor, ErrorCode::INVALID_REPLICATION_FACTOR),
    ];
    for (topic, error_code) in refusals {
        for validate_only in [true, false] {
            let created = create(&mut client, topic.clone(), validate_only);
            assert_eq!(created.error_code, error_code, "{topic:?}");
            assert!(created.error_message.is_some());
        }
    }
    for validate_only in [true, true, false] {
        let created =
            create(&mut client, topic("t", &[("retention.ms", Some("5"))]), validate_only);
        assert_eq!(created.error_code, ErrorCode::NONE);
        let configs = created.configs.unwrap();
        let retention = configs.iter().find(|config| &*config.name == "retention.ms").unwrap();
        assert_eq!((retention.value.as_deref(), retention.config_source), (Some("5"), 1));
        assert_eq!(configs.len(), 38);
    }
}

#[test]
fn a_name_that_collides_is_not_made_by_asking_for_it_either() {
    let (_dir, _server, mut client) = server(|start| start);
    client.create_topic("a.b", 1, &[]).unwrap();
    for name in ["a_b", "__cluster_metadata"] {
        let topics = Some(vec![MetadataRequestTopic { name: name.into() }]);
        let request =
            MetadataRequest { topics, allow_auto_topic_creation: true, ..Default::default() };
        let Response::Metadata(response) = client.ask(&Request::Metadata(request)).unwrap() else {
            panic!("not an answer to Metadata");
        };
        assert_eq!(response.topics[0].error_code, ErrorCode::INVALID_TOPIC_EXCEPTION, "{name}");
    }
}

#[test]
fn a_topics_configs_can_be_changed_and_lists_appended_to() {
    let (_dir, _server, mut client) = server(|start| start);
    client.create_topic(TOPIC, 1, &[]).unwrap();
    let throttled = "leader.replication.throttled.replicas";
    assert_eq!(alter(&mut client, TOPICS, TOPIC, (throttled, APPEND, "0:1")), ErrorCode::NONE);
    assert_eq!(alter(&mut client, TOPICS, TOPIC, (throttled, APPEND, "1:1,0:1")), ErrorCode::NONE);
    let refusals = [
        (TOPIC, ("cleanup.policy", APPEND, "compact"), ErrorCode::INVALID_CONFIG),
        (TOPIC, ("retention.ms", APPEND, "1"), ErrorCode::INVALID_CONFIG),
        (TOPIC, ("no.such.key", SET, "1"), ErrorCode::INVALID_CONFIG),
        (TOPIC, ("retention.ms", 9, "1"), ErrorCode::INVALID_REQUEST),
        ("missing", ("retention.ms", SET, "1"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        ("missing", ("no.such.key", SET, "1"), ErrorCode::INVALID_CONFIG),
    ];
    for (name, change, error_code) in refusals {
        assert_eq!(alter(&mut client, TOPICS, name, change), error_code, "{name} {change:?}");
    }
    let described = describe(&mut client, TOPICS, TOPIC);
    assert_eq!(config(&described, throttled).value.as_deref(), Some("0:1,1:1"));
}

#[test]
fn flush_messages_syncs_before_it_acknowledges_and_only_its_own_topic() {
    let (_dir, server, mut client) = server(|start| start);
    client.create_topic(TOPIC, 1, &[("flush.messages", "1")]).unwrap();
    client.create_topic("other", 1, &[]).unwrap();
    let syncs = || server.metrics().unwrap().value("penstock_log_syncs_total");
    for n in 1..=5 {
        client.produce(TOPIC, 0, 1, batch(&["synced"])).unwrap();
        client.produce("other", 0, 1, batch(&["not synced"])).unwrap();
        assert_eq!(syncs(), n);
    }
    assert_eq!(alter(&mut client, TOPICS, "other", ("flush.messages", SET, "1")), ErrorCode::NONE);
    client.produce("other", 0, 1, batch(&["synced"])).unwrap();
    assert_eq!(syncs(), 6);
}

#[test]
fn flush_ms_takes_what_came_to_the_disk_long_before_the_next_checkpoint() {
    let (dir, _server, mut client) = server(|start| start);
    client.create_topic(TOPIC, 1, &[("flush.ms", "100")]).unwrap();
    client.create_topic("other", 1, &[]).unwrap();
    for topic in [TOPIC, "other"] {
        client.produce(topic, 0, 1, batch(&["x", "y"])).unwrap();
    }
    let points = dir.path().join("penstock-recovery-points");
    let started = Instant::now();
    let flushed = |topic: &str| {
        let text = std::fs::read_to_string(&points).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{topic} 0 ")));
        line.is_some_and(|line| line.ends_with(" 2"))
    };
    while !flushed(TOPIC) {
        assert!(started.elapsed() < Duration::from_secs(30), "checkpoints come once a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!flushed("other"));
}

#[test]
fn whoever_looks_for_transactions_is_refused_at_once_and_for_good() {
    let (_dir, _server, mut client) = server(|start| start);
    let request = |key_type| FindCoordinatorRequest {
        key: "t".into(),
        key_type,
        coordinator_keys: vec!["t".into()],
    };
    let find = |client: &mut Client, version, key_type| {
        let request = Request::FindCoordinator(request(key_type));
        let Response::FindCoordinator(mut response) = client.ask_in(version, &request).unwrap()
        else {
            panic!("not an answer to FindCoordinator");
        };
        match response.coordinators.pop() {
            Some(found) => (found.error_code, found.error_message),
            None => (response.error_code, response.error_message),
        }
    };
    for (version, error_code) in [
        (2, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        (3, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        (4, ErrorCode::UNSUPPORTED_VERSION),
    ] {
        let (refused, words) = find(&mut client, version, 1);
        assert_eq!(refused, error_code, "version {version}");
        assert!(words.unwrap().contains("transactions are not supported"));
        assert_eq!(find(&mut client, version, 0).0, ErrorCode::NONE);
        assert_eq!(find(&mut client, version, 2).0, ErrorCode::INVALID_REQUEST);
    }
}

#[test]
fn a_client_id_that_is_no_utf_8_is_served() {
    let (_dir, server, _client) = server(|start| start);
    for client_id in [&b"Z\xfcrich-01"[..], b"\xff\xfe", b""] {
        let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
        let header = [0, 18, 0, 0, 0, 0, 0, 7, 0, client_id.len() as u8];
        let length = (header.len() + client_id.len()) as u32;
        stream.write_all(&[&length.to_be_bytes(), &header[..], client_id].concat()).unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[4..10], [0, 0, 0, 7, 0, 0], "correlation id, no error");
    }
}
