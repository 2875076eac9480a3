//! Files as storage sees them: a disk that a test can exchange for a simulated one.
//!
//! ```text
//!   Log ──▶ Directory ──▶ dyn Disk ──▶ dyn DiskFile ──handle()──▶ Arc<File>, which readers send from
//! ```
//!
//! All file work of this crate goes through here. So a test can lose writes that were not synced,
//! tear them, and let each single one fail. The ring reads and writes by a file's handle.
//! Everything here may block.

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io,
    ops::Deref,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Checkpoints are read whole. A larger file is no checkpoint.
const MAX_SMALL_FILE_BYTES: u64 = 64 << 20;

/// A place that holds files and directories.
pub trait Disk: Debug + Send + Sync {
    /// Opens a file that exists, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing. Makes it if it does not exist, and changes nothing in
    /// one that does.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// The entries of a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Makes a directory and those above it. One that exists is no error.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Unlinks a file. Reads through an open handle go on.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and all that is in it. Of a link to a directory, removes the link alone.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Renames a file or directory. A file that has the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a directory survive a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file. Its methods mean what those of `std` mean.
pub trait DiskFile: Debug + Send + Sync {
    /// Fills the buffer. A file that ends before is an error.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;

    /// Writes all bytes. After an error any part of them may be in the file.
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Bytes in the file.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Makes content and length survive a power cut. The name takes `Disk::sync_dir`.
    ///
    /// After an error it is not known what is on the disk, and a second call does not tell
    /// (KERNEL.md).
    fn sync_data(&self) -> io::Result<()>;

    /// The handle that the ring and readers use.
    fn handle(&self) -> &Arc<File>;
}

/// A file or directory in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Where it is.
    pub path: PathBuf,
    /// It is a directory, or a link that leads to one.
    pub is_dir: bool,
    /// The target of a symbolic link.
    pub link: Option<PathBuf>,
}

/// The files of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct Files;

impl Disk for Files {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(RealFile(Arc::new(file))))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Box::new(RealFile(Arc::new(file))))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let entries = fs::read_dir(dir)?.map(|entry| {
            let entry = entry?;
            let (path, is_link) = (entry.path(), entry.file_type()?.is_symlink());
            let link = is_link.then(|| fs::read_link(&path)).transpose()?;
            Ok(DirEntry { is_dir: path.is_dir(), path, link })
        });
        entries.collect()
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all().map_err(sync_error)
    }
}

/// Shared with the ring and with readers.
#[derive(Debug)]
struct RealFile(Arc<File>);

impl DiskFile for RealFile {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, position)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn handle(&self) -> &Arc<File> {
        &self.0
    }
}

/// A directory's path and the disk it is on. Made from a path alone, it is on `Files`.
#[derive(Clone, Debug)]
pub struct Directory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Directory {
    /// A directory of that disk, which need not exist yet.
    pub fn on(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> Directory {
        Directory { disk, path: path.into() }
    }

    /// The disk of its files.
    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// A directory in this one.
    pub(crate) fn subdirectory(&self, name: &str) -> Directory {
        Directory { disk: self.disk.clone(), path: self.path.join(name) }
    }

    /// Makes the directory and those above it, so that their names survive a power cut.
    pub(crate) fn create(&self) -> io::Result<()> {
        let is_missing = |dir: &&Path| {
            self.disk.list(dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let missing = self.ancestors().take_while(is_missing).count();
        self.disk.create_dir_all(&self.path)?;
        // One level more than was missing: its maker may have died before its name was synced.
        for dir in self.ancestors().skip(1).take(missing + 1) {
            let here = Path::new(".");
            match self.disk.sync_dir(if dir == Path::new("") { here } else { dir }) {
                // A directory above that existed before may be closed to this process.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Reads a small file whole. A large one is an error.
    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.disk.open(&self.join(name))?;
        let len_bytes = file.len_bytes()?;
        if len_bytes > MAX_SMALL_FILE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; len_bytes as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Reads a small text file whole.
    pub(crate) fn read_to_string(&self, name: &str) -> io::Result<String> {
        let text = String::from_utf8(self.read(name)?);
        text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Writes a small file so that a reader, or a start after a power cut, finds the old or the new
    /// one whole.
    pub(crate) fn replace_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.put_file(name, bytes)?;
        self.sync()
    }

    /// Like `replace_file`, for a caller that syncs the directory afterwards. Until then a power
    /// cut may bring the old file back.
    pub(crate) fn put_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > MAX_SMALL_FILE_BYTES {
            // `read` would refuse it.
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let temporary = self.join(format!("{name}.tmp"));
        self.put_by(&temporary, name, bytes).inspect_err(|_| {
            // A partly written file takes room.
            let _ = self.disk.remove_file(&temporary);
        })
    }

    fn put_by(&self, temporary: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk.create(temporary)?;
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        self.disk.rename(temporary, &self.join(name))
    }

    /// Makes the names in it survive a power cut.
    ///
    /// A sync that failed is never an error of kind `StorageFull`. Callers go on after those; after
    /// a failed sync they must not, because it is not known which names are on the disk. Nor is it
    /// an error of a shortage, unless the directory could not even be opened: then nothing was
    /// tried.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let synced = self.disk.sync_dir(&self.path);
        synced.map_err(|error| match is_shortage(&error) {
            true => error,
            false => sync_error(error),
        })
    }
}

/// Whether there was no room: the file system is full, or over a quota. Such an error loses
/// nothing, and goes away once files are deleted. So it refuses the request, and takes nothing
/// offline. Which calls return it differs by file system (docs/DURABILITY.md): btrfs over a quota
/// does nothing but unlink. Too large a file (EFBIG) does not count: that is a limit of the process
/// or the file system, which no deletion ends.
pub fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether the process, or the system, has as many files open as it may. Nothing has happened to
/// the file.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    let out = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    out.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether the system is short of descriptors, memory or threads for the moment, or a signal came
/// between. An open or a write may be tried again. A sync that was tried never returns one of these
/// (`sync_error`).
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [Errno::AGAIN, Errno::INTR, Errno::NOMEM];
    let is = |errno: &Errno| error.raw_os_error() == Some(errno.raw_os_error());
    is_out_of_descriptors(error) || passing.iter().any(is)
}

/// The error of a sync that was tried and failed. Its kind is hidden: whatever the kernel calls the
/// reason, it must not pass for an error after which one may try again.
pub(crate) fn sync_error(error: io::Error) -> io::Error {
    io::Error::other(error)
}

/// Writes the first bytes of a file to it once more, unchanged. Blocks.
pub(crate) fn write_again(file: &dyn DiskFile, len_bytes: u64) -> io::Result<()> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let mut chunk = Vec::new();
    for at in (0..len_bytes).step_by(CHUNK_BYTES as usize) {
        chunk.resize((len_bytes - at).min(CHUNK_BYTES) as usize, 0);
        file.read_exact_at(&mut chunk, at)?;
        file.write_all_at(&chunk, at)?;
    }
    Ok(())
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Directory {
    fn from(path: &P) -> Directory {
        Directory::on(Arc::new(Files), path.as_ref())
    }
}

impl Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}
