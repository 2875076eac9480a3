//! Fetch (1).

use crate::schema::schema;
use crate::{ErrorCode, Few, Label, Records, Str};

schema! {
    /// Offsets to read from, partition by partition, and limits.
    FetchRequest {
        cluster_id: Option<Str> [12.., tag 0],
        /// -1 for a consumer.
        replica_id: i32 [0..] = -1,
        max_wait_ms: i32 [0..],
        min_bytes: i32 [0..],
        max_bytes: i32 [3..] = i32::MAX,
        /// 0 read uncommitted, 1 read committed.
        isolation_level: i8 [4..],
        session_id: i32 [7..],
        session_epoch: i32 [7..] = -1,
        topics: Few<FetchTopic> [0..],
        forgotten_topics_data: Vec<ForgottenTopic> [7..],
        rack_id: Label [11..],
    }

    /// One topic's.
    FetchTopic {
        topic: Str [0..],
        partitions: Few<FetchPartition> [0..],
    }

    /// One partition's.
    FetchPartition {
        partition: i32 [0..],
        current_leader_epoch: i32 [9..] = -1,
        fetch_offset: i64 [0..],
        last_fetched_epoch: i32 [12..] = -1,
        /// A follower's own log start.
        log_start_offset: i64 [5..] = -1,
        partition_max_bytes: i32 [0..],
    }

    /// Partitions that leave the fetch session (KIP-227).
    ForgottenTopic {
        topic: Str [7..],
        partitions: Vec<i32> [7..],
    }

    /// Records, partition by partition.
    FetchResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode [7..],
        /// 0 without a session.
        session_id: i32 [7..],
        responses: Few<FetchableTopicResponse> [0..],
    }

    /// One topic's.
    FetchableTopicResponse {
        topic: Str [0..],
        partitions: Few<PartitionData> [0..],
    }

    /// One partition's.
    PartitionData {
        partition_index: i32 [0..],
        error_code: ErrorCode [0..],
        high_watermark: i64 [0..],
        last_stable_offset: i64 [4..] = -1,
        log_start_offset: i64 [5..] = -1,
        diverging_epoch: EpochEndOffset [12.., tag 0],
        current_leader: LeaderIdAndEpoch [12.., tag 1],
        snapshot_id: SnapshotId [12.., tag 2],
        aborted_transactions: Option<Vec<AbortedTransaction>> [4..],
        preferred_read_replica: i32 [11..] = -1,
        records: Records [0..],
    }

    /// Where a follower's log diverges from the leader's (KIP-595); -1 if it does not.
    EpochEndOffset {
        epoch: i32 [12..] = -1,
        end_offset: i64 [12..] = -1,
    }

    /// The leader; -1 if it is not known.
    LeaderIdAndEpoch {
        leader_id: i32 [12..] = -1,
        leader_epoch: i32 [12..] = -1,
    }

    /// A snapshot to be fetched instead; -1 means none.
    SnapshotId {
        end_offset: i64 [0..] = -1,
        epoch: i32 [0..] = -1,
    }

    /// A transaction whose records a read-committed consumer skips.
    AbortedTransaction {
        producer_id: i64 [4..],
        first_offset: i64 [4..],
    }
}
