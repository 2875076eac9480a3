//! Tests the rows of docs/KERNEL.md on the running kernel. A kernel that differs fails here.
//!
//! The tests lie inside the crate because they request operations that the crate never does, and
//! all `unsafe` is in sys.rs. Each probe has a ring, a pipe and a socket of its own. Tests only.

mod memory;
mod probe;
mod workers;

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types;
use probe::*;

use crate::ring_config::{RingConfig, Spliced};
use crate::sys::Request;

const KIB: u32 = 1024;
const EAGAIN: i32 = -libc::EAGAIN;
const ECANCELED: i32 = -libc::ECANCELED;

#[test]
fn row_1_a_splice_runs_on_a_kernel_worker_even_with_hot_pages() {
    let mut probe = Probe::default();
    let rig = Rig::unix(4096);
    assert_eq!(probe.workers(), 0);
    let (_, results) = probe.run(rig, |rig| vec![rig.fill(0, 4096)]);
    assert_eq!((&results[..], probe.workers()), (&[4096][..], 1));
}

#[test]
fn row_2_linked_hops_share_one_worker_and_one_wake_up() {
    let mut probe = Probe::default();
    let rig = Rig::unix(4096);
    let reader = rig.peer_reads_all();
    let (rig, _) = probe.run(rig, |rig| vec![rig.fill(0, 4096), rig.drain(4096)]);
    let before = probe.worker_switches();
    let (rig, results) =
        probe.run(rig, |rig| (0..7).flat_map(|_| [rig.fill(0, 4096), rig.drain(4096)]).collect());
    assert_eq!(&results[..], &[4096; 14]);
    assert_eq!(probe.workers(), 1);
    let switches = probe.worker_switches() - before;
    assert!(switches <= 4, "the worker slept {switches} times in a chain of 14");
    drop(rig);
    assert_eq!(reader.join().unwrap().len(), 8 * 4096);
}

#[test]
fn row_3_a_fill_larger_than_the_pipe_is_cut_and_severs_the_chain() {
    let mut probe = Probe::default();
    let (rig, results) =
        probe.run(Rig::unix(128 * KIB), |rig| vec![rig.fill(0, 128 * KIB), rig.drain(128 * KIB)]);
    assert_eq!(&results[..], &[64 * KIB as i32, ECANCELED]);
    assert_eq!(rig.in_pipe(), 64 * KIB);
}

#[test]
fn row_4_a_fill_across_the_end_of_the_file_is_cut_and_severs_the_chain() {
    let mut probe = Probe::default();
    let (rig, results) =
        probe.run(Rig::unix(10_000), |rig| vec![rig.fill(4096, 8192), rig.drain(8192)]);
    assert_eq!(&results[..], &[10_000 - 4096, ECANCELED]);
    assert_eq!(rig.in_pipe(), 10_000 - 4096);
}

#[test]
fn row_5_a_pipe_holds_pages_of_the_file_not_bytes() {
    let mut probe = Probe::default();
    let (_, results) =
        probe.run(Rig::unix(128 * KIB), |rig| vec![rig.fill(100, 64 * KIB), rig.drain(64 * KIB)]);
    assert_eq!(&results[..], &[64 * KIB as i32 - 100, ECANCELED]);
}

#[test]
fn row_6_small_fills_use_up_a_slot_each() {
    let mut probe = Probe::default();
    let rig = Rig::unix(64 * KIB);
    let fill = |rig: &Rig, i: u32| rig.raw_splice(&rig.file, i64::from(i) * 4096, &rig.write, 512);
    let (rig, results) = probe.run(rig, |rig| (0..16).map(|i| raw(fill(rig, i))).collect());
    assert_eq!(&results[..], &[512; 16]);
    let (rig, results) = probe.run(rig, |rig| vec![rig.fill(0, 512)]);
    assert_eq!((&results[..], rig.in_pipe()), (&[EAGAIN][..], 8 * KIB));
}

#[test]
fn row_7_after_a_hard_linked_empty_fill_only_nonblock_keeps_the_drain_from_parking() {
    let mut probe = Probe::default();
    let rig = Rig::unix(4096);
    let hard = |rig: &Rig| {
        raw(rig.raw_splice(&rig.file, 4096, &rig.write, 4096).flags(Flags::IO_HARDLINK))
    };
    let (rig, results) = probe.run(rig, |rig| vec![hard(rig), rig.drain(4096)]);
    assert_eq!(&results[..], &[0, EAGAIN]);

    let mut write = File::from(rig.write.try_clone().unwrap());
    let parked = probe.start(rig, |rig| vec![hard(rig), raw(rig.raw_drain(4096))]);
    assert!(probe.stays_in_flight(parked));
    write.write_all(b"x").unwrap();
    assert_eq!(&probe.finish(parked).1[..], &[0, 1]);
}

#[test]
fn row_8_a_full_nonblocking_socket_leaves_the_bytes_in_the_pipe_until_poll_says_go() {
    let mut probe = Probe::default();
    let mut rig = Rig::unix(16 * KIB);
    let filled = rig.fill_socket();
    let (rig, results) =
        probe.run(rig, |rig| vec![rig.fill(0, 16 * KIB), rig.drain(16 * KIB), rig.fill(0, 4096)]);
    assert_eq!(&results[..], &[16 * KIB as i32, EAGAIN, ECANCELED]);
    assert_eq!(rig.in_pipe(), 16 * KIB);

    let mut peer = rig.peer.try_clone().unwrap();
    let waiting = probe.start(rig, |rig| {
        vec![Request::Poll { fd: rig.socket.as_fd(), events: libc::POLLOUT }, rig.drain(16 * KIB)]
    });
    assert!(probe.stays_in_flight(waiting));
    peer.read_exact(&mut vec![0; filled]).unwrap();
    let (rig, results) = probe.finish(waiting);
    assert_eq!((results[1], rig.in_pipe()), (16 * KIB as i32, 0));
    assert!(probe.workers() <= 1);
}

/// One completion more would be stale, which the probe takes for an error.
#[test]
fn row_25_a_chain_of_quiet_operations_has_one_completion_whatever_becomes_of_it() {
    let mut probe = Probe::default();
    let (mut rig, results) = probe.run(Rig::unix(16 * KIB), |rig| {
        vec![rig.fill(0, 4096), rig.drain(4096), rig.fill(4096, 4096)]
    });
    assert_eq!(&results[..], &[4096; 3]);
    assert_eq!(probe.completions(), 1);

    rig.fill_socket();
    let (_, results) =
        probe.run(rig, |rig| vec![rig.fill(8192, 4096), rig.drain(8192), rig.fill(0, 4096)]);
    assert_eq!(&results[..], &[4096, EAGAIN, ECANCELED]);
    assert_eq!(probe.completions(), 2);
}

#[test]
fn rows_9_and_13_a_blocking_socket_parks_a_worker_each_until_it_is_shut_down() {
    const PEERS: usize = 5;
    let mut probe = Probe::default();
    let parked: Vec<_> = (0..PEERS).map(|_| probe.park(4096)).collect();
    probe.wait_for_workers(PEERS);
    for (key, socket) in parked {
        socket.shutdown(Shutdown::Both).unwrap();
        let (rig, results) = probe.finish(key);
        assert_eq!((&results[..], rig.in_pipe()), (&[-libc::EPIPE][..], 4096));
    }
}

#[test]
fn row_10_a_link_timeout_does_not_fire_for_a_parked_splice() {
    let mut probe = Probe::default();
    let rig = probe.ready_to_park(4096);
    let socket = rig.socket.try_clone().unwrap();
    let parked = probe.start(rig, |rig| {
        vec![raw(rig.raw_drain(4096)), raw(opcode::LinkTimeout::new(&rig.timeout).build())]
    });
    assert!(probe.stays_in_flight(parked), "10 ms are over and it ended");
    socket.shutdown(Shutdown::Both).unwrap();
    let (_, results) = probe.finish(parked);
    assert_eq!(results[0], -libc::EPIPE);
}

#[test]
fn row_11_cancelling_a_parked_splice_says_already_and_leaves_the_bytes_in_the_pipe() {
    let mut probe = Probe::default();
    let (parked, _socket) = probe.park(4096);
    probe.wait_for_workers(1);
    probe.queue.push_cancel(parked);
    let (rig, results) = probe.finish(parked);
    assert_eq!(probe.cancelled, Some(-libc::EALREADY));
    assert!(results[0] < 0, "ended with {}", results[0]);
    assert_eq!(rig.in_pipe(), 4096);
}

#[test]
fn row_12_who_asks_a_pipe_its_size_while_a_splice_is_parked_blocks() {
    let mut probe = Probe::default();
    let rig = probe.ready_to_park(4096);
    let pipe = rig.read.try_clone().unwrap();
    let socket = rig.socket.try_clone().unwrap();
    let parked = probe.start(rig, |rig| vec![raw(rig.raw_drain(4096))]);
    assert!(probe.stays_in_flight(parked));
    let (send_id, asker_id) = std::sync::mpsc::channel();
    let asker = std::thread::spawn(move || {
        send_id.send(rustix::thread::gettid()).unwrap();
        rustix::pipe::fcntl_getpipe_size(&pipe).unwrap()
    });
    wait_for_uninterruptible_sleep(asker_id.recv().unwrap());
    socket.shutdown(Shutdown::Both).unwrap();
    let _ = probe.finish(parked);
    assert_eq!(asker.join().unwrap(), 64 * KIB as usize);
}

/// The race itself cannot be tried, since it sends a peer the bytes of another file. The test shows
/// that the ring leaves no room for it.
#[test]
fn row_14_the_slab_keeps_the_source_open_whatever_its_owners_do() {
    let mut probe = Probe::default();
    for _ in 0..100 {
        let rig = Rig::unix(4096);
        let mut peer = rig.peer.try_clone().unwrap();
        let key = probe.start(rig, |rig| vec![rig.fill(0, 4096), rig.drain(4096)]);
        probe.queue.submit().unwrap();
        let others: Vec<_> = (0..4).map(|_| File::open("/dev/zero").unwrap()).collect();
        let mut got = vec![0; 4096];
        peer.read_exact(&mut got).unwrap();
        assert!(got == pattern(4096), "another file's bytes");
        let _ = probe.finish(key);
        drop(others);
    }
}

#[test]
fn row_15_only_waitall_makes_a_short_linked_send_sever_the_chain() {
    let mut probe = Probe::default();
    let mut rig = Rig::unix(4096);
    rig.bytes = vec![7; 4 << 20];
    let (rig, results) = probe.run(rig, |rig| {
        let send = opcode::Send::new(rig.socket_fd(), rig.bytes.as_ptr(), rig.bytes.len() as u32);
        vec![raw(send.flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).build()), rig.fill(0, 4096)]
    });
    assert!((1..4 << 20).contains(&results[0]) && results[1] == 4096, "{:?}", &results[..]);

    let bytes = rig.bytes;
    let rig = Box::new(Rig { bytes, ..*Rig::unix(4096) });
    let (_, results) = probe.run(rig, |rig| {
        let send = Request::Send { socket: rig.socket.as_fd(), bytes: &rig.bytes, more: true };
        vec![send, rig.fill(0, 4096)]
    });
    assert!((1..4 << 20).contains(&results[0]) && results[1] == ECANCELED, "{:?}", &results[..]);
}

#[test]
fn row_16_a_whole_answer_can_be_put_together_in_one_pipe() {
    let mut probe = Probe::default();
    let mut rig = Rig::unix(16 * KIB);
    rig.bytes = b"head-mid-tail".to_vec();
    let (mut rig, results) = probe.run(rig, |rig| {
        let text = |range: std::ops::Range<usize>| {
            let (pipe, bytes) = (types::Fd(rig.write.as_raw_fd()), &rig.bytes[range]);
            // A pipe has no position.
            let write = opcode::Write::new(pipe, bytes.as_ptr(), bytes.len() as u32);
            raw(write.offset(u64::MAX).build())
        };
        vec![
            text(0..5),
            rig.fill(100, 5000),
            text(5..9),
            rig.fill(9000, 300),
            text(9..13),
            rig.drain(5313),
        ]
    });
    assert_eq!(&results[..], &[5, 5000, 4, 300, 4, 5313]);
    let mut got = vec![0; 5313];
    rig.peer.read_exact(&mut got).unwrap();
    let file = pattern(16 * KIB);
    assert!(got == [b"head-", &file[100..5100], b"mid-", &file[9000..9300], b"tail"].concat());
}

#[test]
fn row_17_a_header_sent_with_more_waits_for_the_data_behind_it() {
    let mut probe = Probe::default();
    let (mut rig, mut peer) = Rig::tcp(4096);
    rig.bytes = b"header".to_vec();
    let (rig, results) = probe.run(rig, |rig| {
        vec![Request::Send { socket: rig.socket.as_fd(), bytes: &rig.bytes, more: true }]
    });
    assert_eq!((results[0], readable(&peer)), (6, false));
    let (_, results) = probe.run(rig, |rig| vec![rig.fill(0, 4096), rig.drain(4096)]);
    assert_eq!(&results[..], &[4096, 4096]);
    let mut got = vec![0; 6 + 4096];
    peer.read_exact(&mut got).unwrap();
    assert!(got == [b"header", &pattern(4096)[..]].concat());
}

#[test]
fn row_18_a_peer_that_resets_is_an_errno_and_no_signal() {
    let mut probe = Probe::default();
    let (mut rig, peer) = Rig::tcp(8192);
    rig.socket.write_all(b"unread").unwrap();
    assert!(readable(&peer));
    drop(peer); // with bytes unread: a reset
    for expected in [-libc::ECONNRESET, -libc::EPIPE] {
        let (back, results) = probe.run(rig, |rig| vec![rig.fill(0, 4096), rig.drain(4096)]);
        rig = back;
        assert_eq!(&results[..], &[4096, expected]);
    }
}

#[test]
fn row_19_a_link_ends_where_its_submission_ends() {
    let mut probe = Probe::default();
    let rig = Rig::unix(4096);
    // An empty fill would sever a chain, but the drain comes with the next submission.
    let linked =
        |rig: &Rig| raw(rig.raw_splice(&rig.file, 4096, &rig.write, 1).flags(Flags::IO_LINK));
    let (rig, results) = probe.run(rig, |rig| vec![linked(rig)]);
    assert_eq!(&results[..], &[0]);
    let (_, results) = probe.run(rig, |rig| vec![rig.drain(4096)]);
    assert_eq!(&results[..], &[EAGAIN], "not cancelled: it ran although the fill was empty");
}

#[test]
fn row_19_our_queue_takes_chains_whole_when_they_do_not_fit() {
    let config = RingConfig { submissions: 16, completions: 32, ..RingConfig::default() };
    let mut probe = Probe::new(config);
    let keys: Vec<_> = (0..9)
        .map(|_| probe.start(Rig::unix(100), |rig| (0..6).map(|_| rig.fill(50, 100)).collect()))
        .collect();
    for key in keys {
        let (_, results) = probe.finish(key);
        assert_eq!(&results[..], &[50, ECANCELED, ECANCELED, ECANCELED, ECANCELED, ECANCELED]);
    }
}

#[test]
fn row_20_splices_count_as_unbounded_work() {
    let config = RingConfig { bounded_workers: 4, unbounded_workers: 1, ..RingConfig::default() };
    let mut probe = Probe::new(config);
    let (parked, socket) = probe.park(4096);
    probe.wait_for_workers(1);
    let starved = probe.start(Rig::unix(4096), |rig| vec![rig.fill(0, 4096)]);
    assert!(probe.stays_in_flight(starved), "the only worker was parked, and yet it ran");
    socket.shutdown(Shutdown::Both).unwrap();
    let _ = probe.finish(parked);
    assert_eq!(&probe.finish(starved).1[..], &[4096]);
}

#[test]
fn row_21_a_send_linked_behind_a_splice_parks_a_worker_unless_it_says_dontwait() {
    const PEERS: usize = 3;
    let mut probe = Probe::default();
    let full = || {
        let mut rig = Rig::unix(4096);
        rig.fill_socket();
        rig.bytes = b"trailer".to_vec();
        rig
    };
    let (_, results) = probe.run(full(), |rig| {
        let send = Request::Send { socket: rig.socket.as_fd(), bytes: &rig.bytes, more: false };
        vec![rig.fill(0, 4096), send]
    });
    assert_eq!((&results[..], probe.workers()), (&[4096, EAGAIN][..], 1));

    let parked: Vec<_> = (0..PEERS)
        .map(|_| {
            let rig = full();
            let socket = rig.socket.try_clone().unwrap();
            let key = probe.start(rig, |rig| {
                let send = opcode::Send::new(rig.socket_fd(), rig.bytes.as_ptr(), 7);
                vec![
                    rig.fill(0, 4096),
                    raw(send.flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build()),
                ]
            });
            assert!(probe.stays_in_flight(key));
            (key, socket)
        })
        .collect();
    probe.wait_for_workers(PEERS);
    for (key, socket) in parked {
        socket.shutdown(Shutdown::Both).unwrap();
        assert_eq!(&probe.finish(key).1[..], &[4096, -libc::EPIPE]);
    }
}

#[test]
fn row_22_a_fill_that_must_not_wait_for_the_pipe_still_waits_for_the_disk() {
    let mut probe = Probe::default();
    let rig = Rig::unix(64 * KIB);
    rustix::fs::fsync(&rig.file).unwrap();
    rustix::fs::fadvise(&rig.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let (_, results) = probe.run(rig, |rig| vec![rig.fill(0, 64 * KIB), rig.drain(64 * KIB)]);
    assert_eq!(&results[..], &[64 * KIB as i32; 2]);
}

#[test]
fn pages_travel_overwriting_changes_what_a_peer_receives_and_appending_does_not() {
    let mut probe = Probe::default();
    let (rig, mut peer) = Rig::tcp(8192);
    let (rig, results) = probe.run(rig, |rig| vec![rig.fill(0, 8192), rig.drain(8192)]);
    assert_eq!(&results[..], &[8192, 8192]);
    rig.file.write_all_at(&[0xEE; 4096], 8192).unwrap();
    rig.file.write_all_at(&[0xAA; 4096], 4096).unwrap();
    let mut got = vec![0; 8192];
    peer.read_exact(&mut got).unwrap();
    assert!(got[..4096] == pattern(4096));
    assert!(got[4096..] == [0xAA; 4096], "this kernel copies: rule 6 could be relaxed");
}

#[test]
fn pages_travel_but_those_of_a_file_opened_for_direct_io_are_copied() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().join("file");
    let options = || File::options().read(true).write(true).create(true).to_owned();
    let buffered = options().open(&path).unwrap();
    assert_eq!(Spliced::of(&buffered, &buffered).unwrap(), Spliced::Pages, "this kernel copies");
    // tmpfs and some others refuse the flag.
    let Ok(direct) = options().custom_flags(libc::O_DIRECT).open(&path) else { return };
    assert_eq!(Spliced::of(&direct, &buffered).unwrap(), Spliced::Copies);
}

#[test]
fn budget_a_pipe_takes_the_slots_of_a_whole_hop() {
    let rig = Rig::unix(1);
    let asked = RingConfig::default().pipe_slots as usize * 4096;
    assert_eq!(rustix::pipe::fcntl_setpipe_size(&rig.write, asked).unwrap(), asked);
    let limit = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap();
    assert!(limit.trim().parse::<usize>().unwrap() >= asked);
}
