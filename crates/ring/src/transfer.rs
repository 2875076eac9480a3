//! One transfer as a pure state machine: it plans the next operations and applies their results.
//!
//! ```text
//!   pieces   | header | file range .............. | trailer |
//!                      ^ sent        ^ sent + staged
//!                      └── staged ───┘   in the pipe (chain) or the buffer (copy)
//!
//!            ┌────────────── apply(results) ──────────────┐
//!            v                                            │
//!   next() ── Do(plan) ──> perform.rs performs the plan ──┘
//!      ├───── Done
//!      └───── Failed
//! ```
//!
//! A chain is an optimisation of this serial machine, not a second one. A plan is a list of
//! operations to be done in order up to the first that breaks, and the kernel may run it as a
//! chain, or perform.rs step by step. The next plan starts from the true state, whatever broke.
//!
//! Called by perform.rs. The machine must never do I/O, and never panic over a result, since
//! results come from outside. Its means lie in the same folder: route.rs and residency.rs choose
//! the path, pipes.rs and stage.rs hold bytes on their way, workers.rs lowers the priority of
//! kernel workers.

mod apply;
pub(crate) mod cold_places;
#[cfg(test)]
mod fake;
pub(crate) mod looks;
mod piece;
pub(crate) mod pipes;
mod plan;
pub(crate) mod residency;
pub(crate) mod route;
pub(crate) mod stage;
pub(crate) mod streams;
#[cfg(test)]
mod tests;
pub(crate) mod workers;

use std::fs::File;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::error::TransferError;
use crate::file_range::FileRange;
use crate::ring_config::CHAIN_OPERATIONS;

pub(crate) use piece::Pieces;
pub use piece::{Path, Piece};

/// Operations of the plan for an answer of one partition.
const USUAL_PLAN: usize = 4;

/// A way with the sizes it works in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Means {
    Chain { hop_bytes: u32, pipe_slots: u32 },
    Sendfile,
    Copy { stage_bytes: u32 },
}

/// One operation of a plan. `more`: bytes of the same answer follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Wait until the socket takes bytes.
    PollOut,
    /// Moves bytes of a piece to the socket.
    Send { piece: usize, from: u64, len_bytes: u32, more: bool },
    /// Moves bytes of a piece to the stage.
    Gather { piece: usize, from: u64, len_bytes: u32 },
    /// Moves bytes of a file to the stage.
    Fill { piece: usize, position: u64, len_bytes: u32 },
    /// Moves bytes of the stage to the socket.
    Drain { len_bytes: u32, more: bool },
    /// Moves bytes of a file to the socket.
    SendFile { piece: usize, position: u64, len_bytes: u32, more: bool },
}

/// The next step of a transfer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// Perform these in order up to the first that breaks, then [`Transfer::apply`] the results.
    Do(&'a [Op]),
    /// Every byte has been handed over.
    Done,
    Failed(TransferError),
}

/// Counts since the last [`Transfer::take_tally`].
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
    pieces: Pieces,
    means: Means,
    /// The place up to which the socket has taken bytes.
    sent: Cursor,
    /// Bytes behind `sent`. Kept up to date, because each turn asks and an answer may have 100 000
    /// pieces.
    rest_bytes: u64,
    /// The count of pieces up to the last file range.
    pieces_with_files: usize,
    /// Bytes behind `sent` that are in the stage.
    staged: u64,
    /// The socket was full.
    blocked: bool,
    /// The socket has taken bytes.
    is_begun: bool,
    plan: SmallVec<[Op; USUAL_PLAN]>,
    failure: Option<TransferError>,
    /// The kernel had no worker for an operation of a chain.
    refused: bool,
    tally: Tally,
}

/// A place in the pieces, never at the end of one.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    piece: usize,
    at: u64,
}

impl Transfer {
    pub(crate) fn new(pieces: impl Into<Pieces>, means: Means) -> Transfer {
        let pieces = pieces.into();
        let is_file = |piece: &Piece| matches!(piece, Piece::File { len_bytes: 1.., .. });
        let mut transfer = Transfer {
            rest_bytes: pieces.iter().map(Piece::len_bytes).sum(),
            pieces_with_files: pieces.iter().rposition(is_file).map_or(0, |last| last + 1),
            pieces,
            means,
            sent: Cursor { piece: 0, at: 0 },
            staged: 0,
            blocked: false,
            is_begun: false,
            plan: SmallVec::new(),
            failure: None,
            refused: false,
            tally: Tally::default(),
        };
        transfer.sent = transfer.advanced(transfer.sent, 0);
        transfer
    }

    /// Plans the next step.
    pub(crate) fn next(&mut self) -> Next<'_> {
        if let Some(error) = self.failure {
            return Next::Failed(error);
        }
        if self.at_end(self.sent) {
            return Next::Done;
        }
        self.plan.clear();
        match self.means {
            _ if self.blocked => self.plan_wait(),
            Means::Chain { hop_bytes, pipe_slots } => self.plan_chain(hop_bytes, pipe_slots),
            Means::Sendfile => self.plan_sendfile(),
            Means::Copy { stage_bytes } => self.plan_copy(stage_bytes),
        }
        Next::Do(&self.plan)
    }

    /// The operations of the last plan.
    pub(crate) fn plan(&self) -> &[Op] {
        &self.plan
    }

    /// Bytes in the pipe or in the buffer.
    pub(crate) fn staged_bytes(&self) -> u64 {
        self.staged
    }

    /// Whether the next plan begins by waiting for the peer.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Forgets the staged bytes, which the pieces still have. The next plan only waits, and needs
    /// no stage.
    pub(crate) fn forget_staged(&mut self) {
        assert!(self.blocked, "only a transfer that waits for its peer gives its stage up");
        self.staged = 0;
    }

    /// The means of the next plan.
    pub(crate) fn means(&self) -> Means {
        self.means
    }

    /// Whether the next plan starts with new bytes, which may take another path than those before.
    pub(crate) fn is_at_a_turn(&self) -> bool {
        self.staged == 0 && !self.blocked
    }

    pub(crate) fn set_means(&mut self, means: Means) {
        assert!(self.is_at_a_turn(), "{} bytes are staged", self.staged);
        self.means = means;
    }

    /// Whether the kernel had no worker or no memory for a chain. The operations before that one
    /// are done.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    /// Goes on by other means than chains. Forgets the bytes in the pipe, which the pieces still
    /// have.
    pub(crate) fn leave_chain(&mut self, means: Means) {
        (self.staged, self.refused, self.means) = (0, false, means);
    }

    /// Bytes that the socket has still to take.
    pub(crate) fn rest_bytes(&self) -> u64 {
        self.rest_bytes
    }

    /// The file ranges among the next `limit_bytes` and among the pieces that the next plan may
    /// reach.
    pub(crate) fn next_ranges(&self, limit_bytes: u64) -> impl Iterator<Item = FileRange> {
        let (mut at, mut limit_bytes) = (self.sent.at, limit_bytes);
        let rest = self.pieces.get(self.sent.piece..).unwrap_or_default();
        let rest = rest.iter().filter(|piece| piece.len_bytes() > 0).take(CHAIN_OPERATIONS);
        rest.filter_map(move |piece| {
            let from = std::mem::take(&mut at);
            let len_bytes = (piece.len_bytes() - from).min(limit_bytes);
            limit_bytes -= len_bytes;
            match piece {
                Piece::File { file, position, .. } if len_bytes > 0 => {
                    Some(FileRange { file: Arc::clone(file), position: position + from, len_bytes })
                }
                _ => None,
            }
        })
    }

    /// The same, each with the place in its file where the answer begins.
    pub(crate) fn next_ranges_from(
        &self,
        limit_bytes: u64,
    ) -> impl Iterator<Item = (FileRange, u64)> {
        let is_file = matches!(self.pieces.get(self.sent.piece), Some(Piece::File { .. }));
        let mut sent_bytes = if is_file { self.sent.at } else { 0 };
        self.next_ranges(limit_bytes).map(move |range| {
            let begin = range.position - std::mem::take(&mut sent_bytes);
            (range, begin)
        })
    }

    /// All file ranges of the answer.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = FileRange> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::File { file, position, len_bytes } => Some(FileRange {
                file: Arc::clone(file),
                position: *position,
                len_bytes: *len_bytes,
            }),
            Piece::Bytes(_) => None,
        })
    }

    /// Whether the next plan needs a pipe.
    pub(crate) fn wants_pipe(&self) -> bool {
        matches!(self.means, Means::Chain { .. })
            && (!self.blocked || self.staged > 0)
            && self.failure.is_none()
            && self.sent.piece < self.pieces_with_files
    }

    /// Sets how many pages the leased pipe holds.
    pub(crate) fn set_pipe_slots(&mut self, slots: u32) {
        if let Means::Chain { pipe_slots, .. } = &mut self.means {
            *pipe_slots = slots;
        }
    }

    pub(crate) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// The bytes that an operation names.
    pub(crate) fn bytes(&self, piece: usize, from: u64, len_bytes: u32) -> &[u8] {
        match &self.pieces[piece] {
            Piece::Bytes(bytes) => &bytes[from as usize..][..len_bytes as usize],
            Piece::File { .. } => unreachable!("a plan asks for bytes of byte pieces only"),
        }
    }

    /// The file that an operation names.
    pub(crate) fn file(&self, piece: usize) -> &Arc<File> {
        match &self.pieces[piece] {
            Piece::File { file, .. } => file,
            Piece::Bytes(_) => unreachable!("a plan asks for files of file pieces only"),
        }
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
