//! Topic configurations that a log heeds, from text: for the server's defaults and for topics.

use penstock_storage::{LogConfig, TimestampType};

use super::parse::{number, truth};
use crate::config::limits;

/// Sets one topic configuration by Kafka's topic-level name. `Ok(None)`: an unknown name, or one
/// without effect on a log.
///
/// # Errors
/// Why the value does not fit.
pub(crate) fn set_log_config(
    config: &mut LogConfig,
    key: &str,
    value: &str,
) -> Result<Option<()>, String> {
    match key {
        "segment.bytes" => config.segment_bytes = number(value, 1024..=i32::MAX as u64)?,
        "segment.ms" => config.segment_ms = number(value, 1..=i64::MAX)?,
        "retention.ms" => {
            let ms: i64 = number(value, -1..=i64::MAX)?;
            config.retention_ms = (ms >= 0).then_some(ms);
        }
        "retention.bytes" => {
            let bytes: i64 = number(value, -1..=i64::MAX)?;
            config.retention_bytes = u64::try_from(bytes).ok();
        }
        "max.message.bytes" => {
            let bytes: usize = number(value, 0..=i32::MAX as usize)?;
            config.max_message_bytes = bytes.min(limits::FRAME_MAX_BYTES as usize / 2);
        }
        "message.timestamp.type" => {
            config.timestamp_type = match value {
                "CreateTime" => TimestampType::CreateTime,
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => return Err("is neither CreateTime nor LogAppendTime".to_owned()),
            };
        }
        "index.interval.bytes" => {
            config.index_interval_bytes = number(value, 0..=i32::MAX as u64)?;
        }
        "segment.index.bytes" => config.index_max_bytes = number(value, 4..=i32::MAX as u64)?,
        "flush.messages" => {
            let messages: i64 = number(value, 1..=i64::MAX)?;
            config.flush_messages = (messages < i64::MAX).then_some(messages);
        }
        "flush.ms" => {
            let ms: i64 = number(value, 0..=i64::MAX)?;
            config.flush_ms = (ms < i64::MAX).then_some(ms);
        }
        "message.timestamp.before.max.ms" => {
            config.timestamp_before_max_ms = number(value, 0..=i64::MAX)?;
        }
        "message.timestamp.after.max.ms" => {
            config.timestamp_after_max_ms = number(value, 0..=i64::MAX)?;
        }
        "penstock.verify.compressed" => config.verify_compressed = truth(value)?,
        _ => return Ok(None),
    }
    Ok(Some(()))
}
