//! Brings served files into the page cache, and looks whether they are in it.
//!
//! A run on evicted pages measures the disk. So a bench warms the files before it measures, and
//! looks at them again afterwards. The look reads one byte of a page without waiting for the disk
//! (preadv2(2), RWF_NOWAIT). It needs no tool and no privilege.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Pages of the segments, and how many of them are in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Residency {
    /// Pages looked at.
    pub pages: u64,
    /// Pages found in memory.
    pub cached: u64,
}

impl Residency {
    /// The share of pages in memory, 0 to 1.
    pub fn share(&self) -> f64 {
        if self.pages == 0 { 1.0 } else { self.cached as f64 / self.pages as f64 }
    }
}

/// Looks at every page of every segment. `None`: the file system has no reads that refuse to wait.
///
/// # Errors
/// A file cannot be read.
pub fn residency(data_dir: &Path) -> io::Result<Option<Residency>> {
    let mut sum = Residency::default();
    for path in segments(data_dir)? {
        let file = File::open(path)?;
        let Some(found) = residency_of(&file, 0..file.metadata()?.len(), 1)? else {
            return Ok(None);
        };
        sum = Residency { pages: sum.pages + found.pages, cached: sum.cached + found.cached };
    }
    Ok(Some(sum))
}

/// Looks at every `step`th page of a range of bytes within the file.
///
/// # Errors
/// The file cannot be read.
pub fn residency_of(file: &File, range: Range<u64>, step: usize) -> io::Result<Option<Residency>> {
    let mut found = Residency::default();
    for position in range.step_by(rustix::param::page_size() * step) {
        let mut byte = [0];
        let mut buffer = [IoSliceMut::new(&mut byte)];
        found.pages += 1;
        match preadv2(file, &mut buffer, position, ReadWriteFlags::NOWAIT) {
            Ok(_) => found.cached += 1,
            Err(Errno::AGAIN) => {}
            Err(Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(found))
}

/// Reads every segment once.
///
/// # Errors
/// A file cannot be read.
pub fn warm(data_dir: &Path) -> io::Result<()> {
    for path in segments(data_dir)? {
        io::copy(&mut File::open(path)?, &mut io::sink())?;
    }
    Ok(())
}

fn segments(data_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for partition in fs::read_dir(data_dir)? {
        let partition = partition?.path();
        if !partition.is_dir() {
            continue;
        }
        for file in fs::read_dir(partition)? {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "log") {
                found.push(file);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_read_is_in_the_cache_and_only_segments_count() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("demo-0"))?;
        fs::write(dir.path().join("demo-0/00000000000000000000.log"), vec![7; 10_000])?;
        fs::write(dir.path().join("demo-0/00000000000000000000.index"), [7; 8])?;
        warm(dir.path())?;
        let pages = 10_000_u64.div_ceil(rustix::param::page_size() as u64);
        if let Some(residency) = residency(dir.path())? {
            assert_eq!(residency, Residency { pages, cached: pages });
            assert_eq!(residency.share(), 1.0);
        }
        Ok(())
    }
}
