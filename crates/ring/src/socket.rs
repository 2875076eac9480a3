//! A connected stream socket as the ring needs it: it never blocks, and its send buffer is bounded.
//!
//! The connection and every operation in flight share it by `Rc`, so the descriptor is closed only
//! after the last completion (KERNEL.md row 14). [`Socket::shutdown`] ends a connection with
//! operations in flight: they complete at once (row 13) and release the socket.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::io::Interest;

use crate::file_range::FileRange;
use crate::pins::{PROVEN_BYTES, PinTable, Pins};
use crate::ring_config::{PAGE_BYTES, STAGE_BYTES};
use crate::scans::{Reader, Scans};
use crate::sys::{Watched, unsent_bytes, watch};
use crate::transfer::looks::Looks;
use crate::transfer::streams::Streams;

/// A non-blocking stream socket.
#[derive(Debug)]
pub struct Socket {
    /// Registered with the runtime's epoll on first use, which only happens without io_uring.
    /// Declared first, because it must be deregistered before the descriptor is closed.
    readiness: OnceCell<Watched>,
    fd: Rc<OwnedFd>,
    sent_bytes: Cell<u64>,
    /// SO_SNDBUF, if it was set.
    send_buffer_bytes: Cell<Option<usize>>,
    is_corked: Cell<bool>,
    /// The peer among the readers of the process's scans.
    scan_reader: OnceCell<Reader>,
    pub(crate) looks: RefCell<Looks>,
    pub(crate) streams: RefCell<Streams>,
    pins: RefCell<Pins>,
    /// Bytes that the peer had taken at a request, once they are enough to prove it.
    answered_bytes: Cell<u64>,
}

impl Socket {
    /// Takes over a connected socket. Sets O_NONBLOCK (rows 8 and 9), TCP_NODELAY where it exists
    /// (bytes that belong together are sent with MSG_MORE), and SO_SNDBUF if given.
    ///
    /// The kernel doubles `send_buffer_bytes` for its own bookkeeping (socket(7)) and never
    /// enlarges it afterwards. Without it the buffer grows to the maximum of tcp_wmem (tcp(7)).
    ///
    /// # Errors
    /// Those of ioctl(2) and setsockopt(2) on a descriptor that is not a socket.
    pub fn new(fd: impl Into<OwnedFd>, send_buffer_bytes: Option<usize>) -> io::Result<Socket> {
        let fd = fd.into();
        rustix::io::ioctl_fionbio(&fd, true)?;
        match sockopt::set_tcp_nodelay(&fd, true) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOPROTOOPT) => {} // AF_UNIX has no TCP_NODELAY
            Err(errno) => return Err(errno.into()),
        }
        if let Some(len_bytes) = send_buffer_bytes {
            sockopt::set_socket_send_buffer_size(&fd, len_bytes)?;
        }
        Ok(Socket {
            readiness: OnceCell::new(),
            fd: Rc::new(fd),
            sent_bytes: Cell::new(0),
            send_buffer_bytes: Cell::new(send_buffer_bytes),
            is_corked: Cell::new(false),
            scan_reader: OnceCell::new(),
            looks: RefCell::default(),
            streams: RefCell::default(),
            pins: RefCell::default(),
            answered_bytes: Cell::new(0),
        })
    }

    /// Ends both directions now. Operations in flight complete. Later ones fail with EPIPE or
    /// receive the end of the stream. A peer that has already left makes no difference.
    pub fn shutdown(&self) -> io::Result<()> {
        self.shutdown_direction(Shutdown::Both)
    }

    /// Ends one direction; see shutdown(2).
    pub fn shutdown_direction(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        match rustix::net::shutdown(&self.fd, how) {
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Bytes of transfers that the peer has taken so far. A send time-out compares them to see
    /// whether the peer reads at all. A slow reader may take minutes to make a full send buffer
    /// ready for more, so bytes count when they leave that buffer, not when they enter it.
    ///
    /// The count of bytes sent grows only when a chain completes, so this number may fall while one
    /// is in flight.
    pub fn taken_bytes(&self) -> u64 {
        let waiting = unsent_bytes(self.as_fd()).unwrap_or(0);
        self.sent_bytes.get().saturating_sub(waiting)
    }

    /// Whether the peer has sent a request after taking [`PROVEN_BYTES`], which no buffer in front
    /// of it holds.
    pub fn is_proven(&self) -> bool {
        self.answered_bytes.get() >= PROVEN_BYTES
    }

    /// Bytes in the send buffer that the peer's kernel has not taken.
    pub fn waiting_bytes(&self) -> u64 {
        unsent_bytes(self.as_fd()).unwrap_or(0)
    }

    /// Whether bytes wait for the peer and it has not reset the connection.
    pub fn is_owed(&self) -> bool {
        /// The end of the stream counts as a byte until the peer's kernel has it.
        const END_BYTES: u64 = 1;
        self.waiting_bytes() > END_BYTES && rustix::net::getpeername(&self.fd).is_ok()
    }

    /// Notes that the peer sent a request, so it has taken the bytes sent before, as far as they
    /// have left the send buffer.
    pub fn note_request(&self) {
        // A peer may send requests ahead without reading, so bytes that still wait prove nothing.
        if !self.is_proven() && self.sent_bytes.get() >= PROVEN_BYTES {
            self.answered_bytes.set(self.taken_bytes());
        }
        if self.pins.borrow().are_short() {
            self.release_taken();
        }
    }

    /// Whether an answer to the peer came from the disk, and none since from the same file's pages
    /// in memory.
    pub fn is_scanning(&self) -> bool {
        !self.streams.borrow().are_none()
    }

    /// Between two answers: releases the pages of the peer if it has taken all bytes sent.
    pub fn release_taken(&self) {
        let mut pins = self.pins.borrow_mut();
        if !pins.is_empty() && self.waiting_bytes() == 0 {
            pins.clear();
        }
    }

    /// Sets SO_SNDBUF, which the kernel doubles.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_send_buffer(&self, len_bytes: usize) -> io::Result<()> {
        sockopt::set_socket_send_buffer_size(&self.fd, len_bytes)?;
        self.send_buffer_bytes.set(Some(len_bytes));
        Ok(())
    }

    /// Bytes to copy into the socket at once. While there is any room the kernel takes all of a
    /// single call, up to 64 KiB, which is more than a small buffer shall hold.
    pub(crate) fn stage_bytes(&self) -> u32 {
        let of_buffer = self.send_buffer_bytes.get().unwrap_or(STAGE_BYTES);
        of_buffer.clamp(PAGE_BYTES as usize, STAGE_BYTES) as u32
    }

    /// Makes the kernel drop the bytes that the peer has not taken when the socket is closed,
    /// instead of keeping the memory and sending on. The peer gets a reset.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn forget_unsent(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO))?)
    }

    /// Whether the pages of `ranges` may be sent now; see pins.rs.
    pub(crate) fn pin(
        &self,
        table: &Rc<PinTable>,
        ranges: impl Iterator<Item = FileRange>,
    ) -> bool {
        let (sent_bytes, is_proven) = (self.sent_bytes.get(), self.is_proven());
        self.pins.borrow_mut().pin(table, ranges, sent_bytes, is_proven)
    }

    pub(crate) fn note_sent(&self, len_bytes: u64) {
        self.sent_bytes.set(self.sent_bytes.get() + len_bytes);
    }

    /// Holds back a segment that is not full, as MSG_MORE would, which sendfile(2) does not have.
    /// The last bytes would otherwise travel alone and wake the peer twice.
    pub(crate) fn cork(&self) {
        if !self.is_corked.get() {
            self.is_corked.set(sockopt::set_tcp_cork(&self.fd, true).is_ok()); // AF_UNIX has none
        }
    }

    /// Releases the segment held back. Called at the end of every answer.
    pub(crate) fn uncork(&self) {
        if self.is_corked.take() {
            // It fails only for a socket that is gone, and the next call on that one reports it.
            let _ = sockopt::set_tcp_cork(&self.fd, false);
        }
    }

    /// The peer's name among the readers of the process's scans.
    pub(crate) fn scan_reader(&self, scans: &Arc<Scans>) -> &Reader {
        self.scan_reader.get_or_init(|| Reader::of(scans))
    }

    /// The registration with the runtime's epoll.
    pub(crate) fn readiness(&self) -> io::Result<&Watched> {
        if let Some(readiness) = self.readiness.get() {
            return Ok(readiness);
        }
        let readiness = watch(Rc::clone(&self.fd), Interest::READABLE | Interest::WRITABLE)?;
        Ok(self.readiness.get_or_init(|| readiness))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_peer_that_asks_ahead_and_has_read_nothing_has_proven_nothing() {
        use std::io::Read;
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let socket = Socket::new(ours, None).unwrap();
        let waits = rustix::net::send(&socket, &[7; 64 * 1024], rustix::net::SendFlags::DONTWAIT);
        let waits = waits.unwrap();
        socket.note_sent(PROVEN_BYTES);
        socket.note_request();
        assert!(!socket.is_proven());
        peer.read_exact(&mut vec![0; waits]).unwrap();
        socket.note_request();
        assert!(socket.is_proven());
    }

    #[test]
    fn an_answer_that_fits_half_of_a_send_buffer_is_copied_at_once() {
        let with = |bytes| Socket::new(UnixStream::pair().unwrap().0, bytes).unwrap().stage_bytes();
        assert_eq!(with(Some(8 * 1024)), 8 * 1024, "the kernel doubles it");
        assert_eq!((with(Some(1 << 20)), with(None)), (STAGE_BYTES as u32, STAGE_BYTES as u32));
        assert_eq!(with(Some(0)), PAGE_BYTES as u32);
    }
}
