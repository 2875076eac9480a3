//! CreateTopics, DeleteTopics, CreatePartitions.
//!
//! Called by api. Checks are pure; what touches files runs on the blocking pool, one topic after another.

use std::collections::HashMap;
use std::sync::Arc;

use penstock_storage::validate_topic_name;
use penstock_wire::messages::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreatePartitionsRequest,
    CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
    CreateTopicsRequest, CreateTopicsResponse, DeletableTopicResult, DeleteTopicsRequest,
    DeleteTopicsResponse,
};
use penstock_wire::{ErrorCode, Str, Uuid};

use crate::describe_configs::{self, Described};
use crate::errors;
use crate::limits::PARTITIONS_PER_REQUEST_MAX;
use crate::overrides::Overrides;
use crate::topics::{ChangeError, Topics};
use crate::worker::Worker;

/// "The server's default", in a partition count or a replication factor.
const DEFAULT: i32 = -1;

/// Why a topic stays as it is: for the client, in code and words.
struct Refused {
    code: ErrorCode,
    words: String,
}

impl Refused {
    fn new(code: ErrorCode, words: impl std::fmt::Display) -> Self {
        Refused { code, words: words.to_string() }
    }
}

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Self {
        if let ChangeError::Disk(error) = &error {
            tracing::error!("cannot change topics: {error:#}");
        }
        Refused::new(errors::of_change(&error), error)
    }
}

/// Answers a CreateTopics request.
pub(crate) async fn create_topics(
    worker: &Worker,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    let times = times_named(request.topics.iter().map(|topic| &topic.name));
    // Each topic has one at least.
    let is_too_large = request.topics.len() > PARTITIONS_PER_REQUEST_MAX as usize;
    let mut partitions = 0;
    for topic in request.topics {
        let name = topic.name.clone();
        let outcome = match named_once(&times, &name) {
            Ok(()) if is_too_large => Err(too_many_partitions()),
            Ok(()) => create_one(worker, topic, request.validate_only, &mut partitions).await,
            Err(refused) => Err(refused),
        };
        topics.push(match outcome {
            Ok(created) => created,
            Err(refused) => CreatableTopicResult {
                name,
                error_code: refused.code,
                error_message: Some(refused.words.into()),
                num_partitions: DEFAULT,
                replication_factor: DEFAULT as i16,
                configs: None,
                ..CreatableTopicResult::default()
            },
        });
    }
    CreateTopicsResponse { topics, ..CreateTopicsResponse::default() }
}

/// Looks at the name first: that the topic is there already is what a client must hear, whatever
/// else is wrong. `partitions` are those that the request has asked for so far.
async fn create_one(
    worker: &Worker,
    topic: CreatableTopic,
    validate_only: bool,
    partitions: &mut i32,
) -> Result<CreatableTopicResult, Refused> {
    worker.server.topics.check_new(&topic.name)?;
    validate_topic_name(&topic.name)
        .map_err(|error| Refused::new(ErrorCode::INVALID_TOPIC_EXCEPTION, error))?;
    let overrides = overrides_of(&topic)?;
    let count = partition_count(&topic, worker)?;
    if *partitions + count > PARTITIONS_PER_REQUEST_MAX {
        return Err(too_many_partitions());
    }
    *partitions += count;
    let configs = describe_configs::of_topic(&overrides, &worker.server.settings);
    let mut id = Uuid::default();
    if !validate_only {
        let name = topic.name.to_string();
        let created =
            on_blocking_pool(worker, move |topics| topics.create(&name, count, overrides));
        id = Uuid(created.await?.id.0);
        tracing::info!(topic = %topic.name, partitions = count, "created a topic");
    }
    let config = |described: Described| CreatableTopicConfigs {
        value: described.value(),
        config_source: described.source(),
        name: described.name,
        ..CreatableTopicConfigs::default()
    };
    Ok(CreatableTopicResult {
        name: topic.name,
        topic_id: id,
        num_partitions: count,
        replication_factor: 1,
        configs: Some(configs.into_iter().map(config).collect()),
        ..CreatableTopicResult::default()
    })
}

fn too_many_partitions() -> Refused {
    let words = format!("more than {PARTITIONS_PER_REQUEST_MAX} partitions in one request");
    Refused::new(ErrorCode::POLICY_VIOLATION, words)
}

fn partition_count(topic: &CreatableTopic, worker: &Worker) -> Result<i32, Refused> {
    if !topic.assignments.is_empty() {
        return assigned_count(topic, worker.server.cluster.node_id);
    }
    match topic.num_partitions {
        DEFAULT => {}
        count if (1..=PARTITIONS_PER_REQUEST_MAX).contains(&count) => {}
        count => {
            let words = format!("{count} partitions: from 1 to {PARTITIONS_PER_REQUEST_MAX}");
            return Err(Refused::new(ErrorCode::INVALID_PARTITIONS, words));
        }
    }
    if topic.replication_factor != 1 && topic.replication_factor != DEFAULT as i16 {
        let words = format!("replication factor {}: there is one server", topic.replication_factor);
        return Err(Refused::new(ErrorCode::INVALID_REPLICATION_FACTOR, words));
    }
    match topic.num_partitions {
        DEFAULT => Ok(worker.server.settings.num_partitions),
        count => Ok(count),
    }
}

/// A client that assigns replicas itself must mean this server, and partitions from 0 without a gap.
fn assigned_count(topic: &CreatableTopic, node_id: i32) -> Result<i32, Refused> {
    if topic.num_partitions != DEFAULT || topic.replication_factor != DEFAULT as i16 {
        let words = "with assignments, the partition count and the replication factor must be -1";
        return Err(Refused::new(ErrorCode::INVALID_REQUEST, words));
    }
    let mut indexes: Vec<i32> = topic.assignments.iter().map(|a| a.partition_index).collect();
    indexes.sort_unstable();
    let whole = indexes.iter().enumerate().all(|(at, index)| *index == at as i32);
    let ours = topic.assignments.iter().all(|a| a.broker_ids[..] == [node_id]);
    if whole && ours && indexes.len() <= PARTITIONS_PER_REQUEST_MAX as usize {
        return Ok(indexes.len() as i32);
    }
    let words = format!("every partition from 0 on must be assigned to node {node_id} alone");
    Err(Refused::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, words))
}

fn overrides_of(topic: &CreatableTopic) -> Result<Overrides, Refused> {
    let mut overrides = Overrides::default();
    let refused = |words| Refused::new(ErrorCode::INVALID_CONFIG, words);
    for config in &topic.configs {
        let no_value = || refused(format!("topic config `{}` has no value", config.name));
        let value = config.value.as_deref().ok_or_else(no_value)?;
        overrides.set(&config.name, value).map_err(refused)?;
    }
    overrides.check().map_err(refused)?;
    Ok(overrides)
}

/// Answers a DeleteTopics request.
pub(crate) async fn delete_topics(
    worker: &Worker,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let mut responses = Vec::with_capacity(request.topic_names.len());
    for name in request.topic_names {
        let topic = name.to_string();
        let deleted = on_blocking_pool(worker, move |topics| topics.delete(&topic)).await;
        if deleted.is_ok() {
            tracing::info!(topic = %name, "deleted a topic");
        }
        let (error_code, error_message) = code_and_words(deleted);
        responses.push(DeletableTopicResult { name, error_code, error_message });
    }
    DeleteTopicsResponse { responses, ..DeleteTopicsResponse::default() }
}

/// Answers a CreatePartitions request.
pub(crate) async fn create_partitions(
    worker: &Worker,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    let times = times_named(request.topics.iter().map(|topic| &topic.name));
    for topic in request.topics {
        let name = topic.name.clone();
        let outcome = match named_once(&times, &name) {
            Ok(()) => add_partitions(worker, topic, request.validate_only).await,
            Err(refused) => Err(refused),
        };
        let (error_code, error_message) = code_and_words(outcome);
        results.push(CreatePartitionsTopicResult { name, error_code, error_message });
    }
    CreatePartitionsResponse { results, ..CreatePartitionsResponse::default() }
}

async fn add_partitions(
    worker: &Worker,
    topic: CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), Refused> {
    let (name, count) = (topic.name.to_string(), topic.count);
    if count > PARTITIONS_PER_REQUEST_MAX {
        let words = format!("{count} partitions: at most {PARTITIONS_PER_REQUEST_MAX}");
        return Err(Refused::new(ErrorCode::INVALID_PARTITIONS, words));
    }
    if validate_only {
        let topic = worker.server.topics.get(&name).ok_or(ChangeError::Unknown)?;
        let has = topic.partition_count();
        return if count > has { Ok(()) } else { Err(ChangeError::NotMore { has }.into()) };
    }
    on_blocking_pool(worker, move |topics| topics.add_partitions(&name, count)).await
}

fn times_named<'a>(names: impl Iterator<Item = &'a Str>) -> HashMap<Str, usize> {
    let mut times = HashMap::new();
    names.for_each(|name| *times.entry(name.clone()).or_default() += 1);
    times
}

/// As Kafka does, a topic that a request names twice is refused each time: which one was meant?
fn named_once(times: &HashMap<Str, usize>, name: &Str) -> Result<(), Refused> {
    match times.get(name) {
        Some(2..) => Err(Refused::new(ErrorCode::INVALID_REQUEST, "named more than once")),
        _ => Ok(()),
    }
}

async fn on_blocking_pool<T: Send + 'static>(
    worker: &Worker,
    change: impl FnOnce(&Topics) -> Result<T, ChangeError> + Send + 'static,
) -> Result<T, Refused> {
    let server = Arc::clone(&worker.server);
    match tokio::task::spawn_blocking(move || change(&server.topics)).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Refused::new(ErrorCode::UNKNOWN_SERVER_ERROR, "the change panicked")),
    }
}

fn code_and_words(outcome: Result<(), Refused>) -> (ErrorCode, Option<Str>) {
    match outcome {
        Ok(()) => (ErrorCode::NONE, None),
        Err(refused) => (refused.code, Some(refused.words.into())),
    }
}
