//! Rows 23 and 24: where the kernel gets its workers, and what happens without them.
//!
//! The tests of row 23 are skipped on machines that cannot set a limit (thread_limit.rs).

use std::time::{Duration, Instant};

use super::probe::*;
use super::*;
use crate::thread_limit::ThreadLimit;

/// How long the kernel keeps an idle worker that is not the last (5 s), with time to spare.
const IDLE: Duration = Duration::from_secs(12);

#[test]
fn row_23_what_the_kernel_can_make_no_worker_for_is_cancelled_and_never_runs() {
    let Some(limit) = ThreadLimit::of_this_thread("row-23", 1) else { return };
    let mut probe = Probe::default();

    // A write goes to the page cache at once. The sync that is linked to it never runs.
    let mut rig = Rig::unix(4096);
    rig.bytes = b"written".to_vec();
    let sync = |rig: &Rig| {
        let file = types::Fd(rig.file.as_raw_fd());
        raw(opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build())
    };
    let (rig, results) = probe.run(rig, |rig| {
        let file = types::Fd(rig.file.as_raw_fd());
        let write = opcode::Write::new(file, rig.bytes.as_ptr(), 7).offset(4096);
        vec![raw(write.build()), sync(rig)]
    });
    assert_eq!(*results.last().unwrap(), ECANCELED);
    assert!(results[0] == 7 || results[0] == ECANCELED, "{}", results[0]);
    let (rig, results) = probe.run(rig, |rig| vec![sync(rig)]);
    assert_eq!(&results[..], &[ECANCELED]);

    let (rig, results) = probe.run(rig, |rig| {
        let head = Request::Send { socket: rig.socket.as_fd(), bytes: &rig.bytes, more: true };
        vec![head, rig.fill(0, 4096), rig.drain(4096)]
    });
    assert_eq!(&results[..], &[7, ECANCELED, ECANCELED], "the head is sent, no splice runs");
    assert_eq!((rig.in_pipe(), probe.workers()), (0, 0));

    limit.lift();
    let (rig, results) = probe.run(rig, |rig| vec![rig.fill(0, 4096), rig.drain(4096)]);
    assert_eq!(&results[..], &[4096, 4096]);
    assert_eq!(&probe.run(rig, |rig| vec![sync(rig)]).1[..], &[0]);
}

#[test]
fn row_23_with_a_worker_of_its_kind_work_waits_for_that_one() {
    const CHAINS: usize = 20;
    let Some(_limit) = ThreadLimit::of_this_thread("row-23-waits", 3) else { return };
    let mut probe = Probe::default();
    probe.queue.make_workers().unwrap();
    assert_eq!(probe.workers(), 2, "one for files, one for all else");
    let keys: Vec<_> = (0..CHAINS)
        .map(|_| probe.start(Rig::unix(4096), |rig| vec![rig.fill(0, 4096), rig.drain(4096)]))
        .collect();
    for key in keys {
        assert_eq!(&probe.finish(key).1[..], &[4096, 4096]);
    }
    assert_eq!(probe.workers(), 2);
}

#[test]
fn row_24_idle_workers_end_but_for_the_last_of_each_kind() {
    let mut probe = Probe::default();
    probe.queue.make_workers().unwrap();
    let (parked, socket) = probe.park(4096);
    let (other, other_socket) = probe.park(4096);
    assert_eq!(probe.workers(), 3, "one for files, two that are parked");
    for (key, socket) in [(parked, socket), (other, other_socket)] {
        socket.shutdown(Shutdown::Both).unwrap();
        probe.finish(key);
    }
    let begin = Instant::now();
    while probe.workers() > 2 {
        assert!(begin.elapsed() < 2 * IDLE, "{} workers are left", probe.workers());
        std::thread::sleep(Duration::from_millis(50));
    }
    // If the two that are left were to end as well, they would end within this time.
    let only_two = Instant::now();
    while only_two.elapsed() < IDLE {
        assert_eq!(probe.workers(), 2, "after {:?}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
}
