//! How a partition leaves the data directory: by a rename, so that its name is free at once, or
//! file by file where a rename finds no room.
//!
//! ```text
//!   t-0 ──rename──▶ t-0.<id>-delete ──▶ removed                        take_away, remove_taken_away
//!    └───no room──▶ its files are unlinked ──▶ t-0, empty ──▶ removed  empty
//! ```
//!
//! Btrfs over its quota renames nothing, and unlinks.

use std::{io, path::PathBuf};

use super::{DataDir, DataDirError, io_error, name_of};
use crate::{
    disk::{DirEntry, is_no_room},
    topic_name::PartitionName,
};

/// A partition's directory that has lost its name.
#[derive(Debug)]
pub struct TakenAway {
    from: PathBuf,
    to: PathBuf,
    /// There was no room for another name, so its files were removed at once.
    is_removed: bool,
}

impl DataDir {
    /// Takes a partition's name away, which begins a deletion. Fetches under way finish. The caller
    /// syncs the directory (`sync`) once all partitions of the topic have lost their names. A
    /// missing partition is no error. Without room for another name its files are removed at once.
    pub fn take_away(&self, name: &PartitionName) -> Result<TakenAway, DataDirError> {
        let (from, to) = (self.partition_path(name), self.dir.join(name.deleted()));
        match self.disk().rename(&from, &to) {
            Err(error) if is_no_room(&error) => {
                self.empty(name)?;
                self.disk().remove_dir_all(&from).map_err(io_error(&from))?;
                Ok(TakenAway { from, to, is_removed: true })
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&from)(error)),
            _ => Ok(TakenAway { from, to, is_removed: false }),
        }
    }

    /// Removes a partition's files, which needs no room on any file system, and syncs that. The
    /// empty directory stays as the mark of it (`is_emptied`). A kill in between leaves no hole:
    /// the oldest segments go first, and `partition.metadata` last. A missing partition is no
    /// error.
    pub fn empty(&self, name: &PartitionName) -> Result<(), DataDirError> {
        let dir = self.dir.subdirectory(&name.to_string());
        let mut entries = match self.disk().list(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed.map_err(io_error(&dir))?,
        };
        // The names of segments are digits, which come first.
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        for DirEntry { path, is_dir, link } in entries {
            let removed = match is_dir && link.is_none() {
                true => self.disk().remove_dir_all(&path),
                false => self.disk().remove_file(&path),
            };
            removed.map_err(io_error(&path))?;
        }
        dir.sync().map_err(io_error(&dir))
    }

    /// Whether a partition has an empty directory. No creation leaves one.
    pub fn is_emptied(&self, name: &PartitionName) -> bool {
        self.disk().list(&self.partition_path(name)).is_ok_and(|entries| entries.is_empty())
    }

    /// Whether a partition has no directory.
    pub fn is_missing(&self, name: &PartitionName) -> bool {
        let listed = self.disk().list(&self.partition_path(name));
        listed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Gives a partition its name back.
    pub fn put_back(&self, taken: &TakenAway) -> Result<(), DataDirError> {
        if taken.is_removed {
            return Err(io_error(&taken.from)(io::ErrorKind::NotFound.into()));
        }
        match self.disk().rename(&taken.to, &taken.from) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error(&taken.to)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the directories that were taken away, now or by an earlier server. One that cannot
    /// be removed is logged, and the next call tries again. If the directory is a symbolic link,
    /// only the link is removed, which is logged, too: the files behind it may have other names,
    /// and were not made here.
    pub fn remove_taken_away(&self) -> Result<(), DataDirError> {
        for DirEntry { path, is_dir, link } in self.entries()? {
            let is_ours = (is_dir || link.is_some()) && name_of(&path).is_some_and(is_of_deleted);
            if !is_ours {
                continue;
            }
            let shown = path.display();
            match (self.disk().remove_dir_all(&path), link) {
                (Err(error), _) => {
                    tracing::warn!(path = %shown, %error, "cannot remove a deleted partition; the next start tries again");
                }
                (Ok(()), Some(target)) => {
                    let left = self.dir.join(target);
                    tracing::warn!(path = %shown, left = %left.display(),
                        "a deleted partition was a symbolic link: the link is removed, the files behind it are not");
                }
                (Ok(()), None) => {}
            }
        }
        Ok(())
    }
}

/// `<topic>-<partition>.<32 hex>-delete`, here and in Kafka. Other names that end like that are the
/// operator's own.
fn is_of_deleted(name: &str) -> bool {
    let parts = name.strip_suffix("-delete").and_then(|rest| rest.rsplit_once('.'));
    parts.is_some_and(|(partition, id)| {
        let is_hex = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex && PartitionName::parse(partition).is_some()
    })
}
