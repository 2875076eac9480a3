//! A record that names its sender and proves its bytes.
//!
//! ```text
//!  0 ┌───────────┬──────────┬──────────┬──────┐ 28
//!    │ partition │ producer │ sequence │ hash │ filler …      big-endian; the hash is over all other bytes
//!    └─────4─────┴────8─────┴────8─────┴──8───┘
//! ```

use std::hash::{DefaultHasher, Hasher};

use crate::rounds::Dice;

const HASH_AT: usize = 20;

/// Length of a stamp: the shortest value.
pub const STAMP_LEN: usize = 28;

/// The sender and the destination of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The partition that it was sent to.
    pub partition: i32,
    /// The number of its producer, unique in a test.
    pub producer: u64,
    /// The number of the record, by its producer.
    pub sequence: u64,
}

/// A stamp and the hash of the whole value that bears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamped {
    /// The stamp.
    pub stamp: Stamp,
    /// The hash that distinguishes its bytes from any other record's.
    pub hash: u64,
}

impl Stamp {
    /// A value of `len_bytes`, at least [`STAMP_LEN`], that bears this stamp.
    pub fn value(self, len_bytes: usize, dice: &mut Dice) -> Vec<u8> {
        let mut value = Vec::with_capacity(len_bytes + 8);
        value.extend(self.partition.to_be_bytes());
        value.extend(self.producer.to_be_bytes());
        value.extend(self.sequence.to_be_bytes());
        value.extend([0; STAMP_LEN - HASH_AT]);
        while value.len() < len_bytes {
            value.extend(dice.throw().to_be_bytes());
        }
        value.truncate(len_bytes.max(STAMP_LEN));
        let hash = hash_of(&value);
        value[HASH_AT..STAMP_LEN].copy_from_slice(&hash.to_be_bytes());
        value
    }
}

impl Stamped {
    /// Reads a value. Panics if its hash is wrong, because the bytes are not those that were sent.
    pub fn read(value: &[u8]) -> Stamped {
        assert!(value.len() >= STAMP_LEN, "{} bytes bear no stamp", value.len());
        let number = |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().expect("8 bytes"));
        let partition = i32::from_be_bytes(value[..4].try_into().expect("4 bytes"));
        let stamp = Stamp { partition, producer: number(4), sequence: number(12) };
        let hash = number(HASH_AT);
        assert_eq!(hash, hash_of(value), "the bytes of {stamp:?} are not those that were sent");
        Stamped { stamp, hash }
    }
}

fn hash_of(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&value[..HASH_AT]);
    hasher.write(&value[STAMP_LEN..]);
    hasher.finish()
}
