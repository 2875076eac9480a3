//! A topic's own configuration: Kafka's topic-level names, values as text.
//!
//! Kept in the registry of topics.

use std::collections::BTreeMap;

use penstock_storage::LogConfig;
use serde::{Deserialize, Serialize};

use crate::broker::topic_config::{TopicConfig, list};
use crate::config::settings::set_log_config;

/// One topic's own configuration, under Kafka's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Overrides(BTreeMap<String, String>);

impl Overrides {
    /// Sets one value for a client.
    ///
    /// # Errors
    /// An unknown name, a value that does not fit, or one whose promise this server cannot keep; as
    /// a message for the client.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let config = TopicConfig::named(key);
        let config = config.ok_or_else(|| format!("unknown topic config `{key}`"))?;
        self.0.insert(key.to_owned(), config.take(value)?);
        Ok(())
    }

    /// Keeps any value that the topic brought along from a Kafka. It must not be lost, and a value
    /// without effect here is at least shown. Other values can still be set beside it.
    pub(crate) fn adopt(&mut self, key: &str, value: &str) {
        self.0.insert(key.to_owned(), value.to_owned());
    }

    /// Returns to the default.
    pub(crate) fn unset(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Checks relations between values; called when all are set.
    ///
    /// # Errors
    /// Values that contradict each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        let [least, most] = ["min.compaction.lag.ms", "max.compaction.lag.ms"].map(|key| {
            let default = TopicConfig::named(key).map(|config| config.default);
            self.get(key).or(default).and_then(|value| value.parse::<i64>().ok())
        });
        match (least, most) {
            (Some(least), Some(most)) if least > most => Err(format!(
                "topic config `min.compaction.lag.ms` is {least} and `max.compaction.lag.ms` only {most}"
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The defaults with these on top.
    pub(crate) fn apply(&self, defaults: &LogConfig) -> LogConfig {
        let mut config = defaults.clone();
        for (key, value) in self.iter() {
            // Checked when it was set. An adopted value that does not fit leaves the default.
            let _ = set_log_config(&mut config, key, value);
        }
        if let Some(value) = self.get("internal.segment.bytes") {
            let _ = set_log_config(&mut config, "segment.bytes", value);
        }
        if !self.may_expire() {
            (config.retention_ms, config.retention_bytes) = (None, None);
        }
        config
    }

    /// Whether retention may delete anything. A compacted topic is complete whatever its age, and
    /// the local part of a tiered topic is not the whole topic.
    fn may_expire(&self) -> bool {
        let policy = self.get("cleanup.policy").unwrap_or("delete");
        let is_tiered = self.get("remote.storage.enable").is_some_and(|value| value != "false");
        list(policy).any(|policy| policy == "delete") && !is_tiered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(pairs: &[(&str, &str)]) -> Overrides {
        let mut overrides = Overrides::default();
        for (key, value) in pairs {
            overrides.set(key, value).unwrap();
        }
        overrides
    }

    #[test]
    fn overrides_go_over_the_defaults() {
        let small = overrides(&[("segment.bytes", "4096"), ("retention.ms", "-1")]);
        let config = small.apply(&LogConfig::default());
        assert_eq!((config.segment_bytes, config.retention_ms), (4096, None));
    }

    /// A Kafka keeps the text of an admin client, and trims it when it reads.
    #[test]
    fn an_adopted_number_may_have_spaces() {
        let mut adopted = Overrides::default();
        adopted.adopt("retention.ms", " -1 ");
        assert_eq!(adopted.apply(&LogConfig::default()).retention_ms, None);
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let error = Overrides::default().set("segment.byte", "1").unwrap_err();
        assert!(error.contains("segment.byte"), "{error}");
    }

    #[test]
    fn what_was_adopted_stays_and_refuses_nothing_else() {
        let mut adopted = Overrides::default();
        let brought =
            [("cleanup.policy", "compact"), ("compression.type", "zstd"), ("new.in.5", "?")];
        brought.iter().for_each(|(key, value)| adopted.adopt(key, value));
        adopted.set("segment.ms", "1000").unwrap();
        assert!(adopted.set("cleanup.policy", "compact").is_err());
        brought.iter().for_each(|(key, value)| assert_eq!(adopted.get(key), Some(*value)));
        let config = adopted.apply(&LogConfig::default());
        assert_eq!((config.segment_ms, config.retention_ms), (1000, None));
    }

    #[test]
    fn retention_takes_nothing_unless_the_policy_says_so() {
        let retention_of = |key: &str, value: &str| {
            let mut brought = overrides(&[("retention.ms", "5"), ("retention.bytes", "7")]);
            brought.adopt(key, value);
            let config = brought.apply(&LogConfig::default());
            (config.retention_ms, config.retention_bytes)
        };
        for policy in ["delete", "compact,delete", " compact , delete "] {
            assert_eq!(retention_of("cleanup.policy", policy), (Some(5), Some(7)), "{policy}");
        }
        for policy in ["compact", "", "deleted"] {
            assert_eq!(retention_of("cleanup.policy", policy), (None, None), "{policy}");
        }
        assert_eq!(retention_of("remote.storage.enable", "true"), (None, None));
        assert_eq!(retention_of("remote.storage.enable", "false"), (Some(5), Some(7)));
    }

    #[test]
    fn what_a_topic_sets_reaches_its_logs() {
        let config = overrides(&[
            ("segment.bytes", "1048576"),
            ("internal.segment.bytes", "2048"),
            ("index.interval.bytes", "100"),
            ("segment.index.bytes", "800"),
            ("flush.messages", "1"),
            ("flush.ms", "2000"),
            ("max.message.bytes", "2147483647"),
        ])
        .apply(&LogConfig::default());
        assert_eq!((config.segment_bytes, config.index_interval_bytes), (2048, 100));
        assert_eq!((config.index_max_bytes, config.flush_messages), (800, Some(1)));
        assert_eq!((config.flush_ms, config.max_message_bytes), (Some(2000), 50 << 20));
        let never = overrides(&[("flush.messages", "9223372036854775807")]);
        assert_eq!(never.apply(&config).flush_messages, None);
    }

    #[test]
    fn lags_that_contradict_are_refused() {
        overrides(&[("min.compaction.lag.ms", "5"), ("max.compaction.lag.ms", "5")])
            .check()
            .unwrap();
        let words =
            overrides(&[("min.compaction.lag.ms", "6"), ("max.compaction.lag.ms", "5")]).check();
        assert!(words.unwrap_err().contains("only 5"));
    }
}
