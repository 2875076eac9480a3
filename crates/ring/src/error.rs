//! The families of failure: no ring, a failed write, a failed transfer.
//!
//! Results of the kernel stay numbers. Its internal ones (`-512`, ERESTARTSYS) reach this crate
//! (KERNEL.md row 11), and `io::Error` has no words for them.

use std::io;

/// The advice for an operator whose system lacks threads.
pub const RAISE_THREADS: &str = "raise the limit of threads (pids.max of the cgroup, TasksMax of the unit, \
    RLIMIT_NPROC of the user)";

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The kernel, a seccomp filter or a sysctl refuses io_uring.
    #[error("{what} failed with errno {errno} ({advice})", advice = advice(*.errno))]
    Unavailable {
        /// EPERM: forbidden. ENOSYS: unknown to this kernel. Others are resource limits.
        errno: i32,
        /// The refused system call.
        what: &'static str,
    },
    /// The system has too few threads to start.
    #[error("the system has no thread for {what} (errno {errno}): {RAISE_THREADS}")]
    NoThreads {
        /// EAGAIN, ECANCELED where the kernel found no worker, or ENOMEM without memory for a
        /// stack.
        errno: i32,
        /// The purpose of the thread.
        what: &'static str,
    },
}

impl RingError {
    pub(crate) fn no_threads(what: &'static str, error: &io::Error) -> RingError {
        RingError::NoThreads { errno: error.raw_os_error().unwrap_or(libc::EAGAIN), what }
    }
}

fn advice(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => {
            "forbidden: see the sysctl kernel.io_uring_disabled and the seccomp profile of the container"
        }
        libc::ENOSYS => "unknown here: the kernel is older than 6.1, or a seccomp profile hides it",
        libc::EINVAL => "refused: the kernel is older than 6.1",
        libc::ENOMEM | libc::EMFILE | libc::ENFILE => "out of memory or descriptors",
        _ => "see io_uring_setup(2)",
    }
}

/// Why a write failed. An unknown part of its bytes may have been written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The page cache did not take all bytes.
    #[error("write failed: {0}")]
    Write(#[source] io::Error),
    /// The page cache has the bytes, the disk may not. A second sync proves nothing: the pages that
    /// the first one did not write count as clean from then on.
    #[error("sync failed: {0}")]
    Sync(#[source] io::Error),
}

/// Why a transfer ended before its last byte. An unknown prefix of the answer has been sent, so the
/// connection must be closed. Only a [`TransferError::Read`] may come before the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The peer closed or reset the connection. This is expected and needs no line in the log.
    #[error("peer is gone (errno {errno})")]
    PeerGone {
        /// EPIPE, ECONNRESET, ENOTCONN, ETIMEDOUT or ESHUTDOWN.
        errno: i32,
    },
    /// The file is shorter than the range promised to the peer.
    #[error(
        "file ended at byte {position}, {missing_bytes} bytes before the end of the promised range"
    )]
    FileEndedEarly {
        /// Which of the transfer's file ranges, from 0 on.
        range: usize,
        /// The byte of the file at which it ended.
        position: u64,
        /// Bytes missing from there to the end of the piece.
        missing_bytes: u64,
    },
    /// The disk, or whatever else the file is on, failed to return the bytes.
    #[error("cannot read at byte {position}: errno {errno}")]
    Read {
        /// Which of the transfer's file ranges, from 0 on.
        range: usize,
        /// The byte of the file at which the read began.
        position: u64,
        /// Bytes requested. The place that cannot be read lies among them.
        len_bytes: u32,
        /// Usually EIO.
        errno: i32,
        /// Whether bytes of the answer have been sent. If so, the socket has been shut down; if
        /// not, it is unchanged.
        is_begun: bool,
    },
    /// The kernel accepted an operation and moved no byte. A retry would never end.
    #[error("kernel moved none of {len_bytes} requested bytes")]
    NoProgress {
        /// Bytes requested.
        len_bytes: u64,
    },
    /// An operation ran although a link before it broke, or reported more bytes than requested. The
    /// order of the bytes on the wire is no longer known.
    #[error(
        "operation {index} of a chain ended with {result}, which its place or length rules out"
    )]
    OutOfOrder {
        /// Position in the chain.
        index: usize,
        /// The kernel's result.
        result: i32,
    },
    /// Any other errno, including the kernel's internal ones.
    #[error("operation failed with errno {0}")]
    Os(i32),
}

impl TransferError {
    /// Sorts an errno: a peer that leaves is expected, everything else is not.
    pub(crate) fn from_errno(errno: i32) -> TransferError {
        match errno {
            libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN | libc::ETIMEDOUT | libc::ESHUTDOWN => {
                TransferError::PeerGone { errno }
            }
            _ => TransferError::Os(errno),
        }
    }
}

impl From<TransferError> for io::Error {
    fn from(error: TransferError) -> io::Error {
        match error {
            TransferError::PeerGone { errno }
            | TransferError::Read { errno, .. }
            | TransferError::Os(errno) => io::Error::from_raw_os_error(errno),
            other => io::Error::other(other),
        }
    }
}
