//! Shared by the tests on the real kernel: a ring on a runtime, connections, files, peers.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use penstock_ring::{Backend, BackendChoice, Path, Piece, Ring, RingConfig, Socket};

/// No test takes so long. One that does has lost a wake-up.
const PATIENCE: Duration = Duration::from_secs(60);

pub const PATHS: [Path; 4] = [Path::Chain, Path::Sendfile, Path::Copy, Path::Auto];

pub fn config(backend: Backend) -> RingConfig {
    let backend = match backend {
        Backend::Uring => BackendChoice::Uring,
        Backend::Epoll => BackendChoice::Epoll,
    };
    RingConfig { backend, ..RingConfig::default() }
}

/// Runs `body` beside the driver of a new ring, then stops the ring and checks that nothing is
/// left.
pub fn run<F: Future<Output = ()>>(config: RingConfig, body: impl FnOnce(Ring) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        let ring = Ring::new(config).expect("a ring");
        let counters = ring.counters();
        let driver = tokio::task::spawn_local(ring.clone().drive());
        let whole = async {
            body(ring.clone()).await;
            ring.stop().await;
            driver.await.unwrap().unwrap();
        };
        tokio::time::timeout(PATIENCE, whole).await.expect("a lost wake-up");
        assert_eq!(counters.pipes_leased.get(), 0, "pipes still leased");
        assert_eq!(counters.stale_completions.get(), 0, "completions of no operation");
    }));
}

/// Runs `body` on both backends.
pub fn run_on_both<F: Future<Output = ()>>(mut body: impl FnMut(Ring) -> F) {
    for backend in [Backend::Uring, Backend::Epoll] {
        run(config(backend), &mut body);
    }
}

/// The byte that every test file has at `position`. A page or a hop divides no period of it.
pub fn byte_at(position: u64) -> u8 {
    (position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

pub fn pattern(position: u64, len_bytes: u64) -> Vec<u8> {
    (position..position + len_bytes).map(byte_at).collect()
}

pub fn file(len_bytes: u64) -> Arc<File> {
    // Beside the build, not in /tmp, because a tmpfs has no disk to evict to.
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.write_all(&pattern(0, len_bytes)).unwrap();
    Arc::new(file)
}

pub fn range(file: &Arc<File>, position: u64, len_bytes: u64) -> Piece {
    Piece::File { file: Arc::clone(file), position, len_bytes }
}

pub fn text(bytes: &'static [u8]) -> Piece {
    Piece::Bytes(bytes::Bytes::from_static(bytes))
}

/// This end as a `Socket`, the peer's as the standard library has it.
pub fn tcp() -> (Rc<Socket>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (socket(ours), peer)
}

pub fn unix() -> (Rc<Socket>, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    (socket(ours), peer)
}

/// A connection whose buffers hold only some KiB, so that every hop meets a full socket.
pub fn narrow() -> (Rc<Socket>, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    (Rc::new(Socket::new(ours, Some(4096)).unwrap()), peer)
}

pub fn socket(fd: impl Into<OwnedFd>) -> Rc<Socket> {
    Rc::new(Socket::new(fd, None).unwrap())
}

/// A thread that reads until the end of the stream, `step_bytes` at a time.
pub fn reader(
    mut peer: impl Read + Send + 'static,
    step_bytes: usize,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut received = Vec::new();
        let mut step = vec![0; step_bytes];
        loop {
            match peer.read(&mut step) {
                Ok(0) => return received,
                Ok(len_bytes) => received.extend_from_slice(&step[..len_bytes]),
                Err(error) => panic!("peer cannot read: {error}"),
            }
        }
    })
}

/// Fills the socket until it would block.
pub fn fill_up(socket: &Socket) -> u64 {
    let mut filled = 0;
    while let Ok(len_bytes) = rustix::net::send(
        socket,
        &[0; 4096],
        rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL,
    ) {
        filled += len_bytes as u64;
    }
    filled
}

/// Evicts the file's pages from the page cache.
pub fn evict(file: &File) {
    rustix::fs::fsync(file.as_fd()).unwrap();
    rustix::fs::fadvise(file.as_fd(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Kernel workers of the calling thread's rings, which the kernel names after the thread.
pub fn kernel_workers() -> Vec<rustix::process::Pid> {
    let name = format!("iou-wrk-{}\n", rustix::thread::gettid().as_raw_nonzero());
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap());
    let is_worker = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|found| found == name)
    };
    let id = |task: std::fs::DirEntry| task.file_name().to_str()?.parse().ok();
    tasks.filter(is_worker).filter_map(|task| rustix::process::Pid::from_raw(id(task)?)).collect()
}

/// Lets other tasks run until `condition` holds. A test in which it never does times out.
pub async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// Transfers `pieces`, ends the stream, and returns the bytes that the peer received.
pub async fn received(
    ring: &Ring,
    pieces: Vec<Piece>,
    path: Path,
    (socket, peer): (Rc<Socket>, impl Read + Send + 'static),
    step_bytes: usize,
) -> Vec<u8> {
    let reader = reader(peer, step_bytes);
    ring.transfer(pieces, &socket, path).await.unwrap();
    socket.shutdown_direction(std::net::Shutdown::Write).unwrap();
    tokio::task::spawn_blocking(|| reader.join().unwrap()).await.unwrap()
}
