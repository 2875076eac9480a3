//! The backend without io_uring: readiness for sockets, threads that may block for files.
//!
//! Called by ring.rs and shared.rs where the kernel forbids io_uring, and by uring/calls.rs for
//! operations that the kernel has no worker for. Socket calls are tried when the runtime reports
//! readiness, so a future dropped in between has given nothing to the kernel. File operations own
//! what they touch on the thread that runs them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use tokio::io::Interest;

use crate::blocking;
use crate::ring_config::Then;
use crate::socket::Socket;
use crate::sys::{Gather, extend_received, watch};

pub(crate) async fn recv(socket: &Socket, mut buffer: BytesMut) -> (io::Result<usize>, BytesMut) {
    let result = recv_into(socket, &mut buffer).await;
    (result, buffer)
}

async fn recv_into(socket: &Socket, buffer: &mut BytesMut) -> io::Result<usize> {
    // Ready bytes return without a wait, so a peer that never pauses would keep the thread for
    // ever.
    tokio::task::coop::consume_budget().await;
    loop {
        let mut guard = socket.readiness()?.readable().await?;
        match guard.try_io(|_| recv_now(socket, buffer)) {
            Err(_would_block) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(received) => return received,
        }
    }
}

/// Receives what has arrived; `WouldBlock` if nothing has.
pub(crate) fn recv_now(socket: &Socket, buffer: &mut BytesMut) -> io::Result<usize> {
    let room = buffer.spare_capacity_mut();
    let (_, len_bytes) = rustix::net::recv(socket, room, RecvFlags::DONTWAIT)?;
    extend_received(buffer, len_bytes);
    Ok(len_bytes)
}

/// Waits until the socket takes bytes or has failed. A send that the runtime did not see may have
/// filled the socket since the runtime last looked, so poll(2) decides.
pub(crate) async fn writable(socket: &Socket) -> io::Result<()> {
    loop {
        let mut guard = socket.readiness()?.writable().await?;
        if let Ok(result) = guard.try_io(|fd| has_events(fd.as_fd(), PollFlags::OUT)) {
            return result;
        }
    }
}

/// Waits until the peer has closed or reset the connection. Watches a duplicate of the descriptor,
/// because clearing the readiness of the original would take a wake-up from a receive on the same
/// socket.
pub(crate) async fn peer_closed(socket: &Socket) -> io::Result<()> {
    let watched = watch(Rc::new(socket.as_fd().try_clone_to_owned()?), Interest::READABLE)?;
    loop {
        let mut guard = watched.readable().await?;
        if let Ok(result) = guard.try_io(|fd| has_events(fd.as_fd(), PollFlags::RDHUP)) {
            return result;
        }
    }
}

pub(crate) async fn accept(listener: Rc<TcpListener>) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let watched = watch(Rc::new(listener.as_fd().try_clone_to_owned()?), Interest::READABLE)?;
    loop {
        let mut guard = watched.readable().await?;
        if let Ok(result) = guard.try_io(|_| listener.accept()) {
            return result.map(|(stream, _peer)| stream);
        }
    }
}

pub(crate) async fn read(
    file: Arc<File>,
    position: u64,
    len_bytes: usize,
    mut buffer: BytesMut,
) -> (io::Result<usize>, BytesMut) {
    let done = blocking::run(move || {
        let end = buffer.len();
        buffer.resize(end + len_bytes, 0);
        let result = file.read_at(&mut buffer[end..], position);
        buffer.truncate(end + *result.as_ref().unwrap_or(&0));
        (result, buffer)
    });
    done.await.unwrap_or_else(|error| (Err(error.into()), BytesMut::new()))
}

/// Writes `pieces` one behind the other, possibly not all of them. A sync follows if all were
/// written.
pub(crate) async fn write(
    file: Arc<File>,
    position: u64,
    pieces: VecDeque<Bytes>,
    then: Then,
) -> (io::Result<usize>, Option<io::Result<()>>, VecDeque<Bytes>) {
    let write = move || {
        let first = pieces.iter().take(Gather::PIECES_MAX);
        let slices: Vec<IoSlice> = first.map(|piece| IoSlice::new(piece)).collect();
        let len_bytes: usize = pieces.iter().map(Bytes::len).sum();
        let written = rustix::io::pwritev(&*file, &slices, position).map_err(io::Error::from);
        let is_due = then == Then::SyncData && written.as_ref().is_ok_and(|n| *n == len_bytes);
        (written, is_due.then(|| file.sync_data()), pieces)
    };
    let done = blocking::run(write).await;
    done.unwrap_or_else(|error| (Err(error.into()), None, VecDeque::new()))
}

pub(crate) async fn sync_data(file: Arc<File>) -> io::Result<()> {
    blocking::run(move || file.sync_data()).await?
}

/// Calls poll(2) without waiting; `WouldBlock` if it reports none of `events` and no failure.
fn has_events(fd: BorrowedFd<'_>, events: PollFlags) -> io::Result<()> {
    let mut asked = [PollFd::from_borrowed_fd(fd, events)];
    match rustix::event::poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}
