//! Applies the results of a plan to the state.
//!
//! Results may be any number. Expected ones move the cursor, all others fail the transfer. No
//! result is trusted to be at most the requested length.

use super::{Means, Op, Piece, Transfer};
use crate::error::TransferError;
use crate::shortage::never_ran;

/// How one operation ended.
enum Outcome {
    /// It moved all requested bytes, and the operations linked behind it ran.
    Whole,
    /// It did not, and the operations linked behind it did not run.
    Broken,
}

impl Transfer {
    /// Takes the results of the plan, one an operation: bytes moved (no matter what, for PollOut)
    /// or a negative errno, and `-ECANCELED` for each operation behind the first that broke.
    pub(crate) fn apply(&mut self, results: &[i32]) {
        let plan = std::mem::take(&mut self.plan);
        assert_eq!(plan.len(), results.len(), "one result an operation");
        let mut broken = false;
        for (index, (&op, &result)) in plan.iter().zip(results).enumerate() {
            match broken {
                false => broken = matches!(self.apply_one(index, op, result), Outcome::Broken),
                true if result == -libc::ECANCELED => {}
                true => _ = self.fail(TransferError::OutOfOrder { index, result }),
            }
        }
        self.plan = plan;
    }

    fn apply_one(&mut self, index: usize, op: Op, result: i32) -> Outcome {
        let Ok(moved) = u32::try_from(result) else {
            return self.apply_errno(op, result.wrapping_neg());
        };
        let asked = match op {
            Op::PollOut => return self.apply_writable(),
            Op::Send { len_bytes, .. }
            | Op::Gather { len_bytes, .. }
            | Op::Fill { len_bytes, .. }
            | Op::Drain { len_bytes, .. }
            | Op::SendFile { len_bytes, .. } => len_bytes,
        };
        if moved > asked {
            return self.fail(TransferError::OutOfOrder { index, result });
        }
        if moved == 0 {
            return self.apply_nothing(op, asked);
        }
        self.apply_moved(op, u64::from(moved));
        if moved == asked { Outcome::Whole } else { Outcome::Broken }
    }

    fn apply_writable(&mut self) -> Outcome {
        self.blocked = false;
        self.tally.poll_outs += 1;
        Outcome::Whole
    }

    fn apply_moved(&mut self, op: Op, moved: u64) {
        match op {
            Op::PollOut => {}
            Op::Gather { .. } => self.staged += moved,
            Op::Fill { .. } => {
                self.staged += moved;
                self.tally.hops += 1;
            }
            Op::Drain { len_bytes, .. } => {
                self.staged -= moved;
                self.apply_sent(moved, len_bytes);
            }
            Op::Send { len_bytes, .. } | Op::SendFile { len_bytes, .. } => {
                self.apply_sent(moved, len_bytes)
            }
        }
    }

    /// Moves the cursor. A socket that takes less than it was offered is full.
    fn apply_sent(&mut self, moved: u64, asked: u32) {
        self.rest_bytes -= moved;
        self.is_begun = true;
        let mut rest = moved;
        while rest > 0 {
            let piece = &self.pieces[self.sent.piece];
            let step = rest.min(piece.len_bytes() - self.sent.at);
            match piece {
                Piece::Bytes(_) => self.tally.header_bytes += step,
                Piece::File { .. } => self.tally.file_bytes += step,
            }
            self.sent = self.advanced(self.sent, step);
            rest -= step;
        }
        if moved < u64::from(asked) {
            self.block();
        }
    }

    /// Fails the transfer. Zero bytes from a file are its end; zero bytes to a socket would repeat
    /// for ever.
    fn apply_nothing(&mut self, op: Op, asked: u32) -> Outcome {
        self.fail(match op {
            Op::Fill { piece, position, .. } | Op::SendFile { piece, position, .. } => {
                let Piece::File { position: first, len_bytes, .. } = self.pieces[piece] else {
                    unreachable!("files are read for file pieces only")
                };
                TransferError::FileEndedEarly {
                    range: self.ranges_before(piece),
                    position,
                    missing_bytes: first + len_bytes - position,
                }
            }
            _ => TransferError::NoProgress { len_bytes: u64::from(asked) },
        })
    }

    fn apply_errno(&mut self, op: Op, errno: i32) -> Outcome {
        let is_chain = matches!(self.means, Means::Chain { .. });
        match (errno, op) {
            (errno, _) if is_chain && never_ran(errno.wrapping_neg()) => self.refuse(),
            (libc::EAGAIN | libc::ENOMEM, Op::Fill { .. }) if is_chain => self.refuse(),
            (libc::EINTR, _) => Outcome::Broken,
            (libc::EAGAIN, Op::Send { .. } | Op::Drain { .. } | Op::SendFile { .. }) => {
                self.block();
                Outcome::Broken
            }
            (_, Op::Fill { piece, position, len_bytes })
            | (_, Op::SendFile { piece, position, len_bytes, .. })
                if is_of_the_file(op, errno) =>
            {
                self.fail(TransferError::Read {
                    range: self.ranges_before(piece),
                    position,
                    len_bytes,
                    errno,
                    is_begun: self.is_begun,
                })
            }
            _ => self.fail(TransferError::from_errno(errno)),
        }
    }

    fn ranges_before(&self, piece: usize) -> usize {
        let before = self.pieces.iter().take(piece);
        before.filter(|piece| matches!(piece, Piece::File { .. })).count()
    }

    /// Notes that the kernel refused the operation. The state is true, so the rest can take another
    /// path.
    fn refuse(&mut self) -> Outcome {
        self.refused = true;
        Outcome::Broken
    }

    fn block(&mut self) {
        self.blocked = true;
        self.tally.short_hops += 1;
    }

    /// Keeps the first failure, the one to be returned.
    fn fail(&mut self, error: TransferError) -> Outcome {
        self.failure.get_or_insert(error);
        Outcome::Broken
    }
}

/// Whether the error comes from the file. sendfile(2) also meets errors of its socket. A fill
/// touches no socket, so there the same numbers come from a FUSE daemon or a remote file system.
fn is_of_the_file(op: Op, errno: i32) -> bool {
    let is_of_a_disk = matches!(
        errno,
        libc::EIO
            | libc::EUCLEAN
            | libc::EBADMSG
            | libc::ENODATA
            | libc::ENXIO
            | libc::ENODEV
            | libc::EREMOTEIO
            | libc::ESTALE
    );
    let is_remote = matches!(errno, libc::ENOTCONN | libc::ETIMEDOUT | libc::ECONNABORTED);
    is_of_a_disk || (is_remote && matches!(op, Op::Fill { .. }))
}
