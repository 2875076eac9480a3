//! What a Kafka must change to have the same topics: a comparison of two lists. Pure.

use std::collections::{BTreeMap, BTreeSet};

use penstock_storage::{PartitionName, TopicId};

use crate::broker::topic_config::TopicConfig;

/// The least `segment.bytes` of a Kafka.
const SEGMENT_MIN_BYTES: u64 = 1 << 20;

/// A topic as it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) partitions: i32,
    /// Partitions that have a directory.
    pub(crate) present: BTreeSet<i32>,
    /// Its own configs.
    pub(crate) config: BTreeMap<String, String>,
    /// The server's own defaults where the topic sets nothing and a Kafka may differ.
    pub(crate) defaults: BTreeMap<String, String>,
    /// First offsets inside a segment.
    pub(crate) log_starts: BTreeMap<i32, i64>,
}

/// A topic in the Kafka that used the directory before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KafkaTopic {
    pub(crate) id: TopicId,
    pub(crate) partitions: i32,
    /// Its configs, and those of the brokers that were taken over as its own.
    pub(crate) config: BTreeMap<String, String>,
    /// Whether no other node has a replica of it.
    pub(crate) is_here_alone: bool,
}

/// A group's offset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Commit {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// The whole plan, each list in the order of its steps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Whether the Kafka has its metadata in this directory.
    pub(crate) is_same_kafka: bool,
    /// Topics deleted or created again here: the Kafka still has the former ones.
    pub(crate) deletions: Vec<(String, TopicId)>,
    pub(crate) creations: Vec<Creation>,
    /// Topics and their new numbers of partitions.
    pub(crate) growths: Vec<(String, i32)>,
    pub(crate) alterations: Vec<Alteration>,
    /// Partitions whose files are copied into the Kafka.
    pub(crate) copies: Vec<PartitionName>,
    /// First offsets of copied partitions, which their files do not have.
    pub(crate) log_starts: Vec<(PartitionName, i64)>,
    pub(crate) commits: Vec<Commit>,
    /// What cannot be carried over, as sentences.
    pub(crate) remarks: Vec<String>,
}

/// A topic that the Kafka does not know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Creation {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    pub(crate) config: Vec<(String, String)>,
}

/// Configs that differ here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Alteration {
    pub(crate) topic: String,
    pub(crate) set: Vec<(String, String)>,
    pub(crate) unset: Vec<String>,
}

impl Plan {
    /// `kafka`: the topics of the Kafka whose metadata is in the directory; `None`: a Kafka without
    /// topics.
    pub(crate) fn of(
        topics: &BTreeMap<String, Topic>,
        kafka: Option<&BTreeMap<String, KafkaTopic>>,
        commits: Vec<Commit>,
    ) -> Plan {
        let mut plan = Plan { is_same_kafka: kafka.is_some(), commits, ..Plan::default() };
        let known = |name: &String| kafka.and_then(|topics| topics.get(name));
        for (name, there) in kafka.into_iter().flatten() {
            plan.look_for_deletion(name, there, topics.get(name));
        }
        for (name, topic) in topics {
            match known(name).filter(|there| there.id == topic.id) {
                Some(there) => plan.compare(name, topic, there),
                None => plan.create(name, topic),
            }
        }
        plan.commits.sort();
        plan
    }

    fn look_for_deletion(&mut self, name: &str, there: &KafkaTopic, here: Option<&Topic>) {
        match here {
            Some(topic) if topic.id == there.id => {}
            None if !there.is_here_alone => self.remarks.push(format!(
                "{name} has replicas on other nodes and none here: it is left as it is."
            )),
            _ => self.deletions.push((name.to_owned(), there.id)),
        }
    }

    fn create(&mut self, name: &str, topic: &Topic) {
        let effective = topic.defaults.iter().chain(&topic.config);
        let effective: BTreeMap<&String, &String> = effective.collect();
        let config = self.for_kafka(name, effective);
        self.creations.push(Creation {
            topic: name.to_owned(),
            partitions: topic.partitions,
            config,
        });
        self.copy(name, topic, 0..topic.partitions);
    }

    fn compare(&mut self, name: &str, topic: &Topic, there: &KafkaTopic) {
        if topic.partitions > there.partitions {
            self.growths.push((name.to_owned(), topic.partitions));
            self.copy(name, topic, there.partitions..topic.partitions);
        }
        let changed =
            topic.config.iter().filter(|(key, value)| there.config.get(*key) != Some(value));
        let set = self.for_kafka(name, changed.collect());
        let gone = there.config.keys().filter(|key| !topic.config.contains_key(*key));
        let unset: Vec<String> = gone.cloned().collect();
        if !set.is_empty() || !unset.is_empty() {
            self.alterations.push(Alteration { topic: name.to_owned(), set, unset });
        }
    }

    /// Drops configs that a Kafka would refuse.
    fn for_kafka(
        &mut self,
        topic: &str,
        config: BTreeMap<&String, &String>,
    ) -> Vec<(String, String)> {
        let mut taken = Vec::new();
        for (key, value) in config {
            match refusal(key, value) {
                None => taken.push((key.clone(), value.clone())),
                Some(reason) => {
                    self.remarks.push(format!("{topic}: {key}={value} is left out: {reason}."));
                }
            }
        }
        taken
    }

    fn copy(&mut self, name: &str, topic: &Topic, partitions: std::ops::Range<i32>) {
        for partition in partitions {
            let name = PartitionName { topic: name.to_owned(), partition };
            if !topic.present.contains(&partition) {
                self.remarks.push(format!("{name} has no directory here: it will be empty."));
                continue;
            }
            if let Some(offset) = topic.log_starts.get(&partition) {
                self.log_starts.push((name.clone(), *offset));
            }
            self.copies.push(name);
        }
    }
}

/// Why a Kafka would refuse a config.
fn refusal(key: &str, value: &str) -> Option<&'static str> {
    if TopicConfig::named(key).is_none() {
        return Some("no Kafka knows it");
    }
    let is_small = value.parse::<u64>().is_ok_and(|bytes| bytes < SEGMENT_MIN_BYTES);
    (key == "segment.bytes" && is_small).then_some("Kafka takes no less than 1048576")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn topic(id: u8, partitions: i32, config: &[(&str, &str)]) -> Topic {
        Topic {
            id: TopicId([id; 16]),
            partitions,
            present: (0..partitions).collect(),
            config: map(config),
            defaults: map(&[("retention.ms", "-1")]),
            log_starts: BTreeMap::new(),
        }
    }

    fn there(id: u8, partitions: i32, config: &[(&str, &str)]) -> KafkaTopic {
        let (id, config) = (TopicId([id; 16]), map(config));
        KafkaTopic { id, partitions, config, is_here_alone: true }
    }

    fn one<T>(value: T) -> BTreeMap<String, T> {
        BTreeMap::from([("t".to_owned(), value)])
    }

    fn copies(plan: &Plan) -> Vec<String> {
        plan.copies.iter().map(PartitionName::to_string).collect()
    }

    #[test]
    fn a_fresh_kafka_creates_everything_with_the_retention_it_had_here() {
        let mut here = topic(1, 3, &[("segment.ms", "5")]);
        here.present.remove(&1);
        here.log_starts = BTreeMap::from([(2, 77)]);
        let plan = Plan::of(&one(here), None, Vec::new());
        let config = [("retention.ms", "-1"), ("segment.ms", "5")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()));
        let creation = Creation { topic: "t".to_owned(), partitions: 3, config: config.to_vec() };
        assert_eq!((&plan.creations[..], plan.is_same_kafka), (&[creation][..], false));
        assert_eq!(copies(&plan), ["t-0", "t-2"]);
        assert_eq!(plan.log_starts.len(), 1);
        assert!(plan.remarks[0].contains("t-1 has no directory"), "{:?}", plan.remarks);
        let own = topic(1, 1, &[("retention.ms", "5")]);
        let plan = Plan::of(&one(own), None, Vec::new());
        assert_eq!(plan.creations[0].config, [("retention.ms".to_owned(), "5".to_owned())]);
    }

    #[test]
    fn what_the_same_kafka_knows_needs_nothing() {
        let config = [("retention.ms", "5")];
        let kafka = one(there(1, 2, &config));
        let plan = Plan::of(&one(topic(1, 2, &config)), Some(&kafka), Vec::new());
        assert_eq!(plan, Plan { is_same_kafka: true, ..Plan::default() });
    }

    #[test]
    fn a_topic_made_again_is_another_one_to_the_same_kafka() {
        let plan = Plan::of(&one(topic(2, 1, &[])), Some(&one(there(1, 1, &[]))), Vec::new());
        assert_eq!(plan.deletions, [("t".to_owned(), TopicId([1; 16]))]);
        assert_eq!((plan.creations.len(), copies(&plan)), (1, vec!["t-0".to_owned()]));
    }

    #[test]
    fn deletions_growths_and_changes_reach_the_same_kafka() {
        let kafka = one(there(1, 2, &[("retention.ms", "5"), ("segment.ms", "6")]));
        let plan = Plan::of(&BTreeMap::new(), Some(&kafka), Vec::new());
        assert_eq!(plan.deletions, [("t".to_owned(), TopicId([1; 16]))]);
        let here = one(topic(1, 3, &[("retention.ms", "9")]));
        let plan = Plan::of(&here, Some(&kafka), Vec::new());
        assert_eq!(
            (&plan.growths[..], copies(&plan)),
            (&[("t".to_owned(), 3)][..], vec!["t-2".into()])
        );
        assert_eq!(plan.alterations[0].set, [("retention.ms".to_owned(), "9".to_owned())]);
        assert_eq!(plan.alterations[0].unset, ["segment.ms"]);
        assert!(plan.deletions.is_empty() && plan.creations.is_empty());
    }

    #[test]
    fn a_topic_of_other_nodes_is_not_deleted() {
        let elsewhere = KafkaTopic { is_here_alone: false, ..there(1, 1, &[]) };
        let plan = Plan::of(&BTreeMap::new(), Some(&one(elsewhere)), Vec::new());
        assert!(plan.deletions.is_empty());
        assert!(plan.remarks[0].contains("other nodes"));
    }

    #[test]
    fn what_a_kafka_would_refuse_is_left_out_and_named() {
        let config = [("segment.bytes", "4096"), ("of.penstock", "1"), ("segment.ms", "1")];
        let plan = Plan::of(&one(topic(1, 1, &config)), None, Vec::new());
        let keys: Vec<&str> = plan.creations[0].config.iter().map(|(key, _)| &key[..]).collect();
        assert_eq!(keys, ["retention.ms", "segment.ms"]);
        assert!(plan.remarks[0].contains("of.penstock=1") && plan.remarks[1].contains("4096"));
    }
}
