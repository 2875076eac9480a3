//! CreateTopics (19), DeleteTopics (20) and CreatePartitions (37).

use crate::schema::schema;
use crate::{ErrorCode, Str, Uuid};

schema! {
    /// Topics to create.
    CreateTopicsRequest {
        topics: Vec<CreatableTopic> [0..],
        timeout_ms: i32 [0..] = 60_000,
        validate_only: bool [1..],
    }

    /// One topic.
    CreatableTopic {
        name: Str [0..],
        /// -1 with `assignments`, or for the broker's default.
        num_partitions: i32 [0..],
        /// -1 with `assignments`, or for the broker's default.
        replication_factor: i16 [0..],
        assignments: Vec<CreatableReplicaAssignment> [0..],
        configs: Vec<CreatableTopicConfig> [0..],
    }

    /// The brokers of a partition.
    CreatableReplicaAssignment {
        partition_index: i32 [0..],
        broker_ids: Vec<i32> [0..],
    }

    /// One config.
    CreatableTopicConfig {
        name: Str [0..],
        value: Option<Str> [0..],
    }

    /// The outcomes.
    CreateTopicsResponse {
        throttle_time_ms: i32 [2..],
        topics: Vec<CreatableTopicResult> [0..],
    }

    /// One topic.
    CreatableTopicResult {
        name: Str [0..],
        topic_id: Uuid [7..],
        error_code: ErrorCode [0..],
        error_message: Option<Str> [1..],
        topic_config_error_code: ErrorCode [5.., tag 0],
        num_partitions: i32 [5..] = -1,
        replication_factor: i16 [5..] = -1,
        configs: Option<Vec<CreatableTopicConfigs>> [5..],
    }

    /// One config with its value now.
    CreatableTopicConfigs {
        name: Str [5..],
        value: Option<Str> [5..],
        read_only: bool [5..],
        config_source: i8 [5..] = -1,
        is_sensitive: bool [5..],
    }

    /// Topics to delete.
    DeleteTopicsRequest {
        topic_names: Vec<Str> [0..],
        timeout_ms: i32 [0..],
    }

    /// The outcomes.
    DeleteTopicsResponse {
        throttle_time_ms: i32 [1..],
        responses: Vec<DeletableTopicResult> [0..],
    }

    /// One topic.
    DeletableTopicResult {
        name: Str [0..],
        error_code: ErrorCode [0..],
        error_message: Option<Str> [5..],
    }

    /// Topics to give more partitions.
    CreatePartitionsRequest {
        topics: Vec<CreatePartitionsTopic> [0..],
        timeout_ms: i32 [0..],
        validate_only: bool [0..],
    }

    /// One topic.
    CreatePartitionsTopic {
        name: Str [0..],
        /// The number of partitions afterwards.
        count: i32 [0..],
        assignments: Option<Vec<CreatePartitionsAssignment>> [0..],
    }

    /// The brokers of a new partition.
    CreatePartitionsAssignment {
        broker_ids: Vec<i32> [0..],
    }

    /// The outcomes.
    CreatePartitionsResponse {
        throttle_time_ms: i32 [0..],
        results: Vec<CreatePartitionsTopicResult> [0..],
    }

    /// One topic.
    CreatePartitionsTopicResult {
        name: Str [0..],
        error_code: ErrorCode [0..],
        error_message: Option<Str> [0..],
    }
}
