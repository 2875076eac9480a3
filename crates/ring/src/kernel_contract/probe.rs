//! The means of the row tests: a ring without a runtime, and a rig to splice with.

use std::fs::File;
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::thread::Pid;

use crate::operations::{Completed, Key, Operations, Resources, Results, UNAWAITED};
use crate::ring_config::RingConfig;
use crate::sys::{Queue, Request};

/// Everything that is to happen has happened long before.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that must not happen has had time enough.
const GRACE: Duration = Duration::from_millis(150);

/// A ring without a runtime.
pub(super) struct Probe {
    pub(super) queue: Queue,
    operations: Operations,
    /// The result of the last cancellation.
    pub(super) cancelled: Option<i32>,
    completions: usize,
}

impl Default for Probe {
    fn default() -> Self {
        Probe::new(RingConfig::default())
    }
}

impl Probe {
    pub(super) fn new(config: RingConfig) -> Probe {
        let queue = Queue::new(&config).expect("io_uring; without it these tests say nothing");
        Probe { queue, operations: Operations::default(), cancelled: None, completions: 0 }
    }

    pub(super) fn run(
        &mut self,
        rig: Box<Rig>,
        describe: impl for<'a> FnOnce(&'a mut Rig) -> Vec<Request<'a>>,
    ) -> (Box<Rig>, Results) {
        let key = self.start(rig, describe);
        self.finish(key)
    }

    pub(super) fn start(
        &mut self,
        rig: Box<Rig>,
        describe: impl for<'a> FnOnce(&'a mut Rig) -> Vec<Request<'a>>,
    ) -> Key {
        self.queue.push(&mut self.operations, rig, |rig| describe(rig).into())
    }

    pub(super) fn finish(&mut self, key: Key) -> (Box<Rig>, Results) {
        self.wait(key, PATIENCE).expect("the operation never ends")
    }

    pub(super) fn stays_in_flight(&mut self, key: Key) -> bool {
        self.wait(key, GRACE).is_none()
    }

    fn wait(&mut self, key: Key, limit: Duration) -> Option<(Box<Rig>, Results)> {
        let descriptor = self.queue.descriptor().unwrap();
        let start = Instant::now();
        loop {
            while self.queue.wants_enter() {
                self.queue.submit().unwrap();
                self.reap(); // a full completion queue takes no more
            }
            self.reap();
            if let Poll::Ready((resources, results)) = self.operations.poll_take(key, Waker::noop())
            {
                let resources: Box<dyn std::any::Any> = resources;
                return Some((resources.downcast().expect("a rig"), results));
            }
            let left = limit.checked_sub(start.elapsed())?;
            let left =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            rustix::event::poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&left))
                .unwrap();
        }
    }

    fn reap(&mut self) {
        let mut reaped = Vec::new();
        self.queue.reap(&mut reaped);
        self.completions += reaped.len();
        for (user_data, result) in reaped {
            if user_data == UNAWAITED {
                self.cancelled = Some(result);
            } else {
                let known = self.operations.complete(user_data, result);
                assert!(!matches!(known, Completed::Stale));
            }
        }
    }

    /// Completions so far.
    pub(super) fn completions(&self) -> usize {
        self.completions
    }

    /// A rig with bytes in its pipe and a blocking socket that is full.
    pub(super) fn ready_to_park(&mut self, len_bytes: u32) -> Box<Rig> {
        let mut rig = Rig::unix(len_bytes);
        rig.fill_socket();
        rig.socket.set_nonblocking(false).unwrap();
        self.run(rig, |rig| vec![rig.fill(0, len_bytes)]).0
    }

    /// A splice that parks, and its socket.
    pub(super) fn park(&mut self, len_bytes: u32) -> (Key, UnixStream) {
        let rig = self.ready_to_park(len_bytes);
        let socket = rig.socket.try_clone().unwrap();
        let key = self.start(rig, |rig| vec![raw(rig.raw_drain(len_bytes))]);
        assert!(self.stays_in_flight(key));
        (key, socket)
    }

    /// The kernel workers of this thread's rings, by their task directories.
    fn worker_tasks(&self) -> Vec<std::path::PathBuf> {
        let name = format!("iou-wrk-{}\n", rustix::thread::gettid().as_raw_nonzero());
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let is_worker = |task: &std::path::PathBuf| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|found| found == name)
        };
        tasks.filter(is_worker).collect()
    }

    pub(super) fn workers(&self) -> usize {
        self.worker_tasks().len()
    }

    pub(super) fn wait_for_workers(&mut self, count: usize) {
        let start = Instant::now();
        while self.workers() < count {
            assert!(start.elapsed() < PATIENCE, "{} of {count} workers", self.workers());
            std::thread::yield_now();
        }
    }

    /// How often the workers went to sleep by themselves.
    pub(super) fn worker_switches(&self) -> u64 {
        let switches = |task: std::path::PathBuf| -> u64 {
            let status = std::fs::read_to_string(task.join("status")).unwrap();
            let line =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse().unwrap()
        };
        self.worker_tasks().into_iter().map(switches).sum()
    }
}

/// A file, a pipe of 16 slots, and a non-blocking socket with its peer.
pub(super) struct Rig {
    pub(super) file: Arc<File>,
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
    pub(super) socket: UnixStream,
    pub(super) peer: UnixStream,
    pub(super) bytes: Vec<u8>,
    pub(super) timeout: types::Timespec,
}

impl Resources for Rig {}

impl Rig {
    pub(super) fn unix(file_len_bytes: u32) -> Box<Rig> {
        let (socket, peer) = UnixStream::pair().unwrap();
        Rig::new(file_len_bytes, socket, peer)
    }

    /// The same over loopback; its field `peer` is a stand-in.
    pub(super) fn tcp(file_len_bytes: u32) -> (Box<Rig>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nodelay(true).unwrap();
        let socket = UnixStream::from(OwnedFd::from(socket));
        let stand_in = socket.try_clone().unwrap();
        (Rig::new(file_len_bytes, socket, stand_in), peer)
    }

    fn new(file_len_bytes: u32, socket: UnixStream, peer: UnixStream) -> Box<Rig> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&pattern(file_len_bytes)).unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        socket.set_nonblocking(true).unwrap();
        let timeout = types::Timespec::new().nsec(10_000_000);
        Box::new(Rig {
            file: Arc::new(file),
            read,
            write,
            socket,
            peer,
            bytes: Vec::new(),
            timeout,
        })
    }

    pub(super) fn fill(&self, position: u64, len_bytes: u32) -> Request<'_> {
        Request::Fill { file: self.file.as_fd(), position, pipe: self.write.as_fd(), len_bytes }
    }

    pub(super) fn drain(&self, len_bytes: u32) -> Request<'_> {
        Request::Drain {
            pipe: self.read.as_fd(),
            socket: self.socket.as_fd(),
            len_bytes,
            more: false,
        }
    }

    /// A splice without SPLICE_F_NONBLOCK.
    pub(super) fn raw_splice(
        &self,
        from: &impl AsRawFd,
        position: i64,
        to: &impl AsRawFd,
        len_bytes: u32,
    ) -> squeue::Entry {
        let (from, to) = (types::Fd(from.as_raw_fd()), types::Fd(to.as_raw_fd()));
        opcode::Splice::new(from, position, to, -1, len_bytes).build()
    }

    pub(super) fn raw_drain(&self, len_bytes: u32) -> squeue::Entry {
        self.raw_splice(&self.read, -1, &self.socket, len_bytes)
    }

    pub(super) fn socket_fd(&self) -> types::Fd {
        types::Fd(self.socket.as_raw_fd())
    }

    /// Sends until the socket would block, and returns the count of bytes.
    pub(super) fn fill_socket(&mut self) -> usize {
        let mut filled = 0;
        while let Ok(len_bytes) = self.socket.write(&[0; 4096]) {
            filled += len_bytes;
        }
        filled
    }

    pub(super) fn in_pipe(&self) -> u32 {
        rustix::io::ioctl_fionread(&self.read).unwrap() as u32
    }

    pub(super) fn peer_reads_all(&self) -> std::thread::JoinHandle<Vec<u8>> {
        let mut peer = self.peer.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            received
        })
    }
}

pub(super) fn raw<'a>(entry: squeue::Entry) -> Request<'a> {
    Request::Raw(entry, PhantomData)
}

pub(super) fn pattern(len_bytes: u32) -> Vec<u8> {
    (0..len_bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub(super) fn readable(peer: &impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(peer, PollFlags::IN)], Some(&now)).unwrap() > 0
}

/// Waits until a thread of this process is in the state in which not even a signal reaches it.
pub(super) fn wait_for_uninterruptible_sleep(thread: Pid) {
    let stat = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    let start = Instant::now();
    while !std::fs::read_to_string(&stat).unwrap().contains(") D ") {
        assert!(start.elapsed() < PATIENCE, "it answered at once");
        std::thread::yield_now();
    }
}
