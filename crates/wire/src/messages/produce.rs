//! Produce (0).

use crate::schema::schema;
use crate::{ErrorCode, Few, Records, Str};

schema! {
    /// Batches for partitions.
    ProduceRequest {
        transactional_id: Option<Str> [3..],
        /// 0 (no answer), 1 (the leader has it) or -1 (all in-sync replicas have it).
        acks: i16 [0..],
        timeout_ms: i32 [0..],
        topic_data: Few<TopicProduceData> [0..],
    }

    /// One topic's.
    TopicProduceData {
        name: Str [0..],
        partition_data: Few<PartitionProduceData> [0..],
    }

    /// One partition's.
    PartitionProduceData {
        index: i32 [0..],
        records: Records [0..],
    }

    /// The offsets of the batches.
    ProduceResponse {
        responses: Few<TopicProduceResponse> [0..],
        throttle_time_ms: i32 [1..],
    }

    /// One topic's.
    TopicProduceResponse {
        name: Str [0..],
        partition_responses: Few<PartitionProduceResponse> [0..],
    }

    /// One partition's.
    PartitionProduceResponse {
        index: i32 [0..],
        error_code: ErrorCode [0..],
        base_offset: i64 [0..],
        /// -1 unless the topic's timestamps are the broker's.
        log_append_time_ms: i64 [2..] = -1,
        log_start_offset: i64 [5..] = -1,
        record_errors: Vec<BatchIndexAndErrorMessage> [8..],
        error_message: Option<Str> [8..],
    }

    /// A record for which its batch was refused (KIP-467).
    BatchIndexAndErrorMessage {
        batch_index: i32 [8..],
        batch_index_error_message: Option<Str> [8..],
    }
}
