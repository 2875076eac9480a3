//! Transfers of files that are not in the page cache, or only in part.

mod support;

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use penstock_ring::{Backend, Path, Ring, RingConfig};
use rustix::process::getpriority_process;
use rustix::thread::gettid;
use support::*;

#[test]
fn a_transfer_reports_its_bytes_by_path_and_what_came_from_the_disk() {
    const LEN_BYTES: u64 = 200_000;
    run(config(Backend::Uring), |ring| async move {
        let file = file(LEN_BYTES);
        for path in [Path::Auto, Path::Copy] {
            let send = async || {
                let ((socket, peer), pieces) =
                    (tcp(), vec![text(b"header"), range(&file, 0, LEN_BYTES)]);
                let reader = reader(peer, 65_536);
                let sent = ring.transfer(pieces, &socket, path).await.unwrap();
                socket.shutdown_direction(std::net::Shutdown::Write).unwrap();
                tokio::task::spawn_blocking(|| reader.join().unwrap()).await.unwrap();
                sent
            };
            std::fs::File::read_exact_at(&file, &mut vec![0; LEN_BYTES as usize], 0).unwrap();
            let hot = send().await;
            assert_eq!((hot.file_bytes(), hot.cold_bytes), (LEN_BYTES, 0), "{path:?}");
            assert!(hot.disk_wait.is_zero(), "{path:?}");
            // Pages stay until their bytes are acknowledged, which a peer may delay.
            let cold = loop {
                evict(&file);
                let sent = send().await;
                if sent.cold_bytes > 0 {
                    break sent;
                }
            };
            assert_eq!(cold.file_bytes(), LEN_BYTES, "{path:?}");
            assert!(!cold.disk_wait.is_zero(), "{path:?}");
            match path {
                Path::Auto => {
                    assert_eq!((cold.chain_bytes, cold.cold_bytes), (LEN_BYTES, LEN_BYTES))
                }
                // The kernel reads ahead of a copy's first read.
                _ => assert!(cold.copy_bytes == LEN_BYTES && cold.cold_bytes <= LEN_BYTES),
            }
        }
    });
}

/// The kernel reads on behind an answer, so the next one is in the page cache when it is asked for.
#[test]
fn what_the_disk_read_ahead_for_the_next_answer_counts_as_read_for_that_peer() {
    const STEP: u64 = 128 << 10;
    const STEPS: u64 = 32;
    run(config(Backend::Uring), |ring| async move {
        let scan = async |ring: &Ring, file: &Arc<std::fs::File>, back: u64| {
            let (socket, mut peer) = tcp();
            let reader = std::thread::spawn(move || {
                let mut bytes = vec![0; (STEPS * STEP + (STEPS - 1) * back) as usize];
                peer.read_exact(&mut bytes).unwrap();
            });
            let mut cold_bytes = 0;
            for step in 0..STEPS {
                // A batch that was cut is asked for again.
                let back = if step == 0 { 0 } else { back };
                let pieces = vec![range(file, step * STEP - back, STEP + back)];
                let sent = ring.transfer(pieces, &socket, Path::Auto).await.unwrap();
                cold_bytes += sent.cold_bytes;
            }
            tokio::task::spawn_blocking(|| reader.join().unwrap()).await.unwrap();
            cold_bytes
        };
        // Pages stay until their bytes are acknowledged, which a peer may delay.
        for back in [0, 5_000] {
            let file = file(STEPS * STEP);
            evict(&file);
            // Plans that begin within a page miss a part of it.
            let cold_bytes = scan(&ring, &file, back).await;
            let expected = (STEPS - 1) * STEP..=STEPS * STEP;
            assert!(expected.contains(&cold_bytes), "{cold_bytes} of {} ({back})", STEPS * STEP);
            assert_eq!(scan(&ring, &file, back).await, 0, "all of it is in memory now");
        }
    });
}

/// A budget is asked before an answer, and the kernel has read ahead by then.
#[test]
fn bytes_read_ahead_for_a_peer_still_count_as_its_disk_bytes() {
    const STEP: u64 = 128 << 10;
    const STEPS: u64 = 16;
    run(config(Backend::Uring), |ring| async move {
        let file = file(STEPS * STEP);
        evict(&file);
        for expected in [(STEPS - 1) * STEP..=STEPS * STEP, 0..=0] {
            let (socket, peer) = tcp();
            let reader = reader(peer, 65_536);
            let mut foreseen = 0;
            for step in 0..STEPS {
                foreseen += ring.disk_bytes(&file, step * STEP, STEP, Some(&socket));
                let pieces = vec![range(&file, step * STEP, STEP)];
                ring.transfer(pieces, &socket, Path::Auto).await.unwrap();
            }
            socket.shutdown_direction(std::net::Shutdown::Write).unwrap();
            tokio::task::spawn_blocking(|| reader.join().unwrap()).await.unwrap();
            assert!(expected.contains(&foreseen), "{foreseen}, not {expected:?}");
        }
        assert_eq!(ring.disk_bytes(&file, 0, STEPS * STEP, None), 0);
    });
}

#[test]
fn a_scan_that_shall_leave_no_trace_drops_what_lies_behind_it() {
    const STEP: u64 = 1 << 20;
    let config = RingConfig { drop_behind: true, ..config(Backend::Uring) };
    run(config, |ring| async move {
        let file = file(2 * STEP);
        evict(&file);
        let (socket, peer) = unix();
        let step = |mut peer: UnixStream| {
            std::thread::spawn(move || {
                let mut bytes = vec![0; STEP as usize];
                peer.read_exact(&mut bytes).unwrap();
                (peer, bytes)
            })
        };
        let is_cached =
            |position| ring.read_cached_at(&file, position, &mut [0]).unwrap().is_some();

        let reader = step(peer);
        ring.transfer(vec![range(&file, 0, STEP)], &socket, Path::Auto).await.unwrap();
        let (peer, _) = reader.join().unwrap();
        assert!(is_cached(0), "what is being sent is not dropped yet");

        let (second, dont_need) = (std::num::NonZeroU64::new(STEP), rustix::fs::Advice::DontNeed);
        rustix::fs::fadvise(&*file, STEP, second, dont_need).unwrap();
        let reader = step(peer);
        ring.transfer(vec![range(&file, STEP, STEP)], &socket, Path::Auto).await.unwrap();
        assert!(reader.join().unwrap().1 == pattern(STEP, STEP));
        while is_cached(0) {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_worker_that_waits_for_a_disk_gives_way_to_the_event_loop() {
    run(config(Backend::Uring), |ring| async move {
        let file = file(1 << 20);
        let nice = |thread| getpriority_process(Some(thread)).unwrap();
        while ring.counters().chain_bytes.get() == 0 {
            evict(&file);
            received(&ring, vec![range(&file, 0, 1 << 20)], Path::Auto, tcp(), 1 << 20).await;
        }
        let nicer = (nice(gettid()) + 10).min(19);
        assert!(kernel_workers().into_iter().any(|worker| nice(worker) == nicer));
    });
}
