//! Which topics there are: the one file that decides, also about a change that a crash interrupted.
//!
//! `<data dir>/penstock-topics.toml`, replaced whole by rename:
//!
//! ```toml
//! version = 2
//!
//! [topics.orders]
//! id = "AAECA_v_BgcICQoLDA0O_w"
//! partitions = 3
//! growing-to = 6               # 3, 4 and 5 are being made; a start that finds this removes them
//!
//! [topics.orders.config]
//! "segment.bytes" = "1048576"
//! ```
//!
//! A change is written here before the first directory of the topic changes and once more when the
//! last one has:
//!
//! ```text
//!   creation   partitions = 0, growing-to = n ── make directories ── partitions = n        start: undo
//!   growth     partitions = m, growing-to = n ── make directories ── partitions = n        start: undo
//!   deletion   deleting = true ── rename directories ── forget offsets ── no entry         start: finish
//!   config     the new values, in one step
//! ```
//!
//! A btrfs over its quota takes no such file. There a deletion begins by emptying the topic's
//! directories, in an order that leaves no hole, and a start that finds all of them empty goes on
//! with it: no creation leaves such ones.
//!
//! Called by topics alone. A directory that no entry names has come from elsewhere: see adopt.rs.

use std::collections::BTreeMap;
use std::ops::Bound;

use anyhow::{Context, bail};
use penstock_storage::{DataDir, MAX_PARTITIONS, SmallFile, TopicId};
use serde::{Deserialize, Serialize};

use crate::broker::overrides::Overrides;

pub(crate) const FILE_NAME: &str = "penstock-topics.toml";

/// Of the file. Version 1 had no such line: it was a table of values for each topic that had any.
const VERSION: i64 = 2;

/// All topics, by name, as they stand in the file.
#[derive(Debug)]
pub(crate) struct Registry {
    file: SmallFile,
    entries: BTreeMap<String, Entry>,
    /// Each entry's part of the file: a change of one topic writes the others as they are.
    parts: BTreeMap<String, String>,
    /// What a file of version 1 had. It did not list the topics.
    former: BTreeMap<String, Overrides>,
    /// The file is there and lists them.
    lists_topics: bool,
    /// The file has not got what is in memory, for want of room. The next change writes it, too.
    is_unwritten: bool,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Entry {
    #[serde(with = "id_as_text")]
    pub(crate) id: TopicId,
    /// Those that are there for good: 0 to `partitions` - 1.
    pub(crate) partitions: i32,
    /// Those from `partitions` on are being made, up to this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) growing_to: Option<i32>,
    /// Its deletion has begun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) deleting: bool,
    /// It came from a Kafka whose retention is not known: the server's defaults do not apply to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) retention_held: bool,
    #[serde(default)]
    pub(crate) config: Overrides,
}

impl Entry {
    /// A topic that is there, whole.
    pub(crate) fn whole(id: TopicId, partitions: i32, config: Overrides) -> Entry {
        let (growing_to, deleting, retention_held) = (None, false, false);
        Entry { id, partitions, growing_to, deleting, retention_held, config }
    }

    /// A topic of which nothing is there yet.
    pub(crate) fn new(id: TopicId, config: Overrides) -> Entry {
        Entry::whole(id, 0, config)
    }

    /// The same topic while it is made larger, or made at all.
    pub(crate) fn growing(&self, to: i32) -> Entry {
        Entry { growing_to: Some(to), ..self.clone() }
    }

    /// The same topic with as many partitions as were being made.
    pub(crate) fn grown(&self) -> Entry {
        let partitions = self.growing_to.unwrap_or(self.partitions);
        Entry { partitions, growing_to: None, ..self.clone() }
    }

    /// The same topic without those that were being made; `None` if there were no others.
    pub(crate) fn not_grown(&self) -> Option<Entry> {
        (self.partitions > 0).then(|| Entry { growing_to: None, ..self.clone() })
    }

    /// It keeps its records although its owner has not asked for that.
    pub(crate) fn keeps_unasked(&self) -> bool {
        self.retention_held && !self.deleting && self.config.get("retention.ms").is_none()
    }

    /// Numbers of the partitions that are being made.
    pub(crate) fn being_made(&self) -> std::ops::Range<i32> {
        self.partitions..self.growing_to.unwrap_or(self.partitions)
    }
}

/// Version 2 of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "version")]
    _version: i64,
    #[serde(default)]
    topics: BTreeMap<String, Entry>,
}

impl Registry {
    /// Reads the file; none is the same as an empty one. Blocks.
    ///
    /// # Errors
    /// It cannot be read or understood: which topics there are is then not known.
    pub(crate) fn open(data_dir: &DataDir) -> anyhow::Result<Registry> {
        let file = data_dir.small_file(FILE_NAME);
        let path = file.path();
        let text = file.read().with_context(|| format!("cannot read {}", path.display()))?;
        let parsed = parse(&text.unwrap_or_default());
        let (entries, former, lists_topics) =
            parsed.with_context(|| format!("in {}", path.display()))?;
        let parts = parts_of(&entries);
        Ok(Registry { file, entries, parts, former, lists_topics, is_unwritten: false })
    }

    pub(crate) fn get(&self, topic: &str) -> Option<&Entry> {
        self.entries.get(topic)
    }

    /// All of them, by name.
    pub(crate) fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Whether a directory without an entry has come from elsewhere: before there was such a list,
    /// all were without.
    pub(crate) fn lists_topics(&self) -> bool {
        self.lists_topics
    }

    /// What version 1 of the file says of a topic.
    pub(crate) fn former_overrides(&self, topic: &str) -> Option<&Overrides> {
        self.former.get(topic)
    }

    /// Puts an entry in the place of the topic's own, or takes that away. Blocks until it is on the
    /// disk.
    ///
    /// # Errors
    /// The file cannot be replaced; then it and memory are as before.
    pub(crate) fn set(&mut self, topic: &str, entry: Option<Entry>) -> anyhow::Result<()> {
        if self.entries.get(topic) == entry.as_ref() && !self.is_unwritten {
            return Ok(());
        }
        let part = entry.as_ref().map(|entry| part_of(topic, entry));
        let range = |range: (Bound<&str>, Bound<&str>)| self.parts.range::<str, _>(range);
        let before = range((Bound::Unbounded, Bound::Excluded(topic))).map(|(_, part)| part);
        let behind = range((Bound::Excluded(topic), Bound::Unbounded)).map(|(_, part)| part);
        let text = text_of(before.chain(&part).chain(behind));
        self.write(&text)?;
        match entry.zip(part) {
            Some((entry, part)) => {
                self.entries.insert(topic.to_owned(), entry);
                self.parts.insert(topic.to_owned(), part);
            }
            None => {
                self.entries.remove(topic);
                self.parts.remove(topic);
            }
        }
        Ok(())
    }

    /// Changes a topic's entry, if it has one.
    ///
    /// # Errors
    /// As [`Registry::set`].
    pub(crate) fn update(
        &mut self,
        topic: &str,
        change: impl FnOnce(&mut Entry),
    ) -> anyhow::Result<()> {
        let Some(entry) = self.entries.get(topic) else { return Ok(()) };
        let mut entry = entry.clone();
        change(&mut entry);
        self.set(topic, Some(entry))
    }

    /// Replaces all entries. Blocks until they are on the disk.
    ///
    /// # Errors
    /// As [`Registry::set`].
    pub(crate) fn replace(&mut self, entries: BTreeMap<String, Entry>) -> anyhow::Result<()> {
        let parts = parts_of(&entries);
        self.write(&text_of(parts.values()))?;
        (self.entries, self.parts) = (entries, parts);
        Ok(())
    }

    fn write(&mut self, text: &str) -> anyhow::Result<()> {
        if let Err(error) = self.file.replace(text) {
            self.put_back();
            let path = self.file.path();
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        self.former.clear();
        (self.lists_topics, self.is_unwritten) = (true, false);
        Ok(())
    }

    /// Begins the list, if that has not been done. Blocks.
    ///
    /// # Errors
    /// As [`Registry::set`].
    pub(crate) fn begin_list(&mut self) -> anyhow::Result<()> {
        if self.lists_topics { Ok(()) } else { self.replace(self.entries.clone()) }
    }

    /// Replaces all entries in memory; the file keeps what it has. For a start on a disk without
    /// room.
    pub(crate) fn replace_in_memory(&mut self, entries: BTreeMap<String, Entry>) {
        self.parts = parts_of(&entries);
        self.entries = entries;
        self.is_unwritten = true;
    }

    /// Notes in memory that a topic is being deleted. Its empty directories say so to the next
    /// start.
    pub(crate) fn delete_in_memory(&mut self, topic: &str) {
        let mut entries = self.entries.clone();
        entries.entry(topic.to_owned()).and_modify(|entry| entry.deleting = true);
        self.replace_in_memory(entries);
    }

    /// A replacement that failed at its last step, the sync of the directory, has its new text in
    /// place.
    fn put_back(&self) {
        if self.is_unwritten {
            return;
        }
        let text = text_of(self.parts.values());
        let is_new = matches!(self.file.read(), Ok(Some(there)) if there != text);
        if is_new && self.former.is_empty() {
            // What is wrong was reported; the next change tries to write the whole file again.
            let _ = self.file.replace(&text);
        }
    }
}

/// Entries, what version 1 had in their place, and which of the two it is.
type Parsed = (BTreeMap<String, Entry>, BTreeMap<String, Overrides>, bool);

fn parse(text: &str) -> anyhow::Result<Parsed> {
    let table: toml::Table = text.parse()?;
    match table.get("version") {
        Some(toml::Value::Integer(VERSION)) => {
            let file: File = table.try_into()?;
            let may_have = 0..=MAX_PARTITIONS;
            let numbers = |entry: &Entry| [Some(entry.partitions), entry.growing_to];
            for (topic, entry) in &file.topics {
                if numbers(entry).iter().flatten().any(|number| !may_have.contains(number)) {
                    bail!("topic {topic} cannot have that many partitions");
                }
            }
            Ok((file.topics, BTreeMap::new(), true))
        }
        Some(toml::Value::Integer(version)) => {
            bail!("version {version}; this program knows versions up to {VERSION}")
        }
        // A topic may be named `version`.
        _ => Ok((BTreeMap::new(), table.try_into()?, false)),
    }
}

fn text_of<'a>(parts: impl Iterator<Item = &'a String>) -> String {
    parts.fold(format!("version = {VERSION}\n"), |text, part| text + "\n" + part)
}

fn parts_of(entries: &BTreeMap<String, Entry>) -> BTreeMap<String, String> {
    entries.iter().map(|(topic, entry)| (topic.clone(), part_of(topic, entry))).collect()
}

/// The tables of one topic.
fn part_of(topic: &str, entry: &Entry) -> String {
    let topics = BTreeMap::from([(topic, entry)]);
    let table = BTreeMap::from([("topics", topics)]);
    toml::to_string(&table).expect("maps of strings, numbers and truth values are TOML")
}

mod id_as_text {
    use penstock_storage::TopicId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &TopicId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<TopicId, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Overrides {
        let mut config = Overrides::default();
        for (key, value) in pairs {
            config.set(key, value).unwrap();
        }
        config
    }

    fn data_dir() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        (dir, data_dir)
    }

    #[test]
    fn what_was_set_is_there_after_a_restart() {
        let (_dir, data_dir) = data_dir();
        let mut registry = Registry::open(&data_dir).unwrap();
        let whole = Entry {
            retention_held: true,
            ..Entry::whole(TopicId::random(), 3, config(&[("segment.bytes", "4096")]))
        };
        registry.set("a.b", Some(whole.clone())).unwrap();
        let growing = Entry::new(TopicId::random(), Overrides::default()).growing(5);
        registry.set("version", Some(growing.clone())).unwrap();
        registry.set("gone", Some(whole.clone())).unwrap();
        registry.set("gone", None).unwrap();
        registry.update("a.b", |entry| entry.deleting = true).unwrap();

        let again = Registry::open(&data_dir).unwrap();
        assert_eq!(again.get("a.b"), Some(&Entry { deleting: true, ..whole }));
        assert_eq!(again.get("version"), Some(&growing));
        assert_eq!(again.entries().len(), 2);
        assert_eq!(again.parts, registry.parts);
    }

    #[test]
    fn an_entry_knows_what_a_start_must_undo() {
        let new = Entry::new(TopicId::random(), Overrides::default());
        assert_eq!(new.growing(3).being_made(), 0..3);
        assert_eq!(new.growing(3).not_grown(), None);
        let whole = new.growing(3).grown();
        assert_eq!((whole.partitions, whole.being_made()), (3, 3..3));
        assert_eq!(whole.growing(5).being_made(), 3..5);
        assert_eq!(whole.growing(5).not_grown(), Some(whole));
    }

    #[test]
    fn a_file_of_version_1_has_overrides_and_no_topics() {
        let (dir, data_dir) = data_dir();
        let text = "[version]\n\"segment.bytes\" = \"4096\"\n";
        std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
        let registry = Registry::open(&data_dir).unwrap();
        assert!(registry.entries().is_empty());
        let expected = config(&[("segment.bytes", "4096")]);
        assert_eq!(registry.former_overrides("version"), Some(&expected));
    }

    #[test]
    fn a_file_of_a_newer_program_or_with_unknown_words_is_refused() {
        let (dir, data_dir) = data_dir();
        for text in
            ["version = 3", "version = 2\n[topics.t]\npartitions = 1\n", "version = 2\nx = 1"]
        {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            assert!(Registry::open(&data_dir).is_err(), "{text}");
        }
        for (partitions, can_be) in [(-1, false), (0, true), (100_000, true), (i32::MAX, false)] {
            let id = TopicId::random();
            let text =
                format!("version = 2\n[topics.t]\nid = \"{id}\"\npartitions = {partitions}\n");
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            assert_eq!(Registry::open(&data_dir).is_ok(), can_be, "{partitions}");
        }
    }

    #[test]
    fn a_replacement_that_fails_leaves_file_and_memory_as_they_were() {
        let (dir, data_dir) = data_dir();
        let mut registry = Registry::open(&data_dir).unwrap();
        let entry = Entry::whole(TopicId::random(), 1, Overrides::default());
        registry.set("t", Some(entry.clone())).unwrap();
        // The file that would be renamed over cannot be made.
        let beside = dir.path().join(format!("{FILE_NAME}.tmp"));
        std::fs::create_dir(&beside).unwrap();
        assert!(registry.set("t", None).is_err());
        assert_eq!(registry.get("t"), Some(&entry));
        assert_eq!(Registry::open(&data_dir).unwrap().get("t"), Some(&entry));
    }
}
