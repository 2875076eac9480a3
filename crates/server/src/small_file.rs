//! Small files of the data directory, replaced whole.
//!
//! Called by whatever keeps a few lines over restarts: the registry of topics, `meta.properties`,
//! the reservation of producer ids.

use std::io::Write;
use std::path::Path;

/// Replaces a small file of the data directory, so that a crash leaves the old or the new one.
/// Blocks.
///
/// The file system's. The old file is there then, with one exception: if only its directory could
/// not be synced, the new file is there, and either may survive a power cut.
pub(crate) fn replace_file(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_added_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let directory = path.parent().expect("the file is in the data directory");
    // Opened before the new file is made: where descriptors are short, the old file stays.
    let directory = std::fs::File::open(directory)?;
    std::fs::rename(&beside, path)?;
    directory.sync_all()
}
