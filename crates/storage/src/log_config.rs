//! The configuration of a log, under Kafka's names and with Kafka's defaults.

pub use penstock_batch::TimestampType;

/// Sizes and times of one partition's log. The server fills it from topic and server configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment rolls before it would outgrow this. At most `i32::MAX`, because
    /// the index keeps positions in 31 bits; larger values are treated as that.
    pub segment_bytes: u64,
    /// `segment.ms`: a segment rolls when it has been filled for this long.
    pub segment_ms: i64,
    /// `retention.ms`: segments whose youngest record is older than this expire. `None` keeps them.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`: oldest segments expire while the log stays at least this large. `None`
    /// keeps them.
    pub retention_bytes: Option<u64>,
    /// `max.message.bytes`: the largest batch a producer may send, in bytes with its header.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`: whose clock the timestamps of records show. LogAppendTime is
    /// stamped into the batch headers when an append begins.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far before now a producer's timestamp may lie. With
    /// LogAppendTime neither this nor the next limit counts.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far ahead of now a producer's timestamp may lie. A
    /// timestamp further ahead keeps no segment from expiring.
    pub timestamp_after_max_ms: i64,
    /// `penstock.verify.compressed`: whether the caller decompresses what producers send, and lets
    /// `ProducedBatch::check_decompressed` look at the records. Storage itself never decompresses.
    pub verify_compressed: bool,
    /// `index.interval.bytes`: an index entry is due when more than this was appended since the
    /// last.
    pub index_interval_bytes: u64,
    /// `segment.index.bytes`: a segment rolls when one of its indexes has grown to this.
    pub index_max_bytes: u64,
    /// `flush.messages`: so many records are on the disk before the last of them is acknowledged.
    /// `None`: none is waited for. The writer of appends has to enforce it.
    pub flush_messages: Option<i64>,
    /// `flush.ms`: records are on the disk so long after they were appended. `None`: no limit. The
    /// caller that flushes logs has to enforce it.
    pub flush_ms: Option<i64>,
}

impl Default for LogConfig {
    fn default() -> Self {
        const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1000;
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: WEEK_MS,
            retention_ms: Some(WEEK_MS),
            retention_bytes: None,
            max_message_bytes: (1 << 20) + 12,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 60 * 60 * 1000,
            verify_compressed: false,
            index_interval_bytes: 4096,
            index_max_bytes: 10 << 20,
            flush_messages: None,
            flush_ms: None,
        }
    }
}
