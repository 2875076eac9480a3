//! Builds a frame in one buffer. Notes where other bytes (slots, large shared buffers) go, and cuts
//! the buffer there at the end, when the length is known.
//!
//! ```text
//! buffer   length · header · fields ──────┬── fields ──────┬── fields
//! cuts                                    └ slot 0         └ slot 1
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use penstock_batch::varint;

use crate::answer::{Answer, Piece, Pieces, RecordsSlot};
use crate::field::{Few, Field};
use crate::frame;
use crate::reader::Width;
use crate::schema::Version;

/// Byte fields from this size on become a piece of their own and are not copied.
const SHARE_FROM_BYTES: usize = 4096;

/// Most frames need less beside the bytes at their cuts.
const USUAL_BYTES: usize = 512;

pub(crate) struct Writer {
    pub(crate) version: Version,
    buffer: BytesMut,
    /// Pieces that belong at a position of the buffer, in order.
    cuts: Few<(usize, Piece)>,
}

impl Writer {
    /// Begins a frame in an empty buffer. [`Writer::finish`] fills in the length.
    pub(crate) fn new(version: Version, mut buffer: BytesMut) -> Writer {
        assert!(buffer.is_empty(), "{} bytes of something else", buffer.len());
        buffer.reserve(USUAL_BYTES);
        buffer.put_bytes(0, frame::PREFIX_LEN);
        Writer { version, buffer, cuts: Few::new() }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that have other owners, too: shared when large.
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

    /// `None` is null. Lengths are this server's own, so one that does not fit is a bug.
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

    /// Fills in the length and cuts the buffer into pieces. Returns the rest of the buffer, unless
    /// the frame outgrew it. More than 2 GiB is a bug of the caller, who decides how many records
    /// an answer has.
    pub(crate) fn finish(mut self) -> (Answer, BytesMut) {
        let foreign: u64 = self.cuts.iter().map(|(_, piece)| piece.len_bytes()).sum();
        let len_bytes = self.buffer.len() as u64 + foreign;
        let length =
            i32::try_from(len_bytes - frame::PREFIX_LEN as u64).expect("a frame is below 2 GiB");
        self.buffer[..frame::PREFIX_LEN].copy_from_slice(&length.to_be_bytes());

        let buffer = self.buffer.split().freeze();
        let mut pieces = Pieces::with_capacity(2 * self.cuts.len() + 1);
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
        let left = if buffer.len() > USUAL_BYTES { BytesMut::new() } else { self.buffer };
        (Answer { pieces, len_bytes }, left)
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

    /// Tags must come in ascending order.
    pub(crate) fn push(&mut self, tag: u32, value: &impl Field) {
        let mut writer =
            Writer { version: self.version, buffer: BytesMut::new(), cuts: Few::new() };
        value.encode(&mut writer);
        assert!(writer.cuts.is_empty(), "records and large byte fields are not tagged");
        varint::put_u32(&mut self.encoded, tag);
        varint::put_u32(&mut self.encoded, writer.buffer.len() as u32);
        self.encoded.extend_from_slice(&writer.buffer);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{FetchResponse, FetchableTopicResponse, PartitionData};
    use crate::{ApiKey, Records, Response, decode_response, sample};

    fn response(records: impl IntoIterator<Item = Records>) -> Response {
        let partitions = records
            .into_iter()
            .map(|records| PartitionData { records, ..PartitionData::default() })
            .collect();
        let topic = FetchableTopicResponse { topic: "t".into(), partitions };
        Response::from(FetchResponse { responses: [topic].into(), ..FetchResponse::default() })
    }

    fn bytes_of(slot: RecordsSlot) -> Bytes {
        vec![slot.id as u8; slot.len_bytes as usize].into()
    }

    #[test]
    fn an_answer_with_slots_is_the_one_with_the_bytes_in_place() {
        let slots =
            [(1, 5), (2, 0), (3, 20_000)].map(|(id, len_bytes)| RecordsSlot { id, len_bytes });
        let with_slots = response(slots.map(Records::Slot));
        let with_bytes = response(slots.map(|slot| Records::from(bytes_of(slot))));
        for version in ApiKey::Fetch.supported().min_version..=12 {
            let answer = with_slots.encode(version, 9);
            let sum: u64 = answer.pieces.iter().map(Piece::len_bytes).sum();
            assert_eq!(answer.len_bytes, sum, "version {version}");
            assert_eq!(answer.pieces.iter().filter(|p| matches!(p, Piece::Records(_))).count(), 2);
            assert!(answer.pieces.iter().all(|piece| piece.len_bytes() > 0));

            let filled = answer.into_bytes(bytes_of);
            assert_eq!(filled, sample::whole(with_bytes.encode(version, 9)), "version {version}");
            let decoded = decode_response(ApiKey::Fetch, version, sample::unframed(filled));
            assert_eq!(decoded.unwrap().1, with_bytes, "version {version}");
        }
    }

    #[test]
    fn in_flexible_versions_tag_bytes_follow_the_last_records() {
        let slot = RecordsSlot { id: 0, len_bytes: 1 };
        let last =
            |version| response([Records::Slot(slot)]).encode(version, 0).pieces.pop().unwrap();
        assert_eq!(last(11), Piece::Records(slot));
        assert_eq!(last(12), Piece::Bytes(Bytes::from_static(&[0, 0, 0])));
    }

    #[test]
    fn large_records_are_shared_and_not_copied() {
        let records = Bytes::from(vec![7; SHARE_FROM_BYTES]);
        let answer = response([records.clone().into()]).encode(12, 0);
        assert!(answer.pieces.iter().any(|piece| matches!(piece,
            Piece::Bytes(bytes) if bytes.as_ptr() == records.as_ptr())));
    }

    #[test]
    fn a_string_too_long_for_the_protocol_is_cut_between_characters() {
        let message = "é".repeat(20_000);
        let body = crate::messages::DescribeClusterResponse {
            error_message: Some(message.into()),
            ..Default::default()
        };
        let frame = sample::unframed(sample::whole(Response::from(body).encode(0, 0)));
        let Response::DescribeCluster(decoded) =
            decode_response(ApiKey::DescribeCluster, 0, frame).unwrap().1
        else {
            panic!("another message");
        };
        assert_eq!(decoded.error_message.unwrap().len(), 32_766);
    }
}
