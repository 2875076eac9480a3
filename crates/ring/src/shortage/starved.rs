//! A ring at the limit of threads: every operation is done without any kernel worker.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::counters::Counters;
use crate::error::RingError;
use crate::ring::Ring;
use crate::ring_config::{RingConfig, Then};
use crate::shared::Kernel;
use crate::socket::Socket;
use crate::sys::Queue;
use crate::thread_limit::ThreadLimit;
use crate::transfer::{Path, Piece};
use crate::uring::Uring;
use crate::{BackendChoice, blocking};

/// A ring that starts without workers, like one whose workers have ended.
fn ring_without_workers() -> Ring {
    let (config, counters) = (RingConfig::default(), Arc::new(Counters::default()));
    let queue = Queue::new(&config).expect("io_uring; without it these tests say nothing");
    let uring = Uring::on(queue, Arc::clone(&counters));
    Ring::on(Kernel::Uring(Rc::new(uring)), None, config, counters)
}

/// Runs `test` on a ring without workers that cannot get any.
fn starved<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Ring) -> F) {
    // The threads of the pool exist before the limit holds.
    blocking::start().unwrap();
    let Some(_limit) = ThreadLimit::of_this_thread(name, 1) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let ring = ring_without_workers();
        let driver = tokio::task::spawn_local(ring.clone().drive());
        test(ring.clone()).await;
        assert!(ring.counters().refused.get() > 0, "the kernel had workers: nothing was tried");
        ring.stop().await;
        driver.await.unwrap().unwrap();
    });
}

/// Once the first write of a log completed with -ECANCELED and took its partition offline.
#[test]
fn a_write_with_its_sync_is_done_by_a_thread_of_ours() {
    starved("write", |ring| async move {
        let file = Arc::new(tempfile::tempfile().unwrap());
        for (position, then) in [(0, Then::SyncData), (6, Then::Return), (12, Then::SyncData)] {
            let pieces = vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")];
            ring.write_all_at(Arc::clone(&file), position, pieces, then).await.unwrap();
        }
        let mut found = [0; 18];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"abcdefabcdefabcdef");
    });
}

/// Once a chain was cut behind its head, on every path.
#[test]
fn an_answer_is_whole_though_no_chain_of_it_runs() {
    const LEN_BYTES: u64 = 3 << 20;
    for (name, path) in [("chain", Path::Chain), ("auto", Path::Auto)] {
        starved(name, |ring| async move {
            let (file, content) = evicted(LEN_BYTES);
            let (socket, mut peer) = connected();
            let reading = blocking::run(move || {
                let mut got = Vec::new();
                peer.read_to_end(&mut got).map(|_| got)
            });
            let head = Piece::Bytes(Bytes::from_static(b"head"));
            let body =
                Piece::File { file: Arc::new(file), position: 100, len_bytes: LEN_BYTES - 100 };
            ring.transfer([head, body], &socket, path).await.unwrap();
            socket.shutdown().unwrap();
            let got = reading.await.unwrap().unwrap();
            assert_eq!(&got[..4], b"head");
            assert!(got[4..] == content[100..], "{} bytes of {LEN_BYTES}", got.len());
        });
    }
}

#[test]
fn a_ring_is_not_made_where_its_workers_cannot_be_had_and_tells_what_to_raise() {
    blocking::start().unwrap();
    for threads in [1, 2] {
        // Workers stay with the thread that they were made for, so each try has its own thread.
        std::thread::spawn(move || try_with(threads)).join().unwrap();
    }
}

fn try_with(threads: usize) {
    let Some(limit) = ThreadLimit::of_this_thread("start", threads) else { return };
    for backend in [BackendChoice::Auto, BackendChoice::Uring] {
        let made = Ring::new(RingConfig { backend, ..RingConfig::default() });
        let refused = made.err().expect("a ring whose first write would fail");
        assert!(matches!(refused, RingError::NoThreads { .. }), "{refused}");
        assert!(refused.to_string().contains("pids.max"), "{refused}");
    }
    limit.lift();
    Ring::new(RingConfig::default()).unwrap();
}

/// A file on a disk with no page in the page cache, if its file system evicts at all.
fn evicted(len_bytes: u64) -> (File, Vec<u8>) {
    let content: Vec<u8> = (0..len_bytes).map(|at| ((at * 2_654_435_761) >> 24) as u8).collect();
    let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.write_all(&content).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    (file, content)
}

fn connected() -> (Rc<Socket>, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = Socket::new(listener.accept().unwrap().0, None).unwrap();
    (Rc::new(socket), peer)
}
