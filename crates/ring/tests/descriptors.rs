//! A process at its limit of descriptors: answers go on without the pipes that chains need.
//!
//! The test has a binary of its own, because the limit holds for the whole process.

mod support;

use std::fs::File;

use penstock_ring::Backend;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::*;

/// The test runner and a ring have fewer open.
const FILES_MAX: u64 = 100;

const LEN_BYTES: u64 = 2 << 20;

#[test]
fn an_answer_is_whole_though_there_is_no_descriptor_for_a_pipe() {
    run(config(Backend::Uring), |ring| async move {
        let file = file(LEN_BYTES);
        // From here on the driver has all it needs.
        ring.read_at(file.clone(), 0, 1).await.unwrap();
        evict(&file);
        for path in PATHS {
            let (socket, peer) = unix();
            let reader = reader(peer, 65_536);
            let limit = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: Some(FILES_MAX), ..limit }).unwrap();
            let mut all = Vec::new();
            while let Ok(file) = File::open("/dev/null") {
                all.push(file);
            }
            let sent =
                ring.transfer([text(b"head"), range(&file, 1, LEN_BYTES - 1)], &socket, path).await;
            drop(all);
            setrlimit(Resource::Nofile, limit).unwrap();
            sent.unwrap();
            socket.shutdown().unwrap();
            let got = penstock_ring::blocking::run(|| reader.join().unwrap()).await.unwrap();
            assert_eq!(&got[..4], b"head", "{path:?}");
            assert!(got[4..] == pattern(1, LEN_BYTES - 1), "{path:?}");
        }
        assert!(ring.counters().refused.get() > 0, "no chain was left");
    });
}
