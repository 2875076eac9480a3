//! The families of failure: a ring that cannot be had, a write and a transfer that did not end
//! well.
//!
//! Results of the kernel are kept as the numbers they are. The kernel's internal ones (`-512`,
//! ERESTARTSYS) do reach us (KERNEL.md row 11) and `io::Error` has no words for them.

use std::io;

/// What an operator does about a lack of threads.
pub const RAISE_THREADS: &str = "raise the limit of threads (pids.max of the cgroup, TasksMax of the unit, \
    RLIMIT_NPROC of the user)";

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The kernel, a seccomp filter or a sysctl does not let us use io_uring.
    #[error("{what} failed with errno {errno} ({advice})", advice = advice(*.errno))]
    Unavailable {
        /// EPERM: forbidden. ENOSYS: unknown to this kernel. Others are resource limits.
        errno: i32,
        /// The system call that was refused.
        what: &'static str,
    },
    /// There are too few threads to begin with.
    #[error("the system has no thread for {what} (errno {errno}): {RAISE_THREADS}")]
    NoThreads {
        /// EAGAIN; ECANCELED where it was the kernel that found none; ENOMEM without memory for a
        /// stack.
        errno: i32,
        /// What the thread was for.
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

/// Why bytes are not where a write was to bring them. An unknown part of them may be.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// They were not all taken by the page cache.
    #[error("write failed: {0}")]
    Write(#[source] io::Error),
    /// They are in the page cache. A second sync must not be believed: the pages that the first one
    /// did not write count as clean from then on.
    #[error("sync failed: {0}")]
    Sync(#[source] io::Error),
}

/// Why a transfer ended before its last byte. Whatever the reason, an unknown prefix of the answer
/// has left: the only honest thing to do with the connection is to close it. Only a
/// [`TransferError::Read`] may come before the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The peer closed or reset the connection. Expected, not worth a line in the log.
    #[error("peer is gone (errno {errno})")]
    PeerGone {
        /// EPIPE, ECONNRESET, ENOTCONN, ETIMEDOUT or ESHUTDOWN.
        errno: i32,
    },
    /// The file is shorter than the range that was promised to the peer.
    #[error(
        "file ended at byte {position}, {missing_bytes} bytes before the end of what was promised"
    )]
    FileEndedEarly {
        /// Which of the transfer's file ranges, from 0 on.
        range: usize,
        /// Where in the file nothing came any more.
        position: u64,
        /// What is missing from there to the end of the piece.
        missing_bytes: u64,
    },
    /// The disk, or whatever the file is on, does not give the bytes.
    #[error("cannot read at byte {position}: errno {errno}")]
    Read {
        /// Which of the transfer's file ranges, from 0 on.
        range: usize,
        /// Where in the file the read began.
        position: u64,
        /// How much it asked for; the place that cannot be read lies therein.
        len_bytes: u32,
        /// EIO as a rule.
        errno: i32,
        /// Bytes of the answer have been sent, and the socket has been shut down. If none has, it
        /// is as it was.
        is_begun: bool,
    },
    /// The kernel accepted an operation and moved nothing, which would repeat for ever.
    #[error("kernel moved no byte of {len_bytes} asked")]
    NoProgress {
        /// What was asked.
        len_bytes: u64,
    },
    /// An operation ran although one linked before it broke, or said it moved more than asked: the
    /// order of the bytes on the wire is not known any more.
    #[error("operation {index} of a chain ended with {result}, which its order or length forbids")]
    OutOfOrder {
        /// Position in the chain.
        index: usize,
        /// What the kernel said.
        result: i32,
    },
    /// Any other errno, also those that only the kernel knows.
    #[error("operation failed with errno {0}")]
    Os(i32),
}

impl TransferError {
    /// Sorts an errno: peers that leave are expected, everything else is not.
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
