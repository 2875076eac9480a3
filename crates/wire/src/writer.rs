//! Puts a frame together in one buffer, remembering where foreign bytes (slots, large shared
//! buffers) go. Cutting happens last, when the length is known.
//!
//! ```text
//! buffer   length · header · fields ──────┬── fields ──────┬── fields
//! cuts                                    └ slot 0         └ slot 1
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use penstock_batch::varint;

use crate::answer::{Answer, Piece, RecordsSlot};
use crate::field::Field;
use crate::frame;
use crate::reader::Width;
use crate::schema::Version;

/// Byte fields from this size on become a piece of their own instead of being copied.
const SHARE_FROM_BYTES: usize = 4096;

pub(crate) struct Writer {
    pub(crate) version: Version,
    buffer: BytesMut,
    /// Pieces that go in at a position of the buffer, in order.
    cuts: Vec<(usize, Piece)>,
}

impl Writer {
    /// Begins a frame; its length is filled in by [`Writer::finish`].
    pub(crate) fn new(version: Version) -> Writer {
        let mut writer = Writer { version, buffer: BytesMut::with_capacity(512), cuts: Vec::new() };
        writer.buffer.put_bytes(0, frame::PREFIX_LEN);
        writer
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that somebody else holds too: shared when large.
    pub(crate) fn put_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_FROM_BYTES {
            self.put(bytes);
        } else {
            self.cuts.push((self.buffer.len(), Piece::Bytes(bytes.clone())));
        }
    }

    pub(crate) fn put_slot(&mut self, slot: RecordsSlot) {
        self.cuts.push((self.buffer.len(), Piece::Records(slot)));
    }

    pub(crate) fn put_unsigned_varint(&mut self, value: u32) {
        varint::put_u32(&mut self.buffer, value);
    }

    /// `None` is null. Lengths are ours, so one that does not fit is a bug.
    pub(crate) fn put_length(&mut self, width: Width, length: Option<usize>) {
        let length = length.map_or(-1, |length| i32::try_from(length).expect("below 2 GiB"));
        if self.version.flexible {
            self.put_unsigned_varint((length + 1) as u32);
        } else {
            match width {
                Width::Short => {
                    let length = i16::try_from(length).expect("a string is at most 32767 bytes");
                    self.put(&length.to_be_bytes());
                }
                Width::Long => self.put(&length.to_be_bytes()),
            }
        }
    }

    pub(crate) fn put_tagged(&mut self, tagged: Tagged) {
        self.put_unsigned_varint(tagged.count);
        self.put(&tagged.encoded);
    }

    /// Fills in the length and cuts the buffer into pieces. Over 2 GiB is a bug of the caller's,
    /// who decides how many records an answer carries.
    pub(crate) fn finish(mut self) -> Answer {
        let foreign: u64 = self.cuts.iter().map(|(_, piece)| piece.len_bytes()).sum();
        let len_bytes = self.buffer.len() as u64 + foreign;
        let length =
            i32::try_from(len_bytes - frame::PREFIX_LEN as u64).expect("a frame is below 2 GiB");
        self.buffer[..frame::PREFIX_LEN].copy_from_slice(&length.to_be_bytes());

        let buffer = self.buffer.freeze();
        let mut pieces = Vec::with_capacity(2 * self.cuts.len() + 1);
        let mut from = 0;
        for (at, piece) in self.cuts {
            if from < at {
                pieces.push(Piece::Bytes(buffer.slice(from..at)));
            }
            if piece.len_bytes() > 0 {
                pieces.push(piece);
            }
            from = at;
        }
        if from < buffer.len() {
            pieces.push(Piece::Bytes(buffer.slice(from..)));
        }
        Answer { pieces, len_bytes }
    }
}

/// The tagged fields of one structure, collected because their count comes first (KIP-482).
pub(crate) struct Tagged {
    version: Version,
    count: u32,
    encoded: BytesMut,
}

impl Tagged {
    pub(crate) fn new(version: Version) -> Tagged {
        Tagged { version, count: 0, encoded: BytesMut::new() }
    }

    /// Tags must come in rising order.
    pub(crate) fn push(&mut self, tag: u32, value: &impl Field) {
        let mut writer =
            Writer { version: self.version, buffer: BytesMut::new(), cuts: Vec::new() };
        value.encode(&mut writer);
        assert!(writer.cuts.is_empty(), "records and large byte fields are not tagged");
        varint::put_u32(&mut self.encoded, tag);
        varint::put_u32(&mut self.encoded, writer.buffer.len() as u32);
        self.encoded.extend_from_slice(&writer.buffer);
        self.count += 1;
    }
}
