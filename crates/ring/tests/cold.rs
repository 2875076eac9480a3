//! Transfers of files that are not in the page cache, or only in part.

mod support;

use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_ring::{Backend, Path, Ring, RingConfig, Scans, Sight, Socket, Spliced};
use rustix::process::getpriority_process;
use rustix::thread::gettid;
use support::*;

#[test]
fn a_transfer_reports_its_bytes_by_path_and_what_came_from_the_disk() {
    const LEN_BYTES: u64 = 200_000;
    run(config(Backend::Uring), |ring| async move {
        let (file, other) = (file(LEN_BYTES), file(LEN_BYTES));
        for path in [Path::Auto, Path::Copy] {
            let send = async |file| {
                let ((socket, peer), pieces) =
                    (tcp(), vec![text(b"header"), range(file, 0, LEN_BYTES)]);
                let reader = reader(peer, 65_536);
                let sent = ring.transfer(pieces, &socket, path).await.unwrap();
                socket.shutdown_direction(std::net::Shutdown::Write).unwrap();
                tokio::task::spawn_blocking(|| reader.join().unwrap()).await.unwrap();
                sent
            };
            std::fs::File::read_exact_at(&file, &mut vec![0; LEN_BYTES as usize], 0).unwrap();
            let hot = send(&file).await;
            assert_eq!((hot.file_bytes(), hot.cold_bytes), (LEN_BYTES, 0), "{path:?}");
            assert!(hot.disk_wait.is_zero(), "{path:?}");
            // Pages stay until their bytes are acknowledged, which a peer may delay. So some may be
            // in memory.
            let cold = loop {
                evict(&file);
                // It takes the place of the file's bytes in the buffer of copies.
                send(&other).await;
                let sent = send(&file).await;
                if sent.cold_bytes > 0 {
                    break sent;
                }
            };
            assert_eq!(cold.file_bytes(), LEN_BYTES, "{path:?}");
            assert!(!cold.disk_wait.is_zero(), "{path:?}");
            match path {
                Path::Auto => {
                    assert!(cold.chain_bytes == LEN_BYTES && cold.cold_bytes <= LEN_BYTES)
                }
                // The kernel reads ahead of a copy's first read.
                _ => assert!(cold.copy_bytes == LEN_BYTES && cold.cold_bytes <= LEN_BYTES),
            }
        }
    });
}

#[test]
fn where_splices_copy_cached_bytes_are_copied_once_less_and_others_still_wait_on_a_worker() {
    const LEN_BYTES: u64 = 1 << 20;
    let config = RingConfig { spliced: Spliced::Copies, ..config(Backend::Uring) };
    run(config, |ring| async move {
        let file = file(LEN_BYTES);
        let send = async || {
            let pieces = vec![text(b"header"), range(&file, 0, LEN_BYTES)];
            let ((socket, mut peer), len_bytes) = (tcp(), 6 + LEN_BYTES as usize);
            let reader = std::thread::spawn(move || {
                let mut bytes = vec![0; len_bytes];
                peer.read_exact(&mut bytes).unwrap();
                bytes
            });
            let sent = ring.transfer(pieces, &socket, Path::Auto).await.unwrap();
            let bytes = tokio::task::spawn_blocking(|| reader.join().unwrap()).await.unwrap();
            assert_eq!(bytes[6..], pattern(0, LEN_BYTES));
            sent
        };
        assert_eq!(send().await.copy_bytes, LEN_BYTES);
        // That it is in memory is believed for a moment.
        until("it is seen to be cold", async || {
            evict(&file);
            send().await.chain_bytes == LEN_BYTES
        })
        .await;
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
            let cold_bytes = scan(&ring, &file, back).await;
            assert!(cold_bytes < STEP, "all of it is in memory now, but {cold_bytes} bytes");
        }
    });
}

/// Answers of two files, as consumers of several partitions get them; now and then a batch was cut
/// and is asked for again; and the connection is made anew. The kernel reads on far ahead.
#[test]
fn all_that_the_disk_reads_for_a_scan_counts_however_it_reads_on() {
    const STEP: u64 = 1 << 20;
    const STEPS: u64 = 100;
    run(config(Backend::Uring), |ring| async move {
        let files = [file(STEPS * STEP), file(STEPS * STEP)];
        files.iter().for_each(|file| evict(file));
        let (mut cold_bytes, mut connection) = (0, reading());
        for step in 0..STEPS {
            if step == STEPS / 2 {
                connection.0.shutdown().unwrap();
                connection = reading();
            }
            let back = if step % 10 == 3 { 100_000 } else { 0 };
            let range = |file| range(file, step * STEP - back, STEP + back);
            let pieces: Vec<_> = files.iter().map(range).collect();
            let sent = ring.transfer(pieces, &connection.0, Path::Auto).await.unwrap();
            cold_bytes += sent.cold_bytes;
            // The last of it is in memory early, up to the end of the file.
            assert!(sent.sendfile_bytes == 0 || step > 60, "a scan takes chains, at {step}");
        }
        let all_bytes = 2 * STEPS * STEP;
        // What was read ahead for the first connection is in memory for the second.
        let expected = all_bytes - (100 << 20)..=all_bytes;
        assert!(expected.contains(&cold_bytes), "{cold_bytes} of {all_bytes}");
        connection.0.shutdown().unwrap();
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

/// One reader after the other, 1 MiB an answer, from place to place of the file.
async fn scan(ring: &Ring, file: &Arc<std::fs::File>, socket: &Rc<Socket>, mib: Range<u64>) {
    for step in mib {
        let pieces = vec![range(file, step << 20, 1 << 20)];
        ring.transfer(pieces, socket, Path::Auto).await.unwrap();
    }
}

/// A socket whose peer reads all that comes.
fn reading() -> (Rc<Socket>, std::thread::JoinHandle<u64>) {
    let (socket, mut peer) = unix();
    (socket, std::thread::spawn(move || std::io::copy(&mut peer, &mut std::io::sink()).unwrap()))
}

/// Looks until it holds. Pages leave the page cache by the kernel's workers, and those that a peer
/// has not taken by a second try.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < limit, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Counts the pages of a part of the file that are in memory, in MiB.
fn cached_mib(file: &std::fs::File, mib: Range<u64>) -> f64 {
    let (position, len_bytes) = (mib.start << 20, (mib.end - mib.start) << 20);
    let pages = Sight::Cachestat.resident_pages(file, position, len_bytes).unwrap();
    pages as f64 / 256.0
}

/// Whether nothing has dropped this part of the file. The kernel may take back a page at any time.
fn stays(file: &std::fs::File, mib: Range<u64>) -> bool {
    let len = (mib.end - mib.start) as f64;
    cached_mib(file, mib) >= 0.99 * len
}

#[test]
fn a_scan_leaves_what_was_in_memory_before_it_and_nothing_else() {
    let scans = Arc::new(Scans::default());
    let config = RingConfig { scans: Some(scans), ..config(Backend::Uring) };
    run(config, |ring| async move {
        let file = file(120 << 20);
        evict(&file);
        // The hot part, which lies within the scanned one.
        let mut hot = vec![0; 8 << 20];
        file.read_exact_at(&mut hot, 40 << 20).unwrap();
        let before = cached_mib(&file, 0..120);
        let (socket, peer) = reading();
        scan(&ring, &file, &socket, 0..100).await;
        until("the scan has dropped what lies behind it", async || {
            cached_mib(&file, 0..40) + cached_mib(&file, 60..90) < 1.0
        })
        .await;
        assert!(stays(&file, 40..48), "the hot part");
        socket.shutdown().unwrap();
        drop(socket);
        peer.join().unwrap();
        until("the end of the scan is gone, with what was read ahead", async || {
            ring.sweep();
            cached_mib(&file, 0..120) <= before
        })
        .await;
        assert!(stays(&file, 40..48), "the hot part");
    });
}

/// Answers of two partitions, of which the first is in memory and the second begins behind what one
/// plan reaches.
#[test]
fn a_scan_that_shares_its_answers_with_a_hot_partition_leaves_nothing_either() {
    const STEP: u64 = 3 << 20;
    let config = RingConfig { scans: Some(Arc::default()), ..config(Backend::Uring) };
    run(config, |ring| async move {
        let [hot, cold] = [(); 2].map(|()| file(20 * STEP));
        evict(&cold);
        let (socket, peer) = reading();
        for step in 0..18 {
            let pieces = vec![range(&hot, step * STEP, STEP), range(&cold, step * STEP, STEP)];
            ring.transfer(pieces, &socket, Path::Auto).await.unwrap();
        }
        until("the scan has dropped what lies behind it", async || {
            ring.sweep();
            cached_mib(&cold, 0..48) < 1.0
        })
        .await;
        assert!(stays(&hot, 0..60), "the hot partition");
        socket.shutdown().unwrap();
        peer.join().unwrap();
    });
}

/// One has the only place among those who wait for the disk; others had it before and want it
/// again.
#[test]
fn cold_answers_of_more_readers_than_there_are_pipes_all_end() {
    let few = RingConfig {
        cold_chains: 1,
        cold_chains_beside_hot: 1,
        max_pipes: 2,
        idle_pipes: 2,
        ..config(Backend::Uring)
    };
    run(few, |ring| async move {
        const LEN_BYTES: u64 = 7 << 20;
        let files: Vec<_> = (0..6).map(|_| file(LEN_BYTES)).collect();
        files.iter().for_each(|file| evict(file));
        let answers: Vec<_> = files
            .into_iter()
            .map(|file| {
                let ring = ring.clone();
                tokio::task::spawn_local(async move {
                    let (socket, peer) = reading();
                    let pieces = vec![range(&file, 0, LEN_BYTES)];
                    let sent = ring.transfer(pieces, &socket, Path::Auto).await.unwrap();
                    socket.shutdown().unwrap();
                    (sent.file_bytes(), peer)
                })
            })
            .collect();
        for answer in answers {
            assert_eq!(answer.await.unwrap().0, LEN_BYTES);
        }
    });
}

#[test]
fn readers_of_one_range_share_what_the_disk_reads_and_the_last_leaves_nothing() {
    let scans = Arc::new(Scans::default());
    let config = RingConfig { scans: Some(scans), ..config(Backend::Uring) };
    run(config, |ring| async move {
        let file = file(80 << 20);
        evict(&file);
        let ((first, first_peer), (second, second_peer)) = (reading(), reading());
        scan(&ring, &file, &first, 0..3).await;
        scan(&ring, &file, &second, 0..1).await;
        let before = ring.counters().chain_bytes.get();
        scan(&ring, &file, &first, 3..60).await;
        assert!(ring.counters().chain_bytes.get() > before, "it was cold");
        assert!(cached_mib(&file, 1..60) > 58.5, "the second reader is to read it");
        let before = ring.counters().chain_bytes.get();
        scan(&ring, &file, &second, 1..60).await;
        assert_eq!(ring.counters().chain_bytes.get(), before, "nothing of it was cold");
        until("the last reader has dropped it", async || cached_mib(&file, 0..54) < 1.0).await;
        for (socket, peer) in [(first, first_peer), (second, second_peer)] {
            socket.shutdown().unwrap();
            drop(socket);
            peer.join().unwrap();
        }
    });
}

#[test]
fn who_reads_here_and_there_keeps_what_the_disk_has_read() {
    let config = RingConfig { scans: Some(Arc::default()), ..config(Backend::Uring) };
    run(config, |ring| async move {
        let file = file(40 << 20);
        evict(&file);
        let (socket, peer) = reading();
        // Twice one goes on from the other, as happens.
        for step in [30, 10, 20, 21, 0, 1, 30, 10, 20] {
            scan(&ring, &file, &socket, step..step + 1).await;
        }
        ring.sweep();
        for step in [30, 10, 20, 0] {
            assert!(stays(&file, step..step + 1), "at {step} MiB");
        }
        socket.shutdown().unwrap();
        peer.join().unwrap();
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
