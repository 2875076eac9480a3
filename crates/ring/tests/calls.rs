//! Single operations on the real kernel, on both backends.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use penstock_ring::{Backend, PeerWatch, Ring, Socket, Then, WriteError};
use support::*;

#[test]
fn receive_appends_to_the_buffer_it_was_given() {
    run_on_both(|ring| async move {
        let (socket, mut peer) = tcp();
        let mut buffer = BytesMut::with_capacity(16);
        buffer.extend_from_slice(b"kept ");
        peer.write_all(b"new").unwrap();
        let (result, buffer) = ring.recv(&socket, buffer).await;
        assert_eq!((result.unwrap(), &buffer[..]), (3, &b"kept new"[..]));
        drop(peer);
        let (result, buffer) = ring.recv(&socket, buffer).await;
        assert_eq!((result.unwrap(), buffer.len()), (0, 8));
    });
}

#[test]
fn receive_into_a_full_buffer_makes_room() {
    run_on_both(|ring| async move {
        let (socket, mut peer) = unix();
        peer.write_all(b"x").unwrap();
        let (result, buffer) = ring.recv(&socket, BytesMut::new()).await;
        assert_eq!((result.unwrap(), &buffer[..]), (1, &b"x"[..]));
    });
}

#[test]
fn a_dropped_receive_is_cancelled_and_lets_go_of_its_socket() {
    run_on_both(|ring| async move {
        let (socket, _peer) = tcp();
        let waiting = tokio::task::spawn_local({
            let (ring, socket) = (ring.clone(), Rc::clone(&socket));
            async move { ring.recv(&socket, BytesMut::with_capacity(64)).await.0 }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        until(|| Rc::strong_count(&socket) == 1).await;
    });
}

#[test]
fn reads_are_whole_and_short_only_at_the_end_of_the_file() {
    run_on_both(|ring| async move {
        let file = file(10_000);
        let read = ring.read_at(Arc::clone(&file), 77, 5000).await.unwrap();
        assert!(read == pattern(77, 5000));
        let read = ring.read_at(Arc::clone(&file), 9_990, 5000).await.unwrap();
        assert!(read == pattern(9_990, 10));
        assert!(ring.read_at(Arc::clone(&file), 20_000, 10).await.unwrap().is_empty());
        assert!(ring.read_at(file, 0, 0).await.unwrap().is_empty());
    });
}

#[test]
fn cached_reads_never_wait_for_the_disk() {
    run_on_both(|ring| async move {
        let file = file(10_000);
        let mut buffer = [0; 100];
        assert_eq!(ring.read_cached_at(&file, 5, &mut buffer).unwrap(), Some(100));
        assert!(buffer == pattern(5, 100)[..]);
        assert_eq!(ring.read_cached_at(&file, 10_000, &mut buffer).unwrap(), Some(0));
        evict(&file);
        assert_eq!(ring.read_cached_at(&file, 5, &mut buffer).unwrap(), None);
    });
}

#[test]
fn writes_land_where_they_were_sent_and_sync() {
    run_on_both(|ring| async move {
        for then in [Then::Return, Then::SyncData] {
            let file = Arc::new(tempfile::tempfile().unwrap());
            let bytes = Bytes::from(pattern(0, 100_000));
            // More pieces than one call takes, one of them empty.
            let mut pieces: Vec<Bytes> =
                (0..1500).map(|n| bytes.slice(n * 16..n * 16 + 16)).collect();
            pieces.extend([Bytes::new(), bytes.slice(24_000..)]);
            ring.write_all_at(Arc::clone(&file), 50, pieces, then).await.unwrap();
            assert_eq!(ring.read_at(file, 50, 100_000).await.unwrap(), bytes);
        }
    });
}

#[test]
fn a_write_that_fails_says_whether_it_or_its_sync_did_and_why() {
    run_on_both(|ring| async move {
        let write = async |file: std::io::Result<std::fs::File>| {
            let pieces = vec![Bytes::from_static(b"x")];
            ring.write_all_at(Arc::new(file.unwrap()), 0, pieces, Then::SyncData).await.unwrap_err()
        };
        let error = write(std::fs::File::open("/dev/null")).await;
        let WriteError::Write(error) = error else { panic!("{error}") };
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        // It takes every byte and cannot be synced.
        let error = write(std::fs::File::create("/dev/null")).await;
        let WriteError::Sync(error) = error else { panic!("{error}") };
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    });
}

#[test]
fn accepts_connections_and_lets_a_dropped_accept_go() {
    run_on_both(|ring| async move {
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let mut peer = TcpStream::connect(address).unwrap();
        let accepted = ring.accept(&listener).await.unwrap();
        let socket = socket(accepted);
        peer.write_all(b"hello").unwrap();
        let (_, buffer) = ring.recv(&socket, BytesMut::new()).await;
        assert_eq!(&buffer[..], b"hello");

        let waiting = tokio::task::spawn_local({
            let (ring, listener) = (ring.clone(), Rc::clone(&listener));
            async move { ring.accept(&listener).await.map(drop) }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        until(|| Rc::strong_count(&listener) == 1).await;
    });
}

#[test]
fn a_connection_accepted_after_its_future_was_dropped_is_closed() {
    run(penstock_ring::RingConfig::default(), |ring| async move {
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // It is queued and never polled again, so it completes with a connection after its future
        // is gone.
        let mut accept = Box::pin(ring.accept(&listener));
        assert!(
            std::future::poll_fn(|context| {
                std::task::Poll::Ready(accept.as_mut().poll(context).is_pending())
            })
            .await
        );
        drop(accept);
        until(|| Rc::strong_count(&listener) == 1).await;
        drop(listener);
        assert!(matches!(peer.read(&mut [0; 1]), Ok(0) | Err(_)), "the connection is still open");
    });
}

#[test]
fn writable_waits_for_room_and_peer_closed_for_the_end() {
    run_on_both(|ring| async move {
        let (socket, mut peer) = narrow();
        ring.writable(&socket).await.unwrap();
        let filled = fill_up(&socket);
        let waiting = tokio::task::spawn_local({
            let (ring, socket) = (ring.clone(), Rc::clone(&socket));
            async move { ring.writable(&socket).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let mut rest = vec![0; filled as usize];
        peer.read_exact(&mut rest).unwrap();
        waiting.await.unwrap().unwrap();

        let closed = tokio::task::spawn_local({
            let (ring, socket) = (ring.clone(), Rc::clone(&socket));
            async move { PeerWatch::default().closed(&ring, &socket).await }
        });
        peer.write_all(b"not the end").unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!closed.is_finished(), "bytes are not the end");
        drop(peer);
        closed.await.unwrap();
        let (result, _) = ring.recv(&socket, BytesMut::new()).await;
        assert_eq!(result.unwrap(), 11);
    });
}

/// Once each request that waited queued a poll and had it cancelled.
#[test]
fn requests_that_wait_one_after_the_other_share_a_poll_which_ends_with_its_owner() {
    run(config(Backend::Uring), |ring| async move {
        let (socket, mut peer) = tcp();
        let watch = PeerWatch::default();
        let has_closed = async || {
            let mut closed = std::pin::pin!(watch.closed(&ring, &socket));
            std::future::poll_fn(|context| {
                std::task::Poll::Ready(closed.as_mut().poll(context).is_ready())
            })
            .await
        };
        for _ in 0..10 {
            assert!(!has_closed().await);
            peer.write_all(b"request").unwrap();
            let (outcome, _) = ring.recv(&socket, BytesMut::new()).await;
            assert_eq!(outcome.unwrap(), 7);
        }
        assert_eq!(ring.counters().submitted.get(), 11, "ten receives and a poll");
        peer.shutdown(Shutdown::Write).unwrap();
        watch.closed(&ring, &socket).await;
        assert!(has_closed().await, "the end is final");

        let (socket, mut peer) = tcp();
        let watch = PeerWatch::default();
        let waiting = async { watch.closed(&ring, &socket).await };
        tokio::select! { biased; () = waiting => panic!(), () = std::future::ready(()) => {} }
        drop(watch);
        until(|| Rc::strong_count(&socket) == 1).await;
        drop(socket);
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn sockets_never_block_and_take_the_send_buffer_they_are_given() {
    let (ours, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let socket = Socket::new(ours, Some(100 * 1024)).unwrap();
    assert!(rustix::fs::fcntl_getfl(&socket).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    assert_eq!(rustix::net::sockopt::socket_send_buffer_size(socket.as_fd()).unwrap(), 200 * 1024);
}

#[test]
fn the_backend_can_be_chosen() {
    for backend in [Backend::Uring, Backend::Epoll] {
        run(config(backend), |ring| async move {
            assert_eq!(ring.backend(), backend);
            assert!(ring.unavailable().is_none());
        });
    }
}

#[test]
fn the_ring_lives_in_a_tokio_uring_runtime_as_in_any_other() {
    tokio_uring::start(async {
        let ring = Ring::new(config(Backend::Uring)).unwrap();
        let driver = tokio_uring::spawn(ring.clone().drive());
        let file = file(100_000);
        let (socket, peer) = tcp();
        let reader = reader(peer, 4096);
        ring.transfer_to(file, 10, 90_000, &socket).await.unwrap();
        socket.shutdown().unwrap();
        assert!(reader.join().unwrap() == pattern(10, 90_000));
        ring.stop().await;
        driver.await.unwrap().unwrap();
    });
}
