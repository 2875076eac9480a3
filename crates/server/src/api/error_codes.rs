//! Kafka's error codes for this server's failures. Pure.

use penstock_storage::{AppendError, FindError, ProduceError};
use penstock_wire::ErrorCode;

use crate::broker::partition::ProduceFailure;
use crate::broker::read::ReadError;
use crate::broker::topics::{ChangeError, Unserved};

pub(crate) fn of_read(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::Find(FindError::OutOfRange { .. }) => ErrorCode::OFFSET_OUT_OF_RANGE,
        ReadError::Find(FindError::Corrupt { .. } | FindError::Damaged { .. }) => {
            ErrorCode::CORRUPT_MESSAGE
        }
        ReadError::Find(FindError::OldFormat { .. }) => ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
        ReadError::Find(FindError::Short { .. } | FindError::Io { .. })
        | ReadError::Disk { .. } => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}

pub(crate) fn of_unserved(why: Unserved) -> ErrorCode {
    match why {
        Unserved::Unknown => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        Unserved::Unopened => ErrorCode::KAFKA_STORAGE_ERROR,
        Unserved::Missing => ErrorCode::NOT_LEADER_OR_FOLLOWER,
    }
}

pub(crate) fn of_validation(error: &ProduceError) -> ErrorCode {
    match error {
        ProduceError::Corrupt(_) => ErrorCode::CORRUPT_MESSAGE,
        ProduceError::TooLarge { .. } => ErrorCode::MESSAGE_TOO_LARGE,
        ProduceError::Invalid(_) | ProduceError::Record(_) => ErrorCode::INVALID_RECORD,
        ProduceError::Timestamp { .. } | ProduceError::TimestampType => {
            ErrorCode::INVALID_TIMESTAMP
        }
        ProduceError::Transactional => ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ProduceError::ZstdTooEarly => ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
        ProduceError::UnsupportedMagic { .. } => ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
    }
}

pub(crate) fn of_produce(failure: &ProduceFailure) -> ErrorCode {
    match failure {
        ProduceFailure::Write(_)
        | ProduceFailure::NoRoom(_)
        | ProduceFailure::Roll(_)
        | ProduceFailure::GivenUp => ErrorCode::KAFKA_STORAGE_ERROR,
        ProduceFailure::Deleted => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ProduceFailure::Refused(refused) => match refused {
            AppendError::Offline => ErrorCode::KAFKA_STORAGE_ERROR,
            AppendError::Duplicate { .. } => ErrorCode::NONE,
            AppendError::OutOfOrderSequence { .. } => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
            AppendError::InvalidProducerEpoch { .. } => ErrorCode::INVALID_PRODUCER_EPOCH,
            AppendError::OffsetsExhausted { .. } => ErrorCode::KAFKA_STORAGE_ERROR,
        },
    }
}

pub(crate) fn of_change(error: &ChangeError) -> ErrorCode {
    match error {
        ChangeError::Exists => ErrorCode::TOPIC_ALREADY_EXISTS,
        ChangeError::Collides { .. } => ErrorCode::INVALID_TOPIC_EXCEPTION,
        ChangeError::Reserved => ErrorCode::INVALID_REQUEST,
        ChangeError::Unknown => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ChangeError::NotMore { .. } => ErrorCode::INVALID_PARTITIONS,
        ChangeError::Config(_) => ErrorCode::INVALID_CONFIG,
        ChangeError::Disk(_) => ErrorCode::KAFKA_STORAGE_ERROR,
    }
}

/// Checks the leader epoch that a client knows against the partition's (KIP-320). Negative: the
/// client knows none.
pub(crate) fn check_epoch(asked: i32, ours: i32) -> Result<(), ErrorCode> {
    match asked {
        ..0 => Ok(()),
        _ if asked < ours => Err(ErrorCode::FENCED_LEADER_EPOCH),
        _ if asked > ours => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_that_is_not_ours_is_told_apart() {
        assert_eq!(check_epoch(-1, 5), Ok(()));
        assert_eq!(check_epoch(5, 5), Ok(()));
        assert_eq!(check_epoch(4, 5), Err(ErrorCode::FENCED_LEADER_EPOCH));
        assert_eq!(check_epoch(6, 5), Err(ErrorCode::UNKNOWN_LEADER_EPOCH));
    }
}
