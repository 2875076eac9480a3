//! InitProducerId (22): a producer id for idempotence.

use crate::schema::schema;
use crate::{ErrorCode, Str};

schema! {
    /// Asks for a producer id.
    InitProducerIdRequest {
        transactional_id: Option<Str> [0..],
        transaction_timeout_ms: i32 [0..],
        producer_id: i64 [3..] = -1,
        producer_epoch: i16 [3..] = -1,
    }

    /// The producer id.
    InitProducerIdResponse {
        throttle_time_ms: i32 [0..],
        error_code: ErrorCode [0..],
        producer_id: i64 [0..] = -1,
        producer_epoch: i16 [0..],
    }
}
