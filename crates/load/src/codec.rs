//! Compression in the framings that Kafka's clients read: gzip and zstd unchanged, snappy in
//! xerial's blocks, lz4 as frames of independent blocks.
//!
//! Used by `payload`. Verification needs no codec, because a batch's CRC covers the compressed
//! bytes.

use std::io::{self, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use crate::cli::Codec;

/// The header of xerial's snappy streams: a magic, the version and the lowest compatible version.
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Input bytes of one xerial block, as in the Java library.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
/// zstd's default level, which Kafka's clients use, too.
const ZSTD_LEVEL: i32 = 3;

/// Compresses the records of one batch and appends them to `out`.
///
/// # Errors
/// Only those of the codec's library.
pub(crate) fn compress(codec: Codec, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match codec {
        Codec::None => out.extend(plain),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, Default::default());
            encoder.write_all(plain)?;
            encoder.finish()?;
        }
        Codec::Snappy => snappy(plain, out)?,
        Codec::Lz4 => {
            // Kafka's Java reader takes independent blocks only.
            let info =
                FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
            let mut encoder = FrameEncoder::with_frame_info(info, out);
            encoder.write_all(plain)?;
            encoder.finish()?;
        }
        Codec::Zstd => out.extend(zstd::bulk::compress(plain, ZSTD_LEVEL)?),
    }
    Ok(())
}

/// ```text
/// header 16 | length 4 | snappy block | length 4 | snappy block | ...
/// ```
fn snappy(plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend(XERIAL_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block)?;
        out.extend((packed.len() as u32).to_be_bytes());
        out.extend(packed);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read;

    use super::*;

    pub(crate) const ALL: [Codec; 5] =
        [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// Decompression, written against each format's description rather than `compress`.
    pub(crate) fn decompress(codec: Codec, packed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        match codec {
            Codec::None => plain.extend(packed),
            Codec::Gzip => {
                flate2::read::GzDecoder::new(packed).read_to_end(&mut plain).unwrap();
            }
            Codec::Snappy => {
                let (header, mut rest) = packed.split_at(16);
                assert_eq!(&header[..8], b"\x82SNAPPY\0");
                while !rest.is_empty() {
                    let (length, tail) = rest.split_first_chunk().unwrap();
                    let (block, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
                    plain.extend(snap::raw::Decoder::new().decompress_vec(block).unwrap());
                    rest = tail;
                }
            }
            Codec::Lz4 => {
                lz4_flex::frame::FrameDecoder::new(packed).read_to_end(&mut plain).unwrap();
            }
            Codec::Zstd => plain = zstd::stream::decode_all(packed).unwrap(),
        }
        plain
    }

    fn compressed(codec: Codec, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress(codec, plain, &mut out).unwrap();
        out
    }

    #[test]
    fn every_codec_gives_back_what_it_was_given() {
        let long: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        for codec in ALL {
            for plain in [&b""[..], b"a", &long[..XERIAL_BLOCK_BYTES], &long] {
                assert_eq!(decompress(codec, &compressed(codec, plain)), plain, "{codec:?}");
            }
        }
    }

    #[test]
    fn lz4_frames_say_that_their_blocks_are_independent() {
        let packed = compressed(Codec::Lz4, b"penstock");
        assert_eq!(packed[..4], 0x184D_2204u32.to_le_bytes());
        assert_eq!(packed[4] & 0b1110_0000, 0b0110_0000, "version 1, independent");
    }
}
