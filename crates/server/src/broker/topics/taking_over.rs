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
use crate::broker::decompress::decompressed;
use crate::broker::disk_reserve::is_full;
use crate::broker::groups::OffsetStore;
use crate::broker::registry::{Entry, Registry};
use crate::causes::Causes;
pub(crate) use origin::config_in;
use origin::{Directories, Origin};

mod origin;

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
            "committed offsets cannot be taken over; the next start tries again: {}",
            Causes(&error)
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
                "cannot write down which topics there are; the next start does: {}",
                Causes(&error)
            );
            registry.replace_in_memory(entries);
            Ok(())
        }
        written => written,
    }
}
