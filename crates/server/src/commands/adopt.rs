//! `penstock adopt`: the operator decides that topics from elsewhere expire by this server's
//! retention.
//!
//! Called by main, on a data directory that no server uses. It takes over what a start would take
//! over, and ends the hold on the retention of the topics named.

use anyhow::{Context, bail};
use penstock_storage::DataDir;

use crate::broker::groups::OffsetStore;
use crate::broker::registry::{Entry, Registry};
use crate::broker::topics::INTERNAL_TOPICS;
use crate::broker::topics::take_over;
use crate::commands::cli::AdoptArguments;
use crate::config::durability::Durability;

/// Runs the command.
///
/// # Errors
/// The directory is in use or cannot be read, or it lacks a topic that was named.
pub(crate) fn run(arguments: &AdoptArguments) -> anyhow::Result<()> {
    let data_dir = DataDir::open(&arguments.data_dir)?;
    let mut registry = Registry::open(&data_dir)?;
    let offsets = OffsetStore::open(data_dir.path(), Durability::Fsync)?;
    take_over(&mut registry, &data_dir, &offsets)?;
    if !arguments.list {
        release(&mut registry, &arguments.topics)?;
    }
    for (topic, entry) in registry.entries() {
        println!("{topic}: {} partitions, retention.ms {}", entry.partitions, retention(entry));
    }
    Ok(())
}

/// Lets the server's retention apply to the topics named, or to all but Kafka's own.
fn release(registry: &mut Registry, named: &[String]) -> anyhow::Result<()> {
    if let Some(unknown) = named.iter().find(|topic| registry.get(topic).is_none()) {
        bail!("there is no topic {unknown} here");
    }
    let is_meant = |topic: &String| match named {
        [] => !INTERNAL_TOPICS.contains(&topic.as_str()),
        named => named.contains(topic),
    };
    let mut entries = registry.entries().clone();
    for (_, entry) in entries.iter_mut().filter(|(topic, _)| is_meant(topic)) {
        entry.retention_held = false;
    }
    registry.replace(entries).context("nothing has changed")
}

fn retention(entry: &Entry) -> String {
    match entry.config.get("retention.ms") {
        Some(ms) => format!("{ms} (its own)"),
        None if entry.retention_held => "not known: it keeps everything".to_owned(),
        None => "the server's".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use penstock_storage::TopicId;

    use super::*;
    use crate::broker::overrides::Overrides;

    fn held() -> Entry {
        let whole = Entry::whole(TopicId::random(), 1, Overrides::default());
        Entry { retention_held: true, ..whole }
    }

    #[test]
    fn only_the_topics_named_are_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        let mut registry = Registry::open(&data_dir).unwrap();
        for topic in ["a", "b", "__consumer_offsets"] {
            registry.set(topic, Some(held())).unwrap();
        }
        let mut is_held = |named: &[&str]| {
            let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
            release(&mut registry, &named).map(|()| {
                ["a", "b", "__consumer_offsets"].map(|topic| {
                    Registry::open(&data_dir).unwrap().get(topic).unwrap().retention_held
                })
            })
        };
        assert!(is_held(&["c"]).is_err());
        assert_eq!(is_held(&["a"]).unwrap(), [false, true, true]);
        assert_eq!(is_held(&[]).unwrap(), [false, false, true], "not Kafka's own");
        assert_eq!(is_held(&["__consumer_offsets"]).unwrap(), [false; 3]);
    }
}
