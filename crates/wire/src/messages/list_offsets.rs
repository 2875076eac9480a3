//! ListOffsets (2).

use crate::schema::schema;
use crate::{ErrorCode, Str};

schema! {
    /// Timestamps whose offsets to find.
    ListOffsetsRequest {
        /// -1 for a consumer.
        replica_id: i32 [0..] = -1,
        isolation_level: i8 [2..],
        topics: Vec<ListOffsetsTopic> [0..],
    }

    /// One topic's.
    ListOffsetsTopic {
        name: Str [0..],
        partitions: Vec<ListOffsetsPartition> [0..],
    }

    /// One partition's.
    ListOffsetsPartition {
        partition_index: i32 [0..],
        current_leader_epoch: i32 [4..] = -1,
        /// Milliseconds since 1970; -1 latest, -2 earliest, -3 the largest timestamp (version 7).
        timestamp: i64 [0..],
    }

    /// The offsets.
    ListOffsetsResponse {
        throttle_time_ms: i32 [2..],
        topics: Vec<ListOffsetsTopicResponse> [0..],
    }

    /// One topic's.
    ListOffsetsTopicResponse {
        name: Str [0..],
        partitions: Vec<ListOffsetsPartitionResponse> [0..],
    }

    /// One partition's; offset -1 when there is none.
    ListOffsetsPartitionResponse {
        partition_index: i32 [0..],
        error_code: ErrorCode [0..],
        timestamp: i64 [1..] = -1,
        offset: i64 [1..] = -1,
        leader_epoch: i32 [4..] = -1,
    }
}
