//! Creating, growing, configuring and deleting topics: whole or not at all.
//!
//! The registry has the intent before the first directory changes, and the outcome after the last
//! one. interrupted.rs finishes or undoes an intent at start. Clients see nothing before the
//! outcome is on the disk. Called by requests on threads that may block; one change at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use penstock_storage::{DataDirError, PartitionName, TakenAway, TopicId};

use super::interrupted::{finish_deletion, undo_growth};
use super::{ChangeError, Topic, Topics};
use crate::broker::disk_reserve::is_full;
use crate::broker::overrides::Overrides;
use crate::broker::partition::Partition;
use crate::broker::registry::{Entry, Registry};
use crate::causes::Causes;

/// The most a deletion waits for the room of unlinked files.
const ROOM_COMES_MAX: Duration = Duration::from_millis(500);

/// Between two attempts.
const ROOM_REST: Duration = Duration::from_millis(20);

impl Topics {
    /// Creates a topic with partitions 0 to `count` - 1. Blocks.
    ///
    /// # Errors
    /// It exists, or the disk fails. Then nothing of it is left, or the next start removes the
    /// rest.
    pub(crate) fn create(
        &self,
        name: &str,
        count: i32,
        overrides: Overrides,
    ) -> Result<Arc<Topic>, ChangeError> {
        let mut registry = self.registry.lock();
        self.check_new(name)?;
        // Of an earlier topic of the name, if its deletion failed half-way.
        finish_deletion(&mut registry, &self.data_dir, &self.offsets, name)?;
        if self.offsets.has_topic(name) {
            self.offsets.forget(name).context("cannot forget the offsets of a former topic")?;
        }
        let entry = Entry::new(TopicId::random(), overrides);
        let topic = Arc::new(Topic::new(name, &entry, BTreeMap::new(), BTreeMap::new()));
        registry.set(name, Some(entry.growing(count)))?;
        self.grow(&mut registry, &topic)?;
        self.by_name.write().insert(name.to_owned(), Arc::clone(&topic));
        Ok(topic)
    }

    /// Adds partitions to a topic until it has `count`. Blocks.
    ///
    /// # Errors
    /// The topic is unknown or has as many already, or the disk fails. Then it has as many as
    /// before.
    pub(crate) fn add_partitions(&self, name: &str, count: i32) -> Result<(), ChangeError> {
        let mut registry = self.registry.lock();
        let topic = self.get(name).ok_or(ChangeError::Unknown)?;
        let has = topic.partition_count();
        if count <= has {
            return Err(ChangeError::NotMore { has });
        }
        let entry = registry.get(name).context("the topic has no entry in the registry")?;
        let growing = Entry { partitions: has, ..entry.clone() }.growing(count);
        registry.set(name, Some(growing))?;
        self.grow(&mut registry, &topic)
    }

    /// Makes the partitions that the registry marks as growing.
    fn grow(&self, registry: &mut Registry, topic: &Topic) -> Result<(), ChangeError> {
        let name = &topic.name;
        let entry = registry.get(name).context("the topic has no entry in the registry")?.clone();
        let made = self.make(topic, entry.being_made()).and_then(|made| {
            registry.set(name, Some(entry.grown()))?;
            Ok(made)
        });
        match made {
            Ok(made) => {
                topic.partitions.write().extend(made);
                Ok(())
            }
            Err(error) => {
                if let Err(error) = undo_growth(registry, &self.data_dir, name) {
                    tracing::error!(
                        name,
                        "cannot remove what there is of new partitions; the next start does: {}",
                        Causes(&error)
                    );
                }
                Err(error.into())
            }
        }
    }

    fn make(
        &self,
        topic: &Topic,
        indexes: Range<i32>,
    ) -> anyhow::Result<BTreeMap<i32, Arc<Partition>>> {
        let is_other =
            |name: &PartitionName| name.topic != topic.name || !indexes.contains(&name.partition);
        self.data_dir.retain_log_starts(is_other).context("cannot forget where logs started")?;
        let config = topic.config(&self.defaults);
        let make_one = |index| {
            let name = topic.name_of(index);
            let log = self
                .data_dir
                .create_partition(&name, topic.id, config.clone())
                .with_context(|| format!("cannot create partition {name}"))?;
            Ok((index, Partition::new(name, log, Arc::clone(&self.commits))))
        };
        indexes.clone().map(make_one).collect()
    }

    /// Replaces a topic's configuration by the outcome of `change`. Blocks.
    ///
    /// # Errors
    /// The topic is unknown, `change` refuses, or the disk fails.
    pub(crate) fn reconfigure(
        &self,
        name: &str,
        change: impl FnOnce(Overrides) -> Result<Overrides, String>,
    ) -> Result<(), ChangeError> {
        let mut registry = self.registry.lock();
        let topic = self.get(name).ok_or(ChangeError::Unknown)?;
        let overrides = change(topic.overrides()).map_err(ChangeError::Config)?;
        registry.update(name, |entry| entry.config = overrides.clone())?;
        *topic.overrides.write() = overrides;
        let config = topic.config(&self.defaults);
        let partitions = topic.partitions();
        partitions.iter().for_each(|partition| partition.log().set_config(config.clone()));
        drop(registry);
        // Later promises of flush.messages must not build on records that were acknowledged without
        // a sync.
        partitions.iter().filter(|partition| partition.promises_syncs()).for_each(|partition| {
            partition.flush();
        });
        Ok(())
    }

    /// Deletes a topic and the offsets that groups have committed of it. Fetches and appends that
    /// hold it finish on unlinked files. Blocks.
    ///
    /// # Errors
    /// The topic is unknown, or the disk fails. If a partition's name cannot be taken away, the
    /// whole topic is still served. If all names are gone and the rest fails, the topic is gone;
    /// the next start, or the next creation of a topic of the name, finishes the deletion.
    pub(crate) fn delete(&self, name: &str) -> Result<(), ChangeError> {
        let mut registry = self.registry.lock();
        let topic = self.get(name).ok_or(ChangeError::Unknown)?;
        match registry.update(name, |entry| entry.deleting = true) {
            Err(error) if is_full(&error) => {
                if !self.remove_first(&mut registry, name, topic)? {
                    return Ok(());
                }
            }
            noted => {
                noted?;
                // Dropped by the call, since files take room while they are open.
                self.take_away_or_keep(&mut registry, topic)?;
            }
        }
        when_there_is_room(|| finish_deletion(&mut registry, &self.data_dir, &self.offsets, name))?;
        let others = |partition: &PartitionName| partition.topic != name;
        if let Err(error) = self.data_dir.retain_log_starts(others) {
            // A new topic of the name forgets them as well.
            tracing::warn!(name, %error, "cannot forget where the logs of a deleted topic start");
        }
        Ok(())
    }

    /// Deletes files first, where there is no room to note the deletion: a btrfs over its quota can
    /// do nothing but unlink. Returns whether there was room afterwards. Without it the empty
    /// directories tell the next start, or the next creation of a topic of the name, to go on.
    fn remove_first(
        &self,
        registry: &mut Registry,
        name: &str,
        topic: Arc<Topic>,
    ) -> anyhow::Result<bool> {
        tracing::warn!(name, "no room to note a deletion: the files go first");
        self.drop_name(name);
        if let Err(error) = self.empty(&topic) {
            // The next creation of a topic of the name finishes this deletion, and does not take
            // over its rest.
            registry.delete_in_memory(name);
            return Err(error.into());
        }
        // Files take room while they are open; fetches end soon.
        drop(topic);
        match when_there_is_room(|| registry.update(name, |entry| entry.deleting = true)) {
            Err(error) if is_full(&error) => {
                tracing::warn!(name, "a deletion is noted when there is room: {}", Causes(&error));
                registry.delete_in_memory(name);
                Ok(false)
            }
            noted => noted.map(|()| true),
        }
    }

    fn empty(&self, topic: &Topic) -> Result<(), DataDirError> {
        for partition in topic.partitions() {
            partition.give_up_directory(|| self.data_dir.empty(&partition.name))?;
            partition.waiting().wake();
        }
        topic.absent().try_for_each(|index| self.data_dir.empty(&topic.name_of(index)))
    }

    /// Takes the names of a topic's partitions away and drops the topic; or leaves both as they
    /// were.
    fn take_away_or_keep(
        &self,
        registry: &mut Registry,
        topic: Arc<Topic>,
    ) -> Result<(), ChangeError> {
        let name = topic.name.as_str();
        if let Err(failed) = self.take_away(&topic) {
            let kept = match failed.is_whole {
                true => registry.update(name, |entry| entry.deleting = false),
                false => Err(anyhow::anyhow!("some of its partitions have lost their names")),
            };
            if let Err(error) = kept {
                // The next start goes on deleting it, so it must take no records until then.
                tracing::error!(
                    name,
                    "a deletion can neither go on nor be taken back: {}",
                    Causes(&error)
                );
                self.drop_name(name);
            }
            return Err(failed.error.into());
        }
        self.drop_name(name);
        topic.partitions().iter().for_each(|partition| partition.waiting().wake());
        Ok(())
    }

    /// Takes away the names of all partitions, or of none.
    fn take_away(&self, topic: &Topic) -> Result<(), NotTaken> {
        let mut served: Vec<(Arc<Partition>, TakenAway)> = Vec::new();
        let mut unserved: Vec<TakenAway> = Vec::new();
        let mut take_all = || {
            for partition in topic.partitions() {
                let take = || self.data_dir.take_away(&partition.name);
                let taken = partition.give_up_directory(take)?;
                served.push((partition, taken));
            }
            for index in topic.absent() {
                unserved.push(self.data_dir.take_away(&topic.name_of(index))?);
            }
            self.data_dir.sync()
        };
        let Err(error) = take_all() else { return Ok(()) };
        let mut is_whole = true;
        for (partition, taken) in served {
            is_whole &= partition.take_directory_back(|| self.data_dir.put_back(&taken)).is_ok();
        }
        for taken in unserved {
            is_whole &= self.data_dir.put_back(&taken).is_ok();
        }
        let error = anyhow::Error::from(error).context("cannot take a partition's name away");
        Err(NotTaken { error, is_whole })
    }
}

/// Tries again while there is no room: unlinked files are free when their last fetch ends.
fn when_there_is_room(mut attempt: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_full(&error) && began.elapsed() < ROOM_COMES_MAX => {
                std::thread::sleep(ROOM_REST);
            }
            outcome => return outcome,
        }
    }
}

/// A deletion that failed.
struct NotTaken {
    error: anyhow::Error,
    /// Whether every partition has its name again.
    is_whole: bool,
}
