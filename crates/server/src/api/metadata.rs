//! Metadata and DescribeCluster: the brokers, the topics, their partitions.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 3 | Metadata | 0-9 | 5: offline replicas (KIP-112), 7: leader epochs (KIP-320), 8: authorized operations (KIP-430) |
//! | 60 | DescribeCluster | 0-1 | 0: KIP-700, 1: endpoint type (KIP-919) |
//!
//! A request for an unknown topic may create it. A topic is described once, however often a request
//! names it: one name may stand for thousands of partitions. Not done: topic ids (10), authorized
//! operations (there are no ACLs), other brokers than this one.

use std::collections::HashSet;
use std::sync::Arc;

use penstock_ring::blocking;
use penstock_storage::validate_topic_name;
use penstock_wire::messages::{
    DescribeClusterBroker, DescribeClusterResponse, MetadataRequest, MetadataRequestTopic,
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use penstock_wire::{ErrorCode, Str};

use crate::api::context::RequestContext;
use crate::broker::overrides::Overrides;
use crate::broker::topics::{ChangeError, INTERNAL_TOPICS, Topic};
use crate::config::limits::AUTO_CREATED_TOPICS_MAX;
use crate::pace::Pace;

/// Authorized operations, where a request does not ask for them.
const OPERATIONS_UNKNOWN: i32 = i32::MIN;

const NO_LEADER: i32 = -1;

/// Answers a Metadata request.
pub(crate) async fn metadata(
    context: &RequestContext<'_>,
    request: MetadataRequest,
) -> MetadataResponse {
    let cluster = &context.broker.cluster;
    let topics = match request.topics {
        None => describe_all(context).await,
        Some(asked) => {
            let may_create =
                request.allow_auto_topic_creation && context.broker.settings.auto_create_topics;
            describe_named(context, asked, may_create).await
        }
    };
    let (host, port) = &cluster.advertised;
    MetadataResponse {
        brokers: vec![MetadataResponseBroker {
            node_id: cluster.node_id,
            host: host.as_str().into(),
            port: i32::from(*port),
            rack: None,
        }],
        cluster_id: Some(cluster.id.as_str().into()),
        controller_id: cluster.node_id,
        topics,
        cluster_authorized_operations: OPERATIONS_UNKNOWN,
        ..MetadataResponse::default()
    }
}

async fn describe_all(context: &RequestContext<'_>) -> Vec<MetadataResponseTopic> {
    let all = context.broker.topics.all();
    let (mut topics, mut pace) = (Vec::with_capacity(all.len()), Pace::default());
    for topic in all {
        let topic = describe(context, &topic);
        pace.done(1 + topic.partitions.len()).await;
        topics.push(topic);
    }
    topics
}

/// Describes each topic once, in the order in which the request first names them.
async fn describe_named(
    context: &RequestContext<'_>,
    asked: Vec<MetadataRequestTopic>,
    may_create: bool,
) -> Vec<MetadataResponseTopic> {
    let mut creations_left = if may_create { AUTO_CREATED_TOPICS_MAX } else { 0 };
    let (mut topics, mut pace) = (Vec::new(), Pace::default());
    for name in each_once(asked) {
        let topic = describe_or_create(context, &name, &mut creations_left).await;
        pace.done(1 + topic.partitions.len()).await;
        topics.push(topic);
    }
    topics
}

fn each_once(asked: Vec<MetadataRequestTopic>) -> impl Iterator<Item = Str> {
    let mut seen = HashSet::new();
    asked.into_iter().map(|topic| topic.name).filter(move |name| seen.insert(name.clone()))
}

async fn describe_or_create(
    context: &RequestContext<'_>,
    name: &str,
    creations_left: &mut u32,
) -> MetadataResponseTopic {
    if let Some(topic) = context.broker.topics.get(name) {
        return describe(context, &topic);
    }
    match create(context, name, creations_left).await {
        Ok(topic) => describe(context, &topic),
        Err(error_code) => MetadataResponseTopic {
            error_code,
            name: name.into(),
            topic_authorized_operations: OPERATIONS_UNKNOWN,
            ..MetadataResponseTopic::default()
        },
    }
}

/// Creates a topic that is asked for. Clients ask again for an unknown topic, so a request that
/// names more topics than it may create gets the rest later.
async fn create(
    context: &RequestContext<'_>,
    name: &str,
    creations_left: &mut u32,
) -> Result<Arc<Topic>, ErrorCode> {
    validate_topic_name(name).map_err(|_| ErrorCode::INVALID_TOPIC_EXCEPTION)?;
    *creations_left = creations_left.checked_sub(1).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let (broker, name) = (Arc::clone(context.broker), name.to_owned());
    let created = blocking::run(move || {
        let count = broker.settings.num_partitions;
        match broker.topics.create(&name, count, Overrides::default()) {
            Err(ChangeError::Exists) => broker.topics.get(&name).ok_or(ChangeError::Unknown),
            outcome => outcome,
        }
    });
    match created.await {
        Ok(Ok(topic)) => {
            tracing::info!(topic = topic.name, "created a topic that was asked for");
            Ok(topic)
        }
        // No later attempt can succeed.
        Ok(Err(ChangeError::Collides { .. } | ChangeError::Reserved)) => {
            Err(ErrorCode::INVALID_TOPIC_EXCEPTION)
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "cannot create a topic that was asked for");
            Err(ErrorCode::LEADER_NOT_AVAILABLE)
        }
        Err(_) => Err(ErrorCode::UNKNOWN_SERVER_ERROR),
    }
}

fn describe(context: &RequestContext<'_>, topic: &Topic) -> MetadataResponseTopic {
    let node_id = context.broker.cluster.node_id;
    let describe_partition =
        |partition: &Arc<crate::broker::partition::Partition>| MetadataResponsePartition {
            partition_index: partition.name.partition,
            leader_id: node_id,
            leader_epoch: partition.bounds().leader_epoch,
            replica_nodes: [node_id].into(),
            isr_nodes: [node_id].into(),
            ..MetadataResponsePartition::default()
        };
    // The answer of a Kafka of one broker for a partition whose disk it has lost.
    let describe_absent = |index| MetadataResponsePartition {
        error_code: ErrorCode::LEADER_NOT_AVAILABLE,
        partition_index: index,
        leader_id: NO_LEADER,
        replica_nodes: [node_id].into(),
        offline_replicas: [node_id].into(),
        ..MetadataResponsePartition::default()
    };
    let mut partitions: Vec<_> = topic.partitions().iter().map(describe_partition).collect();
    partitions.extend(topic.absent().map(describe_absent));
    partitions.sort_by_key(|partition| partition.partition_index);
    MetadataResponseTopic {
        name: topic.name.as_str().into(),
        is_internal: INTERNAL_TOPICS.contains(&topic.name.as_str()),
        partitions,
        topic_authorized_operations: OPERATIONS_UNKNOWN,
        ..MetadataResponseTopic::default()
    }
}

/// Answers a DescribeCluster request.
pub(crate) fn describe_cluster(context: &RequestContext<'_>) -> DescribeClusterResponse {
    let cluster = &context.broker.cluster;
    let (host, port) = &cluster.advertised;
    DescribeClusterResponse {
        cluster_id: cluster.id.as_str().into(),
        controller_id: cluster.node_id,
        brokers: vec![DescribeClusterBroker {
            broker_id: cluster.node_id,
            host: host.as_str().into(),
            port: i32::from(*port),
            rack: None,
        }],
        cluster_authorized_operations: OPERATIONS_UNKNOWN,
        ..DescribeClusterResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_named_again_counts_where_it_was_named_first() {
        let asked =
            ["b", "a", "b", "c", "a"].map(|name| MetadataRequestTopic { name: name.into() });
        let names: Vec<Str> = each_once(asked.into()).collect();
        assert_eq!(names, ["b", "a", "c"]);
    }
}
