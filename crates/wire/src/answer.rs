//! An encoded frame in pieces, and the records field that cuts it.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// The records of a partition, in a produce request or a fetch response.
///
/// Decoding always gives `Bytes`, a slice of the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// The records themselves; `None` is Kafka's null.
    Bytes(Option<Bytes>),
    /// A gap of this length in the encoded frame, for the sender to fill.
    Slot(RecordsSlot),
}

impl Records {
    /// The length on the wire; 0 for null.
    pub fn len_bytes(&self) -> usize {
        match self {
            Records::Bytes(bytes) => bytes.as_ref().map_or(0, Bytes::len),
            Records::Slot(slot) => slot.len_bytes as usize,
        }
    }

    /// The bytes; `None` for null and for a slot.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Records::Bytes(bytes) => bytes.as_ref(),
            Records::Slot(_) => None,
        }
    }
}

impl Default for Records {
    /// No records. Not null, which some clients take for an error.
    fn default() -> Records {
        Records::Bytes(Some(Bytes::new()))
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Records {
        Records::Bytes(Some(bytes))
    }
}

/// A gap in an encoded frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordsSlot {
    /// The caller's number for the gap's content.
    pub id: u32,
    /// Exactly so many bytes must be sent.
    pub len_bytes: u32,
}

/// The pieces of a frame. Those of a fetch of one partition need no memory of their own.
pub type Pieces = SmallVec<[Piece; 3]>;

/// A whole frame: send its pieces in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// No piece is empty; neighbours may both be bytes.
    pub pieces: Pieces,
    /// The sum of the pieces, length prefix included.
    pub len_bytes: u64,
}

/// A part of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Encoded bytes.
    Bytes(Bytes),
    /// The records of a slot.
    Records(RecordsSlot),
}

impl Piece {
    /// The piece's length in the frame.
    pub fn len_bytes(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Records(slot) => u64::from(slot.len_bytes),
        }
    }
}

impl Answer {
    /// The frame in one buffer. `fill` returns the bytes of each slot, exactly `len_bytes` of them.
    pub fn into_bytes(mut self, mut fill: impl FnMut(RecordsSlot) -> Bytes) -> Bytes {
        if let [Piece::Bytes(only)] = &mut self.pieces[..] {
            return std::mem::take(only);
        }
        let mut frame = BytesMut::with_capacity(self.len_bytes as usize);
        for piece in self.pieces {
            match piece {
                Piece::Bytes(bytes) => frame.extend_from_slice(&bytes),
                Piece::Records(slot) => {
                    let bytes = fill(slot);
                    assert_eq!(bytes.len(), slot.len_bytes as usize, "slot {}", slot.id);
                    frame.extend_from_slice(&bytes);
                }
            }
        }
        frame.freeze()
    }
}
