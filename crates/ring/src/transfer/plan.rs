//! Plans the next operations on each path.
//!
//! ```text
//!   blocked   PollOut [Drain residue]                on every path, then a new plan
//!   chain     [Drain residue] (Send | Fill Drain)... linked, up to 16 operations
//!   sendfile  (Send | SendFile)...                   up to a turn of bytes
//!   copy      (Gather | Fill)... Drain               up to a buffer full
//! ```

use super::{Cursor, Op, Piece, Transfer};
use crate::ring_config::{CHAIN_OPERATIONS, PAGE_BYTES, TURN_BYTES};

impl Transfer {
    /// Plans to wait for the peer and to drain the staged bytes before any new ones.
    pub(super) fn plan_wait(&mut self) {
        self.plan.push(Op::PollOut);
        self.plan_residue();
    }

    /// Plans to drain the rest of the last plan, and returns the place behind it.
    fn plan_residue(&mut self) -> Cursor {
        let cursor = self.advanced(self.sent, self.staged);
        if self.staged > 0 {
            self.plan.push(Op::Drain { len_bytes: self.staged as u32, more: !self.at_end(cursor) });
        }
        cursor
    }

    /// Plans to drain the rest of the last plan, then hop after hop.
    pub(super) fn plan_chain(&mut self, hop_bytes: u32, pipe_slots: u32) {
        let mut cursor = self.plan_residue();
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

    pub(super) fn plan_sendfile(&mut self) {
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

    /// Plans to fill an empty stage with the next bytes, across pieces, and to send them at once.
    pub(super) fn plan_copy(&mut self, stage_bytes: u32) {
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

    /// Bytes from `cursor` to the end of its piece, at most `limit` and at most what one call
    /// moves.
    fn len_from(&self, cursor: Cursor, limit: u64) -> u32 {
        const CALL_BYTES: u64 = 1 << 30;
        let rest = self.pieces[cursor.piece].len_bytes() - cursor.at;
        rest.min(limit).min(CALL_BYTES) as u32
    }
}

/// The most bytes of a file from `position` on that a pipe of `slots` holds. A slot holds bytes of
/// one page of the file (KERNEL.md row 5).
fn fits_in_pipe(position: u64, slots: u32) -> u64 {
    u64::from(slots.max(1)) * PAGE_BYTES - position % PAGE_BYTES
}
