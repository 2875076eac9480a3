//! What topics set differently from the server's defaults, and the file that keeps it.
//!
//! `<data-dir>/penstock-topics.toml`: one table a topic, Kafka's topic-level names, values as text. It is
//! replaced whole by rename, so a crash leaves the old or the new one.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use penstock_storage::LogConfig;

use crate::settings::set_log_config;

const FILE_NAME: &str = "penstock-topics.toml";

/// One topic's own configuration, under Kafka's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Overrides(BTreeMap<String, String>);

/// Every topic's, as it stands in the file.
#[derive(Debug)]
pub(crate) struct OverridesFile {
    path: PathBuf,
    topics: BTreeMap<String, Overrides>,
}

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

impl OverridesFile {
    /// Reads the file; none is the same as an empty one.
    ///
    /// # Errors
    /// It cannot be read, or says something that cannot be taken.
    pub(crate) fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join(FILE_NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let topics = parse(&text).with_context(|| format!("in {}", path.display()))?;
        Ok(OverridesFile { path, topics })
    }

    pub(crate) fn of(&self, topic: &str) -> Overrides {
        self.topics.get(topic).cloned().unwrap_or_default()
    }

    /// Keeps a topic's overrides; empty ones are forgotten. Blocks until they are on disk.
    ///
    /// # Errors
    /// The file cannot be replaced; then it and memory say what they said before.
    pub(crate) fn set(&mut self, topic: &str, overrides: Overrides) -> anyhow::Result<()> {
        if self.of(topic) == overrides {
            return Ok(());
        }
        let mut topics = self.topics.clone();
        if overrides.0.is_empty() {
            topics.remove(topic);
        } else {
            topics.insert(topic.to_owned(), overrides);
        }
        replace_file(&self.path, &text_of(&topics))
            .with_context(|| format!("cannot replace {}", self.path.display()))?;
        self.topics = topics;
        Ok(())
    }
}

fn parse(text: &str) -> anyhow::Result<BTreeMap<String, Overrides>> {
    let tables: BTreeMap<String, BTreeMap<String, String>> = toml::from_str(text)?;
    let mut topics = BTreeMap::new();
    for (topic, table) in tables {
        let mut overrides = Overrides::default();
        for (key, value) in table {
            let outcome = overrides.set(&key, &value);
            outcome.map_err(|reason| anyhow::anyhow!("topic {topic}: {reason}"))?;
        }
        topics.insert(topic, overrides);
    }
    Ok(topics)
}

fn text_of(topics: &BTreeMap<String, Overrides>) -> String {
    let tables: BTreeMap<&str, &BTreeMap<String, String>> =
        topics.iter().map(|(topic, overrides)| (topic.as_str(), &overrides.0)).collect();
    toml::to_string(&tables).expect("a map of maps of strings is TOML")
}

/// Replaces a small file of the data directory, so that a crash leaves the old or the new one. Blocks.
///
/// # Errors
/// The file system's; the old file is still there then.
pub(crate) fn replace_file(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_added_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let directory = path.parent().expect("the file is in the data directory");
    std::fs::File::open(directory)?.sync_all()
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
    fn what_was_set_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = OverridesFile::open(dir.path()).unwrap();
        let small = overrides(&[("segment.bytes", "4096"), ("retention.ms", "-1")]);
        file.set("a.b", small.clone()).unwrap();
        file.set("gone", overrides(&[("segment.ms", "5")])).unwrap();
        file.set("gone", Overrides::default()).unwrap();

        let again = OverridesFile::open(dir.path()).unwrap();
        assert_eq!(again.of("a.b"), small);
        assert_eq!(again.of("gone"), Overrides::default());
        let config = again.of("a.b").apply(&LogConfig::default());
        assert_eq!((config.segment_bytes, config.retention_ms), (4096, None));
    }

    #[test]
    fn an_unknown_name_in_the_file_is_an_error_not_a_default() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "[t]\n\"segment.byte\" = \"1\"\n").unwrap();
        let error = OverridesFile::open(dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("segment.byte"), "{error:#}");
    }
}
