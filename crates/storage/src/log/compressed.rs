//! The first bytes of compressed records. A body that no consumer could read is refused by them,
//! without decompressing it. Called by produced.rs. Pure.
//!
//! ```text
//!   gzip    1f 8b 08       lz4     04 22 4d 18 | flags: version 1, independent blocks
//!   zstd    28 b5 2f fd    snappy  82 'SNAPPY' 00, or a raw block: varint of its plain length
//! ```
//!
//! Snappy has no magic of its own: librdkafka and the Go clients write a raw block, Java xerial's
//! framing, and all of them read both. A raw block must claim a plain length that its bytes can
//! give, and its first element must bring bytes of its own.

use penstock_batch::{Codec, varint};

const GZIP_DEFLATE: &[u8] = &[0x1f, 0x8b, 8];
const LZ4_FRAME: &[u8] = &[0x04, 0x22, 0x4d, 0x18];
const ZSTD_FRAME: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XERIAL: &[u8] = b"\x82SNAPPY\0";

/// The lz4 frame flags that are checked: version in the two highest bits, then "blocks are
/// independent". Kafka's Java reader takes no others.
const LZ4_FLAGS: u8 = 0b1110_0000;
const LZ4_FLAGS_TAKEN: u8 = 0b0110_0000;

/// A snappy element of 3 bytes gives up to 64.
const SNAPPY_RATIO_MAX: u64 = 22;
/// The two lowest bits of a snappy element; 0 where it brings bytes of its own. The first element
/// must: it has nothing to copy.
const SNAPPY_KIND: u8 = 0b11;
const SNAPPY_LITERAL: u8 = 0b00;

/// A deflated match of 258 bytes takes 2 bits.
const GZIP_RATIO_MAX: u64 = 1032;
/// Each further byte of an lz4 match's length adds at most 255.
const LZ4_RATIO_MAX: u64 = 255;
/// A zstd block of one byte repeated takes 4 bytes and gives up to 128 KiB.
const ZSTD_RATIO_MAX: u64 = 32 << 10;

/// Length, attributes, two deltas, no key, no value, no headers: a byte each.
const RECORD_MIN_BYTES: u64 = 7;

/// Whether a body of so many bytes can hold so many records. A few bytes that claim two thousand
/// million records would use up the offsets of a whole segment, and each such batch would begin
/// another segment.
pub(crate) fn can_hold(codec: Codec, body_bytes: usize, records: i32) -> bool {
    let ratio_max = match codec {
        Codec::None => 1,
        Codec::Gzip => GZIP_RATIO_MAX,
        Codec::Snappy => SNAPPY_RATIO_MAX,
        Codec::Lz4 => LZ4_RATIO_MAX,
        Codec::Zstd => ZSTD_RATIO_MAX,
    };
    let plain_max_bytes = (body_bytes as u64).saturating_mul(ratio_max);
    u64::try_from(records).is_ok_and(|records| records <= plain_max_bytes / RECORD_MIN_BYTES)
}

/// Whether a body begins as the codec's frames do.
pub(crate) fn begins_as(codec: Codec, body: &[u8]) -> bool {
    match codec {
        Codec::None => true,
        Codec::Gzip => body.starts_with(GZIP_DEFLATE),
        Codec::Zstd => body.starts_with(ZSTD_FRAME),
        Codec::Lz4 => {
            let flags = body.strip_prefix(LZ4_FRAME).and_then(<[u8]>::first);
            flags.is_some_and(|flags| flags & LZ4_FLAGS == LZ4_FLAGS_TAKEN)
        }
        Codec::Snappy => body.starts_with(XERIAL) || is_raw_snappy(body),
    }
}

fn is_raw_snappy(body: &[u8]) -> bool {
    let mut block = body;
    let Some(plain_bytes) = varint::take_u32(&mut block).map(u64::from) else { return false };
    let begins_with_a_literal =
        block.first().is_some_and(|tag| tag & SNAPPY_KIND == SNAPPY_LITERAL);
    let possible = 1..=block.len() as u64 * SNAPPY_RATIO_MAX;
    begins_with_a_literal && possible.contains(&plain_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_write_passes() {
        assert!(begins_as(Codec::Gzip, &[0x1f, 0x8b, 8, 0, 0]));
        assert!(begins_as(Codec::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0x20]));
        assert!(begins_as(Codec::Lz4, &[0x04, 0x22, 0x4d, 0x18, 0x60, 0x40]));
        assert!(begins_as(Codec::Lz4, &[0x04, 0x22, 0x4d, 0x18, 0x68, 0x40]), "with content size");
        assert!(begins_as(Codec::Snappy, b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"));
        assert!(begins_as(Codec::Snappy, b"\x05\x10hello"));
    }

    #[test]
    fn no_more_records_are_counted_than_the_bytes_can_hold() {
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            assert!(can_hold(codec, 25, 25), "{codec:?}");
            assert!(!can_hold(codec, 25, i32::MAX), "{codec:?}");
            assert!(can_hold(codec, 1 << 30, i32::MAX), "{codec:?}");
        }
        assert!(can_hold(Codec::Zstd, 20, 80_000) && !can_hold(Codec::Gzip, 20, 80_000));
    }

    #[test]
    fn what_no_consumer_could_read_does_not() {
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            for body in
                [b"".as_slice(), b"\0", &[0xff; 40], b"\x10\0\0\0\x02\x01\x02v\0"[..1].into()]
            {
                assert!(!begins_as(codec, body), "{codec:?} {body:?}");
            }
        }
        let dependent = [0x04, 0x22, 0x4d, 0x18, 0x40, 0x40];
        assert!(!begins_as(Codec::Lz4, &dependent), "blocks that need those before them");
        assert!(!begins_as(Codec::Gzip, &[0x28, 0xb5, 0x2f, 0xfd]), "of another codec");
        assert!(!begins_as(Codec::Snappy, b"\xff\xff\xff\xff\x0fab"), "4 GiB in two bytes");
    }
}
