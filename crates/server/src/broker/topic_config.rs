//! Topic configurations: their names, their values, and the promises this server can keep.
//!
//! ```text
//!   a client sets one ──► in the table? ──► type and range? ──► can be promised? ──► kept
//!                          no: refused       no: refused        no: refused, in words
//! ```
//!
//! Called by overrides and by DescribeConfigs. Pure. Every config that Kafka knows is taken, kept
//! and described, also without effect here: scripts set many as a matter of course.

mod rule;
mod table;

use rule::Rule;
pub(crate) use rule::{Kind, list};

/// One configuration.
#[derive(Debug)]
pub(crate) struct TopicConfig {
    /// Kafka's topic-level name.
    pub(crate) name: &'static str,
    rule: Rule,
    /// The default that Kafka describes.
    pub(crate) default: &'static str,
    /// The broker's name for the default, if there is one.
    pub(crate) synonym: Option<Synonym>,
    /// Its meaning here, as a sentence.
    pub(crate) what: &'static str,
}

/// The broker's name for the default of a topic configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Synonym {
    pub(crate) name: &'static str,
    /// Whether Kafka describes a default of it.
    pub(crate) has_default: bool,
}

impl TopicConfig {
    /// `None`: Kafka does not know the name either.
    pub(crate) fn named(name: &str) -> Option<&'static TopicConfig> {
        let all = &table::TOPIC_CONFIGS;
        let at = all.binary_search_by(|config| config.name.cmp(name)).ok()?;
        Some(&all[at])
    }

    /// All configs that are described, by name. Kafka does not describe its internal ones.
    pub(crate) fn described() -> impl Iterator<Item = &'static TopicConfig> {
        table::TOPIC_CONFIGS.iter().filter(|config| !config.name.starts_with("internal."))
    }

    pub(crate) fn kind(&self) -> Kind {
        self.rule.kind()
    }

    /// The text kept for a client's value.
    ///
    /// # Errors
    /// The value does not fit, or promises something that this server cannot keep; as a message for
    /// the client.
    pub(crate) fn take(&self, value: &str) -> Result<String, String> {
        let refused = |reason: &str| format!("topic config `{}`: `{value}` {reason}", self.name);
        let value = self.rule.read(value).map_err(|reason| refused(&reason))?;
        match self.broken_promise(&value) {
            Some(reason) => Err(refused(reason)),
            None => Ok(value),
        }
    }

    fn broken_promise(&self, value: &str) -> Option<&'static str> {
        match self.name {
            "cleanup.policy" if list(value).any(|policy| policy == "compact") => {
                Some("is not supported: there is no compaction, the policy is delete or empty")
            }
            "compression.type" if value != "producer" => {
                Some("is not supported: batches stay as the producer made them")
            }
            "remote.storage.enable" if value == "true" => {
                Some("is not supported: there is no remote storage")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_name_and_takes_its_own_default() {
        for config in &table::TOPIC_CONFIGS {
            assert!(
                std::ptr::eq(TopicConfig::named(config.name).unwrap(), config),
                "{}",
                config.name
            );
            if config.name != "internal.segment.bytes" {
                assert_eq!(config.take(config.default).as_deref(), Ok(config.default));
            }
        }
        let kafkas = TopicConfig::described().filter(|one| !one.name.starts_with("penstock."));
        assert_eq!(kafkas.count(), 37);
        assert!(TopicConfig::named("no.such.key").is_none());
    }

    #[test]
    fn a_promise_that_cannot_be_kept_is_refused_in_words() {
        let refusals = [
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "delete,compact"),
            ("compression.type", "zstd"),
            ("remote.storage.enable", "true"),
        ];
        for (name, value) in refusals {
            let words = TopicConfig::named(name).unwrap().take(value).unwrap_err();
            assert!(words.contains(name) && words.contains("is not supported"), "{words}");
        }
    }
}
