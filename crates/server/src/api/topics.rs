//! CreateTopics, DeleteTopics, CreatePartitions.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 19 | CreateTopics | 2-7 | 4: default partitions (KIP-464), 5: configs in the answer (KIP-525), 7: topic ids in the answer (KIP-516) |
//! | 20 | DeleteTopics | 1-5 | 5: error messages |
//! | 37 | CreatePartitions | 0-3 | 0: KIP-195 |
//!
//! Checks are pure. Work on files runs where it may block, one topic after another. As in Kafka, a
//! topic that a request names twice is refused once: the two entries may differ. Not done: replicas
//! on other brokers, deletion by topic id (6), quotas.

use std::sync::Arc;

use penstock_ring::blocking;
use penstock_storage::validate_topic_name;
use penstock_wire::messages::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreatePartitionsRequest,
    CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
    CreateTopicsRequest, CreateTopicsResponse, DeletableTopicResult, DeleteTopicsRequest,
    DeleteTopicsResponse,
};
use penstock_wire::{ErrorCode, Str, Uuid};

use crate::api::context::RequestContext;
use crate::api::describe_configs;
use crate::api::described::Described;
use crate::api::doubles::{Doubles, Named};
use crate::api::error_codes;
use crate::broker::overrides::Overrides;
use crate::broker::topics::{ChangeError, Topics};
use crate::causes::Causes;
use crate::config::limits::PARTITIONS_PER_REQUEST_MAX;
use crate::pace::Pace;

/// The server's default, as a partition count or a replication factor.
const DEFAULT: i32 = -1;

/// Units of work (pace.rs) of one topic's configs.
const DESCRIBED_UNITS: usize = 32;

/// Why a topic was not changed, as code and message.
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
            tracing::error!("cannot change topics: {}", Causes(error));
        }
        Refused::new(error_codes::of_change(&error), error)
    }
}

/// Answers a CreateTopics request.
pub(crate) async fn create_topics(
    context: &RequestContext<'_>,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    let names: Vec<Str> = request.topics.iter().map(|topic| topic.name.clone()).collect();
    let (mut doubles, mut pace) = (Doubles::of(names.iter().map(|name| &**name)), Pace::default());
    // Each topic has at least one partition.
    let is_too_large = request.topics.len() > PARTITIONS_PER_REQUEST_MAX as usize;
    let mut partitions = 0;
    for (topic, name) in request.topics.into_iter().zip(&names) {
        let outcome = match doubles.next(name) {
            Named::Once if is_too_large => Err(too_many_partitions()),
            Named::Once => create_one(context, topic, request.validate_only, &mut partitions).await,
            Named::First => Err(named_twice()),
            Named::Again => continue,
        };
        pace.done(DESCRIBED_UNITS).await;
        topics.push(match outcome {
            Ok(created) => created,
            Err(refused) => CreatableTopicResult {
                name: name.clone(),
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

/// Checks the name first: that the topic exists comes before any other error. `partitions` counts
/// those of the request so far.
async fn create_one(
    context: &RequestContext<'_>,
    topic: CreatableTopic,
    validate_only: bool,
    partitions: &mut i32,
) -> Result<CreatableTopicResult, Refused> {
    context.broker.topics.check_new(&topic.name)?;
    validate_topic_name(&topic.name)
        .map_err(|error| Refused::new(ErrorCode::INVALID_TOPIC_EXCEPTION, error))?;
    let overrides = overrides_of(&topic)?;
    let count = partition_count(&topic, context)?;
    if *partitions + count > PARTITIONS_PER_REQUEST_MAX {
        return Err(too_many_partitions());
    }
    *partitions += count;
    let configs = describe_configs::of_topic(&overrides, &context.broker.settings);
    let mut id = Uuid::default();
    if !validate_only {
        let name = topic.name.to_string();
        let created =
            on_blocking_pool(context, move |topics| topics.create(&name, count, overrides));
        id = Uuid(created.await?.id.0);
        tracing::info!(topic = %topic.name, partitions = count, "created a topic");
    }
    let config = |described: Described| CreatableTopicConfigs {
        value: described.value(),
        config_source: described.source(),
        name: described.name,
        ..CreatableTopicConfigs::default()
    };
    let mut configs: Vec<_> = configs.into_iter().map(config).collect();
    // Collecting in place keeps the memory of larger elements; there may be 10 000 of them.
    configs.shrink_to_fit();
    Ok(CreatableTopicResult {
        name: topic.name,
        topic_id: id,
        num_partitions: count,
        replication_factor: 1,
        configs: Some(configs),
        ..CreatableTopicResult::default()
    })
}

fn too_many_partitions() -> Refused {
    let words = format!("more than {PARTITIONS_PER_REQUEST_MAX} partitions in one request");
    Refused::new(ErrorCode::POLICY_VIOLATION, words)
}

fn partition_count(topic: &CreatableTopic, context: &RequestContext<'_>) -> Result<i32, Refused> {
    if !topic.assignments.is_empty() {
        return assigned_count(topic, context.broker.cluster.node_id);
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
        DEFAULT => Ok(context.broker.settings.num_partitions),
        count => Ok(count),
    }
}

/// A client that assigns replicas itself must assign this server alone, and partitions from 0 on
/// without a gap.
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
    context: &RequestContext<'_>,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let mut responses = Vec::with_capacity(request.topic_names.len());
    let mut doubles = Doubles::of(request.topic_names.iter().map(|name| &**name));
    for name in &request.topic_names {
        let deleted = match doubles.next(name) {
            Named::Once => delete_one(context, name).await,
            Named::First => Err(named_twice()),
            Named::Again => continue,
        };
        let (error_code, error_message) = code_and_words(deleted);
        responses.push(DeletableTopicResult { name: name.clone(), error_code, error_message });
    }
    DeleteTopicsResponse { responses, ..DeleteTopicsResponse::default() }
}

async fn delete_one(context: &RequestContext<'_>, name: &Str) -> Result<(), Refused> {
    // Greedy requests mostly name topics that do not exist: those need no other thread.
    if context.broker.topics.get(name).is_none() {
        return Err(ChangeError::Unknown.into());
    }
    let topic = name.to_string();
    on_blocking_pool(context, move |topics| topics.delete(&topic)).await?;
    tracing::info!(topic = %name, "deleted a topic");
    Ok(())
}

/// Answers a CreatePartitions request.
pub(crate) async fn create_partitions(
    context: &RequestContext<'_>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    let mut doubles = Doubles::of(request.topics.iter().map(|topic| &*topic.name));
    let (mut partitions, mut pace) = (0, Pace::default());
    for topic in &request.topics {
        let outcome = match doubles.next(&*topic.name) {
            Named::Once => {
                add_partitions(context, topic, request.validate_only, &mut partitions).await
            }
            Named::First => Err(named_twice()),
            Named::Again => continue,
        };
        let (error_code, error_message) = code_and_words(outcome);
        let name = topic.name.clone();
        results.push(CreatePartitionsTopicResult { name, error_code, error_message });
        pace.done(1).await;
    }
    CreatePartitionsResponse { results, ..CreatePartitionsResponse::default() }
}

/// `partitions` counts those that the request has added so far.
async fn add_partitions(
    context: &RequestContext<'_>,
    topic: &CreatePartitionsTopic,
    validate_only: bool,
    partitions: &mut i32,
) -> Result<(), Refused> {
    let (name, count) = (topic.name.to_string(), topic.count);
    if count > PARTITIONS_PER_REQUEST_MAX {
        let words = format!("{count} partitions: at most {PARTITIONS_PER_REQUEST_MAX}");
        return Err(Refused::new(ErrorCode::INVALID_PARTITIONS, words));
    }
    let has = context.broker.topics.get(&name).ok_or(ChangeError::Unknown)?.partition_count();
    if count <= has {
        return Err(ChangeError::NotMore { has }.into());
    }
    if *partitions + count - has > PARTITIONS_PER_REQUEST_MAX {
        return Err(too_many_partitions());
    }
    *partitions += count - has;
    match validate_only {
        true => Ok(()),
        false => on_blocking_pool(context, move |topics| topics.add_partitions(&name, count)).await,
    }
}

fn named_twice() -> Refused {
    Refused::new(ErrorCode::INVALID_REQUEST, "named more than once")
}

async fn on_blocking_pool<T: Send + 'static>(
    context: &RequestContext<'_>,
    change: impl FnOnce(&Topics) -> Result<T, ChangeError> + Send + 'static,
) -> Result<T, Refused> {
    let broker = Arc::clone(context.broker);
    match blocking::run(move || change(&broker.topics)).await {
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
