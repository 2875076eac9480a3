//! All of the project's `unsafe`. Each block names the owner of the memory or descriptor and the
//! moment of its release.
//!
//! The kernel keeps pointers and descriptor numbers after the system call has returned, so
//! lifetimes alone cannot protect them. [`Queue::push`] makes types protect them: a function
//! describes the requests, and it borrows, for every lifetime, from the boxed resources only. All
//! that the kernel will touch is therefore in the box (or static), and the box lies in
//! [`Operations`] until the last completion is in. Of the crate it imports plain data and
//! operations.rs, on which that argument rests.
//!
//! ```text
//!   box of resources ──describe──> [Request<'a>] ──encode──> submission queue ──enter──> kernel
//!        └──────────insert──────> Operations <──────────complete──────── completion queue
//! ```
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use io_uring::squeue::{self, Flags};
use io_uring::{IoUring, opcode, types};
use smallvec::SmallVec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::RingError;
use crate::operations::{Key, Operations, Owed, Resources, UNAWAITED};
use crate::ring_config::{CHAIN_OPERATIONS, PAGE_BYTES, RingConfig};

/// Advice to the page cache about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// The range will be read soon.
    WillNeed,
    /// The range will not be read again.
    DontNeed,
}

/// One operation for the kernel. It borrows what the kernel will touch.
pub(crate) enum Request<'a> {
    /// poll(2), once.
    Poll { fd: BorrowedFd<'a>, events: i16 },
    /// recv(2).
    Receive { socket: BorrowedFd<'a>, buffer: &'a mut [MaybeUninit<u8>] },
    /// send(2) that never waits. A short send breaks the chain (KERNEL.md row 15).
    Send { socket: BorrowedFd<'a>, bytes: &'a [u8], more: bool },
    /// splice(2) from a file into a pipe.
    Fill { file: BorrowedFd<'a>, position: u64, pipe: BorrowedFd<'a>, len_bytes: u32 },
    /// splice(2) from a pipe into a socket.
    Drain { pipe: BorrowedFd<'a>, socket: BorrowedFd<'a>, len_bytes: u32, more: bool },
    /// pread(2).
    Read { file: BorrowedFd<'a>, position: u64, buffer: &'a mut [MaybeUninit<u8>] },
    /// pwritev(2).
    Write { file: BorrowedFd<'a>, position: u64, bytes: &'a Gather },
    /// fdatasync(2).
    SyncData { file: BorrowedFd<'a> },
    /// posix_fadvise(2).
    Advise { file: BorrowedFd<'a>, position: u64, len_bytes: u64, advice: Advice },
    /// accept4(2).
    Accept { listener: BorrowedFd<'a> },
    /// An operation that the project never requests. kernel_contract.rs does, to see its result.
    #[cfg(test)]
    Raw(squeue::Entry, std::marker::PhantomData<&'a ()>),
}

/// Pieces of memory to be written one behind the other: as many of the first as one call can take.
pub(crate) struct Gather {
    /// The memory that `slices` point to. It is never changed, and does not move with the struct,
    /// since `Bytes` lie on the heap.
    pieces: VecDeque<Bytes>,
    slices: SmallVec<[libc::iovec; 16]>,
}

impl Gather {
    pub(crate) const PIECES_MAX: usize = libc::UIO_MAXIOV as usize;

    pub(crate) fn new(pieces: VecDeque<Bytes>) -> Gather {
        let slice = |piece: &Bytes| libc::iovec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        };
        let slices = pieces.iter().take(Gather::PIECES_MAX).map(slice).collect();
        Gather { pieces, slices }
    }

    pub(crate) fn into_pieces(self) -> VecDeque<Bytes> {
        self.pieces
    }
}

/// Operations to be linked. A single one, the usual case, needs no allocation.
pub(crate) type Requests<'a> = SmallVec<[Request<'a>; 1]>;

impl Request<'_> {
    /// The result of an operation that does all of its work, and goes on to the next of its chain.
    /// A poll's events make no difference to a chain. `None`: it cannot be known beforehand.
    fn whole_result(&self) -> Option<i32> {
        let len_bytes = match self {
            Request::Poll { .. } | Request::SyncData { .. } | Request::Advise { .. } => 0,
            Request::Send { bytes, .. } => bytes.len(),
            Request::Fill { len_bytes, .. } | Request::Drain { len_bytes, .. } => {
                *len_bytes as usize
            }
            Request::Write { bytes, .. } => bytes.slices.iter().map(|slice| slice.iov_len).sum(),
            Request::Receive { .. } | Request::Read { .. } | Request::Accept { .. } => return None,
            #[cfg(test)]
            Request::Raw(..) => return None,
        };
        i32::try_from(len_bytes).ok()
    }

    fn encode(self) -> squeue::Entry {
        match self {
            Request::Poll { fd, events } => {
                opcode::PollAdd::new(fd_of(fd), u32::from(events as u16)).build()
            }
            Request::Receive { socket, buffer } => opcode::Recv::new(
                fd_of(socket),
                buffer.as_mut_ptr().cast(),
                saturated(buffer.len()),
            )
            .build(),
            Request::Send { socket, bytes, more } => {
                // DONTWAIT: after a splice the send runs on the chain's kernel worker, which a full
                // socket would park. WAITALL: a short send must break the chain.
                let more = if more { libc::MSG_MORE } else { 0 };
                opcode::Send::new(fd_of(socket), bytes.as_ptr(), saturated(bytes.len()))
                    .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL | more)
                    .build()
            }
            Request::Fill { file, position, pipe, len_bytes } => {
                opcode::Splice::new(fd_of(file), position as i64, fd_of(pipe), -1, len_bytes)
                    .flags(libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK)
                    .build()
            }
            Request::Drain { pipe, socket, len_bytes, more } => {
                let more = if more { libc::SPLICE_F_MORE } else { 0 };
                opcode::Splice::new(fd_of(pipe), -1, fd_of(socket), -1, len_bytes)
                    .flags(libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | more)
                    .build()
            }
            Request::Read { file, position, buffer } => {
                opcode::Read::new(fd_of(file), buffer.as_mut_ptr().cast(), saturated(buffer.len()))
                    .offset(position)
                    .build()
            }
            Request::Write { file, position, bytes } => {
                let slices = &bytes.slices;
                opcode::Writev::new(fd_of(file), slices.as_ptr(), saturated(slices.len()))
                    .offset(position)
                    .build()
            }
            Request::SyncData { file } => {
                opcode::Fsync::new(fd_of(file)).flags(types::FsyncFlags::DATASYNC).build()
            }
            Request::Advise { file, position, len_bytes, advice } => {
                let advice = match advice {
                    Advice::WillNeed => libc::POSIX_FADV_WILLNEED,
                    Advice::DontNeed => libc::POSIX_FADV_DONTNEED,
                };
                opcode::Fadvise::new(fd_of(file), len_bytes as i64, advice).offset(position).build()
            }
            Request::Accept { listener } => {
                opcode::Accept::new(fd_of(listener), std::ptr::null_mut(), std::ptr::null_mut())
                    .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
                    .build()
            }
            #[cfg(test)]
            Request::Raw(entry, _) => entry,
        }
    }
}

/// The submission and completion queues of one io_uring.
pub(crate) struct Queue {
    ring: IoUring,
    /// The chain being built. Kept for its allocation.
    chain: Vec<squeue::Entry>,
    /// Whole chains for which the submission queue had no room.
    overflow: VecDeque<Box<[squeue::Entry]>>,
    borders: Borders,
}

/// Where the chains in the submission queue end, to see one that the kernel takes in part.
#[derive(Debug, Default)]
struct Borders {
    /// Lengths of the chains that wait, the first less what has been taken of it.
    waiting: VecDeque<usize>,
}

impl Borders {
    fn push(&mut self, len: usize) {
        self.waiting.push_back(len);
    }

    /// The kernel has taken so many entries: whether they were whole chains.
    fn take(&mut self, mut taken: usize) -> bool {
        while taken > 0 {
            let Some(len) = self.waiting.pop_front() else { return true };
            if taken < len {
                return false;
            }
            taken -= len;
        }
        true
    }
}

impl Queue {
    /// Sets up an io_uring for the calling thread and sizes its worker pool.
    ///
    /// It does not set DEFER_TASKRUN, with which a ring whose descriptor epoll watches loses
    /// wake-ups.
    pub(crate) fn new(config: &RingConfig) -> Result<Queue, RingError> {
        let unavailable = |what| {
            move |error: io::Error| RingError::Unavailable {
                errno: error.raw_os_error().unwrap_or(libc::EIO),
                what,
            }
        };
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_single_issuer()
            .setup_submit_all()
            .setup_cqsize(config.completions)
            .build(config.submissions)
            .map_err(unavailable("io_uring_setup"))?;
        ring.submitter()
            .register_iowq_max_workers(&mut [config.bounded_workers, config.unbounded_workers])
            .map_err(unavailable("io_uring_register"))?;
        let (chain, overflow) = (Vec::with_capacity(CHAIN_OPERATIONS), VecDeque::new());
        Ok(Queue { ring, chain, overflow, borders: Borders::default() })
    }

    /// Has the kernel make a worker of either kind for the calling thread, and waits until both
    /// exist. The last of a kind stays (KERNEL.md row 24), so later work may wait for it and is
    /// never refused.
    ///
    /// # Errors
    /// ECANCELED: the kernel could make no worker.
    pub(crate) fn make_workers(&mut self) -> io::Result<()> {
        let (empty_pipe, _) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // A read of anything but a regular file is unbounded work. An operation without a file is
        // bounded work.
        let read = opcode::Read::new(fd_of(empty_pipe.as_fd()), std::ptr::null_mut(), 0).build();
        let forced = |entry: squeue::Entry| entry.flags(Flags::ASYNC).user_data(UNAWAITED);
        let entries = [opcode::Nop::new().build(), read].map(forced);
        assert!(push_whole(&mut self.ring, &entries), "a new queue has room");
        let mut results = Vec::new();
        while results.len() < entries.len() {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                submitted => drop(submitted?),
            }
            self.reap(&mut results);
        }
        let refused = results.iter().find(|(_, result)| *result < 0);
        refused
            .map_or(Ok(()), |(_, result)| Err(io::Error::from_raw_os_error(result.wrapping_neg())))
    }

    /// Queues the linked operations that `describe` makes of `resources`, and moves the resources
    /// into `operations`, where they stay until the last completion. A chain has one: each
    /// completion would wake the event loop (KERNEL.md row 25).
    pub(crate) fn push<R: Resources>(
        &mut self,
        operations: &mut Operations,
        mut resources: Box<R>,
        describe: impl for<'a> FnOnce(&'a mut R) -> Requests<'a>,
    ) -> Key {
        let mut whole: SmallVec<[i32; CHAIN_OPERATIONS]> = SmallVec::new();
        let (mut syncs, mut syncs_early) = (false, false);
        for request in describe(&mut resources) {
            syncs_early |= syncs;
            syncs |= matches!(request, Request::SyncData { .. });
            whole.extend(request.whole_result());
            self.chain.push(request.encode());
        }
        let len = self.chain.len();
        // A sync that fails breaks no chain, so it must not be a quiet one.
        let is_quiet = len > 1 && whole.len() == len && !syncs_early;
        let owed = if is_quiet { Owed::One(&whole) } else { Owed::Each(len) };
        let key = operations.insert(resources, owed);
        let linked = if is_quiet { Flags::IO_LINK | Flags::SKIP_SUCCESS } else { Flags::IO_LINK };
        for (position, entry) in self.chain.iter_mut().enumerate() {
            let flags = if position + 1 < len { linked } else { Flags::empty() };
            *entry = entry.clone().flags(flags).user_data(key.user_data(position));
        }
        self.enqueue();
        key
    }

    /// Asks the kernel to end a single operation soon. The operation's own completion still comes,
    /// and only that one counts (KERNEL.md row 11).
    pub(crate) fn push_cancel(&mut self, key: Key) {
        self.chain.push(opcode::AsyncCancel::new(key.user_data(0)).build().user_data(UNAWAITED));
        self.enqueue();
    }

    /// A duplicate of the ring's descriptor, readable when completions are in.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: `self.ring` owns the descriptor and outlives the borrow, which ends here.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }.try_clone_to_owned()
    }

    /// Whether entries wait for [`Queue::submit`], or the kernel holds completions that found no
    /// room.
    pub(crate) fn wants_enter(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty() || submission.cq_overflow() || !self.overflow.is_empty()
    }

    /// Whether completions wait for [`Queue::reap`].
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Makes one `io_uring_enter` with all queued entries, and returns how many the kernel took. It
    /// also makes the kernel deliver completions that found no room.
    ///
    /// # Errors
    /// Those of io_uring_enter(2). `Other`: for want of memory the kernel has taken a part of a
    /// chain. It would take the rest for a chain of its own, so the ring is of no more use.
    pub(crate) fn submit(&mut self) -> io::Result<usize> {
        self.refill();
        let taken = self.ring.submit()?;
        match self.borders.take(taken) {
            true => Ok(taken),
            false => Err(io::Error::other("the kernel has cut a chain in two")),
        }
    }

    /// Appends the completions that are in, as (user_data, result).
    pub(crate) fn reap(&mut self, into: &mut Vec<(u64, i32)>) {
        into.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
    }

    /// Moves the chain just built into the submission queue, whole, and behind the chains that
    /// found no room. A chain is cut where a submission ends (KERNEL.md row 19).
    fn enqueue(&mut self) {
        if self.overflow.is_empty() && push_whole(&mut self.ring, &self.chain) {
            self.borders.push(self.chain.len());
        } else {
            self.overflow.push_back(self.chain.as_slice().into());
        }
        self.chain.clear();
    }

    fn refill(&mut self) {
        while let Some(chain) = self.overflow.pop_front() {
            if !push_whole(&mut self.ring, &chain) {
                self.overflow.push_front(chain);
                return;
            }
            self.borders.push(chain.len());
        }
    }
}

/// A descriptor in the runtime's epoll.
pub(crate) type Watched = AsyncFd<Rc<OwnedFd>>;

/// Registers `fd` with the runtime's epoll, edge-triggered. epoll takes a descriptor once, so
/// several tasks watch one socket only through duplicates.
pub(crate) fn watch(fd: Rc<OwnedFd>, interest: Interest) -> io::Result<Watched> {
    // SAFETY: an `Rc<OwnedFd>` names the same open descriptor for as long as the `AsyncFd` holds
    // it, which deregisters before it lets go.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest)? })
}

/// Pushes all entries of a chain, or none and returns false.
fn push_whole(ring: &mut IoUring, chain: &[squeue::Entry]) -> bool {
    // SAFETY: every descriptor and address in `chain` was borrowed from resources that
    // `Queue::push` moved into `Operations` before this call. `Operations` owns them, behind a box
    // that does not move, and releases them only after the last completion of the chain. A quiet
    // chain has one, at whose time its other operations are done or will never run: the kernel runs
    // them one after the other (KERNEL.md row 25). A chain that it took in part would break that,
    // so `Queue::submit` fails then, and the ring with it; a ring dropped earlier leaks them
    // (uring.rs). Cancellations and the first work of workers carry no address.
    unsafe { ring.submission().push_multiple(chain).is_ok() }
}

/// Lengthens `buffer` by the bytes received behind its end.
pub(crate) fn extend_received(buffer: &mut BytesMut, len_bytes: usize) {
    assert!(
        len_bytes <= buffer.capacity() - buffer.len(),
        "{len_bytes} bytes received into less room"
    );
    // SAFETY: the kernel owned the spare capacity until the completion with `len_bytes`, and has
    // initialised that many bytes of it. The assertion keeps them inside.
    unsafe { buffer.set_len(buffer.len() + len_bytes) }
}

/// Takes ownership of the descriptor that an accept completed with.
pub(crate) fn adopt_accepted(result: i32) -> OwnedFd {
    assert!(result >= 0, "errno {result} is no descriptor");
    // SAFETY: the kernel installed this descriptor for this completion, which is seen once, so no
    // other code knows its number. The returned `OwnedFd` closes it.
    unsafe { OwnedFd::from_raw_fd(result) }
}

/// Counts the pages of a range that are in the page cache (cachestat(2), Linux 6.5).
///
/// # Errors
/// ENOSYS on older kernels, EPERM behind filters that do not know the call.
pub(crate) fn cached_pages(file: &File, position: u64, len_bytes: u64) -> io::Result<u64> {
    /// The number of the call, the same on all architectures that share new numbers.
    const CACHESTAT: libc::c_long = 451;
    let range = [position, len_bytes];
    // cached, dirty, in writeback, evicted, recently evicted
    let mut counts = [0u64; 5];
    // SAFETY: both arrays live until the call returns and have the layout that it reads and writes
    // (two and five 64-bit numbers); the descriptor is borrowed for as long.
    let result = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0)
    };
    if result == 0 { Ok(counts[0]) } else { Err(io::Error::last_os_error()) }
}

/// Counts the pages of a range that are in the page cache and fully read (mincore(2) of a mapping).
/// The range begins on a page.
///
/// # Errors
/// Those of mmap(2) and mincore(2), for files that cannot be mapped and behind filters that do not
/// know the calls.
pub(crate) fn mapped_pages(file: &File, position: u64, len_bytes: u64) -> io::Result<u64> {
    let mut pages = 0;
    let mut present = [0u8; 128];
    let step_bytes = present.len() as u64 * PAGE_BYTES;
    for from in (position..position + len_bytes).step_by(step_bytes as usize) {
        let len_bytes = (position + len_bytes - from).min(step_bytes) as usize;
        let (access, how) = (libc::PROT_NONE, libc::MAP_SHARED);
        let (fd, from) = (file.as_raw_fd(), from as libc::off_t);
        // SAFETY: the mapping lies where the kernel finds room. It allows no access and gets none,
        // so a file that ends early raises no signal. No code outside this block knows its address.
        // `present` has a byte for each page of the call to mincore, and lives until it returns.
        // The mapping is gone at the end of the block.
        let result = unsafe {
            let mapping = libc::mmap(std::ptr::null_mut(), len_bytes, access, how, fd, from);
            if mapping == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let result = match libc::mincore(mapping, len_bytes, present.as_mut_ptr()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            };
            libc::munmap(mapping, len_bytes);
            result
        };
        result?;
        let asked = &present[..len_bytes.div_ceil(PAGE_BYTES as usize)];
        pages += asked.iter().map(|page| u64::from(page & 1)).sum::<u64>();
    }
    Ok(pages)
}

/// Bytes in a socket's send buffer that its peer has not yet taken (SIOCOUTQ, tcp(7)).
pub(crate) fn unsent_bytes(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut len_bytes: libc::c_int = 0;
    // SAFETY: the call writes one int, which lives until it returns; the descriptor is borrowed for
    // as long.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut len_bytes) };
    if result == 0 { Ok(len_bytes.max(0) as u64) } else { Err(io::Error::last_os_error()) }
}

/// Ignores SIGPIPE for the whole process, so that `sendfile` to a peer that has left returns an
/// error instead of ending the process (KERNEL.md row 18). Rust's start-up code does the same
/// before `fn main`. A process that embeds the crate elsewhere, or has restored the default, must
/// call this before the first transfer.
pub fn ignore_sigpipe() {
    // SAFETY: SIG_IGN installs no handler, so no code runs in signal context and nothing is owned.
    // The disposition stays until the process sets another.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fn fd_of(fd: BorrowedFd<'_>) -> types::Fd {
    types::Fd(fd.as_raw_fd())
}

/// The kernel takes 32-bit lengths and moves at most 2 GiB a call. A shorter count is always legal.
fn saturated(len_bytes: usize) -> u32 {
    len_bytes.min(i32::MAX as usize) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_the_kernel_takes_in_part_is_seen() {
        let mut borders = Borders::default();
        [1, 3, 2].into_iter().for_each(|len| borders.push(len));
        assert!(borders.take(1) && borders.take(0) && borders.take(3));
        borders.push(4);
        assert!(!borders.take(3), "two, and one of four");
    }
}
