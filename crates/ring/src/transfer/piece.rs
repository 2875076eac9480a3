//! What a transfer is made of, and the ways it can go.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

/// Header, records and trailer of an answer of one partition.
const USUAL_PIECES: usize = 3;

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
    /// Linked splices file → pipe → socket on a kernel worker; a page-cache miss blocks nobody.
    Chain,
    /// Non-blocking sendfile from the event loop; best when the pages are cached, blocks the
    /// thread when they are not.
    Sendfile,
    /// Read and send; best for small answers.
    Copy,
    /// The best of these for every turn, by what is left and what is in the page cache (route.rs).
    Auto,
}
