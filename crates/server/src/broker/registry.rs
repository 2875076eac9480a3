//! The registry: the one file that decides which topics there are, also after a crash during a
//! change.
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
//! A change is written here before the first directory of the topic changes, and again after the
//! last one:
//!
//! ```text
//!   creation   partitions = 0, growing-to = n ── make directories ── partitions = n        start: undo
//!   growth     partitions = m, growing-to = n ── make directories ── partitions = n        start: undo
//!   deletion   deleting = true ── rename directories ── forget offsets ── no entry         start: finish
//!   config     the new values, in one step
//! ```
//!
//! A btrfs over its quota takes no such file. A deletion there begins by emptying the topic's
//! directories, in an order that leaves no hole. A start that finds all of them empty goes on with
//! the deletion, since no creation leaves empty ones.
//!
//! Called by topics alone. A directory without an entry has come from elsewhere: see adopt.rs.

use std::collections::BTreeMap;
use std::ops::Bound;

use anyhow::{Context, bail};
use penstock_storage::{DataDir, MAX_PARTITIONS, SmallFile, TopicId};
use serde::{Deserialize, Serialize};

use crate::broker::overrides::Overrides;

pub(crate) const FILE_NAME: &str = "penstock-topics.toml";

/// The file's version. Version 1 had no such line: it was a table of values for each topic that had
/// any.
const VERSION: i64 = 2;

/// All topics by name, as they are in the file.
#[derive(Debug)]
pub(crate) struct Registry {
    file: SmallFile,
    entries: BTreeMap<String, Entry>,
    /// Each entry's part of the file, so that a change of one topic writes the others unchanged.
    parts: BTreeMap<String, String>,
    /// The values of a file of version 1, which did not list the topics.
    former: BTreeMap<String, Overrides>,
    /// Whether the file is there and lists the topics.
    lists_topics: bool,
    /// Whether the file lacks what is in memory, for want of room. The next change writes it, too.
    is_unwritten: bool,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Entry {
    #[serde(with = "id_as_text")]
    pub(crate) id: TopicId,
    /// The number of partitions that are there for good: 0 to `partitions` - 1.
    pub(crate) partitions: i32,
    /// Partitions from `partitions` up to this number are being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) growing_to: Option<i32>,
    /// Whether its deletion has begun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) deleting: bool,
    /// Whether it came from a Kafka with unknown retention: the server's defaults do not apply to
    /// it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) retention_held: bool,
    #[serde(default)]
    pub(crate) config: Overrides,
}

impl Entry {
    /// A topic that is there as a whole.
    pub(crate) fn whole(id: TopicId, partitions: i32, config: Overrides) -> Entry {
        let (growing_to, deleting, retention_held) = (None, false, false);
        Entry { id, partitions, growing_to, deleting, retention_held, config }
    }

    /// A topic without partitions yet.
    pub(crate) fn new(id: TopicId, config: Overrides) -> Entry {
        Entry::whole(id, 0, config)
    }

    /// The same topic while partitions are being made.
    pub(crate) fn growing(&self, to: i32) -> Entry {
        Entry { growing_to: Some(to), ..self.clone() }
    }

    /// The same topic once those partitions are made.
    pub(crate) fn grown(&self) -> Entry {
        let partitions = self.growing_to.unwrap_or(self.partitions);
        Entry { partitions, growing_to: None, ..self.clone() }
    }

    /// The same topic without the partitions that were being made; `None` if it had no others.
    pub(crate) fn not_grown(&self) -> Option<Entry> {
        (self.partitions > 0).then(|| Entry { growing_to: None, ..self.clone() })
    }

    /// Whether it keeps its records without its owner having asked for that.
    pub(crate) fn keeps_unasked(&self) -> bool {
        self.retention_held && !self.deleting && self.config.get("retention.ms").is_none()
    }

    /// Indexes of the partitions that are being made.
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
    /// Reads the file; a missing file is like an empty one. Blocks.
    ///
    /// # Errors
    /// The file cannot be read or parsed, so the topics are not known.
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

    /// All entries, by topic name.
    pub(crate) fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Whether the list of topics has been begun. Before, a directory without an entry had not
    /// necessarily come from elsewhere.
    pub(crate) fn lists_topics(&self) -> bool {
        self.lists_topics
    }

    /// The values of a topic in version 1 of the file.
    pub(crate) fn former_overrides(&self, topic: &str) -> Option<&Overrides> {
        self.former.get(topic)
    }

    /// Replaces a topic's entry, or removes it. Blocks until that is on the disk.
    ///
    /// # Errors
    /// The file cannot be replaced; then file and memory are as before.
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

    /// Replaces all entries in memory only, for a start on a disk without room.
    pub(crate) fn replace_in_memory(&mut self, entries: BTreeMap<String, Entry>) {
        self.parts = parts_of(&entries);
        self.entries = entries;
        self.is_unwritten = true;
    }

    /// Marks a topic as being deleted, in memory only. Its empty directories tell the next start.
    pub(crate) fn delete_in_memory(&mut self, topic: &str) {
        let mut entries = self.entries.clone();
        entries.entry(topic.to_owned()).and_modify(|entry| entry.deleting = true);
        self.replace_in_memory(entries);
    }

    /// Puts the old text back: a replacement that fails at its last step, the sync of the
    /// directory, leaves the new text in place.
    fn put_back(&self) {
        if self.is_unwritten {
            return;
        }
        let text = text_of(self.parts.values());
        let is_new = matches!(self.file.read(), Ok(Some(there)) if there != text);
        if is_new && self.former.is_empty() {
            // The error has been reported; the next change writes the whole file again.
            let _ = self.file.replace(&text);
        }
    }
}

/// The entries, the values of version 1 in their place, and whether the topics are listed.
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
        // Not a version: a topic may be named `version`.
        _ => Ok((BTreeMap::new(), table.try_into()?, false)),
    }
}

fn text_of<'a>(parts: impl Iterator<Item = &'a String>) -> String {
    parts.fold(format!("version = {VERSION}\n"), |text, part| text + "\n" + part)
}

fn parts_of(entries: &BTreeMap<String, Entry>) -> BTreeMap<String, String> {
    entries.iter().map(|(topic, entry)| (topic.clone(), part_of(topic, entry))).collect()
}

/// The tables of one topic in the file.
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
        // The temporary file cannot be made.
        let beside = dir.path().join(format!("{FILE_NAME}.tmp"));
        std::fs::create_dir(&beside).unwrap();
        assert!(registry.set("t", None).is_err());
        assert_eq!(registry.get("t"), Some(&entry));
        assert_eq!(Registry::open(&data_dir).unwrap().get("t"), Some(&entry));
    }
}
