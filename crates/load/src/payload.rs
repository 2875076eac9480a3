//! Makes the batches of a produce run. Pure: the same seed makes the same bytes.
//!
//! To make and compress text costs more than to send it. So a run makes a few batches before it
//! starts and sends them over and over, each time with the current time. That costs one copy and
//! one CRC. The records keep their distances in time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use penstock_batch::{BatchBuilder, HEADER_LEN, NewRecord};

use crate::cli::{Codec, MIN_BATCH_BYTES};
use crate::codec::compress;

/// Different batches of a run. Large batches are fewer.
const BATCHES: u64 = 16;
/// The most memory of a run's batches before compression.
const POOL_BYTES: u64 = 64 << 20;
/// Different words in the text.
const WORDS: usize = 1024;

/// The places that `stamp` writes: the times in a batch's header, and the CRC over them.
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;

/// A batch ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The batch as it travels.
    pub(crate) bytes: Bytes,
    /// The length before compression.
    pub(crate) plain_bytes: u64,
    pub(crate) records: u64,
}

/// The batches of a run. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    recipe: Recipe,
    pool: Arc<[Batch]>,
}

/// The parameters that decide a batch's bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    pub(crate) seed: u64,
    pub(crate) record_bytes: u64,
    pub(crate) batch_bytes: u64,
    pub(crate) codec: Codec,
}

impl Payload {
    /// # Errors
    /// The library of a codec failed.
    pub(crate) fn new(recipe: Recipe) -> Result<Payload> {
        let count = (POOL_BYTES / recipe.batch_bytes).clamp(1, BATCHES);
        let pool = (0..count).map(|nth| recipe.batch(nth, recipe.batch_bytes));
        Ok(Payload { recipe, pool: pool.collect::<Result<_>>()? })
    }

    /// The batch to be sent as number `nth`, of `plain_bytes` before compression, with its base
    /// time set to `now` since 1970. Only a batch of another length than the run's is made for the
    /// call.
    pub(crate) fn batch(&self, nth: u64, plain_bytes: u64, now: Duration) -> Result<Batch> {
        self.marked(nth, plain_bytes, now, |_| ())
    }

    /// The same batch, in which `mark` may change records before the CRC is computed.
    pub(crate) fn marked(
        &self,
        nth: u64,
        plain_bytes: u64,
        now: Duration,
        mark: impl FnOnce(&mut [u8]),
    ) -> Result<Batch> {
        let pooled = &self.pool[(nth % self.pool.len() as u64) as usize];
        let mut batch = match plain_bytes == pooled.plain_bytes {
            true => pooled.clone(),
            false => self.recipe.batch(nth, plain_bytes)?,
        };
        let mut bytes = BytesMut::from(&batch.bytes[..]);
        mark(&mut bytes);
        stamp(&mut bytes, now);
        batch.bytes = bytes.freeze();
        Ok(batch)
    }
}

impl Recipe {
    /// Makes batch `nth`, exactly `plain_bytes` long before compression.
    fn batch(&self, nth: u64, plain_bytes: u64) -> Result<Batch> {
        assert!(plain_bytes >= MIN_BATCH_BYTES, "{plain_bytes} bytes are too few for a batch");
        let mut text = Text::new(self.seed.wrapping_add(nth));
        let mut builder = BatchBuilder::new();
        loop {
            let rest = plain_bytes as usize - builder.len_bytes();
            let index = builder.record_count();
            let whole = record_len(index, 0, self.record_bytes as usize);
            // The last record takes the rest, so it may be a few bytes larger.
            let last = rest < whole + record_len(index + 1, 1, 0);
            let exact = if last { fitting(index, rest) } else { None };
            let (key_len, value_len) = match last {
                true => exact.unwrap_or((0, 0)),
                false => (0, self.record_bytes as usize),
            };
            let value = text.take(value_len);
            let key = (key_len > 0).then_some(&b"k"[..]);
            builder.push(NewRecord { key, value: Some(&value), ..NewRecord::default() });
            if exact.is_some() {
                break;
            }
        }
        let records = builder.record_count() as u64;
        let bytes = builder
            .finish_with(self.codec.into(), |body, out| compress(self.codec, body, out))
            .with_context(|| {
                format!("cannot compress {plain_bytes} bytes with {:?}", self.codec)
            })?;
        Ok(Batch { bytes: bytes.into(), plain_bytes, records })
    }
}

/// Length of a record as `BatchBuilder` writes it, without timestamp delta and headers.
fn record_len(index: i32, key_len: usize, value_len: usize) -> usize {
    let varint = |value: usize| (value.max(1).ilog2() as usize + 1 + 1).div_ceil(7);
    // Zigzag doubles a number, which costs one bit more than its value.
    let body = 4 + varint(index as usize) + key_len + varint(value_len) + value_len;
    varint(body) + body
}

/// Lengths of key and value that make a record of exactly `len` bytes.
///
/// Where the varint before the value grows, a length is skipped, and one byte of key makes up for
/// it. Where the varint before the record grows, there is no record of that length (`None`), and a
/// small one must come first.
fn fitting(index: i32, len: usize) -> Option<(usize, usize)> {
    (len.saturating_sub(24)..len)
        .flat_map(|value_len| [(0, value_len), (1, value_len)])
        .find(|&(key_len, value_len)| record_len(index, key_len, value_len) == len)
}

/// Moves the batch's times to `now` and sets its CRC again.
fn stamp(batch: &mut [u8], now: Duration) {
    assert!(batch.len() >= HEADER_LEN, "made by BatchBuilder");
    let now_ms = (now.as_millis() as i64).to_be_bytes();
    // All records of a batch have its base time.
    batch[BASE_TIMESTAMP_AT..][..8].copy_from_slice(&now_ms);
    batch[MAX_TIMESTAMP_AT..][..8].copy_from_slice(&now_ms);
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
}

/// Text like that of logs: few words are frequent, many are rare, and numbers lie between them.
#[derive(Debug)]
struct Text {
    random: SplitMix,
    words: Vec<Vec<u8>>,
}

impl Text {
    fn new(seed: u64) -> Text {
        // All seeds share the words, as all texts share a language.
        let mut letters = SplitMix(0);
        let word = |_| (0..3 + letters.below(7)).map(|_| b'a' + letters.below(26) as u8).collect();
        Text { words: (0..WORDS).map(word).collect(), random: SplitMix(seed) }
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(len + 24);
        while text.len() < len {
            match self.random.below(6) {
                0 => text.extend(self.random.below(1_000_000).to_string().into_bytes()),
                _ => {
                    // The smallest of three draws makes the first words the most frequent.
                    let pick = (0..3).map(|_| self.random.below(WORDS as u64)).min();
                    text.extend(&self.words[pick.unwrap_or(0) as usize]);
                }
            }
            text.push(b' ');
        }
        text.truncate(len);
        text
    }
}

/// Sebastiano Vigna's splitmix64: small, fast, and good with any seed.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end` - 1, distributed evenly enough for a load.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use penstock_batch::{BatchHeader, check_crc, records};

    use super::*;
    use crate::codec::tests::{ALL, decompress};

    fn recipe(seed: u64, codec: Codec) -> Recipe {
        Recipe { seed, record_bytes: 100, batch_bytes: 4096, codec }
    }

    fn sent(recipe: Recipe, nth: u64) -> Batch {
        let now = Duration::from_millis(1_700_000_000_123);
        Payload::new(recipe).unwrap().batch(nth, recipe.batch_bytes, now).unwrap()
    }

    #[test]
    fn the_same_seed_makes_the_same_bytes_and_another_seed_others() {
        assert_eq!(sent(recipe(7, Codec::None), 3), sent(recipe(7, Codec::None), 3));
        assert_ne!(sent(recipe(7, Codec::None), 3), sent(recipe(8, Codec::None), 3));
        assert_ne!(sent(recipe(7, Codec::None), 3), sent(recipe(7, Codec::None), 4));
    }

    #[test]
    fn batches_of_every_codec_hold_the_same_records_and_a_sound_crc() {
        let plain = sent(recipe(7, Codec::None), 0);
        for codec in ALL {
            let batch = sent(recipe(7, codec), 0);
            let header = BatchHeader::parse(&batch.bytes).unwrap();
            assert_eq!(check_crc(&batch.bytes), Ok(()), "{codec:?}");
            assert_eq!(header.codec(), Some(codec.into()));
            assert_eq!(header.len_bytes(), batch.bytes.len());
            assert_eq!(
                (header.base_timestamp, header.max_timestamp),
                (1_700_000_000_123, 1_700_000_000_123)
            );
            assert_eq!(decompress(codec, &batch.bytes[HEADER_LEN..]), plain.bytes[HEADER_LEN..]);
        }
    }

    #[test]
    fn a_batch_is_exactly_as_long_as_asked_for_every_length() {
        for record_bytes in [1, 20, 62, 64, 100, 8000] {
            let recipe = Recipe { record_bytes, ..recipe(1, Codec::None) };
            for plain_bytes in (MIN_BATCH_BYTES..700).chain(8100..8400).chain([65_536, 300_001]) {
                let batch = recipe.batch(0, plain_bytes).unwrap();
                assert_eq!(batch.bytes.len() as u64, plain_bytes, "records of {record_bytes}");
                let records: Vec<_> = records(&batch.bytes).unwrap().map(Result::unwrap).collect();
                assert_eq!(records.len() as u64, batch.records);
            }
        }
    }

    #[test]
    fn all_records_but_the_last_have_the_length_asked_for() {
        let batch = sent(recipe(1, Codec::None), 0);
        let lengths: Vec<_> =
            records(&batch.bytes).unwrap().map(|r| r.unwrap().value.unwrap().len()).collect();
        let (last, others) = lengths.split_last().unwrap();
        assert!(others.len() > 30 && others.iter().all(|len| *len == 100));
        assert!(*last <= 110, "{last}");
    }

    #[test]
    fn text_compresses_about_as_logs_do() {
        let recipe = Recipe { batch_bytes: 65_536, ..recipe(1, Codec::Zstd) };
        let ratio = 65_536.0 / sent(recipe, 0).bytes.len() as f64;
        assert!((1.8..6.0).contains(&ratio), "ratio {ratio:.2}");
    }
}
