//! Decompresses one batch's records within bounds, in the codecs and framings that Kafka's clients
//! read.
//!
//! ```text
//!   gzip    members, one behind the other      lz4     one frame of independent blocks
//!   zstd    frames, one behind the other       snappy  xerial's header and blocks, or a raw block
//! ```
//!
//! The output grows by what comes out, never by a size that the input claims, and ends at the
//! caller's limit. Bytes behind the last frame are an error, since readers differ in their
//! treatment of them. Called to check records. It blocks while it decompresses, so large bodies do
//! not belong on an event loop.

use std::io::{self, Read};

use penstock_batch::Codec;

/// The magic of xerial's snappy streams. Two version numbers follow, which no reader checks.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_LEN_BYTES: usize = 16;

/// A snappy element of 3 bytes gives up to 64, so no block gives more than this many times its
/// size.
const SNAPPY_RATIO_MAX: usize = 22;

/// Bytes decompressed between two checks of the limit.
const STEP_BYTES: usize = 64 << 10;

/// Why a body was not decompressed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecompressError {
    /// The bytes are not the codec's.
    #[error("not sound {codec:?}: {source}")]
    Unsound {
        /// The codec they should be of.
        codec: Codec,
        /// The codec library's error.
        source: io::Error,
    },
    /// It decompresses to more than the caller takes.
    #[error("decompresses to more than {max_bytes} bytes")]
    TooLarge {
        /// The caller's limit.
        max_bytes: usize,
    },
}

/// Returns the records in `body`, at most `max_bytes`. Takes memory for the output and the codec's
/// window.
pub(crate) fn decompressed(
    codec: Codec,
    body: &[u8],
    max_bytes: usize,
) -> Result<Vec<u8>, DecompressError> {
    let taken = match codec {
        Codec::None => take(body, max_bytes),
        Codec::Gzip => take(flate2::bufread::MultiGzDecoder::new(body), max_bytes),
        Codec::Snappy => take(Snappy::new(body), max_bytes),
        Codec::Lz4 => lz4(body, max_bytes),
        Codec::Zstd => zstd::stream::read::Decoder::with_buffer(body)
            .and_then(|decoder| take(decoder, max_bytes)),
    };
    let taken = taken.map_err(|source| DecompressError::Unsound { codec, source })?;
    taken.ok_or(DecompressError::TooLarge { max_bytes })
}

/// Reads all of `reader`; `None` if that is more than `max_bytes`.
fn take(mut reader: impl Read, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut plain = Vec::new();
    loop {
        let step = STEP_BYTES.min((max_bytes - plain.len()).saturating_add(1));
        let taken = (&mut reader).take(step as u64).read_to_end(&mut plain)?;
        if plain.len() > max_bytes {
            return Ok(None);
        }
        // Not read again: a reader of frames would look for another frame.
        if taken < step {
            return Ok(Some(plain));
        }
    }
}

/// The library accepts a frame without its end mark. Such a frame consumes a byte behind it; a
/// whole frame does not.
fn lz4(body: &[u8], max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    const BEHIND: &[u8] = b"\xaa";
    let mut decoder = lz4_flex::frame::FrameDecoder::new(body.chain(BEHIND));
    let plain = take(&mut decoder, max_bytes)?;
    let mut left = Vec::new();
    let is_whole = plain.is_none() || {
        decoder.into_inner().read_to_end(&mut left)?;
        left == BEHIND
    };
    if is_whole { Ok(plain) } else { Err(unsound("the frame has no end, or bytes behind it")) }
}

/// xerial's framing, or one block without it, as librdkafka and the Go clients write:
///
/// ```text
/// 82 'SNAPPY' 00 | version 4 | compatible 4 |  length 4 | block |  length 4 | block | ...
/// ```
struct Snappy<'a> {
    rest: &'a [u8],
    is_framed: bool,
    block: Vec<u8>,
    read: usize,
}

impl<'a> Snappy<'a> {
    fn new(body: &'a [u8]) -> Snappy<'a> {
        let framed = body.strip_prefix(XERIAL_MAGIC);
        let blocks = framed.map(|versions| {
            versions.get(XERIAL_HEADER_LEN_BYTES - XERIAL_MAGIC.len()..).unwrap_or_default()
        });
        let is_framed = framed.is_some();
        Snappy { rest: blocks.unwrap_or(body), is_framed, block: Vec::new(), read: 0 }
    }

    /// The compressed bytes of the next block.
    fn next_block(&mut self) -> io::Result<&'a [u8]> {
        if !self.is_framed {
            return Ok(std::mem::take(&mut self.rest));
        }
        let cut = || unsound("a block is cut");
        let (length, rest) = self.rest.split_first_chunk().ok_or_else(cut)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| cut())?;
        let (block, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        self.rest = rest;
        Ok(block)
    }
}

impl Read for Snappy<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.read == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            let block = self.next_block()?;
            let claimed = snap::raw::decompress_len(block)?;
            if claimed > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
                return Err(unsound("a block claims more than it can hold"));
            }
            self.block.resize(claimed, 0);
            self.read = 0;
            let plain = snap::raw::Decoder::new().decompress(block, &mut self.block)?;
            self.block.truncate(plain);
        }
        let taken = (&self.block[self.read..]).read(out)?;
        self.read += taken;
        Ok(taken)
    }
}

fn unsound(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, FrameEncoder, FrameInfo};

    use super::*;

    const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn compressed(codec: Codec, plain: &[u8]) -> Vec<u8> {
        match codec {
            Codec::None => plain.to_vec(),
            Codec::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Codec::Snappy => {
                let mut out = [XERIAL_MAGIC.as_slice(), &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
                for block in plain.chunks(1000) {
                    let packed = snap::raw::Encoder::new().compress_vec(block).unwrap();
                    out.extend((packed.len() as i32).to_be_bytes());
                    out.extend(packed);
                }
                out
            }
            Codec::Lz4 => {
                let info = FrameInfo::new().block_mode(BlockMode::Independent);
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Codec::Zstd => zstd::bulk::compress(plain, 3).unwrap(),
        }
    }

    fn plain() -> Vec<u8> {
        (0..200_000u32).map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn every_codec_gives_back_what_went_in() {
        for codec in ALL {
            for plain in [b"a".as_slice(), &plain()] {
                let packed = compressed(codec, plain);
                assert_eq!(decompressed(codec, &packed, plain.len()).unwrap(), plain, "{codec:?}");
            }
        }
        let raw = snap::raw::Encoder::new().compress_vec(&plain()).unwrap();
        assert_eq!(decompressed(Codec::Snappy, &raw, 1 << 20).unwrap(), plain());
    }

    #[test]
    fn a_body_that_is_cut_anywhere_or_goes_on_behind_its_end_is_unsound() {
        let raw = snap::raw::Encoder::new().compress_vec(&plain()).unwrap();
        let framed = ALL[1..].iter().map(|codec| (*codec, compressed(*codec, &plain())));
        for (codec, packed) in framed.chain([(Codec::Snappy, raw)]) {
            for len in (1..packed.len()).rev().step_by(17) {
                let cut = decompressed(codec, &packed[..len], 1 << 20);
                // Without a count of its blocks, xerial's framing may end after any of them.
                let is_shorter = cut.as_ref().is_ok_and(|some| some.len() < plain().len());
                assert!(cut.is_err() || (codec == Codec::Snappy && is_shorter), "{codec:?} {len}");
            }
            let more = [packed.as_slice(), b"\x01\x02\x03"].concat();
            assert!(decompressed(codec, &more, 1 << 20).is_err(), "{codec:?}");
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let zeros = vec![0; 8 << 20];
        for codec in ALL {
            let packed = compressed(codec, &zeros);
            let outcome = decompressed(codec, &packed, 1 << 20);
            assert!(
                matches!(outcome, Err(DecompressError::TooLarge { max_bytes: 0x10_0000 })),
                "{codec:?}"
            );
        }
    }

    #[test]
    fn a_snappy_block_that_claims_gigabytes_reserves_nothing() {
        let claim = b"\xff\xff\xff\xff\x0f\x00a";
        let error = decompressed(Codec::Snappy, claim, usize::MAX - 1).unwrap_err();
        assert!(error.to_string().contains("claims"), "{error}");
    }
}
