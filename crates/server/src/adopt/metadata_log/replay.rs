//! The state of the metadata log after some of its records. Records inside a transaction count at
//! its end. Pure.

use std::collections::BTreeMap;

use penstock_storage::TopicId;

use super::record::{MetadataRecord, Resource};
use super::{Metadata, TopicMetadata};

/// Topics by id, as partitions and deletions name them.
#[derive(Debug, Default)]
pub(super) struct Replay {
    topics: BTreeMap<[u8; 16], Topic>,
    topic_configs: BTreeMap<String, BTreeMap<String, String>>,
    broker_configs: BTreeMap<String, BTreeMap<String, String>>,
    /// The records of the open transaction.
    transaction: Option<Vec<MetadataRecord>>,
}

#[derive(Debug)]
struct Topic {
    name: String,
    replicas: BTreeMap<i32, Vec<i32>>,
}

impl Replay {
    /// # Errors
    /// The record cannot follow those before it; as a message.
    pub(super) fn apply(&mut self, record: MetadataRecord) -> Result<(), String> {
        use MetadataRecord as R;
        match (record, self.transaction.take()) {
            (R::BeginTransaction, None) => self.transaction = Some(Vec::new()),
            (R::BeginTransaction, Some(_)) => return Err("a transaction begins in another".into()),
            (R::EndTransaction, Some(records)) => {
                return records.into_iter().try_for_each(|record| self.change(record));
            }
            (R::AbortTransaction, Some(_)) => {}
            (R::EndTransaction | R::AbortTransaction, None) => {
                return Err("a transaction ends that has not begun".into());
            }
            (record, Some(mut records)) => {
                records.extend((record != R::Other).then_some(record));
                self.transaction = Some(records);
            }
            (record, None) => return self.change(record),
        }
        Ok(())
    }

    fn change(&mut self, record: MetadataRecord) -> Result<(), String> {
        match record {
            MetadataRecord::Topic { name, id } => {
                self.topics.insert(id.0, Topic { name, replicas: BTreeMap::new() });
            }
            MetadataRecord::RemoveTopic { id } => {
                let topic = self.topics.remove(&id.0).ok_or_else(|| unknown(id))?;
                self.topic_configs.remove(&topic.name);
            }
            MetadataRecord::Partition { topic, partition, replicas } => {
                let known = self.topics.get_mut(&topic.0).ok_or_else(|| unknown(topic))?;
                known.replicas.insert(partition, replicas);
            }
            MetadataRecord::Config { resource, name, value } => {
                let (all, of) = match resource {
                    Resource::Topic(of) => (&mut self.topic_configs, of),
                    Resource::Broker(of) => (&mut self.broker_configs, of),
                    Resource::Other => return Ok(()),
                };
                set(all, of, name, value);
            }
            // `apply` handles transactions.
            _ => {}
        }
        Ok(())
    }

    /// The final state. Records of a transaction without an end are left out.
    pub(super) fn finish(mut self) -> Metadata {
        let mut topics = BTreeMap::new();
        for (id, topic) in self.topics {
            let configs = self.topic_configs.remove(&topic.name).unwrap_or_default();
            let metadata = TopicMetadata { id: TopicId(id), replicas: topic.replicas, configs };
            topics.insert(topic.name, metadata);
        }
        Metadata { topics, broker_configs: self.broker_configs }
    }
}

/// A null value deletes. A resource without configs is not kept.
fn set(
    all: &mut BTreeMap<String, BTreeMap<String, String>>,
    of: String,
    name: String,
    value: Option<String>,
) {
    match value {
        Some(value) => {
            all.entry(of).or_default().insert(name, value);
        }
        None => {
            if let Some(configs) = all.get_mut(&of) {
                configs.remove(&name);
                if configs.is_empty() {
                    all.remove(&of);
                }
            }
        }
    }
}

fn unknown(id: TopicId) -> String {
    format!("it is about a topic of id {id}, and there is none")
}
