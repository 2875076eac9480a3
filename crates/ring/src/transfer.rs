//! One transfer as a pure state machine: what to do next, and what the results mean.
//!
//! ```text
//!   pieces   | header | file range .............. | trailer |
//!                      ^ sent        ^ sent + staged
//!                      └── staged ───┘   in the pipe (chain) or the buffer (copy)
//!
//!            ┌────────────── apply(results) ──────────────┐
//!            v                                            │
//!   next() ── Do(plan) ──> somebody performs the plan ────┘
//!      ├───── Done
//!      └───── Failed
//! ```
//!
//! A chain is an optimisation of this serial machine, not a second one: a plan is a list of
//! operations to be done in order up to the first that breaks, and it does not matter whether the
//! kernel runs it as a chain or we run it step by step. Whatever broke, the next plan starts from
//! the state that is true.
//!
//! Called by perform.rs. It must never do I/O, and never panic over a result: they come from outside.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::{CHAIN_OPERATIONS, PAGE_BYTES, TURN_BYTES};
use crate::error::TransferError;

/// One part of an answer.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes from memory.
    Bytes(Bytes),
    /// Bytes of a file, which stays open until they have been handed over.
    File {
        /// The file.
        file: Arc<File>,
        /// Byte in the file to begin with.
        position: u64,
        /// How many bytes; the file must have them.
        len_bytes: u64,
    },
}

impl Piece {
    fn len_bytes(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::File { len_bytes, .. } => *len_bytes,
        }
    }
}

/// How file pieces get to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Linked splices file → pipe → socket on a kernel worker; a page-cache miss blocks nobody.
    Chain,
    /// Non-blocking sendfile from the event loop; best when the pages are cached, blocks the
    /// thread when they are not.
    Sendfile,
    /// Read and send; best for small answers.
    Copy,
}

/// A path with the sizes it works in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Means {
    Chain { hop_bytes: u32, pipe_slots: u32 },
    Sendfile,
    Copy { stage_bytes: u32 },
}

/// One operation of a plan. `more` says that bytes of the same answer follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Wait until the socket takes bytes.
    PollOut,
    /// Bytes of a piece to the socket.
    Send { piece: usize, from: u64, len_bytes: u32, more: bool },
    /// Bytes of a piece to the stage.
    Gather { piece: usize, from: u64, len_bytes: u32 },
    /// Bytes of a file to the stage.
    Fill { piece: usize, position: u64, len_bytes: u32 },
    /// The stage to the socket.
    Drain { len_bytes: u32, more: bool },
    /// Bytes of a file to the socket.
    SendFile { piece: usize, position: u64, len_bytes: u32, more: bool },
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// Perform these in order up to the first that breaks, then [`Transfer::apply`] the results.
    Do(&'a [Op]),
    /// Every byte was handed over.
    Done,
    Failed(TransferError),
}

/// What happened since somebody last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) hops: u64,
    pub(crate) short_hops: u64,
    pub(crate) poll_outs: u64,
    /// Bytes of file pieces handed to the socket.
    pub(crate) file_bytes: u64,
    /// Bytes of byte pieces handed to the socket.
    pub(crate) header_bytes: u64,
}

/// The state of one transfer.
#[derive(Debug)]
pub(crate) struct Transfer {
    pieces: Vec<Piece>,
    means: Means,
    /// What the socket has taken.
    sent: Cursor,
    /// Bytes behind `sent` that are in the stage.
    staged: u64,
    /// The socket was full.
    blocked: bool,
    /// The stage was given up until the socket takes bytes again.
    parked: bool,
    plan: Vec<Op>,
    failure: Option<TransferError>,
    tally: Tally,
}

/// A place in the pieces; never at the end of one.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    piece: usize,
    at: u64,
}

/// How one operation ended.
enum Outcome {
    /// It did all it was asked; what is linked behind it ran.
    Whole,
    /// It did not; what is linked behind it did not run.
    Broken,
}

impl Transfer {
    pub(crate) fn new(pieces: Vec<Piece>, means: Means) -> Transfer {
        let mut transfer = Transfer {
            pieces,
            means,
            sent: Cursor { piece: 0, at: 0 },
            staged: 0,
            blocked: false,
            parked: false,
            plan: Vec::with_capacity(CHAIN_OPERATIONS),
            failure: None,
            tally: Tally::default(),
        };
        transfer.sent = transfer.advanced(transfer.sent, 0);
        transfer
    }

    /// Says what to do now.
    pub(crate) fn next(&mut self) -> Next<'_> {
        if let Some(error) = self.failure {
            return Next::Failed(error);
        }
        if self.at_end(self.sent) {
            return Next::Done;
        }
        self.plan.clear();
        if self.blocked {
            self.plan.push(Op::PollOut);
        }
        if !self.parked {
            match self.means {
                Means::Chain { hop_bytes, pipe_slots } => self.plan_chain(hop_bytes, pipe_slots),
                Means::Sendfile => self.plan_sendfile(),
                Means::Copy { stage_bytes } => self.plan_copy(stage_bytes),
            }
        }
        Next::Do(&self.plan)
    }

    /// Takes the results of the plan, one an operation: bytes moved (events, for PollOut) or a
    /// negative errno, and `-ECANCELED` for each operation behind the first that broke.
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

    /// The operations of the last plan.
    pub(crate) fn plan(&self) -> &[Op] {
        &self.plan
    }

    /// Whether the pipe, or the buffer, has bytes in it.
    pub(crate) fn staged_bytes(&self) -> u64 {
        self.staged
    }

    /// Whether the next plan begins by waiting for the peer.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Forgets what is staged: the pieces still have those bytes. Until the socket takes bytes again
    /// the plan is only to wait, and no stage is needed.
    pub(crate) fn park(&mut self) {
        assert!(self.blocked, "only a transfer that waits for its peer can be parked");
        self.staged = 0;
        self.parked = true;
    }

    /// Whether the next plan needs a pipe.
    pub(crate) fn wants_pipe(&self) -> bool {
        let rest = &self.pieces[self.sent.piece..];
        matches!(self.means, Means::Chain { .. })
            && !self.parked
            && self.failure.is_none()
            && rest.iter().any(|piece| matches!(piece, Piece::File { len_bytes: 1.., .. }))
    }

    /// Says how many pages the pipe it was given holds.
    pub(crate) fn set_pipe_slots(&mut self, slots: u32) {
        if let Means::Chain { pipe_slots, .. } = &mut self.means {
            *pipe_slots = slots;
        }
    }

    pub(crate) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// The bytes an operation names.
    pub(crate) fn bytes(&self, piece: usize, from: u64, len_bytes: u32) -> &[u8] {
        match &self.pieces[piece] {
            Piece::Bytes(bytes) => &bytes[from as usize..][..len_bytes as usize],
            Piece::File { .. } => unreachable!("a plan asks for bytes of byte pieces only"),
        }
    }

    /// The file an operation names.
    pub(crate) fn file(&self, piece: usize) -> &Arc<File> {
        match &self.pieces[piece] {
            Piece::File { file, .. } => file,
            Piece::Bytes(_) => unreachable!("a plan asks for files of file pieces only"),
        }
    }
}

/// Planning.
impl Transfer {
    /// Drain what is left of the last plan, then hop after hop.
    fn plan_chain(&mut self, hop_bytes: u32, pipe_slots: u32) {
        let mut cursor = self.advanced(self.sent, self.staged);
        if self.staged > 0 {
            self.plan.push(Op::Drain { len_bytes: self.staged as u32, more: !self.at_end(cursor) });
        }
        while self.plan.len() + 2 <= CHAIN_OPERATIONS && !self.at_end(cursor) {
            let Cursor { piece, at } = cursor;
            match self.pieces[piece] {
                Piece::Bytes(_) => {
                    let len_bytes = self.len_from(cursor, u64::MAX);
                    cursor = self.advanced(cursor, u64::from(len_bytes));
                    self.plan.push(Op::Send {
                        piece,
                        from: at,
                        len_bytes,
                        more: !self.at_end(cursor),
                    });
                }
                Piece::File { position, .. } => {
                    let position = position + at;
                    let room = fits_in_pipe(position, pipe_slots).min(u64::from(hop_bytes));
                    let len_bytes = self.len_from(cursor, room);
                    cursor = self.advanced(cursor, u64::from(len_bytes));
                    self.plan.push(Op::Fill { piece, position, len_bytes });
                    self.plan.push(Op::Drain { len_bytes, more: !self.at_end(cursor) });
                }
            }
        }
    }

    fn plan_sendfile(&mut self) {
        let mut cursor = self.sent;
        let mut turn = TURN_BYTES;
        while self.plan.len() < CHAIN_OPERATIONS && turn > 0 && !self.at_end(cursor) {
            let Cursor { piece, at } = cursor;
            let len_bytes = self.len_from(cursor, turn);
            turn -= u64::from(len_bytes);
            cursor = self.advanced(cursor, u64::from(len_bytes));
            let more = !self.at_end(cursor);
            self.plan.push(match self.pieces[piece] {
                Piece::Bytes(_) => Op::Send { piece, from: at, len_bytes, more },
                Piece::File { position, .. } => {
                    Op::SendFile { piece, position: position + at, len_bytes, more }
                }
            });
        }
    }

    /// Fill an empty stage with whatever comes, across pieces, and send it at once.
    fn plan_copy(&mut self, stage_bytes: u32) {
        let mut staged = self.staged;
        let mut cursor = self.advanced(self.sent, staged);
        while self.staged == 0
            && self.plan.len() + 1 < CHAIN_OPERATIONS
            && staged < u64::from(stage_bytes)
            && !self.at_end(cursor)
        {
            let Cursor { piece, at } = cursor;
            let len_bytes = self.len_from(cursor, u64::from(stage_bytes) - staged);
            staged += u64::from(len_bytes);
            cursor = self.advanced(cursor, u64::from(len_bytes));
            self.plan.push(match self.pieces[piece] {
                Piece::Bytes(_) => Op::Gather { piece, from: at, len_bytes },
                Piece::File { position, .. } => {
                    Op::Fill { piece, position: position + at, len_bytes }
                }
            });
        }
        self.plan.push(Op::Drain { len_bytes: staged as u32, more: !self.at_end(cursor) });
    }

    /// Bytes from `cursor` to the end of its piece, at most `limit` and what one call moves.
    fn len_from(&self, cursor: Cursor, limit: u64) -> u32 {
        const CALL_BYTES: u64 = 1 << 30;
        let rest = self.pieces[cursor.piece].len_bytes() - cursor.at;
        rest.min(limit).min(CALL_BYTES) as u32
    }

    fn advanced(&self, mut cursor: Cursor, len_bytes: u64) -> Cursor {
        cursor.at += len_bytes;
        while let Some(piece) = self.pieces.get(cursor.piece)
            && cursor.at >= piece.len_bytes()
        {
            cursor.at -= piece.len_bytes();
            cursor.piece += 1;
        }
        cursor
    }

    fn at_end(&self, cursor: Cursor) -> bool {
        cursor.piece == self.pieces.len()
    }
}

/// Applying.
impl Transfer {
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
        self.parked = false;
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

    /// A socket that takes less than it was offered is full.
    fn apply_sent(&mut self, moved: u64, asked: u32) {
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

    /// Zero bytes from a file are its end; zero bytes to a socket would repeat for ever.
    fn apply_nothing(&mut self, op: Op, asked: u32) -> Outcome {
        self.fail(match op {
            Op::Fill { piece, position, .. } | Op::SendFile { piece, position, .. } => {
                let Piece::File { position: first, len_bytes, .. } = self.pieces[piece] else {
                    unreachable!("files are read for file pieces only")
                };
                TransferError::FileEndedEarly {
                    position,
                    missing_bytes: first + len_bytes - position,
                }
            }
            _ => TransferError::NoProgress { len_bytes: u64::from(asked) },
        })
    }

    fn apply_errno(&mut self, op: Op, errno: i32) -> Outcome {
        match (errno, op) {
            (libc::EINTR, _) => Outcome::Broken,
            (libc::EAGAIN, Op::Send { .. } | Op::Drain { .. } | Op::SendFile { .. }) => {
                self.block();
                Outcome::Broken
            }
            _ => self.fail(TransferError::from_errno(errno)),
        }
    }

    fn block(&mut self) {
        self.blocked = true;
        self.tally.short_hops += 1;
    }

    /// The first failure is the one that is told.
    fn fail(&mut self, error: TransferError) -> Outcome {
        self.failure.get_or_insert(error);
        Outcome::Broken
    }
}

/// The most bytes of a file from `position` on that `slots` pages of pipe hold: a slot holds what
/// lies on one page of the file (KERNEL.md row 5).
fn fits_in_pipe(position: u64, slots: u32) -> u64 {
    u64::from(slots.max(1)) * PAGE_BYTES - position % PAGE_BYTES
}
