//! The file system of the data directory, and what follows from it for reads.
//!
//! Examined once at start; the rings then know how to see which pages are in memory there. Never
//! fails a start: a directory that takes no trial file, such as one on a full disk, is judged by
//! its kind of file system.

use std::path::Path;

use penstock_ring::{Sight, Spliced};

/// Names of statfs(2)'s numbers.
const NAMES: [(u64, &str); 13] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x794c_7630, "overlayfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x6573_5546, "fuse"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0102_1997, "9p"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
];

/// The file system of the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// The name that mount(8) uses, or the number.
    pub(crate) name: String,
    /// How it shows which pages are in memory.
    pub(crate) sight: Sight,
    /// What a splice of its files moves; `None`: that could not be tried.
    pub(crate) spliced: Option<Spliced>,
}

impl FileSystem {
    /// Examines it. Blocks while it makes a trial file.
    pub(crate) fn of(data_dir: &Path) -> FileSystem {
        let sight = Sight::probe(data_dir).unwrap_or_else(|error| {
            let usual = Sight::usual(data_dir);
            tracing::warn!(%error, ?usual, "cannot examine the data directory's file system: it is treated as its kind usually behaves");
            usual
        });
        let magic = rustix::fs::statfs(data_dir).map_or(0, |file_system| file_system.f_type as u64);
        FileSystem { name: name_of(magic), sight, spliced: Spliced::probe(data_dir).ok() }
    }

    /// How residency is known, for labels.
    pub(crate) fn residency(&self) -> &'static str {
        match self.sight {
            Sight::Cachestat => "cachestat",
            Sight::Memory => "memory",
            Sight::Mincore => "mincore",
            Sight::Blind => "unknown",
        }
    }

    /// What splice and sendfile move, for labels.
    pub(crate) fn moves(&self) -> &'static str {
        match self.spliced {
            Some(Spliced::Pages) => "pages",
            Some(Spliced::Copies) => "copies",
            None => "unknown",
        }
    }

    /// Logs the file system and what follows from it, once.
    pub(crate) fn report(&self, drops_behind: bool) {
        let (file_system, residency) = (&*self.name, self.residency());
        let follows = match self.sight {
            Sight::Cachestat => "cached pages are sent at once, others are read on kernel workers",
            Sight::Memory => {
                "all pages are in memory and are sent at once; none of them survives a reboot"
            }
            Sight::Mincore => {
                "cached pages are seen by mincore(2) and sent at once; the scrubber does not drop what it reads"
            }
            Sight::Blind => {
                "cached pages cannot be known: fetches of more than 16 KiB go by kernel workers, nothing is dropped"
            }
        };
        match self.sight {
            Sight::Blind => {
                tracing::warn!(
                    file_system,
                    residency,
                    drops_behind,
                    "the data directory: {follows}"
                );
            }
            _ => tracing::info!(
                file_system,
                residency,
                drops_behind,
                "the data directory: {follows}"
            ),
        }
        if self.spliced == Some(Spliced::Copies) {
            tracing::info!(
                file_system,
                "splice and sendfile copy here: under --fetch-path auto, cached bytes are read and sent instead"
            );
        }
        if drops_behind && !self.sight.tells_cold() {
            tracing::warn!(
                file_system,
                "fetch.drop.behind does nothing here: it could evict what others read"
            );
        }
    }
}

fn name_of(magic: u64) -> String {
    let known = NAMES.iter().find(|(number, _)| *number == magic);
    known.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_a_name_or_a_number_and_a_way_to_see_its_pages() {
        let on = |dir| FileSystem::of(Path::new(dir));
        let proc = on("/proc");
        assert_eq!((&*proc.name, proc.residency(), proc.moves()), ("0x9fa0", "unknown", "unknown"));
        if Path::new("/dev/shm").is_dir() {
            let shared_memory = on("/dev/shm");
            assert_eq!((&*shared_memory.name, shared_memory.residency()), ("tmpfs", "memory"));
        }
    }
}
