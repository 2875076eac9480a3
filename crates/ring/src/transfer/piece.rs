//! The parts of a transfer, and the paths they can take.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

/// Pieces of an answer of one partition: header, records and trailer.
const USUAL_PIECES: usize = 3;

/// One part of an answer.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes from memory.
    Bytes(Bytes),
    /// Bytes of a file. The piece keeps the file open until they have been handed over.
    File {
        /// The file.
        file: Arc<File>,
        /// The first byte of the range.
        position: u64,
        /// Bytes of the range. The file must have them.
        len_bytes: u64,
    },
}

/// An answer.
pub(crate) type Pieces = SmallVec<[Piece; USUAL_PIECES]>;

impl Piece {
    pub(super) fn len_bytes(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::File { len_bytes, .. } => *len_bytes,
        }
    }
}

/// How file pieces get to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Linked splices file → pipe → socket on a kernel worker. A page-cache miss blocks no other
    /// transfer.
    Chain,
    /// Non-blocking sendfile from the event loop. It is best for cached pages, and blocks the
    /// thread on a miss.
    Sendfile,
    /// Read and send, best for small answers.
    Copy,
    /// The best of these for every turn, by the bytes that are left and the pages in the page cache
    /// (route.rs).
    Auto,
}
