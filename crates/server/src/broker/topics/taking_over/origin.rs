//! Where a data directory came from, and the entry that follows from it for each topic. Pure but
//! for reading the metadata log.
//!
//! Called by taking_over; `penstock export` compares configs by [`config_in`].

use std::collections::{BTreeMap, BTreeSet};

use penstock_storage::{DataDir, TopicId};

use crate::adopt::metadata_log::{self, Metadata, TopicMetadata};
use crate::broker::overrides::Overrides;
use crate::broker::registry::{Entry, Registry};

/// A topic's directories.
#[derive(Debug, Default)]
pub(super) struct Directories {
    pub(super) indexes: BTreeSet<i32>,
    /// The topic ids of its partitions. More than one id: some partitions have strayed here.
    pub(super) ids: Vec<TopicId>,
}

impl Directories {
    /// The topic's id: `known` if any partition has it, else that of the first partition.
    pub(super) fn id(&self, known: Option<TopicId>) -> Option<TopicId> {
        known.filter(|known| self.ids.contains(known)).or(self.ids.first().copied())
    }
}

/// The origin of the data directory.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// The metadata of its Kafka.
    pub(super) kafka: Option<Metadata>,
    /// The directory's node id in that Kafka.
    pub(super) node_id: Option<String>,
    /// Whether a Penstock without a registry has served it.
    pub(super) was_ours: bool,
}

impl Origin {
    pub(super) fn of(data_dir: &DataDir, registry: &Registry) -> Origin {
        let kafka = metadata_log::read(data_dir.path()).unwrap_or_else(|error| {
            tracing::error!("the configs of Kafka's topics cannot be read: {error}");
            None
        });
        let node_id = crate::broker::meta_properties::node_id_of(data_dir.path());
        let was_ours = !registry.lists_topics() && data_dir.was_ours();
        Origin { kafka, node_id, was_ours }
    }

    /// The entry of a topic: known values, overridden by those of its Kafka.
    pub(super) fn entry(
        &self,
        topic: &str,
        found: &Directories,
        known: Option<&Entry>,
        former: Option<&Overrides>,
    ) -> Entry {
        let in_kafka = self.kafka.as_ref().and_then(|kafka| kafka.topics.get(topic));
        let known_id = known.map(|entry| entry.id);
        let found_id = found.id(known_id.or(in_kafka.map(|there| there.id)));
        let in_kafka = in_kafka.filter(|there| found_id.is_none_or(|id| id == there.id));
        let id = found_id.or(known_id).or(in_kafka.map(|there| there.id));
        let highest = found.indexes.last().map_or(0, |last| last.saturating_add(1));
        let partitions = highest
            .max(known.map_or(0, |entry| entry.partitions))
            .max(in_kafka.map_or(0, TopicMetadata::partition_count));
        let mut config = match (in_kafka, known) {
            (Some(there), _) => self.config(there),
            (None, Some(entry)) => entry.config.clone(),
            (None, None) => Overrides::default(),
        };
        for (key, value) in former.into_iter().flat_map(Overrides::iter) {
            config.adopt(key, value);
        }
        // Also with a retention.ms of its own: it may lack a retention.bytes, and may lose its
        // values again.
        let retention_held =
            known.map_or(!self.was_ours || in_kafka.is_some(), |entry| entry.retention_held);
        let id = id.unwrap_or_else(TopicId::random);
        Entry { retention_held, ..Entry::whole(id, partitions, config) }
    }

    fn config(&self, there: &TopicMetadata) -> Overrides {
        let node_id = self.node_id.as_deref();
        self.kafka.as_ref().map(|kafka| config_in(kafka, node_id, there)).unwrap_or_default()
    }

    /// Whether commits to that Kafka can be about the topic of this id.
    pub(super) fn may_know(&self, topic: &str, id: TopicId) -> bool {
        let known = self.kafka.as_ref().map(|kafka| kafka.topics.get(topic));
        known.is_none_or(|there| there.is_some_and(|there| there.id == id))
    }
}

/// A topic's own configs in a Kafka, with those broker configs that decide on its records, as far
/// as they are known.
pub(crate) fn config_in(
    kafka: &Metadata,
    node_id: Option<&str>,
    there: &TopicMetadata,
) -> Overrides {
    // By rising precedence, as in Kafka, with the milliseconds of each unit.
    const RETENTION: [(&str, i64); 3] = [
        ("log.retention.hours", 3_600_000),
        ("log.retention.minutes", 60_000),
        ("log.retention.ms", 1),
    ];
    const SAME: [(&str, &str); 2] =
        [("log.retention.bytes", "retention.bytes"), ("log.cleanup.policy", "cleanup.policy")];
    let brokers = broker_config(kafka, node_id);
    let mut config = Overrides::default();
    for (key, unit_ms) in RETENTION {
        if let Some(number) = brokers.get(key).and_then(|value| value.trim().parse().ok()) {
            let ms = if number < 0 { -1 } else { i64::saturating_mul(number, unit_ms) };
            config.adopt("retention.ms", &ms.to_string());
        }
    }
    for (broker_key, key) in SAME {
        if let Some(value) = brokers.get(broker_key) {
            config.adopt(key, value);
        }
    }
    for (key, value) in &there.configs {
        config.adopt(key, value);
    }
    config
}

/// Configs of all brokers of the Kafka, overridden by those of this directory's broker.
fn broker_config(kafka: &Metadata, node_id: Option<&str>) -> BTreeMap<String, String> {
    let of_node = |node: &str| kafka.broker_configs.get(node).cloned().unwrap_or_default();
    let mut config = of_node("");
    config.extend(node_id.map(of_node).unwrap_or_default());
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TopicId = TopicId([7; 16]);

    fn overrides(pairs: &[(&str, &str)]) -> Overrides {
        let mut overrides = Overrides::default();
        pairs.iter().for_each(|(key, value)| overrides.adopt(key, value));
        overrides
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn directories(indexes: &[i32]) -> Directories {
        Directories { indexes: indexes.iter().copied().collect(), ids: vec![ID] }
    }

    fn kafka(configs: &[(&str, &str)], brokers: &[(&str, &[(&str, &str)])]) -> Origin {
        let replicas = (0..4).map(|index| (index, vec![1])).collect();
        let there = TopicMetadata { id: ID, replicas, configs: map(configs) };
        let broker_configs =
            brokers.iter().map(|(node, configs)| ((*node).to_owned(), map(configs))).collect();
        let topics = BTreeMap::from([("t".to_owned(), there)]);
        let kafka = Some(Metadata { topics, broker_configs });
        Origin { kafka, node_id: Some("1".to_owned()), was_ours: false }
    }

    #[test]
    fn a_topic_of_a_kafka_has_its_configs_and_all_its_partitions() {
        let configs = [("retention.ms", "-1"), ("cleanup.policy", "compact"), ("x.y", "z")];
        let entry = kafka(&configs, &[]).entry("t", &directories(&[1]), None, None);
        assert_eq!((entry.id, entry.partitions), (ID, 4));
        assert_eq!(entry.config, overrides(&configs));
    }

    #[test]
    fn a_retention_that_is_not_known_is_held() {
        let of = |origin: Origin| origin.entry("t", &directories(&[0, 2]), None, None);
        assert!(of(Origin::default()).retention_held, "no metadata at all");
        assert_eq!(of(Origin::default()).partitions, 3);
        assert!(of(kafka(&[("segment.bytes", "1048576")], &[])).retention_held);
        let entry = kafka(&[], &[]).entry("other", &directories(&[0]), None, None);
        assert!(entry.retention_held, "the metadata log does not know the topic");
        let other_id = Directories { ids: vec![TopicId([8; 16])], ..directories(&[0]) };
        let entry = kafka(&[("retention.ms", "1")], &[]).entry("t", &other_id, None, None);
        assert!(entry.retention_held, "it knows another topic of the name");
        assert_eq!(entry.config, Overrides::default());
    }

    #[test]
    fn what_a_topic_does_not_set_is_held_also_beside_what_it_sets() {
        let mut entry =
            kafka(&[("retention.ms", "5")], &[]).entry("t", &directories(&[0]), None, None);
        assert!(entry.retention_held && !entry.keeps_unasked());
        // The Kafka takes it back: what its server.properties say then is not known.
        entry = kafka(&[], &[]).entry("t", &directories(&[0]), Some(&entry), None);
        assert!(entry.retention_held && entry.keeps_unasked());
    }

    #[test]
    fn what_is_set_for_all_brokers_or_for_this_one_counts_as_the_topics_own() {
        let brokers: [(&str, &[(&str, &str)]); 3] = [
            ("", &[("log.retention.hours", "2"), ("log.cleanup.policy", "compact")]),
            ("1", &[("log.retention.ms", "77"), ("log.retention.minutes", "9")]),
            ("2", &[("log.retention.ms", "1")]),
        ];
        let entry = |configs| kafka(configs, &brokers).entry("t", &directories(&[0]), None, None);
        let expected = [("retention.ms", "77"), ("cleanup.policy", "compact")];
        assert_eq!(entry(&[]).config, overrides(&expected));
        assert_eq!(entry(&[("retention.ms", "5")]).config.get("retention.ms"), Some("5"));
        let hours = kafka(&[], &brokers[..1]).entry("t", &directories(&[0]), None, None);
        assert_eq!(hours.config.get("retention.ms"), Some("7200000"));
    }

    #[test]
    fn a_directory_of_a_penstock_without_a_registry_keeps_its_overrides_and_is_not_held() {
        let origin = Origin { was_ours: true, ..Origin::default() };
        let former = overrides(&[("segment.bytes", "4096")]);
        let entry = origin.entry("t", &directories(&[0]), None, Some(&former));
        assert_eq!((&entry.config, entry.retention_held), (&former, false));
        let adopted = Origin { was_ours: true, ..kafka(&[], &[]) };
        let entry = adopted.entry("t", &directories(&[0]), None, Some(&former));
        assert!(entry.retention_held, "that Penstock had it from a Kafka");
    }

    #[test]
    fn back_from_a_kafka_its_configs_count_and_the_operators_word_stays() {
        let known = Entry::whole(ID, 6, overrides(&[("retention.ms", "5"), ("a", "b")]));
        let back = |configs| kafka(configs, &[]).entry("t", &directories(&[0]), Some(&known), None);
        let entry = back(&[("retention.ms", "9")]);
        assert_eq!((entry.partitions, &entry.config), (6, &overrides(&[("retention.ms", "9")])));
        assert!(!back(&[]).retention_held);
        let entry = Origin::default().entry("t", &directories(&[0]), Some(&known), None);
        assert_eq!(entry, known, "without a metadata log what is known here stays");
    }
}
