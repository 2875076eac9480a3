//! Sends segments out of the page cache, so that a test can read them from the disk.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Advice, fadvise};

/// Syncs the segments of a partition's directory, and drops their pages. A page in use at this
/// moment stays.
///
/// # Panics
/// A file cannot be opened or synced.
pub fn evict(partition: &Path) {
    for entry in std::fs::read_dir(partition).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let file = File::open(path).unwrap();
            file.sync_data().unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}
