//! Every setting, from flags over environment over file.
//!
//! Every setting has one key. In the file the key stands as it is (`log.segment.bytes = 1048576`,
//! or in tables, which is the same to TOML). In the environment it is `PENSTOCK_` and the key in
//! capitals with underscores. On the command line it has a flag of its own or goes by `--set
//! KEY=VALUE`. Keys that Apache Kafka has bear Kafka's names. An unknown key is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use penstock_storage::LogConfig;

use crate::config::cold_budget::{self, ColdBudget};
use crate::config::durability::Durability;
use crate::config::fetch_path::FetchPath;
use crate::config::limits;
use penstock_coordinator::GroupLimits;

pub(crate) use keys::KEYS;
use keys::{ENVIRONMENT_PREFIX, NOT_SETTINGS, environment_name, nearest};
pub(crate) use log_config::set_log_config;
use parse::{host_and_port, milliseconds, number, socket_address, truth};

mod keys;
mod log_config;
mod parse;
#[cfg(test)]
mod tests;
mod values;

/// The whole configuration of `penstock serve`.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where the partitions live.
    pub(crate) data_dir: PathBuf,
    /// Where the server listens.
    pub(crate) listen: SocketAddr,
    /// The address that clients connect to; the listen address if absent.
    pub(crate) advertise: Option<(String, u16)>,
    /// Worker threads, each with its own ring.
    pub(crate) workers: usize,
    /// What an acknowledgement promises.
    pub(crate) durability: Durability,
    /// How record bytes go out.
    pub(crate) fetch_path: FetchPath,
    /// Where /metrics, /healthz, /readyz and the live page answer.
    pub(crate) metrics: Option<SocketAddr>,
    /// Partitions of a topic that is created without a number.
    pub(crate) num_partitions: i32,
    /// Whether asking for an unknown topic creates it.
    pub(crate) auto_create_topics: bool,
    /// Defaults of every topic.
    pub(crate) log: LogConfig,
    /// How often appended records are synced, so that a start after a crash need not read them.
    pub(crate) checkpoint_interval: Duration,
    /// How fast sealed segments are read to find damage; 0: never.
    pub(crate) scrub_bytes_per_second: u64,
    /// How often retention runs.
    pub(crate) retention_check_interval: Duration,
    /// The largest frame taken.
    pub(crate) frame_max_bytes: u32,
    /// The largest fetch answer, in record bytes.
    pub(crate) fetch_max_bytes: u64,
    /// Whether cold ranges leave the page cache behind their reader.
    pub(crate) fetch_drop_behind: bool,
    /// Bytes that all fetches together may read from the disk in a second; 0: any number.
    pub(crate) cold_bytes_per_second: u64,
    /// The same by client id and by group.
    pub(crate) cold_budgets: Vec<ColdBudget>,
    /// The p99 that hot fetches keep, whatever is read from the disk.
    pub(crate) hot_p99_target: Option<Duration>,
    /// Request bytes of all connections in memory at once.
    pub(crate) requests_in_flight_max_bytes: u32,
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// The largest frame that is received without a share of those bytes. Not a key.
    pub(crate) receive_free_bytes: usize,
    /// Memory of all answers in the making. Not a key.
    pub(crate) answers_in_flight_max_bytes: usize,
    /// Memory of one answer beside its records. Not a key.
    pub(crate) answer_max_bytes: usize,
    /// A connection without a request for this long is closed.
    pub(crate) connection_idle_max: Duration,
    /// The time from a frame's first byte to its last.
    pub(crate) frame_timeout: Duration,
    /// A peer must take some of its answer within this time.
    pub(crate) send_timeout: Duration,
    /// SO_SNDBUF of every connection; none: the kernel tunes it.
    pub(crate) send_buffer_bytes: Option<usize>,
    /// Free disk space below which produce is refused.
    pub(crate) disk_reserve_bytes: u64,
    /// Free share of the disk, in percent, below which produce is refused.
    pub(crate) disk_reserve_percent: u64,
    /// Bounds of consumer groups.
    pub(crate) groups: GroupLimits,
    /// How long a stop may take.
    pub(crate) drain_timeout: Duration,
    /// Keys that an operator has set, even if to their default.
    pub(crate) explicit: BTreeSet<&'static str>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            data_dir: PathBuf::from("./penstock-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 9092)),
            advertise: None,
            workers: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            durability: Durability::Os,
            fetch_path: FetchPath::Auto,
            metrics: None,
            num_partitions: 1,
            auto_create_topics: true,
            log: LogConfig { max_message_bytes: limits::BATCH_MAX_BYTES, ..LogConfig::default() },
            checkpoint_interval: Duration::from_secs(60),
            scrub_bytes_per_second: 0,
            retention_check_interval: Duration::from_secs(300),
            frame_max_bytes: limits::FRAME_MAX_BYTES,
            fetch_max_bytes: limits::FETCH_MAX_BYTES,
            fetch_drop_behind: true,
            cold_bytes_per_second: 0,
            cold_budgets: Vec::new(),
            hot_p99_target: None,
            requests_in_flight_max_bytes: limits::REQUESTS_IN_FLIGHT_MAX_BYTES,
            connections_max: limits::connections_max(),
            receive_free_bytes: limits::RECEIVE_FREE_BYTES,
            answers_in_flight_max_bytes: limits::ANSWERS_IN_FLIGHT_MAX_BYTES,
            answer_max_bytes: limits::ANSWER_MAX_BYTES,
            connection_idle_max: Duration::from_secs(600),
            frame_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(30),
            send_buffer_bytes: Some(limits::SEND_BUFFER_BYTES),
            disk_reserve_bytes: limits::DISK_RESERVE_BYTES,
            disk_reserve_percent: limits::DISK_RESERVE_PERCENT,
            groups: GroupLimits::default(),
            drain_timeout: Duration::from_secs(30),
            explicit: BTreeSet::new(),
        }
    }
}

/// Why a setting is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingError {
    /// No setting has this key.
    #[error("unknown setting `{key}`{}", nearest(.key))]
    Unknown {
        /// As it was written.
        key: String,
    },
    /// The value does not fit the key.
    #[error("setting `{key}`: `{value}` {reason}")]
    Value {
        /// The key.
        key: String,
        /// As it was written.
        value: String,
        /// Why not.
        reason: String,
    },
    /// Two settings contradict each other.
    #[error(
        "group.min.session.timeout.ms is {min_ms} and group.max.session.timeout.ms only {max_ms}"
    )]
    NoSessionFits {
        /// The shortest session.
        min_ms: u64,
        /// The longest session.
        max_ms: u64,
    },
    /// Two settings contradict each other.
    #[error(
        "socket.request.max.bytes is {frame_bytes} and queued.max.request.bytes only {all_bytes}"
    )]
    NoFrameFits {
        /// The largest request.
        frame_bytes: u32,
        /// All requests together.
        all_bytes: u32,
    },
    /// The file is not TOML.
    #[error("the configuration file is not TOML: {0}")]
    NotToml(#[from] Box<toml::de::Error>),
}

impl Settings {
    /// Takes every key of a TOML file's text.
    ///
    /// # Errors
    /// Not TOML, an unknown key, a value that does not fit.
    pub(crate) fn set_from_toml(&mut self, text: &str) -> Result<(), SettingError> {
        let table: toml::Table = text.parse().map_err(Box::new)?;
        let mut flat = BTreeMap::new();
        flatten("", &toml::Value::Table(table), &mut flat);
        flat.iter().try_for_each(|(key, value)| self.set(key, value))
    }

    /// Takes every key that the environment has as `PENSTOCK_…`.
    ///
    /// # Errors
    /// An unknown name with that prefix, a value that does not fit.
    pub(crate) fn set_from_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), SettingError> {
        for (name, value) in variables {
            let Some(name) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let known = KEYS.iter().find(|(key, _)| environment_name(key) == name);
            match known {
                Some((key, _)) => self.set(key, &value)?,
                None if NOT_SETTINGS.contains(&name) => {}
                None => {
                    return Err(SettingError::Unknown {
                        key: format!("{ENVIRONMENT_PREFIX}{name}"),
                    });
                }
            }
        }
        Ok(())
    }

    /// Takes one key.
    ///
    /// # Errors
    /// An unknown key, a value that does not fit.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), SettingError> {
        let wrong = |reason: String| SettingError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            reason,
        };
        self.assign(key, value)
            .map_err(wrong)?
            .ok_or_else(|| SettingError::Unknown { key: key.to_owned() })?;
        self.explicit.extend(KEYS.iter().map(|(known, _)| *known).find(|known| *known == key));
        Ok(())
    }

    /// Checks relations between settings; called when all are set.
    ///
    /// # Errors
    /// Settings that contradict each other.
    pub(crate) fn check(&self) -> Result<(), SettingError> {
        let (min_ms, max_ms) = (self.groups.min_session_ms, self.groups.max_session_ms);
        if min_ms > max_ms {
            return Err(SettingError::NoSessionFits { min_ms, max_ms });
        }
        let (frame_bytes, all_bytes) = (self.frame_max_bytes, self.requests_in_flight_max_bytes);
        if frame_bytes > all_bytes && self.explicit.contains("socket.request.max.bytes") {
            return Err(SettingError::NoFrameFits { frame_bytes, all_bytes });
        }
        Ok(())
    }

    fn assign(&mut self, key: &str, value: &str) -> Result<Option<()>, String> {
        match key {
            "data-dir" => self.data_dir = PathBuf::from(value),
            "listen" => self.listen = socket_address(value)?,
            "advertise" => self.advertise = Some(host_and_port(value)?),
            "workers" => self.workers = number(value, 1..=1024)?,
            "durability" => self.durability = value.parse()?,
            "fetch-path" => self.fetch_path = value.parse()?,
            "metrics" => self.metrics = Some(socket_address(value)?),
            "num.partitions" => {
                self.num_partitions = number(value, 1..=limits::PARTITIONS_PER_REQUEST_MAX)?;
            }
            "auto.create.topics.enable" => self.auto_create_topics = truth(value)?,
            "log.segment.bytes" => return self.assign_log("segment.bytes", value),
            "log.roll.ms" => return self.assign_log("segment.ms", value),
            "log.retention.ms" => return self.assign_log("retention.ms", value),
            "log.retention.bytes" => return self.assign_log("retention.bytes", value),
            "log.flush.interval.messages" => return self.assign_log("flush.messages", value),
            "log.flush.interval.ms" => return self.assign_log("flush.ms", value),
            "message.max.bytes" => return self.assign_log("max.message.bytes", value),
            "log.message.timestamp.type" => {
                return self.assign_log("message.timestamp.type", value);
            }
            "log.message.timestamp.before.max.ms" => {
                return self.assign_log("message.timestamp.before.max.ms", value);
            }
            "log.message.timestamp.after.max.ms" => {
                return self.assign_log("message.timestamp.after.max.ms", value);
            }
            "penstock.verify.compressed" => return self.assign_log(key, value),
            "log.retention.check.interval.ms" => {
                self.retention_check_interval = milliseconds(value, 1)?;
            }
            "flush.checkpoint.interval.ms" => self.checkpoint_interval = milliseconds(value, 1)?,
            "scrub.bytes.per.second" => self.scrub_bytes_per_second = number(value, 0..=1 << 40)?,
            "socket.request.max.bytes" => {
                self.frame_max_bytes = number(value, 1024..=limits::FRAME_MAX_BYTES)?;
            }
            "fetch.max.bytes" => {
                self.fetch_max_bytes = number(value, 1024..=i32::MAX as u64 / 2)?;
            }
            "fetch.drop.behind" => self.fetch_drop_behind = truth(value)?,
            "fetch.cold.bytes.per.second" => {
                self.cold_bytes_per_second = number(value, 0..=1 << 40)?;
            }
            "fetch.cold.budgets" => self.cold_budgets = cold_budget::parse(value)?,
            "fetch.hot.p99.target.ms" => {
                let ms: u64 = number(value, 0..=60_000)?;
                self.hot_p99_target = (ms > 0).then(|| Duration::from_millis(ms));
            }
            "queued.max.request.bytes" => {
                self.requests_in_flight_max_bytes =
                    number(value, limits::REQUESTS_IN_FLIGHT_LEAST_BYTES..=u32::MAX / 8)?;
            }
            "max.connections" => self.connections_max = number(value, 1..=10_000_000)?,
            "connections.max.idle.ms" => self.connection_idle_max = milliseconds(value, 1)?,
            "frame.timeout.ms" => self.frame_timeout = milliseconds(value, 1)?,
            "send.timeout.ms" => self.send_timeout = milliseconds(value, 1)?,
            "socket.send.buffer.bytes" => {
                let bytes: i64 = number(value, -1..=1 << 30)?;
                self.send_buffer_bytes = usize::try_from(bytes).ok();
            }
            "disk.reserve.bytes" => self.disk_reserve_bytes = number(value, 0..=u64::MAX)?,
            "disk.reserve.percent" => self.disk_reserve_percent = number(value, 0..=99)?,
            "group.initial.rebalance.delay.ms" => {
                self.groups.initial_delay_ms = number(value, 0..=60_000)?;
            }
            "group.min.session.timeout.ms" => {
                self.groups.min_session_ms = number(value, 1..=i32::MAX as u64)?;
            }
            "group.max.session.timeout.ms" => {
                self.groups.max_session_ms = number(value, 1..=i32::MAX as u64)?;
            }
            "group.max.size" => self.groups.max_members = number(value, 1..=100_000)?,
            "drain.timeout.ms" => self.drain_timeout = milliseconds(value, 0)?,
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    fn assign_log(&mut self, key: &str, value: &str) -> Result<Option<()>, String> {
        set_log_config(&mut self.log, key, value)
    }

    /// The address that clients connect to.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> (String, u16) {
        match &self.advertise {
            Some((host, port)) => (host.clone(), *port),
            // A wildcard is an address to listen on, not one to connect to. The default is right
            // for clients on this host.
            None if bound.ip().is_unspecified() => ("localhost".to_owned(), bound.port()),
            None => (bound.ip().to_string(), bound.port()),
        }
    }
}

fn flatten(prefix: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, into);
            }
        }
        toml::Value::String(text) => drop(into.insert(prefix.to_owned(), text.clone())),
        other => drop(into.insert(prefix.to_owned(), other.to_string())),
    }
}
