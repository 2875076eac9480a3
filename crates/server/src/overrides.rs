//! What a topic sets differently from the server's defaults: Kafka's topic-level names, values as text.
//!
//! Kept in the registry of topics.

use std::collections::BTreeMap;

use penstock_storage::LogConfig;
use serde::{Deserialize, Serialize};

use crate::settings::set_log_config;

/// One topic's own configuration, under Kafka's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Overrides(BTreeMap<String, String>);

impl Overrides {
    /// Sets one value.
    ///
    /// # Errors
    /// The name is unknown or the value does not fit; in words for the one who asked.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match set_log_config(&mut LogConfig::default(), key, value) {
            Ok(Some(())) => {
                self.0.insert(key.to_owned(), value.to_owned());
                Ok(())
            }
            Ok(None) => Err(format!("unknown topic config `{key}`")),
            Err(reason) => Err(format!("topic config `{key}`: `{value}` {reason}")),
        }
    }

    /// Takes a value over from a Kafka: it is kept, also where this server could not take it from a client.
    pub(crate) fn adopt(&mut self, key: &str, value: &str) {
        self.0.insert(key.to_owned(), value.to_owned());
    }

    /// Back to the default.
    pub(crate) fn unset(&mut self, key: &str) {
        self.0.remove(key);
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
            // Checked when it was set; a file edited by hand is checked when it is opened.
            let _ = set_log_config(&mut config, key, value);
        }
        config
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

    #[test]
    fn an_unknown_name_is_refused() {
        let error = Overrides::default().set("segment.byte", "1").unwrap_err();
        assert!(error.contains("segment.byte"), "{error}");
    }
}
