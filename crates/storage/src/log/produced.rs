//! A batch as a producer sent it, checked before any lock is taken. Pure.
//!
//! ```text
//!   bytes ──▶ one batch? ──▶ size, CRC ──▶ header ──▶ records ──▶ their times ──▶ ProducedBatch
//!                                                       └ compressed: how they begin; the rest
//!                                                         by check_decompressed
//! ```
//!
//! A batch that consumers cannot read stops each of them at it for ever, so everything that can be
//! known is checked. The greatest timestamp and the timestamp type are the broker's to set,
//! whatever the producer's header claims; `header` is the one that will be stored.

use bytes::Bytes;
use penstock_batch::{
    BatchError, BatchHeader, CheckedRecords, Codec, HEADER_LEN, Moment, TimestampType, check_crc,
    check_records,
};

use crate::{log::compressed, log_config::LogConfig};

#[cfg(test)]
mod tests;

/// What a log accepts at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The largest batch, in bytes with its header.
    pub max_message_bytes: usize,
    /// Whose clock the timestamps show.
    pub timestamp_type: TimestampType,
    /// How far before now a producer's timestamp may lie.
    pub timestamp_before_max_ms: i64,
    /// How far ahead of now a producer's timestamp may lie.
    pub timestamp_after_max_ms: i64,
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// Whether the producer speaks a version that has zstd (Produce 7, KIP-110).
    pub takes_zstd: bool,
}

/// One whole, sound batch, not yet given offsets.
#[derive(Debug)]
pub struct ProducedBatch {
    pub(crate) bytes: Bytes,
    /// The header as it will be stored, except for its place in the log.
    pub(crate) header: BatchHeader,
    /// `header` has another greatest timestamp or timestamp type than `bytes`.
    pub(crate) is_restamped: bool,
    /// The greatest timestamp was found in the records.
    pub(crate) is_checked: bool,
}

/// Why a producer's batch is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// Kafka's CORRUPT_MESSAGE.
    #[error(transparent)]
    Corrupt(BatchError),
    /// Kafka's MESSAGE_TOO_LARGE.
    #[error("the batch has {len_bytes} bytes, at most {max_bytes} are allowed")]
    TooLarge {
        /// Its size.
        len_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// Kafka's INVALID_RECORD.
    #[error("{0}")]
    Invalid(&'static str),
    /// Kafka's INVALID_RECORD: the records contradict the header, or cannot be read.
    #[error(transparent)]
    Record(BatchError),
    /// Kafka's INVALID_TIMESTAMP.
    #[error(
        "record {}: timestamp {} is not from {earliest_ms} to {latest_ms}",
        .moment.index, .moment.timestamp_ms
    )]
    Timestamp {
        /// The record and its timestamp; of a compressed batch, the first record.
        moment: Moment,
        /// The earliest timestamp accepted.
        earliest_ms: i64,
        /// The latest timestamp accepted.
        latest_ms: i64,
    },
    /// Kafka's INVALID_TIMESTAMP.
    #[error("a producer does not set the timestamp type LogAppendTime")]
    TimestampType,
    /// Kafka's TRANSACTIONAL_ID_AUTHORIZATION_FAILED.
    #[error("a transactional batch without a transaction")]
    Transactional,
    /// Kafka's UNSUPPORTED_COMPRESSION_TYPE.
    #[error("zstd needs version 7 of Produce")]
    ZstdTooEarly,
    /// Kafka's UNSUPPORTED_FOR_MESSAGE_FORMAT.
    #[error("the batch has magic {magic}; only 2 is kept")]
    UnsupportedMagic {
        /// The format it claims.
        magic: i8,
    },
}

impl ProduceError {
    /// The record for which the batch is refused, counted from 0, if it is one record.
    pub fn record_index(&self) -> Option<i32> {
        match self {
            ProduceError::Record(BatchError::Record { index, .. }) => Some(*index),
            ProduceError::Timestamp { moment, .. } => Some(moment.index),
            _ => None,
        }
    }
}

impl LogConfig {
    /// What a log with this configuration accepts from a producer.
    pub fn terms(&self, now_ms: i64, takes_zstd: bool) -> Terms {
        Terms {
            max_message_bytes: self.max_message_bytes,
            timestamp_type: self.timestamp_type,
            timestamp_before_max_ms: self.timestamp_before_max_ms,
            timestamp_after_max_ms: self.timestamp_after_max_ms,
            now_ms,
            takes_zstd,
        }
    }
}

impl ProducedBatch {
    /// Checks everything that can be known without the log and without decompressing.
    pub fn validate(bytes: Bytes, terms: &Terms) -> Result<ProducedBatch, ProduceError> {
        let header = the_only_batch(&bytes)?;
        if bytes.len() > terms.max_message_bytes {
            let (len_bytes, max_bytes) = (bytes.len(), terms.max_message_bytes);
            return Err(ProduceError::TooLarge { len_bytes, max_bytes });
        }
        check_crc(&bytes).map_err(ProduceError::Corrupt)?;
        if header.is_transactional() {
            return Err(ProduceError::Transactional);
        }
        if let Some(what) = complaint(&header) {
            return Err(ProduceError::Invalid(what));
        }
        if header.codec() == Some(Codec::Zstd) && !terms.takes_zstd {
            return Err(ProduceError::ZstdTooEarly);
        }
        terms.check_type(&header)?;
        let mut batch = ProducedBatch { bytes, header, is_restamped: false, is_checked: false };
        match header.codec() {
            Some(Codec::None) => {
                let checked = check_records(&batch.header, &batch.bytes[HEADER_LEN..]);
                batch.take_records(checked, terms)?;
            }
            Some(codec) => batch.take_unread(codec, terms)?,
            None => return Err(ProduceError::Invalid("the compression codec is unknown")),
        }
        Ok(batch)
    }

    /// The records as they came, and their codec. `None`: they are not compressed, and have been
    /// checked.
    pub fn compressed(&self) -> Option<(Codec, Bytes)> {
        let codec = self.header.codec().filter(|codec| *codec != Codec::None)?;
        Some((codec, self.bytes.slice(HEADER_LEN..)))
    }

    /// Checks records that the caller has decompressed, as if they had come uncompressed.
    pub fn check_decompressed(
        &mut self,
        records: &[u8],
        terms: &Terms,
    ) -> Result<(), ProduceError> {
        self.take_records(check_records(&self.header, records), terms)
    }

    /// Bytes of the batch.
    pub fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Records in it, 1 or more.
    pub fn record_count(&self) -> i64 {
        self.header.record_count.into()
    }

    /// The producer's id; `None` if it is not idempotent.
    pub(crate) fn producer_id(&self) -> Option<i64> {
        Some(self.header.producer_id).filter(|id| *id >= 0)
    }

    fn take_records(
        &mut self,
        checked: Result<CheckedRecords, BatchError>,
        terms: &Terms,
    ) -> Result<(), ProduceError> {
        let checked = checked.map_err(ProduceError::Record)?;
        terms.check_times(&checked)?;
        self.stamp(checked.max_timestamp_ms());
        self.is_checked = true;
        Ok(())
    }

    /// Compressed records are known by the header's claims alone. An impossible timestamp becomes
    /// the time of the append. A look-up by time then finds too much rather than too little, and
    /// nothing expires early.
    fn take_unread(&mut self, codec: Codec, terms: &Terms) -> Result<(), ProduceError> {
        if !compressed::begins_as(codec, &self.bytes[HEADER_LEN..]) {
            return Err(ProduceError::Invalid("the records do not begin as their codec does"));
        }
        let BatchHeader { base_timestamp, max_timestamp, record_count, .. } = self.header;
        if !compressed::can_hold(codec, self.bytes.len() - HEADER_LEN, record_count) {
            return Err(ProduceError::Invalid("so few bytes cannot hold so many records"));
        }
        let moment = |timestamp_ms| Some(Moment { timestamp_ms, index: 0 });
        let claimed = moment(max_timestamp).filter(|_| max_timestamp >= base_timestamp);
        terms.check_times(&CheckedRecords {
            earliest: moment(base_timestamp).filter(|_| base_timestamp != NO_TIMESTAMP),
            latest: claimed.filter(|_| max_timestamp != NO_TIMESTAMP),
        })?;
        self.stamp(match claimed {
            Some(_) => max_timestamp,
            None => terms.now_ms.max(base_timestamp),
        });
        Ok(())
    }

    /// Sets the greatest timestamp and the type in the stored header. With LogAppendTime the append
    /// itself overrides them.
    fn stamp(&mut self, max_timestamp: i64) {
        let stamped = BatchHeader { max_timestamp, ..self.header };
        let stamped = stamped.with_timestamp_type(TimestampType::CreateTime);
        self.is_restamped |= stamped != self.header;
        self.header = stamped;
    }
}

/// Kafka's value for "this record has no timestamp".
const NO_TIMESTAMP: i64 = -1;

impl Terms {
    /// As Kafka: a wrong type is overridden where producers' timestamps count, and refused where
    /// they do not.
    fn check_type(&self, header: &BatchHeader) -> Result<(), ProduceError> {
        let is_broker_time = self.timestamp_type == TimestampType::LogAppendTime;
        match header.timestamp_type() {
            TimestampType::LogAppendTime if is_broker_time => Err(ProduceError::TimestampType),
            _ => Ok(()),
        }
    }

    fn check_times(&self, records: &CheckedRecords) -> Result<(), ProduceError> {
        if self.timestamp_type == TimestampType::LogAppendTime {
            return Ok(());
        }
        let earliest_ms = self.now_ms.saturating_sub(self.timestamp_before_max_ms).max(0);
        let latest_ms = self.now_ms.saturating_add(self.timestamp_after_max_ms);
        let is_out = |moment: &Moment| !(earliest_ms..=latest_ms).contains(&moment.timestamp_ms);
        match [records.earliest, records.latest].into_iter().flatten().find(is_out) {
            Some(moment) => Err(ProduceError::Timestamp { moment, earliest_ms, latest_ms }),
            None => Ok(()),
        }
    }
}

/// The header of the batch that fills `bytes`.
fn the_only_batch(bytes: &[u8]) -> Result<BatchHeader, ProduceError> {
    if bytes.is_empty() {
        return Err(ProduceError::Invalid("no batch was sent"));
    }
    let header = BatchHeader::parse(bytes).map_err(|error| match error {
        BatchError::Magic { magic: magic @ 0..=1 } => ProduceError::UnsupportedMagic { magic },
        error => ProduceError::Corrupt(error),
    })?;
    let (have_bytes, need_bytes) = (bytes.len(), header.len_bytes());
    if have_bytes < need_bytes {
        return Err(ProduceError::Corrupt(BatchError::Incomplete { have_bytes, need_bytes }));
    }
    if have_bytes > need_bytes {
        return Err(ProduceError::Invalid("one batch is taken at a time: more follows the first"));
    }
    Ok(header)
}

/// Why Kafka would call the batch an invalid record.
fn complaint(header: &BatchHeader) -> Option<&'static str> {
    let count = header.record_count;
    let numbered = header.producer_epoch >= 0 && header.base_sequence >= 0;
    if count == 0 || i64::from(count) != i64::from(header.last_offset_delta) + 1 {
        Some("the record count and the last offset delta do not agree")
    } else if header.is_control() {
        Some("producers do not write control batches")
    } else if header.producer_id >= 0 && !numbered {
        Some("a producer id comes without epoch or sequence")
    } else {
        None
    }
}
