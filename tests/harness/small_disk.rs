//! A small disk with a server's directory and a foreign file that takes the room. It is made on
//! each of the file systems that refuse different calls when they are full.
//!
//! ```text
//!   <mount>/[room/]data        the server's
//!                  foreign     takes free room without writes: fallocate(2)
//! ```
//!
//! With `BtrfsQuota` both are in a subvolume whose quota is full, which statvfs(3) does not show.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::rounds::is_soak;
use crate::volume::{Mount, Volume, limit};

const QUOTA_BYTES: u64 = 32 << 20;

/// The kinds of small disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// In memory.
    Tmpfs,
    /// On a loop device.
    Ext4,
    /// On a loop device.
    Xfs,
    /// On a loop device.
    Btrfs,
    /// A subvolume with a limit, on a btrfs with room.
    BtrfsQuota,
}

/// A mounted small disk. Dropping it unmounts the disk.
#[derive(Debug)]
pub struct SmallDisk {
    place: PathBuf,
    _mount: Mounted,
}

#[derive(Debug)]
enum Mounted {
    Tmpfs(#[expect(dead_code, reason = "held until dropped")] Mount),
    Volume(#[expect(dead_code, reason = "held until dropped")] Volume),
}

impl FileSystem {
    /// All kinds.
    pub const ALL: [FileSystem; 5] = [
        FileSystem::Tmpfs,
        FileSystem::Ext4,
        FileSystem::Xfs,
        FileSystem::Btrfs,
        FileSystem::BtrfsQuota,
    ];

    /// The least size that its tools make, with room to spare for metadata.
    fn len_bytes(self) -> u64 {
        match self {
            FileSystem::Tmpfs | FileSystem::Ext4 => 32 << 20,
            FileSystem::Xfs => 300 << 20,
            FileSystem::Btrfs => 128 << 20,
            FileSystem::BtrfsQuota => 256 << 20,
        }
    }
}

impl SmallDisk {
    /// Mounts a small disk in `dir`. `None`: the machine cannot, which is logged.
    ///
    /// # Errors
    /// The machine could, but something failed.
    pub fn mount(dir: &Path, kind: FileSystem) -> anyhow::Result<Option<SmallDisk>> {
        let len_bytes = kind.len_bytes();
        let (mounted, mut place) = match kind {
            FileSystem::Tmpfs => {
                let place = dir.join("disk");
                let Some(mount) = Mount::tmpfs(&place, len_bytes)? else { return Ok(None) };
                (Mounted::Tmpfs(mount), place)
            }
            FileSystem::Ext4 => {
                let Some(volume) = Volume::make(dir, len_bytes, "")? else {
                    return Ok(None);
                };
                let place = volume.path().to_owned();
                (Mounted::Volume(volume), place)
            }
            FileSystem::Xfs | FileSystem::Btrfs | FileSystem::BtrfsQuota => {
                let name = if kind == FileSystem::Xfs { "xfs" } else { "btrfs" };
                let Some(volume) = Volume::make_as(dir, len_bytes, name)? else {
                    return Ok(None);
                };
                let place = volume.path().to_owned();
                (Mounted::Volume(volume), place)
            }
        };
        if kind == FileSystem::BtrfsQuota {
            place = limit::subvolume(&place)?;
            limit::set(&place, QUOTA_BYTES)?;
        }
        Ok(Some(SmallDisk { place, _mount: mounted }))
    }

    /// The place for a server's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.place.join("data")
    }

    /// Takes all free room but about `left_bytes`, until `give_back`.
    ///
    /// # Panics
    /// The file system fails.
    pub fn take(&self, left_bytes: u64) {
        // A file over its quota cannot be truncated, so the room to be left is set aside before.
        let left = self.place.join("left");
        if left_bytes > 0 {
            fill(&File::create(&left).expect("there is room"), left_bytes);
        }
        let file = File::options().create(true).append(true).open(self.place.join("foreign"));
        if let Ok(file) = file {
            fill(&file, u64::MAX);
            // Btrfs releases room reserved for changes with the transaction, and may find more
            // then.
            let _ = file.sync_all();
            fill(&file, u64::MAX);
        }
        if left_bytes > 0 {
            std::fs::remove_file(&left).expect("a file can be unlinked");
            self.settle();
        }
    }

    /// Frees the room that `take` has taken.
    ///
    /// # Panics
    /// The file cannot be unlinked.
    pub fn give_back(&self) {
        std::fs::remove_file(self.place.join("foreign")).expect("a file can be unlinked");
        self.settle();
    }

    /// Lowers the limit of a disk with a quota below its use.
    ///
    /// # Panics
    /// The disk has no quota, or btrfs(8) fails.
    pub fn exceed_quota(&self) {
        limit::set(&self.place, 1 << 20).expect("a limit can be lowered");
    }

    /// Raises that limit again.
    ///
    /// # Panics
    /// The disk has no quota, or btrfs(8) fails.
    pub fn restore_quota(&self) {
        limit::set(&self.place, QUOTA_BYTES).expect("a limit can be raised");
    }

    /// Waits until the room of unlinked files is free, which btrfs and XFS do in the background.
    fn settle(&self) {
        let dir = File::open(&self.place).expect("the directory is there");
        rustix::fs::syncfs(&dir).expect("the file system is sound");
    }
}

/// Takes so many bytes, or all there are.
fn fill(file: &File, len_bytes: u64) {
    use rustix::fs::{FallocateFlags, fallocate};
    let mut at = file.metadata().map_or(0, |metadata| metadata.len());
    let end = at.saturating_add(len_bytes);
    for piece in [16 << 20, 1 << 20, 64 << 10, 4096] {
        while at + piece <= end && fallocate(file, FallocateFlags::empty(), at, piece).is_ok() {
            at += piece;
        }
    }
    if is_soak() && end == u64::MAX {
        // The rest that is smaller than a page.
        let _ = file.write_all_at(&[1; 4095], at);
    }
}
