//! Finishes a change of topics that was begun by an earlier server or by this one.
//!
//! ```text
//!   growing-to    the partitions that were being made go: no client has heard of them
//!   deleting      every partition goes, then the offsets, then the entry: the name is free
//! ```
//!
//! Files go before offsets and entry, for which a full disk has no room otherwise. Each step may be
//! done again, so a crash in between costs time only. Called by opening for all entries, and by
//! changes for the topic that it deletes. Blocks.

use anyhow::{Context, bail};
use penstock_storage::{DataDir, PartitionName};

use crate::broker::groups::OffsetStore;
use crate::broker::registry::{Entry, Registry};
use crate::causes::Causes;

/// Finishes every change that the registry has as begun. One that cannot be finished is logged,
/// keeps its entry and its name, and is tried again by the next start.
pub(super) fn finish_all(registry: &mut Registry, data_dir: &DataDir, offsets: &OffsetStore) {
    note_emptied(registry, data_dir);
    let begun = |entry: &Entry| entry.deleting || !entry.being_made().is_empty();
    let topics = registry.entries().iter().filter(|(_, entry)| begun(entry));
    for topic in topics.map(|(topic, _)| topic.clone()).collect::<Vec<_>>() {
        let finished = undo_growth(registry, data_dir, &topic)
            .and_then(|()| finish_deletion(registry, data_dir, offsets, &topic));
        if let Err(error) = finished {
            tracing::error!(
                topic,
                "cannot finish an interrupted change of a topic: {}",
                Causes(&error)
            );
        }
    }
}

/// Notes deletions that found no room to be noted; in memory only, if there is still none. A
/// partition whose directory was lost before has none to be empty.
fn note_emptied(registry: &mut Registry, data_dir: &DataDir) {
    let is_emptied = |(topic, entry): &(&String, &Entry)| {
        let names = || (0..entry.partitions).map(|partition| name_of(topic, partition));
        let is_gone = |name| data_dir.is_emptied(&name) || data_dir.is_missing(&name);
        !entry.deleting && names().any(|name| data_dir.is_emptied(&name)) && names().all(is_gone)
    };
    let topics = registry.entries().iter().filter(is_emptied);
    for topic in topics.map(|(topic, _)| topic.clone()).collect::<Vec<_>>() {
        tracing::warn!(topic, "going on with a deletion that had no room to be noted");
        if let Err(error) = registry.update(&topic, |entry| entry.deleting = true) {
            tracing::warn!(topic, "it is noted when there is room: {}", Causes(&error));
            registry.delete_in_memory(&topic);
        }
    }
}

fn name_of(topic: &str, partition: i32) -> PartitionName {
    PartitionName { topic: topic.to_owned(), partition }
}

/// Removes partitions that were being made, and the topic if it has no others.
pub(super) fn undo_growth(
    registry: &mut Registry,
    data_dir: &DataDir,
    topic: &str,
) -> anyhow::Result<()> {
    let Some(entry) = registry.get(topic).cloned() else { return Ok(()) };
    let being_made = entry.being_made();
    if being_made.is_empty() || entry.deleting {
        return Ok(());
    }
    let names = partitions_of(data_dir, topic)?;
    let made: Vec<_> = names.into_iter().filter(|n| being_made.contains(&n.partition)).collect();
    for name in &made {
        // The partition was never served, so no record in it is Penstock's own.
        if data_dir.holds_records(name)? {
            bail!("{name} was only being made and has records: it is left as it is");
        }
    }
    take_away(data_dir, &made)?;
    data_dir.remove_taken_away()?;
    let before = entry.not_grown();
    let (from, to) = (entry.partitions, being_made.end);
    tracing::warn!(topic, from, to, "undid an interrupted creation of partitions");
    registry.set(topic, before)
}

/// Removes the rest of a topic whose deletion has begun. Its name is free when this returns.
pub(super) fn finish_deletion(
    registry: &mut Registry,
    data_dir: &DataDir,
    offsets: &OffsetStore,
    topic: &str,
) -> anyhow::Result<()> {
    let Some(id) = registry.get(topic).filter(|entry| entry.deleting).map(|entry| entry.id) else {
        return Ok(());
    };
    // A mark in memory only must reach the file before the directories go.
    registry.update(topic, |entry| entry.deleting = true)?;
    let mut left = partitions_of(data_dir, topic)?;
    // A Kafka may have used the directory meanwhile, and have another topic of the name: that one
    // stays.
    left.retain(|name| !matches!(data_dir.topic_id(name), Ok(Some(other)) if other != id));
    if !left.is_empty() {
        tracing::warn!(topic, partitions = left.len(), "finishing an interrupted deletion");
    }
    take_away(data_dir, &left)?;
    data_dir.remove_taken_away()?;
    let forgotten = offsets.forget(topic).map_err(std::io::Error::from);
    forgotten.context("cannot forget the offsets of a deleted topic")?;
    registry.set(topic, None)
}

/// Removes their names, on the disk as well.
fn take_away(data_dir: &DataDir, names: &[PartitionName]) -> anyhow::Result<()> {
    for name in names {
        data_dir.take_away(name).with_context(|| format!("cannot delete partition {name}"))?;
    }
    Ok(data_dir.sync()?)
}

fn partitions_of(data_dir: &DataDir, topic: &str) -> anyhow::Result<Vec<PartitionName>> {
    let mut names = data_dir.partitions()?;
    names.retain(|name| name.topic == topic);
    Ok(names)
}
