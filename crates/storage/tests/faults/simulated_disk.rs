//! A disk in memory that loses writes which were not synced, and fails on demand.
//!
//! ```text
//!   file   handle: what all reads see (the page cache)        durable + pending: what a power cut finds
//!   dir    names: what all look-ups see                       durable + pending
//!                                     sync: pending becomes durable
//! ```
//!
//! A file's handle is an anonymous file of the kernel, so that the log hands out an `Arc<File>` as
//! on a real disk. A test that writes by handle, as the server's ring does, calls `write` and
//! `sync` here.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::{Component, Path},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use penstock_storage::{DirEntry, Disk, DiskFile};
use rustix::{fs::MemfdFlags, io::Errno};

use crate::{
    power_cut::{Change, Renaming, found_content, found_names},
    random::Random,
};

/// Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

/// Kinds of calls that can fail on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Read,
    /// Writing, cutting and extending.
    Write,
    /// Syncs of files and directories.
    Sync,
    /// Making, renaming and unlinking.
    Name,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Sync, Kind::Name];
}

#[derive(Debug)]
struct State {
    files: Vec<FileNode>,
    /// The first one is the root.
    dirs: Vec<DirNode>,
    by_descriptor: HashMap<i32, usize>,
    random: Random,
    calls: BTreeMap<Kind, u64>,
    failures: Vec<(Kind, u64, Errno)>,
    failed: u64,
}

#[derive(Debug)]
struct FileNode {
    handle: Arc<File>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug, Default)]
struct DirNode {
    names: BTreeMap<OsString, Node>,
    durable: BTreeMap<OsString, Node>,
    pending: Vec<Renaming<Node>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(usize),
    Dir(usize),
}

impl SimulatedDisk {
    pub fn new(random: Random) -> SimulatedDisk {
        SimulatedDisk(Arc::new(Mutex::new(State {
            files: Vec::new(),
            dirs: vec![DirNode::default()],
            by_descriptor: HashMap::new(),
            random,
            calls: BTreeMap::new(),
            failures: Vec::new(),
            failed: 0,
        })))
    }

    /// The `nth` call of that kind from now on fails, the first one being 0.
    pub fn fail(&self, kind: Kind, nth: u64, error: Errno) {
        let mut state = self.lock();
        let at = state.calls.get(&kind).copied().unwrap_or(0) + nth;
        state.failures.push((kind, at, error));
    }

    /// Cancels failures that have not happened yet.
    pub fn stop_failing(&self) {
        self.lock().failures.clear();
    }

    /// How many calls have failed since the disk was made.
    pub fn failed(&self) -> u64 {
        self.lock().failed
    }

    /// How many calls of that kind there were.
    pub fn calls(&self, kind: Kind) -> u64 {
        self.lock().calls.get(&kind).copied().unwrap_or(0)
    }

    /// The pieces of an append, one behind the other, as the ring writes them.
    pub fn write(
        &self,
        handle: &Arc<File>,
        at: u64,
        pieces: &[impl AsRef<[u8]>],
    ) -> io::Result<()> {
        let mut state = self.lock();
        let id = state.by_descriptor[&handle.as_raw_fd()];
        let mut at = at;
        for piece in pieces {
            state.write(id, piece.as_ref(), at)?;
            at += piece.as_ref().len() as u64;
        }
        Ok(())
    }

    /// Cuts off the bytes of a failed append.
    pub fn cut(&self, handle: &Arc<File>, len_bytes: u64) -> io::Result<()> {
        let mut state = self.lock();
        let id = state.by_descriptor[&handle.as_raw_fd()];
        state.set_len(id, len_bytes)
    }

    /// The sync of the ring in `fsync` mode.
    pub fn sync(&self, handle: &Arc<File>) -> io::Result<()> {
        let mut state = self.lock();
        let id = state.by_descriptor[&handle.as_raw_fd()];
        state.sync_file(id)
    }

    /// The disk as it is when the power is back. The old one must not be used any more.
    pub fn after_power_cut(&self, random: &mut Random) -> SimulatedDisk {
        let old = self.lock();
        let new = SimulatedDisk::new(random.split());
        let mut state = new.lock();
        for file in &old.files {
            let content = found_content(&file.durable, &file.pending, random);
            state.add_file(content).expect("an anonymous file can be made");
        }
        let found = old.dirs.iter().map(|dir| found_names(&dir.durable, &dir.pending, random));
        state.dirs = found
            .map(|names| DirNode { durable: names.clone(), names, pending: Vec::new() })
            .collect();
        drop(state);
        new
    }

    /// A copy of all files as they are seen now, all synced, for a test to damage.
    pub fn copy(&self, random: Random) -> SimulatedDisk {
        let old = self.lock();
        let new = SimulatedDisk::new(random);
        let mut state = new.lock();
        for file in &old.files {
            state.add_file(content_of(&file.handle)).expect("an anonymous file can be made");
        }
        let copied = |dir: &DirNode| DirNode {
            names: dir.names.clone(),
            durable: dir.names.clone(),
            pending: Vec::new(),
        };
        state.dirs = old.dirs.iter().map(copied).collect();
        drop(state);
        new
    }

    /// A file's content; `None` if there is no such file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock();
        let id = state.file(path).ok()?;
        Some(content_of(&state.files[id].handle))
    }

    /// Replaces a file's content, durably.
    pub fn put(&self, path: &Path, content: &[u8]) {
        let mut state = self.lock();
        let id = state.add_file(content.to_vec()).expect("an anonymous file can be made");
        let (dir, name) = state.parent(path).expect("the directory exists");
        let name = name.to_owned();
        let dir = &mut state.dirs[dir];
        dir.names.insert(name.clone(), Node::File(id));
        dir.durable.insert(name, Node::File(id));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, state: &State, id: usize) -> Box<dyn DiskFile> {
        let handle = state.files[id].handle.clone();
        Box::new(SimulatedFile { disk: self.clone(), id, handle })
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.lock();
        Ok(self.opened(&state, state.file(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        let id = match state.file(path) {
            Ok(id) => id,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                state.call(Kind::Name)?;
                let (dir, name) = state.parent(path)?;
                let name = name.to_owned();
                let id = state.add_file(Vec::new())?;
                state.rename_in(dir, None, Some((name, Node::File(id))));
                id
            }
            Err(error) => return Err(error),
        };
        Ok(self.opened(&state, id))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.lock();
        state.call(Kind::Read)?;
        let id = state.dir(dir)?;
        let entry = |(name, node): (&OsString, &Node)| DirEntry {
            path: dir.join(name),
            is_dir: matches!(node, Node::Dir(_)),
            link: None,
        };
        Ok(state.dirs[id].names.iter().map(entry).collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        for path in dir.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
            if state.dir(path).is_err() {
                state.call(Kind::Name)?;
                let (parent, name) = state.parent(path)?;
                let name = name.to_owned();
                state.dirs.push(DirNode::default());
                let node = Node::Dir(state.dirs.len() - 1);
                state.rename_in(parent, None, Some((name, node)));
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.file(path)?;
        state.call(Kind::Name)?;
        state.take(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.dir(dir)?;
        state.call(Kind::Name)?;
        state.take(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let node = state.node(from)?;
        state.call(Kind::Name)?;
        let ((dir, old), (to_dir, new)) = (state.parent(from)?, state.parent(to)?);
        assert_eq!(dir, to_dir, "storage renames within a directory");
        let (old, new) = (old.to_owned(), new.to_owned());
        state.rename_in(dir, Some(old), Some((new, node)));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let id = state.dir(dir)?;
        // Names are journalled. Those whose sync failed wait for the next.
        state.call(Kind::Sync)?;
        let DirNode { durable, pending, .. } = &mut state.dirs[id];
        std::mem::take(pending).iter().for_each(|change| change.apply(durable));
        Ok(())
    }
}

/// An open file of a simulated disk.
#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    id: usize,
    handle: Arc<File>,
}

impl DiskFile for SimulatedFile {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.disk.lock().call(Kind::Read)?;
        FileExt::read_exact_at(&*self.handle, buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.disk.lock().write(self.id, bytes, position)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.handle.metadata()?.len())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.disk.lock().set_len(self.id, len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.lock().sync_file(self.id)
    }

    fn handle(&self) -> &Arc<File> {
        &self.handle
    }
}

impl State {
    /// Counts the call, and fails it on demand.
    fn call(&mut self, kind: Kind) -> io::Result<()> {
        let calls = self.calls.entry(kind).or_default();
        let now = *calls;
        *calls += 1;
        match self.failures.iter().find(|(of, at, _)| (*of, *at) == (kind, now)) {
            Some((.., error)) => {
                self.failed += 1;
                Err((*error).into())
            }
            None => Ok(()),
        }
    }

    /// A write that fails may have written a part.
    fn write(&mut self, id: usize, bytes: &[u8], position: u64) -> io::Result<()> {
        let outcome = self.call(Kind::Write);
        let written = match outcome {
            Ok(()) => bytes,
            Err(_) => &bytes[..self.random.below(bytes.len() + 1)],
        };
        let file = &mut self.files[id];
        file.handle.write_all_at(written, position)?;
        file.pending.push(Change::Write { at: position as usize, bytes: written.to_vec() });
        outcome
    }

    fn set_len(&mut self, id: usize, len_bytes: u64) -> io::Result<()> {
        self.call(Kind::Write)?;
        let file = &mut self.files[id];
        file.pending.push(Change::SetLen(len_bytes as usize));
        file.handle.set_len(len_bytes)
    }

    /// After a failure the bytes may be on the disk or not. No later sync tells, because the kernel
    /// has marked the pages clean.
    fn sync_file(&mut self, id: usize) -> io::Result<()> {
        let outcome = self.call(Kind::Sync);
        let FileNode { durable, pending, .. } = &mut self.files[id];
        let pending = std::mem::take(pending);
        match outcome {
            Ok(()) => pending.iter().for_each(|change| change.apply(durable)),
            Err(_) => *durable = found_content(durable, &pending, &mut self.random),
        }
        outcome
    }

    fn add_file(&mut self, content: Vec<u8>) -> io::Result<usize> {
        let handle = File::from(rustix::fs::memfd_create("simulated", MemfdFlags::CLOEXEC)?);
        handle.write_all_at(&content, 0)?;
        self.by_descriptor.insert(handle.as_raw_fd(), self.files.len());
        let (handle, pending) = (Arc::new(handle), Vec::new());
        self.files.push(FileNode { handle, durable: content, pending });
        Ok(self.files.len() - 1)
    }

    fn take(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        let name = name.to_owned();
        self.rename_in(dir, Some(name), None);
        Ok(())
    }

    fn rename_in(&mut self, dir: usize, takes: Option<OsString>, gives: Option<(OsString, Node)>) {
        let dir = &mut self.dirs[dir];
        let change = Renaming { takes, gives };
        change.apply(&mut dir.names);
        dir.pending.push(change);
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.node(path)? {
            Node::File(id) => Ok(id),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn dir(&self, path: &Path) -> io::Result<usize> {
        match self.node(path)? {
            Node::Dir(id) => Ok(id),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn parent<'p>(&self, path: &'p Path) -> io::Result<(usize, &'p OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((self.dir(parent)?, name))
    }

    fn node(&self, path: &Path) -> io::Result<Node> {
        let mut node = Node::Dir(0);
        for part in path.components().filter(|part| *part != Component::RootDir) {
            let Node::Dir(dir) = node else { return Err(io::ErrorKind::NotADirectory.into()) };
            let next = self.dirs[dir].names.get(part.as_os_str());
            node = *next.ok_or(io::Error::from(Errno::NOENT))?;
        }
        Ok(node)
    }
}

fn content_of(handle: &File) -> Vec<u8> {
    let mut content = vec![0; handle.metadata().expect("it is open").len() as usize];
    handle.read_exact_at(&mut content, 0).expect("memory can be read");
    content
}
