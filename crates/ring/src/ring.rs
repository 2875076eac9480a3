//! The ring of one worker thread: the interface for the server.
//!
//! Every method works on both backends. The backend shows in speed and in `backend()` only. A
//! `Ring` lives on one thread inside a tokio current-thread runtime with a `LocalSet` (or a
//! tokio-uring one). It does nothing until [`Ring::drive`] has been spawned.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::Notify;

use crate::blocking;
use crate::counters::Counters;
use crate::epoll;
use crate::error::{RingError, TransferError, WriteError};
use crate::file_range::FileRange;
use crate::foresight;
use crate::perform;
use crate::ring_config::{BackendChoice, RingConfig, Then};
use crate::sent::Sent;
use crate::shared::{Kernel, Shared};
use crate::socket::Socket;
use crate::sys::Gather;
use crate::transfer::{Path, Piece};
use crate::uring::Uring;

/// Room added to a receive buffer that has none. A receive without room would look like the end of
/// the stream.
const RECEIVE_BYTES: usize = 4096;

/// The kernel interface a ring runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring.
    Uring,
    /// epoll, sendfile and threads that may block.
    Epoll,
}

/// A handle to the ring of this thread; clones share it.
#[derive(Clone)]
pub struct Ring {
    shared: Rc<Shared>,
}

impl Ring {
    /// Makes a ring for the calling thread, the only one that may use it.
    ///
    /// All threads that the ring cannot do without exist when this returns. A shortage that comes
    /// later makes the ring slower.
    ///
    /// # Errors
    /// `Unavailable` when the configuration demands io_uring and the kernel refuses it. `Auto`
    /// falls back to epoll, and [`Ring::unavailable`] returns the reason. `NoThreads` on both
    /// backends, since epoll needs threads, too.
    pub fn new(config: RingConfig) -> Result<Ring, RingError> {
        config.assert_sound();
        blocking::start().map_err(|error| RingError::no_threads("blocking work", &error))?;
        let counters = Arc::new(Counters::default());
        let epoll = || Kernel::Epoll { stopped: Notify::new() };
        let (kernel, unavailable) = match config.backend {
            BackendChoice::Epoll => (epoll(), None),
            choice => match Uring::new(&config, Arc::clone(&counters)) {
                Ok(uring) => (Kernel::Uring(Rc::new(uring)), None),
                Err(error @ RingError::Unavailable { .. }) if choice == BackendChoice::Auto => {
                    (epoll(), Some(error))
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Ring::on(kernel, unavailable, config, counters))
    }

    pub(crate) fn on(
        kernel: Kernel,
        unavailable: Option<RingError>,
        config: RingConfig,
        counters: Arc<Counters>,
    ) -> Ring {
        Ring { shared: Rc::new(Shared::new(kernel, unavailable, config, counters)) }
    }

    /// Submits and reaps for all tasks of the thread. Spawn it once. It ends after [`Ring::stop`].
    ///
    /// # Errors
    /// The runtime is shutting down, has no I/O driver, or `io_uring_enter` failed for good.
    pub async fn drive(self) -> io::Result<()> {
        match &self.shared.kernel {
            Kernel::Uring(uring) => uring.drive().await,
            Kernel::Epoll { stopped } => {
                stopped.notified().await;
                Ok(())
            }
        }
    }

    /// Waits until the kernel owes nothing, then ends the driver. It waits for the futures of this
    /// ring, too: shut the sockets down first, and finish or drop the futures.
    pub async fn stop(&self) {
        match &self.shared.kernel {
            Kernel::Uring(uring) => uring.stop().await,
            Kernel::Epoll { stopped } => stopped.notify_one(),
        }
    }

    /// The kernel interface in use.
    pub fn backend(&self) -> Backend {
        match self.shared.kernel {
            Kernel::Uring(_) => Backend::Uring,
            Kernel::Epoll { .. } => Backend::Epoll,
        }
    }

    /// Why io_uring is not in use although the configuration allowed it.
    pub fn unavailable(&self) -> Option<&RingError> {
        self.shared.unavailable.as_ref()
    }

    /// The counters of this ring. Any thread may read them.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Receives into the spare capacity of `buffer` (4 KiB are added if there is none) and returns
    /// the buffer with the received bytes at its end. `Ok(0)` is the end of the stream.
    ///
    /// Dropping the future loses the buffer and any bytes received into it meanwhile.
    pub async fn recv(
        &self,
        socket: &Rc<Socket>,
        mut buffer: BytesMut,
    ) -> (io::Result<usize>, BytesMut) {
        if buffer.capacity() == buffer.len() {
            buffer.reserve(RECEIVE_BYTES);
        }
        match &self.shared.kernel {
            Kernel::Uring(uring) => uring.recv(Rc::clone(socket), buffer).await,
            Kernel::Epoll { .. } => epoll::recv(socket, buffer).await,
        }
    }

    /// Receives without ever waiting, into the spare capacity of `buffer`, which must have some.
    /// `None`: nothing has arrived. `Some(0)`: the end of the stream. No other receive may be under
    /// way.
    pub fn recv_now(&self, socket: &Socket, buffer: &mut BytesMut) -> io::Result<Option<usize>> {
        match epoll::recv_now(socket, buffer) {
            Ok(len_bytes) => Ok(Some(len_bytes)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Reads `len_bytes` at `position`, fewer only where the file ends before. The call allocates
    /// `len_bytes`, so the caller bounds them.
    pub async fn read_at(
        &self,
        file: Arc<File>,
        position: u64,
        len_bytes: usize,
    ) -> io::Result<Bytes> {
        self.shared.read_at(file, position, len_bytes).await
    }

    /// Reads from the page cache without waiting for a disk (preadv2(2), RWF_NOWAIT). `None`: the
    /// page cache has no byte at `position`. `Some(0)`: the end of the file. Otherwise the count of
    /// bytes read, which may be less than `buffer` holds. Where the file system refuses such reads,
    /// the read is all or nothing and rests on what the ring knows of the page cache.
    pub fn read_cached_at(
        &self,
        file: &Arc<File>,
        position: u64,
        buffer: &mut [u8],
    ) -> io::Result<Option<usize>> {
        self.shared.read_cached_at(file, position, buffer)
    }

    /// Writes all `pieces` one behind the other at `position`, then does what `then` asks for.
    /// After an error or a dropped future any part of them may have been written.
    pub async fn write_all_at(
        &self,
        file: Arc<File>,
        position: u64,
        pieces: Vec<Bytes>,
        then: Then,
    ) -> Result<(), WriteError> {
        let mut rest = VecDeque::from(pieces);
        let mut position = position;
        loop {
            rest.retain(|piece| !piece.is_empty());
            if rest.is_empty() {
                break;
            }
            let then = if rest.len() <= Gather::PIECES_MAX { then } else { Then::Return };
            let (written, synced);
            (written, synced, rest) = match &self.shared.kernel {
                Kernel::Uring(uring) => uring.write(Arc::clone(&file), position, rest, then).await,
                Kernel::Epoll { .. } => epoll::write(Arc::clone(&file), position, rest, then).await,
            };
            match written {
                Ok(0) => return Err(WriteError::Write(io::ErrorKind::WriteZero.into())),
                Ok(len_bytes) => {
                    advance(&mut rest, len_bytes);
                    position += len_bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WriteError::Write(error)),
            }
            match synced {
                Some(Err(error)) => return Err(WriteError::Sync(error)),
                Some(Ok(())) if rest.is_empty() => return Ok(()),
                _ => {}
            }
        }
        match then {
            Then::Return => Ok(()),
            Then::SyncData => self.sync_data(file).await.map_err(WriteError::Sync),
        }
    }

    /// fdatasync(2) on its own.
    async fn sync_data(&self, file: Arc<File>) -> io::Result<()> {
        match &self.shared.kernel {
            Kernel::Uring(uring) => uring.sync_data(file).await,
            Kernel::Epoll { .. } => epoll::sync_data(file).await,
        }
    }

    /// Waits for a connection. The stream is as accept4(2) returns it; make a [`Socket`] of it.
    pub async fn accept(&self, listener: &Rc<TcpListener>) -> io::Result<TcpStream> {
        match &self.shared.kernel {
            Kernel::Uring(uring) => uring.accept(Rc::clone(listener)).await,
            Kernel::Epoll { .. } => epoll::accept(Rc::clone(listener)).await,
        }
    }

    /// Waits until the socket takes bytes or has failed. The next send returns the failure.
    pub async fn writable(&self, socket: &Rc<Socket>) -> io::Result<()> {
        self.shared.writable(socket).await
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.shared.kernel
    }

    /// Drops what the scans of the process have left in the page cache, as far as nobody is still
    /// to read it ([`RingConfig::scans`]). To be called once a second; more often changes nothing.
    pub fn sweep(&self) {
        if let Some(scans) = &self.shared.config.scans {
            for range in scans.sweep(Instant::now()) {
                self.shared.drop_pages(&range);
            }
        }
    }

    /// How many bytes of a range are not in memory, or were read from the disk because of the
    /// peer's previous answer: what an answer to it would count as read from the disk. Where the
    /// kernel cannot count, all of a range that is not known to be in memory. Never waits.
    pub fn disk_bytes(
        &self,
        file: &Arc<File>,
        position: u64,
        len_bytes: u64,
        peer: Option<&Socket>,
    ) -> u64 {
        let range = FileRange { file: Arc::clone(file), position, len_bytes };
        foresight::disk_bytes(&self.shared, &range, peer)
    }

    /// Sends `count` bytes of `file` from `position` to `socket` by linked splices: the call that
    /// this project is about. See [`Ring::transfer`].
    pub async fn transfer_to(
        &self,
        file: Arc<File>,
        position: u64,
        count: u64,
        socket: &Rc<Socket>,
    ) -> Result<Sent, TransferError> {
        let pieces = [Piece::File { file, position, len_bytes: count }];
        self.transfer(pieces, socket, Path::Chain).await
    }

    /// Sends all `pieces` in order, and returns what that took. A socket takes one transfer at a
    /// time; a receive may run beside it.
    ///
    /// The bytes of the ranges must not change in their files until the peer has acknowledged them,
    /// because pages travel, not copies. Without io_uring, [`Path::Chain`] goes by sendfile.
    ///
    /// # Errors
    /// After any error or a dropped future an unknown prefix has been sent and the socket has been
    /// shut down; [`TransferError::Read`] is the exception, if it comes before the first byte. The
    /// wait for a peer that does not read has no time limit: [`Socket::taken_bytes`] shows whether
    /// the peer reads, and [`Socket::shutdown`] ends the wait.
    pub async fn transfer(
        &self,
        pieces: impl IntoIterator<Item = Piece>,
        socket: &Rc<Socket>,
        path: Path,
    ) -> Result<Sent, TransferError> {
        perform::transfer(&self.shared, pieces.into_iter().collect(), socket, path).await
    }
}

/// Removes `len_bytes` from the front.
fn advance(pieces: &mut VecDeque<Bytes>, mut len_bytes: usize) {
    while let Some(piece) = pieces.front_mut()
        && len_bytes > 0
    {
        let step = len_bytes.min(piece.len());
        piece.advance(step);
        len_bytes -= step;
        if piece.is_empty() {
            pieces.pop_front();
        }
    }
}
