//! Makes entries in the registry for topics that came from elsewhere: from a Kafka, or from a
//! Penstock without a registry.
//!
//! ```text
//!   directory without an entry, or of another topic id     ──► an entry, with the configs that Kafka's metadata
//!                                                              log has for name and id
//!   a Kafka has used the directory since the last start    ──► configs of all topics again; entries without a
//!                                                              directory go if Kafka deleted the topic
//!   either of them                                         ──► offsets that groups committed to the Kafka
//! ```
//!
//! **Nothing expires by a default that was not meant for it.** The metadata log has what a topic's
//! owner set, but not what a broker's configuration file set. So a topic of unknown retention keeps
//! everything until its operator decides (`penstock adopt`, or `retention.ms` of the topic).
//!
//! Called by opening and by the command `adopt`, before any log is opened. Blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use penstock_batch::Codec;
use penstock_storage::{DataDir, TopicId};

use crate::adopt::committed_offsets::{
    self, CommittedOffsets, TOPIC as CONSUMER_OFFSETS, TopicIds,
};
use crate::adopt::metadata_log::{self, Metadata, TopicMetadata};
use crate::broker::decompress::decompressed;
use crate::broker::disk_reserve::is_full;
use crate::broker::groups::OffsetStore;
use crate::broker::overrides::Overrides;
use crate::broker::registry::{Entry, Registry};

/// A topic's directories.
#[derive(Debug, Default)]
struct Directories {
    indexes: BTreeSet<i32>,
    /// The topic ids of its partitions. More than one id: some partitions have strayed here.
    ids: Vec<TopicId>,
}

impl Directories {
    /// The topic's id: `known` if any partition has it, else that of the first partition.
    fn id(&self, known: Option<TopicId>) -> Option<TopicId> {
        known.filter(|known| self.ids.contains(known)).or(self.ids.first().copied())
    }
}

/// The origin of the data directory.
#[derive(Debug, Default)]
struct Origin {
    /// The metadata of its Kafka.
    kafka: Option<Metadata>,
    /// The directory's node id in that Kafka.
    node_id: Option<String>,
    /// Whether a Penstock without a registry has served it.
    was_ours: bool,
}

/// Makes an entry for every topic with a directory. Blocks.
///
/// # Errors
/// The data directory cannot be listed, or the registry cannot be written for another reason than
/// want of room.
pub(crate) fn take_over(
    registry: &mut Registry,
    data_dir: &DataDir,
    offsets: &OffsetStore,
) -> anyhow::Result<()> {
    let found = directories(data_dir)?;
    let is_stranger = |(topic, directories): &(&String, &Directories)| {
        let entry = registry.get(topic);
        entry.is_none_or(|entry| {
            let id = directories.id(Some(entry.id));
            !entry.deleting && id.is_some_and(|id| id != entry.id)
        })
    };
    let strangers: BTreeSet<&String> =
        found.iter().filter(is_stranger).map(|(topic, _)| topic).collect();
    let was_kafkas = data_dir.was_kafkas();
    let mut entries = registry.entries().clone();
    if strangers.is_empty() && !was_kafkas {
        return keep(registry, entries);
    }
    let origin = Origin::of(data_dir, registry);
    if let Err(error) = offsets.begin_taking_over() {
        // On a full disk, for example. It matters only if this start is killed as well.
        tracing::warn!(%error, "cannot keep the time of the last committed offset");
    }
    for (topic, directories) in &found {
        let known = registry.get(topic);
        let is_stranger = strangers.contains(topic);
        if is_stranger || (was_kafkas && known.is_some_and(|entry| !entry.deleting)) {
            let known = known.filter(|_| !is_stranger);
            let former = registry.former_overrides(topic);
            let entry = origin.entry(topic, directories, known, former);
            if is_stranger {
                if let Some(former) = registry.get(topic) {
                    forget_former(topic, former.id, entry.id, offsets)?;
                }
                report(topic, &entry);
            } else if let Some(known) = known.filter(|known| known.config != entry.config) {
                let (before, now) = (&known.config, &entry.config);
                tracing::info!(
                    topic,
                    ?before,
                    ?now,
                    "a Kafka has used the directory: its configs are the topic's"
                );
            }
            entries.insert(topic.clone(), entry);
        }
    }
    if was_kafkas {
        entries.retain(|topic, entry| {
            entry.deleting || found.contains_key(topic) || !is_gone(topic, &origin, data_dir)
        });
    }
    let has_commits = found.contains_key(CONSUMER_OFFSETS)
        && (was_kafkas || strangers.iter().any(|topic| *topic == CONSUMER_OFFSETS));
    if has_commits && let Err(error) = take_offsets_over(data_dir, offsets, &entries, &origin) {
        tracing::error!(
            "committed offsets cannot be taken over; the next start tries again: {error:#}"
        );
        entries.remove(CONSUMER_OFFSETS);
    }
    keep(registry, entries)?;
    if let Err(error) = offsets.end_taking_over() {
        tracing::warn!(%error, "cannot remove the kept time of the last committed offset");
    }
    Ok(())
}

/// Warns of topics that keep everything because their retention is not known.
pub(crate) fn report_held(registry: &Registry) {
    let held = registry.entries().iter().filter(|(_, entry)| entry.keeps_unasked());
    let held: Vec<&str> = held.map(|(topic, _)| topic.as_str()).collect();
    if !held.is_empty() {
        let shown = held[..held.len().min(10)].join(", ");
        tracing::warn!(
            topics = held.len(),
            first = shown,
            "the retention of topics that came from elsewhere is not known: nothing of them expires until `penstock adopt` or a retention.ms of their own decides"
        );
    }
}

fn directories(data_dir: &DataDir) -> anyhow::Result<BTreeMap<String, Directories>> {
    let mut found: BTreeMap<String, Directories> = BTreeMap::new();
    for name in data_dir.partitions()? {
        let directories = found.entry(name.topic.clone()).or_default();
        // An unreadable one is an error of its partition, found when that is opened.
        let id = data_dir.topic_id(&name).unwrap_or_default();
        directories.ids.extend(id.filter(|id| !directories.ids.contains(id)));
        directories.indexes.insert(name.partition);
    }
    Ok(found)
}

impl Origin {
    fn of(data_dir: &DataDir, registry: &Registry) -> Origin {
        let kafka = metadata_log::read(data_dir.path()).unwrap_or_else(|error| {
            tracing::error!("the configs of Kafka's topics cannot be read: {error}");
            None
        });
        let node_id = crate::broker::meta_properties::node_id_of(data_dir.path());
        let was_ours = !registry.lists_topics() && data_dir.was_ours();
        Origin { kafka, node_id, was_ours }
    }

    /// The entry of a topic: known values, overridden by those of its Kafka.
    fn entry(
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
    fn may_know(&self, topic: &str, id: TopicId) -> bool {
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

/// Another topic has taken the name: committed offsets of the name were about the former one.
fn forget_former(
    topic: &str,
    former: TopicId,
    now: TopicId,
    offsets: &OffsetStore,
) -> anyhow::Result<()> {
    tracing::error!(
        topic, %former, %now,
        "the directories of the topic are those of another one of its name, which takes its place; configs and committed offsets of the former are gone; a Kafka that made the new one has renamed former directories to *-stray"
    );
    offsets.forget(topic).context("cannot forget the offsets of a topic that was replaced")
}

/// Whether the Kafka that used the directory deleted a topic that has no directories now.
fn is_gone(topic: &str, origin: &Origin, data_dir: &DataDir) -> bool {
    let Some(kafka) = &origin.kafka else { return false };
    if kafka.topics.contains_key(topic) {
        return false;
    }
    let of_topic = |path: &std::path::PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.rsplit_once('.')).is_some_and(|(name, _)| {
            name.rsplit_once('-').is_some_and(|(set_aside, _)| is_name_of(set_aside, topic))
        })
    };
    if data_dir.strays().is_ok_and(|strays| strays.iter().any(of_topic)) {
        tracing::error!(
            topic,
            "a Kafka that did not know the topic has renamed its directories to *-stray; with their names back they are served again"
        );
        return false;
    }
    tracing::warn!(topic, "the topic was deleted while a Kafka used the directory");
    true
}

/// Kafka shortens long names so that the directory's new name fits.
fn is_name_of(set_aside: &str, topic: &str) -> bool {
    const NEVER_SHORTER_THAN: usize = 180;
    set_aside == topic || (set_aside.len() >= NEVER_SHORTER_THAN && topic.starts_with(set_aside))
}

fn take_offsets_over(
    data_dir: &DataDir,
    offsets: &OffsetStore,
    entries: &BTreeMap<String, Entry>,
    origin: &Origin,
) -> anyhow::Result<()> {
    for name in data_dir.partitions()?.iter().filter(|name| name.topic == CONSUMER_OFFSETS) {
        data_dir.finish_exchange(name)?;
    }
    let ids = |topic: &str| entries.get(topic).map(|entry| entry.id);
    let read = committed_in(data_dir.path(), &ids)?;
    let is_there = |topic: &str, partition: i32| {
        entries.get(topic).is_some_and(|entry| {
            origin.may_know(topic, entry.id) && (0..entry.partitions).contains(&partition)
        })
    };
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        read.offsets.into_iter().partition(|offset| is_there(&offset.topic, offset.partition));
    let groups: BTreeSet<_> = here.iter().map(|offset| offset.group.clone()).collect();
    let found = here.len();
    let taken = offsets.take_over(here)?;
    tracing::info!(
        taken,
        found,
        groups = groups.len(),
        report = ?read.report,
        of_topics_elsewhere = elsewhere.len(),
        "took committed offsets over from __consumer_offsets"
    );
    Ok(())
}

/// The offsets that groups committed to the Kafka that used the directory. Blocks.
///
/// # Errors
/// The file system's.
pub(crate) fn committed_in(
    data_dir: &Path,
    topic_ids: TopicIds<'_>,
) -> anyhow::Result<CommittedOffsets> {
    Ok(committed_offsets::read(data_dir, &decompress, topic_ids, crate::clock::now_ms())?)
}

/// A batch may hold large metadata of groups beside commits; in no Kafka is it larger than this.
fn decompress(codec: Codec, body: &[u8]) -> Result<Vec<u8>, String> {
    const RECORDS_MAX_BYTES: usize = 128 << 20;
    decompressed(codec, body, RECORDS_MAX_BYTES).map_err(|error| error.to_string())
}

fn report(topic: &str, entry: &Entry) {
    let retention = match (entry.config.get("retention.ms"), entry.retention_held) {
        (Some(ms), _) => ms.to_owned(),
        (None, true) => "not known: kept".to_owned(),
        (None, false) => "the server's".to_owned(),
    };
    let configs: Vec<&str> = entry.config.iter().map(|(key, _)| key).collect();
    tracing::info!(
        topic,
        partitions = entry.partitions,
        retention_ms = retention,
        configs = configs.join(" "),
        "took a topic over"
    );
}

/// A disk without room does not refuse a start: the next start takes over again.
fn keep(registry: &mut Registry, entries: BTreeMap<String, Entry>) -> anyhow::Result<()> {
    if *registry.entries() == entries && registry.lists_topics() {
        return Ok(());
    }
    match registry.replace(entries.clone()) {
        Err(error) if is_full(&error) => {
            tracing::warn!(
                "cannot write down which topics there are; the next start does: {error:#}"
            );
            registry.replace_in_memory(entries);
            Ok(())
        }
        written => written,
    }
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
