//! Hosts that forbid io_uring: a child process behind a seccomp filter reports the reason and works
//! all the same.
//!
//! The test runs its own binary again, with the errno of the refusal in the environment. A filter
//! cannot be removed, and must not hit the other tests.

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use penstock_ring::{Backend, BackendChoice, Path, Ring, RingConfig, RingError, Then};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use support::*;

const REFUSE_WITH: &str = "PENSTOCK_TEST_REFUSE_IO_URING_WITH";

#[test]
fn forbidden_io_uring_falls_back_and_says_so() {
    in_a_child_that_refuses_with(libc::EPERM, "forbidden_io_uring_falls_back_and_says_so");
}

#[test]
fn unknown_io_uring_falls_back_and_says_so() {
    in_a_child_that_refuses_with(libc::ENOSYS, "unknown_io_uring_falls_back_and_says_so");
}

fn in_a_child_that_refuses_with(errno: i32, test: &str) {
    if std::env::var(REFUSE_WITH).is_ok() {
        refuse_io_uring(errno);
        everything_works_without(errno);
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(REFUSE_WITH, errno.to_string())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout).into_owned()
        + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}

fn refuse_io_uring(errno: i32) {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    let rules: BTreeMap<_, _> = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

fn everything_works_without(errno: i32) {
    let demanded = RingConfig { backend: BackendChoice::Uring, ..RingConfig::default() };
    let Err(RingError::Unavailable { errno: reported, what }) = Ring::new(demanded) else {
        panic!("the filter does not work");
    };
    assert_eq!((reported, what), (errno, "io_uring_setup"));

    run(RingConfig::default(), |ring| async move {
        assert_eq!(ring.backend(), Backend::Epoll);
        let reason = ring.unavailable().unwrap().to_string();
        assert!(reason.contains(&format!("errno {errno}")), "{reason}");

        let written = Arc::new(tempfile::tempfile().unwrap());
        let pieces = vec![Bytes::from(pattern(0, 1 << 20))];
        ring.write_all_at(Arc::clone(&written), 0, pieces, Then::SyncData).await.unwrap();
        for path in PATHS {
            let (socket, peer) = narrow();
            let reader = reader(peer, 10_000);
            let pieces = vec![text(b"head"), range(&written, 77, 1_000_000), text(b"tail")];
            ring.transfer(pieces, &socket, path).await.unwrap();
            socket.shutdown().unwrap();
            let got = tokio::task::spawn_blocking(|| reader.join().unwrap()).await.unwrap();
            assert!(
                got[..4] == *b"head" && got[4..1_000_004] == pattern(77, 1_000_000),
                "{path:?}"
            );
        }
        assert_eq!(ring.counters().chains_by_sendfile.get(), 1, "{:?} was counted", Path::Chain);
    });
}
