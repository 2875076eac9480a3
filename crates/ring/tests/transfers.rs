//! Transfers on the real kernel: every path, both backends, peers of every kind.

mod support;

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use penstock_ring::{Backend, Path, Piece, RingConfig, Socket, TransferError};
use support::*;

#[test]
fn every_path_delivers_every_byte_in_order_from_unaligned_positions() {
    run_on_both(|ring| async move {
        let file = file(3 << 20);
        for path in PATHS {
            let pieces = vec![
                text(b"header"),
                range(&file, 100, 65_536),
                text(b""),
                text(b"between"),
                range(&file, 4095, 2_000_001),
                range(&file, 7, 0),
                range(&file, 1_000_000, 1),
                text(b"trailer"),
            ];
            let mut expected = b"header".to_vec();
            expected.extend(pattern(100, 65_536));
            expected.extend(b"between");
            expected.extend(pattern(4095, 2_000_001));
            expected.extend(pattern(1_000_000, 1));
            expected.extend(b"trailer");
            assert!(
                received(&ring, pieces.clone(), path, tcp(), 65_536).await == expected,
                "{path:?}"
            );
            assert!(received(&ring, pieces, path, unix(), 65_536).await == expected, "{path:?}");
        }
    });
}

#[test]
fn a_reader_that_takes_small_bits_gets_them_all() {
    run_on_both(|ring| async move {
        let file = file(300_000);
        for path in PATHS {
            let pieces = vec![text(b"header"), range(&file, 11, 250_000), text(b"trailer")];
            let got = received(&ring, pieces, path, narrow(), 777).await;
            assert!(got[6..got.len() - 7] == pattern(11, 250_000), "{path:?}");
        }
        let counters = ring.counters();
        if ring.backend() == Backend::Uring {
            assert!(counters.short_hops.get() > 0, "the narrow socket was never full");
        }
        assert!(counters.poll_outs.get() > 0);
    });
}

#[test]
fn auto_copies_little_sends_what_is_cached_inline_and_chains_the_rest() {
    run_on_both(|ring| async move {
        const LITTLE: u64 = 8 * 1024;
        const SOME: u64 = 200_000;
        let file = file(2 << 20);
        let counters = ring.counters();
        let has_chains = ring.backend() == Backend::Uring;
        let sent = || {
            [&counters.copy_bytes, &counters.sendfile_bytes, &counters.chain_bytes].map(|c| c.get())
        };
        let send = |len_bytes: u64| {
            received(&ring, vec![range(&file, 0, len_bytes)], Path::Auto, tcp(), 1 << 20)
        };
        std::fs::File::read_exact_at(&file, &mut vec![0; SOME as usize], 0).unwrap();
        send(LITTLE).await;
        assert_eq!(sent(), [LITTLE, 0, 0]);
        send(SOME).await;
        assert_eq!(sent(), [LITTLE, SOME, 0]);
        if has_chains {
            // Pages stay until their bytes are acknowledged, which a peer may delay.
            while sent()[2] == 0 {
                evict(&file);
                assert!(send(SOME).await == pattern(0, SOME));
            }
            assert_eq!(sent()[2], SOME, "the event loop waits for no disk");
        }
    });
}

#[test]
fn many_pieces_take_many_chains() {
    run_on_both(|ring| async move {
        let file = file(100_000);
        for path in PATHS {
            let mut pieces = Vec::new();
            let mut expected = Vec::new();
            for i in 0..200u64 {
                pieces.push(Piece::Bytes(Bytes::from(format!("[{i}]"))));
                pieces.push(range(&file, i * 401, 300 + i));
                expected.extend(format!("[{i}]").into_bytes());
                expected.extend(pattern(i * 401, 300 + i));
            }
            assert!(received(&ring, pieces, path, tcp(), 65_536).await == expected, "{path:?}");
        }
    });
}

#[test]
fn what_was_held_back_for_the_trailer_is_let_go_with_it() {
    run_on_both(|ring| async move {
        let file = file(100_000);
        let (socket, mut peer) = tcp();
        for _ in 0..2 {
            let pieces = vec![text(b"head"), range(&file, 0, 40_000), text(b"tail")];
            ring.transfer(pieces, &socket, Path::Sendfile).await.unwrap();
            let is_corked = rustix::net::sockopt::tcp_cork(&*socket).unwrap();
            assert!(!is_corked, "a following answer would wait for more");
        }
        let mut received = vec![0; 2 * 40_008];
        peer.read_exact(&mut received).unwrap();
        assert!(received[40_008..][4..40_004] == pattern(0, 40_000));
    });
}

#[test]
fn bytes_are_counted_by_the_path_they_took() {
    run(config(Backend::Uring), |ring| async move {
        let file = file(1 << 20);
        for path in [Path::Chain, Path::Sendfile, Path::Copy] {
            received(&ring, vec![text(b"four"), range(&file, 5, 500_000)], path, tcp(), 65_536)
                .await;
        }
        let counters = ring.counters();
        assert_eq!(counters.chain_bytes.get(), 500_000);
        assert_eq!(counters.sendfile_bytes.get(), 500_000);
        assert_eq!(counters.copy_bytes.get(), 500_000);
        assert_eq!(counters.header_bytes.get(), 12);
        assert_eq!(counters.chains_by_sendfile.get(), 0);
    });
    run(config(Backend::Epoll), |ring| async move {
        let file = file(1000);
        received(&ring, vec![range(&file, 0, 1000)], Path::Chain, tcp(), 65_536).await;
        assert_eq!(ring.counters().chains_by_sendfile.get(), 1);
        assert_eq!(ring.counters().sendfile_bytes.get(), 1000);
    });
}

#[test]
fn cold_files_arrive_whole() {
    run_on_both(|ring| async move {
        let file = file(2 << 20);
        for path in PATHS {
            evict(&file);
            let got = received(&ring, vec![range(&file, 3, 2_000_000)], path, tcp(), 65_536).await;
            assert!(got == pattern(3, 2_000_000), "{path:?}");
        }
    });
}

#[test]
fn a_file_shorter_than_promised_fails_with_the_place_where_it_ended() {
    run_on_both(|ring| async move {
        let file = file(10_000);
        for path in PATHS {
            let (socket, peer) = tcp();
            let reader = reader(peer, 4096);
            let error =
                ring.transfer(vec![range(&file, 4000, 7000)], &socket, path).await.unwrap_err();
            assert_eq!(
                error,
                TransferError::FileEndedEarly { range: 0, position: 10_000, missing_bytes: 1000 },
                "{path:?}"
            );
            socket.shutdown().unwrap();
            let got = reader.join().unwrap();
            assert!(pattern(4000, 6000).starts_with(&got), "{path:?}: not a prefix");
        }
    });
}

#[test]
fn a_peer_that_leaves_ends_the_transfer_as_expected() {
    penstock_ring::ignore_sigpipe();
    run_on_both(|ring| async move {
        let file = file(8 << 20);
        for path in PATHS {
            let (socket, mut peer) = tcp();
            let leaving = std::thread::spawn(move || {
                let mut first = [0; 100];
                peer.read_exact(&mut first).unwrap(); // and leaves the rest unread: a reset
            });
            let result = ring.transfer(vec![range(&file, 0, 8 << 20)], &socket, path).await;
            assert!(matches!(result, Err(TransferError::PeerGone { .. })), "{path:?}: {result:?}");
            leaving.join().unwrap();
        }
    });
}

#[test]
fn shutdown_ends_a_transfer_to_a_peer_that_does_not_read() {
    run_on_both(|ring| async move {
        let file = file(1 << 20);
        for path in PATHS {
            let (socket, _peer) = narrow();
            let transfer = tokio::task::spawn_local({
                let (ring, socket, file) = (ring.clone(), Rc::clone(&socket), Arc::clone(&file));
                async move { ring.transfer(vec![range(&file, 0, 1 << 20)], &socket, path).await }
            });
            until(|| socket_is_full(&socket)).await;
            socket.shutdown().unwrap();
            let result = transfer.await.unwrap();
            assert!(matches!(result, Err(TransferError::PeerGone { .. })), "{path:?}: {result:?}");
        }
    });
}

fn socket_is_full(socket: &Socket) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut asked = [PollFd::new(socket, PollFlags::OUT)];
    rustix::event::poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 0
}

#[test]
fn dropped_transfer_keeps_its_file_and_socket_until_the_last_completion() {
    run(config(Backend::Uring), |ring| async move {
        let file = file(1 << 20);
        let weak_file = Arc::downgrade(&file);
        let (socket, _peer) = narrow();
        let counters = ring.counters();
        let mut transfer =
            Box::pin(ring.transfer(vec![range(&file, 0, 1 << 20)], &socket, Path::Chain));
        drop(file);
        // Polled until the second chain waits for the socket.
        std::future::poll_fn(|context| {
            assert!(transfer.as_mut().poll(context).is_pending());
            context.waker().wake_by_ref();
            if counters.chains.get() < 2 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        drop(transfer);
        assert_eq!(counters.orphans.get(), 1);
        assert!(weak_file.upgrade().is_some(), "closed under the kernel's hands");
        assert_eq!(Rc::strong_count(&socket), 2);
        until(|| weak_file.upgrade().is_none()).await;
        assert_eq!(Rc::strong_count(&socket), 1);
        assert_eq!(counters.residues.get(), 1, "its pipe had bytes in it");
        assert_eq!(counters.pipes_open.get(), 0, "a pipe with residue went back to the pool");
    });
}

#[test]
fn an_unfinished_transfer_lets_nothing_follow_it() {
    run_on_both(|ring| async move {
        let file = file(10);
        for path in PATHS {
            let (socket, peer) = tcp();
            ring.transfer(vec![range(&file, 0, 11)], &socket, path).await.unwrap_err();
            let next = ring.transfer(vec![text(b"next answer")], &socket, path).await;
            assert!(matches!(next, Err(TransferError::PeerGone { .. })), "{path:?}: {next:?}");
            assert!(reader(peer, 100).join().unwrap().len() <= 10);
        }
    });
}

#[test]
fn silent_peers_cost_no_threads_and_take_no_pipe_from_others() {
    const SILENT: usize = 200;
    let config = RingConfig { max_pipes: 16, idle_pipes: 8, ..config(Backend::Uring) };
    run(config, |ring| async move {
        let file = file(1 << 20);
        let counters = ring.counters();
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            let (socket, peer) = narrow();
            let transfer = tokio::task::spawn_local({
                let (ring, socket, file) = (ring.clone(), Rc::clone(&socket), Arc::clone(&file));
                async move { ring.transfer(vec![range(&file, 0, 1 << 20)], &socket, Path::Chain).await }
            });
            silent.push((socket, peer, transfer));
        }
        until(|| counters.surrenders.get() as usize >= SILENT - 8).await;
        let workers = kernel_workers().len();
        assert!((1..=8).contains(&workers), "{workers} kernel threads for {SILENT} silent peers");
        assert!(counters.pipes_open.get() <= 16);

        let got =
            received(&ring, vec![range(&file, 9, 1_000_000)], Path::Chain, tcp(), 65_536).await;
        assert!(got == pattern(9, 1_000_000), "a peer that reads was kept from its bytes");

        for (socket, _peer, transfer) in silent {
            socket.shutdown().unwrap();
            assert!(transfer.await.unwrap().is_err());
        }
    });
}

#[test]
fn a_surrendered_transfer_goes_on_when_its_peer_reads_again() {
    let config = RingConfig { max_pipes: 2, idle_pipes: 2, ..config(Backend::Uring) };
    run(config, |ring| async move {
        let file = file(400_000);
        let counters = ring.counters();
        let mut transfers = Vec::new();
        for i in 0..5 {
            let (socket, peer) = narrow();
            let transfer = tokio::task::spawn_local({
                let (ring, socket, file) = (ring.clone(), Rc::clone(&socket), Arc::clone(&file));
                async move {
                    ring.transfer(vec![range(&file, i, 390_000)], &socket, Path::Chain)
                        .await
                        .unwrap();
                    socket.shutdown().unwrap();
                }
            });
            transfers.push((i, peer, transfer));
        }
        until(|| counters.surrenders.get() >= 4).await;
        let readers: Vec<_> = transfers
            .into_iter()
            .map(|(i, peer, transfer)| (i, reader(peer, 5000), transfer))
            .collect();
        for (i, reader, transfer) in readers {
            transfer.await.unwrap();
            assert!(reader.join().unwrap() == pattern(i, 390_000), "peer {i}");
        }
    });
}

#[test]
fn what_all_awake_tasks_queued_goes_in_one_enter() {
    const TASKS: usize = 50;
    run(config(Backend::Uring), |ring| async move {
        let file = file(1 << 16);
        let counters = ring.counters();
        tokio::task::yield_now().await; // the driver sleeps
        let before = counters.enters.get();
        let reads: Vec<_> = (0..TASKS as u64)
            .map(|i| {
                let (ring, file) = (ring.clone(), Arc::clone(&file));
                tokio::task::spawn_local(async move { (i, ring.read_at(file, i * 100, 100).await) })
            })
            .collect();
        for read in reads {
            let (i, bytes) = read.await.unwrap();
            assert_eq!(bytes.unwrap(), pattern(i * 100, 100));
        }
        assert_eq!(
            counters.enters.get() - before,
            1,
            "enters for {TASKS} tasks that were awake at once"
        );
        assert_eq!(counters.submitted.get(), TASKS as u64);
    });
}

#[test]
fn more_chains_than_the_submission_queue_holds_go_in_whole() {
    let config = RingConfig { submissions: 16, completions: 32, ..config(Backend::Uring) };
    run(config, |ring| async move {
        let file = file(1 << 20);
        let mut transfers = Vec::new();
        for i in 0..40u64 {
            let (ring, file) = (ring.clone(), Arc::clone(&file));
            transfers.push(tokio::task::spawn_local(async move {
                let pieces = vec![
                    text(b"h"),
                    range(&file, i, 5000),
                    text(b"m"),
                    range(&file, 2 * i, 600_000),
                ];
                let got = received(&ring, pieces, Path::Chain, tcp(), 65_536).await;
                assert!(
                    got[1..5001] == pattern(i, 5000) && got[5002..] == pattern(2 * i, 600_000),
                    "{i}"
                );
            }));
        }
        for transfer in transfers {
            transfer.await.unwrap();
        }
    });
}

#[test]
fn an_idle_ring_uses_no_processor_time() {
    run(config(Backend::Uring), |ring| async move {
        let (socket, peer) = tcp();
        let waiting = tokio::task::spawn_local({
            let (ring, socket) = (ring.clone(), Rc::clone(&socket));
            async move { ring.recv(&socket, BytesMut::with_capacity(64)).await.0 }
        });
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let before = (ring.counters().enters.get(), thread_time());
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(ring.counters().enters.get(), before.0);
        let used = thread_time() - before.1;
        assert!(
            used < std::time::Duration::from_millis(30),
            "{used:?} of processor time while idle"
        );
        drop(peer);
        assert_eq!(waiting.await.unwrap().unwrap(), 0);
    });
}

fn thread_time() -> std::time::Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    std::time::Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A range's bytes do not change, which this test breaks to see whether they are read.
#[test]
fn answers_that_copy_the_same_bytes_one_after_the_other_read_them_once() {
    run_on_both(|ring| async move {
        let file = file(10_000);
        let (first, other) = (pattern(100, 4000), pattern(5000, 4000));
        let fetch = async |position: u64| {
            let (socket, peer) = tcp();
            let reader = reader(peer, 4096);
            let pieces = [text(b"head"), range(&file, position, 4000), text(b"tail")];
            ring.transfer(pieces, &socket, Path::Copy).await.unwrap();
            socket.shutdown().unwrap();
            let answer = reader.join().unwrap();
            assert_eq!((&answer[..4], &answer[4004..]), (&b"head"[..], &b"tail"[..]));
            answer[4..4004].to_vec()
        };
        assert!(fetch(100).await == first);
        std::os::unix::fs::FileExt::write_all_at(&*file, &[0; 4000], 100).unwrap();
        assert!(fetch(100).await == first, "read again");
        assert!(fetch(5000).await == other);
        assert!(fetch(100).await == [0; 4000], "the buffer had other bytes meanwhile");
    });
}
