//! A small text file of the data directory, replaced whole. Handed out by `DataDir` to whoever
//! keeps some lines over restarts, so that they too go through the disk that a test can exchange.

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

    /// Its text; `None`: there is no such file. Blocks.
    ///
    /// # Errors
    /// The file system's; it is larger than 64 MiB, or no UTF-8.
    pub fn read(&self) -> io::Result<Option<String>> {
        match self.dir.read_to_string(self.name) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes this its text, on the disk as well. Blocks.
    ///
    /// # Errors
    /// The file system's. The old text is there then, unless only the directory could not be
    /// synced: the new text is there in that case, and which of them survives a power cut is not
    /// known.
    pub fn replace(&self, text: &str) -> io::Result<()> {
        self.dir.replace_file(self.name, text.as_bytes())
    }
}
