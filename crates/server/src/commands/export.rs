//! `penstock export`: prints a shell script that hands a data directory's topics to a Kafka.
//!
//! Called by main, on a directory that no server uses. Reads the registry, the journal of offsets
//! and, if there is one, Kafka's metadata log. Changes only what a start would take over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};
use penstock_storage::{DataDir, LogConfig, PartitionName, TimestampType};

use crate::adopt::committed_offsets::Foreign;
use crate::adopt::metadata_log::{self, Metadata};
use crate::broker::groups::OffsetStore;
use crate::broker::meta_properties;
use crate::broker::registry::{Entry, Registry};
use crate::broker::topics::INTERNAL_TOPICS;
use crate::broker::topics::{committed_in, config_in, take_over};
use crate::commands::cli::ExportArguments;
use crate::config::durability::Durability;
use crate::export::{Commit, KafkaTopic, Places, Plan, Topic, script};

/// Runs the command.
///
/// # Errors
/// The directory is in use, was not closed cleanly, or cannot be read.
pub(crate) fn run(arguments: &ExportArguments) -> anyhow::Result<()> {
    let settings = arguments.settings(std::env::vars())?;
    let path = settings.data_dir.canonicalize();
    let path = path.with_context(|| format!("cannot find {}", settings.data_dir.display()))?;
    let data_dir = DataDir::open(path.as_path())?;
    if !data_dir.was_stopped_cleanly() {
        let path = path.display();
        bail!("the last server of {path} did not stop in good order: start and stop one first");
    }
    let mut registry = Registry::open(&data_dir)?;
    let offsets = OffsetStore::open(&path, Durability::Fsync)?;
    take_over(&mut registry, &data_dir, &offsets)?;
    let metadata = if arguments.fresh_kafka { None } else { metadata_log::read(&path)? };
    let kafka = metadata.map(|metadata| known_to(&metadata, &path));
    let topics = topics(&registry, &data_dir, &settings.log)?;
    let mut commits = commits(&offsets, &topics);
    if kafka.is_some() {
        let known = kafkas_commits(&path, &topics)?;
        commits.retain(|commit| !known.contains(commit));
    }
    let (commits, unspeakable): (Vec<_>, Vec<_>) =
        commits.into_iter().partition(|commit| !commit.group.contains(char::is_control));
    let mut plan = Plan::of(&topics, kafka.as_ref(), commits);
    let groups: BTreeSet<&str> = unspeakable.iter().map(|commit| &*commit.group).collect();
    plan.remarks.extend(groups.iter().map(|group| {
        format!("The offsets of group {group:?} are left out: no command line takes its name.")
    }));
    let data_dir = path.to_str().context("the directory's name is not UTF-8")?;
    let places = Places { data_dir, bootstrap_server: &arguments.bootstrap_server };
    print!("{}", script(&plan, &places));
    Ok(())
}

/// The topics served here, without internal ones, which a Kafka makes itself.
fn topics(
    registry: &Registry,
    data_dir: &DataDir,
    server: &LogConfig,
) -> anyhow::Result<BTreeMap<String, Topic>> {
    let mut present: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for PartitionName { topic, partition } in data_dir.partitions()? {
        present.entry(topic).or_default().insert(partition);
    }
    let mut log_starts: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
    for (PartitionName { topic, partition }, offset) in data_dir.log_starts()? {
        log_starts.entry(topic).or_default().insert(partition, offset.0);
    }
    let served = registry.entries().iter().filter(|(name, entry)| {
        !entry.deleting && entry.partitions > 0 && !INTERNAL_TOPICS.contains(&name.as_str())
    });
    let topic = |(name, entry): (&String, &Entry)| {
        let topic = Topic {
            id: entry.id,
            partitions: entry.partitions,
            present: present.remove(name).unwrap_or_default(),
            config: pairs(entry.config.iter()),
            defaults: defaults(entry, server),
            log_starts: log_starts.remove(name).unwrap_or_default(),
        };
        (name.clone(), topic)
    };
    Ok(served.map(topic).collect())
}

/// The configs that the script sets although the topic does not. Retention is always among them,
/// since the Kafka's default may differ. The others are there where this server's default is not
/// Kafka's own.
fn defaults(entry: &Entry, server: &LogConfig) -> BTreeMap<String, String> {
    let kafkas = LogConfig::default();
    let (ms, bytes) = match entry.retention_held {
        true => (None, None),
        false => (server.retention_ms, server.retention_bytes),
    };
    let or_none = |number: Option<i64>| number.unwrap_or(-1).to_string();
    let mut configs = vec![
        ("retention.ms", or_none(ms)),
        ("retention.bytes", or_none(bytes.and_then(|bytes| i64::try_from(bytes).ok()))),
    ];
    if server.segment_bytes != kafkas.segment_bytes {
        configs.push(("segment.bytes", server.segment_bytes.to_string()));
    }
    if server.segment_ms != kafkas.segment_ms {
        configs.push(("segment.ms", server.segment_ms.to_string()));
    }
    if server.max_message_bytes != kafkas.max_message_bytes {
        configs.push(("max.message.bytes", server.max_message_bytes.to_string()));
    }
    if server.timestamp_type == TimestampType::LogAppendTime {
        configs.push(("message.timestamp.type", "LogAppendTime".to_owned()));
    }
    configs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The topics of the Kafka that used the directory before.
fn known_to(kafka: &Metadata, data_dir: &Path) -> BTreeMap<String, KafkaTopic> {
    let node_id = meta_properties::node_id_of(data_dir);
    let mine: Option<i32> = node_id.as_deref().and_then(|id| id.parse().ok());
    let known = kafka.topics.iter().filter(|(name, _)| !INTERNAL_TOPICS.contains(&name.as_str()));
    let topic = |(name, there): (&String, &metadata_log::TopicMetadata)| {
        let topic = KafkaTopic {
            id: there.id,
            partitions: there.partition_count(),
            config: pairs(config_in(kafka, node_id.as_deref(), there).iter()),
            is_here_alone: there.replicas.values().flatten().all(|node| Some(*node) == mine),
        };
        (name.clone(), topic)
    };
    known.map(topic).collect()
}

/// Commits of topics that are here.
fn commits(offsets: &OffsetStore, topics: &BTreeMap<String, Topic>) -> Vec<Commit> {
    let all = offsets.read();
    let of_group = all.snapshot().flat_map(|of| {
        let group = of.group.to_string();
        of.entries.into_iter().map(move |(topic, partition, at)| Commit {
            group: group.clone(),
            topic: topic.to_string(),
            partition,
            offset: at.offset,
        })
    });
    of_group.filter(|commit| topics.contains_key(&commit.topic)).collect()
}

/// What the Kafka of this directory has committed itself.
fn kafkas_commits(
    data_dir: &Path,
    topics: &BTreeMap<String, Topic>,
) -> anyhow::Result<BTreeSet<Commit>> {
    let ids = |topic: &str| topics.get(topic).map(|topic| topic.id);
    let commit = |of: Foreign| Commit {
        group: of.group.to_string(),
        topic: of.topic.to_string(),
        partition: of.partition,
        offset: of.at.offset,
    };
    Ok(committed_in(data_dir, &ids)?.offsets.into_iter().map(commit).collect())
}

fn pairs<'a>(config: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    config.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
