//! Metadata (3) and DescribeCluster (60): brokers, topics, leaders.

use crate::schema::schema;
use crate::{ErrorCode, Few, Str};

/// Authorized operations, where a request does not ask for them.
pub const NO_AUTHORIZED_OPERATIONS: i32 = i32::MIN;

schema! {
    /// The topics to describe.
    MetadataRequest {
        /// Null means all topics. In version 0 an empty array means that, and is decoded as null.
        topics: Option<Vec<MetadataRequestTopic>> [0.., null 1..],
        allow_auto_topic_creation: bool [4..] = true,
        include_cluster_authorized_operations: bool [8..],
        include_topic_authorized_operations: bool [8..],
    }

    /// One topic.
    MetadataRequestTopic {
        name: Str [0..],
    }

    /// Brokers and topics.
    MetadataResponse {
        throttle_time_ms: i32 [3..],
        brokers: Vec<MetadataResponseBroker> [0..],
        cluster_id: Option<Str> [2..],
        controller_id: i32 [1..] = -1,
        topics: Vec<MetadataResponseTopic> [0..],
        cluster_authorized_operations: i32 [8..] = NO_AUTHORIZED_OPERATIONS,
    }

    /// One broker.
    MetadataResponseBroker {
        node_id: i32 [0..],
        host: Str [0..],
        port: i32 [0..],
        rack: Option<Str> [1..],
    }

    /// One topic.
    MetadataResponseTopic {
        error_code: ErrorCode [0..],
        name: Str [0..],
        is_internal: bool [1..],
        partitions: Vec<MetadataResponsePartition> [0..],
        topic_authorized_operations: i32 [8..] = NO_AUTHORIZED_OPERATIONS,
    }

    /// One partition.
    MetadataResponsePartition {
        error_code: ErrorCode [0..],
        partition_index: i32 [0..],
        leader_id: i32 [0..],
        leader_epoch: i32 [7..] = -1,
        replica_nodes: Few<i32> [0..],
        isr_nodes: Few<i32> [0..],
        offline_replicas: Few<i32> [5..],
    }

    /// Asks for the brokers.
    DescribeClusterRequest {
        include_cluster_authorized_operations: bool [0..],
        /// 1 brokers, 2 controllers.
        endpoint_type: i8 [1..] = 1,
    }

    /// The brokers.
    DescribeClusterResponse {
        throttle_time_ms: i32 [0..],
        error_code: ErrorCode [0..],
        error_message: Option<Str> [0..],
        endpoint_type: i8 [1..] = 1,
        cluster_id: Str [0..],
        controller_id: i32 [0..] = -1,
        brokers: Vec<DescribeClusterBroker> [0..],
        cluster_authorized_operations: i32 [0..] = NO_AUTHORIZED_OPERATIONS,
    }

    /// One broker.
    DescribeClusterBroker {
        broker_id: i32 [0..],
        host: Str [0..],
        port: i32 [0..],
        rack: Option<Str> [0..],
    }
}

impl MetadataRequest {
    /// Gives a request of version 0, which has no null, the meaning of later versions.
    pub(crate) fn empty_means_all(&mut self) {
        self.topics.take_if(|topics| topics.is_empty());
    }
}
