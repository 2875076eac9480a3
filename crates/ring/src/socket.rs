//! A connected stream socket as the ring wants it: never blocking, with a bounded send buffer.
//!
//! Shared by `Rc`: the connection holds one, every operation in flight another, so the descriptor
//! is closed only after the last completion (KERNEL.md row 14). To end a connection with operations
//! in flight call [`Socket::shutdown`]: they complete at once (row 13) and let go.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::io::Interest;

use crate::file_range::FileRange;
use crate::pins::{PROVEN_BYTES, PinTable, Pins};
use crate::ring_config::{PAGE_BYTES, STAGE_BYTES};
use crate::sys::{Watched, unsent_bytes, watch};

/// A non-blocking stream socket.
#[derive(Debug)]
pub struct Socket {
    /// Registered with the runtime's epoll on first use, that is only where io_uring is missing.
    /// Declared first: it must be deregistered before the descriptor is closed.
    readiness: OnceCell<Watched>,
    fd: Rc<OwnedFd>,
    sent_bytes: Cell<u64>,
    /// SO_SNDBUF, if it was set.
    send_buffer_bytes: Cell<Option<usize>>,
    is_corked: Cell<bool>,
    /// What the peer was last sent from disk, kept while a scan shall leave no trace.
    scanned: RefCell<Vec<FileRange>>,
    pins: RefCell<Pins>,
    /// Bytes that the peer had taken when it last asked for something, once those are enough.
    answered_bytes: Cell<u64>,
}

impl Socket {
    /// Takes over a connected socket: sets O_NONBLOCK (rows 8 and 9), TCP_NODELAY where it exists
    /// (what belongs together is sent with MSG_MORE) and, if given, SO_SNDBUF.
    ///
    /// The kernel doubles `send_buffer_bytes` for its own bookkeeping (socket(7)) and never
    /// enlarges it again; without one the buffer grows to the largest of tcp_wmem (tcp(7)).
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
            scanned: RefCell::default(),
            pins: RefCell::default(),
            answered_bytes: Cell::new(0),
        })
    }

    /// Ends both directions now. Operations in flight complete; later ones fail with EPIPE or
    /// receive the end of the stream. Harmless when the peer has left already.
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

    /// Bytes of transfers that the peer has taken so far: what a send time-out compares to see
    /// whether it reads at all. A slow reader may take minutes to make a full send buffer ready for
    /// more, so what has left that buffer counts and not what went in.
    ///
    /// A chain in flight tells only at its end what went in: the number may fall meanwhile.
    pub fn taken_bytes(&self) -> u64 {
        let waiting = unsent_bytes(self.as_fd()).unwrap_or(0);
        self.sent_bytes.get().saturating_sub(waiting)
    }

    /// Whether the peer has asked for more after bytes that it must have read to get them.
    pub fn is_proven(&self) -> bool {
        self.answered_bytes.get() >= PROVEN_BYTES
    }

    /// Bytes that lie in the send buffer and that the peer's kernel has not taken.
    pub fn waiting_bytes(&self) -> u64 {
        unsent_bytes(self.as_fd()).unwrap_or(0)
    }

    /// Whether bytes wait for a peer that has not reset the connection.
    pub fn is_owed(&self) -> bool {
        /// The end of the stream counts as a byte until the peer's kernel has it.
        const END_BYTES: u64 = 1;
        self.waiting_bytes() > END_BYTES && rustix::net::getpeername(&self.fd).is_ok()
    }

    /// The peer asks for something, so it has taken what it was sent before, as far as that has
    /// left the send buffer.
    pub fn note_request(&self) {
        // Who asks ahead may have read nothing: what still waits for it proves nothing.
        if !self.is_proven() && self.sent_bytes.get() >= PROVEN_BYTES {
            self.answered_bytes.set(self.taken_bytes());
        }
        if self.pins.borrow().are_short() {
            self.release_taken();
        }
    }

    /// Between two answers: forgets the pages that the peer held, if it has taken all it was sent.
    pub fn release_taken(&self) {
        let mut pins = self.pins.borrow_mut();
        if !pins.is_empty() && self.waiting_bytes() == 0 {
            pins.clear();
        }
    }

    /// Sets SO_SNDBUF; the kernel doubles it.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_send_buffer(&self, len_bytes: usize) -> io::Result<()> {
        sockopt::set_socket_send_buffer_size(&self.fd, len_bytes)?;
        self.send_buffer_bytes.set(Some(len_bytes));
        Ok(())
    }

    /// How much to copy into the socket at once. The kernel takes what a single call brings as long
    /// as there is any room, up to 64 KiB, which is more than a small buffer may hold.
    pub(crate) fn stage_bytes(&self) -> u32 {
        let of_buffer = self.send_buffer_bytes.get().unwrap_or(STAGE_BYTES);
        of_buffer.clamp(PAGE_BYTES as usize, STAGE_BYTES) as u32
    }

    /// When the socket is closed the kernel forgets what the peer has not taken, instead of keeping
    /// the memory and trying on: the peer gets a reset.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn forget_unsent(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO))?)
    }

    /// Whether pages of `ranges` may be sent now; see pins.rs.
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

    /// Holds back a segment that is not full: MSG_MORE for sendfile(2), which has none. What comes
    /// last would otherwise travel, and wake the peer, alone.
    pub(crate) fn cork(&self) {
        if !self.is_corked.get() {
            self.is_corked.set(sockopt::set_tcp_cork(&self.fd, true).is_ok()); // AF_UNIX has none
        }
    }

    /// Lets go of what was held back. To be called at the end of every answer.
    pub(crate) fn uncork(&self) {
        if self.is_corked.take() {
            // It fails for a socket that is gone only, and that is found out elsewhere.
            let _ = sockopt::set_tcp_cork(&self.fd, false);
        }
    }

    /// Keeps what the peer is sent from disk now, and gives what it was sent before: nothing while
    /// that is of an answer that goes on.
    pub(crate) fn replace_scanned(&self, ranges: Vec<FileRange>) -> Vec<FileRange> {
        let mut scanned = self.scanned.borrow_mut();
        let (more, new): (Vec<_>, Vec<_>) = ranges
            .into_iter()
            .partition(|range| scanned.iter().any(|earlier| earlier.overlaps(range)));
        if more.is_empty() {
            return std::mem::replace(&mut scanned, new);
        }
        for range in more {
            let earlier = scanned.iter_mut().filter(|earlier| earlier.overlaps(&range));
            earlier.for_each(|earlier| earlier.reach(range.end()));
        }
        scanned.extend(new);
        Vec::new()
    }

    /// The socket in the runtime's epoll.
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
    fn what_was_scanned_is_given_once_the_answer_is_over_and_not_before() {
        let socket = Socket::new(UnixStream::pair().unwrap().0, None).unwrap();
        let file = std::sync::Arc::new(tempfile::tempfile().unwrap());
        let range = |position, len_bytes| FileRange { file: file.clone(), position, len_bytes };
        let replace = |ranges: Vec<FileRange>| -> Vec<(u64, u64)> {
            let given = socket.replace_scanned(ranges).into_iter();
            given.map(|range| (range.position, range.len_bytes)).collect()
        };
        assert_eq!(replace(vec![range(0, 100)]), []);
        assert_eq!(replace(vec![range(30, 100)]), [], "the same answer, a full socket later");
        assert_eq!(replace(vec![range(60, 70), range(500, 10)]), []);
        assert_eq!(replace(vec![range(130, 50)]), [(0, 130), (500, 10)]);
        assert_eq!(replace(vec![range(900, 1)]), [(130, 50)]);
    }

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
        assert_eq!((with(Some(1 << 20)), with(None)), (64 * 1024, 64 * 1024));
        assert_eq!(with(Some(0)), PAGE_BYTES as u32);
    }
}
