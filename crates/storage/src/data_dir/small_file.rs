//! A small text file of the data directory, replaced whole. `DataDir` hands it out to callers that
//! keep some lines over restarts, so that a test's simulated disk sees them, too.

use std::{io, path::PathBuf};

use crate::disk::Directory;

/// A file by its name in the data directory. It need not exist.
#[derive(Clone, Debug)]
pub struct SmallFile {
    dir: Directory,
    name: &'static str,
}

impl SmallFile {
    pub(crate) fn new(dir: &Directory, name: &'static str) -> SmallFile {
        SmallFile { dir: dir.clone(), name }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    /// The text; `None`: there is no such file. Blocks.
    ///
    /// # Errors
    /// The file system's. Also if the file is larger than 64 MiB, or no UTF-8.
    pub fn read(&self) -> io::Result<Option<String>> {
        match self.dir.read_to_string(self.name) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the text, and syncs it. Blocks.
    ///
    /// # Errors
    /// The file system's. The file then has the old text. If only the directory could not be synced
    /// it has the new text, and which of the two survives a power cut is not known.
    pub fn replace(&self, text: &str) -> io::Result<()> {
        self.dir.replace_file(self.name, text.as_bytes())
    }
}
