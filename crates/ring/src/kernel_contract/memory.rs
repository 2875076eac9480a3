//! The memory that the kernel keeps for peers that do not read: the rows "Budgets" of
//! docs/KERNEL.md.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::net::{AddressFamily, SendFlags, SocketType, send, sockopt};

use crate::pins::CHUNK_BYTES;
use crate::ring_config::PAGE_BYTES;
use crate::socket::Socket;
use crate::sys;

const SEND_BUFFER_BYTES: usize = 8 * 1024;
const DOUBLED_BYTES: u64 = 2 * SEND_BUFFER_BYTES as u64;

/// A socket with a small send buffer, and its peer.
fn pair(receive_buffer_bytes: Option<usize>) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    if let Some(len_bytes) = receive_buffer_bytes {
        // Set before connecting, when the window is agreed upon.
        sockopt::set_socket_recv_buffer_size(&peer, len_bytes).unwrap();
    }
    rustix::net::connect(&peer, &listener.local_addr().unwrap()).unwrap();
    let peer = TcpStream::from(peer);
    (Socket::new(listener.accept().unwrap().0, Some(SEND_BUFFER_BYTES)).unwrap(), peer)
}

/// Sends by calls of `len_bytes` until the socket is full, and returns the bytes that the peer's
/// side has not taken.
fn queued_by_calls_of(len_bytes: usize) -> u64 {
    let (socket, _peer) = pair(None);
    let bytes = vec![7; len_bytes];
    while send(&socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok() {}
    socket.waiting_bytes()
}

#[test]
fn budget_a_send_buffer_takes_what_a_call_brings_once_it_has_any_room() {
    let (small, large) = (queued_by_calls_of(4096), queued_by_calls_of(64 * 1024));
    assert!(small <= DOUBLED_BYTES + 4096, "{small} bytes by calls of 4 KiB");
    assert!(large > 2 * DOUBLED_BYTES, "{large}: this kernel takes no more than the buffer holds");
}

#[test]
fn budget_a_page_that_was_not_taken_keeps_at_most_the_chunk_around_it_in_memory() {
    let file: File = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    for at in 0..16 {
        file.write_all_at(&vec![7; 1 << 20], at << 20).unwrap();
    }
    file.sync_all().unwrap();
    let (socket, _peer) = pair(None);
    let mut position = 5 << 20;
    let sent = rustix::fs::sendfile(&socket, &file, Some(&mut position), PAGE_BYTES as usize);
    assert_eq!(sent, Ok(PAGE_BYTES as usize));
    let started = Instant::now();
    loop {
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let kept = sys::cached_pages(&file, 0, 0).unwrap();
        assert!(kept > 0, "the page is still on its way");
        if kept <= CHUNK_BYTES / PAGE_BYTES {
            return;
        }
        // A page in use at this moment is passed over.
        assert!(started.elapsed() < Duration::from_secs(10), "{kept} pages are kept");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn budget_a_socket_that_forgets_resets_its_peer_instead_of_trying_on() {
    let (socket, mut peer) = pair(Some(4096)); // smaller than the bytes sent
    let bytes = vec![7; 64 * 1024];
    while send(&socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok() {}
    assert!(socket.waiting_bytes() > 0);
    socket.forget_unsent().unwrap();
    socket.shutdown().unwrap();
    drop(socket);
    let read = peer.read_to_end(&mut Vec::new());
    assert_eq!(read.expect_err("it was not all sent").kind(), ErrorKind::ConnectionReset);
}
