//! The value of every setting as text, for DescribeConfigs of the server.
//!
//! The counterpart of [`Settings::set`](super::Settings::set), which accepts each of these texts.

use std::time::Duration;

use penstock_storage::{LogConfig, TimestampType};

use super::{Settings, cold_budget};

/// Kafka's "never" where there is no other word.
const FOREVER: i64 = i64::MAX;

impl Settings {
    /// The value of a key. `None`: an unknown key, or one that is not set and has no default.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        let address = |(host, port): &(String, u16)| format!("{host}:{port}");
        let text = match key {
            "data-dir" => self.data_dir.display().to_string(),
            "listen" => self.listen.to_string(),
            "advertise" => self.advertise.as_ref().map(address)?,
            "workers" => self.workers.to_string(),
            "durability" => self.durability.to_string(),
            "fetch-path" => self.fetch_path.to_string(),
            "metrics" => self.metrics?.to_string(),
            "num.partitions" => self.num_partitions.to_string(),
            "auto.create.topics.enable" => self.auto_create_topics.to_string(),
            "log.retention.check.interval.ms" => milliseconds(self.retention_check_interval),
            "flush.checkpoint.interval.ms" => milliseconds(self.checkpoint_interval),
            "scrub.bytes.per.second" => self.scrub_bytes_per_second.to_string(),
            "socket.request.max.bytes" => self.frame_max_bytes.to_string(),
            "fetch.max.bytes" => self.fetch_max_bytes.to_string(),
            "fetch.drop.behind" => self.fetch_drop_behind.to_string(),
            "fetch.cold.bytes.per.second" => self.cold_bytes_per_second.to_string(),
            "fetch.cold.budgets" => cold_budget::text(&self.cold_budgets),
            "fetch.hot.p99.target.ms" => milliseconds(self.hot_p99_target.unwrap_or_default()),
            "queued.max.request.bytes" => self.requests_in_flight_max_bytes.to_string(),
            "max.connections" => self.connections_max.to_string(),
            "connections.max.idle.ms" => milliseconds(self.connection_idle_max),
            "frame.timeout.ms" => milliseconds(self.frame_timeout),
            "send.timeout.ms" => milliseconds(self.send_timeout),
            "socket.send.buffer.bytes" => or(self.send_buffer_bytes, -1),
            "disk.reserve.bytes" => self.disk_reserve_bytes.to_string(),
            "disk.reserve.percent" => self.disk_reserve_percent.to_string(),
            "group.initial.rebalance.delay.ms" => self.groups.initial_delay_ms.to_string(),
            "group.min.session.timeout.ms" => self.groups.min_session_ms.to_string(),
            "group.max.session.timeout.ms" => self.groups.max_session_ms.to_string(),
            "group.max.size" => self.groups.max_members.to_string(),
            "drain.timeout.ms" => milliseconds(self.drain_timeout),
            _ => return of_logs(&self.log, key),
        };
        Some(text)
    }
}

/// Defaults of topics, under the broker's names.
fn of_logs(config: &LogConfig, key: &str) -> Option<String> {
    let text = match key {
        "log.segment.bytes" => config.segment_bytes.to_string(),
        "log.roll.ms" => config.segment_ms.to_string(),
        "log.retention.ms" => or(config.retention_ms, -1),
        "log.retention.bytes" => or(config.retention_bytes, -1),
        "log.flush.interval.messages" => or(config.flush_messages, FOREVER),
        "log.flush.interval.ms" => or(config.flush_ms, FOREVER),
        "log.message.timestamp.before.max.ms" => config.timestamp_before_max_ms.to_string(),
        "log.message.timestamp.after.max.ms" => config.timestamp_after_max_ms.to_string(),
        "penstock.verify.compressed" => config.verify_compressed.to_string(),
        "message.max.bytes" => config.max_message_bytes.to_string(),
        "log.message.timestamp.type" => match config.timestamp_type {
            TimestampType::CreateTime => "CreateTime".to_owned(),
            TimestampType::LogAppendTime => "LogAppendTime".to_owned(),
        },
        _ => return None,
    };
    Some(text)
}

fn milliseconds(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn or(number: Option<impl ToString>, none: i64) -> String {
    number.map_or_else(|| none.to_string(), |number| number.to_string())
}
